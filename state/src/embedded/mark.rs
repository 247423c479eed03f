//! How far the store has come, told twice: in the database, where every batch leaves its number in each keyspace that it
//! touches, and beside it in a small file that is written when a batch is safe. So a start sees that something is missing that
//! had been acknowledged, wherever it was lost.

use std::fs::{File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use xxhash_rust::xxh3::xxh3_64;

use super::layout::Keyspace;

/// The key under which each keyspace holds the [`Progress`] of the last batch that touched it: behind all others.
pub(super) const PROGRESS_KEY: [u8; 16] = [0xFF; 16];

/// Bytes of a [`Progress`].
pub(super) const PROGRESS_BYTES: usize = 24;

const KEYSPACES: usize = Keyspace::ALL.len();
const MAGIC: u64 = u64::from_be_bytes(*b"TGmark1\n");
const WORDS: usize = 6 + KEYSPACES;
const FILE_BYTES: usize = 8 * WORDS;

/// What a batch says about itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Progress {
    /// Batches count from 1 and leave no number out.
    pub(super) number: u64,
    /// Those up to this were safe from power loss when it was written.
    pub(super) synced: u64,
    /// Which store wrote it: no device can know, so no message can look like it.
    pub(super) store: u64,
}

impl Progress {
    pub(super) fn encode(&self) -> [u8; PROGRESS_BYTES] {
        let mut bytes = [0; PROGRESS_BYTES];
        let words = [self.number, self.synced, self.store];
        for (part, word) in bytes.chunks_exact_mut(8).zip(words) {
            part.copy_from_slice(&word.to_be_bytes());
        }
        bytes
    }

    pub(super) fn parse(bytes: &[u8]) -> Self {
        let mut words = words(bytes);
        let mut next = || words.next().unwrap_or_default();
        Self { number: next(), synced: next(), store: next() }
    }
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u64> + '_ {
    bytes.chunks_exact(8).map(|part| part.try_into().map_or(0, u64::from_be_bytes))
}

/// What is known beside the database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    /// As [`Progress::store`].
    pub(super) store: u64,
    /// Batches up to this are safe from power loss.
    pub(super) synced: u64,
    /// Batches up to this were answered.
    pub(super) answered: u64,
    /// The newest journal that was seen.
    pub(super) journal: u64,
    /// The last batch up to `synced` that touched each keyspace.
    pub(super) touched: [u64; KEYSPACES],
}

impl Mark {
    /// Of a store in which nothing is.
    pub(super) fn new() -> Self {
        // The only source of randomness in the standard library.
        Self { store: RandomState::new().hash_one(MAGIC) | 1, ..Self::default() }
    }

    fn encode(&self) -> [u8; FILE_BYTES] {
        let mut bytes = [0; FILE_BYTES];
        let words = [MAGIC, self.store, self.synced, self.answered, self.journal];
        for (part, word) in bytes.chunks_exact_mut(8).zip(words.into_iter().chain(self.touched)) {
            part.copy_from_slice(&word.to_be_bytes());
        }
        let (body, checksum) = bytes.split_at_mut(FILE_BYTES - 8);
        checksum.copy_from_slice(&xxh3_64(body).to_be_bytes());
        bytes
    }

    fn parse(bytes: &[u8; FILE_BYTES]) -> Option<Self> {
        let (body, checksum) = bytes.split_at(FILE_BYTES - 8);
        if words(checksum).next() != Some(xxh3_64(body)) {
            return None;
        }
        let mut words = words(body);
        let [magic, store, synced, answered, journal] =
            std::array::from_fn(|_| words.next().unwrap_or_default());
        let touched = std::array::from_fn(|_| words.next().unwrap_or_default());
        (magic == MAGIC).then_some(Self { store, synced, answered, journal, touched })
    }
}

/// The file beside the database.
#[derive(Debug)]
pub(super) struct MarkFile {
    file: File,
    /// `None` when there was none, or none that could be read.
    pub(super) mark: Option<Mark>,
    is_failing: bool,
}

impl MarkFile {
    /// Opens it, and makes it if needed.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path)?;
        let mut bytes = [0; FILE_BYTES];
        let mark = match file.metadata()?.len() {
            0 => None,
            _ => {
                let mark = file.read_exact_at(&mut bytes, 0).ok().and_then(|()| Mark::parse(&bytes));
                if mark.is_none() {
                    tracing::warn!(file = %path.display(), "cannot be read, so what is missing cannot be told");
                }
                mark
            }
        };
        Ok(Self { file, mark, is_failing: false })
    }

    /// Writes it. It need not be safe from power loss: an older one proves less, and nothing wrong.
    pub(super) fn write(&mut self, mark: Mark) {
        self.mark = Some(mark);
        let written = self.file.write_all_at(&mark.encode(), 0);
        if let Err(error) = &written
            && !self.is_failing
        {
            tracing::warn!(%error, "cannot write how far the store has come");
        }
        self.is_failing = written.is_err();
    }

    /// Writes it so that it outlives a power loss.
    pub(super) fn write_safely(&mut self, mark: Mark) -> io::Result<()> {
        self.write(mark);
        self.file.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_as_it_was_written_or_not_at_all() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("progress");
        let mark = Mark { synced: 7, answered: 9, journal: 2, touched: [1, 2, 3, 4, 5, 6], ..Mark::new() };
        MarkFile::open(&path).expect("made").write(mark);
        assert_eq!(MarkFile::open(&path).expect("there").mark, Some(mark));
        let bytes = std::fs::read(&path).expect("read");
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            std::fs::write(&path, damaged).expect("written");
            assert_eq!(MarkFile::open(&path).expect("there").mark, None, "byte {at}");
        }
        std::fs::write(&path, &bytes[..40]).expect("written");
        assert_eq!(MarkFile::open(&path).expect("there").mark, None);
    }
}

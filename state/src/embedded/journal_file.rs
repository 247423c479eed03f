//! Journal files of the database, read before it opens them: where the whole batches end, and whether what follows is
//! nothing, an unfinished write, or damage with batches behind it. The database itself would either cut all of that off
//! without a word, or refuse for ever. The format is that of fjall 3, `journal::entry`; a test pins it.

use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

use super::mark::{PROGRESS_BYTES, PROGRESS_KEY, Progress};

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
const TRAILER: &[u8] = b"FJL\x03";

/// START: kind, number of records, sequence number.
const START_BYTES: usize = 13;
/// END: kind, checksum, trailer.
const END_BYTES: usize = 13;
/// Of ITEM behind its kind: value type, compression, keyspace, lengths of key and value, and of the value as it is stored.
const ITEM_BYTES: usize = 20;
/// No database gives out more.
const SEQUENCE_MAX: u64 = 1 << 62;

const BUFFER_BYTES: usize = 64 * 1024;

/// A journal file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct JournalFile {
    pub(super) id: u64,
    pub(super) path: PathBuf,
}

/// Journal files of a database, oldest first.
pub(super) fn list(database: &Path) -> io::Result<Vec<JournalFile>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(database)? {
        let path = entry?.path();
        let is_journal = path.extension().is_some_and(|extension| extension == "jnl");
        let id = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
        if let Some(id) = id.filter(|_| is_journal) {
            found.push(JournalFile { id, path });
        }
    }
    found.sort_unstable_by_key(|file| file.id);
    Ok(found)
}

/// One atomic write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WrittenBatch {
    /// All of it.
    pub(super) bytes: u64,
    pub(super) records: u64,
    sequence: u64,
    /// What this store wrote into it; older versions wrote none.
    pub(super) progress: Option<Progress>,
}

/// The whole batches at the beginning of a journal.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Whole {
    /// Where they end.
    pub(super) end: u64,
    /// The newest of them that says so.
    pub(super) last: Option<Progress>,
    sequence: u64,
}

/// What a journal holds.
#[derive(Debug, Default)]
pub(super) struct Scan {
    pub(super) whole: Whole,
    /// What is behind, up to the last byte that is not zero; empty if there is none.
    pub(super) rest: Vec<u8>,
    /// Whole batches in the rest: where each begins in it, and what it is.
    pub(super) behind: Vec<(usize, WrittenBatch)>,
}

impl Whole {
    fn and(self, batch: &WrittenBatch) -> Self {
        Self { end: self.end + batch.bytes, last: batch.progress.or(self.last), sequence: batch.sequence }
    }
}

/// Why a batch was not read.
enum Stop {
    NotWhole,
    Io(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        if error.kind() == ErrorKind::UnexpectedEof { Self::NotWhole } else { Self::Io(error) }
    }
}

impl Scan {
    /// Reads a journal. Nothing is changed.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let bytes = file.metadata()?.len();
        let (mut whole, mut earlier) = (Whole::default(), Whole::default());
        let mut reader = BufReader::with_capacity(BUFFER_BYTES, &file);
        while whole.end < bytes {
            match read_batch(&mut reader, bytes - whole.end, whole.sequence) {
                Ok(batch) => (earlier, whole) = (whole, whole.and(&batch)),
                Err(Stop::NotWhole) => break,
                Err(Stop::Io(error)) => return Err(error),
            }
        }
        file.seek(SeekFrom::Start(whole.end))?;
        let next = read_batch(&mut BufReader::new(&file), bytes - whole.end, earlier.sequence);
        if next.is_ok() {
            // It is as it should be, but for the sequence number before it, which no checksum covers.
            whole = earlier;
        }
        let mut scan = Self { whole, ..Self::default() };
        file.seek(SeekFrom::Start(whole.end))?;
        let written = written_bytes(&file)?;
        file.seek(SeekFrom::Start(whole.end))?;
        file.take(written).read_to_end(&mut scan.rest)?;
        scan.look_behind();
        Ok(scan)
    }

    /// Looks for whole batches in the rest.
    fn look_behind(&mut self) {
        // What it begins with is not whole.
        let mut at = 1;
        let mut sequence = self.whole.sequence;
        while let Some(bytes) = self.rest.get(at..) {
            let Some(ahead) = bytes.iter().position(|byte| *byte == START) else { return };
            at += ahead;
            let bytes = self.rest.get(at..).unwrap_or_default();
            match read_batch(&mut &*bytes, bytes.len() as u64, sequence) {
                Ok(batch) => {
                    self.behind.push((at, batch));
                    sequence = batch.sequence;
                    at += usize::try_from(batch.bytes).unwrap_or(usize::MAX);
                }
                Err(_) => at += 1,
            }
        }
    }

    /// Whether nothing is behind the whole batches.
    pub(super) fn is_clean(&self) -> bool {
        self.rest.is_empty()
    }

    /// The batches behind, as they are to follow what is whole when the damage between is left out.
    pub(super) fn behind_bytes(&self) -> Vec<u8> {
        let pieces = self.behind.iter().filter_map(|(at, batch)| {
            let bytes = usize::try_from(batch.bytes).ok()?;
            self.rest.get(*at..at.checked_add(bytes)?)
        });
        pieces.flatten().copied().collect()
    }
}

/// Bytes from here to the last one that is not zero.
fn written_bytes(mut file: &File) -> io::Result<u64> {
    static ZEROS: [u8; BUFFER_BYTES] = [0; BUFFER_BYTES];
    let mut buffer = vec![0; BUFFER_BYTES];
    let (mut at, mut written) = (0, 0);
    loop {
        let count = file.read(&mut buffer)?;
        let Some(read) = buffer.get(..count).filter(|read| !read.is_empty()) else { return Ok(written) };
        // Compared as a whole: a new journal is 64 MiB of zeros.
        if Some(read) != ZEROS.get(..count) {
            let last = read.iter().rposition(|byte| *byte != 0).unwrap_or_default();
            written = at + last as u64 + 1;
        }
        at += count as u64;
    }
}

/// What is read and hashed.
struct Input<'a, R> {
    reader: &'a mut R,
    left: u64,
    taken: u64,
    hash: Xxh3,
}

impl<R: Read> Input<'_, R> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Stop> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), Stop> {
        let wanted = bytes.len() as u64;
        self.left = self.left.checked_sub(wanted).ok_or(Stop::NotWhole)?;
        self.taken += wanted;
        self.reader.read_exact(bytes)?;
        self.hash.update(bytes);
        Ok(())
    }

    fn skip(&mut self, mut bytes: u64) -> Result<(), Stop> {
        // Before anything is read: a length may be anything.
        if bytes > self.left {
            return Err(Stop::NotWhole);
        }
        let mut buffer = [0; 4096];
        while bytes > 0 {
            let part = usize::try_from(bytes).unwrap_or(usize::MAX).min(buffer.len());
            self.fill(buffer.get_mut(..part).unwrap_or_default())?;
            bytes -= part as u64;
        }
        Ok(())
    }

    /// Answers what the record says about the store's progress, if it is that.
    fn item(&mut self) -> Result<Option<Progress>, Stop> {
        let head: [u8; ITEM_BYTES] = self.array()?;
        let [value_type, compression, _, _, _, _, _, _, _, _, rest @ ..] = head;
        let [k0, k1, v0, v1, v2, v3, s0, s1, s2, s3] = rest;
        let (value, stored) = (u32::from_le_bytes([v0, v1, v2, v3]), u32::from_le_bytes([s0, s1, s2, s3]));
        if value_type > 2 || compression != 0 || value != stored {
            return Err(Stop::NotWhole);
        }
        let key = u16::from_le_bytes([k0, k1]);
        if usize::from(key) == PROGRESS_KEY.len() && value as usize == PROGRESS_BYTES {
            let key: [u8; PROGRESS_KEY.len()] = self.array()?;
            let value: [u8; PROGRESS_BYTES] = self.array()?;
            return Ok((key == PROGRESS_KEY).then(|| Progress::parse(&value)));
        }
        self.skip(u64::from(key) + u64::from(value))?;
        Ok(None)
    }
}

/// Reads one whole batch that comes after another.
fn read_batch(reader: &mut impl Read, left: u64, after: u64) -> Result<WrittenBatch, Stop> {
    let mut input = Input { reader, left, taken: 0, hash: Xxh3::new() };
    let [kind, r0, r1, r2, r3, sequence @ ..]: [u8; START_BYTES] = input.array()?;
    let (records, sequence) = (u32::from_le_bytes([r0, r1, r2, r3]), u64::from_le_bytes(sequence));
    // The checksum does not cover this number.
    if kind != START || records == 0 || sequence > SEQUENCE_MAX || (after > 0 && sequence <= after) {
        return Err(Stop::NotWhole);
    }
    input.hash.reset();
    let mut progress = None;
    for _ in 0..records {
        match input.array()? {
            [ITEM] => progress = input.item()?.or(progress),
            [CLEAR] => input.skip(8)?,
            _ => return Err(Stop::NotWhole),
        }
    }
    let checksum = input.hash.digest();
    let end: [u8; END_BYTES] = input.array()?;
    let expected = [&[END][..], &checksum.to_le_bytes(), TRAILER].concat();
    if end[..] != expected[..] {
        return Err(Stop::NotWhole);
    }
    Ok(WrittenBatch { bytes: input.taken, records: records.into(), sequence, progress })
}

/// Bytes of the whole batch at this place.
#[cfg(test)]
pub(super) fn batch_at(bytes: &[u8], at: usize) -> Option<usize> {
    let bytes = bytes.get(at..)?;
    let batch = read_batch(&mut &*bytes, bytes.len() as u64, 0).ok()?;
    usize::try_from(batch.bytes).ok()
}

/// A journal as older versions wrote it.
#[cfg(test)]
pub(super) fn without_progress(bytes: &[u8]) -> Vec<u8> {
    const OWN_BYTES: usize = 1 + ITEM_BYTES + PROGRESS_KEY.len() + PROGRESS_BYTES;
    let (mut old, mut at) = (Vec::new(), 0);
    while let Some(len) = batch_at(bytes, at) {
        let batch = &bytes[at..at + len];
        let mut items = &batch[START_BYTES..len - END_BYTES];
        let mut records = u32::from_le_bytes([batch[1], batch[2], batch[3], batch[4]]);
        // They come last in a batch.
        while items.len() >= OWN_BYTES
            && items[items.len() - OWN_BYTES + 1 + ITEM_BYTES..].starts_with(&PROGRESS_KEY)
        {
            items = &items[..items.len() - OWN_BYTES];
            records -= 1;
        }
        old.extend([&[START][..], &records.to_le_bytes(), &batch[5..START_BYTES], items, &[END]].concat());
        old.extend(xxhash_rust::xxh3::xxh3_64(items).to_le_bytes());
        old.extend(TRAILER);
        at += len;
    }
    old
}

//! When a file that has changed may be read: a tool that writes in place truncates it first, and what is seen between two
//! writes is nothing that anybody meant. A change counts when it has been the same for a while, for all files together that
//! belong together (a certificate and its key).

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// How often files are to be looked at.
pub const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// For how long, from one look to a later one, files must have been the same before they are read.
pub const SETTLE_TIME: Duration = Duration::from_secs(3);

/// Files that belong together, as they were at one look. What is parsed is what was looked at.
#[derive(Clone, Debug)]
pub struct Snapshot {
    files: BTreeMap<PathBuf, Found>,
}

#[derive(Clone, Debug)]
struct Found {
    stamp: Option<Stamp>,
    bytes: Result<Arc<[u8]>, Failed>,
}

/// What tells that a file has changed without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    /// Of the inode, seconds and nanoseconds: moves when times are set back, and when another file takes the name.
    changed: (i64, i64),
    inode: u64,
    length: u64,
}

/// An [`io::Error`] that can be kept and compared.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Failed {
    kind: io::ErrorKind,
    code: Option<i32>,
    text: String,
}

impl Snapshot {
    /// Reads all of `paths` now. One that cannot be read is an error when it is asked for.
    pub fn take<P: AsRef<Path>>(paths: impl IntoIterator<Item = P>) -> Self {
        let found = |path: P| {
            let path = path.as_ref();
            // Before reading: a write in between is seen the next time.
            let stamp = stamp(path);
            let bytes = std::fs::read(path).map(Arc::from).map_err(|error| Failed::new(&error));
            (path.to_owned(), Found { stamp, bytes })
        };
        Self { files: paths.into_iter().map(found).collect() }
    }

    /// The bytes of one of its files.
    ///
    /// # Errors
    /// It could not be read, or is none of its files.
    pub fn bytes(&self, path: &Path) -> io::Result<&[u8]> {
        match self.files.get(path).map(|found| &found.bytes) {
            Some(Ok(bytes)) => Ok(bytes),
            Some(Err(failed)) => Err(failed.again()),
            None => Err(io::Error::new(io::ErrorKind::NotFound, "it was not looked at")),
        }
    }

    /// The first of its files that is not there, or empty.
    pub fn missing(&self) -> Option<&Path> {
        let is_missing = |found: &Found| match &found.bytes {
            Ok(bytes) => bytes.is_empty(),
            Err(failed) => failed.kind == io::ErrorKind::NotFound,
        };
        self.files.iter().find(|(_, found)| is_missing(found)).map(|(path, _)| path.as_path())
    }

    fn stamps(&self) -> Vec<Option<Stamp>> {
        self.files.values().map(|found| found.stamp).collect()
    }

    fn is_same(&self, other: &Self) -> bool {
        let same = |(one, other): (&Found, &Found)| one.stamp == other.stamp && one.bytes == other.bytes;
        self.files.len() == other.files.len() && self.files.values().zip(other.files.values()).all(same)
    }
}

impl Failed {
    fn new(error: &io::Error) -> Self {
        Self { kind: error.kind(), code: error.raw_os_error(), text: error.to_string() }
    }

    fn again(&self) -> io::Error {
        match self.code {
            Some(code) => io::Error::from_raw_os_error(code),
            None => io::Error::new(self.kind, self.text.clone()),
        }
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = std::fs::metadata(path).ok()?;
    #[cfg(unix)]
    let (inode, changed) = {
        use std::os::unix::fs::MetadataExt as _;
        (metadata.ino(), (metadata.ctime(), metadata.ctime_nsec()))
    };
    #[cfg(not(unix))]
    let (inode, changed) = (0, (0, 0));
    Some(Stamp { modified: metadata.modified().ok(), changed, inode, length: metadata.len() })
}

/// What a look at files shows.
#[derive(Debug)]
pub enum Look {
    /// They are those that were read last.
    Same,
    /// They have changed, and may go on changing.
    Changing,
    /// They have changed and have been the same for [`SETTLE_TIME`]. Said once for each change, whether what was found
    /// is then of use or not.
    Settled(Snapshot),
}

/// Files that belong together and are read again when they have changed. Look at them every [`LOOK_INTERVAL`].
#[derive(Debug)]
pub struct Settling {
    paths: Vec<PathBuf>,
    /// What was read last; `None` when it is to be read again in any case.
    seen: Option<Vec<Option<Stamp>>>,
    /// What the last look found, if that is new, and since when it is so.
    fresh: Option<(Snapshot, Instant)>,
}

impl Settling {
    /// Files that were read as in `first`.
    pub fn new(first: &Snapshot) -> Self {
        Self { paths: first.files.keys().cloned().collect(), seen: Some(first.stamps()), fresh: None }
    }

    /// Has them read again though they look the same, when they have settled.
    pub fn ask(&mut self) {
        self.seen = None;
    }

    /// Looks at them. Blocks on the disk; `now` runs with the monotonic clock.
    pub fn look(&mut self, now: Instant) -> Look {
        let stamps: Vec<_> = self.paths.iter().map(|path| stamp(path)).collect();
        if self.seen.as_ref() == Some(&stamps) {
            self.fresh = None;
            return Look::Same;
        }
        let found = Snapshot::take(&self.paths);
        let since = match &self.fresh {
            Some((before, since)) if before.is_same(&found) => *since,
            _ => now,
        };
        if now.saturating_duration_since(since) < SETTLE_TIME {
            self.fresh = Some((found, since));
            return Look::Changing;
        }
        self.seen = Some(found.stamps());
        self.fresh = None;
        Look::Settled(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Pair {
        dir: tempfile::TempDir,
        settling: Settling,
        now: Instant,
    }

    impl Pair {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let paths = ["a", "b"].map(|name| dir.path().join(name));
            for path in &paths {
                std::fs::write(path, "first").unwrap();
            }
            let settling = Settling::new(&Snapshot::take(&paths));
            Self { dir, settling, now: Instant::now() }
        }

        fn write(&self, name: &str, text: &str) {
            std::fs::write(self.dir.path().join(name), text).unwrap();
        }

        /// The next look, one interval later; `Some` with what both files hold when they have settled.
        fn look(&mut self) -> Option<[String; 2]> {
            self.now += LOOK_INTERVAL;
            match self.settling.look(self.now) {
                Look::Settled(found) => Some(["a", "b"].map(|name| {
                    String::from_utf8(found.bytes(&self.dir.path().join(name)).unwrap().to_vec()).unwrap()
                })),
                Look::Same | Look::Changing => None,
            }
        }

        fn looks(&mut self, count: u32) -> Vec<[String; 2]> {
            (0..count).filter_map(|_| self.look()).collect()
        }
    }

    #[test]
    fn what_is_seen_between_two_writes_does_not_count() {
        let mut pair = Pair::new();
        assert!(pair.looks(9).is_empty());
        for text in ["", "sec", "second"] {
            pair.write("a", text);
            assert!(pair.looks(3).is_empty(), "{text:?} was there for less than three seconds");
        }
        assert_eq!(pair.looks(9), [["second", "first"]], "told once");
    }

    #[test]
    fn files_that_belong_together_settle_together() {
        let mut pair = Pair::new();
        pair.write("a", "second");
        assert!(pair.looks(2).is_empty());
        pair.write("b", "second");
        assert_eq!(pair.looks(9), [["second", "second"]]);
    }

    #[test]
    fn what_is_put_back_is_no_change() {
        let mut pair = Pair::new();
        let (kept, name) = (pair.dir.path().join("kept"), pair.dir.path().join("a"));
        std::fs::hard_link(&name, &kept).unwrap();
        let first = Snapshot::take([pair.dir.path().join("a"), pair.dir.path().join("b")]);
        pair.settling = Settling::new(&first);
        std::fs::remove_file(&name).unwrap();
        assert!(matches!(pair.settling.look(pair.now), Look::Changing), "it is not there");
        std::fs::rename(&kept, &name).unwrap();
        // The inode has changed times, so it is read again, and is the same.
        assert_eq!(pair.looks(9), [["first", "first"]]);
    }

    #[test]
    fn a_file_that_goes_is_told_when_it_stays_away() {
        let mut pair = Pair::new();
        std::fs::remove_file(pair.dir.path().join("a")).unwrap();
        for _ in 0..3 {
            pair.now += LOOK_INTERVAL;
            assert!(matches!(pair.settling.look(pair.now), Look::Changing));
        }
        pair.now += LOOK_INTERVAL;
        let Look::Settled(found) = pair.settling.look(pair.now) else { panic!("it has gone") };
        assert_eq!(found.missing(), Some(pair.dir.path().join("a").as_path()));
        let error = found.bytes(&pair.dir.path().join("a")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn who_asks_has_them_read_though_they_are_the_same() {
        let mut pair = Pair::new();
        pair.settling.ask();
        assert_eq!(pair.looks(9), [["first", "first"]]);
    }

    #[test]
    fn a_change_that_keeps_length_and_time_is_seen() {
        let mut pair = Pair::new();
        let path = pair.dir.path().join("a");
        let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
        std::fs::write(&path, "other").unwrap();
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
        assert_eq!(pair.looks(9), [["other", "first"]]);
    }
}

//! A wall clock that a test sets for one process, while it runs or before it starts. What cannot be set (the monotonic clocks)
//! stays as it is.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::UNIX_EPOCH;

use tempfile::TempDir;

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/harness/wall_clock.c");

/// The clock of whoever is started with [`WallClock::env`].
pub(crate) struct WallClock {
    dir: TempDir,
}

impl WallClock {
    /// One that shows what the machine shows.
    pub(crate) fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let made = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(dir.path().join("wall_clock.so"))
            .args([SOURCE, "-ldl"])
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        let clock = Self { dir };
        clock.set_ahead_s(0);
        clock
    }

    /// How processes are started that go by it.
    pub(crate) fn env(&self) -> Vec<(&'static str, OsString)> {
        vec![
            ("LD_PRELOAD", self.dir.path().join("wall_clock.so").into()),
            ("TIDEGATE_TEST_CLOCK", self.file().into()),
        ]
    }

    /// From now on it is so many seconds ahead of the machine's.
    pub(crate) fn set_ahead_s(&self, seconds: i64) {
        let file = fs::File::options().create(true).truncate(false).write(true).open(self.file()).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &(seconds * 1000).to_ne_bytes(), 0).unwrap();
    }

    /// From now on it shows what a board without a battery begins with.
    pub(crate) fn set_to_1970(&self) {
        let now = i64::try_from(UNIX_EPOCH.elapsed().unwrap().as_secs()).unwrap();
        self.set_ahead_s(5 - now);
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("ahead_ms")
    }
}

//! Files that are read again when they have changed and settled: of the service, of its client, and the keys of tokens. What cannot
//! be used leaves in force what was.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use files::{Look, Settling, Snapshot};
use parking_lot::{Mutex, RwLock};

use crate::AuthError;

type Parse<T> = Box<dyn Fn(&Snapshot, Option<&T>) -> Result<T, AuthError> + Send + Sync>;

/// What was made of files that belong together.
pub(crate) struct Watched<T> {
    what: &'static str,
    parse: Parse<T>,
    current: RwLock<Arc<T>>,
    settling: Mutex<Settling>,
}

impl<T> Watched<T> {
    /// Reads `paths`; `parse` is given what was in force before, too.
    pub(crate) fn open(
        what: &'static str,
        paths: &[PathBuf],
        parse: impl Fn(&Snapshot, Option<&T>) -> Result<T, AuthError> + Send + Sync + 'static,
    ) -> Result<Self, AuthError> {
        let found = Snapshot::take(paths);
        let current = RwLock::new(Arc::new(parse(&found, None)?));
        Ok(Self { what, parse: Box::new(parse), current, settling: Mutex::new(Settling::new(&found)) })
    }

    /// What is in force.
    pub(crate) fn current(&self) -> Arc<T> {
        self.current.read().clone()
    }

    /// Has the files read again though they look the same.
    pub(crate) fn ask(&self) {
        self.settling.lock().ask();
    }

    /// Looks whether they have changed and settled, and takes them then; either is logged. Blocks on the disk.
    pub(crate) fn look(&self, now: Instant) {
        let look = self.settling.lock().look(now);
        let Look::Settled(found) = look else { return };
        match (self.parse)(&found, Some(&self.current())) {
            Ok(parsed) => {
                *self.current.write() = Arc::new(parsed);
                tracing::info!("{} read", self.what);
            }
            Err(error) if found.missing().is_some() => {
                tracing::warn!(%error, "{} not taken, what was in force stays", self.what);
            }
            Err(error) => tracing::error!(%error, "{} not taken, what was in force stays", self.what),
        }
    }
}

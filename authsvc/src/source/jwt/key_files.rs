//! Keys in files: read again when they have changed and settled.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use files::{Look, Settling, Snapshot};
use parking_lot::{Mutex, RwLock};

use super::config::{JwtConfig, SECTION, SecretEncoding};
use super::key::Key;
use crate::AuthError;

/// The keys of `secret_file` and `public_key_files`.
pub(super) struct KeyFiles {
    secret: Option<PathBuf>,
    encoding: SecretEncoding,
    public: Vec<PathBuf>,
    current: RwLock<Arc<[Key]>>,
    settling: Mutex<Settling>,
}

impl KeyFiles {
    /// Reads them.
    ///
    /// # Errors
    /// One cannot be read, or holds no key that can be used.
    pub(super) fn open(config: &JwtConfig) -> Result<Self, AuthError> {
        let found = Snapshot::take(config.secret_file.iter().chain(&config.public_key_files));
        let files = Self {
            secret: config.secret_file.clone(),
            encoding: config.secret_encoding,
            public: config.public_key_files.clone(),
            current: RwLock::new([].into()),
            settling: Mutex::new(Settling::new(&found)),
        };
        *files.current.write() = files.read(&found)?;
        Ok(files)
    }

    /// What is in force.
    pub(super) fn current(&self) -> Arc<[Key]> {
        self.current.read().clone()
    }

    /// Has them read again though they look the same.
    pub(super) fn ask(&self) {
        self.settling.lock().ask();
    }

    /// Looks whether they have changed and settled, and takes them then; what is wrong with one leaves the keys of before in
    /// force. Either is logged. Blocks on the disk.
    pub(super) fn look(&self, now: Instant) {
        let Look::Settled(found) = self.settling.lock().look(now) else { return };
        match self.read(&found) {
            Ok(keys) => {
                tracing::info!(keys = keys.len(), "key files read");
                *self.current.write() = keys;
            }
            Err(error) => tracing::error!(%error, "key files not taken, the keys of before stay"),
        }
    }

    fn read(&self, found: &Snapshot) -> Result<Arc<[Key]>, AuthError> {
        let mut keys = Vec::new();
        let wrong = |key, path: &PathBuf, problem: &dyn std::fmt::Display| AuthError::Section {
            section: SECTION,
            key,
            problem: format!("{}: {problem}", path.display()),
        };
        if let Some(path) = &self.secret {
            const KEY: &str = "secret_file";
            let bytes = found.bytes(path).map_err(|error| wrong(KEY, path, &error))?;
            keys.push(Key::from_secret(bytes, self.encoding).map_err(|problem| wrong(KEY, path, &problem))?);
        }
        for path in &self.public {
            const KEY: &str = "public_key_files";
            let bytes = found.bytes(path).map_err(|error| wrong(KEY, path, &error))?;
            keys.extend(Key::from_pem(bytes).map_err(|problem| wrong(KEY, path, &problem))?);
        }
        Ok(keys.into())
    }
}

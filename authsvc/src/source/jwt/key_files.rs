//! Keys in files: read again when they have changed and settled.

use std::path::PathBuf;

use files::Snapshot;

use super::config::{JwtConfig, SECTION, SecretEncoding};
use super::key::Key;
use crate::AuthError;
use crate::named::Named;
use crate::watched::Watched;

/// Reads the keys of `secret_file` and `public_key_files`, and again when these change.
///
/// # Errors
/// One cannot be read, or holds no key that can be used.
pub(super) fn open(config: &JwtConfig) -> Result<Watched<Vec<Key>>, AuthError> {
    let (secret, encoding) = (config.secret_file.clone(), config.secret_encoding);
    let public = config.public_key_files.clone();
    let paths: Vec<_> = secret.iter().chain(&public).cloned().collect();
    Watched::open("key files", &paths, move |found, _| read(secret.as_ref(), encoding, &public, found))
}

fn read(
    secret: Option<&PathBuf>,
    encoding: SecretEncoding,
    public: &[PathBuf],
    found: &Snapshot,
) -> Result<Vec<Key>, AuthError> {
    let mut keys = Vec::new();
    if let Some(path) = secret {
        let file = Named::new(SECTION, "secret_file", path);
        let secret = Key::from_secret(file.bytes(found)?, encoding);
        keys.push(secret.map_err(|problem| file.unusable(&problem))?);
    }
    for path in public {
        let file = Named::new(SECTION, "public_key_files", path);
        keys.extend(Key::from_pem(file.bytes(found)?).map_err(|problem| file.unusable(&problem))?);
    }
    Ok(keys)
}

//! The passport as a token that a worker can verify: a JWT signed with Ed25519 or ES256. Signing and verifying do no I/O and
//! take up to a tenth of a millisecond. Whether a token that has expired is still honoured is the caller's to decide.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use base64::prelude::{BASE64_STANDARD, Engine};
use bytes::Bytes;
use files::pem::{self, Kind, PemError};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::{Passport, Rule};

/// Longest token, bytes.
pub const TOKEN_BYTES_MAX: usize = 64 * 1024;

/// Who issues tokens.
const ISSUER: &str = "tidegate";

/// Bytes of a key's fingerprint in the header of a token.
const FINGERPRINT_BYTES: usize = 8;

/// Rule lists that a verifier shares between the passports with equal ones.
const SHARED_RULES_MAX: usize = 64;

/// What comes before the key in a SubjectPublicKeyInfo: Ed25519, RFC 8410 section 4.
const ED25519_HEAD: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// The same for a point of P-256 that is not compressed, RFC 5480 section 2.
const P256_HEAD: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read.
    #[error("{}: cannot be read", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// It is not PEM, or holds something else.
    #[error(transparent)]
    Pem(#[from] PemError),
    /// It holds no private key that can be used.
    #[error("holds no private key for Ed25519 or P-256 (PKCS #8 in PEM)")]
    NotPrivate,
    /// It holds no public key that can be used.
    #[error("holds no public key for Ed25519 or P-256 (SubjectPublicKeyInfo in PEM)")]
    NotPublic,
    /// The same, of a file.
    #[error("{}: {reason}", path.display())]
    InFile {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: Box<KeyError>,
    },
}

/// Why a token is not accepted, or not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It has more than [`TOKEN_BYTES_MAX`] bytes.
    #[error("token of {len} bytes, at most {TOKEN_BYTES_MAX} are allowed")]
    TooLong {
        /// Its length, bytes.
        len: usize,
    },
    /// It is no token, or its claims are not those of a passport.
    #[error("malformed token")]
    Malformed,
    /// The key that its header names is not known here.
    #[error("token of an unknown key")]
    UnknownKey,
    /// The signature is not of that key, or its algorithm is not that of the key.
    #[error("token with a bad signature")]
    BadSignature,
    /// Somebody else issued it.
    #[error("token of another issuer")]
    WrongIssuer,
    /// It was good until the given time.
    #[error("token expired at {at_s} s")]
    Expired {
        /// Seconds since the Unix epoch.
        at_s: u64,
    },
    /// It was issued later than now, by more than the leeway.
    #[error("token from the future: issued at {at_s} s")]
    NotYet {
        /// Seconds since the Unix epoch.
        at_s: u64,
    },
    /// Signing failed.
    #[error("the token could not be signed")]
    NotSigned,
}

#[derive(Serialize)]
struct Issued<'a> {
    iss: &'static str,
    iat: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    exp: Option<u64>,
    sub: &'a str,
    client_id: &'a str,
    rules: &'a [Rule],
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    iat: u64,
    #[serde(default)]
    exp: Option<u64>,
    sub: Arc<str>,
    client_id: Arc<str>,
    rules: Arc<[Rule]>,
}

/// Seconds since the Unix epoch, by this machine's clock.
fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// The name of a key in tokens: the beginning of the SHA-256 of the public key, in hexadecimal.
fn fingerprint(public: &[u8]) -> String {
    let digest = digest(&SHA256, public);
    digest.as_ref().iter().take(FINGERPRINT_BYTES).map(|byte| format!("{byte:02x}")).collect()
}

fn read(path: &Path) -> Result<Vec<u8>, KeyError> {
    std::fs::read(path).map_err(|source| KeyError::Unreadable { path: path.to_owned(), source })
}

fn of_file<T>(path: &Path, result: Result<T, KeyError>) -> Result<T, KeyError> {
    result.map_err(|reason| KeyError::InFile { path: path.to_owned(), reason: Box::new(reason) })
}

/// Makes tokens of passports.
pub struct PassportSigner {
    header: Header,
    key: EncodingKey,
    public_pem: String,
}

impl fmt::Debug for PassportSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PassportSigner").field("header", &self.header).finish_non_exhaustive()
    }
}

impl PassportSigner {
    /// One with the private key of a PEM file.
    ///
    /// # Errors
    /// The file cannot be read, or holds no such key.
    pub fn from_file(path: &Path) -> Result<Self, KeyError> {
        of_file(path, Self::from_pem(&read(path)?))
    }

    /// One with the first private key of `pem` (PKCS #8, Ed25519 or P-256).
    ///
    /// # Errors
    /// There is none.
    pub fn from_pem(pem: &[u8]) -> Result<Self, KeyError> {
        let key = pem::sections(pem, Kind::Pkcs8)?.into_iter().next().ok_or(KeyError::NotPrivate)?;
        let der = key.der.as_slice();
        let (algorithm, key, head, public) = if let Ok(pair) = Ed25519KeyPair::from_pkcs8(der) {
            let public = pair.public_key().as_ref().to_vec();
            (Algorithm::EdDSA, EncodingKey::from_ed_der(der), &ED25519_HEAD[..], public)
        } else if let Ok(pair) = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der) {
            let public = pair.public_key().as_ref().to_vec();
            (Algorithm::ES256, EncodingKey::from_ec_der(der), &P256_HEAD[..], public)
        } else {
            return Err(KeyError::NotPrivate);
        };
        let header = Header { kid: Some(fingerprint(&public)), ..Header::new(algorithm) };
        Ok(Self { header, key, public_pem: pem_of("PUBLIC KEY", &[head, &public].concat()) })
    }

    /// The public key, as [`PassportVerifier::from_pems`] takes it.
    pub fn public_pem(&self) -> &str {
        &self.public_pem
    }

    /// The token of `passport`, issued now.
    ///
    /// # Errors
    /// It would be longer than [`TOKEN_BYTES_MAX`], or cannot be signed.
    pub fn sign(&self, passport: &Passport) -> Result<Bytes, TokenError> {
        self.sign_at(passport, now_s())
    }

    /// The same, issued at `now_s` seconds since the Unix epoch.
    ///
    /// # Errors
    /// As [`PassportSigner::sign`].
    pub fn sign_at(&self, passport: &Passport, now_s: u64) -> Result<Bytes, TokenError> {
        let claims = Issued {
            iss: ISSUER,
            iat: now_s,
            exp: passport.expires_at_s,
            sub: &passport.subject,
            client_id: &passport.client_id,
            rules: &passport.rules,
        };
        let token =
            jsonwebtoken::encode(&self.header, &claims, &self.key).map_err(|_| TokenError::NotSigned)?;
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::TooLong { len: token.len() });
        }
        Ok(token.into())
    }
}

/// PEM, RFC 7468.
fn pem_of(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", BASE64_STANDARD.encode(der))
}

struct Key {
    fingerprint: String,
    key: DecodingKey,
    validation: Validation,
}

/// Reads passports from tokens. Several keys are good at once, so that the signing key can be replaced.
pub struct PassportVerifier {
    keys: Vec<Key>,
    leeway_s: u64,
    /// Those used last at the end.
    rules: Mutex<Vec<Arc<[Rule]>>>,
}

impl fmt::Debug for PassportVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<_> = self.keys.iter().map(|key| &key.fingerprint).collect();
        f.debug_struct("PassportVerifier").field("keys", &keys).field("leeway_s", &self.leeway_s).finish()
    }
}

impl PassportVerifier {
    /// One with the public keys of PEM files, each of which may hold several. `leeway` is by how much clocks may differ.
    ///
    /// # Errors
    /// A file cannot be read, or holds no such key.
    pub fn from_files<P: AsRef<Path>>(paths: &[P], leeway: Duration) -> Result<Self, KeyError> {
        let mut keys = Vec::new();
        for path in paths {
            let path = path.as_ref();
            keys.extend(of_file(path, public_keys(&read(path)?))?);
        }
        Self::new(keys, leeway)
    }

    /// One with the public keys of `pems` (SubjectPublicKeyInfo, Ed25519 or P-256).
    ///
    /// # Errors
    /// One of them holds no such key, or there is none.
    pub fn from_pems<P: AsRef<[u8]>>(pems: &[P], leeway: Duration) -> Result<Self, KeyError> {
        let mut keys = Vec::new();
        for pem in pems {
            keys.extend(public_keys(pem.as_ref())?);
        }
        Self::new(keys, leeway)
    }

    fn new(keys: Vec<Key>, leeway: Duration) -> Result<Self, KeyError> {
        if keys.is_empty() {
            return Err(KeyError::NotPublic);
        }
        Ok(Self { keys, leeway_s: leeway.as_secs(), rules: Mutex::default() })
    }

    /// The passport in `token`, by this machine's clock.
    ///
    /// # Errors
    /// It is not good, or not any more.
    pub fn verify(&self, token: &[u8]) -> Result<Passport, TokenError> {
        self.verify_at(token, now_s())
    }

    /// The same for a token that may have ended up to `grace` ago.
    ///
    /// # Errors
    /// As [`PassportVerifier::verify`].
    pub fn verify_with_grace(&self, token: &[u8], grace: Duration) -> Result<Passport, TokenError> {
        self.judge(token, now_s(), grace.as_secs())
    }

    /// The same, at `now_s` seconds since the Unix epoch.
    ///
    /// # Errors
    /// As [`PassportVerifier::verify`].
    pub fn verify_at(&self, token: &[u8], now_s: u64) -> Result<Passport, TokenError> {
        self.judge(token, now_s, 0)
    }

    fn judge(&self, token: &[u8], now_s: u64, grace_s: u64) -> Result<Passport, TokenError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::TooLong { len: token.len() });
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| TokenError::Malformed)?;
        let key = self.keys.iter().find(|key| header.kid.as_ref() == Some(&key.fingerprint));
        let key = key.ok_or(TokenError::UnknownKey)?;
        let claims = jsonwebtoken::decode::<Claims>(token, &key.key, &key.validation)
            .map_err(|error| match error.kind() {
                ErrorKind::InvalidSignature | ErrorKind::InvalidAlgorithm => TokenError::BadSignature,
                _ => TokenError::Malformed,
            })?
            .claims;
        if claims.iss != ISSUER {
            return Err(TokenError::WrongIssuer);
        }
        if claims.iat > now_s.saturating_add(self.leeway_s) {
            return Err(TokenError::NotYet { at_s: claims.iat });
        }
        let late_s = self.leeway_s.saturating_add(grace_s);
        if let Some(at_s) = claims.exp.filter(|at_s| at_s.saturating_add(late_s) <= now_s) {
            return Err(TokenError::Expired { at_s });
        }
        Ok(Passport {
            subject: claims.sub,
            client_id: claims.client_id,
            rules: self.share(claims.rules),
            expires_at_s: claims.exp,
        })
    }

    /// The list that an earlier passport had, if it is equal: most clients have one of a few.
    fn share(&self, rules: Arc<[Rule]>) -> Arc<[Rule]> {
        let mut known = self.rules.lock();
        let shared = match known.iter().rposition(|other| *other == rules) {
            Some(at) => known.remove(at),
            None => {
                if known.len() >= SHARED_RULES_MAX {
                    known.remove(0);
                }
                rules
            }
        };
        known.push(shared.clone());
        shared
    }
}

/// All public keys of `pem`.
fn public_keys(pem: &[u8]) -> Result<Vec<Key>, KeyError> {
    pem::sections(pem, Kind::PublicKey)?.iter().map(|section| public_key(&section.der)).collect()
}

fn public_key(der: &[u8]) -> Result<Key, KeyError> {
    let (algorithm, key, public) =
        if let Some(public) = der.strip_prefix(&ED25519_HEAD).filter(|k| k.len() == 32) {
            (Algorithm::EdDSA, DecodingKey::from_ed_der(public), public)
        } else if let Some(public) = der.strip_prefix(&P256_HEAD).filter(|k| k.len() == 65 && k[0] == 4) {
            (Algorithm::ES256, DecodingKey::from_ec_der(public), public)
        } else {
            return Err(KeyError::NotPublic);
        };
    // Times and issuer are judged above, where the clock is the caller's.
    let mut validation = Validation::new(algorithm);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_aud = false;
    Ok(Key { fingerprint: fingerprint(public), key, validation })
}

#[cfg(test)]
mod tests;

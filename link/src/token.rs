//! The passport as a token that a worker can verify: a JWT signed with Ed25519 or ES256. Signing and verifying do no I/O and
//! take up to a tenth of a millisecond. Whether a token that has expired is still honoured is the caller's to decide.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use bytes::Bytes;
use files::pem::{self, Kind, PemError};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};

use self::vouched::Exchange;
use crate::public_key::{Curve, PublicKey};
use crate::{Attributes, Limits, Passport, PassportToken, Rule};

mod vouched;

pub use vouched::{ExchangeKey, Voucher};

/// Longest token, bytes.
pub const TOKEN_BYTES_MAX: usize = 64 * 1024;

/// Who issues tokens.
const ISSUER: &str = "tidegate";

/// Rule lists, and limits, that a verifier shares between the passports with equal ones.
const SHARED_MAX: usize = 64;

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
    /// It came without a signature, and there is no key to sign it with.
    #[error("the passport is not signed, and no signing key is configured here")]
    NoKey,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    token_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attributes: Option<&'a Attributes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limits: Option<&'a Limits>,
}

impl<'a> Issued<'a> {
    fn of(passport: &'a Passport, now_s: u64) -> Self {
        Self {
            iss: ISSUER,
            iat: now_s,
            exp: passport.expires_at_s,
            sub: &passport.subject,
            client_id: &passport.client_id,
            rules: &passport.rules,
            token_id: passport.token_id.as_deref(),
            attributes: passport.attributes.as_deref(),
            limits: passport.limits.as_deref(),
        }
    }
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
    #[serde(default)]
    token_id: Option<Arc<str>>,
    #[serde(default)]
    attributes: Option<Arc<Attributes>>,
    #[serde(default)]
    limits: Option<Arc<Limits>>,
}

/// Seconds since the Unix epoch, by this machine's clock.
fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, KeyError> {
    std::fs::read(path).map_err(|source| KeyError::Unreadable { path: path.to_owned(), source })
}

pub(crate) fn of_file<T>(path: &Path, result: Result<T, KeyError>) -> Result<T, KeyError> {
    result.map_err(|reason| KeyError::InFile { path: path.to_owned(), reason: Box::new(reason) })
}

/// What other keys are derived from.
struct Secret([u8; 32]);

/// Makes tokens of passports.
pub struct PassportSigner {
    header: Header,
    key: EncodingKey,
    public: PublicKey,
    public_pem: String,
    secret: Secret,
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
        let key = pem::first(pem, Kind::Pkcs8)?;
        let der = key.der.as_slice();
        let (algorithm, key, public) = if let Ok(pair) = Ed25519KeyPair::from_pkcs8(der) {
            let public = PublicKey::new(Curve::Ed25519, pair.public_key().as_ref());
            (Algorithm::EdDSA, EncodingKey::from_ed_der(der), public)
        } else if let Ok(pair) = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der) {
            let public = PublicKey::new(Curve::P256, pair.public_key().as_ref());
            (Algorithm::ES256, EncodingKey::from_ec_der(der), public)
        } else {
            return Err(KeyError::NotPrivate);
        };
        let public = public.ok_or(KeyError::NotPrivate)?;
        let secret = Secret(expand(der, b"tidegate passport key").ok_or(KeyError::NotPrivate)?);
        let header = Header { kid: Some(public.id()), ..Header::new(algorithm) };
        Ok(Self { header, key, public_pem: public.to_pem(), public, secret })
    }

    /// The public key.
    pub fn public_key(&self) -> &PublicKey {
        &self.public
    }

    /// A key for another purpose, the same for everybody who has the private key.
    pub fn derive_key(&self, purpose: &str) -> [u8; 32] {
        expand(&self.secret.0, purpose.as_bytes()).unwrap_or(self.secret.0)
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
        let claims = Issued::of(passport, now_s);
        let token =
            jsonwebtoken::encode(&self.header, &claims, &self.key).map_err(|_| TokenError::NotSigned)?;
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::TooLong { len: token.len() });
        }
        Ok(token.into())
    }
}

/// What `token` says, without a look at its signature: for one that comes from where passports are made, and goes to those who
/// verify it. The passport keeps it.
///
/// # Errors
/// It is no token of a passport.
pub fn read_trusted(token: Bytes) -> Result<Passport, TokenError> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(TokenError::TooLong { len: token.len() });
    }
    let claims = jsonwebtoken::dangerous::insecure_decode_claims::<Claims>(&token)
        .map_err(|_| TokenError::Malformed)?;
    Ok(Passport {
        subject: claims.sub,
        client_id: claims.client_id,
        rules: claims.rules,
        expires_at_s: claims.exp,
        token_id: claims.token_id,
        attributes: claims.attributes,
        limits: claims.limits,
        token: Some(PassportToken(token)),
    })
}

/// HKDF, RFC 5869.
fn expand(secret: &[u8], info: &[u8]) -> Option<[u8; 32]> {
    let mut key = [0; 32];
    let info = [info];
    let expanded =
        Salt::new(HKDF_SHA256, b"tidegate").extract(secret).expand(&info, HKDF_SHA256).ok()?.fill(&mut key);
    expanded.is_ok().then_some(key)
}

struct Key {
    id: String,
    key: DecodingKey,
    validation: Validation,
}

/// Reads passports from tokens. Several keys are good at once, so that the signing key can be replaced.
pub struct PassportVerifier {
    keys: RwLock<Vec<Key>>,
    /// For edges that sign once for a link.
    exchange: Option<Exchange>,
    leeway_s: u64,
    /// Tokens whose key was not known.
    unknown: AtomicU64,
    /// Those used last at the end, as with the next.
    rules: Mutex<Vec<Arc<[Rule]>>>,
    limits: Mutex<Vec<Arc<Limits>>>,
}

impl fmt::Debug for PassportVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<_> = self.keys.read().iter().map(|key| key.id.clone()).collect();
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
            keys.extend(PublicKey::from_file(path)?);
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
            keys.extend(PublicKey::from_pem(pem.as_ref())?);
        }
        Self::new(keys, leeway)
    }

    fn new(keys: Vec<PublicKey>, leeway: Duration) -> Result<Self, KeyError> {
        if keys.is_empty() {
            return Err(KeyError::NotPublic);
        }
        let verifier = Self::without_keys(leeway);
        verifier.trust(keys.into_iter().map(|key| (key.id(), key)));
        Ok(verifier)
    }

    /// One that takes nothing until [`PassportVerifier::trust`] says whose tokens are good.
    pub fn without_keys(leeway: Duration) -> Self {
        Self {
            keys: RwLock::default(),
            exchange: Exchange::new(),
            leeway_s: leeway.as_secs(),
            unknown: AtomicU64::new(0),
            rules: Mutex::default(),
            limits: Mutex::default(),
        }
    }

    /// What edges agree on a key by; see [`PassportSigner::vouch`].
    pub fn exchange_key(&self) -> ExchangeKey {
        self.exchange.as_ref().map_or_else(ExchangeKey::default, |exchange| exchange.public)
    }

    /// From now on these keys are good, by the names that tokens give them, and no others.
    pub fn trust(&self, keys: impl IntoIterator<Item = (String, PublicKey)>) {
        let keys = keys.into_iter().map(|(id, public)| trusted(id, &public)).collect();
        let mut trusted = self.keys.write();
        *trusted = keys;
        if let Some(exchange) = &self.exchange {
            exchange.forget();
        }
    }

    /// How many tokens of unknown keys there were: a sign that a key is new.
    pub fn unknown_keys(&self) -> u64 {
        self.unknown.load(Ordering::Relaxed)
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
        let claims = self.claims(token)?;
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
            rules: share(&self.rules, claims.rules),
            expires_at_s: claims.exp,
            token_id: claims.token_id,
            attributes: claims.attributes,
            limits: claims.limits.map(|limits| share(&self.limits, limits)),
            token: None,
        })
    }
}

impl PassportVerifier {
    /// What a token of a trusted key says, whenever that was.
    fn claims(&self, token: &[u8]) -> Result<Claims, TokenError> {
        // Held until the claims are there: who is trusted no longer vouches for nothing.
        let keys = self.keys.read();
        if let Some(claims) = self.exchange.as_ref().and_then(|exchange| exchange.read(token)) {
            return claims;
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| TokenError::Malformed)?;
        let Some(key) = keys.iter().find(|key| header.kid.as_ref() == Some(&key.id)) else {
            self.unknown.fetch_add(1, Ordering::Relaxed);
            return Err(TokenError::UnknownKey);
        };
        if let (Algorithm::HS256, Some(exchange)) = (header.alg, &self.exchange) {
            return exchange.learn(token, key);
        }
        let decoded = jsonwebtoken::decode::<Claims>(token, &key.key, &key.validation);
        Ok(decoded
            .map_err(|error| match error.kind() {
                ErrorKind::InvalidSignature | ErrorKind::InvalidAlgorithm => TokenError::BadSignature,
                _ => TokenError::Malformed,
            })?
            .claims)
    }
}

/// What an earlier passport had, if it is equal: most clients have one of a few.
fn share<T: ?Sized + PartialEq>(known: &Mutex<Vec<Arc<T>>>, found: Arc<T>) -> Arc<T> {
    let mut known = known.lock();
    let shared = match known.iter().rposition(|other| *other == found) {
        Some(at) => known.remove(at),
        None => {
            if known.len() >= SHARED_MAX {
                known.remove(0);
            }
            found
        }
    };
    known.push(shared.clone());
    shared
}

/// What a token of this key is verified with.
fn trusted(id: String, public: &PublicKey) -> Key {
    let (algorithm, key) = match public.curve {
        Curve::Ed25519 => (Algorithm::EdDSA, DecodingKey::from_ed_der(&public.bytes)),
        Curve::P256 => (Algorithm::ES256, DecodingKey::from_ec_der(&public.bytes)),
    };
    // Times and issuer are judged above, where the clock is the caller's.
    let mut validation = Validation::new(algorithm);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_aud = false;
    Key { id, key, validation }
}

#[cfg(test)]
mod tests;

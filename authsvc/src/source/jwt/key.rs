//! Keys that tokens are verified with. Each is bound to the algorithms of its kind: nobody can have a public key taken for a
//! secret, or one kind of key for another.

use base64::Engine as _;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use files::pem::{self, Kind};
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};
use serde_json::Value;

use super::config::SecretEncoding;

/// Bytes of a secret: as many as the shortest hash has (RFC 7518 section 3.2).
const SECRET_BYTES_MIN: usize = 32;

/// Keys of one file or URL.
const KEYS_MAX: usize = 256;

/// Either way of padding is found in files.
const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);

/// One key.
#[derive(Clone)]
pub(super) struct Key {
    /// Its `kid`; `None` for one from a file, which is tried whatever a token names.
    id: Option<Box<str>>,
    algorithms: Vec<Algorithm>,
    pub(super) decoding: DecodingKey,
}

impl Key {
    /// A secret as `encoding` says it is written.
    pub(super) fn from_secret(written: &[u8], encoding: SecretEncoding) -> Result<Self, &'static str> {
        if written.trim_ascii_start().starts_with(b"-----BEGIN") {
            return Err("holds a PEM key, which is no secret: name it in public_key_files");
        }
        let line = written.strip_suffix(b"\n").unwrap_or(written);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let secret = match encoding {
            SecretEncoding::Text => line.to_vec(),
            SecretEncoding::Base64 => {
                let engines = [STANDARD, URL_SAFE].map(|alphabet| GeneralPurpose::new(&alphabet, LENIENT));
                engines.iter().find_map(|engine| engine.decode(line).ok()).ok_or("is not base64")?
            }
        };
        if secret.len() < SECRET_BYTES_MIN {
            return Err("must hold a secret of at least 32 bytes");
        }
        Ok(Self::new(None, DecodingKey::from_secret(&secret), AlgorithmFamily::Hmac.algorithms()))
    }

    /// The public keys of a PEM file.
    pub(super) fn from_pem(bytes: &[u8]) -> Result<Vec<Self>, String> {
        let sections = pem::sections(bytes, Kind::PublicKey).map_err(|error| error.to_string())?;
        if sections.len() > KEYS_MAX {
            return Err(format!("holds more than {KEYS_MAX} keys"));
        }
        let read = sections.into_iter().map(|section| {
            let unusable =
                || format!("line {}: the key is not one of RSA, P-256, P-384 or Ed25519", section.line);
            let pem = to_pem(&section.der);
            DecodingKey::from_rsa_pem(&pem)
                .or_else(|_| DecodingKey::from_ec_pem(&pem))
                .or_else(|_| DecodingKey::from_ed_pem(&pem))
                .ok()
                .and_then(|decoding| Self::of_its_kind(None, decoding))
                .ok_or_else(unusable)
        });
        read.collect()
    }

    /// One of a JWK set, if it can verify signatures.
    fn from_jwk(jwk: &Jwk) -> Option<Self> {
        let is_for_signatures = match (&jwk.common.public_key_use, &jwk.common.key_operations) {
            (Some(key_use), _) if *key_use != PublicKeyUse::Signature => false,
            (_, Some(operations)) => operations.contains(&KeyOperations::Verify),
            _ => true,
        };
        let suits = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => true,
            AlgorithmParameters::EllipticCurve(key) => {
                matches!(key.curve, EllipticCurve::P256 | EllipticCurve::P384)
            }
            AlgorithmParameters::OctetKeyPair(key) => key.curve == EllipticCurve::Ed25519,
            // A secret that is published is none.
            _ => false,
        };
        if !is_for_signatures || !suits {
            return None;
        }
        let id = jwk.common.key_id.as_deref().map(Box::from);
        let mut key = Self::of_its_kind(id, DecodingKey::from_jwk(jwk).ok()?)?;
        if let Some(named) = jwk.common.key_algorithm {
            let named = Algorithm::try_from(named).ok()?;
            key.algorithms.retain(|algorithm| *algorithm == named);
        }
        (!key.algorithms.is_empty()).then_some(key)
    }

    /// With the algorithms of a public key's kind and size.
    fn of_its_kind(id: Option<Box<str>>, decoding: DecodingKey) -> Option<Self> {
        let length = decoding.try_get_as_bytes().map_or(0, <[u8]>::len);
        let algorithms: &[Algorithm] = match (decoding.family(), length) {
            (AlgorithmFamily::Rsa, _) => AlgorithmFamily::Rsa.algorithms(),
            // A point that is not compressed: 0x04 and both coordinates.
            (AlgorithmFamily::Ec, 65) => &[Algorithm::ES256],
            (AlgorithmFamily::Ec, 97) => &[Algorithm::ES384],
            (AlgorithmFamily::Ed, 32) => &[Algorithm::EdDSA],
            _ => return None,
        };
        Some(Self::new(id, decoding, algorithms))
    }

    fn new(id: Option<Box<str>>, decoding: DecodingKey, algorithms: &[Algorithm]) -> Self {
        Self { id, algorithms: algorithms.to_vec(), decoding }
    }

    /// Whether it may be the one that a token names.
    pub(super) fn is_named(&self, kid: Option<&str>) -> bool {
        match (&self.id, kid) {
            (Some(id), Some(kid)) => **id == *kid,
            _ => true,
        }
    }

    /// Whether a token names it, and nothing else.
    pub(super) fn has_id(&self, kid: Option<&str>) -> bool {
        kid.is_some() && self.id.as_deref() == kid
    }

    /// Whether it goes with `algorithm`.
    pub(super) fn suits(&self, algorithm: Algorithm) -> bool {
        self.algorithms.contains(&algorithm)
    }
}

/// Why a JWK set cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SetProblem {
    #[error("the answer is no JWK set")]
    NoSet,
    #[error("the JWK set has no key that can verify signatures")]
    NoKey,
    #[error("the JWK set has more than {KEYS_MAX} keys")]
    TooMany,
}

/// The keys of a JWK set (RFC 7517 section 5) that can verify signatures. Others are passed over.
pub(super) fn read_set(bytes: &[u8]) -> Result<Vec<Key>, SetProblem> {
    let set: Value = serde_json::from_slice(bytes).map_err(|_| SetProblem::NoSet)?;
    let keys = set.get("keys").and_then(Value::as_array).ok_or(SetProblem::NoSet)?;
    if keys.len() > KEYS_MAX {
        return Err(SetProblem::TooMany);
    }
    let read = |key: &Value| Key::from_jwk(&serde_json::from_value(key.clone()).ok()?);
    let keys: Vec<_> = keys.iter().filter_map(read).collect();
    if keys.is_empty() { Err(SetProblem::NoKey) } else { Ok(keys) }
}

/// What was read from PEM, as PEM of its own: the library takes the first section of a file only.
fn to_pem(der: &[u8]) -> Vec<u8> {
    let base64 = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = b"-----BEGIN PUBLIC KEY-----\n".to_vec();
    for line in base64.as_bytes().chunks(64) {
        pem.extend_from_slice(line);
        pem.push(b'\n');
    }
    pem.extend_from_slice(b"-----END PUBLIC KEY-----\n");
    pem
}

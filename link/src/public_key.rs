//! Public keys of those who sign passports: from PEM, to PEM, and as a JSON Web Key Set (RFC 7517; RFC 8037 for Ed25519), by
//! which a service announces them.

use std::path::Path;

use aws_lc_rs::digest::{SHA256, digest};
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD, Engine};
use files::pem::{self, Kind};
use serde::{Deserialize, Serialize};

use crate::KeyError;
use crate::token::{of_file, read};

/// Keys of one set that are looked at.
pub const KEYS_MAX: usize = 64;

/// Bytes of a key's fingerprint, by which tokens name it.
const FINGERPRINT_BYTES: usize = 8;

/// What comes before the key in a SubjectPublicKeyInfo: Ed25519, RFC 8410 section 4.
const ED25519_HEAD: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// The same for a point of P-256 that is not compressed, RFC 5480 section 2.
const P256_HEAD: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// Begins a point of P-256 that is not compressed.
const UNCOMPRESSED: u8 = 4;

/// What a key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Curve {
    Ed25519,
    P256,
}

/// A public key, Ed25519 or P-256.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    pub(crate) curve: Curve,
    pub(crate) bytes: Vec<u8>,
}

impl PublicKey {
    pub(crate) fn new(curve: Curve, bytes: &[u8]) -> Option<Self> {
        let is_sound = match curve {
            Curve::Ed25519 => bytes.len() == 32,
            Curve::P256 => bytes.len() == 65 && bytes[0] == UNCOMPRESSED,
        };
        is_sound.then(|| Self { curve, bytes: bytes.to_vec() })
    }

    /// All keys of a PEM file (SubjectPublicKeyInfo), at least one.
    ///
    /// # Errors
    /// The file cannot be read, or holds something else.
    pub fn from_file(path: &Path) -> Result<Vec<Self>, KeyError> {
        of_file(path, Self::from_pem(&read(path)?))
    }

    /// All keys of `pem`, at least one.
    ///
    /// # Errors
    /// It holds something else.
    pub fn from_pem(pem: &[u8]) -> Result<Vec<Self>, KeyError> {
        pem::sections(pem, Kind::PublicKey)?.iter().map(|section| Self::from_der(&section.der)).collect()
    }

    fn from_der(der: &[u8]) -> Result<Self, KeyError> {
        let of = |curve, head: &[u8]| der.strip_prefix(head).and_then(|bytes| Self::new(curve, bytes));
        of(Curve::Ed25519, &ED25519_HEAD).or_else(|| of(Curve::P256, &P256_HEAD)).ok_or(KeyError::NotPublic)
    }

    /// PEM, RFC 7468.
    pub fn to_pem(&self) -> String {
        let head = match self.curve {
            Curve::Ed25519 => &ED25519_HEAD[..],
            Curve::P256 => &P256_HEAD,
        };
        let text = BASE64_STANDARD.encode([head, &self.bytes].concat());
        format!("-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n")
    }

    /// The name of the key in tokens: the beginning of its SHA-256, in hexadecimal.
    pub fn id(&self) -> String {
        let digest = digest(&SHA256, &self.bytes);
        digest.as_ref().iter().take(FINGERPRINT_BYTES).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Keys as a service announces them. Read from JSON, keys of other kinds are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeySet {
    keys: Vec<Jwk>,
}

/// One key; RFC 7517 section 4.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Jwk {
    kty: String,
    #[serde(default)]
    crv: String,
    #[serde(default)]
    x: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    y: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kid: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    alg: Option<String>,
    #[serde(default, rename = "use", skip_serializing_if = "Option::is_none")]
    usage: Option<String>,
}

impl KeySet {
    /// One of these keys, each once.
    pub fn new<'a>(keys: impl IntoIterator<Item = &'a PublicKey>) -> Self {
        let mut set = Self::default();
        for key in keys {
            let jwk = Jwk::new(key);
            if !set.keys.contains(&jwk) {
                set.keys.push(jwk);
            }
        }
        set
    }

    /// The keys that can be used, with the names that tokens give them; [`KEYS_MAX`] at most.
    pub fn keys(&self) -> Vec<(String, PublicKey)> {
        self.keys.iter().take(KEYS_MAX).filter_map(Jwk::key).collect()
    }
}

impl Jwk {
    fn new(key: &PublicKey) -> Self {
        let text = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let (kty, crv, x, y, alg) = match key.curve {
            Curve::Ed25519 => ("OKP", "Ed25519", text(&key.bytes), None, "EdDSA"),
            Curve::P256 => ("EC", "P-256", text(&key.bytes[1..33]), Some(text(&key.bytes[33..])), "ES256"),
        };
        Self {
            kty: kty.to_owned(),
            crv: crv.to_owned(),
            x,
            y,
            kid: Some(key.id()),
            alg: Some(alg.to_owned()),
            usage: Some("sig".to_owned()),
        }
    }

    fn key(&self) -> Option<(String, PublicKey)> {
        if self.usage.as_ref().is_some_and(|usage| usage != "sig") {
            return None;
        }
        let decode = |text: &str| BASE64_URL_SAFE_NO_PAD.decode(text).ok();
        let key = match (self.kty.as_str(), self.crv.as_str(), &self.y) {
            ("OKP", "Ed25519", None) => PublicKey::new(Curve::Ed25519, &decode(&self.x)?),
            ("EC", "P-256", Some(y)) => {
                PublicKey::new(Curve::P256, &[&[UNCOMPRESSED][..], &decode(&self.x)?, &decode(y)?].concat())
            }
            _ => None,
        }?;
        Some((self.kid.clone().unwrap_or_else(|| key.id()), key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PassportSigner;

    fn key(algorithm: &'static rcgen::SignatureAlgorithm) -> PublicKey {
        let pair = rcgen::KeyPair::generate_for(algorithm).unwrap();
        PassportSigner::from_pem(pair.serialize_pem().as_bytes()).unwrap().public_key().clone()
    }

    #[test]
    fn keys_come_back_from_a_set_and_from_pem() {
        let keys = [key(&rcgen::PKCS_ED25519), key(&rcgen::PKCS_ECDSA_P256_SHA256)];
        let set = KeySet::new(keys.iter().chain(&keys));
        let expected: Vec<_> = keys.iter().map(|key| (key.id(), key.clone())).collect();
        assert_eq!(set.keys(), expected, "each once");
        for key in keys {
            assert_eq!(PublicKey::from_pem(key.to_pem().as_bytes()).unwrap(), [key]);
        }
    }

    #[test]
    fn keys_that_cannot_be_used_are_left_out() {
        let jwk = |key: &PublicKey| Jwk::new(key);
        let good = jwk(&key(&rcgen::PKCS_ED25519));
        let wrong = [
            Jwk { kty: "RSA".into(), ..good.clone() },
            Jwk { crv: "X25519".into(), ..good.clone() },
            Jwk { x: "AAAA".into(), ..good.clone() },
            Jwk { x: "not base64 =".into(), ..good.clone() },
            Jwk { usage: Some("enc".into()), ..good.clone() },
            Jwk { y: None, ..jwk(&key(&rcgen::PKCS_ECDSA_P256_SHA256)) },
        ];
        for wrong in wrong {
            let keys = KeySet { keys: vec![wrong.clone(), good.clone()] }.keys();
            assert_eq!(keys.len(), 1, "{wrong:?}");
        }
        let named = Jwk { kid: Some("2026".into()), ..good.clone() };
        assert_eq!(KeySet { keys: vec![named] }.keys()[0].0, "2026");
        let many = KeySet { keys: vec![good; KEYS_MAX + 1] };
        assert_eq!(many.keys().len(), KEYS_MAX);
    }
}

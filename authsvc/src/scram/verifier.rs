//! What the server keeps instead of a password: salt, iteration count, StoredKey and ServerKey (RFC 5802 section 3).

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, Mac as _};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::SCRAM_ITERATIONS;

/// Iterations that RFC 7677 asks for at least.
const ITERATIONS_MIN: u32 = 4096;

/// More would be a denial of service on the client.
const ITERATIONS_MAX: u32 = 10_000_000;

/// Bytes of a salt.
const SALT_BYTES_MAX: usize = 64;

/// What of a verifier could tell those apart who have one from those who have not. By default, what `tidegate passwd` writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Shape {
    pub(crate) iterations: u32,
    pub(crate) salt_bytes: usize,
}

impl Default for Shape {
    fn default() -> Self {
        Self { iterations: SCRAM_ITERATIONS, salt_bytes: 16 }
    }
}

/// A salted verifier. In a password file: `$scram-sha-256$i=ITERATIONS$SALT$STORED_KEY$SERVER_KEY`, the last three in
/// base64.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Verifier {
    /// Iterations of PBKDF2.
    pub(crate) iterations: u32,
    salt: Box<[u8]>,
    stored_key: [u8; 32],
    server_key: [u8; 32],
}

impl Verifier {
    /// Begins a record in a password file.
    pub(crate) const PREFIX: &'static str = "$scram-sha-256$";

    /// Derives the verifier of `password`; `iterations` is held to 4096 at least.
    pub(crate) fn derive(password: &[u8], salt: &[u8], iterations: u32) -> Self {
        let iterations = iterations.clamp(ITERATIONS_MIN, ITERATIONS_MAX);
        let salted = salted_password(password, salt, iterations);
        let client_key = hmac(&salted, &[b"Client Key"]);
        Self {
            iterations,
            salt: salt.into(),
            stored_key: Sha256::digest(client_key).into(),
            server_key: hmac(&salted, &[b"Server Key"]),
        }
    }

    /// One that no proof satisfies, with a salt that depends on `key` and `user` only, so that asking twice does not
    /// tell that the user is unknown.
    pub(crate) fn fake(key: &[u8; 32], user: &str, shape: Shape) -> Self {
        let halves = [&b"salt"[..], b"more salt"].map(|what| hmac(key, &[what, user.as_bytes()]));
        Self {
            iterations: shape.iterations,
            salt: halves.concat()[..shape.salt_bytes.min(SALT_BYTES_MAX)].into(),
            stored_key: hmac(key, &[b"stored", user.as_bytes()]),
            server_key: hmac(key, &[b"server", user.as_bytes()]),
        }
    }

    /// Reads a record; `None` if it is not as documented.
    pub(crate) fn parse(record: &str) -> Option<Self> {
        let mut fields = record.strip_prefix(Self::PREFIX)?.split('$');
        let iterations = fields.next()?.strip_prefix("i=")?.parse().ok()?;
        let salt = BASE64.decode(fields.next()?).ok()?;
        let stored_key = BASE64.decode(fields.next()?).ok()?.try_into().ok()?;
        let server_key = BASE64.decode(fields.next()?).ok()?.try_into().ok()?;
        let sound = (ITERATIONS_MIN..=ITERATIONS_MAX).contains(&iterations)
            && (8..=SALT_BYTES_MAX).contains(&salt.len())
            && fields.next().is_none();
        sound.then(|| Self { iterations, salt: salt.into(), stored_key, server_key })
    }

    /// What a client is shown of it before it has proved anything, but for the salt's bytes.
    pub(crate) fn shape(&self) -> Shape {
        Shape { iterations: self.iterations, salt_bytes: self.salt.len() }
    }

    /// The salt as messages carry it.
    pub(crate) fn salt_base64(&self) -> String {
        BASE64.encode(&self.salt)
    }

    /// Whether `proof` shows knowledge of the password, over the AuthMessage `authenticated`.
    pub(crate) fn accepts(&self, authenticated: &[u8], proof: &[u8; 32]) -> bool {
        let mut client_key = hmac(&self.stored_key, &[authenticated]);
        for (byte, proof) in client_key.iter_mut().zip(proof) {
            *byte ^= proof;
        }
        Sha256::digest(client_key).ct_eq(&self.stored_key).into()
    }

    /// The ServerSignature over `authenticated`.
    pub(crate) fn signature_base64(&self, authenticated: &[u8]) -> String {
        BASE64.encode(hmac(&self.server_key, &[authenticated]))
    }
}

impl Serialize for Verifier {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Verifier {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let record = String::deserialize(deserializer)?;
        Self::parse(&record).ok_or_else(|| D::Error::custom("no record of SCRAM-SHA-256"))
    }
}

impl fmt::Display for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (salt, stored) = (self.salt_base64(), BASE64.encode(self.stored_key));
        write!(f, "{}i={}${salt}${stored}${}", Self::PREFIX, self.iterations, BASE64.encode(self.server_key))
    }
}

/// Hi() of RFC 5802: PBKDF2 with HMAC-SHA-256 and one block of output.
fn salted_password(password: &[u8], salt: &[u8], iterations: u32) -> [u8; 32] {
    let keyed = keyed(password);
    let mut block: [u8; 32] =
        keyed.clone().chain_update(salt).chain_update([0, 0, 0, 1]).finalize().into_bytes().into();
    let mut out = block;
    for _ in 1..iterations {
        block = keyed.clone().chain_update(block).finalize().into_bytes().into();
        for (out, byte) in out.iter_mut().zip(block) {
            *out ^= byte;
        }
    }
    out
}

/// HMAC-SHA-256 over `parts`, one after another.
pub(crate) fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = keyed(key);
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes keys of any length")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_round_trips() {
        let verifier = Verifier::derive(b"pencil", b"0123456789abcdef", 5000);
        assert!(Verifier::parse(&verifier.to_string()).unwrap() == verifier);
    }

    #[test]
    fn a_weak_or_damaged_record_is_refused() {
        let good = Verifier::derive(b"pencil", b"0123456789abcdef", 4096).to_string();
        for bad in [
            good.replace("i=4096", "i=1000"),
            good.replace("i=4096", "4096"),
            format!("{good}$AAAA"),
            good[..good.len() - 8].to_owned(),
        ] {
            assert!(Verifier::parse(&bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn an_unknown_user_is_shown_the_same_salt_each_time() {
        let fake = |key: u8, user| Verifier::fake(&[key; 32], user, Shape::default());
        let (one, two) = (fake(1, "eve"), fake(1, "eve"));
        assert_eq!(one.salt_base64(), two.salt_base64());
        assert_ne!(one.salt_base64(), fake(1, "mallory").salt_base64());
        assert_ne!(one.salt_base64(), fake(2, "eve").salt_base64());
        let long = Shape { iterations: 4096, salt_bytes: 64 };
        assert_eq!(Verifier::fake(&[1; 32], "eve", long).shape(), long);
    }
}

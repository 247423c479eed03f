//! Tokens under a key that an edge and a worker share. The edge signs that key once for each link, and so neither makes nor checks a
//! signature for each device. Why that is as good: `docs/decisions/0018-one-signature-for-a-link.md`.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};

use super::{Claims, Issued, Key, PassportSigner, TOKEN_BYTES_MAX, TokenError, expand, now_s};
use crate::Passport;

/// Public key of a worker, by which an edge agrees on another with it (X25519). All zero for none.
pub type ExchangeKey = [u8; 32];

/// Keys that a verifier remembers: one for each link. With as many it forgets them all, and learns those that are in use again.
const KNOWN_MAX: usize = 4_096;

/// What a token says before its claims.
#[derive(Serialize, Deserialize)]
struct Header {
    alg: String,
    /// The key that signed `vouch`.
    kid: String,
    /// The edge's public key.
    epk: String,
    /// The signature of `statement`.
    vouch: String,
}

/// Makes tokens for one worker.
pub struct Voucher {
    header: String,
    key: hmac::Key,
}

impl fmt::Debug for Voucher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Voucher").finish_non_exhaustive()
    }
}

impl PassportSigner {
    /// What makes tokens for the worker with this key, and for no other; `None` if there is no such key.
    pub fn vouch(&self, worker: &ExchangeKey) -> Option<Voucher> {
        let private = PrivateKey::generate(&X25519).ok()?;
        let edge = public_of(&private)?;
        let key = shared_key(&private, worker, &edge, worker)?;
        let vouch = jsonwebtoken::crypto::sign(&statement(worker, &edge), &self.key, self.header.alg).ok()?;
        let (alg, epk) = ("HS256".to_owned(), URL_SAFE_NO_PAD.encode(edge));
        let header = serde_json::to_vec(&Header { alg, kid: self.public.id(), epk, vouch }).ok()?;
        Some(Voucher { header: URL_SAFE_NO_PAD.encode(header), key })
    }
}

impl Voucher {
    /// The token of `passport`, issued now.
    ///
    /// # Errors
    /// It would be longer than [`TOKEN_BYTES_MAX`].
    pub fn token(&self, passport: &Passport) -> Result<Bytes, TokenError> {
        self.token_at(passport, now_s())
    }

    pub(super) fn token_at(&self, passport: &Passport, now_s: u64) -> Result<Bytes, TokenError> {
        let claims = serde_json::to_vec(&Issued::of(passport, now_s)).map_err(|_| TokenError::NotSigned)?;
        let mut token = String::with_capacity(self.header.len() + claims.len() * 4 / 3 + 50);
        token.push_str(&self.header);
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(claims, &mut token);
        let tag = hmac::sign(&self.key, token.as_bytes());
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(tag, &mut token);
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::TooLong { len: token.len() });
        }
        Ok(token.into())
    }
}

/// A verifier's part in what edges vouch for.
pub(super) struct Exchange {
    private: PrivateKey,
    pub(super) public: ExchangeKey,
    /// Keys that edges have vouched for, by the header that said so.
    known: RwLock<HashMap<Box<[u8]>, Arc<hmac::Key>>>,
}

impl Exchange {
    /// `None` where the system has no randomness to give.
    pub(super) fn new() -> Option<Self> {
        let private = PrivateKey::generate(&X25519).ok()?;
        Some(Self { public: public_of(&private)?, private, known: RwLock::default() })
    }

    /// Who vouched for something may not be trusted any more.
    pub(super) fn forget(&self) {
        self.known.write().clear();
    }

    /// What `token` claims, if its header is known.
    pub(super) fn read(&self, token: &[u8]) -> Option<Result<Claims, TokenError>> {
        let parts = Parts::of(token)?;
        let key = self.known.read().get(parts.header).map(Arc::clone)?;
        Some(parts.claims(&key))
    }

    /// The same of a header that is not known yet, if the owner of `signer` vouches for it.
    pub(super) fn learn(&self, token: &[u8], signer: &Key) -> Result<Claims, TokenError> {
        let parts = Parts::of(token).ok_or(TokenError::Malformed)?;
        // Another key's algorithm, and nobody vouches.
        let header: Header = decoded(parts.header).map_err(|_| TokenError::BadSignature)?;
        let edge = URL_SAFE_NO_PAD.decode(&header.epk).map_err(|_| TokenError::Malformed)?;
        let edge: ExchangeKey = edge.try_into().map_err(|_| TokenError::Malformed)?;
        let algorithm = *signer.validation.algorithms.first().ok_or(TokenError::UnknownKey)?;
        let statement = statement(&self.public, &edge);
        let is_vouched_for =
            jsonwebtoken::crypto::verify(&header.vouch, &statement, &signer.key, algorithm).unwrap_or(false);
        if !is_vouched_for {
            return Err(TokenError::BadSignature);
        }
        let key = shared_key(&self.private, &edge, &edge, &self.public).ok_or(TokenError::BadSignature)?;
        let claims = parts.claims(&key)?;
        let mut known = self.known.write();
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(parts.header.into(), Arc::new(key));
        Ok(claims)
    }
}

/// A token.
struct Parts<'a> {
    header: &'a [u8],
    claims: &'a [u8],
    /// Header and claims.
    message: &'a [u8],
    tag: &'a [u8],
}

impl<'a> Parts<'a> {
    fn of(token: &'a [u8]) -> Option<Self> {
        let is_dot = |byte: &u8| *byte == b'.';
        let (message, tag) = token.split_at_checked(token.iter().rposition(is_dot)?)?;
        let (header, claims) = message.split_at_checked(message.iter().position(is_dot)?)?;
        Some(Self { header, claims: claims.get(1..)?, message, tag: tag.get(1..)? })
    }

    fn claims(&self, key: &hmac::Key) -> Result<Claims, TokenError> {
        let tag = URL_SAFE_NO_PAD.decode(self.tag).map_err(|_| TokenError::Malformed)?;
        hmac::verify(key, self.message, &tag).map_err(|_| TokenError::BadSignature)?;
        decoded(self.claims)
    }
}

fn decoded<T: serde::de::DeserializeOwned>(part: &[u8]) -> Result<T, TokenError> {
    let json = URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Malformed)?;
    serde_json::from_slice(&json).map_err(|_| TokenError::Malformed)
}

fn public_of(private: &PrivateKey) -> Option<ExchangeKey> {
    private.compute_public_key().ok()?.as_ref().try_into().ok()
}

/// What an edge signs. No token reads like it, and it holds for these two keys alone.
fn statement(worker: &ExchangeKey, edge: &ExchangeKey) -> Vec<u8> {
    [b"tidegate: these two keys\0".as_slice(), worker, edge].concat()
}

fn shared_key(
    private: &PrivateKey,
    other: &ExchangeKey,
    edge: &ExchangeKey,
    worker: &ExchangeKey,
) -> Option<hmac::Key> {
    if *other == ExchangeKey::default() {
        return None;
    }
    let purpose = [b"tidegate passports of a link\0".as_slice(), worker, edge].concat();
    let other = UnparsedPublicKey::new(&X25519, other.as_slice());
    let key = agree(private, other, (), |secret| expand(secret, &purpose).ok_or(())).ok()?;
    Some(hmac::Key::new(hmac::HMAC_SHA256, &key))
}

#[cfg(test)]
mod tests;

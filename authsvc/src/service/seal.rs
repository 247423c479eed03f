//! What an exchange remembers between two messages, sealed (AES-256-GCM) and given to the edge to keep, so that any replica
//! with the same passport key can go on with it. A state is good for one client, method and address, and not for long: who can
//! read the traffic between edge and service could otherwise use it again.

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use link::PassportSigner;

use crate::Request;

/// Seconds that a client may take to answer.
pub(crate) const STATE_LIFETIME_S: u64 = 60;

/// Longest state that is opened, characters.
const STATE_CHARS_MAX: usize = 16 * 1024;

/// What the key is derived for.
const PURPOSE: &str = "state of an authentication exchange, version 1";

/// The form of a sealed state.
const VERSION: u8 = 1;

/// Seals and opens states.
pub(crate) struct Sealer(RandomizedNonceKey);

impl Sealer {
    /// One with a key that everybody has who has the key of `signer`.
    pub(crate) fn new(signer: &PassportSigner) -> Option<Self> {
        RandomizedNonceKey::new(&AES_256_GCM, &signer.derive_key(PURPOSE)).ok().map(Self)
    }

    /// `state` of the exchange that `request` began by `method`, good from `now_s` on.
    pub(crate) fn seal(&self, state: &[u8], method: &str, request: &Request, now_s: u64) -> Option<String> {
        let mut sealed = now_s.saturating_add(STATE_LIFETIME_S).to_be_bytes().to_vec();
        sealed.extend_from_slice(state);
        let nonce =
            self.0.seal_in_place_append_tag(Aad::from(bound_to(method, request)), &mut sealed).ok()?;
        let whole = [&[VERSION][..], nonce.as_ref(), &sealed].concat();
        Some(BASE64_URL_SAFE_NO_PAD.encode(whole))
    }

    /// What was sealed; `None` if it is of another key, of another exchange, or old.
    pub(crate) fn open(&self, text: &str, method: &str, request: &Request, now_s: u64) -> Option<Vec<u8>> {
        let text = Some(text).filter(|text| text.len() <= STATE_CHARS_MAX)?;
        let whole = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
        let (nonce, sealed) = whole.strip_prefix(&[VERSION])?.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut sealed = sealed.to_vec();
        let opened = self.0.open_in_place(nonce, Aad::from(bound_to(method, request)), &mut sealed).ok()?;
        let (until_s, state) = opened.split_first_chunk()?;
        (u64::from_be_bytes(*until_s) > now_s).then(|| state.to_vec())
    }
}

/// Whose a state is. No part can hold the byte that parts them.
fn bound_to(method: &str, request: &Request) -> Vec<u8> {
    let peer = request.peer.ip().to_canonical().to_string();
    let username = request.username.as_deref().unwrap_or_default();
    [method, &request.client_id, username, &peer].join("\0").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealer(key: &rcgen::KeyPair) -> Sealer {
        Sealer::new(&PassportSigner::from_pem(key.serialize_pem().as_bytes()).unwrap()).unwrap()
    }

    fn request(client_id: &str) -> Request {
        let json = format!(r#"{{"client_id":"{client_id}","peer":"192.0.2.1:1","protocol":"5"}}"#);
        serde_json::from_str::<crate::wire::Question>(&json).unwrap().request()
    }

    #[test]
    fn a_state_opens_at_a_replica_for_its_exchange_and_in_time() {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let (one, two) = (sealer(&key), sealer(&key));
        let text = one.seal(b"state", "M", &request("a"), 1000).unwrap();
        let last_s = 1000 + STATE_LIFETIME_S - 1;
        assert_eq!(two.open(&text, "M", &request("a"), last_s).as_deref(), Some(&b"state"[..]));
        assert!(two.open(&text, "M", &request("a"), last_s + 1).is_none(), "old");
        assert!(two.open(&text, "N", &request("a"), 1000).is_none(), "another method");
        assert!(two.open(&text, "M", &request("b"), 1000).is_none(), "another client");
        let other = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        assert!(sealer(&other).open(&text, "M", &request("a"), 1000).is_none(), "another key");
    }

    #[test]
    fn a_changed_state_does_not_open() {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let sealer = sealer(&key);
        let text = sealer.seal(b"state", "M", &request("a"), 1000).unwrap();
        let whole = BASE64_URL_SAFE_NO_PAD.decode(&text).unwrap();
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            let changed = BASE64_URL_SAFE_NO_PAD.encode(changed);
            assert!(sealer.open(&changed, "M", &request("a"), 1000).is_none(), "byte {at}");
        }
        for cut in ["", "AQ", &text[..20], &"A".repeat(STATE_CHARS_MAX + 1)] {
            assert!(sealer.open(cut, "M", &request("a"), 1000).is_none());
        }
    }
}

//! Tokens under a shared key: there and back, and every way in which one is not good.

use std::time::Duration;

use super::super::{PassportVerifier, TokenError};
use super::*;
use crate::PublicKey;

const NOW_S: u64 = 1_000_000;

fn signer(algorithm: &'static rcgen::SignatureAlgorithm) -> PassportSigner {
    let pair = rcgen::KeyPair::generate_for(algorithm).unwrap();
    PassportSigner::from_pem(pair.serialize_pem().as_bytes()).unwrap()
}

fn verifier(signer: &PassportSigner) -> PassportVerifier {
    PassportVerifier::from_pems(&[signer.public_pem()], Duration::from_secs(5)).unwrap()
}

fn token(signer: &PassportSigner, verifier: &PassportVerifier) -> Bytes {
    signer.vouch(&verifier.exchange_key()).unwrap().token_at(&passport(), NOW_S).unwrap()
}

fn passport() -> Passport {
    Passport { expires_at_s: Some(NOW_S + 60), ..Passport::unrestricted("someone".into(), "ü".into()) }
}

/// A token with another header: each field through `change`.
fn forged(token: &[u8], change: impl FnOnce(&mut Header)) -> Vec<u8> {
    let mut parts = token.splitn(2, |byte| *byte == b'.');
    let mut header: Header = decoded(parts.next().unwrap()).unwrap();
    change(&mut header);
    let header = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&header).unwrap());
    [header.as_bytes(), b".", parts.next().unwrap()].concat()
}

#[test]
fn a_passport_comes_back_the_first_time_and_later() {
    for algorithm in [&rcgen::PKCS_ED25519, &rcgen::PKCS_ECDSA_P256_SHA256] {
        let signer = signer(algorithm);
        let verifier = verifier(&signer);
        let voucher = signer.vouch(&verifier.exchange_key()).unwrap();
        for _ in 0..3 {
            let token = voucher.token_at(&passport(), NOW_S).unwrap();
            assert_eq!(verifier.verify_at(&token, NOW_S), Ok(passport()));
        }
        let token = voucher.token_at(&passport(), NOW_S).unwrap();
        assert_eq!(verifier.verify_at(&token, NOW_S + 65), Err(TokenError::Expired { at_s: NOW_S + 60 }));
        assert_eq!(verifier.verify_at(&token, NOW_S - 6), Err(TokenError::NotYet { at_s: NOW_S }));
    }
}

#[test]
fn it_is_good_at_the_worker_that_it_was_made_for_alone() {
    let signer = signer(&rcgen::PKCS_ED25519);
    let [one, other] = [verifier(&signer), verifier(&signer)];
    let token = token(&signer, &one);
    assert_eq!(other.verify_at(&token, NOW_S), Err(TokenError::BadSignature));
    one.verify_at(&token, NOW_S).unwrap();
}

#[test]
fn who_has_no_signing_key_vouches_for_nothing() {
    let [known, stranger] = [signer(&rcgen::PKCS_ED25519), signer(&rcgen::PKCS_ED25519)];
    let verifier = verifier(&known);
    let token = token(&stranger, &verifier);
    assert_eq!(verifier.verify_at(&token, NOW_S), Err(TokenError::UnknownKey));
    let named = forged(&token, |header| header.kid = known.public_key().id());
    assert_eq!(verifier.verify_at(&named, NOW_S), Err(TokenError::BadSignature));
    // A signature that it has seen, with a key of its own.
    let seen: Header =
        decoded(self::token(&known, &verifier).split(|byte| *byte == b'.').next().unwrap()).unwrap();
    let borrowed = forged(&named, |header| header.vouch = seen.vouch);
    assert_eq!(verifier.verify_at(&borrowed, NOW_S), Err(TokenError::BadSignature));
}

#[test]
fn nothing_of_it_can_be_changed() {
    let signer = signer(&rcgen::PKCS_ED25519);
    let verifier = verifier(&signer);
    let token = token(&signer, &verifier);
    for is_known in [false, true] {
        for at in 0..token.len() {
            let mut changed = token.to_vec();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            assert!(verifier.verify_at(&changed, NOW_S).is_err(), "byte {at}, known: {is_known}");
        }
        for len in 0..token.len() {
            assert!(verifier.verify_at(&token[..len], NOW_S).is_err(), "{len} bytes, known: {is_known}");
        }
        verifier.verify_at(&token, NOW_S).unwrap();
    }
}

#[test]
fn a_key_that_is_not_trusted_any_more_vouches_for_nothing() {
    let [old, new] = [signer(&rcgen::PKCS_ED25519), signer(&rcgen::PKCS_ED25519)];
    let verifier = verifier(&old);
    let token = token(&old, &verifier);
    verifier.verify_at(&token, NOW_S).unwrap();
    let named = |signer: &PassportSigner| -> (String, PublicKey) {
        (signer.public_key().id(), signer.public_key().clone())
    };
    verifier.trust([named(&new)]);
    assert_eq!(verifier.verify_at(&token, NOW_S), Err(TokenError::UnknownKey));
    verifier.trust([(old.public_key().id(), new.public_key().clone())]);
    assert_eq!(verifier.verify_at(&token, NOW_S), Err(TokenError::BadSignature));
}

#[test]
fn a_worker_without_a_key_is_vouched_nothing() {
    let signer = signer(&rcgen::PKCS_ED25519);
    assert!(signer.vouch(&ExchangeKey::default()).is_none());
}

#[test]
fn many_links_keep_their_keys_apart() {
    let signer = signer(&rcgen::PKCS_ED25519);
    let verifier = verifier(&signer);
    let vouchers: Vec<_> =
        (0..KNOWN_MAX + 3).map(|_| signer.vouch(&verifier.exchange_key()).unwrap()).collect();
    for _ in 0..2 {
        for voucher in &vouchers {
            let token = voucher.token_at(&passport(), NOW_S).unwrap();
            verifier.verify_at(&token, NOW_S).unwrap();
        }
    }
    assert!(verifier.exchange.as_ref().unwrap().known.read().len() <= KNOWN_MAX);
}

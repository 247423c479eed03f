//! Tokens there and back, and every way in which one is not good.

use super::*;
use crate::{Action, Effect};

mod upgrade;

const NOW_S: u64 = 1_000_000;
const LEEWAY: Duration = Duration::from_secs(5);

fn signer(algorithm: &'static rcgen::SignatureAlgorithm) -> PassportSigner {
    let pair = rcgen::KeyPair::generate_for(algorithm).unwrap();
    PassportSigner::from_pem(pair.serialize_pem().as_bytes()).unwrap()
}

fn verifier(signers: &[&PassportSigner]) -> PassportVerifier {
    let pems: Vec<&str> = signers.iter().map(|signer| signer.public_pem()).collect();
    PassportVerifier::from_pems(&pems, LEEWAY).unwrap()
}

fn passport() -> Passport {
    let rule = Rule::new(Effect::Deny, Action::Publish, vec!["a/%c/#".into()]);
    Passport {
        expires_at_s: Some(NOW_S + 60),
        rules: [rule].into(),
        ..Passport::unrestricted("someone".into(), "ü".into())
    }
}

#[test]
fn a_passport_comes_back_with_either_algorithm() {
    for algorithm in [&rcgen::PKCS_ED25519, &rcgen::PKCS_ECDSA_P256_SHA256] {
        let signer = signer(algorithm);
        let verifier = verifier(&[&signer]);
        for passport in [passport(), Passport::unrestricted("".into(), "x".into())] {
            let token = signer.sign_at(&passport, NOW_S).unwrap();
            assert_eq!(verifier.verify_at(&token, NOW_S), Ok(passport));
        }
        let token = signer.sign(&Passport::unrestricted("".into(), "x".into())).unwrap();
        verifier.verify(&token).unwrap();
    }
}

#[test]
fn the_public_key_is_what_other_tools_write() {
    for algorithm in [&rcgen::PKCS_ED25519, &rcgen::PKCS_ECDSA_P256_SHA256] {
        let pair = rcgen::KeyPair::generate_for(algorithm).unwrap();
        let signer = PassportSigner::from_pem(pair.serialize_pem().as_bytes()).unwrap();
        let squeeze = |pem: &str| pem.replace(['\r', '\n'], "");
        assert_eq!(squeeze(signer.public_pem()), squeeze(&pair.public_key_pem()));
    }
}

#[test]
fn several_keys_are_good_at_once() {
    let (old, new) = (signer(&rcgen::PKCS_ED25519), signer(&rcgen::PKCS_ECDSA_P256_SHA256));
    let token = |signer: &PassportSigner| signer.sign_at(&passport(), NOW_S).unwrap();
    let both = verifier(&[&old, &new]);
    assert!(both.verify_at(&token(&old), NOW_S).is_ok() && both.verify_at(&token(&new), NOW_S).is_ok());
    let only_new = PassportVerifier::from_pems(&[new.public_pem()], LEEWAY).unwrap();
    assert_eq!(only_new.verify_at(&token(&old), NOW_S), Err(TokenError::UnknownKey));
    let in_one_file = [old.public_pem(), new.public_pem()].concat();
    let both = PassportVerifier::from_pems(&[in_one_file], LEEWAY).unwrap();
    assert!(both.verify_at(&token(&old), NOW_S).is_ok());
}

#[test]
fn what_is_not_good_is_named() {
    let signer = signer(&rcgen::PKCS_ED25519);
    let verifier = verifier(&[&signer]);
    let token = signer.sign_at(&passport(), NOW_S).unwrap();
    let at_s = NOW_S + 60;
    assert!(verifier.verify_at(&token, at_s + 4).is_ok(), "within the leeway");
    assert_eq!(verifier.verify_at(&token, at_s + 5), Err(TokenError::Expired { at_s }));
    assert!(verifier.verify_at(&token, NOW_S - 5).is_ok(), "within the leeway");
    assert_eq!(verifier.verify_at(&token, NOW_S - 6), Err(TokenError::NotYet { at_s: NOW_S }));

    let mut forged = token.to_vec();
    let middle = forged.len() / 2;
    forged[middle] ^= 1;
    assert!(verifier.verify_at(&forged, NOW_S).is_err());
    // The header says another algorithm than the key's.
    let text = std::str::from_utf8(&token).unwrap();
    let (_, rest) = text.split_once('.').unwrap();
    let kid = signer.header.kid.clone();
    let other = Header { kid, ..Header::new(Algorithm::HS256) };
    let secret = EncodingKey::from_secret(signer.public_pem().as_bytes());
    let confused = jsonwebtoken::encode(&other, &serde_claims(&passport()), &secret).unwrap();
    assert_eq!(verifier.verify_at(confused.as_bytes(), NOW_S), Err(TokenError::BadSignature));
    for malformed in ["", ".", "..", "a.b.c", rest] {
        assert_eq!(verifier.verify_at(malformed.as_bytes(), NOW_S), Err(TokenError::Malformed));
    }
    let long = vec![b'.'; TOKEN_BYTES_MAX + 1];
    assert_eq!(verifier.verify_at(&long, NOW_S), Err(TokenError::TooLong { len: long.len() }));
    let passport = Passport { subject: "x".repeat(TOKEN_BYTES_MAX).into(), ..passport() };
    assert!(matches!(signer.sign_at(&passport, NOW_S), Err(TokenError::TooLong { .. })));
}

fn serde_claims(passport: &Passport) -> Issued<'_> {
    Issued {
        iss: "somebody",
        iat: NOW_S,
        exp: None,
        sub: &passport.subject,
        client_id: &passport.client_id,
        rules: &passport.rules,
        token_id: None,
        attributes: None,
        limits: None,
    }
}

#[test]
fn another_issuer_is_not_believed() {
    let signer = signer(&rcgen::PKCS_ED25519);
    let passport = passport();
    let token = jsonwebtoken::encode(&signer.header, &serde_claims(&passport), &signer.key).unwrap();
    let outcome = verifier(&[&signer]).verify_at(token.as_bytes(), NOW_S);
    assert_eq!(outcome, Err(TokenError::WrongIssuer));
}

#[test]
fn equal_rules_are_shared_and_few_are_remembered() {
    let signer = signer(&rcgen::PKCS_ED25519);
    let verifier = verifier(&[&signer]);
    let read = |topic: &str| {
        let rule = Rule::new(Effect::Allow, Action::All, vec![topic.into()]);
        let token = signer.sign_at(&Passport { rules: [rule].into(), ..passport() }, NOW_S).unwrap();
        verifier.verify_at(&token, NOW_S).unwrap().rules
    };
    let first = read("a");
    for topic in 0..SHARED_MAX - 1 {
        read(&topic.to_string());
    }
    assert!(Arc::ptr_eq(&first, &read("a")));
    assert_eq!(verifier.rules.lock().len(), SHARED_MAX);
    read("one more");
    assert!(Arc::ptr_eq(&first, &read("a")), "it was used last");
    assert_eq!(verifier.rules.lock().len(), SHARED_MAX);
}

#[test]
fn a_key_error_names_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key.pem");
    let missing = PassportSigner::from_file(&path).unwrap_err().to_string();
    assert!(missing.contains("key.pem"), "{missing}");
    let rsa_like = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    std::fs::write(&path, rsa_like.serialize_pem()).unwrap();
    let wrong = PassportSigner::from_file(&path).unwrap_err().to_string();
    assert!(wrong.contains("key.pem: holds no private key"), "{wrong}");
    let wrong = PassportVerifier::from_files(&[&path], LEEWAY).unwrap_err().to_string();
    assert!(wrong.contains("key.pem: holds no public key"), "{wrong}");
}

#[test]
fn secrets_are_not_shown() {
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let signer = PassportSigner::from_pem(pair.serialize_pem().as_bytes()).unwrap();
    let shown = format!("{signer:?}");
    assert!(shown.contains(signer.header.kid.as_ref().unwrap()) && !shown.contains("key:"), "{shown}");
}

#[test]
fn a_signed_passport_is_read_where_it_is_passed_on() {
    let signer = signer(&rcgen::PKCS_ED25519);
    let limits = Some(Arc::new(Limits { qos_max: Some(1), ..Limits::default() }));
    let attributes = Attributes::from([("site".into(), "north".into())]);
    let rules = [Rule::new(Effect::Ask, Action::All, vec!["#".into()])].into();
    let passport = Passport {
        token_id: Some("t-1".into()),
        attributes: Some(Arc::new(attributes)),
        rules,
        limits,
        ..passport()
    };
    let token = signer.sign_at(&passport, NOW_S).unwrap();
    let read = read_trusted(token.clone()).unwrap();
    assert_eq!(read, Passport { token: Some(PassportToken(token.clone())), ..passport.clone() });
    let shown = format!("{read:?}");
    assert!(!shown.contains(str::from_utf8(&token).unwrap()), "{shown}");
    assert_eq!(verifier(&[&signer]).verify_at(&token, NOW_S), Ok(passport));
    assert_eq!(read_trusted(Bytes::from_static(b"a.b.c")), Err(TokenError::Malformed));
    assert!(matches!(read_trusted(vec![b'a'; TOKEN_BYTES_MAX + 1].into()), Err(TokenError::TooLong { .. })));
}

#[test]
fn keys_can_be_replaced_while_tokens_are_verified() {
    let (old, new) = (signer(&rcgen::PKCS_ED25519), signer(&rcgen::PKCS_ED25519));
    let verifier = PassportVerifier::without_keys(LEEWAY);
    let tokens = [&old, &new].map(|signer| signer.sign_at(&passport(), NOW_S).unwrap());
    let good = |n: usize| verifier.verify_at(&tokens[n], NOW_S).is_ok();
    assert!(!good(0) && verifier.unknown_keys() == 1);
    let named = |signer: &PassportSigner| (signer.public_key().id(), signer.public_key().clone());
    verifier.trust([named(&old)]);
    assert!(good(0) && !good(1));
    verifier.trust([named(&old), named(&new)]);
    assert!(good(0) && good(1));
    verifier.trust([named(&new)]);
    assert!(!good(0) && good(1) && verifier.unknown_keys() == 3);
}

#[test]
fn a_derived_key_belongs_to_the_private_key_and_the_purpose() {
    let (one, other) = (signer(&rcgen::PKCS_ED25519), signer(&rcgen::PKCS_ED25519));
    assert_eq!(one.derive_key("a"), one.derive_key("a"));
    assert_ne!(one.derive_key("a"), one.derive_key("b"));
    assert_ne!(one.derive_key("a"), other.derive_key("a"));
}

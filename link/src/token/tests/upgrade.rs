//! Tokens between versions: edges and workers are upgraded one after the other, so that each reads what the other writes. The tokens
//! in `golden/` are of the first version whose passports are signed, and stay as they are. A claim that a version does not know
//! it passes over; a rule of which it does not know everything it refuses with the whole token, for what it would leave out may
//! be a denial.

use serde_json::{Value, json};

use super::*;
use crate::QosSet;

const KEY: &[u8] = include_bytes!("../golden/key.pem");
const FULL: &str = include_str!("../golden/full.jwt");
const LEAST: &str = include_str!("../golden/least.jwt");

fn golden_signer() -> PassportSigner {
    PassportSigner::from_pem(KEY).unwrap()
}

/// What the tokens say.
fn golden() -> [(&'static str, Passport); 2] {
    let mut publish = Rule::new(Effect::Allow, Action::Publish, vec!["plant/%u/#".into(), "to/%c".into()]);
    publish.qos = QosSet::of([mqtt::QoS::AtMostOnce, mqtt::QoS::AtLeastOnce]).unwrap();
    publish.retain = Some(false);
    let mut receive = Rule::new(Effect::Deny, Action::Receive, vec![]);
    receive.literal = vec!["a/+".into()];
    let subscribe = Rule::new(Effect::Allow, Action::Subscribe, vec!["#".into(), "$SYS/#".into()]);
    let all = Rule::new(Effect::Deny, Action::All, vec!["x".into()]);
    let rules = [publish, receive, subscribe, all];
    let full = Passport {
        expires_at_s: Some(NOW_S + 60),
        token_id: Some("t-1".into()),
        ..Passport::new("alice".into(), "pump-ü".into(), rules.into())
    };
    let least = Passport::new("".into(), "x".into(), [].into());
    [(FULL.trim(), full), (LEAST.trim(), least)]
}

#[test]
fn a_token_of_an_earlier_version_says_what_it_said() {
    let verifier = verifier(&[&golden_signer()]);
    for (token, passport) in golden() {
        let read = read_trusted(Bytes::from_static(token.as_bytes())).unwrap();
        assert_eq!(Passport { token: None, ..read }, passport);
        assert_eq!(verifier.verify_at(token.as_bytes(), NOW_S), Ok(passport));
    }
}

// Ed25519 signs the same the same way, so that every byte can be compared.
#[test]
fn what_an_earlier_version_could_say_is_written_as_it_wrote_it() {
    for (token, passport) in golden() {
        let written = golden_signer().sign_at(&passport, NOW_S).unwrap();
        assert_eq!(str::from_utf8(&written).unwrap(), token, "{passport:?}");
    }
}

/// A token of the golden key with `claims` beside those of `FULL`, and `more` in its first rule.
fn of_a_later_version(claims: &Value, more: &Value) -> Bytes {
    let mut all: Value = jsonwebtoken::dangerous::insecure_decode_claims(FULL.trim().as_bytes()).unwrap();
    let added = |to: &mut Value, from: &Value| {
        from.as_object().unwrap().iter().for_each(|(name, value)| to[name] = value.clone());
    };
    added(&mut all["rules"][0], more);
    added(&mut all, claims);
    let signer = golden_signer();
    jsonwebtoken::encode(&signer.header, &all, &signer.key).unwrap().into()
}

#[test]
fn a_claim_of_a_later_version_is_passed_over() {
    let later = of_a_later_version(&json!({"shoe_size": {"left": 43}, "nbf": 1, "aud": ["x"]}), &json!({}));
    let [(_, full), _] = golden();
    assert_eq!(verifier(&[&golden_signer()]).verify_at(&later, NOW_S), Ok(full));
    assert!(read_trusted(later).is_ok());
}

#[test]
fn a_rule_of_a_later_version_is_refused_with_its_token() {
    let verifier = verifier(&[&golden_signer()]);
    for more in [
        json!({"weekday": "sunday"}),
        json!({"effect": "perhaps"}),
        json!({"action": "unsubscribe"}),
        json!({"qos": [0, 3]}),
        json!({"topics": null}),
    ] {
        let later = of_a_later_version(&json!({}), &more);
        assert_eq!(verifier.verify_at(&later, NOW_S), Err(TokenError::Malformed), "{more}");
        assert_eq!(read_trusted(later), Err(TokenError::Malformed), "{more}");
    }
}

#[test]
fn a_token_without_what_each_has_is_none() {
    let [(_, full), _] = golden();
    let verifier = verifier(&[&golden_signer()]);
    for claim in ["iss", "iat", "sub", "client_id", "rules"] {
        let later = of_a_later_version(&json!({ claim: null }), &json!({}));
        assert_eq!(verifier.verify_at(&later, NOW_S), Err(TokenError::Malformed), "{claim}");
    }
    let without = of_a_later_version(&json!({"exp": null, "token_id": null}), &json!({}));
    let expected = Passport { expires_at_s: None, token_id: None, ..full };
    assert_eq!(verifier.verify_at(&without, NOW_S), Ok(expected));
}

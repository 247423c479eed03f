//! Tokens beside passwords, and as an Authentication Method.

use super::*;
use crate::{
    AuthConfig, Authenticator, AuthorizationConfig, Decision, Editor, Exchange, Local, SourceName, Step,
};

fn local(files: &Files, jwt: JwtConfig, sources: Option<Vec<SourceName>>) -> Local {
    let path = files.0.path().join("users");
    let mut editor = Editor::open(&path).unwrap();
    for user in ["alice", "pump-7"] {
        editor.set(user, b"secret", None).unwrap();
    }
    editor.save().unwrap();
    let config = AuthConfig {
        password_file: Some(path),
        jwt: Some(jwt),
        sources,
        hash_threads: Some(1),
        ..AuthConfig::default()
    };
    Local::start(&config, &AuthorizationConfig::default(), &mut Registry::default()).unwrap()
}

fn good() -> String {
    sign(Algorithm::ES256, None, &claims(), &p256().signing)
}

fn expired() -> String {
    sign(Algorithm::ES256, None, &with(&json!({"exp": 1})), &p256().signing)
}

async fn decided(auth: &Local, username: Option<&str>, password: &str) -> Result<String, DenyReason> {
    let request = Request {
        username: username.map(Arc::from),
        password: Some(password.to_owned().into()),
        ..request()
    };
    match auth.authenticate(request).await {
        Decision::Allow(passport) => Ok(passport.subject.to_string()),
        Decision::Deny(reason) => Err(reason),
    }
}

#[tokio::test]
async fn passwords_and_tokens_live_side_by_side() {
    let files = Files::new();
    let orders = [None, Some(vec![SourceName::Jwt, SourceName::PasswordFile])];
    for order in orders {
        let auth = local(&files, files.config(), order);
        assert_eq!(decided(&auth, Some("alice"), "secret").await.unwrap(), "alice");
        assert_eq!(decided(&auth, Some("alice"), "wrong").await, Err(DenyReason::BadCredentials));
        assert_eq!(decided(&auth, Some("nobody"), "secret").await, Err(DenyReason::BadCredentials));
        assert_eq!(decided(&auth, None, &good()).await.unwrap(), "pump-7");
        assert_eq!(decided(&auth, Some("whoever"), &good()).await.unwrap(), "pump-7");
        assert_eq!(decided(&auth, None, &expired()).await, Err(DenyReason::BadCredentials));
    }
    let off = JwtConfig { password: false, method: Some("JWT".into()), ..files.config() };
    let auth = local(&files, off, None);
    assert_eq!(decided(&auth, None, &good()).await, Err(DenyReason::BadCredentials));
}

#[tokio::test]
async fn a_token_may_be_the_data_of_a_method() {
    let files = Files::new();
    let auth = local(&files, JwtConfig { method: Some("JWT".into()), ..files.config() }, None);
    assert!(auth.begin("jwt", request()).is_none(), "methods are compared as they stand");
    let mut exchange = auth.begin("JWT", request()).unwrap();
    let Step::Done(passport, None) = exchange.step(Some(good().as_bytes())).await else {
        panic!("not let in")
    };
    assert_eq!(&*passport.subject, "pump-7");
    assert!(passport.expires_at_s.is_some());
    let again = exchange.step(Some(good().as_bytes())).await;
    assert_eq!(again, Step::Deny(DenyReason::NotAuthorized), "an exchange ends once");

    let mut late = auth.begin("JWT", request()).unwrap();
    assert_eq!(late.step(None).await, Step::Continue(Bytes::new()));
    assert!(matches!(late.step(Some(good().as_bytes())).await, Step::Done(..)));

    for refused in [expired(), "secret".to_owned(), String::new()] {
        let mut exchange = auth.begin("JWT", request()).unwrap();
        if refused.is_empty() {
            exchange.step(None).await;
        }
        let step = exchange.step(Some(refused.as_bytes())).await;
        assert_eq!(step, Step::Deny(DenyReason::BadCredentials), "{refused}");
    }
    let without = local(&files, files.config(), None);
    assert!(without.begin("JWT", request()).is_none());
}

#[tokio::test]
async fn rules_and_end_of_a_token_are_those_of_the_passport() {
    let files = Files::new();
    let mut config = files.config();
    config.claims.rules_claim = Some("acl".to_owned());
    let auth = local(&files, config, None);
    let rule = json!({"effect": "allow", "action": "publish", "topics": ["up/%u"]});
    let ends_at_s = now_s() + 60;
    let claims = with(&json!({"acl": [rule], "exp": ends_at_s}));
    let token = sign(Algorithm::EdDSA, None, &claims, &ed25519().signing);
    let Decision::Allow(passport) =
        auth.authenticate(Request { password: Some(token.into()), ..request() }).await
    else {
        panic!("not let in")
    };
    assert_eq!(passport.expires_at_s, Some(ends_at_s + 30));
    let topics: Vec<_> = passport.rules.iter().flat_map(|rule| rule.topics.iter().cloned()).collect();
    assert_eq!(topics, [Arc::from("up/%u")]);
}

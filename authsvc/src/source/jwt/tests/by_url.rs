//! Keys at a URL that are rotated, slow, broken or away.

use std::sync::atomic::{AtomicUsize, Ordering};

use hyper::Response;
use jsonwebtoken::jwk::Jwk;
use parking_lot::Mutex;

use super::*;
use crate::HttpClientConfig;
use crate::eventually::until;
use crate::http_client::server::{Server, answer};

/// What a server answers, and how often it was asked.
#[derive(Clone)]
struct Place {
    answer: Arc<Mutex<Answer>>,
    asked: Arc<AtomicUsize>,
}

#[derive(Clone)]
enum Answer {
    Body(u16, String),
    Never,
}

impl Place {
    fn new(answer: Answer) -> Self {
        Self { answer: Arc::new(Mutex::new(answer)), asked: Arc::default() }
    }

    fn set(&self, answer: Answer) {
        *self.answer.lock() = answer;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    async fn serve(&self) -> Server {
        let place = self.clone();
        Server::start(move |_| {
            let place = place.clone();
            async move {
                place.asked.fetch_add(1, Ordering::SeqCst);
                let answered = place.answer.lock().clone();
                match answered {
                    Answer::Body(status, body) => answer(status, "application/json", body),
                    Answer::Never => std::future::pending::<Response<Bytes>>().await,
                }
            }
        })
        .await
    }
}

fn jwk(pair: &Pair, algorithm: Algorithm, kid: &str) -> Value {
    if algorithm == Algorithm::EdDSA {
        let der = files::pem::sections(pair.public_pem.as_bytes(), files::pem::Kind::PublicKey)
            .unwrap()
            .remove(0)
            .der;
        let x = URL_SAFE_NO_PAD.encode(&der[der.len() - 32..]);
        return json!({"kty": "OKP", "crv": "Ed25519", "x": x, "kid": kid, "use": "sig"});
    }
    let mut jwk = Jwk::from_encoding_key(&pair.signing, algorithm).unwrap();
    jwk.common.key_id = Some(kid.to_owned());
    serde_json::to_value(jwk).unwrap()
}

fn set(keys: &[Value]) -> Answer {
    Answer::Body(200, json!({"keys": keys}).to_string())
}

fn config(url: String) -> JwtConfig {
    JwtConfig {
        jwks_url: Some(url),
        audience: Some(vec!["mqtt".to_owned()]),
        issuer: Some(vec!["https://id.example".to_owned()]),
        refresh_interval_min_s: 1,
        http: HttpClientConfig { timeout_ms: 300, ..HttpClientConfig::default() },
        ..JwtConfig::default()
    }
}

fn token(pair: &Pair, algorithm: Algorithm, kid: &str) -> String {
    sign(algorithm, Some(kid), &claims(), &pair.signing)
}

/// Shows the token until it is good.
async fn until_good(source: &JwtSource, token: &str) {
    until("the token is good", async || granted(source, token).await.is_ok()).await;
}

/// Shows the token, which is refused so, until its keys were asked for once more.
async fn until_asked(place: &Place, source: &JwtSource, token: &str, problem: TokenProblem) {
    let before = place.asked();
    let is_asked = async || {
        assert_eq!(granted(source, token).await, Err(problem.clone()));
        place.asked() > before
    };
    until("keys are asked for", is_asked).await;
}

#[tokio::test]
async fn the_first_token_waits_for_the_keys() {
    let keys = [
        jwk(rsa(), Algorithm::RS256, "one"),
        jwk(p256(), Algorithm::ES256, "two"),
        jwk(p384(), Algorithm::ES384, "three"),
        jwk(ed25519(), Algorithm::EdDSA, "four"),
    ];
    let place = Place::new(set(&keys));
    let server = place.serve().await;
    let source = start(&config(server.url("/keys")));
    assert!(granted(&source, &token(p256(), Algorithm::ES256, "two")).await.is_ok());
    assert!(granted(&source, &token(p384(), Algorithm::ES384, "three")).await.is_ok());
    assert!(granted(&source, &token(ed25519(), Algorithm::EdDSA, "four")).await.is_ok());
    assert!(granted(&source, &token(rsa(), Algorithm::RS256, "one")).await.is_ok());
    let other = granted(&source, &token(rsa(), Algorithm::RS512, "one")).await;
    assert_eq!(other, Err(TokenProblem::Algorithm), "the set says which");
    let swapped = granted(&source, &token(p256(), Algorithm::ES256, "one")).await;
    assert_eq!(swapped, Err(TokenProblem::Algorithm));
    assert_eq!(place.asked(), 1);
}

#[tokio::test]
async fn a_key_that_is_new_is_fetched_when_a_token_names_it() {
    let place = Place::new(set(&[jwk(p256(), Algorithm::ES256, "old")]));
    let server = place.serve().await;
    let source = start(&config(server.url("/keys")));
    assert!(granted(&source, &token(p256(), Algorithm::ES256, "old")).await.is_ok());
    place.set(set(&[jwk(ed25519(), Algorithm::EdDSA, "new")]));
    until_good(&source, &token(ed25519(), Algorithm::EdDSA, "new")).await;
    assert_eq!(place.asked(), 2);
    let gone = granted(&source, &token(p256(), Algorithm::ES256, "old")).await;
    assert_eq!(gone, Err(TokenProblem::UnknownKey), "what is no longer in the set");
}

#[tokio::test]
async fn who_invents_keys_does_not_have_them_fetched_again_and_again() {
    let place = Place::new(set(&[jwk(p256(), Algorithm::ES256, "old")]));
    let server = place.serve().await;
    let patient = JwtConfig { refresh_interval_min_s: 3600, ..config(server.url("/keys")) };
    let source = start(&patient);
    for n in 0..100 {
        // A name that is a place is a name.
        for kid in [format!("invented-{n}"), server.url("/other"), "../../etc/passwd".to_owned()] {
            let found = granted(&source, &token(ed25519(), Algorithm::EdDSA, &kid)).await;
            assert_eq!(found, Err(TokenProblem::UnknownKey));
        }
    }
    assert_eq!(place.asked(), 1);
}

#[tokio::test]
async fn keys_stay_in_force_whatever_becomes_of_their_place() {
    let place = Place::new(set(&[jwk(p256(), Algorithm::ES256, "kept")]));
    let server = place.serve().await;
    let source = start(&config(server.url("/keys")));
    let kept = token(p256(), Algorithm::ES256, "kept");
    assert!(granted(&source, &kept).await.is_ok());
    let secret = json!({"kty": "oct", "kid": "kept", "k": URL_SAFE_NO_PAD.encode(SECRET)});
    let unusable = json!({"kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA"});
    let encryption =
        json!({"use": "enc", "kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode([1; 32])});
    let broken = [
        Answer::Body(200, "<html>Sign in</html>".to_owned()),
        set(&[]),
        set(&[unusable, encryption, secret, json!(7)]),
        set(&vec![jwk(p256(), Algorithm::ES256, "many"); 257]),
        Answer::Body(500, json!({"keys": [jwk(ed25519(), Algorithm::EdDSA, "x")]}).to_string()),
        Answer::Body(302, String::new()),
        Answer::Body(200, "x".repeat(100_000)),
        Answer::Never,
    ];
    for answer in broken {
        place.set(answer);
        let unknown = token(ed25519(), Algorithm::EdDSA, "x");
        until_asked(&place, &source, &unknown, TokenProblem::UnknownKey).await;
        assert!(granted(&source, &kept).await.is_ok());
    }
    let published = sign(Algorithm::HS256, Some("kept"), &claims(), &EncodingKey::from_secret(SECRET));
    assert_eq!(granted(&source, &published).await, Err(TokenProblem::Algorithm));
    drop(server);
    assert!(granted(&source, &kept).await.is_ok());
}

#[tokio::test]
async fn without_keys_nobody_is_decided_about() {
    let place = Place::new(Answer::Body(503, String::new()));
    let server = place.serve().await;
    let config = config(server.url("/keys"));
    let token = token(p256(), Algorithm::ES256, "one");
    let request = Request { password: Some(token.clone().into()), ..request() };
    let source = start(&config);
    assert_eq!(source.decide(&request).await, Verdict::Deny(DenyReason::Unavailable));
    let lax = start(&JwtConfig { when_away: WhenAway::Ignore, ..config });
    assert_eq!(lax.decide(&request).await, Verdict::Ignore);
    place.set(set(&[jwk(p256(), Algorithm::ES256, "one")]));
    until_good(&source, &token).await;
}

#[tokio::test]
async fn an_issuer_says_where_its_keys_are() {
    let place = Place::new(set(&[jwk(p256(), Algorithm::ES256, "one")]));
    let keys = place.serve().await;
    let discovery = Place::new(Answer::Body(404, String::new()));
    let server = discovery.serve().await;
    let issuer = server.url("/realm");
    let config = JwtConfig {
        jwks_url: None,
        issuer: None,
        oidc_issuer: Some(issuer.clone()),
        ..config(String::new())
    };
    let source = start(&config);
    let claims = with(&json!({"iss": issuer}));
    let token = sign(Algorithm::ES256, Some("one"), &claims, &p256().signing);
    let document = |issuer: &str| {
        Answer::Body(200, json!({"issuer": issuer, "jwks_uri": keys.url("/keys"), "more": []}).to_string())
    };
    for wrong in [
        Answer::Body(200, "<html>".to_owned()),
        document("https://id.example"),
        Answer::Body(200, "{}".to_owned()),
    ] {
        discovery.set(wrong);
        until_asked(&discovery, &source, &token, TokenProblem::NoKeys).await;
    }
    assert_eq!(place.asked(), 0);
    discovery.set(document(&issuer));
    until_good(&source, &token).await;
    let other = sign(Algorithm::ES256, Some("one"), &with(&json!({})), &p256().signing);
    assert_eq!(
        granted(&source, &other).await,
        Err(TokenProblem::Issuer),
        "the issuer is the one that was asked"
    );
}

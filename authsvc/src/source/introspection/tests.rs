//! Tokens against a server that answers as RFC 7662 says, or not at all.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use hyper::Response;
use mqtt::ProtocolVersion;
use prometheus_client::registry::Registry;
use serde_json::json;

use super::*;
use crate::http_client::server::{Server, answer};
use crate::{Certificate, HttpClientConfig};

/// An authorization server that knows some tokens.
#[derive(Clone)]
struct Authority {
    tokens: Arc<Mutex<HashMap<String, Value>>>,
    /// What it answers whatever it is asked; status 0: nothing.
    broken: Arc<Mutex<Option<(u16, String)>>>,
    /// Bodies of the questions that it knew the client of.
    asked: Arc<Mutex<Vec<String>>>,
    refused: Arc<AtomicUsize>,
    delay: Duration,
}

impl Authority {
    fn new() -> Self {
        Self {
            tokens: Arc::default(),
            broken: Arc::default(),
            asked: Arc::default(),
            refused: Arc::default(),
            delay: Duration::ZERO,
        }
    }

    fn knows(&self, token: &str, answer: &Value) {
        self.tokens.lock().insert(token.to_owned(), answer.clone());
    }

    fn breaks(&self, status: u16, body: &str) {
        *self.broken.lock() = Some((status, body.to_owned()));
    }

    fn asked(&self) -> usize {
        self.asked.lock().len()
    }

    async fn serve(&self) -> Server {
        let authority = self.clone();
        Server::start(move |request| authority.clone().answer(request)).await
    }

    async fn answer(self, request: hyper::Request<Bytes>) -> Response<Bytes> {
        let body = String::from_utf8(request.body().to_vec()).unwrap();
        let field = |name: &str| {
            let fields = form_urlencoded::parse(body.as_bytes());
            fields.into_iter().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
        };
        let basic = request.headers().get("authorization").map(|value| value.to_str().unwrap());
        // base64 of "tide+gate:s%3Acret+%2B", RFC 6749 section 2.3.1.
        let by_basic = basic == Some("Basic dGlkZStnYXRlOnMlM0FjcmV0KyUyQg==");
        let by_post = basic.is_none()
            && field("client_id").as_deref() == Some("tide gate")
            && field("client_secret").as_deref() == Some("s:cret +");
        assert_eq!(request.headers()["content-type"], "application/x-www-form-urlencoded");
        if !by_basic && !by_post {
            self.refused.fetch_add(1, Ordering::SeqCst);
            return answer(401, "application/json", "{}");
        }
        self.asked.lock().push(body.clone());
        tokio::time::sleep(self.delay).await;
        let broken = self.broken.lock().clone();
        match broken {
            Some((0, _)) => std::future::pending().await,
            Some((status, body)) => answer(status, "application/json", body),
            None => {
                let token = field("token").unwrap();
                let known = self.tokens.lock().get(&token).cloned().unwrap_or(json!({"active": false}));
                answer(200, "application/json", known.to_string())
            }
        }
    }
}

struct Setting {
    authority: Authority,
    server: Server,
    dir: tempfile::TempDir,
}

impl Setting {
    async fn new() -> Self {
        Self::of(Authority::new()).await
    }

    async fn of(authority: Authority) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("secret"), "s:cret +\n").unwrap();
        Self { server: authority.serve().await, authority, dir }
    }

    fn config(&self) -> IntrospectionConfig {
        IntrospectionConfig {
            url: self.server.url("/introspect"),
            client_id: "tide gate".to_owned(),
            client_secret_file: self.dir.path().join("secret"),
            http: HttpClientConfig { timeout_ms: 300, ..HttpClientConfig::default() },
            ..IntrospectionConfig::default()
        }
    }
}

fn start(config: &IntrospectionConfig) -> IntrospectionSource {
    let context = SourceContext {
        metrics: Metrics::register(&mut Registry::default()),
        slow_down: Arc::new(SlowDown::new(3, Duration::from_secs(3600), 100)),
    };
    IntrospectionSource::start(config, &context).unwrap()
}

fn request(token: &str) -> Request {
    Request {
        client_id: "device".into(),
        username: None,
        password: Some(Bytes::copy_from_slice(token.as_bytes())),
        peer: ([192, 0, 2, 1], 40_000).into(),
        is_local: false,
        listener: "mqtt".into(),
        certificate: None,
        protocol: ProtocolVersion::V5,
        clean_start: true,
    }
}

fn good() -> Value {
    json!({"active": true, "sub": "pump-7", "exp": now_s() + 60, "aud": ["mqtt", "web"]})
}

async fn subject(source: &IntrospectionSource, request: Request) -> Result<String, Verdict> {
    match source.decide(&request).await {
        Verdict::Allow(grant) => Ok(grant.subject.to_string()),
        verdict => Err(verdict),
    }
}

const DENIED: Verdict = Verdict::Deny(DenyReason::BadCredentials);
const AWAY: Verdict = Verdict::Deny(DenyReason::Unavailable);

#[tokio::test]
async fn a_token_is_asked_about_once_in_its_time() {
    let setting = Setting::new().await;
    let ends_at_s = now_s() + 60;
    setting.authority.knows("a+b&c =", &json!({"active": true, "sub": "pump-7", "exp": ends_at_s}));
    let source = start(&setting.config());
    for _ in 0..3 {
        let Verdict::Allow(grant) = source.decide(&request("a+b&c =")).await else { panic!("not let in") };
        assert_eq!((&*grant.subject, grant.expires_at_s), ("pump-7", Some(ends_at_s)));
        assert_eq!(source.decide(&request("guess")).await, DENIED);
    }
    let asked = setting.authority.asked.lock().clone();
    let expected =
        ["a%2Bb%26c+%3D", "guess"].map(|token| format!("token={token}&token_type_hint=access_token"));
    assert_eq!(asked, expected);

    let forgetful = IntrospectionConfig { cache_ttl_s: 0, negative_ttl_s: 0, ..setting.config() };
    let source = start(&forgetful);
    for _ in 0..2 {
        assert_eq!(subject(&source, request("a+b&c =")).await.unwrap(), "pump-7");
        assert_eq!(source.decide(&request("guess")).await, DENIED);
    }
    assert_eq!(setting.authority.asked(), 6);
}

#[tokio::test]
async fn many_who_come_with_one_token_ask_one_question() {
    let setting = Setting::of(Authority { delay: Duration::from_millis(100), ..Authority::new() }).await;
    setting.authority.knows("shared", &good());
    let source = Arc::new(start(&setting.config()));
    // Who asked first does not wait for the answer.
    let hurried = request("shared");
    assert!(tokio::time::timeout(Duration::from_millis(20), source.decide(&hurried)).await.is_err());
    let all: Vec<_> = (0..100)
        .map(|_| {
            let source = source.clone();
            tokio::spawn(async move { subject(&source, request("shared")).await })
        })
        .collect();
    for one in all {
        assert_eq!(one.await.unwrap().unwrap(), "pump-7");
    }
    assert_eq!(setting.authority.asked(), 1);
    assert!(source.inner.asking.lock().is_empty());
}

#[tokio::test]
async fn an_answer_that_lets_nobody_in_is_a_denial() {
    let setting = Setting::new().await;
    let bound = json!({"x5t#S256": "AP8"});
    let cases = [
        ("inactive", json!({"active": false, "sub": "x"}), false),
        ("expired", json!({"exp": now_s()}), false),
        ("not yet", json!({"nbf": now_s() + 60}), false),
        ("for another", json!({"aud": "mail"}), false),
        ("for nobody", json!({"aud": null}), false),
        ("nameless", json!({"sub": ""}), false),
        ("bound", json!({"cnf": bound}), false),
        ("bound somehow", json!({"cnf": "AP8"}), false),
        ("for us", json!({"aud": "mqtt"}), true),
        ("without end", json!({"exp": null}), true),
    ];
    for (token, changes, is_let_in) in cases {
        let mut known = good();
        changes.as_object().unwrap().iter().for_each(|(name, value)| known[name] = value.clone());
        setting.authority.knows(token, &known);
        let source = start(&IntrospectionConfig { audience: vec!["mqtt".to_owned()], ..setting.config() });
        let verdict = source.decide(&request(token)).await;
        assert_eq!(matches!(verdict, Verdict::Allow(_)), is_let_in, "{token}: {verdict:?}");
        assert!(is_let_in || verdict == DENIED, "{token}: {verdict:?}");
        if token == "bound" {
            let certificate = Certificate {
                subject: "x".into(),
                distinguished_name: "CN=x".into(),
                alternative_names: vec![],
                fingerprint: "00ff".into(),
            };
            let with = Request { certificate: Some(Arc::new(certificate)), ..request(token) };
            assert_eq!(
                subject(&source, with).await.unwrap(),
                "pump-7",
                "the same answer, with its certificate"
            );
        }
    }
}

#[tokio::test]
async fn what_may_not_be_a_token_is_left_to_others() {
    let setting = Setting::new().await;
    setting.authority.knows("token", &good());
    let source = start(&setting.config());
    let none = Request { password: None, ..request("") };
    for other in [none, request(""), request("schlüssel"), request(&"x".repeat(16_385))] {
        assert_eq!(source.decide(&other).await, Verdict::Ignore);
    }
    let named = start(&IntrospectionConfig { username: Some("token".into()), ..setting.config() });
    let as_user = |name: &str| Request { username: Some(name.into()), ..request("token") };
    assert_eq!(named.decide(&request("token")).await, Verdict::Ignore);
    assert_eq!(named.decide(&as_user("alice")).await, Verdict::Ignore);
    assert_eq!(setting.authority.asked(), 0, "nobody's password is shown to the server");
    assert_eq!(subject(&named, as_user("token")).await.unwrap(), "pump-7");
    let lax = IntrospectionConfig { when_inactive: WhenInactive::Ignore, ..setting.config() };
    assert_eq!(start(&lax).decide(&request("guess")).await, Verdict::Ignore);
    let mut strict = setting.config();
    strict.claims.username_must_match = true;
    let strict = start(&strict);
    assert_eq!(strict.decide(&as_user("alice")).await, DENIED);
    assert_eq!(subject(&strict, as_user("pump-7")).await.unwrap(), "pump-7");
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_no_denial() {
    let setting = Setting::new().await;
    setting.authority.knows("known", &good());
    let source = start(&setting.config());
    assert!(subject(&source, request("known")).await.is_ok());
    let broken = [
        (500, "{\"active\": true, \"sub\": \"x\"}"),
        (302, ""),
        (200, "<html>"),
        (200, "{}"),
        (200, "{\"active\": \"true\", \"sub\": \"x\"}"),
        (200, "[]"),
        (0, ""),
    ];
    for (status, body) in broken {
        setting.authority.breaks(status, body);
        assert_eq!(source.decide(&request("unknown")).await, AWAY, "{status} {body}");
        assert!(subject(&source, request("known")).await.is_ok(), "what is known stays so");
    }
    *setting.authority.broken.lock() = None;
    setting.authority.knows("unknown", &good());
    assert!(subject(&source, request("unknown")).await.is_ok(), "nothing of it was kept");
    let config = setting.config();
    drop(setting.server);
    assert_eq!(start(&config).decide(&request("known")).await, AWAY);
    let lax = IntrospectionConfig { when_away: WhenAway::Ignore, ..config };
    assert_eq!(start(&lax).decide(&request("known")).await, Verdict::Ignore);
}

#[tokio::test]
async fn the_client_shows_who_it_is_in_either_way() {
    let setting = Setting::new().await;
    setting.authority.knows("token", &good());
    for client_authentication in [ClientAuthentication::Basic, ClientAuthentication::Post] {
        let source = start(&IntrospectionConfig { client_authentication, ..setting.config() });
        assert!(subject(&source, request("token")).await.is_ok(), "{client_authentication:?}");
    }
    let other = IntrospectionConfig { client_id: "other".to_owned(), ..setting.config() };
    assert_eq!(start(&other).decide(&request("token")).await, AWAY);
    assert_eq!(setting.authority.refused.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn who_guesses_tokens_is_slowed_down_and_others_are_not() {
    let setting = Setting::new().await;
    setting.authority.knows("token", &good());
    let source = start(&setting.config());
    for n in 0..3 {
        assert_eq!(source.decide(&request(&format!("guess{n}"))).await, DENIED);
    }
    assert_eq!(source.decide(&request("guess4")).await, Verdict::Deny(DenyReason::SlowedDown));
    assert_eq!(setting.authority.asked(), 3, "what is slowed down is not asked");
    let other = Request { client_id: "another".into(), ..request("token") };
    assert!(subject(&source, other).await.is_ok());
}

#[test]
fn settings_that_cannot_work_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "s\n").unwrap();
    let whole = IntrospectionConfig {
        url: "https://id.example/introspect".to_owned(),
        client_id: "tidegate".to_owned(),
        client_secret_file: secret.clone(),
        ..IntrospectionConfig::default()
    };
    IntrospectionSource::check(&whole).unwrap();
    let base = || whole.clone();
    let empty = dir.path().join("empty");
    std::fs::write(&empty, "\n").unwrap();
    let cases = [
        (IntrospectionConfig::default(), "url must be the introspection endpoint".to_owned()),
        (
            IntrospectionConfig { client_id: String::new(), ..base() },
            "client_id must be set: who asks".to_owned(),
        ),
        (
            IntrospectionConfig { cache_ttl_s: 86_401, ..base() },
            "cache_ttl_s = 86401: must be at most 86400".to_owned(),
        ),
        (
            IntrospectionConfig { url: "http://id.example/".to_owned(), ..base() },
            "url must begin with https:// (or set allow_plain = true: others can read along)".to_owned(),
        ),
        (
            IntrospectionConfig { client_secret_file: empty.clone(), ..base() },
            format!("client_secret_file {}: is empty", empty.display()),
        ),
    ];
    for (config, expected) in cases {
        let error = IntrospectionSource::check(&config).unwrap_err().to_string();
        assert_eq!(error, format!("auth.introspection.{expected}"));
    }
}

//! The source against an endpoint that is well, slow, failing, hanging and back again: who waits how long for what.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::Instant;

use bytes::Bytes;
use hyper::Response;
use mqtt::ProtocolVersion;
use prometheus_client::registry::Registry;
use tokio::task::JoinSet;

use super::*;
use crate::DenyReason;
use crate::eventually::until;
use crate::http_client::server::{Server, answer};
use crate::metrics::Metrics;
use crate::slowdown::SlowDown;
use crate::verdict::Grant;
use crate::{AuthConfig, Authenticator as _, AuthorizationConfig, Decision, Local};

/// How the endpoint is.
const WELL: u8 = 0;
const SLOW: u8 = 1;
const FAILING: u8 = 2;
const HANGING: u8 = 3;

/// An endpoint that lets in everybody whose password is `right`.
struct Endpoint {
    server: Server,
    condition: Arc<AtomicU8>,
    asked: Arc<AtomicUsize>,
}

impl Endpoint {
    async fn start() -> Self {
        let (condition, asked) = (Arc::new(AtomicU8::new(WELL)), Arc::new(AtomicUsize::new(0)));
        let (is, counted) = (condition.clone(), asked.clone());
        let server = Server::start(move |request| {
            let (is, counted) = (is.clone(), counted.clone());
            async move {
                counted.fetch_add(1, Ordering::SeqCst);
                match is.load(Ordering::SeqCst) {
                    SLOW => tokio::time::sleep(Duration::from_millis(200)).await,
                    FAILING => return answer(500, "text/plain", ""),
                    HANGING => std::future::pending().await,
                    _ => {}
                }
                judge(request.body())
            }
        })
        .await;
        Self { server, condition, asked }
    }

    fn is(&self, condition: u8) {
        self.condition.store(condition, Ordering::SeqCst);
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn source(&self, more: &str) -> (Arc<HttpSource>, Registry) {
        let settings =
            format!("contract = 'mosquitto-go-auth'\nurl = '{}'\n{more}", self.server.url("/user"));
        let config: HttpConfig = toml::from_str(&settings).unwrap();
        let mut registry = Registry::default();
        let context = SourceContext {
            metrics: Metrics::register(&mut registry),
            slow_down: Arc::new(SlowDown::new(10, Duration::from_secs(10), 10_000)),
        };
        (Arc::new(HttpSource::start(&config, &context).unwrap()), registry)
    }
}

fn judge(body: &[u8]) -> Response<Bytes> {
    let asked: serde_json::Value = serde_json::from_slice(body).unwrap();
    answer(if asked["password"] == "right" { 200 } else { 401 }, "text/plain", "")
}

fn request(user: &str, password: &'static str) -> Request {
    Request {
        client_id: "c".into(),
        username: Some(user.into()),
        password: Some(Bytes::from_static(password.as_bytes())),
        peer: "127.0.0.1:4711".parse().unwrap(),
        is_local: true,
        listener: "mqtt".into(),
        certificate: None,
        protocol: ProtocolVersion::V311,
        clean_start: true,
    }
}

fn allow(user: &str) -> Verdict {
    Verdict::Allow(Grant::of(user.into()))
}

const UNAVAILABLE: Verdict = Verdict::Deny(DenyReason::Unavailable);
const WRONG: Verdict = Verdict::Deny(DenyReason::BadCredentials);

fn is_open(registry: &Registry) -> bool {
    testkit::metrics::text(registry).contains("tidegate_auth_breaker_open{source=\"http\"} 1")
}

/// Waits until the breaker is as it should be, and says how long that took.
async fn until_open(registry: &Registry, open: bool) -> Duration {
    let begun = Instant::now();
    until(&format!("the breaker is open: {open}"), async || is_open(registry) == open).await;
    begun.elapsed()
}

#[tokio::test]
async fn answers_are_remembered_and_equal_questions_asked_once() {
    let endpoint = Endpoint::start().await;
    endpoint.is(SLOW);
    let (source, _registry) = endpoint.source("");
    let mut all = JoinSet::new();
    for _ in 0..100 {
        let source = source.clone();
        all.spawn(async move { source.decide(&request("alice", "right")).await });
    }
    assert!(all.join_all().await.into_iter().all(|verdict| verdict == allow("alice")));
    assert_eq!(endpoint.asked(), 1);
    for _ in 0..2 {
        assert_eq!(source.decide(&request("alice", "wrong")).await, WRONG);
        assert_eq!(source.decide(&request("alice", "right")).await, allow("alice"));
    }
    assert_eq!(endpoint.asked(), 2, "each password once");
}

#[tokio::test]
async fn nothing_is_remembered_where_that_is_said() {
    let endpoint = Endpoint::start().await;
    let (source, _registry) = endpoint.source("cache = { allowed_ttl_s = 0, denied_ttl_s = 0 }");
    for n in 1..=3 {
        assert_eq!(source.decide(&request("alice", "right")).await, allow("alice"));
        assert_eq!(endpoint.asked(), n);
    }
}

#[tokio::test]
async fn who_guesses_is_slowed_down_and_alone() {
    let endpoint = Endpoint::start().await;
    let (source, _registry) = endpoint.source("");
    let mut verdicts = Vec::new();
    for n in 0..20 {
        let password: &'static str = Box::leak(format!("guess-{n}").into_boxed_str());
        verdicts.push(source.decide(&request("alice", password)).await);
    }
    assert_eq!(verdicts.iter().filter(|verdict| **verdict == WRONG).count(), 10, "{verdicts:?}");
    assert_eq!(verdicts.last(), Some(&Verdict::Deny(DenyReason::SlowedDown)));
    assert_eq!(source.decide(&request("bob", "right")).await, allow("bob"));
}

#[tokio::test]
async fn a_wrong_password_counts_whatever_the_contract_calls_it() {
    for (contract, status, said) in [
        ("emqx5", 200, r#"{"result": "deny"}"#),
        ("emqx5", 200, r#"{"result": "ignore"}"#),
        ("emqx5", 401, ""),
        ("emqx4", 401, ""),
        ("emqx4", 403, ""),
        ("emqx4", 200, "ignore"),
        ("mosquitto-go-auth", 401, ""),
        ("rabbitmq", 200, "deny"),
        ("vernemq", 200, r#"{"result": {"error": "not_allowed"}}"#),
        ("vernemq", 200, r#"{"result": {"error": {"reason_code": "not_authorized"}}}"#),
        ("vernemq", 200, r#"{"result": "next"}"#),
    ] {
        let server =
            Server::start(move |_| std::future::ready(answer(status, "application/json", said))).await;
        let settings = format!("contract = '{contract}'\nurl = '{}'", server.url("/"));
        let http = Some(toml::from_str(&settings).unwrap());
        let (config, rules) = (AuthConfig { http, ..AuthConfig::default() }, AuthorizationConfig::default());
        let local = Local::start(&config, &rules, &mut Registry::default()).unwrap();
        let mut slowed_down = 0;
        for n in 0..20 {
            let password = Some(Bytes::from(format!("guess-{n}")));
            let decision = local.authenticate(Request { password, ..request("alice", "") }).await;
            slowed_down += usize::from(decision == Decision::Deny(DenyReason::SlowedDown));
        }
        assert_eq!(slowed_down, 10, "{contract} {status} {said}");
    }
}

#[tokio::test]
async fn a_source_that_is_away_refuses_or_leaves_it_to_others() {
    let endpoint = Endpoint::start().await;
    endpoint.is(FAILING);
    let (refuses, _registry) = endpoint.source("");
    assert_eq!(refuses.decide(&request("alice", "right")).await, UNAVAILABLE);
    assert_eq!(endpoint.asked(), 2, "a failure is tried again once");
    let (ignores, _registry) = endpoint.source("when_away = 'ignore'");
    assert_eq!(ignores.decide(&request("alice", "right")).await, Verdict::Ignore);
    let nobody = Request { username: None, password: None, ..request("", "") };
    assert_eq!(refuses.decide(&nobody).await, Verdict::Ignore);
}

/// `count` questions, every second one of a user that is known; how each ended, and the longest that one took.
async fn storm(source: &Arc<HttpSource>, count: usize, stage: &str) -> (Vec<(bool, Verdict)>, Duration) {
    let mut all = JoinSet::new();
    for n in 0..count {
        let (source, known) = (source.clone(), n % 2 == 0);
        let user = if known { "known".to_owned() } else { format!("{stage}-{n}") };
        all.spawn(async move {
            let begun = Instant::now();
            let verdict = source.decide(&request(&user, "right")).await;
            let verdict = if verdict == allow(&user) { allow("") } else { verdict };
            ((known, verdict), begun.elapsed())
        });
    }
    let (ended, took): (Vec<_>, Vec<_>) = all.join_all().await.into_iter().unzip();
    (ended, took.into_iter().max().unwrap())
}

fn has(ended: &[(bool, Verdict)], known: bool, verdict: &Verdict) -> usize {
    ended.iter().filter(|(of, is)| *of == known && is == verdict).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_ever_and_the_breaker_opens_and_closes() {
    let endpoint = Endpoint::start().await;
    let (source, registry) =
        endpoint.source("cache = { allowed_ttl_s = 3600 }\nqueue = { timeout_ms = 5000 }");
    // The queue, two attempts and the pause between; the rest is for a machine that has much to do.
    let wait_max = Duration::from_millis(5000 + 2 * 1500 + 50) + Duration::from_secs(5);
    assert_eq!(source.decide(&request("known", "right")).await, allow("known"));

    for (condition, stage) in [(WELL, "well"), (SLOW, "slow")] {
        endpoint.is(condition);
        let (ended, took) = storm(&source, 1000, stage).await;
        assert_eq!(has(&ended, true, &allow("")) + has(&ended, false, &allow("")), 1000, "{stage}");
        assert!(took < wait_max && !is_open(&registry), "{stage}: {took:?}");
    }
    for (condition, stage) in [(FAILING, "failing"), (HANGING, "hanging")] {
        endpoint.is(condition);
        let asked = endpoint.asked();
        let ((ended, took), opened) = tokio::join!(storm(&source, 1000, stage), until_open(&registry, true));
        assert!(opened < Duration::from_secs(2), "{stage}: open after {opened:?}");
        assert_eq!(has(&ended, true, &allow("")), 500, "{stage}: who is known comes in");
        assert_eq!(has(&ended, false, &UNAVAILABLE), 500, "{stage}");
        assert!(took < wait_max, "{stage}: {took:?}");
        assert!(endpoint.asked() - asked < 200, "{stage}: it is left alone");
        endpoint.is(WELL);
        let (begun, mut n) = (Instant::now(), 0);
        // Somebody comes from time to time, and is the probe.
        let is_let_in = async || {
            n += 1;
            let verdict = source.decide(&request(&format!("probe-{stage}-{n}"), "right")).await;
            matches!(verdict, Verdict::Allow(_))
        };
        until("somebody is let in", is_let_in).await;
        assert!(begun.elapsed() < Duration::from_secs(5) && !is_open(&registry), "{:?}", begun.elapsed());
    }
    let (ended, took) = storm(&source, 1000, "back").await;
    assert_eq!(has(&ended, true, &allow("")) + has(&ended, false, &allow("")), 1000);
    assert!(took < wait_max, "{took:?}");
}

//! An edge's questions to real services, and to servers that answer what no service would, late, or not at all.

use std::convert::Infallible;
use std::sync::atomic::AtomicUsize;

use http_body_util::Full;
use hyper::service::service_fn;
use hyper::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;
use crate::eventually::until;
use crate::http_client::server::{Certificates, Server, answer};
use crate::service::tests::{Running, SECRET};
use crate::{Exchange as _, RevokeReason, Step, Target};

mod asked;

/// Long enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

fn config(addresses: &[SocketAddr]) -> ClientConfig {
    ClientConfig {
        urls: addresses.iter().map(|address| format!("http://{address}")).collect(),
        timeout_ms: 20_000,
        probe_interval_ms: 100,
        probe_timeout_ms: 1000,
        ..ClientConfig::default()
    }
}

/// A client that has found its addresses.
async fn remote(config: ClientConfig) -> Remote {
    let remote = Remote::start(config, &mut Registry::default()).unwrap();
    until("addresses are known", async || !remote.shared.addresses.load().is_empty()).await;
    remote
}

fn request(user: &str, password: &str) -> Request {
    let mut question: Question =
        serde_json::from_str(r#"{"client_id":"dev","peer":"192.0.2.1:1","protocol":"5"}"#).unwrap();
    question.username = Some(user.into());
    Request { password: Some(Bytes::copy_from_slice(password.as_bytes())), ..question.request() }
}

fn subject(decision: &Decision) -> Result<&str, DenyReason> {
    match decision {
        Decision::Allow(passport) => Ok(&passport.subject),
        Decision::Deny(reason) => Err(*reason),
    }
}

/// A server that answers questions with this, after `delay`; it counts them.
struct Canned {
    address: SocketAddr,
    questions: Arc<AtomicUsize>,
    serving: JoinHandle<()>,
}

impl Drop for Canned {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn canned(status: u16, body: &'static str, delay: Duration) -> Canned {
    canned_at(status, body, delay, Duration::ZERO).await
}

/// The same, whose clock is ahead.
async fn canned_at(status: u16, body: &'static str, delay: Duration, ahead: Duration) -> Canned {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, questions) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let counted = questions.clone();
    let serving = tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let counted = counted.clone();
            let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                let counted = counted.clone();
                async move {
                    let is_question = request.uri().path() == AUTHENTICATE_PATH;
                    if is_question {
                        counted.fetch_add(1, Ordering::SeqCst);
                        tokio::time::sleep(delay).await;
                    }
                    let mut answer = Response::new(Full::new(Bytes::from_static(body.as_bytes())));
                    let status = if is_question { status } else { 404 };
                    *answer.status_mut() = StatusCode::from_u16(status).unwrap();
                    let date = httpdate::fmt_http_date(std::time::SystemTime::now() + ahead);
                    answer.headers_mut().insert(hyper::header::DATE, date.parse().unwrap());
                    Ok::<_, Infallible>(answer)
                }
            });
            let http = hyper::server::conn::http1::Builder::new();
            connections.spawn(http.serve_connection(TokioIo::new(stream), service));
        }
    });
    Canned { address, questions, serving }
}

#[tokio::test]
async fn the_answers_of_a_service_are_those_of_the_edge() {
    let running = Running::start(|_, _| {});
    let remote = remote(config(&[running.address()])).await;
    let decision = remote.authenticate(request("alice", "secret")).await;
    assert_eq!(subject(&decision), Ok("alice"));
    let Decision::Allow(passport) = decision else { unreachable!() };
    assert!(passport.token.is_some() && passport.expires_at_s.is_some(), "as it was signed");
    let wrong = remote.authenticate(request("alice", "wrong")).await;
    assert_eq!(subject(&wrong), Err(DenyReason::BadCredentials));
}

#[tokio::test]
async fn a_dead_or_silent_service_is_passed_over_until_it_answers() {
    let (one, two) = (Running::start(|_, _| {}), Running::start(|_, _| {}));
    // Connections to it come up, and nothing else.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addresses = [one.address(), two.address(), silent.local_addr().unwrap()];
    let remote = remote(ClientConfig { allowed_ttl_ms: 0, ..config(&addresses) }).await;
    let ask_all = async || {
        for n in 0..20 {
            let mut request = request("alice", "secret");
            request.client_id = format!("dev{n}").into();
            let asking = tokio::time::timeout(PATIENCE, remote.authenticate(request));
            assert_eq!(subject(&asking.await.expect("in time")), Ok("alice"), "{n}");
        }
    };
    ask_all().await;
    let is_up = |address: SocketAddr| {
        remote.shared.addresses.load().iter().any(|known| known.socket == address && known.is_up())
    };
    until("the third is down", async || !is_up(addresses[2])).await;
    drop(one);
    ask_all().await;
    until("the first is down", async || !is_up(addresses[0])).await;
    // Somebody listens there again.
    let again = TcpListener::bind(addresses[0]).await.unwrap();
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = again.accept().await else { return };
            let service = service_fn(async |_| {
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"hello"))))
            });
            let http = hyper::server::conn::http1::Builder::new();
            drop(http.serve_connection(TokioIo::new(stream), service).await);
        }
    });
    until("the first is up", async || is_up(addresses[0])).await;
}

#[tokio::test]
async fn a_service_whose_clock_is_not_right_is_asked_when_no_other_answers() {
    let [fast, right] = [
        r#"{"result":"allow","subject":"fast","rules":[]}"#,
        r#"{"result":"allow","subject":"right","rules":[]}"#,
    ];
    let fast = canned_at(200, fast, Duration::ZERO, Duration::from_secs(20)).await;
    let right = canned_at(200, right, Duration::ZERO, Duration::from_secs(1)).await;
    let remote = remote(ClientConfig { allowed_ttl_ms: 0, ..config(&[fast.address, right.address]) }).await;
    let ask = async |n: u32| {
        let decision = remote.authenticate(request("alice", &n.to_string())).await;
        subject(&decision).map(str::to_owned)
    };
    for n in 0..20 {
        assert_eq!(ask(n).await.as_deref(), Ok("right"), "{n}");
    }
    assert!(fast.questions.load(Ordering::SeqCst) <= 1, "it is known by then");
    let address = right.address;
    drop(right);
    let is_up =
        || remote.shared.addresses.load().iter().any(|known| known.socket == address && known.is_up());
    until("the other is down", async || !is_up()).await;
    assert_eq!(ask(20).await.as_deref(), Ok("fast"));
}

#[tokio::test]
async fn without_any_service_clients_are_refused_at_once_or_known_ones_let_in() {
    for when_away in [WhenServiceAway::Refuse, WhenServiceAway::Cached] {
        let running = Running::start(|_, _| {});
        let config = ClientConfig { when_away, allowed_ttl_ms: 0, ..config(&[running.address()]) };
        let remote = remote(config).await;
        assert_eq!(subject(&remote.authenticate(request("alice", "secret")).await), Ok("alice"));
        drop(running);
        until("none is up", async || remote.shared.choose(&[]).is_none()).await;
        let since = Instant::now();
        let known = remote.authenticate(request("alice", "secret")).await;
        let expected =
            if when_away == WhenServiceAway::Cached { Ok("alice") } else { Err(DenyReason::Unavailable) };
        assert_eq!(subject(&known), expected);
        for (user, password) in [("alice", "wrong"), ("bob", "secret")] {
            let unknown = remote.authenticate(request(user, password)).await;
            assert_eq!(subject(&unknown), Err(DenyReason::Unavailable));
        }
        assert!(since.elapsed() < Duration::from_secs(5), "nobody waits for what is not there");
    }
}

#[tokio::test]
async fn those_who_ask_the_same_ask_once_and_the_answer_is_remembered() {
    let body = r##"{"result":"allow","subject":"alice","rules":[{"effect":"allow","action":"all","topics":["#"]}],"expires_in":60}"##;
    let server = canned(200, body, Duration::from_millis(300)).await;
    let remote = remote(config(&[server.address])).await;
    let asking: Vec<_> = (0..50)
        .map(|_| {
            let remote = remote.clone();
            tokio::spawn(async move { remote.authenticate(request("alice", "secret")).await })
        })
        .collect();
    for asking in asking {
        let decision = asking.await.unwrap();
        let Decision::Allow(passport) = decision else { panic!("{decision:?}") };
        assert!(passport.token.is_none() && passport.expires_at_s.is_some(), "the edge signs it");
        assert_eq!(passport.rules.len(), 1);
    }
    assert_eq!(server.questions.load(Ordering::SeqCst), 1);
    remote.authenticate(request("alice", "secret")).await;
    assert_eq!(server.questions.load(Ordering::SeqCst), 1, "remembered");
    remote.authenticate(request("alice", "other")).await;
    assert_eq!(server.questions.load(Ordering::SeqCst), 2, "another password is another question");
}

#[tokio::test]
async fn an_answer_that_is_none_lets_nobody_in() {
    for (status, body) in [
        (200, "<html>it works</html>"),
        (200, ""),
        (200, "{}"),
        (200, r#"{"result":"maybe"}"#),
        (200, r#"{"result":"allow"}"#),
        (200, r#"{"result":"allow","subject":"alice"}"#),
        (200, r#"{"result":"allow","passport":"a.b.c"}"#),
        (200, r#"{"result":"continue","data":"","state":""}"#),
        (204, ""),
        (302, ""),
        (401, ""),
        (404, r#"{"result":"allow","subject":"alice","rules":[]}"#),
        (500, ""),
        (503, ""),
    ] {
        let server = canned(status, body, Duration::ZERO).await;
        let remote = remote(config(&[server.address])).await;
        let decision = remote.authenticate(request("alice", "secret")).await;
        assert_eq!(subject(&decision), Err(DenyReason::Unavailable), "{status} {body}");
    }
    let server = canned(200, r#"{"result":"deny","reason":"banned"}"#, Duration::ZERO).await;
    let remote = remote(config(&[server.address])).await;
    assert_eq!(subject(&remote.authenticate(request("alice", "secret")).await), Err(DenyReason::Banned));
}

#[tokio::test]
async fn a_slow_answer_is_waited_for_no_longer_than_that() {
    let server = canned(200, "{}", Duration::from_secs(60)).await;
    let config = ClientConfig { timeout_ms: 300, requests_max: 1, ..config(&[server.address]) };
    let remote = remote(config).await;
    let since = Instant::now();
    let (one, two) =
        tokio::join!(remote.authenticate(request("alice", "a")), remote.authenticate(request("alice", "b")));
    assert_eq!((subject(&one), subject(&two)), (Err(DenyReason::Unavailable), Err(DenyReason::Unavailable)));
    assert!(since.elapsed() < Duration::from_secs(20));
    assert_eq!(server.questions.load(Ordering::SeqCst), 1, "no more at a time than that");
}

#[tokio::test]
async fn who_asks_most_leaves_room_for_others() {
    let server = canned(200, "{}", Duration::from_secs(60)).await;
    let remote = remote(ClientConfig { requests_max: 4, ..config(&[server.address]) }).await;
    let ask = async |peer: &str, n: u32| {
        let request = Request { peer: peer.parse().unwrap(), ..request("alice", &n.to_string()) };
        let asking = tokio::time::timeout(Duration::from_millis(300), remote.authenticate(request));
        asking.await.ok().map(|decision| subject(&decision).map(str::to_owned))
    };
    // Those who wait no more are asked about still.
    let crowd = futures_util::future::join_all((0..5).map(|n| ask("192.0.2.1:1", n))).await;
    let refused = Some(Err(DenyReason::Unavailable));
    assert_eq!(crowd.iter().filter(|asked| **asked == refused).count(), 2, "{crowd:?}");
    assert_eq!(ask("192.0.2.2:1", 5).await, None, "it waits for its answer");
    assert_eq!(ask("192.0.2.3:1", 6).await, refused, "all are taken");
}

#[tokio::test]
async fn an_exchange_goes_through_the_edge() {
    let running = Running::start(|_, _| {});
    let remote = remote(config(&[running.address()])).await;
    let mut exchange = remote.begin("SCRAM-SHA-256", request("alice", "")).unwrap();
    let step = exchange.step(Some(b"n,,n=alice,r=rOprNGfwEbeRWgbNEkqO")).await;
    assert!(matches!(step, Step::Continue(_)), "{step:?}");
    let wrong = exchange.step(Some(b"c=biws,r=x,p=AAAA")).await;
    assert!(matches!(wrong, Step::Deny(_)), "{wrong:?}");
    assert_eq!(exchange.step(None).await, Step::Deny(DenyReason::NotAuthorized), "it has ended");
    let mut other = remote.begin("OTHER", request("alice", "")).unwrap();
    assert_eq!(other.step(None).await, Step::Deny(DenyReason::BadMethod));
}

#[tokio::test]
async fn the_secret_is_shown_and_a_wrong_one_lets_nobody_in() {
    let dir = tempfile::tempdir().unwrap();
    let (right, wrong) = (dir.path().join("right"), dir.path().join("wrong"));
    std::fs::write(&right, format!("{SECRET}\n")).unwrap();
    std::fs::write(&wrong, "another one of enough bytes").unwrap();
    let running = Running::start(|config, _| config.secret_file = Some(right.clone()));
    for (file, expected) in [(right, Ok("alice")), (wrong, Err(DenyReason::Unavailable))] {
        let remote = remote(ClientConfig { secret_file: Some(file), ..config(&[running.address()]) }).await;
        assert_eq!(subject(&remote.authenticate(request("alice", "secret")).await), expected);
    }
}

#[tokio::test]
async fn with_tls_both_ends_know_each_other() {
    let certificates = Certificates::make(true);
    let file = |name: &str| Some(certificates.file(name));
    let running = Running::start(|config, _| {
        config.tls = Some(crate::service::ServiceTlsConfig {
            certificate_file: certificates.file("server.pem"),
            key_file: certificates.file("server.key"),
            client_ca_file: file("ca.pem"),
        });
    });
    let known = ClientConfig {
        urls: vec![format!("https://{}", running.address())],
        ca_file: file("ca.pem"),
        certificate_file: file("client.pem"),
        key_file: file("client.key"),
        ..config(&[])
    };
    let stranger = ClientConfig { certificate_file: None, key_file: None, ..known.clone() };
    let remote_known = remote(known).await;
    assert_eq!(subject(&remote_known.authenticate(request("alice", "secret")).await), Ok("alice"));
    let stranger = remote(stranger).await;
    let refused = stranger.authenticate(request("alice", "secret")).await;
    assert_eq!(subject(&refused), Err(DenyReason::Unavailable));
}

// Over HTTP/2 all questions have one connection, and those beyond its streams wait for others.
#[tokio::test]
async fn a_service_with_much_to_do_is_not_taken_for_dead() {
    const QUESTIONS: usize = 300;
    let certificates = Certificates::make(false);
    let looks = Arc::new(AtomicUsize::new(0));
    let counted = looks.clone();
    let hangs = move |request: hyper::Request<Bytes>| {
        let (counted, is_question) = (counted.clone(), request.uri().path() == AUTHENTICATE_PATH);
        async move {
            if is_question {
                std::future::pending::<()>().await;
            }
            counted.fetch_add(usize::from(request.uri().path() == crate::wire::LIVE_PATH), Ordering::SeqCst);
            answer(404, "text/plain", "")
        }
    };
    let server = Server::listen("127.0.0.1:0".parse().unwrap(), Some(&certificates), hangs).await;
    let remote = remote(ClientConfig {
        urls: vec![format!("https://{}", server.address)],
        ca_file: Some(certificates.file("ca.pem")),
        timeout_ms: 300_000,
        ..config(&[])
    })
    .await;
    let mut asking = tokio::task::JoinSet::new();
    for n in 0..QUESTIONS {
        let remote = remote.clone();
        asking.spawn(async move { remote.authenticate(request("alice", &n.to_string())).await });
    }
    let waiting = || remote.shared.addresses.load()[0].waiting();
    until("all wait", async || waiting() >= QUESTIONS).await;
    let before = looks.load(Ordering::SeqCst);
    until("it answers looks", async || looks.load(Ordering::SeqCst) >= before + 10).await;
    assert!(remote.shared.addresses.load()[0].is_up());
    assert!(asking.try_join_next().is_none(), "all wait still");
}

#[tokio::test]
async fn what_a_service_revokes_the_edge_knows_and_no_longer_remembers() {
    let running = Running::start(|_, _| {});
    let remote = remote(config(&[running.address()])).await;
    let since = Instant::now();
    for user in ["alice", "bob"] {
        assert_eq!(subject(&remote.authenticate(request(user, "secret")).await), Ok(user));
    }
    assert_eq!(remote.shared.cache.len(), 2);
    let list = running.local().revocations();
    list.revoke(Target::User("alice".into()), RevokeReason::Administrative, Duration::from_secs(60));
    let alice = Bearer { user: "alice", client_id: "dev", token_id: None, certificate: None };
    until("she is revoked", async || remote.revocations().verdict(&alice, since).is_some()).await;
    until("she is forgotten", async || remote.shared.cache.len() == 1).await;
    assert_eq!(subject(&remote.authenticate(request("alice", "secret")).await), Err(DenyReason::Banned));
    assert_eq!(subject(&remote.authenticate(request("bob", "secret")).await), Ok("bob"));
}

//! What the admin endpoint answers, to whom, and that it answers whatever others do to it.

use prometheus_client::registry::Registry;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::*;

/// How long a health check may take while others do their worst; an orchestrator has about as much patience.
const HEALTH_WITHIN: Duration = Duration::from_secs(1);

const BEYOND: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7)), 1);

fn answers(readiness: &Readiness) -> Answers {
    Answers {
        metrics: Exposition::new(Arc::new(Registry::default().into())),
        access: MetricsAccess::Open,
        readiness: readiness.clone(),
        revoking: Revoking::default(),
    }
}

fn status(method: &Method, path: &str, readiness: &Readiness) -> u16 {
    answers(readiness).answer(method, path, &HeaderMap::new(), BEYOND).status().as_u16()
}

fn ready() -> Readiness {
    let readiness = Readiness::default();
    readiness.enter(Phase::Ready);
    readiness
}

#[test]
fn readiness_follows_the_phase_and_liveness_does_not() {
    let readiness = Readiness::default();
    for (phase, ready) in [(Phase::Starting, 503), (Phase::Ready, 200), (Phase::Draining, 503)] {
        readiness.enter(phase);
        assert_eq!(status(&Method::GET, "/readyz", &readiness), ready);
        assert_eq!(status(&Method::GET, "/livez", &readiness), 200);
    }
}

#[test]
fn what_cannot_serve_is_not_ready() {
    let readiness = ready();
    let fails = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let watched = fails.clone();
    readiness.watch(Box::new(move || watched.load(Ordering::SeqCst).then_some("the store is away")));
    for (failing, ready) in [(false, 200), (true, 503), (false, 200)] {
        fails.store(failing, Ordering::SeqCst);
        assert_eq!(status(&Method::GET, "/readyz", &readiness), ready);
    }
    fails.store(true, Ordering::SeqCst);
    assert_eq!(readiness.obstacle(), Some("the store is away"));
    readiness.enter(Phase::Draining);
    assert_eq!(readiness.obstacle(), Some("draining"));
}

#[test]
fn other_paths_and_methods_are_refused() {
    assert_eq!(status(&Method::GET, "/", &ready()), 404);
    assert_eq!(status(&Method::POST, "/readyz", &ready()), 405);
    assert_eq!(status(&Method::HEAD, "/readyz", &ready()), 200);
}

#[test]
fn metrics_may_need_the_token_beyond_this_machine() {
    let dir = tempfile::tempdir().unwrap();
    let token_file = dir.path().join("token");
    std::fs::write(&token_file, "0123456789abcdef\n").unwrap();
    let config = AdminConfig {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)).into(),
        token_file: Some(token_file),
        metrics: MetricsAccess::Token,
    };
    let revoking = Revoking::open(&config).unwrap();
    let answers = Answers { access: config.metrics, revoking, ..answers(&ready()) };
    let ask = |path: &str, token: Option<&str>, peer: &str| {
        let mut headers = HeaderMap::new();
        if let Some(token) = token {
            headers.insert(AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
        }
        answers.answer(&Method::GET, path, &headers, peer.parse().unwrap()).status().as_u16()
    };
    for (path, token, peer, status) in [
        ("/metrics", None, "192.0.2.7:1", 401),
        ("/metrics", Some("0123456789abcdeF"), "192.0.2.7:1", 401),
        ("/metrics", Some("0123456789abcdef"), "192.0.2.7:1", 200),
        ("/metrics", None, "127.0.0.1:1", 200),
        ("/metrics", None, "[::ffff:127.0.0.1]:1", 200),
        ("/livez", None, "192.0.2.7:1", 200),
        ("/readyz", None, "192.0.2.7:1", 200),
    ] {
        assert_eq!(ask(path, token, peer), status, "{path} {token:?} {peer}");
    }
}

/// An admin endpoint with as many metrics as a busy process has, about 40 KB.
fn serve() -> (SocketAddr, JoinHandle<()>) {
    let admin =
        Admin::bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into(), &mut Inherited::default()).unwrap();
    let address = admin.addresses()[0];
    let mut registry = Registry::default();
    for n in 0..500 {
        let gauge = prometheus_client::metrics::gauge::Gauge::<i64>::default();
        registry.register(format!("some_metric_with_a_long_name_{n}"), "What it is about", gauge);
    }
    let metrics = Arc::new(registry.into());
    let served = admin.serve(metrics, MetricsAccess::Open, ready(), Revoking::default());
    (address, tokio::spawn(served))
}

async fn get(address: SocketAddr, path: &str, headers: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    response
}

#[tokio::test]
async fn metrics_are_served_over_http_in_both_formats() {
    let (address, server) = serve();
    let response = get(address, "/metrics", "").await;
    assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
    assert!(response.contains("application/openmetrics-text; version=1.0.0"), "{response}");
    assert!(response.ends_with("# EOF\n"), "{response}");
    let response = get(address, "/metrics", "Accept: text/plain\r\n").await;
    assert!(response.contains("content-type: text/plain; version=0.0.4"), "{response}");
    assert!(!response.contains("# EOF"), "{response}");
    server.abort();
}

/// Asks for health again and again, for `span`, and each time is answered soon.
async fn stays_alive(address: SocketAddr, span: Duration) {
    let began = Instant::now();
    while began.elapsed() < span {
        let asked = Instant::now();
        let answer = tokio::time::timeout(HEALTH_WITHIN, get(address, "/livez", "")).await;
        let answer = answer.unwrap_or_else(|_| panic!("no answer, {:?} after the start", began.elapsed()));
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer} after {:?}", asked.elapsed());
        sleep(Duration::from_millis(20)).await;
    }
}

/// So many peers that ask for more than fits between here and there, and read nothing of it.
async fn deaf_readers(address: SocketAddr, count: usize) -> Vec<TcpStream> {
    let mut readers = Vec::new();
    for _ in 0..count {
        let stream = TcpStream::connect(address).await.unwrap();
        let requests = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(400);
        // What is left of the requests when nobody takes more is left out.
        let _ = stream.try_write(requests.as_bytes());
        readers.push(stream);
    }
    readers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_do_not_read_silence_nobody() {
    let (address, server) = serve();
    for count in [64, 1_000] {
        let readers = deaf_readers(address, count).await;
        stays_alive(address, Duration::from_millis(1_500)).await;
        drop(readers);
    }
    server.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_open_and_dripping_requests_silence_nobody() {
    let (address, server) = serve();
    let mut peers = Vec::new();
    for n in 0..200 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let begun: &[u8] = match n % 4 {
            0 => b"",
            1 => b"G",
            2 => b"GET /metrics HTTP/1.1\r\nHost: ",
            _ => b"POST /v1/revocations HTTP/1.1\r\nHost: x\r\nContent-Length: 500000\r\n\r\n{",
        };
        // Some have lost their place to later ones by now.
        let _ = stream.write_all(begun).await;
        peers.push(stream);
    }
    let dripping = tokio::spawn(async move {
        loop {
            for stream in &mut peers {
                let _ = stream.try_write(b"x");
            }
            sleep(Duration::from_millis(50)).await;
        }
    });
    stays_alive(address, Duration::from_secs(1)).await;
    dripping.abort();
    server.abort();
}

#[tokio::test]
async fn a_request_may_come_byte_by_byte() {
    let (address, server) = serve();
    let mut stream = TcpStream::connect(address).await.unwrap();
    for byte in b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" {
        stream.write_all(&[*byte]).await.unwrap();
        sleep(Duration::from_millis(2)).await;
    }
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    assert!(response.starts_with("HTTP/1.1 200 OK") && response.ends_with("ok\n"), "{response}");
    server.abort();
}

//! The client against real servers: over TCP and TLS, slow, hanging, oversized, cut short, and not HTTP at all.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use hyper::Version;
use testkit::nobody::Nobody;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use super::server::{Certificates, Server, answer};
use super::*;

type Expected = fn(&HttpError) -> bool;

fn client(config: &HttpClientConfig) -> HttpClient {
    HttpClient::new("auth.http", config).unwrap()
}

fn get(url: &str) -> Request<Bytes> {
    Request::get(url).body(Bytes::new()).unwrap()
}

async fn echo(request: Request<Bytes>) -> Response<Bytes> {
    let version = request.version();
    let mut answered = answer(200, "text/plain", request.into_body());
    answered.headers_mut().insert("x-version", format!("{version:?}").parse().unwrap());
    answered
}

/// A server that reads a request and writes `bytes`, then closes, or else waits for ever.
async fn raw(bytes: &'static [u8], closes: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let mut kept = Vec::new();
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut head = [0; 4096];
            let _ = socket.read(&mut head).await;
            let _ = socket.write_all(bytes).await;
            if !closes {
                kept.push(socket);
            }
        }
    });
    url
}

#[tokio::test]
async fn requests_share_connections() {
    let server = Server::start(echo).await;
    let client = client(&HttpClientConfig::default());
    for body in ["one", "two", "three"] {
        let request = Request::post(server.url("/x")).body(Bytes::from(body)).unwrap();
        let answered = client.send(request).await.unwrap();
        assert_eq!((answered.status().as_u16(), &answered.body()[..]), (200, body.as_bytes()));
    }
    assert_eq!(server.connections.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn https_is_http_2_and_wants_the_right_authority() {
    let certificates = Certificates::make(false);
    let server = Server::listen("127.0.0.1:0".parse().unwrap(), Some(&certificates), echo).await;
    let config =
        HttpClientConfig { ca_file: Some(certificates.file("ca.pem")), ..HttpClientConfig::default() };
    let answered = client(&config).send(get(&server.url("/"))).await.unwrap();
    assert_eq!(answered.headers()["x-version"], "HTTP/2.0");
    assert_eq!(answered.version(), Version::HTTP_2);

    let other = Certificates::make(false);
    let config = HttpClientConfig { ca_file: Some(other.file("ca.pem")), ..config };
    let error = client(&config).send(get(&server.url("/"))).await.unwrap_err();
    assert!(matches!(error, HttpError::Connect(_)), "{error:?}");
    // The certificate is for the address, not for this name.
    let by_name = server.url("/").replace("127.0.0.1", "localhost");
    let config = HttpClientConfig { ca_file: Some(certificates.file("ca.pem")), ..config };
    assert!(matches!(client(&config).send(get(&by_name)).await, Err(HttpError::Connect(_))));
}

#[tokio::test]
async fn a_client_certificate_is_shown_where_there_is_one() {
    let certificates = Certificates::make(true);
    let server = Server::listen("127.0.0.1:0".parse().unwrap(), Some(&certificates), echo).await;
    let without =
        HttpClientConfig { ca_file: Some(certificates.file("ca.pem")), ..HttpClientConfig::default() };
    assert!(client(&without).send(get(&server.url("/"))).await.is_err());
    let with = HttpClientConfig {
        certificate_file: Some(certificates.file("client.pem")),
        key_file: Some(certificates.file("client.key")),
        ..without
    };
    assert_eq!(client(&with).send(get(&server.url("/"))).await.unwrap().status(), 200);
}

#[tokio::test]
async fn what_hangs_ends_in_time() {
    let config = HttpClientConfig { timeout_ms: 200, ..HttpClientConfig::default() };
    let halves: [&[u8]; 3] =
        [b"", b"HTTP/1.1 200 OK\r\nconte", b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab"];
    for sent in halves {
        let url = raw(sent, false).await;
        let begun = Instant::now();
        let error = client(&config).send(get(&url)).await.unwrap_err();
        assert!(matches!(error, HttpError::Timeout), "{error:?}");
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    }
    // A TLS handshake that is never answered, within the time to connect.
    let url = raw(b"", false).await.replace("http:", "https:");
    let config = HttpClientConfig { connect_timeout_ms: 200, ..HttpClientConfig::default() };
    let error = client(&config).send(get(&url)).await.unwrap_err();
    assert!(matches!(error, HttpError::Connect(_)), "{error:?}");
}

#[tokio::test]
async fn what_is_too_long_cut_short_or_not_http_is_no_answer() {
    let config = HttpClientConfig { answer_bytes_max: 10, ..HttpClientConfig::default() };
    let cases: [(&[u8], Expected); 6] = [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n12345678901", |e| matches!(e, HttpError::TooLarge(10))),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n8\r\n12345678\r\n8\r\n12345678\r\n0\r\n\r\n",
            |e| matches!(e, HttpError::TooLarge(10)),
        ),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n123", |e| matches!(e, HttpError::Closed(_))),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n8\r\n123", |e| matches!(e, HttpError::Closed(_))),
        (b"", |e| matches!(e, HttpError::Closed(_))),
        (b"SSH-2.0-OpenSSH_9.9\r\n", |e| matches!(e, HttpError::Protocol(_))),
    ];
    for (sent, is_expected) in cases {
        let error = client(&config).send(get(&raw(sent, true).await)).await.unwrap_err();
        assert!(is_expected(&error), "{:?}: {error:?}", String::from_utf8_lossy(sent));
    }
    let exact = raw(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n1234567890", true).await;
    assert_eq!(&client(&config).send(get(&exact)).await.unwrap().body()[..], b"1234567890");
}

#[tokio::test]
async fn redirects_are_answers() {
    let server = Server::start(|_| async {
        Response::builder().status(302).header("location", "/elsewhere").body(Bytes::new()).unwrap()
    })
    .await;
    let answered = client(&HttpClientConfig::default()).send(get(&server.url("/"))).await.unwrap();
    assert_eq!(answered.status(), 302);
}

#[tokio::test]
async fn nothing_leaves_the_machine_in_the_clear() {
    let error = client(&HttpClientConfig::default()).send(get("http://192.0.2.1/")).await.unwrap_err();
    assert!(matches!(error, HttpError::Plain), "{error:?}");
}

#[tokio::test]
async fn nobody_there_is_told_from_an_answer_that_does_not_come() {
    let nobody = Nobody::here();
    let url = format!("http://{}/", nobody.address());
    let error = client(&HttpClientConfig::default()).send(get(&url)).await.unwrap_err();
    assert!(matches!(error, HttpError::Connect(_)) && error.is_retryable(), "{error:?}");
    assert!(!HttpError::Timeout.is_retryable());
}

#[tokio::test]
async fn requests_at_a_time_and_connections_are_bounded() {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (counted, highest, together) = (now.clone(), most.clone(), Arc::new(Barrier::new(3)));
    let server = Server::start(move |_| {
        let (now, most, together) = (counted.clone(), highest.clone(), together.clone());
        async move {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            // With fewer at a time nobody would get an answer.
            together.wait().await;
            now.fetch_sub(1, Ordering::SeqCst);
            answer(204, "text/plain", "")
        }
    })
    .await;
    let config = HttpClientConfig { connections_max: 3, timeout_ms: 60_000, ..HttpClientConfig::default() };
    let (client, mut all) = (Arc::new(client(&config)), JoinSet::new());
    for _ in 0..30 {
        let (client, url) = (client.clone(), server.url("/"));
        all.spawn(async move { client.send(get(&url)).await.unwrap().status().as_u16() });
    }
    assert!(all.join_all().await.into_iter().all(|status| status == 204));
    assert_eq!(most.load(Ordering::SeqCst), 3);
    assert!(server.connections.load(Ordering::Relaxed) <= 6, "{:?}", server.connections);
}

#[test]
fn a_file_that_cannot_be_used_is_named_with_its_key() {
    let certificates = Certificates::make(false);
    let told = |config: HttpClientConfig| HttpClient::new("auth.http", &config).err().unwrap().to_string();
    let missing = told(HttpClientConfig { ca_file: Some("/nowhere".into()), ..HttpClientConfig::default() });
    assert!(missing.starts_with("auth.http.ca_file cannot be read: "), "{missing}");
    let wrong = HttpClientConfig {
        certificate_file: Some(certificates.file("client.pem")),
        key_file: Some(certificates.file("server.key")),
        ..HttpClientConfig::default()
    };
    assert!(told(wrong).starts_with("auth.http.key_file does not go with "));
}

//! What a service is sent, byte for byte but for the order of headers and the port: it may be one of somebody's own. The files in
//! `golden/` are written from the published description.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use mqtt::ProtocolVersion;

use super::*;
use crate::{AlternativeName, Certificate};

/// A service that begins an exchange whatever it is asked.
async fn service() -> (SocketAddr, UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (told, asked) = unbounded_channel();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(serve(socket, told.clone()));
        }
    });
    (address, asked)
}

async fn serve(mut socket: TcpStream, told: UnboundedSender<String>) {
    let mut read = String::new();
    loop {
        if let Some((head, body)) = read.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.map_or(0, |length| length.parse().unwrap());
            if body.len() >= length {
                let said = r#"{"result":"continue","data":"","state":"what it has to remember"}"#;
                let is_question = head.starts_with("POST");
                let status = if is_question { "200 OK" } else { "404 Not Found" };
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{said}", said.len());
                if is_question {
                    told.send(read.clone()).unwrap();
                }
                read.clear();
                if socket.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
        let mut chunk = [0; 4096];
        match socket.read(&mut chunk).await {
            Ok(0) | Err(_) => return,
            Ok(length) => read += str::from_utf8(&chunk[..length]).unwrap(),
        }
    }
}

/// The next question, headers in order.
async fn next(asked: &mut UnboundedReceiver<String>, address: SocketAddr) -> String {
    let request = tokio::time::timeout(PATIENCE, asked.recv()).await.unwrap().unwrap();
    let request = request.replace(&address.to_string(), "HOST");
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let (line, headers) = head.split_once("\r\n").unwrap();
    let mut headers: Vec<&str> = headers.split("\r\n").collect();
    headers.sort_unstable();
    format!("{line}\n{}\n\n{body}\n", headers.join("\n"))
}

fn pump() -> Request {
    Request {
        client_id: "pump-7".into(),
        username: None,
        password: None,
        peer: "192.0.2.1:4711".parse().unwrap(),
        is_local: false,
        listener: "mqtts".into(),
        certificate: None,
        protocol: ProtocolVersion::V5,
        clean_start: true,
    }
}

#[tokio::test]
async fn a_question_is_sent_as_it_is_described() {
    let (address, mut asked) = service().await;
    let request = Request {
        client_id: "pümp \"7\"".into(),
        username: Some("alice".into()),
        password: Some(Bytes::from_static(b"tg-secret-\xff\0")),
        ..pump()
    };
    let decision = remote(config(&[address])).await.authenticate(request).await;
    assert_eq!(subject(&decision), Err(DenyReason::Unavailable), "an exchange is no answer to a password");
    assert_eq!(next(&mut asked, address).await, include_str!("../golden/password.http"));
}

#[tokio::test]
async fn a_question_says_what_a_certificate_says_and_shows_the_secret() {
    let (address, mut asked) = service().await;
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "tg-secret-of enough bytes\n").unwrap();
    let certificate = Certificate {
        subject: "pump-7".into(),
        distinguished_name: "CN=pump-7,O=Plant".into(),
        alternative_names: vec![
            AlternativeName::Dns("pump-7.example".into()),
            AlternativeName::Uri("urn:device:pump-7".into()),
            AlternativeName::Email("pump@example.com".into()),
        ],
        fingerprint: "00ff".into(),
    };
    let request = Request {
        peer: "[2001:db8::1]:4711".parse().unwrap(),
        is_local: true,
        listener: "wss".into(),
        certificate: Some(Arc::new(certificate)),
        protocol: ProtocolVersion::V311,
        clean_start: false,
        ..pump()
    };
    let remote = remote(ClientConfig { secret_file: Some(secret), ..config(&[address]) }).await;
    remote.authenticate(request).await;
    assert_eq!(next(&mut asked, address).await, include_str!("../golden/certificate.http"));
}

#[tokio::test]
async fn an_exchange_is_sent_as_it_is_described() {
    let (address, mut asked) = service().await;
    let remote = remote(config(&[address])).await;
    let mut exchange = remote.begin("SCRAM-SHA-256", pump()).unwrap();
    for (data, golden) in [
        (&b"n,,n=alice,r=abc"[..], include_str!("../golden/exchange_1.http")),
        (b"c=biws", include_str!("../golden/exchange_2.http")),
    ] {
        let step = exchange.step(Some(data)).await;
        assert!(matches!(step, Step::Continue(_)), "{step:?}");
        assert_eq!(next(&mut asked, address).await, golden);
    }
}

//! The same conversation over TLS, WebSocket and both, each moved from the handshake threads to the devices' runtime.

use std::path::PathBuf;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use testkit::authority::Authority;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::*;
use crate::tls::{CertificateFiles, ClientCertificateConfig, ClientCertificateMode, TlsConfig};

/// An authority, with a server's certificate in files.
struct Pki(Authority);

impl Pki {
    fn new() -> Self {
        let authority = Authority::new("edges");
        authority.keep("server", &authority.issue("server", &["localhost"]));
        Self(authority)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path(name)
    }

    fn server(&self) -> TlsConfig {
        TlsConfig {
            certificates: vec![CertificateFiles {
                certificate_file: self.path("server.pem"),
                key_file: self.path("server.key"),
                server_names: Vec::new(),
                ocsp_file: None,
            }],
            client_certificates: ClientCertificateConfig {
                mode: ClientCertificateMode::Optional,
                ca_file: Some(self.path("ca.pem")),
                ..ClientCertificateConfig::default()
            },
            ..TlsConfig::default()
        }
    }

    async fn dial(&self, address: SocketAddr, common_name: &str) -> impl AsyncRead + AsyncWrite + Unpin {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().into()).expect("a root");
        let issued = self.0.issue(common_name, &["localhost"]);
        let chain = vec![CertificateDer::from(issued.der)];
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(issued.key_der));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .expect("identity");
        let name = ServerName::try_from("localhost").expect("name");
        TlsConnector::from(Arc::new(config)).connect(name, dial(address).await).await.expect("handshake")
    }
}

/// Sends and receives as raw frames: a client library is not needed for one frame each way.
async fn upgrade<IO: AsyncRead + AsyncWrite + Unpin>(io: &mut IO, path: &str) -> String {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Protocol: mqtt\r\n\r\n"
    );
    io.write_all(request.as_bytes()).await.expect("written");
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(timeout(PATIENCE, io.read_u8()).await.expect("in time").expect("an answer"));
    }
    String::from_utf8(answer).expect("text")
}

/// A binary frame from a client, masked with zeros.
fn frame(payload: &[u8]) -> Vec<u8> {
    [&[0x82, 0x80 | payload.len() as u8, 0, 0, 0, 0], payload].concat()
}

async fn expect_bytes<IO: AsyncRead + Unpin>(io: &mut IO, bytes: &[u8]) {
    let mut read = vec![0; bytes.len()];
    timeout(PATIENCE, io.read_exact(&mut read)).await.expect("in time").expect("read");
    assert_eq!(read, bytes);
}

async fn converse<IO: AsyncRead + AsyncWrite + Unpin>(io: &mut IO, is_websocket: bool) {
    let sent = |bytes: &[u8]| if is_websocket { frame(bytes) } else { bytes.to_vec() };
    let received = |bytes: &[u8]| {
        if is_websocket { [&[0x82, bytes.len() as u8], bytes].concat() } else { bytes.to_vec() }
    };
    // CONNECT and PINGREQ at once: what follows CONNECT is moved along.
    io.write_all(&sent(&[&connect(5)[..], b"\xC0\0"].concat())).await.expect("written");
    // Answered by one write.
    expect_bytes(io, &received(&[CONNACK_5, b"\xD0\0"].concat())).await;
    for _ in 0..3 {
        io.write_all(&sent(b"\x32\x06\0\x01t\0\x01\0")).await.expect("written");
        expect_bytes(io, &received(b"\x40\x02\0\x01")).await;
    }
}

#[tokio::test]
async fn all_four_transports_carry_the_same_conversation() {
    let pki = Pki::new();
    let (edge, worker, _) = start(|config| {
        config.tls = Some(pki.server());
        for (name, kind) in
            [("tls", ListenerKind::Mqtts), ("ws", ListenerKind::Ws), ("wss", ListenerKind::Wss)]
        {
            let listener = ListenerConfig::new(SocketAddr::from(([127, 0, 0, 1], 0)), kind);
            config.listeners.insert(name.into(), listener);
        }
    });
    let addresses = edge.addresses().clone();
    converse(&mut dial(addresses["plain"]).await, false).await;
    converse(&mut pki.dial(addresses["tls"], "thing-1").await, false).await;

    let mut websocket = dial(addresses["ws"]).await;
    assert!(upgrade(&mut websocket, "/mqtt").await.starts_with("HTTP/1.1 101 "));
    converse(&mut websocket, true).await;

    let mut both = pki.dial(addresses["wss"], "thing-2").await;
    assert!(upgrade(&mut both, "/mqtt").await.starts_with("HTTP/1.1 101 "));
    converse(&mut both, true).await;

    let peers: Vec<_> = worker
        .sessions()
        .iter()
        .map(|session| {
            (session.open.peer.listener.to_string(), session.open.peer.certificate_subject.clone())
        })
        .collect();
    let expected = [
        ("plain".into(), None),
        ("tls".into(), Some("thing-1".into())),
        ("ws".into(), None),
        ("wss".into(), Some("thing-2".into())),
    ];
    assert_eq!(peers, expected);

    let drained = tokio::spawn(edge.drain(Duration::from_secs(5)));
    expect_bytes(&mut both, b"\x82\x03\xE0\x01\x8B").await;
    // A close frame follows.
    let mut rest = Vec::new();
    timeout(PATIENCE, both.read_to_end(&mut rest)).await.expect("in time").expect("close_notify");
    assert_eq!(rest.first(), Some(&0x88));
    drop((both, websocket));
    drained.await.expect("drained");
}

#[tokio::test]
async fn stalled_handshakes_end_at_the_deadline_on_every_transport() {
    let pki = Pki::new();
    let (edge, _worker, _) = start(|config| {
        config.connect_timeout_ms = 200;
        config.tls = Some(pki.server());
        for (name, kind) in
            [("tls", ListenerKind::Mqtts), ("ws", ListenerKind::Ws), ("wss", ListenerKind::Wss)]
        {
            let listener = ListenerConfig::new(SocketAddr::from(([127, 0, 0, 1], 0)), kind);
            config.listeners.insert(name.into(), listener);
        }
    });
    for (name, start) in [
        ("tls", &b""[..]),
        ("tls", b"\x16\x03\x01\x02\0\x01\0\x01\xFC\x03\x03"),
        ("ws", b""),
        ("ws", b"GET /mqtt HTTP/1.1\r\nHost: loc"),
        ("wss", b"\x16"),
    ] {
        let mut device = dial(edge.addresses()[name]).await;
        device.write_all(start).await.expect("written");
        let mut rest = Vec::new();
        let end = timeout(PATIENCE, device.read_to_end(&mut rest)).await;
        assert!(end.is_ok(), "{name} {start:x?}");
    }
    let mut silent = pki.dial(edge.addresses()["tls"], "silent").await;
    let mut rest = Vec::new();
    timeout(PATIENCE, silent.read_to_end(&mut rest)).await.expect("closed").unwrap_or_default();
    let mut silent = dial(edge.addresses()["ws"]).await;
    upgrade(&mut silent, "/mqtt").await;
    timeout(PATIENCE, silent.read_to_end(&mut rest)).await.expect("closed").unwrap_or_default();
    eventually("nobody is left", || edge.connections() == 0).await;
}

#[tokio::test]
async fn a_tls_listener_without_certificates_is_refused_by_name() {
    let mut config = EdgeConfig::default();
    let listener = ListenerConfig::new(SocketAddr::from(([127, 0, 0, 1], 0)), ListenerKind::Mqtts);
    config.listeners.insert("secure".into(), listener);
    assert_eq!(config.validate().expect_err("no TLS").key, "listeners.secure.tls");
    config.tls = Some(TlsConfig::default());
    let error =
        Edge::start(config, FakeWorker::default(), Arc::new(FakeAuthenticator), &mut Registry::default())
            .err()
            .expect("no certificate");
    assert_eq!(error.to_string(), "edge.tls cannot be used");
}

//! Clients that send early data (0-RTT) on the strength of a ticket of another server: it is not accepted, and does no harm.

use std::io::{Read as _, Write as _};

use rustls::server::ServerSessionMemoryCache;
use rustls::{ClientConnection, ServerConfig};
use rustls_pki_types::pem::PemObject;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// A server of the same name that accepts early data, and has told the client so.
async fn visit_another(fixture: &Fixture, client: &Arc<ClientConfig>) {
    let files = &fixture.config.certificates[0];
    let chain = vec![CertificateDer::from_pem_file(&files.certificate_file).unwrap()];
    let key = PrivateKeyDer::from_pem_file(&files.key_file).unwrap();
    // A client that is asked to try again may offer its ticket again only if the suite has the same hash.
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.cipher_suites.retain(|suite| suite.suite() == CipherSuite::TLS13_AES_128_GCM_SHA256);
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    config.max_early_data_size = 16 * 1024;
    config.session_storage = ServerSessionMemoryCache::new(8);
    let (near, far) = duplex(64 * 1024);
    let connecting = TlsConnector::from(Arc::clone(client)).connect(name(), far);
    let accepting = tokio_rustls::TlsAcceptor::from(Arc::new(config)).accept(near);
    let (near, far) = tokio::join!(accepting, connecting);
    let (mut near, mut far) = (near.unwrap(), far.unwrap());
    near.write_all(b"x").await.unwrap();
    near.flush().await.unwrap();
    far.read_exact(&mut [0]).await.unwrap();
}

fn name() -> ServerName<'static> {
    ServerName::try_from("localhost").unwrap()
}

/// Sends what waits, and takes what has come.
async fn exchange(tls: &mut ClientConnection, io: &mut DuplexStream) {
    let mut bytes = Vec::new();
    while tls.wants_write() {
        tls.write_tls(&mut bytes).unwrap();
    }
    io.write_all(&bytes).await.unwrap();
    if tls.wants_write() || !tls.wants_read() {
        return;
    }
    let mut room = vec![0; 16 * 1024];
    let count = io.read(&mut room).await.unwrap();
    assert_ne!(count, 0, "it was closed");
    let mut received = &room[..count];
    while !received.is_empty() {
        tls.read_tls(&mut received).unwrap();
        tls.process_new_packets().unwrap();
    }
}

/// Sends so many bytes early, which have to come once, when the handshake is done.
async fn sends_early(fixture: &Fixture, bytes: usize) {
    let mut client = ClientConfig::clone(&fixture.client().with_version(&version::TLS13).config());
    client.enable_early_data = true;
    let client = Arc::new(client);
    visit_another(fixture, &client).await;
    let acceptor = fixture.server().acceptor();
    let (near, far) = duplex(64 * 1024);
    let sent = pattern(bytes);
    let device = async {
        let mut far = far;
        let mut tls = ClientConnection::new(client, name()).unwrap();
        tls.early_data().unwrap().write_all(&sent).unwrap();
        while tls.is_handshaking() {
            exchange(&mut tls, &mut far).await;
        }
        assert!(!tls.is_early_data_accepted());
        // As clients do whose early data was not accepted.
        tls.writer().write_all(&sent).unwrap();
        let mut back = [0];
        while tls.reader().read(&mut back).is_err() {
            exchange(&mut tls, &mut far).await;
        }
        assert_eq!(&back, b"y");
    };
    let edge = async {
        let mut near = acceptor.accept(near).await.unwrap();
        let facts = near.facts().unwrap();
        assert_eq!((facts.resumed, facts.version), (false, ProtocolVersion::TLSv1_3));
        let mut seen = vec![0; bytes];
        near.read_exact(&mut seen).await.unwrap();
        assert!(seen == sent, "all of it, and once");
        near.write_all(b"y").await.unwrap();
        near.flush().await.unwrap();
    };
    tokio::join!(device, edge);
}

// RFC 8446 section 4.2.10: records that do not decrypt are skipped.
#[tokio::test]
async fn early_data_is_skipped() {
    let fixture = Fixture::new();
    for bytes in [1, 900, 10_000] {
        sends_early(&fixture, bytes).await;
    }
}

// The same section: after HelloRetryRequest everything up to the second ClientHello is skipped.
#[tokio::test]
async fn early_data_is_skipped_behind_a_hello_that_has_to_come_again() {
    let mut fixture = Fixture::new();
    fixture.config.groups = vec!["secp384r1".to_owned()];
    sends_early(&fixture, 5_000).await;
}

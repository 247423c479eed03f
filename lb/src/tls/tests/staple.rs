//! OCSP responses in the handshake: who asks is shown the one in the file while it is good, and none that is not.

use std::sync::Mutex;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};
use rustls_pki_types::UnixTime;

use super::super::expiry::What;
use super::super::ocsp::tests::response;
use super::*;

/// Believes everything, and keeps what was stapled.
#[derive(Debug, Default)]
struct Seen(Mutex<Vec<u8>>);

impl ServerCertVerifier for Seen {
    fn verify_server_cert(
        &self,
        _own: &CertificateDer<'_>,
        _between: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        stapled: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        *self.0.lock().unwrap() = stapled.to_vec();
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        own: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, own, signed, &algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        own: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, own, signed, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

fn algorithms() -> rustls::crypto::WebPkiSupportedAlgorithms {
    rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms
}

async fn stapled(server: &TlsServer, version: &'static SupportedProtocolVersion) -> Vec<u8> {
    let seen = Arc::new(Seen::default());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&seen) as _)
        .with_no_client_auth();
    connect(&server.acceptor(), Arc::new(client)).await.unwrap();
    seen.0.lock().unwrap().clone()
}

const FROM: &str = "20200101000000Z";

#[tokio::test]
async fn a_good_response_is_stapled_and_no_other() {
    let mut fixture = Fixture::new();
    let own = fixture.authority.issue("localhost", &["localhost"]);
    fixture.config.certificates = vec![fixture.authority.store("server", &own)];
    let good = response(&[&own.der], 0, FROM, "40000101000000Z");
    fixture.config.certificates[0].ocsp_file = Some(fixture.authority.write("server.ocsp", &good));
    let server = fixture.server();
    for version in BOTH {
        assert_eq!(stapled(&server, version).await, good);
    }
    let terms: Vec<_> = server.endings(i64::MAX).into_iter().map(|(term, _)| term.what).collect();
    assert!(terms.contains(&What::OcspResponse));
    // One that is of no use does not take its place, nor keep anything else from being taken.
    for bad in [&b"no response"[..], b"", &response(&[&own.der], 1, FROM, "40000101000000Z")] {
        fixture.authority.write("server.ocsp", bad);
        reload(&server).unwrap();
        assert_eq!(stapled(&server, BOTH[1]).await, good);
        let fresh = fixture.server();
        assert_eq!(stapled(&fresh, BOTH[1]).await, b"");
    }
    // It is of the certificate that goes, so none is stapled to the next one.
    fixture.authority.store("server", &fixture.authority.issue("next", &["localhost"]));
    fixture.authority.write("server.ocsp", &good);
    reload(&server).unwrap();
    assert_eq!(stapled(&server, BOTH[1]).await, b"");
}

#[tokio::test]
async fn a_response_that_ends_is_not_stapled_any_more() {
    let mut fixture = Fixture::new();
    let own = fixture.authority.issue("localhost", &["localhost"]);
    fixture.config.certificates = vec![fixture.authority.store("server", &own)];
    let good = response(&[&own.der], 0, FROM, "20350101000000Z");
    fixture.config.certificates[0].ocsp_file = Some(fixture.authority.write("server.ocsp", &good));
    let found = Snapshot::take(fixture.config.files());
    let server = TlsServer::load_from(fixture.config.clone(), Application::Mqtt, &found).unwrap();
    let server = Arc::new(server);
    let served = Served { listener: "mqtts".into(), key: "tls".to_owned(), server: Arc::clone(&server) };
    let watch = Reload::new(vec![served], &found);
    assert_eq!(stapled(&server, BOTH[1]).await, good);
    let wall = |unix_s| SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(unix_s);
    let mut now = Instant::now();
    let mut looks = |wall| {
        (0..5)
            .filter_map(|_| {
                now += files::LOOK_INTERVAL;
                watch.look(now, wall)
            })
            .count()
    };
    // The first second of 2035.
    assert_eq!(looks(wall(2_051_222_399)), 0);
    assert_eq!(looks(wall(2_051_222_401)), 1);
    assert_eq!(stapled(&server, BOTH[1]).await, b"");
    assert_eq!(looks(wall(2_051_222_500)), 0, "once is enough");
}

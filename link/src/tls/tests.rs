//! Handshakes between the two ends in memory, and what is wrong with files.

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::{ClientConnection, ServerConnection};
use tempfile::TempDir;

use super::*;

struct Authority {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(folder.path().join("ca.pem"), certificate.pem()).unwrap();
        Self { folder, issuer: Issuer::new(params, key) }
    }

    fn issue(&self, name: &str) -> LinkTlsConfig {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let file = |suffix: &str| self.folder.path().join(format!("{name}{suffix}"));
        std::fs::write(file(".pem"), certificate.pem()).unwrap();
        std::fs::write(file(".key"), key.serialize_pem()).unwrap();
        LinkTlsConfig {
            certificate_file: file(".pem"),
            key_file: file(".key"),
            ca_file: self.folder.path().join("ca.pem"),
            server_name: None,
        }
    }
}

/// Lets both ends shake hands; what stopped them.
fn shake_hands(edge: &LinkTlsConfig, worker: &LinkTlsConfig, host: &str) -> Result<(), rustls::Error> {
    let mut client = ClientConnection::new(edge.client().unwrap(), edge.name_of(host).unwrap()).unwrap();
    let mut server = ServerConnection::new(worker.server().unwrap()).unwrap();
    for _ in 0..10 {
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        server.read_tls(&mut &bytes[..]).unwrap();
        server.process_new_packets()?;
        bytes.clear();
        server.write_tls(&mut bytes).unwrap();
        client.read_tls(&mut &bytes[..]).unwrap();
        client.process_new_packets()?;
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok(())
}

#[test]
fn both_ends_need_a_certificate_of_the_authority() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let (edge, worker) = (ours.issue("edge.test"), ours.issue("worker.test"));
    shake_hands(&edge, &worker, "worker.test").unwrap();
    assert!(shake_hands(&edge, &worker, "other.test").is_err(), "the name of the certificate counts");
    let named = LinkTlsConfig { server_name: Some("worker.test".to_owned()), ..edge.clone() };
    shake_hands(&named, &worker, "10.0.0.1").unwrap();
    let stranger = LinkTlsConfig { ca_file: edge.ca_file.clone(), ..theirs.issue("edge.test") };
    assert!(shake_hands(&stranger, &worker, "worker.test").is_err(), "a stranger is not let in");
    let impostor = LinkTlsConfig { ca_file: worker.ca_file.clone(), ..theirs.issue("worker.test") };
    assert!(shake_hands(&edge, &impostor, "worker.test").is_err(), "an impostor is not believed");
}

#[test]
fn an_address_is_a_name() {
    let authority = Authority::new();
    let (edge, worker) = (authority.issue("edge.test"), authority.issue("::1"));
    shake_hands(&edge, &worker, "[::1]").unwrap();
}

#[test]
fn an_error_names_the_key_and_the_file() {
    let authority = Authority::new();
    let good = authority.issue("edge.test");
    let other = authority.issue("other.test");
    let text = |config: &LinkTlsConfig| {
        let (client, server) = (config.client().unwrap_err(), config.server().unwrap_err());
        assert_eq!(client.to_string(), server.to_string());
        client.to_string()
    };
    let missing = authority.folder.path().join("missing.pem");
    let wrong = text(&LinkTlsConfig { ca_file: missing, ..good.clone() });
    assert!(wrong.starts_with("ca_file: ") && wrong.ends_with("missing.pem cannot be read"), "{wrong}");
    let wrong = text(&LinkTlsConfig { key_file: other.key_file, ..good.clone() });
    assert!(wrong.starts_with("key_file: ") && wrong.contains("is not the key of"), "{wrong}");
    let wrong = text(&LinkTlsConfig { key_file: good.ca_file.clone(), ..good.clone() });
    assert!(wrong.ends_with(": holds no private key in PEM, only CERTIFICATE (line 1)"), "{wrong}");
    let wrong = text(&LinkTlsConfig { certificate_file: good.key_file.clone(), ..good.clone() });
    assert!(
        wrong.starts_with("certificate_file: ")
            && wrong.ends_with(": holds no certificate in PEM, only PRIVATE KEY (line 1)"),
        "{wrong}"
    );
    let named = LinkTlsConfig { server_name: Some("not a name".to_owned()), ..good };
    assert!(named.client().unwrap_err().to_string().starts_with("server_name: "));
}

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
        self.issue_until(name, 4000)
    }

    fn issue_until(&self, name: &str, year: i32) -> LinkTlsConfig {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
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
    pass_on(&mut client, &mut server)
}

fn pass_on(client: &mut ClientConnection, server: &mut ServerConnection) -> Result<(), rustls::Error> {
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

/// What one end has in force after its files were looked at for so many seconds.
struct Watch<C> {
    tls: LinkTls<C>,
    now: std::time::Instant,
}

impl<C> Watch<C> {
    fn looks(&mut self, seconds: u32) -> Arc<C> {
        for _ in 0..seconds {
            self.now += files::LOOK_INTERVAL;
            self.tls.look(self.now);
        }
        self.tls.current()
    }
}

#[test]
fn certificates_that_have_changed_are_taken_when_they_have_settled() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let (config, next) = (ours.issue("edge.test"), theirs.issue("edge.test"));
    let tls = LinkTls::client("workers.tls", &config).unwrap();
    let mut watch = Watch { tls, now: std::time::Instant::now() };
    let first = watch.tls.current();
    assert!(Arc::ptr_eq(&first, &watch.looks(9)), "nothing has changed");
    std::fs::copy(&next.certificate_file, &config.certificate_file).unwrap();
    assert!(Arc::ptr_eq(&first, &watch.looks(9)), "its key is missing");
    std::fs::copy(&next.key_file, &config.key_file).unwrap();
    std::fs::copy(&next.ca_file, &config.ca_file).unwrap();
    assert!(Arc::ptr_eq(&first, &watch.looks(3)), "it has not settled");
    let second = watch.looks(1);
    assert!(!Arc::ptr_eq(&first, &second));
    std::fs::write(&config.ca_file, "").unwrap();
    assert!(Arc::ptr_eq(&second, &watch.looks(9)), "nothing is no change");
    // What is in force talks to the others of the new authority.
    let worker = theirs.issue("worker.test");
    let mut client = ClientConnection::new(second, config.name_of("worker.test").unwrap()).unwrap();
    let mut server = ServerConnection::new(worker.server().unwrap()).unwrap();
    pass_on(&mut client, &mut server).unwrap();
}

#[test]
fn a_certificate_that_has_ended_takes_no_good_ones_place() {
    let authority = Authority::new();
    let config = authority.issue("worker.test");
    let tls = LinkTls::server("link.tls", &config).unwrap();
    let mut watch = Watch { tls, now: std::time::Instant::now() };
    let (first, terms) = (watch.tls.current(), watch.tls.terms());
    authority.issue_until("worker.test", 2021);
    assert!(Arc::ptr_eq(&first, &watch.looks(9)));
    assert_eq!(watch.tls.terms(), terms);
    authority.issue_until("worker.test", 2090);
    assert!(!Arc::ptr_eq(&first, &watch.looks(9)));
    assert!(watch.tls.terms().certificate.until_s < terms.certificate.until_s);
}

//! Handshakes between the two ends in memory, and what is wrong with files.

use rustls::{ClientConnection, ServerConnection};
use testkit::authority::Authority;

use super::*;

fn issue(authority: &Authority, name: &str) -> LinkTlsConfig {
    issue_until(authority, name, 4000)
}

fn issue_until(authority: &Authority, name: &str, year: i32) -> LinkTlsConfig {
    let until = rcgen::date_time_ymd(year, 1, 1);
    let issued = authority.issue_with(name, &[name], |params| params.not_after = until);
    let (certificate_file, key_file) = authority.keep(name, &issued);
    LinkTlsConfig { certificate_file, key_file, ca_file: authority.path("ca.pem"), server_name: None }
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
    let (ours, theirs) = (Authority::new("links"), Authority::new("links"));
    let (edge, worker) = (issue(&ours, "edge.test"), issue(&ours, "worker.test"));
    shake_hands(&edge, &worker, "worker.test").unwrap();
    assert!(shake_hands(&edge, &worker, "other.test").is_err(), "the name of the certificate counts");
    let named = LinkTlsConfig { server_name: Some("worker.test".to_owned()), ..edge.clone() };
    shake_hands(&named, &worker, "10.0.0.1").unwrap();
    let stranger = LinkTlsConfig { ca_file: edge.ca_file.clone(), ..issue(&theirs, "edge.test") };
    assert!(shake_hands(&stranger, &worker, "worker.test").is_err(), "a stranger is not let in");
    let impostor = LinkTlsConfig { ca_file: worker.ca_file.clone(), ..issue(&theirs, "worker.test") };
    assert!(shake_hands(&edge, &impostor, "worker.test").is_err(), "an impostor is not believed");
}

#[test]
fn an_address_is_a_name() {
    let authority = Authority::new("links");
    let (edge, worker) = (issue(&authority, "edge.test"), issue(&authority, "::1"));
    shake_hands(&edge, &worker, "[::1]").unwrap();
}

#[test]
fn an_error_names_the_key_and_the_file() {
    let authority = Authority::new("links");
    let good = issue(&authority, "edge.test");
    let other = issue(&authority, "other.test");
    let text = |config: &LinkTlsConfig| {
        let (client, server) = (config.client().unwrap_err(), config.server().unwrap_err());
        assert_eq!(client.to_string(), server.to_string());
        client.to_string()
    };
    let missing = authority.path("missing.pem");
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
    let (ours, theirs) = (Authority::new("links"), Authority::new("links"));
    let (config, next) = (issue(&ours, "edge.test"), issue(&theirs, "edge.test"));
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
    let worker = issue(&theirs, "worker.test");
    let mut client = ClientConnection::new(second, config.name_of("worker.test").unwrap()).unwrap();
    let mut server = ServerConnection::new(worker.server().unwrap()).unwrap();
    pass_on(&mut client, &mut server).unwrap();
}

#[test]
fn a_certificate_that_has_ended_takes_no_good_ones_place() {
    let authority = Authority::new("links");
    let config = issue(&authority, "worker.test");
    let tls = LinkTls::server("link.tls", &config).unwrap();
    let mut watch = Watch { tls, now: std::time::Instant::now() };
    let (first, terms) = (watch.tls.current(), watch.tls.terms());
    issue_until(&authority, "worker.test", 2021);
    assert!(Arc::ptr_eq(&first, &watch.looks(9)));
    assert_eq!(watch.tls.terms(), terms);
    issue_until(&authority, "worker.test", 2090);
    assert!(!Arc::ptr_eq(&first, &watch.looks(9)));
    assert!(watch.tls.terms().certificate.until_s < terms.certificate.until_s);
}

//! What is made is accepted by rustls, and nothing that is there is lost.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

use super::*;

fn certificates(path: &Path) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(path).unwrap().collect::<Result<_, _>>().unwrap()
}

fn roots(file: &Path) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file) {
        roots.add(certificate).unwrap();
    }
    Arc::new(roots)
}

/// A handshake in memory between what devices' connections use, with client certificates required.
fn handshake(dir: &Path, name: &str) -> Result<(), rustls::Error> {
    handshake_with(dir, CA, [SERVER, SERVER_KEY], [CLIENT, CLIENT_KEY], name)
}

fn handshake_with(
    dir: &Path,
    ca: &str,
    server: [&str; 2],
    client: [&str; 2],
    name: &str,
) -> Result<(), rustls::Error> {
    let roots = roots(&dir.join(ca));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = |file| PrivateKeyDer::from_pem_file(dir.join(file)).unwrap();
    let verifier =
        WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build().unwrap();
    let server = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&dir.join(server[0])), key(server[1]))?;
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(certificates(&dir.join(client[0])), key(client[1]))?;
    let mut server = ServerConnection::new(Arc::new(server))?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name)?;
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        server.read_tls(&mut wire.as_slice()).unwrap();
        server.process_new_packets()?;
        wire.clear();
        server.write_tls(&mut wire).unwrap();
        client.read_tls(&mut wire.as_slice()).unwrap();
        client.process_new_packets()?;
    }
    Ok(())
}

#[test]
fn both_certificates_are_accepted_for_every_name_of_this_machine() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(ensure(dir.path(), Readers::Everybody).unwrap().len(), 6);
    for name in ["localhost", "127.0.0.1", "::1"] {
        handshake(dir.path(), name).unwrap();
    }
    assert!(handshake(dir.path(), "example.com").is_err());
}

#[test]
fn a_server_is_certified_for_the_names_that_it_is_given() {
    let dir = tempfile::tempdir().unwrap();
    let names = ["mqtt.example.com", "192.0.2.7", "localhost"].map(str::to_owned);
    ensure_for(&names, dir.path(), Readers::Everybody).unwrap();
    for name in ["mqtt.example.com", "192.0.2.7", "127.0.0.1"] {
        handshake(dir.path(), name).unwrap();
    }
    assert!(handshake(dir.path(), "www.example.com").is_err());
}

#[test]
fn tiers_get_an_authority_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    ensure(dir.path(), Readers::Everybody).unwrap();
    assert_eq!(ensure_links(dir.path(), Readers::Everybody).unwrap().len(), 10);
    assert!(ensure_links(dir.path(), Readers::Everybody).unwrap().is_empty());
    for name in ["localhost", "127.0.0.1", WORKER_NAME] {
        handshake_with(dir.path(), LINK_CA, [WORKER, WORKER_KEY], [EDGE, EDGE_KEY], name).unwrap();
    }
    for name in ["localhost", AUTHSVC_NAME] {
        handshake_with(dir.path(), LINK_CA, [AUTHSVC, AUTHSVC_KEY], [EDGE, EDGE_KEY], name).unwrap();
    }
    let device = handshake_with(dir.path(), LINK_CA, [WORKER, WORKER_KEY], [CLIENT, CLIENT_KEY], WORKER_NAME);
    assert!(device.is_err(), "a device's certificate opens no link");
}

#[test]
fn what_is_there_is_kept_and_what_is_missing_is_made_under_the_same_authority() {
    let dir = tempfile::tempdir().unwrap();
    ensure(dir.path(), Readers::Everybody).unwrap();
    let authority = fs::read(dir.path().join(CA)).unwrap();
    assert!(ensure(dir.path(), Readers::Everybody).unwrap().is_empty());
    fs::remove_file(dir.path().join(SERVER)).unwrap();
    assert_eq!(ensure(dir.path(), Readers::Everybody).unwrap(), [SERVER]);
    assert_eq!(fs::read(dir.path().join(CA)).unwrap(), authority);
    handshake(dir.path(), "localhost").unwrap();
}

/// Every file in `dir` with what is in it.
fn contents(dir: &Path) -> std::collections::BTreeMap<std::path::PathBuf, Vec<u8>> {
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    paths.map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

#[test]
fn nothing_is_written_over_where_the_keys_of_authorities_were_taken_out() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    ensure(dir, Readers::Everybody).unwrap();
    ensure_links(dir, Readers::Everybody).unwrap();
    for file in [SERVER, SERVER_KEY] {
        fs::write(dir.join(file), "the operator's own").unwrap();
    }
    fs::remove_file(dir.join(CA_KEY)).unwrap();
    fs::remove_file(dir.join(LINK_CA_KEY)).unwrap();
    let before = contents(dir);
    assert!(ensure(dir, Readers::Everybody).unwrap().is_empty());
    assert!(ensure_links(dir, Readers::Everybody).unwrap().is_empty());
    assert_eq!(contents(dir), before);
    fs::remove_file(dir.join(CA)).unwrap();
    assert!(ensure(dir, Readers::Everybody).unwrap().is_empty(), "an authority that signs nothing");
}

#[test]
fn what_cannot_be_signed_is_said_and_everything_else_is_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    ensure(dir, Readers::Everybody).unwrap();
    ensure_links(dir, Readers::Everybody).unwrap();
    for file in [CA_KEY, CLIENT, CLIENT_KEY, WORKER_KEY, PASSPORT_KEY] {
        fs::remove_file(dir.join(file)).unwrap();
    }
    let before = contents(dir);
    let error = ensure(dir, Readers::Everybody).unwrap_err().to_string();
    assert_eq!(
        error,
        "cannot make client.pem, since ca.key, which signs it, is missing: put either of the two there"
    );
    let error = ensure_links(dir, Readers::Everybody).unwrap_err().to_string();
    assert_eq!(
        error,
        "worker.pem is there without its key worker.key: put the key there, or take the other away"
    );
    fs::remove_file(dir.join(WORKER)).unwrap();
    let error = ensure_links(dir, Readers::Everybody).unwrap_err().to_string();
    assert!(error.starts_with("passport.pem is there without its key"), "{error}");
    for (path, content) in before.iter().filter(|(path, _)| !path.ends_with(WORKER)) {
        assert_eq!(&fs::read(path).unwrap(), content, "{path:?}");
    }
}

#[test]
fn a_certificate_that_is_missing_is_made_for_the_key_that_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    ensure(dir, Readers::Everybody).unwrap();
    ensure_links(dir, Readers::Everybody).unwrap();
    let before = contents(dir);
    for file in [CA, SERVER, PASSPORT] {
        fs::remove_file(dir.join(file)).unwrap();
    }
    assert_eq!(ensure(dir, Readers::Everybody).unwrap(), [CA, SERVER]);
    assert_eq!(ensure_links(dir, Readers::Everybody).unwrap(), [PASSPORT]);
    for file in [CA_KEY, SERVER_KEY, PASSPORT_KEY, PASSPORT, CLIENT] {
        assert_eq!(fs::read(dir.join(file)).unwrap(), before[&dir.join(file)], "{file}");
    }
    handshake(dir, "localhost").unwrap();
}

#[cfg(unix)]
#[test]
fn private_keys_are_for_the_owner_only() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    ensure(dir.path(), Readers::Everybody).unwrap();
    ensure_links(dir.path(), Readers::Everybody).unwrap();
    for file in [CA_KEY, SERVER_KEY, CLIENT_KEY, LINK_CA_KEY, EDGE_KEY, WORKER_KEY, PASSPORT_KEY] {
        let mode = fs::metadata(dir.path().join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
}

#[test]
fn what_a_process_with_the_same_id_left_is_not_in_the_way() {
    let dir = tempfile::tempdir().unwrap();
    let left = dir.path().join(format!("{SERVER_KEY}.{}.new", std::process::id()));
    fs::write(&left, "half of a key").unwrap();
    ensure(dir.path(), Readers::Everybody).unwrap();
    assert!(!left.exists());
    handshake(dir.path(), "localhost").unwrap();
}

#[test]
fn certificates_made_before_the_clock_is_set_are_good_afterwards() {
    let validity = |since_epoch| validity_at(since_epoch, CertificateParams::default());
    let in_1970 = validity(Duration::from_secs(60));
    assert!(in_1970.not_before < date_time_ymd(1970, 1, 2));
    assert!(in_1970.not_after > date_time_ymd(2035, 1, 1));
    let later = validity(Duration::from_secs(1_900_000_000));
    assert!(later.not_after > date_time_ymd(2040, 1, 1));
}

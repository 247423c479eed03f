//! A Redis that only speaks TLS.

use state::{ConnectError, Enqueued, Number, RedisConfig, RedisStore};

use crate::harness::{Calls, claim};
use crate::servers::{Server, free_port, gate};
use crate::stores::{InRedis, config_for, runtime};

#[test]
fn the_certificate_of_redis_is_checked() {
    gate();
    let dir = tempfile::tempdir().expect("a directory");
    let write = |name: &str, pem: String| {
        let path = dir.path().join(name);
        std::fs::write(&path, pem).expect("written");
        path
    };
    let key = rcgen::KeyPair::generate().expect("a key");
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let certificate = rcgen::CertificateParams::new(names)
        .and_then(|params| params.self_signed(&key))
        .expect("a certificate");
    let ca = write("ca.pem", certificate.pem());
    let key = write("key.pem", key.serialize_pem());
    let other_key = rcgen::KeyPair::generate().expect("a key");
    let other = rcgen::CertificateParams::new(vec!["localhost".to_owned()])
        .and_then(|params| params.self_signed(&other_key))
        .expect("a certificate");
    let stranger = write("stranger.pem", other.pem());
    let (ca_text, key_text) = (ca.to_string_lossy(), key.to_string_lossy());
    let port = free_port();
    let server = Server::start_on(
        port,
        &[
            "--port",
            "0",
            "--tls-port",
            &port.to_string(),
            "--tls-cert-file",
            &ca_text,
            "--tls-key-file",
            &key_text,
            "--tls-ca-cert-file",
            &ca_text,
            "--tls-auth-clients",
            "no",
            "--requirepass",
            "secret",
        ],
    );
    let urls = vec![format!("rediss://:secret@127.0.0.1:{}", server.port)];
    let trusting = RedisConfig { tls_ca_file: Some(ca), ..config_for(urls) };
    let redis = InRedis::open(trusting.clone());
    let owner = Calls(redis.store()).own(claim("a")).fence;
    assert_eq!(Calls(redis.store()).enqueue(&owner.session, "x"), Enqueued::At(Number(1)));
    let wary = RedisConfig { tls_ca_file: Some(stranger), ..trusting };
    let Err(error) = runtime().block_on(RedisStore::connect(wary)) else { panic!("connected") };
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error}");
    assert!(!format!("{error:?}").contains("secret"));
}

//! What passes over one link, in both directions.

use std::sync::Arc;

use ::link::{CloseCause, LinkTlsConfig, Passport, PassportVerifier};
use mqtt::{QoS, ReasonCode};
use testkit::authority::Authority;
use tokio::time::Duration;
use tokio_rustls::TlsAcceptor;

use super::device::{Received, TestDevice, publish};
use super::worker::{FakeWorker, Store};
use super::{Setup, config, packet};
use crate::fake::eventually;
use crate::upstream::Workers;

#[tokio::test]
async fn packets_pass_both_ways_and_the_end_is_told() {
    let setup = Setup::new(1).await;
    let (mut device, _) = setup.device(7).await;
    assert_eq!(device.publish_all(500, 20).await, vec![1; 500]);
    let payloads = setup.store.published.lock()[&7].clone();
    assert!(
        payloads.iter().map(|payload| payload.to_vec()).eq((1_u16..=500).map(|n| n.to_be_bytes().to_vec()))
    );
    for number in 0..300_u16 {
        setup.fakes[0].push(7, publish(QoS::AtMostOnce, 1, &[number as u8; 600]));
        assert_eq!(packet(device.next().await).len(), 600 + 7);
    }
    device.close(CloseCause::Shutdown);
    eventually("the end", || *setup.store.closed.lock() == [(7, CloseCause::Shutdown)]).await;
    assert_eq!(setup.workers.stop(Duration::from_secs(5)).await, 0);
}

#[tokio::test]
async fn a_worker_learns_who_is_there_and_can_believe_it() {
    let setup = Setup::new(1).await;
    let (mut device, _) = setup.device(7).await;
    let open = setup.fakes[0].opens().remove(0);
    assert_eq!(open.peer.address.to_string(), "192.0.2.1:1");
    assert_eq!((&*open.peer.listener, open.server_keep_alive_s), ("test", Some(60)));
    let subject = open.peer.certificate_subject;
    assert_eq!(subject.as_deref(), Some("CN=device"));

    let pem = std::fs::read(setup.folder.path().join("passport.pem")).expect("key");
    let public = ::link::PassportSigner::from_pem(&pem).expect("key").public_pem().to_owned();
    let verifier = PassportVerifier::from_pems(&[public], Duration::from_secs(5)).expect("key");
    assert_eq!(&*verifier.verify(&open.passport).expect("good").client_id, "device-7");

    device.renew(Passport::unrestricted("other".into(), "device-7".into()));
    eventually("the renewed passport", || setup.fakes[0].tokens().len() == 1).await;
    let renewed = verifier.verify(&setup.fakes[0].tokens()[0]).expect("good");
    assert_eq!(&*renewed.subject, "other");
}

#[tokio::test]
async fn a_dropped_stream_is_an_abnormal_end() {
    let setup = Setup::new(1).await;
    let (device, _) = setup.device(7).await;
    drop(device);
    eventually("the end", || *setup.store.closed.lock() == [(7, CloseCause::Abnormal)]).await;
}

#[tokio::test]
async fn the_last_words_of_a_worker_come_before_the_end() {
    let setup = Setup::new(1).await;
    let (mut device, _) = setup.device(7).await;
    setup.fakes[0].push(7, publish(QoS::AtMostOnce, 1, b"x"));
    setup.fakes[0].end(7, ReasonCode::SessionTakenOver, b"\xE0\x01\x8E");
    assert_eq!(packet(device.next().await)[0], 0x30);
    assert_eq!(packet(device.next().await), &b"\xE0\x01\x8E"[..]);
}

#[tokio::test]
async fn a_worker_that_is_full_stops_the_device_and_not_for_ever() {
    let setup = Setup::new(1).await;
    let (mut device, _) = setup.device(7).await;
    setup.fakes[0].manner(|manner| manner.holds_packets = true);
    let mut sent: u16 = 0;
    while device.is_ready().await {
        sent += 1;
        device.push(&publish(QoS::AtLeastOnce, sent, &[0; 2_000])).expect("taken");
        assert!(sent < 1_000, "it never stops");
    }
    assert!(sent > 100, "{sent}");
    let worker = setup.fakes[0].address;
    // The link is cut, the worker comes to its senses, and everything is sent again.
    setup.fakes[0].manner(|manner| manner.holds_packets = false);
    setup.fakes[0].cut();
    for _ in 0..sent {
        assert_eq!(packet(device.next().await)[0], 0x40);
    }
    assert!(device.is_ready().await, "{worker}");
}

fn issue(authority: &Authority, name: &str) -> LinkTlsConfig {
    let (certificate_file, key_file) = authority.keep(name, &authority.issue(name, &[name]));
    LinkTlsConfig { certificate_file, key_file, ca_file: authority.path("ca.pem"), server_name: None }
}

#[tokio::test]
async fn links_can_be_mutual_tls_and_then_strangers_get_none() {
    let authority = Authority::new("links");
    let acceptor = TlsAcceptor::from(issue(&authority, "127.0.0.1").server().expect("files"));
    let store = Arc::new(Store::default());
    let fake = FakeWorker::start(&store, Some(acceptor)).await;
    let folder = tempfile::tempdir().expect("folder");
    let start = |tls| {
        let config = crate::upstream::WorkersConfig { tls, ..config(&[fake.address], &folder) };
        Workers::start(config, &mut prometheus_client::registry::Registry::default()).expect("started")
    };
    let workers = start(Some(issue(&authority, "edge")));
    eventually("a link", || workers.is_ready()).await;
    let mut device = TestDevice::connect(&workers, 7).await;
    assert_eq!(device.publish_all(100, 10).await, vec![1; 100]);

    let strangers = Authority::new("strangers");
    let ca_file = authority.path("ca.pem");
    let stranger = start(Some(LinkTlsConfig { ca_file, ..issue(&strangers, "edge") }));
    let plain = start(None);
    let failures = |workers: &Workers| workers.0.devices.metrics.link_failures.get();
    eventually("both have failed", || failures(&stranger) > 1 && failures(&plain) > 1).await;
    assert!(!stranger.is_ready() && !plain.is_ready());
}

#[tokio::test]
async fn a_device_is_told_when_its_packet_is_too_large_for_the_worker() {
    let setup = Setup::with(1, |config| config.packet_bytes_max = 4 << 20).await;
    let (mut device, _) = setup.device(7).await;
    let large = publish(QoS::AtLeastOnce, 1, &vec![0; 2 << 20]);
    assert_eq!(device.push(&large), Err(ReasonCode::PacketTooLarge));
    assert_eq!(device.next().await, Received::Packet(b"\xE0\x01\x95"[..].into()));
}

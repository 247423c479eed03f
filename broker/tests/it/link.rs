//! Devices behind a link over TCP: what the worker's end does for each, and what becomes of them when the link goes.

use std::time::Duration;

use broker::LinkConfig;
use link::wire::RefuseReason;
use link::{LinkTlsConfig, Passport};
use mqtt::ReasonCode;
use state::MemoryStore;
use testkit::authority::Authority;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::device::{Got, How};
use crate::edge::{Edge, Worker, sign};

fn puback(id: u8) -> Got {
    Got::Other { first_byte: 0x40, body: vec![0, id] }
}

fn publish(topic: &str, payload: &[u8], qos: u8, id: u16) -> Got {
    let id = (qos > 0).then_some(id);
    Got::Publish { topic: topic.into(), payload: payload.into(), qos, dup: false, retain: false, id }
}

#[tokio::test]
async fn two_devices_talk_over_one_link() {
    let worker = Worker::new(&MemoryStore::new()).await;
    let mut edge = Edge::dial(&worker).await;
    edge.connect(&How::stored("subscriber")).await;
    edge.connect(&How::clean("publisher")).await;
    assert_eq!(worker.links.streams(), 2);
    edge.subscribe("subscriber", 1, "t", 2);
    assert_eq!(edge.got("subscriber").await, Got::Other { first_byte: 0x90, body: vec![0, 1, 0, 2] });
    for qos in 0..3 {
        edge.publish("publisher", qos, 1 + qos, "t", &[qos]);
    }
    assert_eq!(edge.got("publisher").await, puback(2));
    assert_eq!(edge.got("publisher").await, Got::Other { first_byte: 0x50, body: vec![0, 3] });
    edge.acknowledge("publisher", 0x62, 3);
    assert_eq!(edge.got("publisher").await, Got::Other { first_byte: 0x70, body: vec![0, 3] });
    for qos in 0..3 {
        assert_eq!(edge.got("subscriber").await, publish("t", &[qos], qos, qos.into()));
    }
    edge.acknowledge("subscriber", 0x40, 1);
    edge.acknowledge("subscriber", 0x50, 2);
    assert_eq!(edge.got("subscriber").await, Got::Other { first_byte: 0x62, body: vec![0, 2] });
    edge.acknowledge("subscriber", 0x70, 2);
    edge.close("publisher");
    edge.until("the close is durable", |edge| edge.device("publisher").is_finished).await;
    edge.send("subscriber", &[0xE0, 0]);
    edge.until("the end", |edge| edge.device("subscriber").closed.is_some()).await;
    assert_eq!(worker.links.streams(), 0);
    assert!(edge.cut().is_empty(), "nothing is left to replay");
}

#[tokio::test]
async fn a_worker_tells_for_how_long_it_keeps_sessions() {
    let config = LinkConfig { handoff_grace_ms: 12_345, ..LinkConfig::default() };
    let worker = Worker::with(&MemoryStore::new(), config).await;
    assert_eq!(Edge::dial(&worker).await.handoff_grace_ms, 12_345);
}

#[tokio::test]
async fn frames_are_durable_when_they_are_answered_or_in_the_store() {
    let store = MemoryStore::new();
    let worker = Worker::new(&store).await;
    let mut edge = Edge::dial(&worker).await;
    edge.connect(&How::stored("device")).await;
    edge.subscribe("device", 1, "t", 1);
    edge.publish("device", 1, 2, "t", b"x");
    assert_eq!(edge.drain("device").await.len(), 3, "SUBACK, PUBACK, PUBLISH");
    store.hold();
    // The PUBACK has its effect, but the store has not said so.
    edge.acknowledge("device", 0x40, 1);
    edge.publish("device", 1, 3, "t", b"y");
    edge.settle().await;
    assert!(store.held() >= 2);
    assert!(edge.device("device").packets.is_empty(), "no PUBACK before the store has the message");
    store.let_go();
    assert_eq!(edge.drain("device").await.len(), 2);
    let adrift = edge.cut();
    assert_eq!(adrift["device"].replay.len(), 0);
}

#[tokio::test]
async fn what_the_store_has_not_answered_is_replayed() {
    let store = MemoryStore::new();
    let worker = Worker::new(&store).await;
    let mut edge = Edge::dial(&worker).await;
    edge.connect(&How::stored("device")).await;
    edge.subscribe("device", 1, "t", 1);
    edge.publish("device", 1, 2, "t", b"x");
    assert_eq!(edge.drain("device").await.len(), 3);
    store.hold();
    edge.acknowledge("device", 0x40, 1);
    edge.publish("device", 1, 3, "t", b"y");
    edge.settle().await;
    // A report that did not wait for the store would be here by now.
    edge.settle().await;
    edge.send("device", &[0xE0, 0]);
    edge.settle().await;
    assert_eq!(edge.cut()["device"].replay.len(), 3);
}

#[tokio::test]
async fn passports_that_are_not_good_are_refused() {
    let worker = Worker::new(&MemoryStore::new()).await;
    let mut edge = Edge::dial(&worker).await;
    let how = How::clean("device");
    let good = Passport::unrestricted("".into(), "device".into());
    let foreign = sign(&Passport { client_id: "other".into(), ..good.clone() });
    let expired = sign(&Passport { expires_at_s: Some(1), ..good.clone() });
    let mut forged = sign(&good).to_vec();
    *forged.last_mut().unwrap() ^= 4;
    for token in [foreign, expired, forged.into(), bytes::Bytes::new()] {
        edge.open(&how, token);
        edge.until("a refusal", |edge| edge.device("device").refused.is_some()).await;
        assert_eq!(edge.device("device").refused, Some(RefuseReason::Passport));
    }
    edge.connect(&how).await;
    edge.renew("device", sign(&good));
    edge.publish("device", 1, 2, "t", b"x");
    edge.got("device").await;
    edge.renew("device", sign(&Passport { client_id: "other".into(), ..good }));
    edge.until("the end", |edge| edge.device("device").closed.is_some()).await;
    let (reason, packet) = edge.device("device").closed.clone().unwrap();
    assert_eq!((reason, packet[2]), (ReasonCode::NotAuthorized, 0x87));
}

#[tokio::test]
async fn a_passport_that_expires_ends_the_connection() {
    let config = LinkConfig { passport_grace_ms: 0, ..LinkConfig::default() };
    let worker = Worker::with(&MemoryStore::new(), config).await;
    let mut edge = Edge::dial(&worker).await;
    let good = Passport::unrestricted("".into(), "device".into());
    let now_s = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    edge.open(&How::clean("device"), sign(&Passport { expires_at_s: Some(now_s + 2), ..good }));
    edge.until("the end", |edge| edge.device("device").closed.is_some()).await;
    assert_eq!(edge.device("device").closed.as_ref().unwrap().0, ReasonCode::NotAuthorized);
}

#[tokio::test]
async fn a_device_that_does_not_read_delays_nobody_and_misses_nothing() {
    const MESSAGES: u8 = 200;
    let worker = Worker::new(&MemoryStore::new()).await;
    let mut edge = Edge::dial(&worker).await;
    edge.connect(&How::stored("slow")).await;
    edge.connect(&How::stored("fast")).await;
    edge.connect(&How::clean("publisher")).await;
    for name in ["slow", "fast"] {
        edge.subscribe(name, 1, "t", 1);
        edge.got(name).await;
    }
    edge.device_mut("slow").reads = false;
    let body = vec![7; 5000];
    for n in 0..MESSAGES {
        let packet = [&[0x32, 0x8E, 0x27, 0, 1, b't', 0, n + 1, 0, n][..], &body].concat();
        let length = packet.len() - 3;
        let head = [(length % 128) as u8 | 0x80, (length / 128) as u8];
        let packet = [&packet[..1], &head, &packet[3..]].concat();
        edge.send("publisher", &packet);
        assert_eq!(edge.got("publisher").await, puback(n + 1));
        let Got::Publish { payload, .. } = edge.got("fast").await else { panic!() };
        assert_eq!(payload[0], n);
    }
    let came = edge.device("slow").packets.len();
    assert!(came < 20, "{came} packets are more than the window and one packet");
    edge.read_again("slow");
    for n in 0..MESSAGES {
        let Got::Publish { payload, .. } = edge.got("slow").await else { panic!() };
        assert_eq!((payload[0], payload.len()), (n, 5001));
    }
}

#[tokio::test]
async fn a_link_that_is_no_link_is_closed() {
    let worker = Worker::new(&MemoryStore::new()).await;
    let mut good = Edge::dial(&worker).await;
    good.connect(&How::clean("device")).await;
    let mut bad = Edge::dial(&worker).await;
    for seed in 0..50_u32 {
        let bytes: Vec<u8> =
            (0..64).map(|n| (seed.wrapping_mul(2_654_435_761).rotate_left(n) >> 7) as u8).collect();
        let mut raw = TcpStream::connect(worker.address()).await.unwrap();
        let _refused = tokio::io::AsyncWriteExt::write_all(&mut raw, &bytes).await;
    }
    // PACKET on a stream that was never opened.
    bad.write(&[0, 0, 0, 9, 5, 0, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0, 1, 0xE0, 0]).await;
    bad.until("the link is closed", |edge| edge.is_over).await;
    good.publish("device", 1, 1, "t", b"x");
    good.got("device").await;
}

#[tokio::test]
async fn links_and_devices_beyond_the_bounds_are_refused() {
    let config = LinkConfig { links_max: 1, streams_max: 2, ..LinkConfig::default() };
    let worker = Worker::with(&MemoryStore::new(), config).await;
    let mut edge = Edge::dial(&worker).await;
    let mut second = TcpStream::connect(worker.address()).await.unwrap();
    let read = tokio::io::AsyncReadExt::read(&mut second, &mut [0; 16]).await;
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    for name in ["first", "second", "third"] {
        edge.open(&How::clean(name), sign(&Passport::unrestricted("".into(), name.into())));
    }
    edge.until("a refusal", |edge| edge.device("third").refused.is_some()).await;
    assert_eq!(edge.device("third").refused, Some(RefuseReason::Overloaded));
    edge.close("first");
    edge.until("the close", |edge| edge.device("first").is_finished).await;
    edge.connect(&How::clean("third")).await;
}

#[tokio::test]
async fn a_worker_that_drains_waits_until_its_devices_have_gone() {
    let worker = Worker::new(&MemoryStore::new()).await;
    let mut edge = Edge::dial(&worker).await;
    edge.connect(&How::stored("device")).await;
    let drained = worker.links.drain(Duration::from_secs(10));
    let moved = async {
        edge.until("DRAIN", |edge| edge.is_draining).await;
        let adrift = edge.give_up("device");
        edge.until("the stream goes", |_| worker.links.streams() == 0).await;
        assert_eq!(adrift.replay.len(), 0);
    };
    let (left, ()) = tokio::join!(drained, moved);
    assert_eq!(left, 0);
    assert_eq!(worker.broker.connected(), 0);
}

#[tokio::test]
async fn a_link_is_encrypted_and_shows_both_certificates() {
    let authority = Authority::new("links");
    let (certificate_file, key_file) = authority.keep("link", &authority.issue("link", &["127.0.0.1"]));
    let ca_file = authority.path("ca.pem");
    let tls = LinkTlsConfig { certificate_file, key_file, ca_file, server_name: None };
    let config = LinkConfig { tls: Some(tls.clone()), ..LinkConfig::default() };
    let worker = Worker::with(&MemoryStore::new(), config).await;
    let tcp = TcpStream::connect(worker.address()).await.unwrap();
    let connector = TlsConnector::from(tls.client().unwrap());
    let socket = connector.connect(tls.name_of("127.0.0.1").unwrap(), tcp).await.unwrap();
    let mut edge = Edge::over(socket).await;
    edge.connect(&How::clean("device")).await;
    edge.publish("device", 1, 1, "t", &[7; 100]);
    edge.got("device").await;
    // Without TLS, nobody says HELLO.
    let mut plain = TcpStream::connect(worker.address()).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut plain, &[0; 64]).await.unwrap();
    let mut read = Vec::new();
    let _closed = tokio::io::AsyncReadExt::read_to_end(&mut plain, &mut read).await;
    assert!(!read.windows(4).any(|four| four == b"TGlk"));
    assert_eq!(worker.links.streams(), 1);
}

#[tokio::test]
async fn devices_that_are_not_moved_in_time_are_let_go() {
    let store = MemoryStore::new();
    let worker = Worker::new(&store).await;
    let mut edge = Edge::dial(&worker).await;
    edge.connect(&How::stored("device")).await;
    let drained = worker.links.drain(Duration::from_millis(100));
    let watched = edge.until("the link is cut", |edge| edge.is_over);
    let (left, ()) = tokio::join!(drained, watched);
    assert_eq!((left, worker.links.streams(), worker.broker.connected()), (1, 0, 0));
}

#[tokio::test]
async fn idle_devices_cost_no_task() {
    let worker = Worker::new(&MemoryStore::new()).await;
    let mut edge = Edge::dial(&worker).await;
    edge.connect(&How::clean("first")).await;
    let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    for n in 0..500 {
        edge.connect(&How::clean(&n.to_string())).await;
    }
    assert_eq!(worker.links.streams(), 501);
    assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), tasks);
}

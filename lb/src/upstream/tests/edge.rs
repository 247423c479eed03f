//! A whole edge in front of workers: what a device sees of it on its socket.

use std::net::SocketAddr;
use std::sync::Arc;

use ::link::CloseCause;
use mqtt::QoS;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Duration, Instant, timeout};

use super::device::{open, publish};
use super::worker::FakeWorker;
use super::{Setup, config};
use crate::fake::{FakeAuthenticator, PATIENCE, eventually};
use crate::{Edge, EdgeConfig, ListenerConfig, ListenerKind};

const PINGREQ: &[u8] = b"\xC0\0";
const PINGRESP: &[u8] = b"\xD0\0";

fn edge(setup: &Setup, open_timeout_ms: u32) -> Edge {
    let mut config = EdgeConfig { open_timeout_ms, ..EdgeConfig::default() };
    let listener = ListenerConfig::new(SocketAddr::from(([127, 0, 0, 1], 0)), ListenerKind::Mqtt);
    config.listeners.insert("mqtt".to_owned(), listener);
    let mut registry = prometheus_client::registry::Registry::default();
    Edge::start(config, setup.workers.clone(), Arc::new(FakeAuthenticator), &mut registry).expect("started")
}

async fn expect(io: &mut TcpStream, bytes: &[u8]) {
    let mut read = vec![0; bytes.len()];
    let outcome = timeout(PATIENCE, io.read_exact(&mut read)).await;
    outcome.unwrap_or_else(|_| panic!("{bytes:x?} did not come")).expect("read");
    assert_eq!(read, bytes);
}

async fn connect(edge: &Edge, number: u128) -> TcpStream {
    let mut io = TcpStream::connect(edge.addresses()["mqtt"]).await.expect("connected");
    io.write_all(&open(number, mqtt::ProtocolVersion::V5).connect).await.expect("written");
    io
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_sees_nothing_of_a_worker_that_dies_and_pingreq_is_answered_all_along() {
    let mut setup = Setup::with(1, |config| config.backoff_max_ms = 125).await;
    let edge = edge(&setup, 10_000);
    let mut io = connect(&edge, 7).await;
    expect(&mut io, b"\x20\x06\0\0\x03\x22\0\0").await;
    io.write_all(&publish(QoS::AtLeastOnce, 1, b"a")).await.expect("written");
    expect(&mut io, b"\x40\x02\0\x01").await;
    let dead = setup.fakes.remove(0);
    let address = dead.address;
    dead.kill().await;
    eventually("it has no worker", || setup.metric("workers_moving") == 1.0).await;
    io.write_all(&publish(QoS::AtLeastOnce, 2, b"b")).await.expect("written");
    for _ in 0..3 {
        io.write_all(PINGREQ).await.expect("written");
        expect(&mut io, PINGRESP).await;
    }
    let again = FakeWorker::start_at(address, &setup.store, None).await;
    expect(&mut io, b"\x40\x02\0\x02").await;
    let published = setup.store.published.lock().clone();
    assert_eq!(published.values().flatten().collect::<Vec<_>>(), [&b"a"[..], b"b"]);

    // The edge leaves: the device is told, and so is the worker.
    assert_eq!(edge.drain(PATIENCE).await, 0);
    expect(&mut io, b"\xE0\x01\x8B").await;
    assert_eq!(setup.workers.stop(PATIENCE).await, 0);
    let closed = setup.store.closed.lock().clone();
    assert!(matches!(closed[..], [(_, CloseCause::Shutdown)]), "{closed:?}");
    drop(again);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_any_worker_a_connect_is_refused_in_time() {
    let mut setup = Setup::new(1).await;
    setup.fakes.remove(0).kill().await;
    eventually("none is up", || !setup.workers.is_ready()).await;
    let edge = edge(&setup, 300);
    let mut io = connect(&edge, 7).await;
    expect(&mut io, b"\x20\x03\0\x88\0").await;
    let mut rest = Vec::new();
    timeout(PATIENCE, io.read_to_end(&mut rest)).await.expect("closed").expect("read");
    assert!(rest.is_empty());
    assert_eq!(setup.workers.stop(PATIENCE).await, 0);
}

#[tokio::test]
async fn an_edge_that_cannot_tell_its_workers_does_not_wait_for_ever() {
    let mut setup = Setup::new(1).await;
    let (device, _) = setup.device(7).await;
    setup.fakes.remove(0).kill().await;
    device.close(CloseCause::Shutdown);
    assert_eq!(setup.workers.stop(Duration::from_millis(300)).await, 1);
}

#[tokio::test]
async fn what_cannot_be_used_is_named() {
    let folder = tempfile::tempdir().expect("folder");
    let mut registry = prometheus_client::registry::Registry::default();
    let mut wrong = config(&[], &folder);
    wrong.passport.signing_key_file = Some(folder.path().join("missing.pem"));
    let error = crate::upstream::Workers::start(wrong, &mut registry).map(|_| ()).expect_err("no key");
    assert_eq!(error.to_string(), "workers.passport.signing_key_file cannot be used");
    let mut wrong = config(&[], &folder);
    wrong.links_per_worker = 0;
    let error = crate::upstream::Workers::start(wrong, &mut registry).map(|_| ()).expect_err("no links");
    assert_eq!(error.to_string(), "workers.links_per_worker = 0: must be 1 to 16");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_that_drains_tells_all_devices_and_their_workers() {
    const DEVICES: u128 = 30;
    let setup = Setup::new(3).await;
    let edge = edge(&setup, 10_000);
    let mut sockets = Vec::new();
    for number in 0..DEVICES {
        let mut io = connect(&edge, number).await;
        expect(&mut io, b"\x20\x06\0\0\x03\x22\0\0").await;
        sockets.push(io);
    }
    // One has not been answered yet: it is told nothing before CONNACK, v5 [MQTT-3.2.0-1], and closed.
    setup.fakes.iter().for_each(|fake| fake.manner(|manner| manner.is_mute = true));
    let mut waiting = connect(&edge, DEVICES).await;
    eventually("it was asked for", || edge.connections() as u128 == DEVICES + 1).await;
    let started = Instant::now();
    assert_eq!(edge.drain(PATIENCE).await, 0);
    for io in &mut sockets {
        let mut rest = Vec::new();
        timeout(PATIENCE, io.read_to_end(&mut rest)).await.expect("closed").expect("read");
        assert_eq!(rest, b"\xE0\x01\x8B");
    }
    // What was read is not sure: it may be cut off.
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE, waiting.read_to_end(&mut rest)).await.expect("closed");
    assert!(rest.is_empty());
    setup.workers.stop(Duration::from_millis(500)).await;
    assert!(started.elapsed() < PATIENCE);
    let closed = setup.store.closed.lock().clone();
    assert_eq!(closed.len() as u128, DEVICES);
    assert!(closed.iter().all(|(_, cause)| *cause == CloseCause::Shutdown), "{closed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_without_any_worker_drains_in_time_and_devices_are_told() {
    let mut setup = Setup::new(1).await;
    let edge = edge(&setup, 10_000);
    let mut io = connect(&edge, 7).await;
    expect(&mut io, b"\x20\x06\0\0\x03\x22\0\0").await;
    setup.fakes.remove(0).kill().await;
    eventually("it has no worker", || setup.metric("workers_moving") == 1.0).await;
    let waiting = connect(&edge, 8).await;
    let started = Instant::now();
    let drain = tokio::spawn(edge.drain(6 * PATIENCE));
    expect(&mut io, b"\xE0\x01\x8B").await;
    drop(io);
    drop(waiting);
    assert_eq!(drain.await.expect("drained"), 0);
    assert_eq!(setup.workers.stop(Duration::from_millis(300)).await, 1, "no worker knows that it has left");
    assert!(started.elapsed() < 3 * PATIENCE, "{:?}", started.elapsed());
}

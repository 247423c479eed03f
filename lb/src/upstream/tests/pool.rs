//! Which workers there are, and which of them are asked.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use http_body_util::Empty;
use hyper::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use mqtt::{ProtocolVersion, QoS};
use tokio::net::TcpListener;
use tokio::time::Duration;

use super::device::{TestDevice, publish};
use super::worker::FakeWorker;
use super::{Setup, packet};
use crate::fake::eventually;
use crate::upstream::discovery::list;

fn listed(fakes: &[&FakeWorker]) -> BTreeMap<SocketAddr, String> {
    fakes.iter().map(|fake| (fake.address, "127.0.0.1".to_owned())).collect()
}

#[tokio::test]
async fn workers_come_and_go_with_the_list() {
    let setup = Setup::new(2).await;
    let (mut device, place) = setup.device(7).await;
    let shared = &setup.workers.0;
    let kept = &setup.fakes[1 - place];
    let third = FakeWorker::start(&setup.store, None).await;
    list(shared, &listed(&[kept, &third]));
    setup.all_up(2).await;
    // The one that is not listed keeps the device that it has, and gets no other.
    assert_eq!(device.publish_all(10, 2).await, [1; 10]);
    for connection in 100..130 {
        drop(TestDevice::connect(&setup.workers, connection).await);
    }
    assert_eq!(setup.fakes[place].opens().len(), 1);
    assert!(!third.opens().is_empty());
    drop(device);
    eventually("its links are closed", || {
        list(shared, &listed(&[kept, &third]));
        shared.workers.lock().len() == 2
    })
    .await;
}

#[tokio::test]
async fn without_a_worker_a_connect_waits_for_one() {
    let mut setup = Setup::with(1, |config| config.backoff_max_ms = 125).await;
    let dead = setup.fakes.remove(0);
    let address = dead.address;
    dead.kill().await;
    eventually("none is up", || !setup.workers.is_ready()).await;
    let mut device = TestDevice::begin(&setup.workers, 7);
    let gone = TestDevice::begin(&setup.workers, 8);
    assert!(device.next_within(Duration::from_millis(100)).await.is_none());
    // One gives up meanwhile: no worker is bothered with it.
    drop(gone);
    let again = FakeWorker::start_at(address, &setup.store, None).await;
    assert_eq!(packet(device.next().await)[0], 0x20);
    assert_eq!(again.opens().len(), 1);
}

#[tokio::test]
async fn names_are_resolved_and_one_that_cannot_be_harms_nobody() {
    let store = std::sync::Arc::default();
    let fake = FakeWorker::start(&store, None).await;
    let folder = tempfile::tempdir().expect("folder");
    let mut config = super::config(&[], &folder);
    config.addresses =
        vec!["does-not-exist.invalid:7883".to_owned(), format!("localhost:{}", fake.address.port())];
    config.resolve_interval_ms = 100;
    let mut registry = prometheus_client::registry::Registry::default();
    let workers = super::Workers::start(config, &mut registry).expect("started");
    eventually("a link", || workers.is_ready()).await;
    drop(TestDevice::connect(&workers, 1).await);
}

#[tokio::test]
async fn load_is_bounded() {
    let setup = Setup::with(3, |config| config.load_factor = 1.1).await;
    let ring = setup.workers.0.ring.load_full();
    let is_first = |connection: &u128| {
        let best = ring.candidates(&format!("device-{connection}")).next();
        best.is_some_and(|worker| worker.address == setup.fakes[0].address)
    };
    let mut devices = Vec::new();
    // All of them would be at the same worker.
    for connection in (0..).filter(is_first).take(150) {
        devices.push(TestDevice::connect(&setup.workers, connection).await);
    }
    for fake in &setup.fakes {
        assert!(fake.opens().len() <= 55, "{}", fake.opens().len());
    }
}

/// An admin endpoint that answers as it is told.
async fn admin(listener: TcpListener, status: StatusCode) {
    loop {
        let Ok((io, _)) = listener.accept().await else { return };
        let service = hyper::service::service_fn(move |_| async move {
            let mut answer = Response::new(Empty::<bytes::Bytes>::new());
            *answer.status_mut() = status;
            Ok::<_, std::convert::Infallible>(answer)
        });
        tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(io), service));
    }
}

#[tokio::test]
async fn a_worker_that_says_it_is_not_ready_gets_nothing_unless_none_is() {
    let store = std::sync::Arc::default();
    let at = |ip: [u8; 4]| SocketAddr::from((ip, 0));
    let good = FakeWorker::start_at(at([127, 0, 0, 1]), &store, None).await;
    let bad = FakeWorker::start_at(at([127, 0, 0, 2]), &store, None).await;
    let first = TcpListener::bind(at([127, 0, 0, 1])).await.expect("bound");
    let port = first.local_addr().expect("address").port();
    let second = TcpListener::bind(("127.0.0.2", port)).await.expect("bound");
    let serving = tokio::spawn(admin(first, StatusCode::OK));
    tokio::spawn(admin(second, StatusCode::SERVICE_UNAVAILABLE));
    let folder = tempfile::tempdir().expect("folder");
    let mut config = super::config(&[good.address, bad.address], &folder);
    config.health.admin_port = Some(port);
    config.health.interval_ms = 100;
    let mut registry = prometheus_client::registry::Registry::default();
    let workers = super::Workers::start(config, &mut registry).expect("started");
    let on_ring = |fake: &FakeWorker| {
        let ring = workers.0.ring.load();
        ring.candidates("x").any(|worker| worker.address == fake.address)
    };
    eventually("only the good one", || on_ring(&good) && !on_ring(&bad)).await;
    // When none is ready, both are better than nobody.
    serving.abort();
    eventually("both", || on_ring(&good) && on_ring(&bad)).await;
    let mut device = TestDevice::begin_as(&workers, 1, ProtocolVersion::V5);
    assert_eq!(packet(device.next().await)[0], 0x20);
    device.send(&publish(QoS::AtLeastOnce, 1, b"x")).await;
    assert_eq!(packet(device.next().await)[0], 0x40);
}

#[tokio::test]
async fn a_worker_that_is_listed_again_has_all_its_links() {
    let setup = Setup::new(1).await;
    let (device, _) = setup.device(7).await;
    let shared = &setup.workers.0;
    let links = || shared.workers.lock().values().map(|worker| worker.links()).sum::<usize>();
    eventually("both links", || links() == 2).await;
    list(shared, &listed(&[]));
    eventually("the one without a stream is closed", || links() == 1).await;
    list(shared, &listed(&[&setup.fakes[0]]));
    eventually("both links again", || links() == 2).await;
    drop(device);
}

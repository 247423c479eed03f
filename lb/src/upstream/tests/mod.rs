//! Devices at an edge, and workers that die, stand still, leave and refuse; over real sockets.

mod device;
mod edge;
mod farewell;
mod handoff;
mod link;
mod pacing;
mod pool;
mod rebalance;
mod storeless;
mod terms;
mod worker;

use std::net::SocketAddr;
use std::sync::Arc;

use mqtt::ProtocolVersion;
use prometheus_client::registry::Registry;
use tempfile::TempDir;
use testkit::authority::write_passport_key;
use testkit::metrics;

use self::device::{Received, TestDevice};
use self::worker::{FakeWorker, Store};
use super::{PassportConfig, Workers, WorkersConfig};
use crate::fake::eventually;

/// An edge's workers, and what they write their state to.
struct Setup {
    workers: Workers,
    store: Arc<Store>,
    fakes: Vec<FakeWorker>,
    registry: Registry,
    folder: TempDir,
}

fn config(addresses: &[SocketAddr], folder: &TempDir) -> WorkersConfig {
    let key_file = folder.path().join("passport.pem");
    if !key_file.exists() {
        write_passport_key(&key_file);
    }
    WorkersConfig {
        addresses: addresses.iter().map(SocketAddr::to_string).collect(),
        passport: PassportConfig { signing_key_file: Some(key_file), comes_signed: false },
        ..WorkersConfig::default()
    }
}

impl Setup {
    /// An edge with so many workers, all of them up.
    async fn new(count: usize) -> Self {
        Self::with(count, |_| {}).await
    }

    async fn with(count: usize, change: impl FnOnce(&mut WorkersConfig)) -> Self {
        let store = Arc::new(Store::default());
        let mut fakes = Vec::new();
        for _ in 0..count {
            fakes.push(FakeWorker::start(&store, None).await);
        }
        Self::of(store, fakes, change).await
    }

    /// An edge with these workers, all of them up.
    async fn of(store: Arc<Store>, fakes: Vec<FakeWorker>, change: impl FnOnce(&mut WorkersConfig)) -> Self {
        let count = fakes.len();
        let folder = tempfile::tempdir().expect("folder");
        let addresses: Vec<_> = fakes.iter().map(|fake| fake.address).collect();
        let mut config = config(&addresses, &folder);
        change(&mut config);
        let mut registry = Registry::default();
        let workers = Workers::start(config, &mut registry).expect("started");
        let setup = Self { workers, store, fakes, registry, folder };
        setup.all_up(count).await;
        setup
    }

    async fn all_up(&self, count: usize) {
        eventually("all workers are up", || self.workers.0.ring.load().len() == count).await;
    }

    /// The place of a device among the workers.
    fn place(&self, connection: u128) -> usize {
        let is_there = |fake: &FakeWorker| fake.opens().iter().any(|open| open.connection_id.0 == connection);
        self.fakes.iter().position(is_there).expect("somewhere")
    }

    /// A device, and the worker that it is at.
    async fn device(&self, connection: u128) -> (TestDevice, usize) {
        let device = TestDevice::connect(&self.workers, connection).await;
        (device, self.place(connection))
    }

    /// All with labels that begin so.
    fn metric(&self, name: &str) -> f64 {
        metrics::sum(&metrics::text(&self.registry), name)
    }
}

fn packet(received: Received) -> bytes::Bytes {
    match received {
        Received::Packet(packet) => packet,
        Received::Closed(reason) => panic!("closed: {reason:?}"),
    }
}

#[tokio::test]
async fn a_version_3_device_is_not_told_what_it_cannot_read() {
    let setup = Setup::new(1).await;
    let mut device = TestDevice::begin_as(&setup.workers, 1, ProtocolVersion::V311);
    assert_eq!(packet(device.next().await)[0], 0x20);
    setup.fakes[0].manner(|manner| manner.refuses = Some(::link::wire::RefuseReason::SessionGone));
    setup.fakes[0].cut();
    assert_eq!(device.next().await, Received::Closed(mqtt::ReasonCode::ServerShuttingDown));
}

// Beside CONNECT, CONNACK and the token, which a resume needs.
#[test]
fn what_is_kept_of_an_idle_device_is_small() {
    let kept = size_of::<super::device::Device>() + size_of::<::link::wire::OpenBody>();
    assert!(kept <= 600, "{kept}");
}

//! Workers of a test, over one store in memory whose clock is the test's.

use std::sync::Arc;
use std::time::Duration;

use broker::{Broker, BrokerConfig, ClusterSettings};
use mqtt::QoS;
use prometheus_client::registry::Registry;
use state::testing::claim;
use state::{Claim, Claimed, ConnectionId, MemoryCluster, MemoryWorker, QueueLimits, Store, StoreError};
use testkit::front::unavailable;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::device::{Device, Got, How};

/// How often the store's clock is set.
const TICK: Duration = Duration::from_millis(5);

/// A store and its clock.
pub(crate) struct Cluster {
    pub(crate) memory: MemoryCluster,
    clock: JoinHandle<()>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.clock.abort();
    }
}

/// One worker.
pub(crate) struct Worker {
    pub(crate) broker: Broker,
    pub(crate) memory: Arc<MemoryWorker>,
    pub(crate) registry: Registry,
}

impl Cluster {
    /// In a runtime whose time is paused.
    pub(crate) fn new() -> Self {
        let memory = MemoryCluster::new();
        let ticked = memory.clone();
        let started = Instant::now();
        let clock = tokio::spawn(async move {
            loop {
                ticked.tick(u64::try_from(started.elapsed().as_millis()).unwrap());
                sleep(TICK).await;
            }
        });
        Self { memory, clock }
    }

    pub(crate) async fn worker(&self, name: &str) -> Worker {
        self.worker_with(name, ClusterSettings::default()).await
    }

    pub(crate) async fn worker_with(&self, name: &str, settings: ClusterSettings) -> Worker {
        let memory = self.memory.worker(name);
        let store = Arc::new(memory.store());
        self.worker_over(memory, store, settings).await
    }

    /// With another store in front of the worker's.
    pub(crate) async fn worker_over(
        &self,
        memory: Arc<MemoryWorker>,
        store: Arc<dyn Store>,
        settings: ClusterSettings,
    ) -> Worker {
        let config = BrokerConfig { sys_interval_s: 0, ..BrokerConfig::default() };
        let mut registry = Registry::default();
        let broker =
            Broker::start_shared(config, store, memory.clone(), settings, &mut registry).await.unwrap();
        Worker { broker, memory, registry }
    }
}

impl Worker {
    pub(crate) fn connect(&self, how: &How<'_>) -> Device {
        let mut device = Device::connect(&self.broker, how);
        device.pump();
        device
    }

    /// Connects and takes CONNACK.
    pub(crate) async fn join(&self, how: &How<'_>) -> Device {
        let mut device = self.connect(how);
        assert!(matches!(device.wait().await, Got::ConnAck { code: 0, .. }));
        device
    }

    /// Nothing that it asks of the store is done any more.
    pub(crate) fn cut_off(&self) {
        self.memory.store().fail_with(Some(unavailable()));
    }

    /// The store gives it a session, of which it tells nobody.
    pub(crate) fn take_session(&self, client_id: &str) {
        let limits = QueueLimits { messages_max: 100, bytes_max: 1 << 20 };
        let claim = Claim { connection_id: ConnectionId(u128::MAX), limits, ..claim(client_id) };
        let done = |claimed: Result<Claimed, StoreError>| assert!(claimed.unwrap().session.unwrap().present);
        self.memory.store().claim(claim, Box::new(done));
    }

    pub(crate) fn reconnect(&self) {
        self.memory.store().fail_with(None);
    }

    pub(crate) fn metrics(&self) -> String {
        testkit::metrics::text(&self.registry)
    }
}

/// Subscribes and waits for SUBACK.
pub(crate) async fn subscribe(device: &mut Device, filter: &str, qos: u8) {
    device.subscribe(filter, qos);
    loop {
        if let Got::Other { first_byte: 0x90, body } = device.wait().await {
            assert_eq!(body.last(), Some(&qos));
            return;
        }
    }
}

/// Unsubscribes and waits for UNSUBACK.
pub(crate) async fn unsubscribe(device: &mut Device, filter: &str) {
    device.unsubscribe(filter);
    while !matches!(device.wait().await, Got::Other { first_byte: 0xb0, .. }) {}
}

/// Publishes with QoS 1 and waits for PUBACK.
pub(crate) async fn publish(device: &mut Device, topic: &str, payload: &[u8]) {
    device.publish(topic, payload, QoS::AtLeastOnce, false);
    while !matches!(device.wait().await, Got::Other { first_byte: 0x40, .. }) {}
}

/// Waits for a PUBLISH, acknowledges it, and answers its payload.
pub(crate) async fn take(device: &mut Device) -> Vec<u8> {
    loop {
        if let Got::Publish { payload, qos, id, .. } = device.wait().await {
            if qos == 1 {
                device.acknowledge(0x40, id.unwrap());
            }
            return payload;
        }
    }
}

/// What comes within so many milliseconds.
pub(crate) async fn within(device: &mut Device, ms: u64) -> Vec<Got> {
    let until = Instant::now() + Duration::from_millis(ms);
    let mut all = Vec::new();
    while Instant::now() < until {
        all.extend(device.drain());
        sleep(TICK).await;
    }
    all
}

//! Workers that die, and those that were only taken for dead.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use broker::ClusterSettings;
use mqtt::QoS;
use tokio::time::{Instant, sleep};

use super::world::{Cluster, publish, subscribe, take, within};
use crate::device::{Got, How};
use crate::moody::{Kept, Moody};

// ARCHITECTURE, rule 5.
#[tokio::test(start_paused = true)]
async fn a_dead_worker_is_buried_and_its_stored_sessions_live_on() {
    let cluster = Cluster::new();
    let (one, two) = (cluster.worker("one").await, cluster.worker("two").await);
    let mut stored = one.join(&How::stored("stored")).await;
    let mut clean = one.join(&How::clean("clean")).await;
    subscribe(&mut stored, "a", 1).await;
    subscribe(&mut clean, "a", 1).await;
    subscribe(&mut clean, "b", 1).await;
    one.broker.stop();
    one.memory.store().hold();
    // While it is not buried, its inbox takes what is for it.
    let mut publisher = two.join(&How::clean("publisher")).await;
    publish(&mut publisher, "a", b"1").await;
    sleep(Duration::from_secs(12)).await;
    assert!(two.metrics().contains("tidegate_cluster_workers_buried_total 1\n"), "{}", two.metrics());
    assert!(two.metrics().contains("tidegate_cluster_members 1\n"), "{}", two.metrics());
    publish(&mut publisher, "a", b"2").await;
    let mut stored = two.join(&How::stored("stored")).await;
    assert_eq!(take(&mut stored).await, b"1");
    assert_eq!(take(&mut stored).await, b"2");
    // Nobody listens to what it alone listened to.
    publisher.publish("b", b"3", QoS::AtLeastOnce, false);
    let puback = publisher.wait().await;
    assert!(matches!(&puback, Got::Other { first_byte: 0x40, body } if body[2] == 0x10), "{puback:?}");
}

#[tokio::test(start_paused = true)]
async fn after_an_outage_nobody_is_buried() {
    // Another server may have the log then, and gives nobody a lease at first.
    for fails_over in [false, true] {
        let cluster = Cluster::new();
        let (one, two) = (cluster.worker("one").await, cluster.worker("two").await);
        for worker in [&one, &two] {
            worker.cut_off();
        }
        sleep(Duration::from_secs(30)).await;
        if fails_over {
            cluster.memory.fail_over(0);
        }
        one.reconnect();
        sleep(Duration::from_secs(5)).await;
        two.reconnect();
        sleep(Duration::from_secs(20)).await;
        assert!(one.metrics().contains("tidegate_cluster_workers_buried_total 0\n"), "{fails_over}");
        assert!(one.broker.is_ready() && two.broker.is_ready(), "{fails_over}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_was_taken_for_dead_begins_anew() {
    let cluster = Cluster::new();
    let (one, two) = (cluster.worker("one").await, cluster.worker("two").await);
    let told = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&told);
    one.broker.on_expelled(move || {
        counted.fetch_add(1, Ordering::Relaxed);
    });
    let mut stored = one.join(&How::stored("stored")).await;
    subscribe(&mut stored, "a", 1).await;
    one.cut_off();
    sleep(Duration::from_secs(15)).await;
    one.reconnect();
    sleep(Duration::from_secs(2)).await;
    assert_eq!(told.load(Ordering::Relaxed), 1);
    assert!(one.broker.is_ready());
    let mut clean = one.join(&How::clean("clean")).await;
    subscribe(&mut clean, "b", 1).await;
    let mut publisher = two.join(&How::clean("publisher")).await;
    publisher.publish("b", b"1", QoS::AtLeastOnce, false);
    assert_eq!(take(&mut clean).await, b"1");
    let mut stored = two.join(&How::stored("stored")).await;
    publish(&mut publisher, "a", b"2").await;
    assert_eq!(take(&mut stored).await, b"2");
}

// ARCHITECTURE, rule 26.
#[tokio::test(start_paused = true)]
async fn the_will_of_a_session_whose_worker_and_edge_died_fires_once() {
    let cluster = Cluster::new();
    // The clock of sessions does not stand still as the test's does.
    let settings = ClusterSettings { handoff_grace_ms: 0, ..ClusterSettings::default() };
    let one = cluster.worker("one").await;
    let two = cluster.worker_with("two", settings.clone()).await;
    let _three = cluster.worker_with("three", settings).await;
    let mut watcher = two.join(&How::stored("watcher")).await;
    subscribe(&mut watcher, "will", 1).await;
    let how = How { will: Some(("will", 0)), ..How::stored("device") };
    let _device = one.join(&how).await;
    one.broker.stop();
    one.memory.store().hold();
    sleep(Duration::from_secs(9)).await;
    assert_eq!(watcher.drain(), [], "it may still come back");
    let wills = within(&mut watcher, 10_000).await;
    assert!(matches!(&wills[..], [Got::Publish { topic, .. }] if topic == "will"), "{wills:?}");
}

// The store would hand it out again, but only after half a minute.
#[tokio::test(start_paused = true)]
async fn a_will_that_a_worker_was_handed_is_published_before_it_ends() {
    let cluster = Cluster::new();
    let memory = cluster.memory.worker("one");
    let is_slow = Arc::new(AtomicBool::new(false));
    let slow = Arc::clone(&is_slow);
    let (store, answers) = Moody::keeping(memory.store(), move |_, client_id| {
        (client_id.is_none() && slow.load(Ordering::Relaxed)).then_some(Kept::Answer)
    });
    let one = cluster.worker_over(memory, Arc::new(store), ClusterSettings::default()).await;
    let two = cluster.worker("two").await;
    let mut watcher = two.join(&How::clean("watcher")).await;
    subscribe(&mut watcher, "will", 1).await;
    let mut device = one.join(&How { will: Some(("will", 0)), ..How::stored("device") }).await;
    is_slow.store(true, Ordering::Relaxed);
    // The store has handed the Will out when it has let the session go; that it has is answered later.
    device.lose();
    let answering = tokio::spawn(async move {
        sleep(Duration::from_millis(500)).await;
        is_slow.store(false, Ordering::Relaxed);
        answers.let_go();
    });
    one.broker.finish_due().await;
    // Its process ends, and hears no answer any more.
    answering.abort();
    one.broker.stop();
    let wills = within(&mut watcher, 5_000).await;
    assert!(matches!(&wills[..], [Got::Publish { topic, .. }] if topic == "will"), "{wills:?}");
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_leaves_is_not_waited_for() {
    let cluster = Cluster::new();
    let (one, two) = (cluster.worker("one").await, cluster.worker("two").await);
    let mut clean = one.join(&How::clean("clean")).await;
    subscribe(&mut clean, "a", 1).await;
    clean.lose();
    one.broker.leave().await.unwrap();
    assert!(!one.broker.is_ready());
    let mut subscriber = two.join(&How::stored("subscriber")).await;
    let asked = Instant::now();
    subscribe(&mut subscriber, "a", 1).await;
    assert!(asked.elapsed() < Duration::from_millis(100), "{:?}", asked.elapsed());
    let mut publisher = two.join(&How::clean("publisher")).await;
    publish(&mut publisher, "a", b"1").await;
    assert_eq!(take(&mut subscriber).await, b"1");
    sleep(Duration::from_millis(500)).await;
    assert!(two.metrics().contains("tidegate_cluster_members 1\n"), "{}", two.metrics());
}

// ARCHITECTURE, rule 21: it matches nothing, so nobody waits for it.
#[tokio::test(start_paused = true)]
async fn a_worker_that_is_loading_is_not_waited_for() {
    let cluster = Cluster::new();
    let one = cluster.worker("one").await;
    let mut subscriber = one.join(&How::stored("subscriber")).await;
    let memory = cluster.memory.worker("two");
    memory.store().hold();
    let (store, shared) = (Arc::new(memory.store()), memory.clone());
    let settings = ClusterSettings::default();
    let starting = tokio::spawn(async move {
        let registry = &mut prometheus_client::registry::Registry::default();
        let config = broker::BrokerConfig::default();
        broker::Broker::start_shared(config, store, shared, settings, registry).await.unwrap()
    });
    // It is in the registry, has a lease, and waits for routes.
    for _ in 0..3 {
        sleep(Duration::from_millis(20)).await;
        assert!(memory.store().step());
    }
    let asked = Instant::now();
    subscribe(&mut subscriber, "a", 1).await;
    assert!(asked.elapsed() < Duration::from_millis(200), "{:?}", asked.elapsed());
    memory.store().let_go();
    let two = starting.await.unwrap();
    assert!(two.is_ready());
}

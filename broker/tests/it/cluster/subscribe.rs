//! SUBACK means subscribed everywhere.

use std::time::Duration;

use mqtt::QoS;
use tokio::time::{Instant, sleep};

use super::world::{Cluster, publish, subscribe, take, unsubscribe};
use crate::device::How;

// P3, ARCHITECTURE, rule 21.
#[tokio::test(start_paused = true)]
async fn what_is_published_after_suback_arrives() {
    let cluster = Cluster::new();
    let (one, two) = (cluster.worker("one").await, cluster.worker("two").await);
    let mut stored = one.join(&How::stored("stored")).await;
    let mut clean = one.join(&How::clean("clean")).await;
    let mut publisher = two.join(&How::clean("publisher")).await;
    for n in 0..50_u8 {
        let filter = format!("t/{n}");
        subscribe(&mut stored, &filter, 1).await;
        publisher.publish(&filter, &[n], QoS::AtLeastOnce, false);
        assert_eq!(take(&mut stored).await, [n]);
        publisher.publish(&filter, &[n], QoS::AtMostOnce, false);
        assert_eq!(take(&mut stored).await, [n]);
        let filter = format!("c/{n}");
        subscribe(&mut clean, &filter, 1).await;
        publisher.publish(&filter, &[n], QoS::AtLeastOnce, false);
        assert_eq!(take(&mut clean).await, [n]);
    }
}

// ARCHITECTURE, rule 21.
#[tokio::test(start_paused = true)]
async fn a_subscriber_waits_for_a_stopped_worker_no_longer_than_its_lease() {
    let cluster = Cluster::new();
    let (one, two) = (cluster.worker("one").await, cluster.worker("two").await);
    let mut subscriber = one.join(&How::stored("subscriber")).await;
    let mut publisher = two.join(&How::clean("publisher")).await;
    // Its answers wait, as those of a process that is stopped.
    two.memory.store().hold();
    let asked = Instant::now();
    subscribe(&mut subscriber, "a", 1).await;
    let waited = asked.elapsed();
    assert!(waited > Duration::from_millis(500) && waited < Duration::from_millis(1300), "{waited:?}");
    two.memory.store().let_go();
    publisher.publish("a", b"1", QoS::AtLeastOnce, false);
    assert_eq!(take(&mut subscriber).await, b"1");
}

// ARCHITECTURE, rule 21.
#[tokio::test(start_paused = true)]
async fn renewing_a_subscription_waits_for_nobody() {
    let cluster = Cluster::new();
    let (one, two) = (cluster.worker("one").await, cluster.worker("two").await);
    let mut subscriber = one.join(&How::stored("subscriber")).await;
    let mut other = one.join(&How::stored("other")).await;
    subscribe(&mut subscriber, "a", 1).await;
    // Somebody waits for a worker that stands still.
    two.memory.store().hold();
    other.subscribe("b", 1);
    let asked = Instant::now();
    subscribe(&mut subscriber, "a", 1).await;
    assert!(asked.elapsed() < Duration::from_millis(10), "{:?}", asked.elapsed());
    assert_eq!(other.drain(), []);
    // Another QoS is news.
    let asked = Instant::now();
    subscribe(&mut subscriber, "a", 2).await;
    assert!(asked.elapsed() > Duration::from_millis(500), "{:?}", asked.elapsed());
    two.memory.store().let_go();
}

// ARCHITECTURE, rule 16: v5 [MQTT-3.10.4-2].
#[tokio::test(start_paused = true)]
async fn after_unsuback_no_worker_adds_messages() {
    let cluster = Cluster::new();
    let (one, two) = (cluster.worker("one").await, cluster.worker("two").await);
    let mut subscriber = one.join(&How::stored("subscriber")).await;
    let mut publisher = two.join(&How::clean("publisher")).await;
    for n in 0..20_u8 {
        subscribe(&mut subscriber, "a", 1).await;
        publish(&mut publisher, "a", &[n]).await;
        assert_eq!(take(&mut subscriber).await, [n]);
        unsubscribe(&mut subscriber, "a").await;
        publish(&mut publisher, "a", &[100 + n]).await;
        sleep(Duration::from_millis(20)).await;
        assert_eq!(subscriber.drain(), []);
    }
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_joins_knows_all_subscriptions() {
    let cluster = Cluster::new();
    let one = cluster.worker("one").await;
    let mut stored = one.join(&How::stored("stored")).await;
    subscribe(&mut stored, "a", 1).await;
    let mut clean = one.join(&How::clean("clean")).await;
    subscribe(&mut clean, "a", 1).await;
    let two = cluster.worker("two").await;
    let mut publisher = two.join(&How::clean("publisher")).await;
    publish(&mut publisher, "a", b"1").await;
    assert_eq!(take(&mut stored).await, b"1");
    assert_eq!(take(&mut clean).await, b"1");
}

// ARCHITECTURE, rules 4, 16: a change that an earlier owner tells late says nothing.
#[tokio::test(start_paused = true)]
async fn an_unsubscribe_that_is_told_late_undoes_nothing() {
    let cluster = Cluster::new();
    let (one, two) = (cluster.worker("one").await, cluster.worker("two").await);
    let three = cluster.worker("three").await;
    let mut old = one.join(&How::stored("device")).await;
    subscribe(&mut old, "a", 1).await;
    // The store has removed it when the worker is cut off, before the log has it.
    one.memory.store().hold();
    old.unsubscribe("a");
    one.cut_off();
    one.memory.store().let_go();
    let mut new = two.join(&How::stored("device")).await;
    subscribe(&mut new, "a", 1).await;
    one.reconnect();
    sleep(Duration::from_secs(3)).await;
    let mut publisher = three.join(&How::clean("publisher")).await;
    publish(&mut publisher, "a", b"1").await;
    assert_eq!(take(&mut new).await, b"1");
    // Nor does it for a worker that joins after that.
    let four = cluster.worker("four").await;
    let mut publisher = four.join(&How::clean("other")).await;
    publish(&mut publisher, "a", b"2").await;
    assert_eq!(take(&mut new).await, b"2");
}

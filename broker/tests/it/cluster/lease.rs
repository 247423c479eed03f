//! A worker without a lease neither matches nor acknowledges, and loses nobody.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use broker::ClusterSettings;
use mqtt::QoS;
use tokio::time::sleep;

use super::world::{Cluster, publish, subscribe, take, within};
use crate::device::{Got, How};
use crate::moody::{Kept, Moody};

// P9, ARCHITECTURE, rule 1.
#[tokio::test(start_paused = true)]
async fn without_a_lease_qos_0_flows_and_the_rest_is_held_in_order() {
    let cluster = Cluster::new();
    let one = cluster.worker("one").await;
    let _two = cluster.worker("two").await;
    let mut subscriber = one.join(&How::clean("subscriber")).await;
    subscribe(&mut subscriber, "a", 1).await;
    let mut publisher = one.join(&How::clean("publisher")).await;
    publish(&mut publisher, "a", &[1]).await;
    assert_eq!(take(&mut subscriber).await, [1]);
    one.cut_off();
    sleep(Duration::from_millis(1500)).await;
    assert!(!one.broker.is_ready());
    for n in 2..10 {
        publisher.publish("a", &[n], QoS::AtLeastOnce, false);
    }
    publisher.publish("a", &[100], QoS::AtMostOnce, false);
    assert_eq!(take(&mut subscriber).await, [100]);
    assert_eq!(within(&mut publisher, 500).await, [], "nothing is acknowledged");
    one.reconnect();
    for n in 2..10 {
        assert_eq!(take(&mut subscriber).await, [n]);
        assert!(matches!(publisher.wait().await, Got::Other { first_byte: 0x40, .. }));
    }
}

// ARCHITECTURE, rules 1, 4, 21: P3.
#[tokio::test(start_paused = true)]
async fn a_worker_that_was_cut_off_learns_of_subscriptions_before_it_matches() {
    let cluster = Cluster::new();
    let (one, two) = (cluster.worker("one").await, cluster.worker("two").await);
    let mut publisher = two.join(&How::clean("publisher")).await;
    two.cut_off();
    let mut subscriber = one.join(&How::stored("subscriber")).await;
    subscribe(&mut subscriber, "a", 1).await;
    // Nobody waits for the worker any more, and it does not know of the subscription.
    publisher.publish("a", b"1", QoS::AtLeastOnce, false);
    assert_eq!(within(&mut publisher, 2000).await, []);
    two.reconnect();
    assert!(matches!(publisher.wait().await, Got::Other { first_byte: 0x40, body } if body.len() == 2));
    assert_eq!(take(&mut subscriber).await, b"1");
}

// ARCHITECTURE, rule 4: the store refuses what a worker writes for a session that another has.
#[tokio::test(start_paused = true)]
async fn a_worker_that_was_cut_off_acknowledges_nothing_for_a_session_that_moved() {
    let cluster = Cluster::new();
    let (one, two) = (cluster.worker("one").await, cluster.worker("two").await);
    let mut old = one.join(&How::stored("device")).await;
    one.cut_off();
    sleep(Duration::from_millis(1500)).await;
    let _new = two.join(&How::stored("device")).await;
    old.publish("a", b"1", QoS::ExactlyOnce, false);
    assert_eq!(within(&mut old, 500).await, []);
    one.reconnect();
    let got = within(&mut old, 1000).await;
    assert!(matches!(&got[..], [Got::Other { first_byte: 0xe0, body }] if body[0] == 0x8e), "{got:?}");
}

// ARCHITECTURE, rule 4: what was sent before the move would come among what the device sends at the other worker.
#[tokio::test(start_paused = true)]
async fn a_worker_that_was_cut_off_routes_nothing_of_a_session_that_moved() {
    let cluster = Cluster::new();
    let (one, two) = (cluster.worker("one").await, cluster.worker("two").await);
    let mut subscriber = two.join(&How::stored("subscriber")).await;
    subscribe(&mut subscriber, "a", 1).await;
    let mut old = one.join(&How::stored("device")).await;
    one.cut_off();
    sleep(Duration::from_millis(1500)).await;
    old.publish("a", b"1", QoS::AtLeastOnce, false);
    two.take_session("device");
    one.reconnect();
    assert_eq!(within(&mut subscriber, 1000).await, []);
    let got = within(&mut old, 100).await;
    assert!(matches!(&got[..], [Got::Other { first_byte: 0xe0, body }] if body[0] == 0x8e), "{got:?}");
}

// ARCHITECTURE, rule 4: the answer to what it enqueued in time comes when another has the session.
#[tokio::test(start_paused = true)]
async fn a_worker_that_stood_still_acknowledges_nothing_for_a_session_that_moved() {
    let cluster = Cluster::new();
    let (one, two) = (cluster.worker("one").await, cluster.worker("two").await);
    let mut subscriber = two.join(&How::stored("subscriber")).await;
    subscribe(&mut subscriber, "a", 1).await;
    let mut old = one.join(&How::stored("device")).await;
    one.memory.store().hold();
    old.publish("a", b"1", QoS::AtLeastOnce, false);
    sleep(Duration::from_millis(1500)).await;
    two.take_session("device");
    one.memory.store().let_go();
    let got = within(&mut old, 1000).await;
    assert!(matches!(&got[..], [Got::Other { first_byte: 0xe0, body }] if body[0] == 0x8e), "{got:?}");
    assert_eq!(take(&mut subscriber).await, b"1");
}

// ARCHITECTURE, rules 4 and 17: nor does it bring back a retained message that the device has replaced since.
#[tokio::test(start_paused = true)]
async fn a_worker_that_was_cut_off_retains_nothing_of_a_session_that_moved() {
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let cluster = Cluster::new();
        let (one, two) = (cluster.worker("one").await, cluster.worker("two").await);
        let mut old = one.join(&How::stored("device")).await;
        one.cut_off();
        sleep(Duration::from_millis(1500)).await;
        old.publish("a", b"old", qos, true);
        let mut new = two.join(&How::stored("device")).await;
        new.publish("a", b"new", QoS::AtLeastOnce, true);
        assert!(matches!(new.wait().await, Got::Other { first_byte: 0x40, .. }));
        one.reconnect();
        let got = within(&mut old, 1000).await;
        assert!(matches!(&got[..], [Got::Other { first_byte: 0xe0, body }] if body[0] == 0x8e), "{got:?}");
        let mut subscriber = two.join(&How::clean("subscriber")).await;
        subscribe(&mut subscriber, "a", 0).await;
        assert_eq!(take(&mut subscriber).await, b"new", "{qos:?}");
    }
}

// The store does not refuse it, but the lease is over when it reads what had come.
#[tokio::test(start_paused = true)]
async fn a_worker_that_wakes_up_retains_nothing_of_a_session_that_moved() {
    let cluster = Cluster::new();
    let (one, two) = (cluster.worker("one").await, cluster.worker("two").await);
    let mut old = one.join(&How::stored("device")).await;
    one.memory.store().hold();
    sleep(Duration::from_millis(1500)).await;
    two.take_session("device");
    let mut new = two.join(&How::clean("other")).await;
    new.publish("a", b"new", QoS::AtLeastOnce, true);
    assert!(matches!(new.wait().await, Got::Other { first_byte: 0x40, .. }));
    old.publish("a", b"old", QoS::AtLeastOnce, true);
    one.memory.store().let_go();
    let got = within(&mut old, 1000).await;
    assert!(matches!(&got[..], [Got::Other { first_byte: 0xe0, body }] if body[0] == 0x8e), "{got:?}");
    let mut subscriber = two.join(&How::clean("subscriber")).await;
    subscribe(&mut subscriber, "a", 0).await;
    assert_eq!(take(&mut subscriber).await, b"new");
}

// What may go on is retained when the lease holds again.
#[tokio::test(start_paused = true)]
async fn what_waits_for_the_lease_is_retained_after_it() {
    let cluster = Cluster::new();
    let one = cluster.worker("one").await;
    let mut device = one.join(&How::stored("device")).await;
    one.cut_off();
    sleep(Duration::from_millis(1500)).await;
    for n in 0..10_u8 {
        device.publish("a", &[n], QoS::AtLeastOnce, true);
    }
    one.reconnect();
    for _ in 0..10 {
        assert!(matches!(device.wait().await, Got::Other { first_byte: 0x40, .. }));
    }
    let mut subscriber = one.join(&How::clean("subscriber")).await;
    subscribe(&mut subscriber, "a", 0).await;
    assert_eq!(take(&mut subscriber).await, [9]);
}

// ARCHITECTURE, rule 24.
#[tokio::test(start_paused = true)]
async fn a_log_that_lost_its_end_is_not_believed() {
    let cluster = Cluster::new();
    let (one, two) = (cluster.worker("one").await, cluster.worker("two").await);
    let mut stored = one.join(&How::stored("stored")).await;
    let mut clean = one.join(&How::clean("clean")).await;
    // Worker two reads nothing of what the log then loses.
    two.cut_off();
    subscribe(&mut stored, "a", 1).await;
    subscribe(&mut clean, "b", 1).await;
    cluster.memory.fail_over(2);
    two.reconnect();
    sleep(Duration::from_millis(2000)).await;
    let mut publisher = two.join(&How::clean("publisher")).await;
    publish(&mut publisher, "a", b"1").await;
    assert_eq!(take(&mut stored).await, b"1");
    publish(&mut publisher, "b", b"2").await;
    assert_eq!(take(&mut clean).await, b"2");
}

#[tokio::test(start_paused = true)]
async fn a_log_that_was_trimmed_is_loaded_anew() {
    let cluster = Cluster::new();
    let (one, two) = (cluster.worker("one").await, cluster.worker("two").await);
    let mut kept = one.join(&How::stored("kept")).await;
    let mut ended = one.join(&How::stored("ended")).await;
    subscribe(&mut kept, "a", 1).await;
    subscribe(&mut ended, "a", 1).await;
    two.cut_off();
    super::world::unsubscribe(&mut ended, "a").await;
    subscribe(&mut kept, "b", 1).await;
    cluster.memory.trim_log();
    two.reconnect();
    let mut publisher = two.join(&How::clean("publisher")).await;
    publish(&mut publisher, "b", b"1").await;
    assert_eq!(take(&mut kept).await, b"1");
    publish(&mut publisher, "a", b"2").await;
    assert_eq!(take(&mut kept).await, b"2");
    assert_eq!(within(&mut ended, 100).await, []);
}

// ARCHITECTURE, rules 1, 15: whose the publisher's session is was asked for the third message before it was asked again for the
// first ones, and the answer must not let it overtake them.
#[tokio::test(start_paused = true)]
async fn messages_whose_publisher_is_asked_about_keep_their_order() {
    let cluster = Cluster::new();
    let memory = cluster.memory.worker("one");
    let is_slow = Arc::new(AtomicBool::new(false));
    let slow = Arc::clone(&is_slow);
    let (store, answers) = Moody::keeping(memory.store(), move |_, client_id| {
        (client_id == Some("publisher") && slow.load(Ordering::Relaxed)).then_some(Kept::Answer)
    });
    let one = cluster.worker_over(memory, Arc::new(store), ClusterSettings::default()).await;
    let mut subscriber = one.join(&How::clean("subscriber")).await;
    subscribe(&mut subscriber, "a", 1).await;
    let mut publisher = one.join(&How::stored("publisher")).await;
    let lapse = async || {
        one.cut_off();
        sleep(Duration::from_millis(1500)).await;
        one.reconnect();
        sleep(Duration::from_millis(500)).await;
    };
    lapse().await;
    is_slow.store(true, Ordering::Relaxed);
    publisher.publish("a", &[1], QoS::AtLeastOnce, false);
    publisher.publish("a", &[2], QoS::AtLeastOnce, false);
    lapse().await;
    publisher.publish("a", &[3], QoS::AtLeastOnce, false);
    // The first two answers are older than the lapse: they are asked for again, one after the other.
    answers.give(2);
    sleep(Duration::from_millis(500)).await;
    for _ in 0..20 {
        answers.give(1);
        sleep(Duration::from_millis(200)).await;
    }
    for n in 1..=3 {
        assert_eq!(take(&mut subscriber).await, [n]);
    }
}

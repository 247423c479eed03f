//! Messages from one worker to the subscribers of another.

use std::time::Duration;

use mqtt::{QoS, ReasonCode};
use state::StoreError;

use super::world::{Cluster, Worker, publish, subscribe, take, within};
use crate::device::{Device, Got, How};

#[tokio::test(start_paused = true)]
async fn a_stored_session_gets_what_another_worker_accepts() {
    let cluster = Cluster::new();
    let (one, two) = (cluster.worker("one").await, cluster.worker("two").await);
    let mut subscriber = one.join(&How::stored("subscriber")).await;
    subscribe(&mut subscriber, "a/+", 1).await;
    let mut publisher = two.join(&How::clean("publisher")).await;
    for n in 0..20 {
        publish(&mut publisher, "a/b", &[n]).await;
    }
    for n in 0..20 {
        assert_eq!(take(&mut subscriber).await, [n]);
    }
    assert!(one.metrics().contains("tidegate_cluster_notes_received_total 20\n"), "a note each, no more");
}

#[tokio::test(start_paused = true)]
async fn a_clean_session_gets_what_another_worker_accepts() {
    let cluster = Cluster::new();
    let (one, two) = (cluster.worker("one").await, cluster.worker("two").await);
    let mut subscriber = one.join(&How::clean("subscriber")).await;
    subscribe(&mut subscriber, "a", 1).await;
    let mut publisher = two.join(&How::clean("publisher")).await;
    publish(&mut publisher, "a", b"1").await;
    assert_eq!(take(&mut subscriber).await, b"1");
    publisher.publish("a", b"0", QoS::AtMostOnce, false);
    assert_eq!(take(&mut subscriber).await, b"0");
}

#[tokio::test(start_paused = true)]
async fn a_stored_session_gets_each_qos_by_its_way() {
    let cluster = Cluster::new();
    let (one, two) = (cluster.worker("one").await, cluster.worker("two").await);
    let mut subscriber = one.join(&How::stored("subscriber")).await;
    subscribe(&mut subscriber, "low", 0).await;
    subscribe(&mut subscriber, "high", 2).await;
    let mut publisher = two.join(&How::stored("publisher")).await;
    publish(&mut publisher, "low", b"1").await;
    publish(&mut publisher, "high", b"2").await;
    publisher.publish("high", b"3", QoS::AtMostOnce, false);
    let mut got: Vec<_> = within(&mut subscriber, 200)
        .await
        .into_iter()
        .filter_map(|got| match got {
            Got::Publish { payload, qos, .. } => Some((payload[0] - b'0', qos)),
            _ => None,
        })
        .collect();
    got.sort_unstable();
    assert_eq!(got, [(1, 0), (2, 1), (3, 0)]);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_moves_takes_its_queue_along() {
    let cluster = Cluster::new();
    let (one, two) = (cluster.worker("one").await, cluster.worker("two").await);
    let mut subscriber = one.join(&How::stored("subscriber")).await;
    subscribe(&mut subscriber, "a", 1).await;
    subscriber.lose();
    let mut publisher = one.join(&How::clean("publisher")).await;
    publish(&mut publisher, "a", b"1").await;
    let mut subscriber = two.join(&How::stored("subscriber")).await;
    assert_eq!(take(&mut subscriber).await, b"1");
    publish(&mut publisher, "a", b"2").await;
    assert_eq!(take(&mut subscriber).await, b"2");
}

// ARCHITECTURE, rule 3.
#[tokio::test(start_paused = true)]
async fn the_old_connection_at_another_worker_is_told_of_a_takeover() {
    let cluster = Cluster::new();
    let (one, two) = (cluster.worker("one").await, cluster.worker("two").await);
    let mut old = one.join(&How::stored("device")).await;
    let _new = two.join(&How::stored("device")).await;
    let got = within(&mut old, 100).await;
    assert!(matches!(&got[..], [Got::Other { first_byte: 0xe0, body }] if body[0] == 0x8e), "{got:?}");
}

// ARCHITECTURE, rule 19: hazard of one slow worker.
#[tokio::test(start_paused = true)]
async fn a_full_inbox_drops_qos_0_and_holds_what_no_queue_has() {
    let cluster = Cluster::new();
    let (one, two) = (cluster.worker("one").await, cluster.worker("two").await);
    let mut stored = one.join(&How::stored("stored")).await;
    subscribe(&mut stored, "stored", 1).await;
    let mut clean = one.join(&How::clean("clean")).await;
    subscribe(&mut clean, "clean", 1).await;
    let mut publisher = two.join(&How::clean("publisher")).await;
    let mut held = two.join(&How::clean("held")).await;
    cluster.memory.set_inbox_bytes_max(600);
    one.memory.store().hold();
    for n in 0..10 {
        publish(&mut publisher, "stored", &[n]).await;
        publisher.publish("stored", &[100 + n], QoS::AtMostOnce, false);
        held.publish("clean", &[n], QoS::AtLeastOnce, false);
    }
    let acknowledged = within(&mut held, 500).await.len();
    assert!(acknowledged < 10, "{acknowledged} were acknowledged that no inbox has");
    assert!(two.metrics().contains("kind=\"Message\""), "{}", two.metrics());
    one.memory.store().let_go();
    assert_eq!(within(&mut held, 3000).await.len() + acknowledged, 10);
    let payloads = |got: Vec<Got>| -> Vec<u8> {
        let payload = |got| match got {
            Got::Publish { payload, qos: 1, .. } => Some(payload[0]),
            _ => None,
        };
        got.into_iter().filter_map(payload).collect()
    };
    assert_eq!(payloads(within(&mut clean, 100).await), (0..10).collect::<Vec<_>>());
    // Notes of what is in the queue were left out: the gap is found by the next note, or by the look at the queues.
    assert_eq!(payloads(within(&mut stored, 35_000).await), (0..10).collect::<Vec<_>>());
}

/// A worker with a subscriber to `a` whose queue is stored, and with an inbox that has room for one note and that it does not read; and
/// another worker, which has published these.
async fn full_inbox(payloads: &[&[u8]]) -> (Cluster, [Worker; 2], Device) {
    let cluster = Cluster::new();
    let (one, two) = (cluster.worker("one").await, cluster.worker("two").await);
    let mut subscriber = one.join(&How::stored("subscriber")).await;
    subscribe(&mut subscriber, "a", 1).await;
    let mut publisher = two.join(&How::clean("publisher")).await;
    cluster.memory.set_inbox_bytes_max(0);
    one.memory.store().hold();
    for payload in payloads {
        publish(&mut publisher, "a", payload).await;
    }
    (cluster, [one, two], subscriber)
}

// ARCHITECTURE, rule 24.
#[tokio::test(start_paused = true)]
async fn an_inbox_that_lost_notes_makes_its_worker_look_at_the_queues() {
    let (cluster, [one, two], mut subscriber) = full_inbox(&[b"1", b"2"]).await;
    // The other worker, which still has the second, dies.
    two.memory.store().fail_with(Some(StoreError::Closed));
    one.memory.store().let_go();
    assert_eq!(take(&mut subscriber).await, b"1");
    assert_eq!(within(&mut subscriber, 1000).await, []);
    cluster.memory.fail_over(0);
    assert_eq!(take(&mut subscriber).await, b"2");
}

// Nobody else would say that something is in the queue, before all queues are looked at.
#[tokio::test(start_paused = true)]
async fn what_an_inbox_had_no_room_for_comes_when_it_has() {
    let (_cluster, [one, _two], mut subscriber) = full_inbox(&[b"1", b"2", b"3"]).await;
    one.memory.store().let_go();
    let payload = |got| match got {
        Got::Publish { payload, .. } => payload,
        other => panic!("{other:?}"),
    };
    let came: Vec<_> = within(&mut subscriber, 2_000).await.into_iter().map(payload).collect();
    assert_eq!(came, [b"1", b"2", b"3"]);
}

// ARCHITECTURE, rule 3: nobody else would tell it.
#[tokio::test(start_paused = true)]
async fn who_lost_a_session_is_told_before_the_worker_that_has_it_leaves() {
    let (_cluster, [one, two], mut before) = full_inbox(&[b"1", b"2"]).await;
    // It has gone on elsewhere by then.
    two.join(&How::stored("subscriber")).await.lose();
    let made_room = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        one.memory.store().let_go();
    };
    let (left, ()) = tokio::join!(two.broker.leave(), made_room);
    left.unwrap();
    within(&mut before, 500).await;
    assert_eq!(before.closed, Some(ReasonCode::SessionTakenOver));
}

/// The payloads of what comes with QoS 0 within a while.
async fn qos_0(device: &mut Device) -> Vec<u8> {
    let payload = |got| match got {
        Got::Publish { payload, qos: 0, .. } => Some(payload[0]),
        _ => None,
    };
    within(device, 500).await.into_iter().filter_map(payload).collect()
}

// ARCHITECTURE, rule 30.
#[tokio::test(start_paused = true)]
async fn an_inbox_that_is_read_again_delivers_nothing_again() {
    let cluster = Cluster::new();
    let (one, two) = (cluster.worker("one").await, cluster.worker("two").await);
    let mut subscriber = one.join(&How::clean("subscriber")).await;
    subscribe(&mut subscriber, "a", 2).await;
    let mut publisher = two.join(&How::clean("publisher")).await;
    one.memory.store().hold();
    for n in 0..4 {
        publisher.publish("a", &[n], QoS::AtMostOnce, false);
        publisher.publish("a", &[n], QoS::ExactlyOnce, false);
    }
    cluster.memory.fail_over(0);
    one.memory.store().let_go();
    let mut came = [Vec::new(), Vec::new(), Vec::new()];
    for got in within(&mut subscriber, 500).await {
        if let Got::Publish { payload, qos, .. } = got {
            came[usize::from(qos)].push(payload[0]);
        }
    }
    assert_eq!(came, [vec![0, 1, 2, 3], vec![], vec![0, 1, 2, 3]]);
    assert!(
        one.metrics().contains("tidegate_cluster_messages_late_total{reason=\"Again\"}"),
        "some came again"
    );
}

// ARCHITECTURE, rule 30.
#[tokio::test(start_paused = true)]
async fn qos_0_of_a_worker_that_has_lost_its_publisher_is_late() {
    let cluster = Cluster::new();
    let (one, two) = (cluster.worker("one").await, cluster.worker("two").await);
    let three = cluster.worker("three").await;
    let mut elsewhere = one.join(&How::clean("elsewhere")).await;
    subscribe(&mut elsewhere, "a", 1).await;
    let mut here = three.join(&How::clean("here")).await;
    subscribe(&mut here, "a", 1).await;
    let mut old = two.join(&How::stored("publisher")).await;
    // The first one is on its way, the second waits for the answer.
    two.memory.store().hold();
    old.publish("a", &[1], QoS::AtMostOnce, false);
    old.publish("a", &[2], QoS::AtMostOnce, false);
    assert_eq!((qos_0(&mut elsewhere).await, qos_0(&mut here).await), (vec![1], vec![1]));
    let mut publisher = three.join(&How::stored("publisher")).await;
    publisher.publish("a", &[3], QoS::AtMostOnce, false);
    assert_eq!((qos_0(&mut elsewhere).await, qos_0(&mut here).await), (vec![3], vec![3]));
    two.memory.store().let_go();
    assert_eq!((qos_0(&mut elsewhere).await, qos_0(&mut here).await), (vec![], vec![]));
    for worker in [&one, &three] {
        let metrics = worker.metrics();
        assert!(
            metrics.contains("tidegate_cluster_messages_late_total{reason=\"Overtaken\"} 1\n"),
            "{metrics}"
        );
    }
}

//! Shared Subscriptions with members at several workers.

use std::time::Duration;

use mqtt::QoS;
use tokio::time::sleep;

use super::world::{Cluster, publish, subscribe, within};
use crate::device::{Device, Got, How};

fn publishes(got: &[Got]) -> usize {
    got.iter().filter(|got| matches!(got, Got::Publish { .. })).count()
}

async fn counts(devices: &mut [Device]) -> Vec<usize> {
    let mut counts = Vec::new();
    for device in devices {
        counts.push(publishes(&within(device, 100).await));
    }
    counts
}

// ARCHITECTURE, rule 18.
#[tokio::test(start_paused = true)]
async fn connected_members_of_all_workers_get_their_share() {
    let cluster = Cluster::new();
    let (one, two) = (cluster.worker("one").await, cluster.worker("two").await);
    let mut devices = vec![
        one.join(&How::stored("a")).await,
        two.join(&How::stored("b")).await,
        two.join(&How::stored("c")).await,
    ];
    for device in &mut devices {
        subscribe(device, "$share/g/t", 1).await;
    }
    let mut away = two.join(&How::stored("away")).await;
    subscribe(&mut away, "$share/g/t", 1).await;
    away.lose();
    let mut publisher = one.join(&How::clean("publisher")).await;
    for n in 0..91 {
        publish(&mut publisher, "t", &[n]).await;
    }
    let counts = counts(&mut devices).await;
    // One went to the member that is away, before anybody knew that it is.
    assert_eq!(counts.iter().sum::<usize>(), 90, "{counts:?}");
    assert!(counts.iter().all(|count| (29..=31).contains(count)), "{counts:?}");
}

#[tokio::test(start_paused = true)]
async fn one_member_at_another_worker_gets_each_message_once() {
    let cluster = Cluster::new();
    let (one, two) = (cluster.worker("one").await, cluster.worker("two").await);
    let mut members = vec![
        two.join(&How::clean("m1")).await,
        two.join(&How::clean("m2")).await,
        one.join(&How::clean("m3")).await,
    ];
    for member in &mut members {
        subscribe(member, "$share/g/t", 1).await;
    }
    let mut publisher = one.join(&How::clean("publisher")).await;
    for n in 0..60 {
        publisher.publish("t", &[n], if n % 2 == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce }, false);
    }
    let counts = counts(&mut members).await;
    assert_eq!(counts.iter().sum::<usize>(), 60, "{counts:?}");
    assert!(counts.iter().all(|count| *count >= 10), "{counts:?}");
}

// ARCHITECTURE, rule 18.
#[tokio::test(start_paused = true)]
async fn a_member_that_is_gone_is_replaced_before_puback() {
    let cluster = Cluster::new();
    let (one, two) = (cluster.worker("one").await, cluster.worker("two").await);
    let mut stored = two.join(&How::stored("stored")).await;
    subscribe(&mut stored, "$share/g/t", 1).await;
    let mut clean = two.join(&How::clean("clean")).await;
    subscribe(&mut clean, "$share/g/t", 1).await;
    stored.lose();
    clean.lose();
    two.broker.stop();
    two.memory.store().hold();
    sleep(Duration::from_secs(12)).await;
    let mut publisher = one.join(&How::clean("publisher")).await;
    for n in 0..4 {
        publish(&mut publisher, "t", &[n]).await;
    }
    let mut stored = one.join(&How::stored("stored")).await;
    assert_eq!(publishes(&within(&mut stored, 100).await), 4);
}

// The publisher's worker learns last that the members at another worker have gone on.
#[tokio::test(start_paused = true)]
async fn what_comes_to_a_worker_whose_members_are_gone_goes_on_to_others() {
    let cluster = Cluster::new();
    let (one, two) = (cluster.worker("one").await, cluster.worker("two").await);
    let mut gone = two.join(&How::clean("gone")).await;
    subscribe(&mut gone, "$share/g/t", 1).await;
    let mut here = one.join(&How::clean("here")).await;
    subscribe(&mut here, "$share/g/t", 1).await;
    let mut publisher = one.join(&How::clean("publisher")).await;
    // Nothing else has its turn in between.
    gone.lose();
    for n in 0..20 {
        publisher.publish("t", &[n], QoS::AtLeastOnce, false);
    }
    assert_eq!(publishes(&within(&mut here, 200).await), 20);
}

// What is sent to a dead worker comes late, however many others would take it.
#[tokio::test(start_paused = true)]
async fn a_worker_whose_lease_has_ended_is_chosen_when_no_other_member_is_there() {
    let cluster = Cluster::new();
    let (one, two) = (cluster.worker("one").await, cluster.worker("two").await);
    let mut there = two.join(&How::clean("there")).await;
    subscribe(&mut there, "$share/g/t", 1).await;
    let mut publisher = one.join(&How::clean("publisher")).await;
    two.cut_off();
    sleep(Duration::from_secs(3)).await;
    publish(&mut publisher, "t", b"nobody else").await;
    for how in [How::clean("clean"), How::stored("stored")] {
        let mut here = one.join(&how).await;
        subscribe(&mut here, "$share/g/t", 1).await;
        for n in 0..20 {
            publish(&mut publisher, "t", &[n]).await;
        }
        assert_eq!(publishes(&within(&mut here, 200).await), 20, "{}", how.client_id);
        here.send(&[0xe0, 7, 0, 5, 0x11, 0, 0, 0, 0]);
    }
}

// HAZARDS 40
#[tokio::test(start_paused = true)]
async fn what_a_member_left_at_another_worker_goes_to_those_here() {
    let cluster = Cluster::new();
    let (one, two) = (cluster.worker("one").await, cluster.worker("two").await);
    for how in [How::clean("clean"), How::stored("stored")] {
        let mut ends = two.join(&How { receive_maximum: 3, ..how }).await;
        subscribe(&mut ends, "$share/g/t", 1).await;
        let mut publisher = one.join(&How::clean("publisher")).await;
        for n in 0..6 {
            publish(&mut publisher, "t", &[n]).await;
        }
        assert_eq!(publishes(&within(&mut ends, 100).await), 3);
        let mut other = one.join(&How::clean("other")).await;
        subscribe(&mut other, "$share/g/t", 1).await;
        // DISCONNECT with Session Expiry Interval 0.
        ends.send(&[0xe0, 7, 0, 5, 0x11, 0, 0, 0, 0]);
        let got = within(&mut other, 2000).await;
        assert_eq!(publishes(&got), 6, "{}", how.client_id);
        other.disconnect();
    }
}

/// First bytes of the payloads of messages with this QoS, in order.
fn numbers<'a>(got: impl IntoIterator<Item = &'a Got>, qos: u8) -> Vec<u8> {
    let number = |got: &Got| match got {
        Got::Publish { payload, qos: of, .. } if *of == qos => payload.first().copied(),
        _ => None,
    };
    let mut numbers: Vec<u8> = got.into_iter().filter_map(number).collect();
    numbers.sort_unstable();
    numbers
}

// Its lease holds still, so that it is chosen as the others are. ARCHITECTURE, rule 18.
#[tokio::test(start_paused = true)]
async fn what_came_to_a_dead_worker_goes_to_other_members_when_it_is_buried() {
    let cluster = Cluster::new();
    let (one, two) = (cluster.worker("one").await, cluster.worker("two").await);
    let mut dies = two.join(&How::clean("dies")).await;
    subscribe(&mut dies, "$share/g/t", 2).await;
    let mut members = [one.join(&How::clean("clean")).await, one.join(&How::stored("stored")).await];
    for member in &mut members {
        subscribe(member, "$share/g/t", 2).await;
    }
    let mut publisher = one.join(&How::clean("publisher")).await;
    two.cut_off();
    for n in 0..60 {
        publish(&mut publisher, "t", &[n]).await;
    }
    for qos in [QoS::ExactlyOnce, QoS::AtMostOnce] {
        for n in 0..60 {
            publisher.publish("t", &[n], qos, false);
        }
    }
    let mut got = Vec::new();
    for member in &mut members {
        got.extend(within(member, 200).await);
    }
    let (once, twice) = (numbers(&got, 1), numbers(&got, 2));
    assert!((20..=45).contains(&once.len()), "a third went to the dead one: {once:?}");
    assert!((20..=45).contains(&twice.len()), "{twice:?}");
    let unheard = numbers(&got, 0);
    for member in &mut members {
        got.extend(within(member, 12_000).await);
    }
    assert_eq!(numbers(&got, 1), (0..60).collect::<Vec<_>>());
    assert_eq!(numbers(&got, 2), twice, "it may have begun with the others");
    assert_eq!(numbers(&got, 0), unheard);
    let handed_on = format!("tidegate_cluster_messages_handed_on_total {}", 60 - once.len());
    assert!(one.metrics().contains(&handed_on), "{handed_on}");
}

// The publisher's worker learns last that the members at another worker have gone on, and that it leaves.
#[tokio::test(start_paused = true)]
async fn what_comes_to_a_worker_that_leaves_goes_on_to_others() {
    let cluster = Cluster::new();
    let (one, two) = (cluster.worker("one").await, cluster.worker("two").await);
    let mut gone = two.join(&How::clean("gone")).await;
    subscribe(&mut gone, "$share/g/t", 1).await;
    let mut here = one.join(&How::clean("here")).await;
    subscribe(&mut here, "$share/g/t", 1).await;
    let mut publisher = one.join(&How::clean("publisher")).await;
    gone.lose();
    for n in 0..60 {
        publisher.publish("t", &[n], QoS::AtLeastOnce, false);
    }
    two.broker.leave().await.unwrap();
    for n in 60..90 {
        publisher.publish("t", &[n], QoS::AtLeastOnce, false);
    }
    let got = within(&mut here, 1000).await;
    assert_eq!(numbers(&got, 1), (0..90).collect::<Vec<_>>());
}

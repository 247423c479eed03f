//! Shared Subscriptions over sessions that are connected and not.

use broker::BrokerConfig;
use mqtt::QoS;
use state::MemoryStore;

use crate::device::{Device, Got, How, World};

// HAZARDS 28
#[tokio::test]
async fn connected_members_share_fairly_and_offline_ones_are_passed_over() {
    let world = World::new().await;
    let mut members: Vec<_> = ["a", "b", "off"].iter().map(|id| world.connect(&How::stored(id))).collect();
    for member in &mut members {
        member.subscribe("$share/g/t", 1);
        member.drain();
    }
    members[2].lose();
    let mut publisher = world.connect(&How::clean("publisher"));
    for n in 0..100_u8 {
        publisher.publish("t", &[n], QoS::AtLeastOnce, false);
    }
    let (a, b) = (members[0].payloads(), members[1].payloads());
    assert_eq!(a.len() + b.len(), 100);
    assert!(a.len().abs_diff(b.len()) <= 2, "{} and {}", a.len(), b.len());
}

#[tokio::test]
async fn a_share_without_connected_members_keeps_messages_for_a_stored_one() {
    let world = World::new().await;
    let mut member = world.connect(&How::stored("member"));
    member.subscribe("$share/g/t", 1);
    member.lose();
    let mut publisher = world.connect(&How::clean("publisher"));
    publisher.publish("t", b"kept", QoS::AtLeastOnce, false);
    assert_eq!(publisher.drain().last(), Some(&Got::Other { first_byte: 0x40, body: vec![0, 2] }));
    let mut member = world.connect(&How::stored("member"));
    assert_eq!(member.payloads(), [b"kept"]);
}

// Rule 18 of the design: the member that was chosen ended while the message was on its way to its queue.
#[tokio::test]
async fn a_member_that_is_gone_is_replaced_before_puback() {
    let world = World::new().await;
    let mut gone = world.connect(&How::stored("gone"));
    gone.subscribe("$share/g/t", 1);
    gone.subscribe("$share/h/t", 1);
    gone.lose();
    let mut rest = world.connect(&How::stored("rest"));
    rest.subscribe("$share/g/t", 1);
    rest.lose();
    let mut publisher = world.connect(&How::clean("publisher"));
    publisher.publish("t", b"1", QoS::AtLeastOnce, false);
    world.store.hold();
    // The store has discarded the session already, but this worker does not know.
    let _clean = world.connect(&How::clean("gone"));
    for n in [b"2", b"3", b"4"] {
        publisher.publish("t", n, QoS::AtLeastOnce, false);
    }
    world.store.let_go();
    assert_eq!(publisher.drain().len(), 1 + 4);
    let mut payloads = world.connect(&How::stored("rest")).payloads();
    payloads.retain(|payload| payload.as_slice() != b"1");
    assert_eq!(payloads.len(), 3, "{payloads:?}");
}

/// The payloads of so many PUBLISH packets, and of no more, acknowledged to the end.
async fn take(device: &mut Device, count: usize) -> Vec<u8> {
    let mut payloads = Vec::new();
    while payloads.len() < count {
        match device.wait().await {
            Got::Publish { payload, qos, id, .. } => {
                payloads.push(payload[0]);
                if let Some(id) = id {
                    device.acknowledge(if qos == 2 { 0x50 } else { 0x40 }, id);
                }
            }
            Got::Other { first_byte: 0x62, body } => {
                device.acknowledge(0x70, u16::from_be_bytes([body[0], body[1]]));
            }
            _ => {}
        }
    }
    assert!(device.payloads().is_empty());
    payloads.sort_unstable();
    payloads
}

/// How the session of a member ends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    /// It is clean, and its connection is lost.
    Clean,
    /// Another connection has the identifier of a clean session.
    TakenOver,
    /// DISCONNECT says that it ends.
    Disconnect,
    /// Its client comes back with Clean Start.
    CleanStart,
    /// It expires.
    Expiry,
}

// HAZARDS 40; v5 [MQTT-4.8.2-5]
#[tokio::test]
async fn what_a_member_did_not_acknowledge_goes_to_the_others_when_its_session_ends() {
    for end in [End::Clean, End::TakenOver, End::Disconnect, End::CleanStart, End::Expiry] {
        let world = World::new().await;
        let is_clean = matches!(end, End::Clean | End::TakenOver);
        let how = if is_clean { How::clean("ends") } else { How { expiry_s: 1, ..How::stored("ends") } };
        let how = How { receive_maximum: 4, ..how };
        let mut ends = world.connect(&how);
        ends.subscribe("$share/g/t", 2);
        ends.subscribe("t", 1);
        ends.drain();
        let mut publisher = world.connect(&How::clean("publisher"));
        // 1 and 2 are begun, once for each subscription; the others wait.
        for (n, qos) in
            [(1, QoS::AtLeastOnce), (2, QoS::ExactlyOnce), (3, QoS::AtLeastOnce), (4, QoS::ExactlyOnce)]
        {
            publisher.publish("t", &[n], qos, false);
        }
        let begun = ends.payloads();
        assert_eq!(begun.len(), 4, "{end:?}: {begun:?}");
        let mut other = world.connect(&How::stored("other"));
        other.subscribe("$share/g/t", 2);
        other.drain();
        match end {
            End::Clean | End::Expiry => ends.lose(),
            End::Disconnect => {
                // Session Expiry Interval 0.
                ends.send(&[0xe0, 7, 0, 5, 0x11, 0, 0, 0, 0]);
            }
            End::TakenOver | End::CleanStart => drop(world.connect(&How { clean_start: true, ..how })),
        }
        ends.stream = None;
        assert_eq!(take(&mut other, 3).await, [1, 3, 4], "{end:?}");
    }
}

#[tokio::test]
async fn what_a_member_acknowledged_is_left_to_nobody() {
    let world = World::new().await;
    for how in [How::clean("clean"), How::stored("stored")] {
        let mut ends = world.connect(&how);
        ends.subscribe("$share/g/t", 1);
        ends.drain();
        let mut publisher = world.connect(&How::clean("publisher"));
        for n in 0..3 {
            publisher.publish("t", &[n], QoS::AtLeastOnce, false);
        }
        assert_eq!(take(&mut ends, 3).await, [0, 1, 2]);
        let mut other = world.connect(&How::clean("other"));
        other.subscribe("$share/g/t", 1);
        other.drain();
        ends.send(&[0xe0, 7, 0, 5, 0x11, 0, 0, 0, 0]);
        publisher.publish("t", &[9], QoS::AtLeastOnce, false);
        assert_eq!(take(&mut other, 1).await, [9], "{}", how.client_id);
    }
}

// HAZARDS 28
#[tokio::test]
async fn a_member_that_takes_no_more_is_passed_over() {
    for how in [How::clean("slow"), How::stored("slow")] {
        let world = World::new().await;
        let mut slow = world.connect(&How { receive_maximum: 2, ..how });
        slow.subscribe("$share/g/t", 1);
        slow.drain();
        let mut quick = world.connect(&How::clean("quick"));
        quick.subscribe("$share/g/t", 1);
        quick.drain();
        let mut publisher = world.connect(&How::clean("publisher"));
        let mut counts = (0, 0);
        for n in 0..20 {
            publisher.publish("t", &[n], QoS::AtLeastOnce, false);
            counts.0 += slow.payloads().len();
            for got in quick.drain() {
                if let Got::Publish { id: Some(id), .. } = got {
                    counts.1 += 1;
                    quick.acknowledge(0x40, id);
                }
            }
        }
        assert_eq!(counts, (2, 18));
        // Nobody takes more: then it waits for whoever is there.
        let mut ids = Vec::new();
        for n in 20..2000_u16 {
            publisher.publish("t", &n.to_be_bytes(), QoS::AtLeastOnce, false);
            ids.extend(quick.drain());
        }
        assert!(ids.len() >= 900, "{}", ids.len());
    }
}

// A full queue is as good as none.
#[tokio::test]
async fn a_member_whose_queue_is_full_is_replaced() {
    let config = BrokerConfig { sys_interval_s: 0, queue_messages_max: 5, ..BrokerConfig::default() };
    let world = World::with(config, MemoryStore::new()).await;
    let mut publisher = world.connect(&How::clean("publisher"));
    for client_id in ["full", "empty"] {
        let mut member = world.connect(&How::stored(client_id));
        member.subscribe("$share/g/t", 1);
        member.lose();
        for n in 0..5 {
            publisher.publish("t", &[n], QoS::AtLeastOnce, false);
        }
    }
    for client_id in ["full", "empty"] {
        assert_eq!(world.connect(&How::stored(client_id)).payloads().len(), 5, "{client_id}");
    }
}

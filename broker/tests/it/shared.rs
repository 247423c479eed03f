//! Shared Subscriptions over sessions that are connected and not.

use mqtt::QoS;

use crate::device::{Got, How, World};

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

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

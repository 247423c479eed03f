//! A store that does not answer, answers late, or says no.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use mqtt::QoS;
use state::StoreError;

use crate::device::{Got, How, World};

fn unavailable() -> StoreError {
    StoreError::Unavailable(Arc::new(io::Error::other("away")))
}

// P9: held back, not acknowledged, not dropped; QoS 0 goes on.
#[tokio::test]
async fn publishes_wait_while_the_store_is_away_and_go_on_in_order() {
    let world = World::new().await;
    let mut subscriber = world.connect(&How::stored("subscriber"));
    subscriber.subscribe("t", 1);
    subscriber.drain();
    let mut publisher = world.connect(&How::clean("publisher"));
    publisher.drain();
    world.store.fail_with(Some(unavailable()));
    for n in 0..20_u8 {
        publisher.publish("t", &[n], QoS::AtLeastOnce, n % 5 == 0);
    }
    publisher.publish("t", b"now", QoS::AtMostOnce, false);
    assert!(publisher.drain().is_empty(), "nothing is acknowledged");
    assert_eq!(subscriber.payloads(), [b"now"]);
    world.store.fail_with(None);
    let mut acknowledged = 0;
    while acknowledged < 20 {
        assert!(matches!(publisher.wait().await, Got::Other { first_byte: 0x40, .. }));
        acknowledged += 1;
    }
    assert_eq!(subscriber.payloads(), (0..20_u8).map(|n| vec![n]).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_store_that_does_not_answer_is_not_asked_for_timers_again_and_again() {
    let world = World::new().await;
    world.store.hold();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(world.store.held(), 1);
    world.store.let_go();
    world.store.hold();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.store.held(), 1, "it is asked again when it has answered");
}

#[tokio::test]
async fn puback_waits_for_the_store() {
    let world = World::new().await;
    let mut subscriber = world.connect(&How::stored("subscriber"));
    subscriber.subscribe("t", 1);
    subscriber.drain();
    let mut publisher = world.connect(&How::clean("publisher"));
    publisher.drain();
    world.store.hold();
    publisher.publish("t", b"x", QoS::AtLeastOnce, false);
    assert!(publisher.drain().is_empty());
    assert!(subscriber.payloads().is_empty(), "nothing is delivered before it is durable");
    world.store.let_go();
    assert_eq!(publisher.drain().len(), 1);
    assert_eq!(subscriber.payloads(), [b"x"]);
}

#[tokio::test]
async fn a_device_that_leaves_before_its_session_is_granted_leaves_nothing_behind() {
    let world = World::new().await;
    let mut first = world.connect(&How::stored("c"));
    first.subscribe("t", 1);
    first.lose();
    world.store.hold();
    let mut gone = world.connect(&How::stored("c"));
    assert_eq!(gone.got(), None);
    gone.lose();
    world.store.let_go();
    let mut publisher = world.connect(&How::clean("publisher"));
    publisher.publish("t", b"kept", QoS::AtLeastOnce, false);
    let mut back = world.connect(&How::stored("c"));
    assert_eq!(back.got(), Some(Got::ConnAck { session_present: true, code: 0 }));
    assert_eq!(back.payloads(), [b"kept"]);
    assert_eq!(world.broker.connected(), 2);
}

#[tokio::test]
async fn a_connect_that_the_store_cannot_serve_is_refused_with_the_right_code() {
    let world = World::new().await;
    world.store.fail_with(Some(unavailable()));
    assert_eq!(
        world.connect(&How::stored("c")).got(),
        Some(Got::ConnAck { session_present: false, code: 0x88 })
    );
    world.store.fail_with(Some(StoreError::SessionQuota));
    assert_eq!(
        world.connect(&How::stored("c")).got(),
        Some(Got::ConnAck { session_present: false, code: 0x97 })
    );
}

// P9: the flows of a connected stored session go on where they stood.
#[tokio::test]
async fn acknowledgements_and_subscriptions_wait_for_the_store_too() {
    let world = World::new().await;
    let mut device = world.connect(&How::stored("device"));
    device.subscribe("t", 2);
    let mut publisher = world.connect(&How::clean("publisher"));
    publisher.publish("t", b"x", QoS::ExactlyOnce, false);
    let Some(Got::Publish { id: Some(id), .. }) = device.drain().pop() else { panic!("no PUBLISH") };
    device.publish_as(9, "elsewhere", b"y", QoS::ExactlyOnce, false);
    device.drain();
    world.store.fail_with(Some(unavailable()));
    device.acknowledge(0x50, id);
    device.acknowledge(0x62, 9);
    device.subscribe("u", 1);
    assert!(device.drain().is_empty(), "nothing is answered");
    world.store.fail_with(None);
    let mut answers = vec![device.wait().await, device.wait().await, device.wait().await];
    answers.sort_by_key(|got| if let Got::Other { first_byte, .. } = got { *first_byte } else { 0 });
    let kinds: Vec<u8> = answers
        .iter()
        .map(|got| if let Got::Other { first_byte, .. } = got { *first_byte } else { 0 })
        .collect();
    assert_eq!(kinds, [0x62, 0x70, 0x90], "PUBREL, PUBCOMP, SUBACK: {answers:?}");
    assert!(device.closed.is_none());
}

fn other(first_byte: u8, body: &[u8]) -> Got {
    Got::Other { first_byte, body: body.into() }
}

// ARCHITECTURE, rule 31; v5 [MQTT-3.10.4-2].
#[tokio::test]
async fn what_follows_a_request_on_its_connection_waits_for_it_and_nothing_else_does() {
    let world = World::new().await;
    let mut device = world.connect(&How::stored("device"));
    let mut stranger = world.connect(&How::clean("stranger"));
    let mut publisher = world.connect(&How::clean("publisher"));
    stranger.subscribe("t", 0);
    for connected in [&mut device, &mut stranger, &mut publisher] {
        connected.drain();
    }
    world.store.hold();
    device.subscribe("t", 1);
    let id = device.publish("t", b"own", QoS::AtLeastOnce, false);
    device.publish("t", b"own too", QoS::AtMostOnce, false);
    device.unsubscribe("t");
    let last = device.publish("t", b"not", QoS::AtLeastOnce, false);
    publisher.publish("t", b"of others", QoS::AtMostOnce, false);
    assert_eq!(stranger.payloads(), [b"of others"]);
    assert_eq!(device.drain(), [], "it waits for the store");
    world.store.let_go();
    let got = device.drain();
    let at = |wanted: &Got| got.iter().position(|got| got == wanted);
    let suback = at(&other(0x90, &[0, 2, 0, 1]));
    let (puback, unsuback) = (at(&other(0x40, &[0, id as u8])), at(&other(0xB0, &[0, 5, 0, 0])));
    assert!(suback == Some(0) && suback < puback && puback < unsuback, "{got:?}");
    // The stranger has it; nobody else does any more.
    assert_eq!(got.last(), Some(&other(0x40, &[0, last as u8])));
    let own: Vec<&[u8]> = got.iter().filter_map(payload).collect();
    assert_eq!(own.len(), 2);
    assert!(own.contains(&&b"own"[..]) && own.contains(&&b"own too"[..]), "{own:?}");
    assert_eq!(stranger.payloads(), [&b"own"[..], b"own too", b"not"]);
}

fn payload(got: &Got) -> Option<&[u8]> {
    match got {
        Got::Publish { payload, .. } => Some(payload),
        _ => None,
    }
}

#[tokio::test]
async fn requests_of_one_kind_are_carried_out_side_by_side_unless_they_are_about_the_same_filter() {
    let world = World::new().await;
    let mut device = world.connect(&How::stored("device"));
    device.drain();
    world.store.hold();
    device.subscribe("a", 0);
    device.subscribe("b", 0);
    device.subscribe("a", 1);
    assert_eq!(world.store.held(), 2);
    world.store.let_go();
    let granted = [other(0x90, &[0, 2, 0, 0]), other(0x90, &[0, 3, 0, 0]), other(0x90, &[0, 4, 0, 1])];
    assert_eq!(device.drain(), granted);
    world.store.hold();
    device.unsubscribe("a");
    device.unsubscribe("b");
    device.subscribe("a", 1);
    assert_eq!(world.store.held(), 2);
    world.store.let_go();
    let gone = [other(0xB0, &[0, 5, 0, 0]), other(0xB0, &[0, 6, 0, 0]), other(0x90, &[0, 7, 0, 1])];
    assert_eq!(device.drain(), gone);
}

// A message whose answer waits does not let SUBACK by.
#[tokio::test]
async fn suback_keeps_its_place_among_acknowledgements() {
    let world = World::new().await;
    let mut subscriber = world.connect(&How::stored("subscriber"));
    subscriber.subscribe("t", 1);
    subscriber.drain();
    let mut device = world.connect(&How::clean("device"));
    device.drain();
    world.store.hold();
    let id = device.publish("t", b"x", QoS::AtLeastOnce, false);
    // A session in memory: nobody is asked.
    device.subscribe("u", 0);
    let next = device.publish("t", b"y", QoS::AtLeastOnce, false);
    assert_eq!(device.drain(), []);
    world.store.let_go();
    let [id, next] = [id, next].map(|id| other(0x40, &[0, id as u8]));
    assert_eq!(device.drain(), [id, other(0x90, &[0, 3, 0, 0]), next]);
}

// v5 [MQTT-3.14.4-3]: what came before DISCONNECT is carried out, and no Will is published.
#[tokio::test]
async fn a_disconnect_behind_a_request_waits_for_it() {
    let world = World::new().await;
    let mut watcher = world.connect(&How::clean("watcher"));
    watcher.subscribe("will", 0);
    watcher.drain();
    let mut device = world.connect(&How { will: Some(("will", 0)), ..How::stored("device") });
    device.drain();
    world.store.hold();
    device.subscribe("t", 1);
    device.publish("t", b"x", QoS::AtMostOnce, false);
    device.send(&[0xE0, 0]);
    assert_eq!(device.closed, None);
    world.store.let_go();
    device.drain();
    assert!(device.closed.is_some());
    let mut again = world.connect(&How::stored("device"));
    assert!(matches!(again.drain()[..], [Got::ConnAck { session_present: true, .. }]));
    let mut publisher = world.connect(&How::clean("publisher"));
    publisher.publish("t", b"y", QoS::AtLeastOnce, false);
    assert_eq!(again.payloads(), [b"y"]);
    assert_eq!(watcher.payloads().len(), 0);
}

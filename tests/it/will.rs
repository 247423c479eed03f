//! Will Messages: when they are published, when not, and with what in them.

use std::time::{Duration, Instant};

use crate::harness::bytes::{self, Connect, Publish, Will};
use crate::harness::property as p;
use crate::harness::{Client, Target, let_pass, unique};

over_every_transport!(
    will_is_published_when_the_connection_breaks,
    will_is_published_after_a_protocol_error,
    will_is_not_published_after_a_normal_disconnect,
    will_is_published_after_disconnect_with_will,
    will_is_published_when_keep_alive_runs_out,
    will_has_its_qos,
    will_is_retained_only_if_it_says_so,
    will_carries_its_properties,
    will_waits_for_its_delay,
    will_delay_ends_with_the_session,
    will_is_not_published_if_the_client_returns_within_the_delay,
    will_is_published_once,
    takeover_publishes_a_will_without_delay,
    takeover_with_delay_publishes_no_will_of_a_session_that_goes_on,
    clean_start_within_the_delay_publishes_the_will,
    new_connect_replaces_the_will,
);

/// A client with this Will and a witness subscribed to its topic at QoS 2.
fn client_and_witness(at: Target, connect: &Connect, topic: &str) -> (Client, Client) {
    let mut witness = at.v5();
    witness.subscribe(topic, 2);
    (at.connect(connect), witness)
}

fn will_is_published_when_the_connection_breaks(at: Target) {
    // v5 [MQTT-3.1.2-7], [MQTT-3.1.2-8]
    let topic = unique("t");
    let connect = Connect::v5(&unique("c")).will(Will::new(&topic, "gone"));
    let (client, mut witness) = client_and_witness(at, &connect, &topic);
    client.vanish();
    let will = witness.expect_message("gone");
    assert_eq!((will.qos, will.retain), (0, false));
}

fn will_is_published_after_a_protocol_error(at: Target) {
    // v5 [MQTT-3.1.2-8], section 3.1.2.5
    let topic = unique("t");
    let connect = Connect::v5(&unique("c")).will(Will::new(&topic, "gone"));
    let (mut client, mut witness) = client_and_witness(at, &connect, &topic);
    client.send(&connect.bytes());
    client.expect_disconnect(0x82);
    witness.expect_message("gone");
}

fn will_is_not_published_after_a_normal_disconnect(at: Target) {
    // v5 [MQTT-3.14.4-3], [MQTT-3.1.2-10]
    for disconnect in [bytes::DISCONNECT.to_vec(), vec![0xE0, 1, 0], bytes::disconnect(0, &[])] {
        let topic = unique("t");
        let connect = Connect::v5(&unique("c")).will(Will::new(&topic, "gone"));
        let (mut client, mut witness) = client_and_witness(at, &connect, &topic);
        client.send(&disconnect);
        client.expect_close();
        witness.expect_silence_from(&mut at.v5());
    }
}

fn will_is_published_after_disconnect_with_will(at: Target) {
    // Reason Code 0x04, and any other than 0x00. v5 [MQTT-3.1.2-8]
    for reason in [0x04, 0x80, 0x93] {
        let topic = unique("t");
        let connect = Connect::v5(&unique("c")).will(Will::new(&topic, "gone"));
        let (mut client, mut witness) = client_and_witness(at, &connect, &topic);
        client.send(&bytes::disconnect(reason, &[]));
        client.expect_close();
        witness.expect_message("gone");
    }
}

fn will_is_published_when_keep_alive_runs_out(at: Target) {
    // v5 [MQTT-3.1.2-22]
    let topic = unique("t");
    let connect = Connect::v5(&unique("c")).keep_alive(1).will(Will::new(&topic, "gone"));
    let (_client, mut witness) = client_and_witness(at, &connect, &topic);
    witness.expect_message("gone");
}

fn will_has_its_qos(at: Target) {
    // v5 [MQTT-3.1.2-12]
    for qos in 0..=2 {
        let topic = unique("t");
        let connect = Connect::v5(&unique("c")).will(Will::new(&topic, "gone").qos(qos));
        let (client, mut witness) = client_and_witness(at, &connect, &topic);
        client.vanish();
        let will = witness.take();
        assert_eq!((will.text(), will.qos), ("gone", qos));
    }
}

fn will_is_retained_only_if_it_says_so(at: Target) {
    // v5 [MQTT-3.1.2-14], [MQTT-3.1.2-15]
    for retain in [false, true] {
        let topic = unique("t");
        let will = Will::new(&topic, "gone");
        let will = if retain { will.retain() } else { will };
        let (client, mut witness) = client_and_witness(at, &Connect::v5(&unique("c")).will(will), &topic);
        client.vanish();
        witness.expect_message("gone");
        let mut late = at.v5();
        late.subscribe(&topic, 0);
        if retain {
            assert!(late.expect_message("gone").retain);
        }
        late.expect_silence_from(&mut witness);
        witness.publish_as(Publish::new(&topic, "").retain(), 0);
    }
}

fn will_carries_its_properties(at: Target) {
    // v5 [MQTT-3.1.3-10] and section 3.1.3.2
    let topic = unique("t");
    let will = Will::new(&topic, "gone")
        .with(p::pair("z", "1"))
        .with(p::text(p::CONTENT_TYPE, "x/y"))
        .with(p::pair("a", "2"))
        .with(p::byte(p::PAYLOAD_FORMAT, 1))
        .with(p::text(p::RESPONSE_TOPIC, "r"))
        .with(p::text(p::CORRELATION_DATA, [9, 0]))
        .with(p::four(p::MESSAGE_EXPIRY, 60))
        .with(p::pair("z", "0"));
    let (client, mut witness) = client_and_witness(at, &Connect::v5(&unique("c")).will(will), &topic);
    client.vanish();
    let properties = witness.expect_message("gone").properties;
    assert_eq!(properties.pairs(), [("z", "1"), ("a", "2"), ("z", "0")]);
    assert_eq!(properties.text(p::CONTENT_TYPE), Some("x/y"));
    assert_eq!(properties.number(p::PAYLOAD_FORMAT), Some(1));
    assert_eq!(properties.text(p::RESPONSE_TOPIC), Some("r"));
    assert_eq!(properties.data(p::CORRELATION_DATA), Some(&[9, 0][..]));
    assert!((50..=60).contains(&properties.number(p::MESSAGE_EXPIRY).unwrap()));
    assert!(!properties.has(p::WILL_DELAY));
}

fn will_waits_for_its_delay(at: Target) {
    // v5 [MQTT-3.1.2-8]
    let (topic, id) = (unique("t"), unique("s"));
    let connect = Connect::stored(&id).will(Will::new(&topic, "gone").delay(2));
    let (client, mut witness) = client_and_witness(at, &connect, &topic);
    let start = Instant::now();
    client.vanish();
    witness.expect_message("gone");
    let waited = start.elapsed();
    assert!(waited > Duration::from_millis(1_000), "the Will came after {waited:?}");
    at.connect(&Connect::v5(&id)).leave();
}

fn will_delay_ends_with_the_session(at: Target) {
    // v5 [MQTT-3.1.2-8]: whichever comes first.
    for expiry in [0, 1] {
        let topic = unique("t");
        let connect = Connect::v5(&unique("s"))
            .with(p::four(p::SESSION_EXPIRY, expiry))
            .will(Will::new(&topic, "gone").delay(60));
        let (client, mut witness) = client_and_witness(at, &connect, &topic);
        client.vanish();
        witness.expect_message("gone");
    }
}

fn will_is_not_published_if_the_client_returns_within_the_delay(at: Target) {
    // v5 [MQTT-3.1.3-9]
    let (topic, id) = (unique("t"), unique("s"));
    let connect = Connect::stored(&id).will(Will::new(&topic, "gone").delay(3));
    let (client, mut witness) = client_and_witness(at, &connect, &topic);
    client.vanish();
    let mut back = at.connect(&Connect::stored(&id));
    let_pass(Duration::from_millis(3_700));
    witness.expect_silence_from(&mut back);
    at.connect(&Connect::v5(&id)).leave();
}

fn will_is_published_once(at: Target) {
    // v5 [MQTT-3.1.2-10]: published, it is removed; the next end of the session has none.
    let (topic, id) = (unique("t"), unique("s"));
    let (client, mut witness) =
        client_and_witness(at, &Connect::stored(&id).will(Will::new(&topic, "gone")), &topic);
    client.vanish();
    witness.expect_message("gone");
    at.connect(&Connect::stored(&id)).vanish();
    at.connect(&Connect::v5(&id)).leave();
    witness.expect_silence_from(&mut at.v5());
}

fn takeover_publishes_a_will_without_delay(at: Target) {
    // v5 section 3.1.4: the old connection is closed without a DISCONNECT of its client, and the Will Delay is 0.
    let (topic, id) = (unique("t"), unique("s"));
    let connect = Connect::stored(&id).will(Will::new(&topic, "gone"));
    let (mut old, mut witness) = client_and_witness(at, &connect, &topic);
    let new = at.connect(&Connect::stored(&id));
    old.expect_disconnect(0x8E);
    witness.expect_message("gone");
    new.leave();
    at.connect(&Connect::v5(&id)).leave();
}

fn takeover_with_delay_publishes_no_will_of_a_session_that_goes_on(at: Target) {
    // v5 [MQTT-3.1.3-9]
    let (topic, id) = (unique("t"), unique("s"));
    let connect = Connect::stored(&id).will(Will::new(&topic, "gone").delay(1));
    let (mut old, mut witness) = client_and_witness(at, &connect, &topic);
    let mut new = at.connect(&Connect::stored(&id));
    old.expect_disconnect(0x8E);
    let_pass(Duration::from_millis(1_600));
    witness.expect_silence_from(&mut new);
    at.connect(&Connect::v5(&id)).leave();
}

fn clean_start_within_the_delay_publishes_the_will(at: Target) {
    // v5 section 3.1.4: Clean Start ends the old session, and with it the delay.
    let (topic, id) = (unique("t"), unique("s"));
    let connect = Connect::stored(&id).will(Will::new(&topic, "gone").delay(60));
    let (client, mut witness) = client_and_witness(at, &connect, &topic);
    client.vanish();
    let new = at.connect(&Connect::v5(&id));
    witness.expect_message("gone");
    new.leave();
}

fn new_connect_replaces_the_will(at: Target) {
    // v5 [MQTT-3.1.2-7]: the Will belongs to the CONNECT of the connection that broke. The old one would come first.
    let (topic, id) = (unique("t"), unique("s"));
    let with = |payload: &str, delay| Connect::stored(&id).will(Will::new(&topic, payload).delay(delay));
    let (client, mut witness) = client_and_witness(at, &with("old", 3), &topic);
    client.vanish();
    at.connect(&with("new", 4)).vanish();
    witness.expect_message("new");
    witness.expect_silence_from(&mut at.v5());
    at.connect(&Connect::v5(&id)).leave();
}

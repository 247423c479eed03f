//! Retained messages: stored, replaced, removed, sent to new subscriptions; Retain As Published.

use std::time::Duration;

use crate::harness::bytes::{Connect, Publish};
use crate::harness::property as p;
use crate::harness::{Target, let_pass, unique};

over_every_transport!(
    retained_message_goes_to_new_subscriptions,
    retained_message_is_replaced,
    empty_payload_removes_the_retained_message,
    message_without_retain_changes_nothing_retained,
    retain_handling_0_sends_at_every_subscribe,
    retain_handling_1_sends_to_new_subscriptions_only,
    retain_handling_2_sends_nothing,
    retain_as_published_0_clears_the_flag,
    retain_as_published_1_keeps_the_flag,
    wildcards_find_retained_messages,
    dollar_topics_are_not_found_by_leading_wildcards,
    retained_message_keeps_qos_and_properties,
    retained_message_expires,
    retained_message_outlives_its_publisher,
    retained_messages_carry_the_subscription_identifier,
    shared_subscriptions_get_no_retained_messages,
    retained_message_is_read_again_by_each_filter_of_one_subscribe,
);

const RETAIN_AS_PUBLISHED: u8 = 0x08;
const IF_NEW: u8 = 0x10;
const NEVER: u8 = 0x20;

fn retained_message_goes_to_new_subscriptions(at: Target) {
    // v5 [MQTT-3.3.1-5], [MQTT-3.3.1-9]
    let topic = unique("t");
    let mut publisher = at.v5();
    publisher.publish_as(Publish::new(&topic, "kept").retain(), 1);
    for granted in [0, 1] {
        let mut subscriber = at.v5();
        subscriber.subscribe(&topic, granted);
        let message = subscriber.take();
        assert_eq!((message.text(), message.retain, message.qos), ("kept", true, granted));
        subscriber.expect_silence_from(&mut publisher);
    }
}

fn retained_message_is_replaced(at: Target) {
    // v5 [MQTT-3.3.1-5]
    let topic = unique("t");
    let mut publisher = at.v5();
    for (payload, qos) in [("one", 0), ("two", 2), ("three", 1)] {
        publisher.publish_as(Publish::new(&topic, payload).retain(), qos);
    }
    let mut subscriber = at.v5();
    subscriber.subscribe(&topic, 2);
    assert_eq!(subscriber.take().text(), "three");
    subscriber.expect_silence_from(&mut publisher);
}

fn empty_payload_removes_the_retained_message(at: Target) {
    // v5 [MQTT-3.3.1-6], [MQTT-3.3.1-7]: removed, not stored, and passed on like any message.
    let topic = unique("t");
    let (mut publisher, mut live) = (at.v5(), at.v5());
    publisher.publish_as(Publish::new(&topic, "kept").retain(), 1);
    live.subscribe(&topic, 0);
    live.expect_message("kept");
    publisher.publish_as(Publish::new(&topic, "").retain(), 1);
    assert!(!live.expect_message("").retain);
    let mut late = at.v5();
    late.subscribe(&topic, 0);
    late.expect_silence_from(&mut publisher);
}

fn message_without_retain_changes_nothing_retained(at: Target) {
    // v5 [MQTT-3.3.1-8]
    let topic = unique("t");
    let mut publisher = at.v5();
    publisher.publish(&topic, "live", 1);
    let mut late = at.v5();
    late.subscribe(&topic, 0);
    late.expect_silence_from(&mut publisher);
    publisher.publish_as(Publish::new(&topic, "kept").retain(), 1);
    publisher.publish(&topic, "live", 1);
    publisher.publish(&topic, "", 1);
    let mut late = at.v5();
    late.subscribe(&topic, 0);
    late.expect_message("kept");
    late.expect_silence_from(&mut publisher);
}

fn retain_handling_0_sends_at_every_subscribe(at: Target) {
    // v5 [MQTT-3.3.1-9], [MQTT-3.8.4-4]
    let topic = unique("t");
    let (mut client, mut publisher) = (at.v5(), at.v5());
    publisher.publish_as(Publish::new(&topic, "kept").retain(), 1);
    for _ in 0..3 {
        client.subscribe(&topic, 0);
        assert!(client.expect_message("kept").retain);
    }
}

fn retain_handling_1_sends_to_new_subscriptions_only(at: Target) {
    // v5 [MQTT-3.3.1-10]
    let topic = unique("t");
    let (mut client, mut publisher) = (at.v5(), at.v5());
    publisher.publish_as(Publish::new(&topic, "kept").retain(), 1);
    client.subscribe(&topic, IF_NEW);
    client.expect_message("kept");
    client.subscribe(&topic, IF_NEW | 1);
    client.expect_silence_from(&mut publisher);
    client.unsubscribe(&[&topic]);
    client.subscribe(&topic, IF_NEW);
    client.expect_message("kept");
}

fn retain_handling_2_sends_nothing(at: Target) {
    // v5 [MQTT-3.3.1-11]
    let topic = unique("t");
    let (mut client, mut publisher) = (at.v5(), at.v5());
    publisher.publish_as(Publish::new(&topic, "kept").retain(), 1);
    client.subscribe(&topic, NEVER);
    client.expect_silence_from(&mut publisher);
    publisher.publish(&topic, "live", 0);
    client.expect_message("live");
}

fn retain_as_published_0_clears_the_flag(at: Target) {
    // v5 [MQTT-3.3.1-12]
    let topic = unique("t");
    let (mut client, mut publisher) = (at.v5(), at.v5());
    client.subscribe(&topic, 0);
    publisher.publish_as(Publish::new(&topic, "x").retain(), 0);
    assert!(!client.expect_message("x").retain);
    publisher.publish_as(Publish::new(&topic, "").retain(), 0);
}

fn retain_as_published_1_keeps_the_flag(at: Target) {
    // v5 [MQTT-3.3.1-13]
    let topic = unique("t");
    let (mut client, mut publisher) = (at.v5(), at.v5());
    client.subscribe(&topic, RETAIN_AS_PUBLISHED);
    publisher.publish_as(Publish::new(&topic, "x").retain(), 0);
    assert!(client.expect_message("x").retain);
    publisher.publish(&topic, "y", 0);
    assert!(!client.expect_message("y").retain);
    publisher.publish_as(Publish::new(&topic, "").retain(), 0);
    assert!(client.expect_message("").retain);
}

fn wildcards_find_retained_messages(at: Target) {
    let root = unique("t");
    let mut publisher = at.v5();
    for name in ["a", "a/b", "a/b/c", "a/x/c", "b"] {
        publisher.publish_as(Publish::new(format!("{root}/{name}"), name).retain(), 1);
    }
    publisher.publish_as(Publish::new(&root, "root").retain(), 1);
    let cases: [(&str, &[&str]); 7] = [
        ("#", &["a", "a/b", "a/b/c", "a/x/c", "b", "root"]),
        ("+", &["a", "b"]),
        ("a/+", &["a/b"]),
        ("a/+/c", &["a/b/c", "a/x/c"]),
        ("+/b/#", &["a/b", "a/b/c"]),
        ("a/b/c", &["a/b/c"]),
        ("c/#", &[]),
    ];
    for (filter, wanted) in cases {
        let mut client = at.v5();
        client.subscribe(&format!("{root}/{filter}"), 0);
        let mut found: Vec<String> =
            wanted.iter().map(|_| client.expect_publish()).map(|message| message.text().to_owned()).collect();
        found.sort_unstable();
        assert_eq!(found, wanted, "{filter}");
        client.expect_silence_from(&mut publisher);
    }
}

fn dollar_topics_are_not_found_by_leading_wildcards(at: Target) {
    // v5 [MQTT-4.7.2-1]
    let mut client = at.v5();
    client.subscribe("$SYS/broker/version", 0);
    assert!(client.expect_publish().retain);
    client.subscribe_all(&[("+/broker/version", 0), ("+/+/version", 0)], &[]);
    client.expect_silence();
}

fn retained_message_keeps_qos_and_properties(at: Target) {
    // v5 [MQTT-3.3.2-4], [MQTT-3.3.2-15] to [MQTT-3.3.2-18], [MQTT-3.3.2-20], [MQTT-3.8.4-8]
    let topic = unique("t");
    let mut publisher = at.v5();
    let publish = Publish::new(&topic, "kept")
        .retain()
        .with(p::pair("b", "1"))
        .with(p::text(p::CONTENT_TYPE, "x"))
        .with(p::pair("a", "2"))
        .with(p::text(p::RESPONSE_TOPIC, "r"))
        .with(p::byte(p::PAYLOAD_FORMAT, 1))
        .with(p::text(p::CORRELATION_DATA, [0]));
    publisher.publish_as(publish, 2);
    let mut client = at.v5();
    client.subscribe(&topic, 2);
    let message = client.take();
    assert_eq!(message.qos, 2);
    assert_eq!(message.properties.pairs(), [("b", "1"), ("a", "2")]);
    assert_eq!(message.properties.text(p::CONTENT_TYPE), Some("x"));
    assert_eq!(message.properties.text(p::RESPONSE_TOPIC), Some("r"));
    assert_eq!(message.properties.number(p::PAYLOAD_FORMAT), Some(1));
    assert_eq!(message.properties.data(p::CORRELATION_DATA), Some(&[0][..]));
}

fn retained_message_expires(at: Target) {
    // v5 [MQTT-3.3.2-5], [MQTT-3.3.2-6]
    let topic = unique("t");
    let mut publisher = at.v5();
    let expiring = |seconds| Publish::new(&topic, "kept").retain().with(p::four(p::MESSAGE_EXPIRY, seconds));
    publisher.publish_as(expiring(50), 1);
    let_pass(Duration::from_millis(1_200));
    let mut client = at.v5();
    client.subscribe(&topic, 0);
    let left = client.expect_message("kept").properties.number(p::MESSAGE_EXPIRY).unwrap();
    assert!((30..=49).contains(&left), "{left} s left");
    publisher.publish_as(expiring(1), 1);
    let_pass(Duration::from_millis(2_100));
    let mut client = at.v5();
    client.subscribe(&topic, 0);
    client.expect_silence_from(&mut publisher);
}

fn retained_message_outlives_its_publisher(at: Target) {
    // v5 section 4.1: retained messages are no part of the session.
    let (topic, id) = (unique("t"), unique("c"));
    let mut publisher = at.connect(&Connect::v5(&id));
    publisher.publish_as(Publish::new(&topic, "kept").retain(), 1);
    publisher.leave();
    at.connect(&Connect::v5(&id)).leave();
    let mut client = at.v5();
    client.subscribe(&topic, 0);
    client.expect_message("kept");
}

fn retained_messages_carry_the_subscription_identifier(at: Target) {
    // v5 [MQTT-3.3.4-3]
    let topic = unique("t");
    at.v5().publish_as(Publish::new(&topic, "kept").retain(), 1);
    let mut client = at.v5();
    client.subscribe_with(&topic, 0, &p::variable(p::SUBSCRIPTION_ID, 300));
    assert_eq!(client.expect_message("kept").properties.numbers(p::SUBSCRIPTION_ID), [300]);
}

fn shared_subscriptions_get_no_retained_messages(at: Target) {
    // v5 section 4.8.2
    let topic = unique("t");
    let mut publisher = at.v5();
    publisher.publish_as(Publish::new(&topic, "kept").retain(), 1);
    let mut client = at.v5();
    client.subscribe(&format!("$share/g/{topic}"), 1);
    client.expect_silence_from(&mut publisher);
}

fn retained_message_is_read_again_by_each_filter_of_one_subscribe(at: Target) {
    // v5 [MQTT-3.8.4-5]: as if the filters had come in packets of their own.
    let topic = unique("t");
    let mut publisher = at.v5();
    publisher.publish_as(Publish::new(format!("{topic}/a"), "a").retain(), 1);
    publisher.publish_as(Publish::new(format!("{topic}/b"), "b").retain(), 1);
    let mut client = at.v5();
    let (one, two) = (format!("{topic}/a"), format!("{topic}/b"));
    client.subscribe_all(&[(&one, 0), (&two, 0)], &[]);
    let mut found = [client.expect_publish().topic, client.expect_publish().topic];
    found.sort_unstable();
    assert_eq!(found, [one, two]);
    client.expect_silence_from(&mut publisher);
}

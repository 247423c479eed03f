//! Sessions: Clean Start, resume, redelivery, expiry, takeover.

use std::time::Duration;

use crate::harness::bytes::{self, Connect, PUBACK, PUBCOMP, PUBREC, PUBREL, Publish, ack};
use crate::harness::property as p;
use crate::harness::{Target, let_pass, unique};

over_every_transport!(
    resumed_session_has_subscriptions_and_queue,
    clean_start_discards_the_session,
    resume_without_a_session_starts_a_new_one,
    session_without_expiry_ends_with_the_connection,
    session_expires_after_its_interval,
    session_is_kept_while_connected_whatever_its_expiry,
    disconnect_may_change_the_expiry,
    disconnect_may_end_the_session,
    expiry_cannot_be_set_in_disconnect_after_zero,
    unacknowledged_messages_are_sent_again_with_dup,
    unacknowledged_pubrel_is_sent_again,
    message_released_is_not_published_again,
    incoming_qos2_state_outlives_the_connection,
    queued_messages_come_in_order_after_redelivery,
    nothing_is_sent_again_on_an_open_connection,
    takeover_disconnects_the_older_connection,
    takeover_keeps_the_session,
    takeover_with_clean_start_discards_it,
    many_takeovers_leave_one_connection,
    topic_aliases_do_not_outlive_the_connection,
);

fn resumed_session_has_subscriptions_and_queue(at: Target) {
    // v5 [MQTT-3.1.2-5], [MQTT-3.1.2-23], [MQTT-3.2.2-3], [MQTT-4.5.0-1], [MQTT-3.1.3-2]
    let (topic, id) = (unique("t"), unique("s"));
    let stored = Connect::stored(&id);
    let (mut client, connack) = at.connect_and_see(&stored);
    assert!(!connack.session_present);
    client.subscribe(&topic, 2);
    client.vanish();
    let mut publisher = at.v5();
    for (payload, qos) in [("one", 1), ("two", 2), ("three", 1)] {
        publisher.publish(&topic, payload, qos);
    }
    let (mut client, connack) = at.connect_and_see(&stored);
    assert!(connack.session_present);
    for (payload, qos) in [("one", 1), ("two", 2), ("three", 1)] {
        let message = client.expect_message(payload);
        assert_eq!((message.qos, message.dup), (qos, false), "sent for the first time");
    }
    publisher.publish(&topic, "live", 0);
    client.expect_message("live");
    at.connect(&Connect::v5(&id)).leave();
}

fn clean_start_discards_the_session(at: Target) {
    // v5 [MQTT-3.1.2-4], [MQTT-3.1.4-4], [MQTT-3.2.2-2]
    let (topic, id) = (unique("t"), unique("s"));
    let stored = Connect::stored(&id);
    let mut client = at.connect(&stored);
    client.subscribe(&topic, 1);
    client.leave();
    let mut publisher = at.v5();
    publisher.publish(&topic, "lost", 1);
    let (client, connack) = at.connect_and_see(&stored.clone().clean());
    assert!(!connack.session_present);
    client.leave();
    let (mut client, connack) = at.connect_and_see(&stored);
    assert!(connack.session_present, "the session of the clean start was stored");
    publisher.publish(&topic, "unsubscribed", 1);
    client.expect_silence_from(&mut publisher);
    at.connect(&Connect::v5(&id)).leave();
}

fn resume_without_a_session_starts_a_new_one(at: Target) {
    // v5 [MQTT-3.1.2-6], [MQTT-3.2.2-3]
    let (mut client, connack) = at.connect_and_see(&Connect::v5(&unique("s")).resume());
    assert!(!connack.session_present);
    client.expect_alive();
    client.leave();
}

fn session_without_expiry_ends_with_the_connection(at: Target) {
    // v5 [MQTT-4.1.0-2]: absent means 0.
    for zero in [Vec::new(), p::four(p::SESSION_EXPIRY, 0)] {
        let id = unique("s");
        let connect = Connect::v5(&id).resume().with(zero);
        at.connect(&connect).leave();
        let (client, connack) = at.connect_and_see(&connect);
        assert!(!connack.session_present);
        client.leave();
    }
}

fn session_expires_after_its_interval(at: Target) {
    // v5 [MQTT-4.1.0-2], [MQTT-3.1.2-23]
    let id = unique("s");
    let brief = Connect::v5(&id).resume().with(p::four(p::SESSION_EXPIRY, 1));
    let mut client = at.connect(&Connect::v5(&id).with(p::four(p::SESSION_EXPIRY, 300)));
    client.subscribe(&unique("t"), 1);
    client.leave();
    let (client, connack) = at.connect_and_see(&brief);
    assert!(connack.session_present, "within the interval");
    client.leave();
    let_pass(Duration::from_millis(2_500));
    let (client, connack) = at.connect_and_see(&brief);
    assert!(!connack.session_present, "after the interval");
    client.leave();
}

fn session_is_kept_while_connected_whatever_its_expiry(at: Target) {
    // v5 [MQTT-4.1.0-1]
    let (topic, id) = (unique("t"), unique("s"));
    let mut client = at.connect(&Connect::v5(&id).with(p::four(p::SESSION_EXPIRY, 1)));
    client.subscribe(&topic, 1);
    let_pass(Duration::from_millis(2_500));
    at.v5().publish(&topic, "still", 1);
    assert_eq!(client.take().text(), "still");
    client.leave();
}

fn disconnect_may_change_the_expiry(at: Target) {
    let id = unique("s");
    let mut client = at.connect(&Connect::v5(&id).with(p::four(p::SESSION_EXPIRY, 1)));
    client.send(&bytes::disconnect(0, &p::four(p::SESSION_EXPIRY, 300)));
    client.expect_close();
    let_pass(Duration::from_millis(2_500));
    let (client, connack) = at.connect_and_see(&Connect::stored(&id));
    assert!(connack.session_present);
    client.leave();
    at.connect(&Connect::v5(&id)).leave();
}

fn disconnect_may_end_the_session(at: Target) {
    let id = unique("s");
    let mut client = at.connect(&Connect::stored(&id));
    client.send(&bytes::disconnect(0, &p::four(p::SESSION_EXPIRY, 0)));
    client.expect_close();
    let (client, connack) = at.connect_and_see(&Connect::stored(&id));
    assert!(!connack.session_present);
    client.leave();
    at.connect(&Connect::v5(&id)).leave();
}

fn expiry_cannot_be_set_in_disconnect_after_zero(at: Target) {
    // v5 section 3.14.2.2.2: a Protocol Error.
    let mut client = at.v5();
    client.send(&bytes::disconnect(0, &p::four(p::SESSION_EXPIRY, 5)));
    client.expect_disconnect(0x82);
}

fn unacknowledged_messages_are_sent_again_with_dup(at: Target) {
    // v5 [MQTT-4.4.0-1], [MQTT-3.3.1-1], [MQTT-4.3.2-3], [MQTT-4.3.3-3], [MQTT-4.6.0-1]
    let (topic, id) = (unique("t"), unique("s"));
    let stored = Connect::stored(&id);
    let mut client = at.connect(&stored);
    client.subscribe(&topic, 2);
    let mut publisher = at.v5();
    for (payload, qos) in [("one", 1), ("two", 2), ("three", 1)] {
        publisher.publish(&topic, payload, qos);
    }
    let ids: Vec<u16> = (0..3).map(|_| client.expect_publish().id).collect();
    client.vanish();
    let mut client = at.connect(&stored);
    for (place, (payload, qos)) in [("one", 1), ("two", 2), ("three", 1)].into_iter().enumerate() {
        let message = client.expect_message(payload);
        assert_eq!((message.id, message.dup, message.qos), (ids[place], true, qos));
        if qos == 1 {
            client.send(&ack(PUBACK, message.id));
        }
    }
    client.send(&ack(PUBREC, ids[1]));
    client.expect(&ack(PUBREL, ids[1]));
    client.send(&ack(PUBCOMP, ids[1]));
    client.expect_silence_from(&mut publisher);
    client.leave();
    let mut client = at.connect(&stored);
    client.expect_silence_from(&mut publisher);
    at.connect(&Connect::v5(&id)).leave();
}

fn unacknowledged_pubrel_is_sent_again(at: Target) {
    // v5 [MQTT-4.4.0-1], [MQTT-4.3.3-5]
    let (topic, id) = (unique("t"), unique("s"));
    let stored = Connect::stored(&id);
    let mut client = at.connect(&stored);
    client.subscribe(&topic, 2);
    at.v5().publish(&topic, "x", 2);
    let message = client.expect_publish();
    client.send(&ack(PUBREC, message.id));
    client.expect(&ack(PUBREL, message.id));
    client.vanish();
    let mut client = at.connect(&stored);
    client.expect(&ack(PUBREL, message.id));
    client.send(&ack(PUBCOMP, message.id));
    client.expect_silence();
    at.connect(&Connect::v5(&id)).leave();
}

fn message_released_is_not_published_again(at: Target) {
    // v5 [MQTT-4.3.3-6], however often the connection breaks.
    let (topic, id) = (unique("t"), unique("s"));
    let stored = Connect::stored(&id);
    let mut client = at.connect(&stored);
    client.subscribe(&topic, 2);
    at.v5().publish(&topic, "x", 2);
    let message = client.expect_publish();
    client.send(&ack(PUBREC, message.id));
    client.expect(&ack(PUBREL, message.id));
    for _ in 0..3 {
        client.vanish();
        client = at.connect(&stored);
        client.expect(&ack(PUBREL, message.id));
    }
    client.send(&ack(PUBCOMP, message.id));
    client.leave();
    let mut client = at.connect(&stored);
    client.expect_silence();
    at.connect(&Connect::v5(&id)).leave();
}

fn incoming_qos2_state_outlives_the_connection(at: Target) {
    // v5 [MQTT-4.3.3-10] across a reconnect: the repeat is not delivered a second time.
    let (topic, id) = (unique("t"), unique("s"));
    let stored = Connect::stored(&id);
    let mut subscriber = at.v5();
    subscriber.subscribe(&topic, 2);
    let mut client = at.connect(&stored);
    client.send(&Publish::new(&topic, "once").qos2(11).bytes());
    client.expect_success(PUBREC, 11);
    client.vanish();
    let mut client = at.connect(&stored);
    client.send(&Publish::new(&topic, "once").qos2(11).dup().bytes());
    client.expect_success(PUBREC, 11);
    client.vanish();
    let mut client = at.connect(&stored);
    client.send(&ack(PUBREL, 11));
    client.expect(&ack(PUBCOMP, 11));
    assert_eq!(subscriber.take().text(), "once");
    subscriber.expect_silence_from(&mut client);
    at.connect(&Connect::v5(&id)).leave();
}

fn queued_messages_come_in_order_after_redelivery(at: Target) {
    // v5 [MQTT-4.6.0-5], [MQTT-4.6.0-6] across a reconnect
    let (topic, id) = (unique("t"), unique("s"));
    let stored = Connect::stored(&id).with(p::two(p::RECEIVE_MAXIMUM, 3));
    let mut client = at.connect(&stored);
    client.subscribe(&topic, 1);
    let mut publisher = at.v5();
    for number in 0..6 {
        publisher.publish(&topic, &number.to_string(), 1);
    }
    for number in 0..3 {
        client.expect_message(&number.to_string());
    }
    client.vanish();
    for number in 6..9 {
        publisher.publish(&topic, &number.to_string(), 1);
    }
    let mut client = at.connect(&stored);
    for number in 0..9 {
        let message = client.expect_message(&number.to_string());
        assert_eq!(message.dup, number < 3, "message {number}");
        client.send(&ack(PUBACK, message.id));
    }
    at.connect(&Connect::v5(&id)).leave();
}

fn nothing_is_sent_again_on_an_open_connection(at: Target) {
    // v5 [MQTT-4.4.0-1]: only a reconnect calls for it.
    let topic = unique("t");
    let (mut client, mut publisher) = (at.v5(), at.v5());
    client.subscribe(&topic, 1);
    publisher.publish(&topic, "x", 1);
    client.expect_message("x");
    let_pass(Duration::from_millis(1_500));
    client.expect_silence_from(&mut publisher);
}

fn takeover_disconnects_the_older_connection(at: Target) {
    // v5 [MQTT-3.1.4-3]
    let id = unique("c");
    let mut old = at.connect(&Connect::v5(&id));
    let mut new = at.connect(&Connect::v5(&id));
    old.expect_disconnect(0x8E);
    new.expect_alive();
    new.leave();
}

fn takeover_keeps_the_session(at: Target) {
    // v5 [MQTT-3.1.4-3], [MQTT-3.1.2-5]: nothing is lost between the two connections.
    let (topic, id) = (unique("t"), unique("s"));
    let stored = Connect::stored(&id);
    let mut old = at.connect(&stored);
    old.subscribe(&topic, 1);
    let mut publisher = at.v5();
    publisher.publish(&topic, "one", 1);
    old.expect_message("one");
    let (mut new, connack) = at.connect_and_see(&stored);
    assert!(connack.session_present);
    publisher.publish(&topic, "two", 1);
    old.expect_disconnect(0x8E);
    let one = new.expect_message("one");
    assert!(one.dup);
    new.expect_message("two");
    at.connect(&Connect::v5(&id)).leave();
}

fn takeover_with_clean_start_discards_it(at: Target) {
    let (topic, id) = (unique("t"), unique("s"));
    let mut old = at.connect(&Connect::stored(&id));
    old.subscribe(&topic, 1);
    let (mut new, connack) = at.connect_and_see(&Connect::v5(&id));
    assert!(!connack.session_present);
    old.expect_disconnect(0x8E);
    let mut publisher = at.v5();
    publisher.publish(&topic, "x", 1);
    new.expect_silence_from(&mut publisher);
}

fn many_takeovers_leave_one_connection(at: Target) {
    let (topic, id) = (unique("t"), unique("s"));
    let stored = Connect::stored(&id);
    let mut clients: Vec<_> = (0..10).map(|_| at.connect(&stored)).collect();
    let mut last = clients.pop().unwrap();
    for client in &mut clients {
        client.expect_disconnect(0x8E);
    }
    last.subscribe(&topic, 1);
    at.v5().publish(&topic, "x", 1);
    assert_eq!(last.take().text(), "x");
    last.expect_silence();
    at.connect(&Connect::v5(&id)).leave();
}

fn topic_aliases_do_not_outlive_the_connection(at: Target) {
    // v5 [MQTT-3.3.2-7]
    let (topic, id) = (unique("t"), unique("s"));
    let stored = Connect::stored(&id);
    let mut client = at.connect(&stored);
    client.send(&Publish::new(&topic, "x").qos1(1).with(p::two(p::TOPIC_ALIAS, 1)).bytes());
    client.expect_success(PUBACK, 1);
    client.leave();
    let mut client = at.connect(&stored);
    client.send(&Publish::new("", "x").qos1(2).with(p::two(p::TOPIC_ALIAS, 1)).bytes());
    client.expect_disconnect(0x82);
    at.connect(&Connect::v5(&id)).leave();
}

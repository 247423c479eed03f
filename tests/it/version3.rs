//! What MQTT 3.1.1 and 3.1 have otherwise than MQTT 5, as Mosquitto handles it where they are silent.

use crate::harness::bytes::{
    Connect, DISCONNECT, PINGREQ, PINGRESP, PUBACK, PUBCOMP, PUBREC, PUBREL, Publish, V5, V31, V311, Will,
    ack, field, packet, subscribe_v3, unsubscribe_v3,
};
use crate::harness::property as p;
use crate::harness::{Target, unique};

over_every_transport!(
    connack_has_two_bytes,
    level_that_is_not_known_gets_return_code_1,
    name_and_level_must_belong_together,
    empty_client_id_needs_a_clean_session,
    client_ids_over_23_bytes_are_accepted,
    a_bridge_keeps_retain_and_does_not_get_its_own,
    flags_that_3_1_does_not_use_say_nothing,
    reserved_connect_flag_closes,
    password_needs_a_user_name,
    acknowledgements_have_no_reason_code,
    suback_answers_with_granted_qos,
    malformed_filters_close,
    clean_session_leaves_nothing_behind,
    stored_session_is_resumed,
    session_present_is_of_3_1_1,
    clean_session_discards_the_stored_one,
    unacknowledged_messages_come_again_with_dup,
    takeover_closes_without_a_word,
    will_is_published_unless_disconnected,
    retained_messages_follow_the_subscription,
    retained_flag_is_off_on_live_messages,
    qos2_takes_four_steps,
    one_version_talks_to_another,
    message_of_an_expired_interval_is_not_sent_to_v3,
    second_connect_closes,
    own_messages_come_back,
    overlapping_subscriptions_deliver_the_highest_qos,
    dollar_share_works_for_v3,
);

fn connack_has_two_bytes(at: Target) {
    for version in [V31, V311] {
        let mut client = at.open();
        client.send(&Connect::new(version, &unique("c")).bytes());
        client.expect(&[0x20, 2, 0, 0]);
        client.send(DISCONNECT);
        client.expect_close();
    }
}

fn level_that_is_not_known_gets_return_code_1(at: Target) {
    // v3.1.1 [MQTT-3.1.2-2]
    let mut client = at.open();
    client.send(&packet(0x10, &[&field("MQTT"), &[2, 2, 0, 0], &field("c")]));
    client.expect(&[0x20, 2, 0, 1]);
    client.expect_close();
}

fn name_and_level_must_belong_together(at: Target) {
    // v3.1.1 [MQTT-3.1.2-1], [MQTT-3.1.2-2]: MQIsdp is of level 3, MQTT of 4 and 5.
    // A name that is unknown says no version, so that nothing is answered.
    let (of_311, of_5): (&[u8], &[u8]) = (&[0x20, 2, 0, 1], &[0x20, 3, 0, 0x84, 0]);
    for (name, level, answer) in [
        ("MQIsdp", 4, of_311),
        ("MQIsdp", 5, of_5),
        ("MQTT", 3, of_311),
        ("mqisdp", 3, &[]),
        ("MQIsdp", 0x84, of_311),
        ("MQTT", 0x83, of_311),
        ("MQTT", 0x85, of_5),
    ] {
        let mut client = at.open();
        client.send(&packet(0x10, &[&field(name), &[level, 2, 0, 0], &field("c")]));
        if !answer.is_empty() {
            client.expect(answer);
        }
        client.expect_close();
    }
}

fn empty_client_id_needs_a_clean_session(at: Target) {
    // v3.1.1 [MQTT-3.1.3-7], [MQTT-3.1.3-8]: return code 2; 3.1 never takes an empty identifier.
    at.connect(&Connect::v4("")).leave();
    assert_eq!(at.refused(&Connect::v4("").resume().bytes(), V311).code, 2);
    assert_eq!(at.refused(&Connect::new(V31, "").bytes(), V31).code, 2);
    assert_eq!(at.refused(&Connect::new(V31, "").resume().bytes(), V31).code, 2);
}

fn client_ids_over_23_bytes_are_accepted(at: Target) {
    // 3.1 asks for 1 to 23 characters; Mosquitto takes longer ones, and so does Tidegate.
    for version in [V31, V311] {
        at.connect(&Connect::new(version, &format!("{}-{}", unique("c"), "x".repeat(100)))).leave();
    }
}

fn a_bridge_keeps_retain_and_does_not_get_its_own(at: Target) {
    // Mosquitto's bridges set the top bit of the level, as no specification says: Retain As Published and No Local.
    for level in [0x83, 0x84] {
        let topic = unique("t");
        let mut bridge = at.connect(&Connect::new(level, &unique("c")));
        assert_eq!(bridge.subscribe(&topic, 1), 1);
        let mut other = at.v4();
        other.subscribe(&topic, 1);
        other.publish_as(Publish::new(&topic, "kept").retain(), 0);
        let copy = bridge.expect_message("kept");
        assert!(copy.retain, "{level:#x}");
        assert!(!other.expect_message("kept").retain, "{level:#x}");
        bridge.publish(&topic, "own", 1);
        assert_eq!(other.take().text(), "own");
        bridge.expect_silence();
        other.publish_as(Publish::new(&topic, "").retain(), 0);
    }
}

fn flags_that_3_1_does_not_use_say_nothing(at: Target) {
    // 3.1 sections 3.1, 3.8, 3.12 and 3.14: DUP, QoS and RETAIN are "not used"; 3.1.1 made the bits reserved.
    let topic = unique("t");
    let mut client = at.open();
    client.version = V31;
    let flagged = |mut packet: Vec<u8>, flags: u8| {
        packet[0] |= flags;
        packet
    };
    client.send(&flagged(Connect::new(V31, &unique("c")).bytes(), 0x0F));
    client.expect(&[0x20, 2, 0, 0]);
    client.send(&flagged(subscribe_v3(7, &[(&topic, 1)]), 0x09));
    client.expect(&[0x90, 3, 0, 7, 1]);
    client.send(&flagged(PINGREQ.to_vec(), 0x01));
    client.expect(PINGRESP);
    client.send(&flagged(Publish::new(&topic, "x").v3().qos1(5).bytes(), 0));
    client.expect(&ack(PUBACK, 5));
    let message = client.expect_message("x");
    client.send(&flagged(ack(PUBACK, message.id), 0x0A));
    client.send(&flagged(DISCONNECT.to_vec(), 0x02));
    client.expect_close();
    let mut client = at.open();
    client.send(&flagged(Connect::v4(&unique("c")).bytes(), 0x01));
    client.expect_close();
}

fn reserved_connect_flag_closes(at: Target) {
    // v3.1.1 [MQTT-3.1.2-3]: no CONNACK, there is no return code for it.
    let mut client = at.open();
    client.send(&packet(0x10, &[&field("MQTT"), &[4, 3, 0, 0], &field("c")]));
    client.expect_close();
}

fn password_needs_a_user_name(at: Target) {
    // v3.1.1 [MQTT-3.1.2-22]
    let mut client = at.open();
    client.send(&Connect::v4(&unique("c")).password_only("x").bytes());
    client.expect_close();
}

fn acknowledgements_have_no_reason_code(at: Target) {
    let mut client = at.v4();
    client.send(&Publish::new("nobody/here", "x").v3().qos1(5).bytes());
    client.expect(&ack(PUBACK, 5));
    client.send(&Publish::new("nobody/here", "x").v3().qos2(6).bytes());
    client.expect(&ack(PUBREC, 6));
    client.send(&ack(PUBREL, 6));
    client.expect(&ack(PUBCOMP, 6));
    client.send(&ack(PUBREL, 999));
    client.expect(&ack(PUBCOMP, 999));
    client.send(&unsubscribe_v3(7, &["none", "other"]));
    client.expect(&[0xB0, 2, 0, 7]);
}

fn suback_answers_with_granted_qos(at: Target) {
    // v3.1.1 [MQTT-3.8.4-1] to [MQTT-3.8.4-5]
    let mut client = at.v4();
    client.send(&subscribe_v3(0x102, &[("a/b", 2), ("c", 0), ("d/#", 1)]));
    client.expect(&[0x90, 5, 1, 2, 2, 0, 1]);
}

fn malformed_filters_close(at: Target) {
    for filter in ["", "a/#/b", "a#", "a/b+"] {
        let mut client = at.v4();
        client.send(&subscribe_v3(1, &[(filter, 0)]));
        client.expect_close();
    }
}

fn clean_session_leaves_nothing_behind(at: Target) {
    // v3.1.1 [MQTT-3.1.2-6]
    for version in [V31, V311] {
        let (topic, id) = (unique("t"), unique("s"));
        let mut client = at.connect(&Connect::new(version, &id));
        client.subscribe(&topic, 1);
        client.leave();
        let mut publisher = at.v5();
        publisher.publish(&topic, "lost", 1);
        let (mut client, connack) = at.connect_and_see(&Connect::new(version, &id).resume());
        assert!(!connack.session_present);
        client.expect_silence_from(&mut publisher);
        client.leave();
        at.connect(&Connect::new(version, &id)).leave();
    }
}

fn stored_session_is_resumed(at: Target) {
    // v3.1.1 [MQTT-3.1.2-4], [MQTT-3.1.2-5], [MQTT-3.2.2-2], [MQTT-3.2.2-3]
    for version in [V31, V311] {
        let (topic, id) = (unique("t"), unique("s"));
        let stored = Connect::new(version, &id).resume();
        let mut client = at.connect(&stored);
        client.subscribe(&topic, 2);
        client.leave();
        let mut publisher = at.v4();
        publisher.publish(&topic, "one", 1);
        publisher.publish(&topic, "two", 2);
        let mut client = at.connect(&stored);
        for (payload, qos) in [("one", 1), ("two", 2)] {
            let message = client.take();
            assert_eq!((message.text(), message.qos, message.dup), (payload, qos, false));
        }
        client.leave();
        at.connect(&Connect::new(version, &id)).leave();
    }
}

fn session_present_is_of_3_1_1(at: Target) {
    // 3.1 has no Session Present: that byte is reserved and 0.
    for (version, present) in [(V31, false), (V311, true)] {
        let id = unique("s");
        let stored = Connect::new(version, &id).resume();
        at.connect(&stored).leave();
        let (client, connack) = at.connect_and_see(&stored);
        assert_eq!(connack.session_present, present, "version {version}");
        client.leave();
        at.connect(&Connect::new(version, &id)).leave();
    }
}

fn clean_session_discards_the_stored_one(at: Target) {
    // v3.1.1 [MQTT-3.1.2-6], [MQTT-3.2.2-1]
    let (topic, id) = (unique("t"), unique("s"));
    let mut client = at.connect(&Connect::v4(&id).resume());
    client.subscribe(&topic, 1);
    client.leave();
    let (mut client, connack) = at.connect_and_see(&Connect::v4(&id));
    assert!(!connack.session_present);
    let mut publisher = at.v5();
    publisher.publish(&topic, "x", 1);
    client.expect_silence_from(&mut publisher);
    client.leave();
    let (client, connack) = at.connect_and_see(&Connect::v4(&id).resume());
    assert!(!connack.session_present);
    client.leave();
    at.connect(&Connect::v4(&id)).leave();
}

fn unacknowledged_messages_come_again_with_dup(at: Target) {
    // v3.1.1 [MQTT-4.4.0-1]
    let (topic, id) = (unique("t"), unique("s"));
    let stored = Connect::v4(&id).resume();
    let mut client = at.connect(&stored);
    client.subscribe(&topic, 2);
    let mut publisher = at.v4();
    publisher.publish(&topic, "one", 1);
    publisher.publish(&topic, "two", 2);
    let (one, two) = (client.expect_message("one"), client.expect_message("two"));
    client.send(&ack(PUBREC, two.id));
    client.expect(&ack(PUBREL, two.id));
    client.vanish();
    let mut client = at.connect(&stored);
    let again = client.expect_message("one");
    assert_eq!((again.dup, again.id), (true, one.id));
    client.expect(&ack(PUBREL, two.id));
    at.connect(&Connect::v4(&id)).leave();
}

fn takeover_closes_without_a_word(at: Target) {
    // v3.1.1 [MQTT-3.1.4-2]
    let id = unique("c");
    let mut old = at.connect(&Connect::v4(&id));
    let mut new = at.connect(&Connect::v4(&id));
    old.expect_close();
    new.expect_alive();
}

fn will_is_published_unless_disconnected(at: Target) {
    // v3.1.1 [MQTT-3.1.2-8], [MQTT-3.1.2-10], [MQTT-3.14.4-3]
    for version in [V31, V311] {
        let topic = unique("t");
        let mut witness = at.v4();
        witness.subscribe(&topic, 1);
        let connect = Connect::new(version, &unique("c")).will(Will::new(&topic, "gone").qos(1));
        at.connect(&connect).leave();
        witness.expect_silence_from(&mut at.v4());
        at.connect(&connect).vanish();
        assert_eq!(witness.take().text(), "gone");
    }
}

fn retained_messages_follow_the_subscription(at: Target) {
    // v3.1.1 [MQTT-3.3.1-6], [MQTT-3.8.4-3]: at every SUBSCRIBE.
    let topic = unique("t");
    let mut publisher = at.v4();
    publisher.publish_as(Publish::new(&topic, "kept").retain(), 1);
    let mut client = at.v4();
    for _ in 0..2 {
        client.subscribe(&topic, 1);
        let message = client.take();
        assert_eq!((message.text(), message.retain), ("kept", true));
    }
    publisher.publish_as(Publish::new(&topic, "").retain(), 1);
    assert_eq!(client.take().text(), "");
    let mut late = at.v4();
    late.subscribe(&topic, 1);
    late.expect_silence_from(&mut publisher);
}

fn retained_flag_is_off_on_live_messages(at: Target) {
    // v3.1.1 [MQTT-3.3.1-9]
    let topic = unique("t");
    let (mut client, mut publisher) = (at.v4(), at.v4());
    client.subscribe(&topic, 0);
    publisher.publish_as(Publish::new(&topic, "x").retain(), 0);
    assert!(!client.expect_message("x").retain);
}

fn qos2_takes_four_steps(at: Target) {
    let topic = unique("t");
    let (mut client, mut publisher) = (at.v4(), at.v4());
    client.subscribe(&topic, 2);
    for repeat in [false, true] {
        let publish = Publish::new(&topic, "x").v3().qos2(8);
        publisher.send(&if repeat { publish.dup() } else { publish }.bytes());
        publisher.expect(&ack(PUBREC, 8));
    }
    publisher.send(&ack(PUBREL, 8));
    publisher.expect(&ack(PUBCOMP, 8));
    assert_eq!(client.take().text(), "x");
    client.expect_silence_from(&mut publisher);
}

fn one_version_talks_to_another(at: Target) {
    let topic = unique("t");
    let mut clients: Vec<_> =
        [V31, V311, V5].map(|version| at.connect(&Connect::new(version, &unique("c")))).into();
    for client in &mut clients {
        client.subscribe(&topic, 2);
    }
    for publisher_version in [V31, V311, V5] {
        let mut publisher = at.connect(&Connect::new(publisher_version, &unique("c")));
        let mut publish = Publish::new(&topic, "hello");
        if publisher_version == V5 {
            publish = publish.with(p::pair("k", "v"));
        }
        publisher.publish_as(publish, 2);
        for client in &mut clients {
            let message = client.take();
            assert_eq!((message.text(), message.qos), ("hello", 2));
            let told = client.version == V5 && publisher_version == V5;
            assert_eq!(message.properties.pairs().len(), usize::from(told));
        }
    }
}

fn message_of_an_expired_interval_is_not_sent_to_v3(at: Target) {
    // The interval of an MQTT 5 publisher counts for subscribers of every version.
    let (topic, id) = (unique("t"), unique("s"));
    let stored = Connect::v4(&id).resume();
    let mut client = at.connect(&stored);
    client.subscribe(&topic, 1);
    client.leave();
    let mut publisher = at.v5();
    publisher.publish_as(Publish::new(&topic, "late").with(p::four(p::MESSAGE_EXPIRY, 1)), 1);
    publisher.publish_as(Publish::new(&topic, "stays").with(p::four(p::MESSAGE_EXPIRY, 60)), 1);
    crate::harness::let_pass(std::time::Duration::from_millis(2_100));
    let mut client = at.connect(&stored);
    assert_eq!(client.take().text(), "stays");
    client.expect_silence_from(&mut publisher);
    client.leave();
    at.connect(&Connect::v4(&id)).leave();
}

fn second_connect_closes(at: Target) {
    // v3.1.1 [MQTT-3.1.0-2]
    for version in [V31, V311] {
        let connect = Connect::new(version, &unique("c"));
        let mut client = at.connect(&connect);
        client.send(&connect.bytes());
        client.expect_close();
    }
}

fn own_messages_come_back(at: Target) {
    let topic = unique("t");
    let mut client = at.v4();
    client.subscribe(&topic, 0);
    client.publish(&topic, "x", 0);
    client.expect_message("x");
}

fn overlapping_subscriptions_deliver_the_highest_qos(at: Target) {
    // v3.1.1 [MQTT-3.3.5-1]; Tidegate sends a single copy.
    let topic = unique("t");
    let (mut client, mut publisher) = (at.v4(), at.v4());
    client.subscribe_all(
        &[(&format!("{topic}/#"), 0), (&format!("{topic}/+"), 2), (&format!("{topic}/a"), 1)],
        &[],
    );
    publisher.publish(&format!("{topic}/a"), "x", 2);
    assert_eq!(client.take().qos, 2);
    client.expect_silence_from(&mut publisher);
}

fn dollar_share_works_for_v3(at: Target) {
    // Not in 3.1.1, but offered to it as other brokers do.
    let topic = unique("t");
    let mut client = at.v4();
    client.subscribe(&format!("$share/g/{topic}"), 1);
    at.v4().publish(&topic, "x", 1);
    assert_eq!(client.take().text(), "x");
}

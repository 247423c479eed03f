//! Shared subscriptions.

use crate::harness::bytes::{Connect, PUBACK, PUBREC, Publish, ack, ack_reason, subscribe};
use crate::harness::property as p;
use crate::harness::{Client, Target, unique};

over_every_transport!(
    each_message_goes_to_one_member,
    every_member_gets_a_part,
    groups_are_independent,
    members_keep_their_own_qos,
    unsubscribed_members_get_nothing,
    share_names_and_filters_are_told_apart,
    shared_and_plain_subscription_of_one_session_both_deliver,
    offline_members_are_passed_over_for_connected_ones,
    unacknowledged_message_waits_for_its_member,
    qos2_message_of_an_ended_session_goes_to_nobody_else,
    refused_message_goes_to_nobody_else,
    qos1_messages_of_an_ended_session_go_to_another_member,
    shared_filters_may_have_wildcards,
);

fn members(at: Target, count: usize, filter: &str, qos: u8) -> Vec<Client> {
    (0..count)
        .map(|_| {
            let mut client = at.v5();
            assert_eq!(client.subscribe(filter, qos), qos);
            client
        })
        .collect()
}

/// The payloads of the QoS 0 messages that have come to a member so far; a marker by the publisher ends them.
fn drain(client: &mut Client, publisher: &mut Client) -> Vec<String> {
    let marker = unique("mark");
    client.send(&subscribe(9, &[], &[(&marker, 0)]));
    let mut found = Vec::new();
    loop {
        let packet = client.read_packet();
        if packet.first == 0x90 {
            publisher.publish(&marker, "marker", 0);
            continue;
        }
        let message = packet.publish(5);
        if message.topic == marker {
            return found;
        }
        found.push(message.text().to_owned());
    }
}

fn each_message_goes_to_one_member(at: Target) {
    let topic = unique("t");
    let mut group = members(at, 3, &format!("$share/g/{topic}"), 1);
    let mut publisher = at.v5();
    for number in 0..30 {
        publisher.publish(&topic, &format!("{number:02}"), 1);
    }
    let mut found: Vec<String> = (0..30)
        .map(|_| {
            // Whoever has a message: polls in turn until all have come.
            loop {
                for client in &mut group {
                    if let Ok(packet) = client.poll(std::time::Duration::from_millis(5)) {
                        let message = packet.publish(5);
                        client.send(&ack(PUBACK, message.id));
                        return message.text().to_owned();
                    }
                }
            }
        })
        .collect();
    found.sort_unstable();
    let wanted: Vec<String> = (0..30).map(|number| format!("{number:02}")).collect();
    assert_eq!(found, wanted);
    for client in &mut group {
        client.expect_silence_from(&mut publisher);
    }
}

fn every_member_gets_a_part(at: Target) {
    let topic = unique("t");
    let mut group = members(at, 3, &format!("$share/g/{topic}"), 0);
    let mut publisher = at.v5();
    for number in 0..60 {
        publisher.publish(&topic, &number.to_string(), 1);
    }
    let counts: Vec<usize> = group.iter_mut().map(|client| drain(client, &mut publisher).len()).collect();
    assert_eq!(counts.iter().sum::<usize>(), 60);
    assert!(counts.iter().all(|count| *count >= 5), "unfair: {counts:?}");
}

fn groups_are_independent(at: Target) {
    let topic = unique("t");
    let mut one = members(at, 1, &format!("$share/one/{topic}"), 1).remove(0);
    let mut two = members(at, 1, &format!("$share/two/{topic}"), 1).remove(0);
    let mut plain = members(at, 1, &topic, 1).remove(0);
    at.v5().publish(&topic, "x", 1);
    for client in [&mut one, &mut two, &mut plain] {
        assert_eq!(client.take().text(), "x");
    }
}

fn members_keep_their_own_qos(at: Target) {
    // v5 [MQTT-4.8.2-3]
    let topic = unique("t");
    let mut publisher = at.v5();
    for granted in 0..=2 {
        let mut member = members(at, 1, &format!("$share/g{granted}/{topic}"), granted).remove(0);
        publisher.publish(&topic, "x", 2);
        assert_eq!(member.take().qos, granted);
    }
}

fn unsubscribed_members_get_nothing(at: Target) {
    // v5 [MQTT-3.10.4-1]
    let topic = unique("t");
    let filter = format!("$share/g/{topic}");
    let mut group = members(at, 2, &filter, 1);
    let (mut gone, mut stays) = (group.remove(0), group.remove(0));
    assert_eq!(gone.unsubscribe(&[&topic]), [0x11], "the filter without its group is another one");
    assert_eq!(gone.unsubscribe(&[&filter]), [0x00]);
    let mut publisher = at.v5();
    for _ in 0..6 {
        publisher.publish(&topic, "x", 1);
        assert_eq!(stays.take().text(), "x");
    }
    gone.expect_silence_from(&mut publisher);
}

fn share_names_and_filters_are_told_apart(at: Target) {
    // v5 [MQTT-4.8.2-2]: the filter behind the Share Name may begin with a slash.
    let topic = unique("t");
    let mut slash = members(at, 1, &format!("$share/g//{topic}"), 0).remove(0);
    let mut plain = members(at, 1, &format!("$share/g/{topic}"), 0).remove(0);
    let mut publisher = at.v5();
    publisher.publish(&format!("/{topic}"), "slash", 0);
    publisher.publish(&topic, "plain", 0);
    slash.expect_message("slash");
    plain.expect_message("plain");
    slash.expect_silence_from(&mut publisher);
    plain.expect_silence_from(&mut publisher);
}

fn shared_and_plain_subscription_of_one_session_both_deliver(at: Target) {
    // Section 4.8.2: a shared subscription is no overlap of a plain one.
    let topic = unique("t");
    let (mut client, mut publisher) = (at.v5(), at.v5());
    client.subscribe_with(&topic, 0, &p::variable(p::SUBSCRIPTION_ID, 1));
    client.subscribe_with(&format!("$share/g/{topic}"), 0, &p::variable(p::SUBSCRIPTION_ID, 2));
    publisher.publish(&topic, "x", 0);
    let mut identifiers =
        [client.take(), client.take()].map(|message| message.properties.numbers(p::SUBSCRIPTION_ID));
    identifiers.sort_unstable();
    assert_eq!(identifiers, [[1], [2]]);
    client.expect_silence_from(&mut publisher);
}

fn offline_members_are_passed_over_for_connected_ones(at: Target) {
    let (topic, id) = (unique("t"), unique("s"));
    let filter = format!("$share/g/{topic}");
    let mut away = at.connect(&Connect::stored(&id));
    away.subscribe(&filter, 1);
    away.leave();
    let mut here = members(at, 1, &filter, 1).remove(0);
    let mut publisher = at.v5();
    for number in 0..10 {
        publisher.publish(&topic, &number.to_string(), 1);
        assert_eq!(here.take().text(), number.to_string());
    }
    let mut away = at.connect(&Connect::stored(&id));
    away.expect_silence_from(&mut publisher);
    at.connect(&Connect::v5(&id)).leave();
}

fn unacknowledged_message_waits_for_its_member(at: Target) {
    // v5 [MQTT-4.8.2-4]: what was begun with QoS 2 is completed with the member that reconnects.
    let (topic, id) = (unique("t"), unique("s"));
    let filter = format!("$share/g/{topic}");
    let stored = Connect::stored(&id);
    let mut member = at.connect(&stored);
    member.subscribe(&filter, 2);
    let mut publisher = at.v5();
    publisher.publish(&topic, "mine", 2);
    let mine = member.expect_message("mine");
    member.vanish();
    let mut other = members(at, 1, &filter, 2).remove(0);
    other.expect_silence_from(&mut publisher);
    let mut member = at.connect(&stored);
    let again = member.take();
    assert_eq!((again.text(), again.id, again.dup), ("mine", mine.id, true));
    other.expect_silence_from(&mut publisher);
    at.connect(&Connect::v5(&id)).leave();
}

fn qos2_message_of_an_ended_session_goes_to_nobody_else(at: Target) {
    // v5 [MQTT-4.8.2-5]
    let (topic, id) = (unique("t"), unique("s"));
    let filter = format!("$share/g/{topic}");
    let mut member = at.connect(&Connect::stored(&id));
    member.subscribe(&filter, 2);
    let mut publisher = at.v5();
    publisher.publish(&topic, "mine", 2);
    member.expect_message("mine");
    let mut other = members(at, 1, &filter, 2).remove(0);
    member.vanish();
    at.connect(&Connect::v5(&id)).leave();
    other.expect_silence_from(&mut publisher);
    publisher.publish(&topic, "next", 2);
    assert_eq!(other.take().text(), "next");
}

fn refused_message_goes_to_nobody_else(at: Target) {
    // v5 [MQTT-4.8.2-6]
    let topic = unique("t");
    let filter = format!("$share/g/{topic}");
    let mut publisher = at.v5();
    for (qos, first) in [(1, PUBACK), (2, PUBREC)] {
        let mut member = members(at, 1, &filter, 2).remove(0);
        publisher.publish(&topic, "no", qos);
        let message = member.expect_message("no");
        let mut other = members(at, 1, &filter, 2).remove(0);
        member.send(&ack_reason(first, message.id, 0x83));
        member.expect_silence_from(&mut publisher);
        other.expect_silence_from(&mut publisher);
        member.leave();
        other.leave();
    }
}

fn shared_filters_may_have_wildcards(at: Target) {
    let topic = unique("t");
    let mut group = members(at, 2, &format!("$share/g/{topic}/+/#"), 0);
    let mut publisher = at.v5();
    for name in ["a", "a/b", "a/b/c"] {
        publisher.publish_as(Publish::new(format!("{topic}/{name}"), name), 1);
    }
    publisher.publish(&topic, "no", 1);
    let mut found: Vec<String> = Vec::new();
    for client in &mut group {
        found.extend(drain(client, &mut publisher));
    }
    found.sort_unstable();
    assert_eq!(found, ["a", "a/b", "a/b/c"]);
}

fn qos1_messages_of_an_ended_session_go_to_another_member(at: Target) {
    // v5 section 4.8.2: what was not acknowledged, and what waited for the Receive Maximum.
    let (topic, id) = (unique("t"), unique("s"));
    let filter = format!("$share/g/{topic}");
    let receive_maximum = p::two(p::RECEIVE_MAXIMUM, 2);
    for connect in [Connect::v5(&id), Connect::stored(&id)] {
        let mut member = at.connect(&connect.with(receive_maximum.clone()));
        member.subscribe(&filter, 1);
        let mut publisher = at.v5();
        for n in 0..5 {
            publisher.publish(&topic, &n.to_string(), 1);
        }
        assert_eq!(member.take().text(), "0");
        let mut other = members(at, 1, &filter, 1).remove(0);
        member.vanish();
        // Ends a session that is stored; of a clean one the server may not have noticed that it vanished.
        at.connect(&Connect::v5(&id)).leave();
        let mut found: Vec<String> = (0..4).map(|_| other.take().text().to_owned()).collect();
        found.sort_unstable();
        assert_eq!(found, ["1", "2", "3", "4"]);
        other.expect_silence_from(&mut publisher);
    }
}

//! What must hold of the messages that were owed and those that came.

use std::collections::BTreeMap;

use mqtt::QoS;
use testkit::client::Message;

/// All that was owed came; QoS 2 once; the first of each in order per topic and QoS.
pub(super) fn check_delivery(what: &str, owed: &[Message], got: &[Message]) {
    let mut counts: BTreeMap<Message, usize> = BTreeMap::new();
    let mut last: BTreeMap<(usize, QoS), u32> = BTreeMap::new();
    for message in got {
        let count = counts.entry(*message).or_default();
        *count += 1;
        if *count == 1 {
            let last = last.entry((message.topic, message.qos)).or_default();
            // v5 [MQTT-4.6.0-5]
            assert!(*last < message.index, "{what}: {message:?} came after {last}");
            *last = message.index;
        }
    }
    for (message, count) in &counts {
        let at_most_once = message.qos != QoS::AtLeastOnce;
        assert!(!at_most_once || *count == 1, "{what}: {message:?} came {count} times");
    }
    for message in owed {
        assert!(counts.contains_key(message), "{what}: {message:?} is lost");
    }
}

//! SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK.

use super::Expected::{Fault, Valid, ValidOtherwise};
use super::{BEFORE_V5, EVERY, MALFORMED, ONLY_V5, ONLY_V31, PROTOCOL, SINCE_V311, Vector, client, server};

pub(crate) fn rows() -> Vec<Vector> {
    let mut rows = subscribe();
    rows.extend(options());
    rows.extend(filters());
    rows.extend(suback());
    rows.extend(unsubscribe());
    rows
}

#[rustfmt::skip]
fn subscribe() -> Vec<Vector> {
    vec![
        server("one filter before 5", BEFORE_V5, "82 V( 0001 s'a/b' 00 )", Valid),
        server("one filter in 5", ONLY_V5, "82 V( 0001 V() s'a/b' 00 )", Valid),
        server("three filters before 5", BEFORE_V5, "82 V( 0001 s'#' 00 s'+/b' 01 s'a/+/#' 02 )", Valid),
        server("a Subscription Identifier and User Properties (section 3.8.2.1)", ONLY_V5, "82 V( 0001 V( 0B FFFFFF7F 26 s'k' s'v' 26 s'k' s'v' ) s'a' 01 )", Valid),
        server("3.1 may send SUBSCRIBE again with DUP", ONLY_V31, "8A V( 0001 s'a' 01 )", ValidOtherwise),
        server("DUP [MQTT-3.8.1-1]", SINCE_V311, "8A V( 0001 V() s'a' 00 )", Fault(MALFORMED, "FixedHeaderFlags { packet: Subscribe }")),
        server("flags 0 [MQTT-3.8.1-1]", EVERY, "80 V( 0001 s'a' 00 )", Fault(MALFORMED, "FixedHeaderFlags { packet: Subscribe }")),
        server("flags 3 [MQTT-3.8.1-1]", SINCE_V311, "83 V( 0001 s'a' 00 )", Fault(MALFORMED, "FixedHeaderFlags { packet: Subscribe }")),
        server("Packet Identifier 0 [MQTT-2.2.1-3]", EVERY, "82 V( 0000 s'a' 00 )", Fault(PROTOCOL, "ZeroPacketId")),
        server("no filter before 5 [MQTT-3.8.3-2]", BEFORE_V5, "82 02 0001", Fault(PROTOCOL, "EmptyPayload { packet: Subscribe }")),
        server("no filter in 5 [MQTT-3.8.3-2]", ONLY_V5, "82 03 0001 00", Fault(PROTOCOL, "EmptyPayload { packet: Subscribe }")),
        server("a filter without options", BEFORE_V5, "82 V( 0001 s'a' )", Fault(MALFORMED, "FieldPastEnd")),
        server("a second filter without options", ONLY_V5, "82 V( 0001 V() s'a' 00 s'b' )", Fault(MALFORMED, "FieldPastEnd")),
        server("a filter that runs past the end", ONLY_V5, "82 V( 0001 00 0009 'a' )", Fault(MALFORMED, "FieldPastEnd")),
        server("Subscription Identifier 0 (section 3.8.2.1.2)", ONLY_V5, "82 V( 0001 V( 0B 00 ) s'a' 00 )", Fault(PROTOCOL, "PropertyValue { id: SubscriptionIdentifier }")),
        server("Subscription Identifier twice (section 3.8.2.1.2)", ONLY_V5, "82 V( 0001 V( 0B 01 0B 02 ) s'a' 00 )", Fault(PROTOCOL, "PropertyRepeated { id: SubscriptionIdentifier }")),
        server("Reason String in SUBSCRIBE", ONLY_V5, "82 V( 0001 V( 1F s'x' ) s'a' 00 )", Fault(MALFORMED, "PropertyNotAllowed { id: ReasonString }")),
        client("a client does not take it", EVERY, "82 V( 0001 s'a' 00 )", Fault(PROTOCOL, "WrongDirection { packet: Subscribe }")),
    ]
}

#[rustfmt::skip]
fn options() -> Vec<Vector> {
    let o = |name, options: &str, expected| {
        server(name, ONLY_V5, &format!("82 V( 0001 V() s'a' {options} )"), expected)
    };
    vec![
        o("No Local [MQTT-3.8.3-3]", "05", Valid),
        o("Retain As Published", "0A", Valid),
        o("Retain Handling 1", "10", Valid),
        o("Retain Handling 2 with all", "2E", Valid),
        o("Maximum QoS 3 (section 3.8.3.1)", "03", Fault(PROTOCOL, "SubscriptionQoS")),
        o("Retain Handling 3 (section 3.8.3.1)", "30", Fault(PROTOCOL, "RetainHandling")),
        o("reserved bit 6 [MQTT-3.8.3-5]", "40", Fault(MALFORMED, "SubscriptionOptionsReserved")),
        o("reserved bit 7 [MQTT-3.8.3-5]", "80", Fault(MALFORMED, "SubscriptionOptionsReserved")),
        server("QoS 3 before 5", BEFORE_V5, "82 V( 0001 s'a' 03 )", Fault(PROTOCOL, "SubscriptionQoS")),
        server("options of 5 before 5", BEFORE_V5, "82 V( 0001 s'a' 04 )", Fault(MALFORMED, "SubscriptionOptionsReserved")),
        server("a reserved bit before 5", BEFORE_V5, "82 V( 0001 s'a' 81 )", Fault(MALFORMED, "SubscriptionOptionsReserved")),
        server("No Local on a Shared Subscription [MQTT-3.8.3-4]", ONLY_V5, "82 V( 0001 V() s'$share/g/a' 04 )", Fault(PROTOCOL, "NoLocalOnSharedSubscription")),
        server("a Shared Subscription without No Local", ONLY_V5, "82 V( 0001 V() s'$share/g/a/#' 0A )", Valid),
    ]
}

#[rustfmt::skip]
fn filters() -> Vec<Vector> {
    let f = |name, filter: &str, expected| server(name, BEFORE_V5, &format!("82 V( 0001 s'{filter}' 00 )"), expected);
    vec![
        f("the empty filter [MQTT-4.7.3-1]", "", Fault(0x8F, "TopicFilter(Empty)")),
        f("# before the last level [MQTT-4.7.1-1]", "a/#/b", Fault(0x8F, "TopicFilter(MultiLevelWildcard)")),
        f("# after a character [MQTT-4.7.1-1]", "a#", Fault(0x8F, "TopicFilter(MultiLevelWildcard)")),
        f("# before a slash [MQTT-4.7.1-1]", "#/", Fault(0x8F, "TopicFilter(MultiLevelWildcard)")),
        f("## [MQTT-4.7.1-1]", "##", Fault(0x8F, "TopicFilter(MultiLevelWildcard)")),
        f("+ after a character [MQTT-4.7.1-2]", "a+", Fault(0x8F, "TopicFilter(SingleLevelWildcard)")),
        f("+ before a character [MQTT-4.7.1-2]", "x/+a/y", Fault(0x8F, "TopicFilter(SingleLevelWildcard)")),
        f("++ [MQTT-4.7.1-2]", "++", Fault(0x8F, "TopicFilter(SingleLevelWildcard)")),
        f("+ at every level [MQTT-4.7.1-2]", "+/+/+", Valid),
        f("$share without a slash is an ordinary filter", "$share", Valid),
        f("$shared/ is an ordinary filter", "$shared/x", Valid),
        f("an empty Share Name [MQTT-4.8.2-1]", "$share//a", Fault(0x8F, "TopicFilter(ShareName)")),
        f("a Share Name with + [MQTT-4.8.2-2]", "$share/a+/b", Fault(0x8F, "TopicFilter(ShareName)")),
        f("a Share Name with # [MQTT-4.8.2-2]", "$share/#/b", Fault(0x8F, "TopicFilter(ShareName)")),
        f("a Share Name without a filter [MQTT-4.8.2-2]", "$share/g", Fault(0x8F, "TopicFilter(ShareWithoutFilter)")),
        f("a Share Name with an empty filter [MQTT-4.8.2-2]", "$share/g/", Fault(0x8F, "TopicFilter(ShareWithoutFilter)")),
        f("nothing after $share/ [MQTT-4.8.2-1]", "$share/", Fault(0x8F, "TopicFilter(ShareWithoutFilter)")),
        f("a Shared Subscription with a wrong filter [MQTT-4.7.1-1]", "$share/g/a#", Fault(0x8F, "TopicFilter(MultiLevelWildcard)")),
        server("a filter with U+0000 [MQTT-4.7.3-2]", BEFORE_V5, "82 V( 0001 0002 'a' 00 00 )", Fault(MALFORMED, "StringHasNul")),
        server("a filter that is not UTF-8 [MQTT-3.8.3-1]", BEFORE_V5, "82 V( 0001 0001 FF 00 )", Fault(MALFORMED, "StringNotUtf8")),
    ]
}

#[rustfmt::skip]
fn suback() -> Vec<Vector> {
    vec![
        client("SUBACK before 5", BEFORE_V5, "90 V( 0001 00 01 02 80 )", Valid),
        client("SUBACK with every Reason Code of 5 [MQTT-3.9.3-2]", ONLY_V5, "90 V( 0001 V() 00 01 02 80 83 87 8F 91 97 9E A1 A2 )", Valid),
        client("SUBACK with properties", ONLY_V5, "90 V( 0001 V( 1F s'why' 26 s'k' s'v' ) 01 )", Valid),
        client("SUBACK with a code of 5 before 5", BEFORE_V5, "90 V( 0001 87 )", Fault(PROTOCOL, "ReasonCodeNotAllowed { code: 135, packet: SubAck }")),
        client("SUBACK with QoS 3", EVERY, "90 V( 0001 00 03 )", Fault(PROTOCOL, "ReasonCodeNotAllowed { code: 3, packet: SubAck }")),
        client("SUBACK with a Reason Code of another packet [MQTT-3.9.3-2]", ONLY_V5, "90 V( 0001 V() 11 )", Fault(PROTOCOL, "ReasonCodeNotAllowed { code: 17, packet: SubAck }")),
        client("SUBACK without codes before 5", BEFORE_V5, "90 02 0001", Fault(PROTOCOL, "EmptyPayload { packet: SubAck }")),
        client("SUBACK without codes in 5 [MQTT-3.8.4-6]", ONLY_V5, "90 03 0001 00", Fault(PROTOCOL, "EmptyPayload { packet: SubAck }")),
        client("SUBACK with Packet Identifier 0", EVERY, "90 V( 0000 00 00 )", Fault(PROTOCOL, "ZeroPacketId")),
        client("SUBACK with a flag [MQTT-2.1.3-1]", SINCE_V311, "92 V( 0001 00 00 )", Fault(MALFORMED, "FixedHeaderFlags { packet: SubAck }")),
        server("a server does not take SUBACK", EVERY, "90 V( 0001 00 00 )", Fault(PROTOCOL, "WrongDirection { packet: SubAck }")),
        client("UNSUBACK before 5", BEFORE_V5, "B0 02 0001", Valid),
        client("UNSUBACK with every Reason Code [MQTT-3.11.3-2]", ONLY_V5, "B0 V( 0001 V() 00 11 80 83 87 8F 91 )", Valid),
        client("UNSUBACK with a Reason Code of another packet [MQTT-3.11.3-2]", ONLY_V5, "B0 V( 0001 V() 01 )", Fault(PROTOCOL, "ReasonCodeNotAllowed { code: 1, packet: UnsubAck }")),
        client("UNSUBACK with codes before 5", BEFORE_V5, "B0 03 0001 00", Fault(MALFORMED, "TrailingBytes")),
        client("UNSUBACK without codes in 5", ONLY_V5, "B0 03 0001 00", Fault(PROTOCOL, "EmptyPayload { packet: UnsubAck }")),
        server("a server does not take UNSUBACK", EVERY, "B0 V( 0001 00 00 )", Fault(PROTOCOL, "WrongDirection { packet: UnsubAck }")),
    ]
}

#[rustfmt::skip]
fn unsubscribe() -> Vec<Vector> {
    vec![
        server("UNSUBSCRIBE before 5", BEFORE_V5, "A2 V( 0001 s'a/#' s'+' )", Valid),
        server("UNSUBSCRIBE in 5", ONLY_V5, "A2 V( 0001 V( 26 s'k' s'v' ) s'$share/g/a' s'b' )", Valid),
        server("3.1 may send UNSUBSCRIBE again with DUP", ONLY_V31, "AA V( 0001 s'a' )", ValidOtherwise),
        server("UNSUBSCRIBE with DUP [MQTT-3.10.1-1]", SINCE_V311, "AA V( 0001 V() s'a' )", Fault(MALFORMED, "FixedHeaderFlags { packet: Unsubscribe }")),
        server("UNSUBSCRIBE with flags 0 [MQTT-3.10.1-1]", EVERY, "A0 V( 0001 s'a' )", Fault(MALFORMED, "FixedHeaderFlags { packet: Unsubscribe }")),
        server("UNSUBSCRIBE without a filter before 5 [MQTT-3.10.3-2]", BEFORE_V5, "A2 02 0001", Fault(PROTOCOL, "EmptyPayload { packet: Unsubscribe }")),
        server("UNSUBSCRIBE without a filter in 5 [MQTT-3.10.3-2]", ONLY_V5, "A2 03 0001 00", Fault(PROTOCOL, "EmptyPayload { packet: Unsubscribe }")),
        server("UNSUBSCRIBE with Packet Identifier 0", EVERY, "A2 V( 0000 s'a' )", Fault(PROTOCOL, "ZeroPacketId")),
        server("UNSUBSCRIBE with a wrong filter", BEFORE_V5, "A2 V( 0001 s'a' s'#/a' )", Fault(0x8F, "TopicFilter(MultiLevelWildcard)")),
        server("UNSUBSCRIBE with the empty filter [MQTT-4.7.3-1]", BEFORE_V5, "A2 V( 0001 s'' )", Fault(0x8F, "TopicFilter(Empty)")),
        server("UNSUBSCRIBE with a filter that is not UTF-8 [MQTT-3.10.3-1]", BEFORE_V5, "A2 V( 0001 0001 FF )", Fault(MALFORMED, "StringNotUtf8")),
        server("UNSUBSCRIBE with a Subscription Identifier", ONLY_V5, "A2 V( 0001 V( 0B 01 ) s'a' )", Fault(MALFORMED, "PropertyNotAllowed { id: SubscriptionIdentifier }")),
        server("UNSUBSCRIBE with half a string length", BEFORE_V5, "A2 V( 0001 s'a' 00 )", Fault(MALFORMED, "FieldPastEnd")),
        client("a client does not take UNSUBSCRIBE", EVERY, "A2 V( 0001 s'a' )", Fault(PROTOCOL, "WrongDirection { packet: Unsubscribe }")),
    ]
}

//! PUBLISH.

use super::Expected::{Fault, Valid, ValidOtherwise};
use super::{BEFORE_V5, EVERY, MALFORMED, ONLY_V5, ONLY_V31, ONLY_V311, PROTOCOL, Vector, client, server};

pub(crate) fn rows() -> Vec<Vector> {
    let mut rows = valid();
    rows.extend(faults());
    rows.extend(properties());
    rows
}

#[rustfmt::skip]
fn valid() -> Vec<Vector> {
    vec![
        server("QoS 0 before 5", BEFORE_V5, "30 V( s'a/b' 'hello' )", Valid),
        server("QoS 0 in 5", ONLY_V5, "30 V( s'a/b' V() 'hello' )", Valid),
        server("QoS 1, retained, before 5", BEFORE_V5, "33 V( s'a' 0001 'x' )", Valid),
        server("QoS 1, retained, in 5", ONLY_V5, "33 V( s'a' 0001 V() 'x' )", Valid),
        server("QoS 2 sent again before 5 [MQTT-3.3.1-1]", BEFORE_V5, "3C V( s'a' FFFF 'x' )", Valid),
        server("QoS 2 sent again in 5 [MQTT-3.3.1-1]", ONLY_V5, "3C V( s'a' FFFF V() 'x' )", Valid),
        server("an empty payload", EVERY, "31 V( s'a' 00 )", Valid),
        server("a binary payload", BEFORE_V5, "30 V( s'a' 00FF00C0 )", Valid),
        server("a topic of one slash", BEFORE_V5, "30 V( s'/' )", Valid),
        server("a topic with spaces and a $", BEFORE_V5, "30 V( s'$x/y z' )", Valid),
        server("a topic with U+FEFF, which is kept [MQTT-1.5.4-3]", BEFORE_V5, "30 V( 0004 EFBBBF 'a' )", Valid),
        server("a topic in four-byte characters [MQTT-1.5.4-1]", ONLY_V5, "30 V( 0004 F09F8C8A V() )", Valid),
        server("a topic under $share is an ordinary name", BEFORE_V5, "30 V( s'$share/g/t' )", Valid),
        server("all properties that a client may send (section 3.3.2.3)", ONLY_V5, "30 V( s'a' V( 01 01 02 00000001 23 0001 08 s'r/t' 09 0003 00FF00 26 s'k' s'v' 26 s'k' s'v' 03 s'text/plain' ) 'x' )", Valid),
        server("Message Expiry Interval 0 is legal", ONLY_V5, "30 V( s'a' V( 02 00000000 ) )", Valid),
        server("a Topic Alias in place of the topic (section 3.3.2.1)", ONLY_V5, "30 V( s'' V( 23 0007 ) 'x' )", Valid),
        server("a payload that belies its Payload Format Indicator is not for decoding to refuse", ONLY_V5, "30 V( s'a' V( 01 01 ) FF )", Valid),
        client("several Subscription Identifiers [MQTT-3.3.4-4]", ONLY_V5, "30 V( s'a' V( 0B 01 0B FFFFFF7F 0B 01 ) 'x' )", Valid),
        client("a Topic Alias from the server [MQTT-3.3.2-11]", ONLY_V5, "30 V( s'a' V( 23 FFFF ) 'x' )", Valid),
        server("a Remaining Length that is not minimal, before 5", BEFORE_V5, "30 8300 s'a'", ValidOtherwise),
    ]
}

#[rustfmt::skip]
fn faults() -> Vec<Vector> {
    vec![
        server("both QoS bits [MQTT-3.3.1-4]", EVERY, "36 V( s'a' 0001 00 )", Fault(MALFORMED, "PublishQoS")),
        server("both QoS bits, sent again [MQTT-3.3.1-4]", EVERY, "3E V( s'a' 0001 00 )", Fault(MALFORMED, "PublishQoS")),
        server("DUP at QoS 0 [MQTT-3.3.1-2]", EVERY, "38 V( s'a' 00 )", Fault(MALFORMED, "DupAtQoS0")),
        server("DUP and RETAIN at QoS 0 [MQTT-3.3.1-2]", EVERY, "39 V( s'a' 00 )", Fault(MALFORMED, "DupAtQoS0")),
        server("Packet Identifier 0 [MQTT-2.2.1-3]", EVERY, "32 V( s'a' 0000 00 )", Fault(PROTOCOL, "ZeroPacketId")),
        client("Packet Identifier 0 from the server [MQTT-2.2.1-4]", EVERY, "34 V( s'a' 0000 00 )", Fault(PROTOCOL, "ZeroPacketId")),
        server("no topic [MQTT-3.3.2-1]", EVERY, "30 00", Fault(MALFORMED, "FieldPastEnd")),
        server("a topic that runs past the end [MQTT-3.3.2-1]", EVERY, "30 V( 0005 'a' )", Fault(MALFORMED, "FieldPastEnd")),
        server("no Packet Identifier at QoS 1", EVERY, "32 V( s'a' )", Fault(MALFORMED, "FieldPastEnd")),
        server("half a Packet Identifier", EVERY, "32 V( s'a' 00 )", Fault(MALFORMED, "FieldPastEnd")),
        server("a topic with # [MQTT-3.3.2-2]", EVERY, "30 V( s'a/#' 00 )", Fault(0x90, "TopicName(WildcardInName)")),
        server("a topic with + [MQTT-3.3.2-2]", EVERY, "30 V( s'a+b' 00 )", Fault(0x90, "TopicName(WildcardInName)")),
        client("a topic with # from the server [MQTT-3.3.2-2]", EVERY, "30 V( s'#' 00 )", Fault(0x90, "TopicName(WildcardInName)")),
        server("a topic with U+0000 [MQTT-4.7.3-2]", EVERY, "30 V( 0003 'a' 00 'b' 00 )", Fault(MALFORMED, "StringHasNul")),
        server("a topic that is not UTF-8 [MQTT-3.3.2-1]", EVERY, "30 V( 0002 C328 00 )", Fault(MALFORMED, "StringNotUtf8")),
        server("a topic with a surrogate [MQTT-1.5.4-1]", EVERY, "30 V( 0003 EDBFBF 00 )", Fault(MALFORMED, "StringNotUtf8")),
        server("a topic past U+10FFFF [MQTT-1.5.4-1]", EVERY, "30 V( 0004 F4908080 00 )", Fault(MALFORMED, "StringNotUtf8")),
        server("an empty topic before 5 [MQTT-4.7.3-1]", BEFORE_V5, "30 V( s'' 'x' )", Fault(0x90, "TopicName(Empty)")),
        server("an empty topic without a Topic Alias (section 3.3.2.1)", ONLY_V5, "30 V( s'' V() 'x' )", Fault(PROTOCOL, "TopicMissing")),
        server("no Property Length [MQTT-2.2.2-1]", ONLY_V5, "30 V( s'a' )", Fault(MALFORMED, "FieldPastEnd")),
        server("a Remaining Length that is not minimal, in 5 [MQTT-1.5.5-1]", ONLY_V5, "30 8400 s'a' 00", Fault(MALFORMED, "VariableByteIntegerNotMinimal")),
        server("a payload in place of properties", ONLY_V5, "30 V( s'a' 'hello' )", Fault(MALFORMED, "FieldPastEnd")),
        server("3.1 knows the rule on DUP as well", ONLY_V31, "38 V( s'a' )", Fault(MALFORMED, "DupAtQoS0")),
        server("3.1.1 knows the rule on wildcards [MQTT-3.3.2-2]", ONLY_V311, "30 V( s'+/x' )", Fault(0x90, "TopicName(WildcardInName)")),
    ]
}

#[rustfmt::skip]
fn properties() -> Vec<Vector> {
    let p = |name, properties: &str, expected| {
        server(name, ONLY_V5, &format!("30 V( s'a' V( {properties} ) 'x' )"), expected)
    };
    vec![
        p("Topic Alias 0 [MQTT-3.3.2-8]", "23 0000", Fault(0x94, "PropertyValue { id: TopicAlias }")),
        client("Topic Alias 0 from the server [MQTT-3.3.2-8]", ONLY_V5, "30 V( s'a' V( 23 0000 ) )", Fault(0x94, "PropertyValue { id: TopicAlias }")),
        p("Topic Alias twice (section 3.3.2.3.4)", "23 0001 23 0002", Fault(PROTOCOL, "PropertyRepeated { id: TopicAlias }")),
        p("a Subscription Identifier from a client [MQTT-3.3.4-6]", "0B 01", Fault(PROTOCOL, "PropertyDirection { id: SubscriptionIdentifier }")),
        client("Subscription Identifier 0 (section 3.3.2.3.8)", ONLY_V5, "30 V( s'a' V( 0B 00 ) )", Fault(PROTOCOL, "PropertyValue { id: SubscriptionIdentifier }")),
        client("a Subscription Identifier that is not minimal [MQTT-1.5.5-1]", ONLY_V5, "30 V( s'a' V( 0B 8100 ) )", Fault(MALFORMED, "VariableByteIntegerNotMinimal")),
        client("a Subscription Identifier of five bytes", ONLY_V5, "30 V( s'a' V( 0B FFFFFFFF01 ) )", Fault(MALFORMED, "VariableByteIntegerTooLong")),
        p("Payload Format Indicator 2 (section 3.3.2.3.2)", "01 02", Fault(PROTOCOL, "PropertyValue { id: PayloadFormatIndicator }")),
        p("Payload Format Indicator twice", "01 00 01 00", Fault(PROTOCOL, "PropertyRepeated { id: PayloadFormatIndicator }")),
        p("Message Expiry Interval twice (section 3.3.2.3.3)", "02 00000001 02 00000001", Fault(PROTOCOL, "PropertyRepeated { id: MessageExpiryInterval }")),
        p("Response Topic twice (section 3.3.2.3.5)", "08 s'r' 08 s'r'", Fault(PROTOCOL, "PropertyRepeated { id: ResponseTopic }")),
        p("Response Topic with + [MQTT-3.3.2-14]", "08 s'r/+'", Fault(PROTOCOL, "ResponseTopic(WildcardInName)")),
        p("Response Topic with # [MQTT-3.3.2-14]", "08 s'#'", Fault(PROTOCOL, "ResponseTopic(WildcardInName)")),
        p("an empty Response Topic [MQTT-4.7.3-1]", "08 s''", Fault(PROTOCOL, "ResponseTopic(Empty)")),
        p("Response Topic that is not UTF-8 [MQTT-3.3.2-13]", "08 0001 80", Fault(MALFORMED, "StringNotUtf8")),
        p("Correlation Data twice (section 3.3.2.3.6)", "09 s'x' 09 s'x'", Fault(PROTOCOL, "PropertyRepeated { id: CorrelationData }")),
        p("Content Type twice (section 3.3.2.3.9)", "03 s'x' 03 s'x'", Fault(PROTOCOL, "PropertyRepeated { id: ContentType }")),
        p("Content Type that is not UTF-8 [MQTT-3.3.2-19]", "03 0001 80", Fault(MALFORMED, "StringNotUtf8")),
        p("Reason String in PUBLISH", "1F s'x'", Fault(MALFORMED, "PropertyNotAllowed { id: ReasonString }")),
        p("Session Expiry Interval in PUBLISH", "11 00000001", Fault(MALFORMED, "PropertyNotAllowed { id: SessionExpiryInterval }")),
        p("Will Delay Interval in PUBLISH", "18 00000001", Fault(MALFORMED, "PropertyNotAllowed { id: WillDelayInterval }")),
        p("property 0x7F", "7F", Fault(MALFORMED, "PropertyUnknown { id: 127 }")),
        p("a value that runs past Property Length into the payload", "03 0002 'y'", Fault(MALFORMED, "FieldPastEnd")),
        p("an identifier without a value", "01", Fault(MALFORMED, "FieldPastEnd")),
    ]
}

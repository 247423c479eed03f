//! CONNACK.

use super::Expected::{Fault, Valid, ValidOtherwise};
use super::{BEFORE_V5, EVERY, MALFORMED, ONLY_V5, ONLY_V31, ONLY_V311, PROTOCOL, Vector, client, server};

#[rustfmt::skip]
pub(crate) fn rows() -> Vec<Vector> {
    let p = |name, properties: &str, expected| {
        client(name, ONLY_V5, &format!("20 V( 00 00 V( {properties} ) )"), expected)
    };
    vec![
        client("accepted, before 5", BEFORE_V5, "20 02 00 00", Valid),
        client("accepted in 5", ONLY_V5, "20 03 00 00 00", Valid),
        client("Session Present in 3.1.1", ONLY_V311, "20 02 01 00", Valid),
        client("Session Present in 5", ONLY_V5, "20 03 01 00 00", Valid),
        client("3.1 has no Session Present", ONLY_V31, "20 02 01 00", ValidOtherwise),
        client("return code 1", BEFORE_V5, "20 02 00 01", Valid),
        client("return code 2", BEFORE_V5, "20 02 00 02", Valid),
        client("return code 3", BEFORE_V5, "20 02 00 03", Valid),
        client("return code 4", BEFORE_V5, "20 02 00 04", Valid),
        client("return code 5", BEFORE_V5, "20 02 00 05", Valid),
        client("a refusal in 5", ONLY_V5, "20 03 00 9F 00", Valid),
        p("all properties (section 3.2.2.3)", "11 00000001 21 0001 24 01 25 00 27 00000001 12 s'auto' 22 0000 1F s'why' 26 s'k' s'v' 28 01 29 00 2A 01 13 0000 1A s'i' 1C s'other' 15 s'm' 16 s'd'", Valid),
        client("return code 6", BEFORE_V5, "20 02 00 06", Fault(PROTOCOL, "ReasonCodeNotAllowed { code: 6")),
        client("a Reason Code of another packet [MQTT-3.2.2-8]", ONLY_V5, "20 03 00 8E 00", Fault(PROTOCOL, "ReasonCodeNotAllowed { code: 142")),
        client("a byte that is no Reason Code [MQTT-3.2.2-8]", ONLY_V5, "20 03 00 03 00", Fault(PROTOCOL, "ReasonCodeNotAllowed { code: 3")),
        client("a reserved Connect Acknowledge Flag [MQTT-3.2.2-1]", ONLY_V5, "20 03 02 00 00", Fault(MALFORMED, "ConnAckReservedFlag")),
        client("a reserved Connect Acknowledge Flag in 3.1.1 [MQTT-3.2.2-1]", ONLY_V311, "20 02 80 00", Fault(MALFORMED, "ConnAckReservedFlag")),
        client("Session Present with a refusal [MQTT-3.2.2-6]", ONLY_V5, "20 03 01 87 00", Fault(PROTOCOL, "SessionPresentWithRefusal")),
        client("Session Present with a refusal in 3.1.1", ONLY_V311, "20 02 01 05", Fault(PROTOCOL, "SessionPresentWithRefusal")),
        client("no Property Length [MQTT-2.2.2-1]", ONLY_V5, "20 02 00 00", Fault(MALFORMED, "FieldPastEnd")),
        client("properties before 5", BEFORE_V5, "20 03 00 00 00", Fault(MALFORMED, "TrailingBytes")),
        client("it ends after the flags", EVERY, "20 01 00", Fault(MALFORMED, "FieldPastEnd")),
        client("bytes after the properties", ONLY_V5, "20 04 00 00 00 00", Fault(MALFORMED, "TrailingBytes")),
        server("a server does not take it", EVERY, "20 03 00 00 00", Fault(PROTOCOL, "WrongDirection { packet: ConnAck }")),
        p("Maximum QoS 2 (section 3.2.2.3.4)", "24 02", Fault(PROTOCOL, "PropertyValue { id: MaximumQoS }")),
        p("Retain Available 2 (section 3.2.2.3.5)", "25 02", Fault(PROTOCOL, "PropertyValue { id: RetainAvailable }")),
        p("Receive Maximum 0 (section 3.2.2.3.3)", "21 0000", Fault(PROTOCOL, "PropertyValue { id: ReceiveMaximum }")),
        p("Maximum Packet Size 0 (section 3.2.2.3.6)", "27 00000000", Fault(PROTOCOL, "PropertyValue { id: MaximumPacketSize }")),
        p("Wildcard Subscription Available 2 (section 3.2.2.3.11)", "28 02", Fault(PROTOCOL, "PropertyValue { id: WildcardSubscriptionAvailable }")),
        p("Subscription Identifiers Available 2 (section 3.2.2.3.12)", "29 02", Fault(PROTOCOL, "PropertyValue { id: SubscriptionIdentifierAvailable }")),
        p("Shared Subscription Available 2 (section 3.2.2.3.13)", "2A 02", Fault(PROTOCOL, "PropertyValue { id: SharedSubscriptionAvailable }")),
        p("Server Keep Alive twice (section 3.2.2.3.14)", "13 0001 13 0001", Fault(PROTOCOL, "PropertyRepeated { id: ServerKeepAlive }")),
        p("Assigned Client Identifier twice (section 3.2.2.3.7)", "12 s'a' 12 s'a'", Fault(PROTOCOL, "PropertyRepeated { id: AssignedClientIdentifier }")),
        p("Reason String twice (section 3.2.2.3.9)", "1F s'a' 1F s'a'", Fault(PROTOCOL, "PropertyRepeated { id: ReasonString }")),
        p("Request Problem Information in CONNACK", "17 00", Fault(MALFORMED, "PropertyNotAllowed { id: RequestProblemInformation }")),
        p("Authentication Data without a Method", "16 s'd'", Fault(PROTOCOL, "AuthenticationDataWithoutMethod")),
    ]
}

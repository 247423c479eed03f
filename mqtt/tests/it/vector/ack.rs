//! PUBACK, PUBREC, PUBREL, PUBCOMP.

use super::Expected::{Fault, Valid, ValidOtherwise};
use super::{BEFORE_V5, EVERY, MALFORMED, ONLY_V5, ONLY_V31, PROTOCOL, SINCE_V311, Vector, client, server};

#[rustfmt::skip]
pub(crate) fn rows() -> Vec<Vector> {
    vec![
        server("PUBACK of two bytes (section 3.4.2.1)", EVERY, "40 02 0001", Valid),
        server("PUBREC of two bytes (section 3.5.2.1)", EVERY, "50 02 0001", Valid),
        server("PUBREL of two bytes (section 3.6.2.1)", EVERY, "62 02 0001", Valid),
        server("PUBCOMP of two bytes (section 3.7.2.1)", EVERY, "70 02 FFFF", Valid),
        client("PUBACK to a client", EVERY, "40 02 0001", Valid),
        server("PUBACK with a Reason Code only", ONLY_V5, "40 03 0001 10", Valid),
        server("PUBREC with a Reason Code only", ONLY_V5, "50 03 0001 97", Valid),
        server("PUBREL with a Reason Code only", ONLY_V5, "62 03 0001 92", Valid),
        client("PUBCOMP with a Reason Code only", ONLY_V5, "70 03 0001 92", Valid),
        server("PUBACK with Success written out", ONLY_V5, "40 03 0001 00", ValidOtherwise),
        server("PUBACK with an empty Property Length", ONLY_V5, "40 04 0001 10 00", ValidOtherwise),
        server("PUBACK with properties", ONLY_V5, "40 V( 0001 80 V( 1F s'why' 26 s'k' s'v' ) )", Valid),
        server("PUBREL with properties and Success", ONLY_V5, "62 V( 0001 00 V( 26 s'k' s'v' 26 s'k' s'v' ) )", Valid),
        server("3.1 may send PUBREL again with DUP", ONLY_V31, "6A 02 0001", ValidOtherwise),
        server("PUBREL with DUP [MQTT-3.6.1-1]", SINCE_V311, "6A 02 0001", Fault(MALFORMED, "FixedHeaderFlags { packet: PubRel }")),
        server("PUBREL with flags 0 [MQTT-3.6.1-1]", EVERY, "60 02 0001", Fault(MALFORMED, "FixedHeaderFlags { packet: PubRel }")),
        server("PUBACK with a flag [MQTT-2.1.3-1]", SINCE_V311, "41 02 0001", Fault(MALFORMED, "FixedHeaderFlags { packet: PubAck }")),
        server("PUBREC with a flag [MQTT-2.1.3-1]", SINCE_V311, "58 02 0001", Fault(MALFORMED, "FixedHeaderFlags { packet: PubRec }")),
        server("PUBCOMP with a flag [MQTT-2.1.3-1]", SINCE_V311, "72 02 0001", Fault(MALFORMED, "FixedHeaderFlags { packet: PubComp }")),
        server("PUBACK with Packet Identifier 0", EVERY, "40 02 0000", Fault(PROTOCOL, "ZeroPacketId")),
        server("PUBREL with Packet Identifier 0", EVERY, "62 02 0000", Fault(PROTOCOL, "ZeroPacketId")),
        server("PUBACK of one byte", EVERY, "40 01 00", Fault(MALFORMED, "FieldPastEnd")),
        server("PUBACK of no bytes", EVERY, "40 00", Fault(MALFORMED, "FieldPastEnd")),
        server("PUBACK with a Reason Code before 5", BEFORE_V5, "40 03 0001 00", Fault(MALFORMED, "TrailingBytes")),
        server("PUBREL with properties before 5", BEFORE_V5, "62 04 0001 00 00", Fault(MALFORMED, "TrailingBytes")),
        server("PUBACK with a Reason Code of another packet [MQTT-3.4.2-1]", ONLY_V5, "40 03 0001 92", Fault(PROTOCOL, "ReasonCodeNotAllowed { code: 146, packet: PubAck }")),
        server("PUBREC with a Reason Code of another packet [MQTT-3.5.2-1]", ONLY_V5, "50 03 0001 01", Fault(PROTOCOL, "ReasonCodeNotAllowed { code: 1, packet: PubRec }")),
        server("PUBREL with a Reason Code of another packet [MQTT-3.6.2-1]", ONLY_V5, "62 03 0001 80", Fault(PROTOCOL, "ReasonCodeNotAllowed { code: 128, packet: PubRel }")),
        server("PUBCOMP with a Reason Code of another packet [MQTT-3.7.2-1]", ONLY_V5, "70 03 0001 10", Fault(PROTOCOL, "ReasonCodeNotAllowed { code: 16, packet: PubComp }")),
        server("PUBACK with a byte that is no Reason Code [MQTT-3.4.2-1]", ONLY_V5, "40 03 0001 FF", Fault(PROTOCOL, "ReasonCodeNotAllowed { code: 255, packet: PubAck }")),
        server("PUBACK with Reason String twice (section 3.4.2.2.2)", ONLY_V5, "40 V( 0001 00 V( 1F s'a' 1F s'a' ) )", Fault(PROTOCOL, "PropertyRepeated { id: ReasonString }")),
        server("PUBACK with a property of PUBLISH", ONLY_V5, "40 V( 0001 00 V( 23 0001 ) )", Fault(MALFORMED, "PropertyNotAllowed { id: TopicAlias }")),
        server("PUBACK with bytes after its properties", ONLY_V5, "40 05 0001 00 00 00", Fault(MALFORMED, "TrailingBytes")),
        server("PUBREC with a Property Length past the end", ONLY_V5, "50 04 0001 00 05", Fault(MALFORMED, "FieldPastEnd")),
        server("PUBCOMP with a Reason String that is not UTF-8", ONLY_V5, "70 V( 0001 00 V( 1F 0001 FF ) )", Fault(MALFORMED, "StringNotUtf8")),
    ]
}

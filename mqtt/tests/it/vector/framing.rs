//! Fixed headers.

use super::Expected::{Fault, Incomplete, ValidOtherwise};
use super::{BEFORE_V5, EVERY, MALFORMED, ONLY_V5, ONLY_V31, SINCE_V311, Vector, client, server};

#[rustfmt::skip]
pub(crate) fn rows() -> Vec<Vector> {
    vec![
        server("nothing", EVERY, "", Incomplete),
        server("a first byte", EVERY, "30", Incomplete),
        server("a Remaining Length that is cut off", EVERY, "30 FF", Incomplete),
        server("a Remaining Length that is cut off after three bytes", EVERY, "30 FFFFFF", Incomplete),
        server("a body that is cut off", EVERY, "30 05 0001 'a'", Incomplete),
        server("a large body of which nothing has come", EVERY, "30 FFFF03", Incomplete),
        server("type 0 (section 2.1.2)", EVERY, "00 00", Fault(MALFORMED, "ReservedPacketType")),
        server("type 0 with flags, its length not there yet", EVERY, "0F", Fault(MALFORMED, "ReservedPacketType")),
        client("type 0 from the server", EVERY, "02 00", Fault(MALFORMED, "ReservedPacketType")),
        server("flags that 3.1 does not use, before the length has come", EVERY, "C4", Incomplete),
        server("CONNECT with a flag [MQTT-2.1.3-1]", SINCE_V311, "11 00", Fault(MALFORMED, "FixedHeaderFlags { packet: Connect }")),
        client("CONNACK with a flag [MQTT-2.1.3-1]", SINCE_V311, "21 00", Fault(MALFORMED, "FixedHeaderFlags { packet: ConnAck }")),
        client("UNSUBACK with a flag [MQTT-2.1.3-1]", SINCE_V311, "B2 00", Fault(MALFORMED, "FixedHeaderFlags { packet: UnsubAck }")),
        server("3.1 does not use the flags of CONNECT", ONLY_V31, "1F V( s'MQIsdp' 03 02 003C s'c' )", ValidOtherwise),
        server("3.1 does not use the flags of PUBACK", ONLY_V31, "4F 02 0001", ValidOtherwise),
        server("3.1 does not use the flags of PINGREQ", ONLY_V31, "C9 00", ValidOtherwise),
        server("3.1 does not use the flags of DISCONNECT", ONLY_V31, "E1 00", ValidOtherwise),
        server("3.1 does not use RETAIN in SUBSCRIBE", ONLY_V31, "83 V( 0001 s'a' 01 )", ValidOtherwise),
        client("3.1 does not use the flags of CONNACK", ONLY_V31, "23 02 00 00", ValidOtherwise),
        server("a Remaining Length of five bytes (section 1.5.5)", EVERY, "30 8080808001", Fault(MALFORMED, "VariableByteIntegerTooLong")),
        server("a Remaining Length of five bytes, the fifth not there yet", EVERY, "C0 FFFFFFFF", Fault(MALFORMED, "VariableByteIntegerTooLong")),
        server("PINGREQ with a Remaining Length that is not minimal, in 5 [MQTT-1.5.5-1]", ONLY_V5, "C0 8000", Fault(MALFORMED, "VariableByteIntegerNotMinimal")),
        server("PINGREQ with a Remaining Length that is not minimal, before 5", BEFORE_V5, "C0 8000", ValidOtherwise),
        server("CONNECT of 5 with a Remaining Length that is not minimal [MQTT-1.5.5-1]", ONLY_V5, "10 8E00 s'MQTT' 05 02 003C 00 s'c'", Fault(MALFORMED, "VariableByteIntegerNotMinimal")),
        server("a packet over the maximum, seen before its body has come [MQTT-3.2.2-15]", EVERY, "30 FFFFFF7F", Fault(0x95, "PacketTooLarge { size: 268435460, max: 1048576 }")),
        server("a packet one byte over the maximum", EVERY, "30 FDFF3F", Fault(0x95, "PacketTooLarge { size: 1048577, max: 1048576 }")),
        server("a packet of just the maximum", EVERY, "30 FCFF3F", Incomplete),
    ]
}

//! PINGREQ, PINGRESP, DISCONNECT, AUTH.

use super::Expected::{Fault, Valid, ValidOtherwise};
use super::{BEFORE_V5, EVERY, MALFORMED, ONLY_V5, PROTOCOL, SINCE_V311, Vector, client, server};

pub(crate) fn rows() -> Vec<Vector> {
    let mut rows = ping();
    rows.extend(disconnect());
    rows.extend(auth());
    rows
}

#[rustfmt::skip]
fn ping() -> Vec<Vector> {
    vec![
        server("PINGREQ", EVERY, "C0 00", Valid),
        client("PINGRESP", EVERY, "D0 00", Valid),
        server("PINGREQ with a body", EVERY, "C0 01 00", Fault(MALFORMED, "TrailingBytes")),
        client("PINGRESP with a body", EVERY, "D0 01 00", Fault(MALFORMED, "TrailingBytes")),
        server("PINGREQ with a flag [MQTT-2.1.3-1]", SINCE_V311, "C1 00", Fault(MALFORMED, "FixedHeaderFlags { packet: PingReq }")),
        client("PINGRESP with a flag [MQTT-2.1.3-1]", SINCE_V311, "D8 00", Fault(MALFORMED, "FixedHeaderFlags { packet: PingResp }")),
        server("a server does not take PINGRESP", EVERY, "D0 00", Fault(PROTOCOL, "WrongDirection { packet: PingResp }")),
        client("a client does not take PINGREQ", EVERY, "C0 00", Fault(PROTOCOL, "WrongDirection { packet: PingReq }")),
    ]
}

#[rustfmt::skip]
fn disconnect() -> Vec<Vector> {
    vec![
        server("DISCONNECT of no bytes (section 3.14.2.1)", EVERY, "E0 00", Valid),
        server("DISCONNECT with a Reason Code only (section 3.14.2.2.1)", ONLY_V5, "E0 01 04", Valid),
        server("DISCONNECT with Success written out", ONLY_V5, "E0 01 00", ValidOtherwise),
        server("DISCONNECT with an empty Property Length", ONLY_V5, "E0 02 04 00", ValidOtherwise),
        server("DISCONNECT with a Session Expiry Interval (section 3.14.2.2.2)", ONLY_V5, "E0 V( 00 V( 11 0000000A 1F s'bye' 26 s'k' s'v' ) )", Valid),
        client("DISCONNECT from the server", ONLY_V5, "E0 V( 9D V( 1C s'other:8883' 1F s'moved' ) )", Valid),
        client("DISCONNECT with 0x8E", ONLY_V5, "E0 01 8E", Valid),
        server("DISCONNECT with a body before 5", BEFORE_V5, "E0 01 00", Fault(MALFORMED, "TrailingBytes")),
        client("a server before 5 only closes", BEFORE_V5, "E0 00", Fault(PROTOCOL, "WrongDirection { packet: Disconnect }")),
        server("DISCONNECT with a flag [MQTT-3.14.1-1]", SINCE_V311, "E1 00", Fault(MALFORMED, "FixedHeaderFlags { packet: Disconnect }")),
        client("DISCONNECT with a flag from the server [MQTT-3.14.1-1]", SINCE_V311, "E8 00", Fault(MALFORMED, "FixedHeaderFlags { packet: Disconnect }")),
        client("Session Expiry Interval from the server [MQTT-3.14.2-2]", ONLY_V5, "E0 V( 00 V( 11 00000001 ) )", Fault(PROTOCOL, "PropertyDirection { id: SessionExpiryInterval }")),
        server("a Reason Code that only a server sends [MQTT-3.14.2-1]", ONLY_V5, "E0 01 8E", Fault(PROTOCOL, "ReasonCodeNotAllowed { code: 142, packet: Disconnect }")),
        client("a Reason Code that only a client sends [MQTT-3.14.2-1]", ONLY_V5, "E0 01 04", Fault(PROTOCOL, "ReasonCodeNotAllowed { code: 4, packet: Disconnect }")),
        server("a Reason Code of another packet [MQTT-3.14.2-1]", ONLY_V5, "E0 01 91", Fault(PROTOCOL, "ReasonCodeNotAllowed { code: 145, packet: Disconnect }")),
        server("a byte that is no Reason Code [MQTT-3.14.2-1]", ONLY_V5, "E0 01 05", Fault(PROTOCOL, "ReasonCodeNotAllowed { code: 5, packet: Disconnect }")),
        server("Session Expiry Interval twice (section 3.14.2.2.2)", ONLY_V5, "E0 V( 00 V( 11 00000001 11 00000001 ) )", Fault(PROTOCOL, "PropertyRepeated { id: SessionExpiryInterval }")),
        server("a property of CONNECT in DISCONNECT", ONLY_V5, "E0 V( 00 V( 21 0001 ) )", Fault(MALFORMED, "PropertyNotAllowed { id: ReceiveMaximum }")),
        server("DISCONNECT with bytes after its properties", ONLY_V5, "E0 03 00 00 00", Fault(MALFORMED, "TrailingBytes")),
        server("DISCONNECT with a Property Length past the end", ONLY_V5, "E0 02 00 01", Fault(MALFORMED, "FieldPastEnd")),
    ]
}

#[rustfmt::skip]
fn auth() -> Vec<Vector> {
    vec![
        client("AUTH of no bytes is Success (section 3.15.2.1)", ONLY_V5, "F0 00", Valid),
        client("AUTH with Continue (section 3.15.2.2.2) [MQTT-4.12.0-2]", ONLY_V5, "F0 V( 18 V( 15 s'SCRAM-SHA-256' 16 s'r=x' ) )", Valid),
        server("AUTH with Continue from a client [MQTT-4.12.0-3]", ONLY_V5, "F0 V( 18 V( 15 s'm' 16 0002 00FF 1F s'why' 26 s'k' s'v' ) )", Valid),
        server("AUTH with Re-authenticate [MQTT-4.12.1-1]", ONLY_V5, "F0 V( 19 V( 15 s'm' ) )", Valid),
        client("AUTH with Success written out", ONLY_V5, "F0 02 00 00", ValidOtherwise),
        client("AUTH with Success and its method", ONLY_V5, "F0 V( 00 V( 15 s'm' ) )", Valid),
        server("AUTH before 5", BEFORE_V5, "F0 00", Fault(MALFORMED, "ReservedPacketType")),
        client("AUTH before 5 from the server", BEFORE_V5, "F0 00", Fault(MALFORMED, "ReservedPacketType")),
        server("AUTH with a flag [MQTT-3.15.1-1]", ONLY_V5, "F1 00", Fault(MALFORMED, "FixedHeaderFlags { packet: Auth }")),
        server("a client does not send Success [MQTT-3.15.2-1]", ONLY_V5, "F0 00", Fault(PROTOCOL, "ReasonCodeNotAllowed { code: 0, packet: Auth }")),
        client("a server does not send Re-authenticate [MQTT-3.15.2-1]", ONLY_V5, "F0 V( 19 V( 15 s'm' ) )", Fault(PROTOCOL, "ReasonCodeNotAllowed { code: 25, packet: Auth }")),
        server("AUTH with a Reason Code of another packet [MQTT-3.15.2-1]", ONLY_V5, "F0 V( 87 V( 15 s'm' ) )", Fault(PROTOCOL, "ReasonCodeNotAllowed { code: 135, packet: Auth }")),
        server("AUTH without a method (section 3.15.2.2.2)", ONLY_V5, "F0 02 18 00", Fault(PROTOCOL, "AuthenticationMethodMissing")),
        server("AUTH with data and no method (section 3.15.2.2.3)", ONLY_V5, "F0 V( 18 V( 16 s'x' ) )", Fault(PROTOCOL, "AuthenticationDataWithoutMethod")),
        server("AUTH of one byte", ONLY_V5, "F0 01 18", Fault(MALFORMED, "FieldPastEnd")),
        server("AUTH with its method twice (section 3.15.2.2.2)", ONLY_V5, "F0 V( 18 V( 15 s'm' 15 s'm' ) )", Fault(PROTOCOL, "PropertyRepeated { id: AuthenticationMethod }")),
        server("AUTH with a property of CONNECT", ONLY_V5, "F0 V( 18 V( 11 00000001 15 s'm' ) )", Fault(MALFORMED, "PropertyNotAllowed { id: SessionExpiryInterval }")),
        server("AUTH with bytes after its properties", ONLY_V5, "F0 V( 18 V( 15 s'm' ) 00 )", Fault(MALFORMED, "TrailingBytes")),
    ]
}

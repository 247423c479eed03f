//! CONNECT.

use super::Expected::{Fault, Valid, ValidOtherwise};
use super::{BEFORE_V5, MALFORMED, ONLY_V5, ONLY_V31, ONLY_V311, PROTOCOL, Vector, server};

pub(crate) fn rows() -> Vec<Vector> {
    let mut rows = valid();
    rows.extend(header());
    rows.extend(flags());
    rows.extend(payload());
    rows.extend(properties());
    rows
}

#[rustfmt::skip]
fn valid() -> Vec<Vector> {
    vec![
        server("the smallest 3.1", ONLY_V31, "10 V( s'MQIsdp' 03 02 003C s'c' )", Valid),
        server("the smallest 3.1.1", ONLY_V311, "10 V( s'MQTT' 04 02 003C s'c' )", Valid),
        server("the smallest 5", ONLY_V5, "10 V( s'MQTT' 05 02 003C V() s'c' )", Valid),
        server("Keep Alive 0", ONLY_V311, "10 V( s'MQTT' 04 02 0000 s'c' )", Valid),
        server("3.1.1 with all fields [MQTT-3.1.3-1]", ONLY_V311, "10 V( s'MQTT' 04 EE FFFF s'c' s'w/t' s'bye' s'user' s'pass' )", Valid),
        server("3.1 with all fields", ONLY_V31, "10 V( s'MQIsdp' 03 EE 000A s'c' s'w/t' s'bye' s'user' s'pass' )", Valid),
        server("5 with all fields [MQTT-3.1.3-1]", ONLY_V5, "10 V( s'MQTT' 05 F6 003C V( 11 FFFFFFFF 21 000A 27 00001000 22 0005 19 01 17 00 26 s'k' s'v' 15 s'SCRAM-SHA-256' 16 s'n,,n=u' ) s'c' V( 18 00000005 01 01 02 00000000 03 s'text/plain' 08 s'r/t' 09 s'id' 26 s'a' s'b' ) s'w' s'p' s'user' s'pass' )", Valid),
        server("an empty Client Identifier is for the server to judge [MQTT-3.1.3-6]", ONLY_V5, "10 V( s'MQTT' 05 02 003C V() s'' )", Valid),
        server("an empty Client Identifier in 3.1.1", ONLY_V311, "10 V( s'MQTT' 04 00 003C s'' )", Valid),
        server("a Client Identifier with U+FEFF, which is kept [MQTT-1.5.4-3]", ONLY_V5, "10 V( s'MQTT' 05 02 003C V() 0004 EFBBBF 'c' )", Valid),
        server("an empty Will Payload", ONLY_V311, "10 V( s'MQTT' 04 06 003C s'c' s'w' s'' )", Valid),
        server("Will QoS 2 and Will Retain [MQTT-3.1.2-12]", ONLY_V311, "10 V( s'MQTT' 04 36 003C s'c' s'w' s'p' )", Valid),
        server("an empty User Name and Password", ONLY_V311, "10 V( s'MQTT' 04 C2 003C s'c' s'' s'' )", Valid),
        server("a binary Password", ONLY_V311, "10 V( s'MQTT' 04 C2 003C s'c' s'u' 0003 00FF80 )", Valid),
        server("a Password without a User Name in 5 (section 3.1.2.9)", ONLY_V5, "10 V( s'MQTT' 05 42 003C V() s'c' s'pass' )", Valid),
        server("Topic Alias Maximum 0 is legal", ONLY_V5, "10 V( s'MQTT' 05 02 003C V( 22 0000 ) s'c' )", Valid),
        server("Session Expiry Interval 0 is legal", ONLY_V5, "10 V( s'MQTT' 05 02 003C V( 11 00000000 ) s'c' )", Valid),
        server("User Properties may repeat (section 3.1.2.11.8)", ONLY_V5, "10 V( s'MQTT' 05 02 003C V( 26 s'k' s'1' 26 s'k' s'1' ) s'c' )", Valid),
        server("a bridge of Mosquitto in 3.1.1", ONLY_V311, "10 V( s'MQTT' 84 02 003C s'c' )", Valid),
        server("a bridge of Mosquitto in 3.1", ONLY_V31, "10 V( s'MQIsdp' 83 02 003C s'c' )", Valid),
        server("3.1 ignores the reserved flag", ONLY_V31, "10 V( s'MQIsdp' 03 03 003C s'c' )", ValidOtherwise),
        server("3.1 disregards Will QoS without a Will", ONLY_V31, "10 V( s'MQIsdp' 03 3A 003C s'c' )", ValidOtherwise),
        server("3.1 lets the User Name be missing though its flag is set", ONLY_V31, "10 V( s'MQIsdp' 03 C2 003C s'c' )", ValidOtherwise),
        server("3.1 lets the Password be missing though its flag is set", ONLY_V31, "10 V( s'MQIsdp' 03 C2 003C s'c' s'u' )", ValidOtherwise),
    ]
}

#[rustfmt::skip]
fn header() -> Vec<Vector> {
    vec![
        server("an unknown Protocol Name [MQTT-3.1.2-1]", ONLY_V5, "10 V( s'MQTX' 05 02 003C V() s'c' )", Fault(0x84, "UnsupportedProtocolName")),
        server("a Protocol Name in small letters [MQTT-3.1.2-1]", ONLY_V311, "10 V( s'mqtt' 04 02 003C s'c' )", Fault(0x84, "UnsupportedProtocolName")),
        server("a Protocol Name that is not UTF-8 [MQTT-3.1.2-1]", ONLY_V5, "10 V( 0004 C0AF4141 05 02 003C V() s'c' )", Fault(0x84, "UnsupportedProtocolName")),
        server("an empty Protocol Name [MQTT-3.1.2-1]", ONLY_V5, "10 V( s'' 05 02 003C V() s'c' )", Fault(0x84, "UnsupportedProtocolName")),
        server("level 6 [MQTT-3.1.2-2]", ONLY_V5, "10 V( s'MQTT' 06 02 003C V() s'c' )", Fault(0x84, "UnsupportedProtocolLevel { level: 6 }")),
        server("level 3 under the name MQTT [MQTT-3.1.2-2]", ONLY_V311, "10 V( s'MQTT' 03 02 003C s'c' )", Fault(0x84, "UnsupportedProtocolLevel { level: 3 }")),
        server("level 4 under the name MQIsdp", ONLY_V31, "10 V( s'MQIsdp' 04 02 003C s'c' )", Fault(0x84, "UnsupportedProtocolLevel { level: 4 }")),
        server("Mosquitto's bridge bit in 5", ONLY_V5, "10 V( s'MQTT' 85 02 003C V() s'c' )", Fault(0x84, "UnsupportedProtocolLevel { level: 133 }")),
        server("Mosquitto's bridge bit on another level", ONLY_V311, "10 V( s'MQTT' 83 02 003C s'c' )", Fault(0x84, "UnsupportedProtocolLevel { level: 131 }")),
        server("level 0", ONLY_V5, "10 V( s'MQTT' 00 02 003C V() s'c' )", Fault(0x84, "UnsupportedProtocolLevel { level: 0 }")),
        server("nothing after the fixed header [MQTT-3.1.4-1]", ONLY_V5, "10 00", Fault(MALFORMED, "FieldPastEnd")),
        server("it ends in the Protocol Name", ONLY_V5, "10 V( 0004 'MQ' )", Fault(MALFORMED, "FieldPastEnd")),
        server("it ends before the level", ONLY_V5, "10 V( s'MQTT' )", Fault(MALFORMED, "FieldPastEnd")),
        server("it ends before the flags", ONLY_V5, "10 V( s'MQTT' 05 )", Fault(MALFORMED, "FieldPastEnd")),
        server("it ends in Keep Alive", ONLY_V5, "10 V( s'MQTT' 05 02 00 )", Fault(MALFORMED, "FieldPastEnd")),
        server("it ends before Property Length [MQTT-2.2.2-1]", ONLY_V5, "10 V( s'MQTT' 05 02 003C )", Fault(MALFORMED, "FieldPastEnd")),
        server("it ends before the Client Identifier [MQTT-3.1.3-3]", ONLY_V311, "10 V( s'MQTT' 04 02 003C )", Fault(MALFORMED, "FieldPastEnd")),
    ]
}

#[rustfmt::skip]
fn flags() -> Vec<Vector> {
    vec![
        server("the reserved flag in 5 [MQTT-3.1.2-3]", ONLY_V5, "10 V( s'MQTT' 05 03 003C V() s'c' )", Fault(MALFORMED, "ConnectReservedFlag")),
        server("the reserved flag in 3.1.1 [MQTT-3.1.2-3]", ONLY_V311, "10 V( s'MQTT' 04 03 003C s'c' )", Fault(MALFORMED, "ConnectReservedFlag")),
        server("Will QoS 3 in 5 [MQTT-3.1.2-12]", ONLY_V5, "10 V( s'MQTT' 05 1E 003C V() s'c' V() s'w' s'p' )", Fault(MALFORMED, "WillQoS")),
        server("Will QoS 3 in 3.1.1", ONLY_V311, "10 V( s'MQTT' 04 1E 003C s'c' s'w' s'p' )", Fault(MALFORMED, "WillQoS")),
        server("Will QoS 3 in 3.1", ONLY_V31, "10 V( s'MQIsdp' 03 1E 003C s'c' s'w' s'p' )", Fault(MALFORMED, "WillQoS")),
        server("Will QoS without a Will [MQTT-3.1.2-11]", ONLY_V5, "10 V( s'MQTT' 05 0A 003C V() s'c' )", Fault(MALFORMED, "WillFlagsWithoutWill")),
        server("Will QoS without a Will in 3.1.1 [MQTT-3.1.2-11]", ONLY_V311, "10 V( s'MQTT' 04 12 003C s'c' )", Fault(MALFORMED, "WillFlagsWithoutWill")),
        server("Will Retain without a Will [MQTT-3.1.2-13]", ONLY_V5, "10 V( s'MQTT' 05 22 003C V() s'c' )", Fault(MALFORMED, "WillFlagsWithoutWill")),
        server("Will Retain without a Will in 3.1.1 [MQTT-3.1.2-13]", ONLY_V311, "10 V( s'MQTT' 04 22 003C s'c' )", Fault(MALFORMED, "WillFlagsWithoutWill")),
        server("a Password without a User Name in 3.1.1", ONLY_V311, "10 V( s'MQTT' 04 42 003C s'c' s'pass' )", Fault(MALFORMED, "PasswordWithoutUserName")),
        server("a Password without a User Name in 3.1", ONLY_V31, "10 V( s'MQIsdp' 03 42 003C s'c' s'pass' )", Fault(MALFORMED, "PasswordWithoutUserName")),
        server("the Will Flag without a Will [MQTT-3.1.2-9]", ONLY_V311, "10 V( s'MQTT' 04 06 003C s'c' )", Fault(MALFORMED, "FieldPastEnd")),
        server("a Will Topic without a Will Payload [MQTT-3.1.2-9]", ONLY_V311, "10 V( s'MQTT' 04 06 003C s'c' s'w' )", Fault(MALFORMED, "FieldPastEnd")),
        server("a Will without Will Properties [MQTT-3.1.2-9]", ONLY_V5, "10 V( s'MQTT' 05 06 003C V() s'c' )", Fault(MALFORMED, "FieldPastEnd")),
        server("the User Name Flag without a User Name [MQTT-3.1.2-17]", ONLY_V5, "10 V( s'MQTT' 05 82 003C V() s'c' )", Fault(MALFORMED, "FieldPastEnd")),
        server("the User Name Flag without a User Name in 3.1.1 [MQTT-3.1.2-17]", ONLY_V311, "10 V( s'MQTT' 04 82 003C s'c' )", Fault(MALFORMED, "FieldPastEnd")),
        server("a User Name without its flag [MQTT-3.1.2-16]", ONLY_V311, "10 V( s'MQTT' 04 02 003C s'c' s'user' )", Fault(MALFORMED, "TrailingBytes")),
        server("the Password Flag without a Password [MQTT-3.1.2-19]", ONLY_V5, "10 V( s'MQTT' 05 C2 003C V() s'c' s'user' )", Fault(MALFORMED, "FieldPastEnd")),
        server("a Password without its flag [MQTT-3.1.2-18]", ONLY_V5, "10 V( s'MQTT' 05 82 003C V() s'c' s'user' s'pass' )", Fault(MALFORMED, "TrailingBytes")),
        server("a Will without its flag", ONLY_V311, "10 V( s'MQTT' 04 02 003C s'c' s'w' s'p' )", Fault(MALFORMED, "TrailingBytes")),
    ]
}

#[rustfmt::skip]
fn payload() -> Vec<Vector> {
    vec![
        server("bytes after the last field in 5", ONLY_V5, "10 V( s'MQTT' 05 02 003C V() s'c' 00 )", Fault(MALFORMED, "TrailingBytes")),
        server("bytes after the last field in 3.1.1", ONLY_V311, "10 V( s'MQTT' 04 02 003C s'c' 00 )", Fault(MALFORMED, "TrailingBytes")),
        server("bytes after the last field in 3.1", ONLY_V31, "10 V( s'MQIsdp' 03 02 003C s'c' 00 )", Fault(MALFORMED, "TrailingBytes")),
        server("a Client Identifier with U+0000 [MQTT-1.5.4-2]", ONLY_V5, "10 V( s'MQTT' 05 02 003C V() 0003 'a' 00 'b' )", Fault(MALFORMED, "StringHasNul")),
        server("a Client Identifier with U+0000 in 3.1.1", ONLY_V311, "10 V( s'MQTT' 04 02 003C 0001 00 )", Fault(MALFORMED, "StringHasNul")),
        server("a Client Identifier with a surrogate [MQTT-1.5.4-1]", ONLY_V5, "10 V( s'MQTT' 05 02 003C V() 0003 EDA080 )", Fault(MALFORMED, "StringNotUtf8")),
        server("a Client Identifier in an overlong form [MQTT-3.1.3-4]", ONLY_V311, "10 V( s'MQTT' 04 02 003C 0002 C0AF )", Fault(MALFORMED, "StringNotUtf8")),
        server("a Client Identifier that is cut in a character", ONLY_V311, "10 V( s'MQTT' 04 02 003C 0002 E282 )", Fault(MALFORMED, "StringNotUtf8")),
        server("a Client Identifier that runs past the end", ONLY_V5, "10 V( s'MQTT' 05 02 003C V() 0005 'abc' )", Fault(MALFORMED, "FieldPastEnd")),
        server("a User Name that is not UTF-8 [MQTT-3.1.3-12]", ONLY_V5, "10 V( s'MQTT' 05 82 003C V() s'c' 0001 FF )", Fault(MALFORMED, "StringNotUtf8")),
        server("a Will Topic that is not UTF-8 [MQTT-3.1.3-11]", ONLY_V5, "10 V( s'MQTT' 05 06 003C V() s'c' V() 0001 FF s'p' )", Fault(MALFORMED, "StringNotUtf8")),
        server("an empty Will Topic in 5 [MQTT-4.7.3-1]", ONLY_V5, "10 V( s'MQTT' 05 06 003C V() s'c' V() s'' s'p' )", Fault(0x90, "TopicName(Empty)")),
        server("an empty Will Topic in 3.1.1 [MQTT-4.7.3-1]", ONLY_V311, "10 V( s'MQTT' 04 06 003C s'c' s'' s'p' )", Fault(0x90, "TopicName(Empty)")),
        server("a Will Topic with # [MQTT-4.7.0-1]", ONLY_V5, "10 V( s'MQTT' 05 06 003C V() s'c' V() s'a/#' s'p' )", Fault(0x90, "TopicName(WildcardInName)")),
        server("a Will Topic with + in 3.1.1", ONLY_V311, "10 V( s'MQTT' 04 06 003C s'c' s'+' s'p' )", Fault(0x90, "TopicName(WildcardInName)")),
        server("a Will Topic with + in 3.1", ONLY_V31, "10 V( s'MQIsdp' 03 06 003C s'c' s'a/+' s'p' )", Fault(0x90, "TopicName(WildcardInName)")),
        server("a CONNECT of another version than the connection", BEFORE_V5, "10 V( s'MQTT' 05 02 003C V() s'c' )", Fault(0x84, "UnsupportedProtocolLevel")),
    ]
}

#[rustfmt::skip]
fn properties() -> Vec<Vector> {
    let p = |name, properties: &str, expected| {
        server(name, ONLY_V5, &format!("10 V( s'MQTT' 05 02 003C V( {properties} ) s'c' )"), expected)
    };
    let w = |name, properties: &str, expected| {
        server(name, ONLY_V5, &format!("10 V( s'MQTT' 05 06 003C V() s'c' V( {properties} ) s'w' s'p' )"), expected)
    };
    vec![
        p("Receive Maximum 0 (section 3.1.2.11.3)", "21 0000", Fault(PROTOCOL, "PropertyValue { id: ReceiveMaximum }")),
        p("Maximum Packet Size 0 (section 3.1.2.11.4)", "27 00000000", Fault(PROTOCOL, "PropertyValue { id: MaximumPacketSize }")),
        p("Request Response Information 2 (section 3.1.2.11.6)", "19 02", Fault(PROTOCOL, "PropertyValue { id: RequestResponseInformation }")),
        p("Request Problem Information 2 (section 3.1.2.11.7)", "17 FF", Fault(PROTOCOL, "PropertyValue { id: RequestProblemInformation }")),
        p("Session Expiry Interval twice (section 3.1.2.11.2)", "11 00000001 11 00000001", Fault(PROTOCOL, "PropertyRepeated { id: SessionExpiryInterval }")),
        p("Receive Maximum twice", "21 0001 21 0001", Fault(PROTOCOL, "PropertyRepeated { id: ReceiveMaximum }")),
        p("Maximum Packet Size twice", "27 00000001 27 00000002", Fault(PROTOCOL, "PropertyRepeated { id: MaximumPacketSize }")),
        p("Topic Alias Maximum twice", "22 0001 22 0001", Fault(PROTOCOL, "PropertyRepeated { id: TopicAliasMaximum }")),
        p("Authentication Method twice", "15 s'a' 15 s'a'", Fault(PROTOCOL, "PropertyRepeated { id: AuthenticationMethod }")),
        p("Authentication Data without a Method (section 3.1.2.11.10)", "16 s'x'", Fault(PROTOCOL, "AuthenticationDataWithoutMethod")),
        p("an unknown property (section 2.2.2.2)", "00", Fault(MALFORMED, "PropertyUnknown { id: 0 }")),
        p("a property past the last (section 2.2.2.2)", "2B 00", Fault(MALFORMED, "PropertyUnknown { id: 43 }")),
        p("a property identifier in two bytes", "9100 00000001", Fault(MALFORMED, "PropertyUnknown { id: 145 }")),
        p("a property of PUBLISH in CONNECT", "23 0001", Fault(MALFORMED, "PropertyNotAllowed { id: TopicAlias }")),
        p("a Will property in CONNECT", "18 00000001", Fault(MALFORMED, "PropertyNotAllowed { id: WillDelayInterval }")),
        p("a property of CONNACK in CONNECT", "13 0001", Fault(MALFORMED, "PropertyNotAllowed { id: ServerKeepAlive }")),
        p("Reason String in CONNECT", "1F s'x'", Fault(MALFORMED, "PropertyNotAllowed { id: ReasonString }")),
        p("a property value that runs past Property Length", "11 0000", Fault(MALFORMED, "FieldPastEnd")),
        p("a User Property without a value [MQTT-1.5.7-1]", "26 s'k'", Fault(MALFORMED, "FieldPastEnd")),
        p("a User Property that is not UTF-8 [MQTT-1.5.7-1]", "26 s'k' 0001 FF", Fault(MALFORMED, "StringNotUtf8")),
        p("a User Property with U+0000 in its name [MQTT-1.5.7-1]", "26 0001 00 s'v'", Fault(MALFORMED, "StringHasNul")),
        p("an Authentication Method that is not UTF-8", "15 0001 C0", Fault(MALFORMED, "StringNotUtf8")),
        server("a Property Length past the end", ONLY_V5, "10 V( s'MQTT' 05 02 003C 7F s'c' )", Fault(MALFORMED, "FieldPastEnd")),
        server("a Property Length that is not minimal [MQTT-1.5.5-1]", ONLY_V5, "10 V( s'MQTT' 05 02 003C 8000 s'c' )", Fault(MALFORMED, "VariableByteIntegerNotMinimal")),
        server("a Property Length of five bytes", ONLY_V5, "10 V( s'MQTT' 05 02 003C 8080808001 s'c' )", Fault(MALFORMED, "VariableByteIntegerTooLong")),
        w("a property of CONNECT in the Will", "11 00000001", Fault(MALFORMED, "PropertyNotAllowed { id: SessionExpiryInterval }")),
        w("Topic Alias in the Will", "23 0001", Fault(MALFORMED, "PropertyNotAllowed { id: TopicAlias }")),
        w("Subscription Identifier in the Will", "0B 01", Fault(MALFORMED, "PropertyNotAllowed { id: SubscriptionIdentifier }")),
        w("Will Delay Interval twice (section 3.1.3.2.2)", "18 00000001 18 00000001", Fault(PROTOCOL, "PropertyRepeated { id: WillDelayInterval }")),
        w("Payload Format Indicator 2 in the Will", "01 02", Fault(PROTOCOL, "PropertyValue { id: PayloadFormatIndicator }")),
        w("a Response Topic with a wildcard in the Will [MQTT-3.3.2-14]", "08 s'r/#'", Fault(PROTOCOL, "ResponseTopic(WildcardInName)")),
        w("Content Type that is not UTF-8 in the Will", "03 0001 FF", Fault(MALFORMED, "StringNotUtf8")),
    ]
}

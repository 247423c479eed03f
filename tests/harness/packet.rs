//! What a server sends, read strictly: reserved flags, lengths, Reason Codes and properties of each packet.

use super::bytes::V5;
use super::property::{Properties, Reader};

/// One packet as it came: the first byte and what follows the Remaining Length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) first: u8,
    pub(crate) body: Vec<u8>,
}

#[derive(Clone, Debug)]
pub(crate) struct Connack {
    pub(crate) session_present: bool,
    pub(crate) code: u8,
    pub(crate) properties: Properties,
}

#[derive(Clone, Debug)]
pub(crate) struct Publish {
    pub(crate) dup: bool,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) topic: String,
    pub(crate) id: u16,
    pub(crate) properties: Properties,
    pub(crate) payload: Vec<u8>,
}

impl Publish {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.payload).unwrap()
    }
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP; also DISCONNECT and AUTH, whose `id` is 0.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) id: u16,
    pub(crate) reason: u8,
    pub(crate) properties: Properties,
}

/// SUBACK or UNSUBACK.
#[derive(Clone, Debug)]
pub(crate) struct Granted {
    pub(crate) id: u16,
    pub(crate) properties: Properties,
    pub(crate) codes: Vec<u8>,
}

const PUBACK_CODES: &[u8] = &[0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99];
const PUBREL_CODES: &[u8] = &[0x00, 0x92];
const CONNACK_CODES: &[u8] = &[
    0x00, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x90, 0x95, 0x97, 0x99,
    0x9A, 0x9B, 0x9C, 0x9D, 0x9F,
];
const DISCONNECT_CODES: &[u8] = &[
    0x00, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8D, 0x8E, 0x8F, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97,
    0x98, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1, 0xA2,
];
const SUBACK_CODES: &[u8] = &[0x00, 0x01, 0x02, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2];
const UNSUBACK_CODES: &[u8] = &[0x00, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91];

/// Fails unless every property is one that this packet may carry (and a server may send).
fn allow(properties: &Properties, allowed: &[u8]) {
    for (id, _) in &properties.0 {
        assert!(allowed.contains(id), "property {id:#04x} does not belong into this packet");
    }
}

impl Packet {
    /// The Control Packet type, 1 to 15.
    pub(crate) fn kind(&self) -> u8 {
        self.first >> 4
    }

    /// Takes the first packet off what was received, if it is whole.
    pub(crate) fn split_off(received: &mut Vec<u8>) -> Option<Packet> {
        let mut length = 0;
        let mut head = 1;
        loop {
            let byte = *received.get(head)?;
            length |= usize::from(byte & 0x7F) << (7 * (head - 1));
            head += 1;
            if byte & 0x80 == 0 {
                break;
            }
            assert!(head <= 4, "Remaining Length of more than four bytes");
        }
        let body = received.get(head..head + length)?.to_vec();
        let first = received[0];
        received.drain(..head + length);
        Some(Packet { first, body })
    }

    /// The whole packet again.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        super::bytes::packet(self.first, &[&self.body])
    }

    pub(crate) fn connack(&self, version: u8) -> Connack {
        assert_eq!(self.first, 0x20, "a CONNACK, not {self:02x?}");
        let mut reader = Reader(&self.body);
        let flags = reader.byte();
        // v5 [MQTT-3.2.2-1]: bits 7 to 1 are reserved.
        assert_eq!(flags & 0xFE, 0, "reserved CONNACK flags");
        let code = reader.byte();
        let properties = if version == V5 { reader.properties() } else { Properties::default() };
        assert!(reader.0.is_empty(), "bytes left in CONNACK");
        if version == V5 {
            assert!(CONNACK_CODES.contains(&code), "v5 [MQTT-3.2.2-8] code {code:#04x}");
        } else {
            assert!(code <= 5, "v3 return code {code}");
        }
        allow(
            &properties,
            &[
                0x11, 0x21, 0x24, 0x25, 0x27, 0x12, 0x22, 0x1F, 0x26, 0x28, 0x29, 0x2A, 0x13, 0x1A, 0x1C,
                0x15, 0x16,
            ],
        );
        Connack { session_present: flags == 1, code, properties }
    }

    pub(crate) fn publish(&self, version: u8) -> Publish {
        assert_eq!(self.kind(), 3, "a PUBLISH, not {self:02x?}");
        let qos = self.first >> 1 & 3;
        assert_ne!(qos, 3, "v5 [MQTT-3.3.1-4]");
        let dup = self.first & 8 != 0;
        assert!(!dup || qos > 0, "v5 [MQTT-3.3.1-2] DUP at QoS 0");
        let mut reader = Reader(&self.body);
        let topic = reader.text();
        // v5 [MQTT-3.3.2-2]
        assert!(!topic.contains(['#', '+']), "wildcard in the Topic Name {topic:?}");
        let id = if qos > 0 { reader.two() } else { 0 };
        // v5 [MQTT-2.2.1-4]
        assert!(qos == 0 || id != 0, "Packet Identifier 0");
        let properties = if version == V5 { reader.properties() } else { Properties::default() };
        allow(&properties, &[0x01, 0x02, 0x23, 0x08, 0x09, 0x26, 0x0B, 0x03]);
        Publish { dup, qos, retain: self.first & 1 != 0, topic, id, properties, payload: reader.0.to_vec() }
    }

    pub(crate) fn reply(&self, first: u8, version: u8) -> Reply {
        assert_eq!(self.first, first, "a packet {first:#04x}, not {self:02x?}");
        let mut reader = Reader(&self.body);
        let id = reader.two();
        if version != V5 {
            assert!(reader.0.is_empty(), "v3 has no Reason Code in {self:02x?}");
            return Reply { id, reason: 0, properties: Properties::default() };
        }
        let (reason, properties) = tail(&mut reader);
        let allowed = if first & 0xF0 < 0x60 { PUBACK_CODES } else { PUBREL_CODES };
        assert!(allowed.contains(&reason), "Reason Code {reason:#04x} in {self:02x?}");
        allow(&properties, &[0x1F, 0x26]);
        Reply { id, reason, properties }
    }

    pub(crate) fn disconnect(&self) -> Reply {
        assert_eq!(self.first, 0xE0, "a DISCONNECT, not {self:02x?}");
        let (reason, properties) = tail(&mut Reader(&self.body));
        // v5 [MQTT-3.14.2-1]
        assert!(DISCONNECT_CODES.contains(&reason), "Reason Code {reason:#04x}");
        // v5 [MQTT-3.14.2-2]: no Session Expiry Interval from a server.
        allow(&properties, &[0x1F, 0x26, 0x1C]);
        Reply { id: 0, reason, properties }
    }

    pub(crate) fn auth(&self) -> Reply {
        assert_eq!(self.first, 0xF0, "an AUTH, not {self:02x?}");
        let (reason, properties) = tail(&mut Reader(&self.body));
        // v5 [MQTT-3.15.2-1]; re-authenticate (0x19) is the client's.
        assert!([0x00, 0x18].contains(&reason), "Reason Code {reason:#04x}");
        allow(&properties, &[0x15, 0x16, 0x1F, 0x26]);
        Reply { id: 0, reason, properties }
    }

    pub(crate) fn suback(&self, version: u8) -> Granted {
        self.granted(0x90, version, SUBACK_CODES)
    }

    pub(crate) fn unsuback(&self, version: u8) -> Granted {
        self.granted(0xB0, version, UNSUBACK_CODES)
    }

    fn granted(&self, first: u8, version: u8, allowed: &[u8]) -> Granted {
        assert_eq!(self.first, first, "a packet {first:#04x}, not {self:02x?}");
        let mut reader = Reader(&self.body);
        let id = reader.two();
        let properties = if version == V5 { reader.properties() } else { Properties::default() };
        let codes = reader.0.to_vec();
        if version == V5 {
            assert!(codes.iter().all(|code| allowed.contains(code)), "Reason Codes {codes:02x?}");
        } else if first == 0x90 {
            assert!(codes.iter().all(|code| [0, 1, 2, 0x80].contains(code)), "return codes {codes:02x?}");
        } else {
            assert!(codes.is_empty(), "v3 has no codes in UNSUBACK");
        }
        allow(&properties, &[0x1F, 0x26]);
        Granted { id, properties, codes }
    }
}

/// A Reason Code and properties that may be left out from the end.
fn tail(reader: &mut Reader<'_>) -> (u8, Properties) {
    if reader.0.is_empty() {
        return (0, Properties::default());
    }
    let reason = reader.byte();
    if reader.0.is_empty() {
        return (reason, Properties::default());
    }
    let properties = reader.properties();
    assert!(reader.0.is_empty(), "bytes left at the end");
    (reason, properties)
}

//! MQTT 5 properties: writing any, and reading with the strictness that the specification asks of a receiver.

pub(crate) const PAYLOAD_FORMAT: u8 = 0x01;
pub(crate) const MESSAGE_EXPIRY: u8 = 0x02;
pub(crate) const CONTENT_TYPE: u8 = 0x03;
pub(crate) const RESPONSE_TOPIC: u8 = 0x08;
pub(crate) const CORRELATION_DATA: u8 = 0x09;
pub(crate) const SUBSCRIPTION_ID: u8 = 0x0B;
pub(crate) const SESSION_EXPIRY: u8 = 0x11;
pub(crate) const ASSIGNED_CLIENT_ID: u8 = 0x12;
pub(crate) const SERVER_KEEP_ALIVE: u8 = 0x13;
pub(crate) const AUTH_METHOD: u8 = 0x15;
pub(crate) const AUTH_DATA: u8 = 0x16;
pub(crate) const REQUEST_PROBLEM: u8 = 0x17;
pub(crate) const WILL_DELAY: u8 = 0x18;
pub(crate) const REQUEST_RESPONSE: u8 = 0x19;
pub(crate) const RESPONSE_INFORMATION: u8 = 0x1A;
pub(crate) const REASON_STRING: u8 = 0x1F;
pub(crate) const RECEIVE_MAXIMUM: u8 = 0x21;
pub(crate) const TOPIC_ALIAS_MAXIMUM: u8 = 0x22;
pub(crate) const TOPIC_ALIAS: u8 = 0x23;
pub(crate) const MAXIMUM_QOS: u8 = 0x24;
pub(crate) const RETAIN_AVAILABLE: u8 = 0x25;
pub(crate) const USER_PROPERTY: u8 = 0x26;
pub(crate) const MAXIMUM_PACKET_SIZE: u8 = 0x27;

use super::bytes::{field, varint};

pub(crate) fn byte(id: u8, value: u8) -> Vec<u8> {
    vec![id, value]
}
pub(crate) fn two(id: u8, value: u16) -> Vec<u8> {
    [&[id][..], &value.to_be_bytes()].concat()
}
pub(crate) fn four(id: u8, value: u32) -> Vec<u8> {
    [&[id][..], &value.to_be_bytes()].concat()
}
pub(crate) fn variable(id: u8, value: usize) -> Vec<u8> {
    [&[id][..], &varint(value)].concat()
}
pub(crate) fn text(id: u8, value: impl AsRef<[u8]>) -> Vec<u8> {
    [&[id][..], &field(value)].concat()
}
pub(crate) fn pair(name: &str, value: &str) -> Vec<u8> {
    [&[USER_PROPERTY][..], &field(name), &field(value)].concat()
}

/// A Property Length and the properties.
pub(crate) fn block(properties: &[u8]) -> Vec<u8> {
    [&varint(properties.len())[..], properties].concat()
}

/// The value of one property.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Number(u32),
    Data(Vec<u8>),
    Pair(String, String),
}

/// The properties of a packet, in the order in which they stood.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Properties(pub(crate) Vec<(u8, Value)>);

impl Properties {
    pub(crate) fn number(&self, id: u8) -> Option<u32> {
        self.0.iter().find(|(other, _)| *other == id).map(|(_, value)| match value {
            Value::Number(number) => *number,
            other => panic!("property {id:#04x} is not a number: {other:?}"),
        })
    }
    pub(crate) fn numbers(&self, id: u8) -> Vec<u32> {
        let mut found: Vec<u32> = self
            .0
            .iter()
            .filter_map(|(other, value)| match value {
                Value::Number(number) if *other == id => Some(*number),
                _ => None,
            })
            .collect();
        found.sort_unstable();
        found
    }
    pub(crate) fn data(&self, id: u8) -> Option<&[u8]> {
        self.0.iter().find(|(other, _)| *other == id).map(|(_, value)| match value {
            Value::Data(data) => data.as_slice(),
            other => panic!("property {id:#04x} is not data: {other:?}"),
        })
    }
    pub(crate) fn text(&self, id: u8) -> Option<&str> {
        self.data(id).map(|data| std::str::from_utf8(data).unwrap())
    }
    pub(crate) fn pairs(&self) -> Vec<(&str, &str)> {
        self.0
            .iter()
            .filter_map(|(_, value)| match value {
                Value::Pair(name, value) => Some((name.as_str(), value.as_str())),
                _ => None,
            })
            .collect()
    }
    pub(crate) fn has(&self, id: u8) -> bool {
        self.0.iter().any(|(other, _)| *other == id)
    }
}

/// Reads the bytes of a packet's body and fails the test at anything malformed.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn take(&mut self, count: usize) -> &'a [u8] {
        assert!(self.0.len() >= count, "the packet ends early: {count} bytes of {:02x?}", self.0);
        let (head, tail) = self.0.split_at(count);
        self.0 = tail;
        head
    }
    pub(crate) fn byte(&mut self) -> u8 {
        self.take(1)[0]
    }
    pub(crate) fn two(&mut self) -> u16 {
        u16::from_be_bytes(self.take(2).try_into().unwrap())
    }
    pub(crate) fn four(&mut self) -> u32 {
        u32::from_be_bytes(self.take(4).try_into().unwrap())
    }
    pub(crate) fn data(&mut self) -> Vec<u8> {
        let length = self.two();
        self.take(usize::from(length)).to_vec()
    }
    /// v5 [MQTT-1.5.4-1] and [MQTT-1.5.4-2]: well-formed UTF-8 without U+0000.
    pub(crate) fn text(&mut self) -> String {
        let text = String::from_utf8(self.data()).unwrap();
        assert!(!text.contains('\0'), "no U+0000 in {text:?}");
        text
    }
    pub(crate) fn varint(&mut self) -> usize {
        let mut value = 0;
        for place in 0..4 {
            let byte = self.byte();
            value |= usize::from(byte & 0x7F) << (7 * place);
            if byte & 0x80 == 0 {
                // v5 [MQTT-1.5.5-1]: the minimum number of bytes.
                assert!(place == 0 || byte != 0, "a Variable Byte Integer is longer than it need be");
                return value;
            }
        }
        panic!("a Variable Byte Integer of more than four bytes");
    }
    /// v5 [MQTT-2.2.2-1]: the Property Length is there even when there are no properties.
    pub(crate) fn properties(&mut self) -> Properties {
        let length = self.varint();
        let mut inner = Reader(self.take(length));
        let mut out = Properties::default();
        while !inner.0.is_empty() {
            let id = u8::try_from(inner.varint()).unwrap();
            let repeatable = id == USER_PROPERTY || id == SUBSCRIPTION_ID;
            assert!(repeatable || !out.has(id), "property {id:#04x} stands twice");
            let value = match id {
                0x01 | 0x17 | 0x19 | 0x24 | 0x25 | 0x28 | 0x29 | 0x2A => Value::Number(inner.byte().into()),
                0x13 | 0x21 | 0x22 | 0x23 => Value::Number(inner.two().into()),
                0x02 | 0x11 | 0x18 | 0x27 => Value::Number(inner.four()),
                0x0B => Value::Number(u32::try_from(inner.varint()).unwrap()),
                0x09 | 0x16 => Value::Data(inner.data()),
                0x03 | 0x08 | 0x12 | 0x15 | 0x1A | 0x1C | 0x1F => Value::Data(inner.text().into_bytes()),
                0x26 => Value::Pair(inner.text(), inner.text()),
                other => panic!("unknown property {other:#04x}"),
            };
            out.0.push((id, value));
        }
        out
    }
}

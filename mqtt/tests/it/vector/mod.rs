//! Byte-level case tables, one file per family of packets. The tests check them; the fuzz corpus is made of them.
//!
//! Bytes are written as hexadecimal, `'text'` for characters, `s'text'` for a string with its length, and `V( .. )` for what
//! is in the parentheses after its length as a Variable Byte Integer (Remaining Length, Property Length).

mod ack;
mod connack;
mod connect;
mod framing;
mod publish;
mod session;
mod subscribe;

use std::sync::LazyLock;

use mqtt::ProtocolVersion::{self, V5, V31, V311};
use mqtt::Receiver;

/// One row of a table.
pub(crate) struct Vector {
    /// What is shown, with its clause.
    pub(crate) name: &'static str,
    /// The versions under which it holds.
    pub(crate) versions: &'static [ProtocolVersion],
    /// The end that gets the bytes.
    pub(crate) receiver: Receiver,
    /// The bytes of one packet.
    pub(crate) bytes: Vec<u8>,
    /// What decoding must say.
    pub(crate) expected: Expected,
}

/// What decoding must say.
pub(crate) enum Expected {
    /// A packet, that encodes to the same bytes.
    Valid,
    /// A packet, that encodes to other bytes which mean the same.
    ValidOtherwise,
    /// More bytes are needed.
    Incomplete,
    /// A fault: the Reason Code, and the start of the error's debug form.
    Fault(u8, &'static str),
}

pub(crate) const ONLY_V5: &[ProtocolVersion] = &[V5];
pub(crate) const ONLY_V311: &[ProtocolVersion] = &[V311];
pub(crate) const ONLY_V31: &[ProtocolVersion] = &[V31];
pub(crate) const BEFORE_V5: &[ProtocolVersion] = &[V31, V311];
pub(crate) const SINCE_V311: &[ProtocolVersion] = &[V311, V5];
pub(crate) const EVERY: &[ProtocolVersion] = &[V31, V311, V5];

pub(crate) const MALFORMED: u8 = 0x81;
pub(crate) const PROTOCOL: u8 = 0x82;

/// A row whose packet is on its way to a server.
pub(crate) fn server(
    name: &'static str,
    versions: &'static [ProtocolVersion],
    text: &str,
    expected: Expected,
) -> Vector {
    Vector { name, versions, receiver: Receiver::Server, bytes: bytes(text), expected }
}

/// A row whose packet is on its way to a client.
pub(crate) fn client(
    name: &'static str,
    versions: &'static [ProtocolVersion],
    text: &str,
    expected: Expected,
) -> Vector {
    Vector { name, versions, receiver: Receiver::Client, bytes: bytes(text), expected }
}

static ROWS: LazyLock<Vec<Vector>> = LazyLock::new(|| {
    let mut rows = connect::rows();
    rows.extend(connack::rows());
    rows.extend(publish::rows());
    rows.extend(ack::rows());
    rows.extend(subscribe::rows());
    rows.extend(session::rows());
    rows.extend(framing::rows());
    rows
});

/// All rows.
pub(crate) fn all() -> &'static [Vector] {
    &ROWS
}

/// The bytes that `text` describes.
pub(crate) fn bytes(text: &str) -> Vec<u8> {
    let mut rest = text;
    let out = sequence(&mut rest, false);
    assert!(rest.is_empty(), "unbalanced: {text}");
    out
}

fn sequence(rest: &mut &str, nested: bool) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        *rest = rest.trim_start();
        if rest.is_empty() {
            assert!(!nested, "a parenthesis is missing");
            return out;
        } else if let Some(after) = rest.strip_prefix(')') {
            *rest = after;
            assert!(nested, "a parenthesis too many");
            return out;
        } else if let Some(after) = rest.strip_prefix("V(") {
            *rest = after;
            let inner = sequence(rest, true);
            mqtt::varint::put(u32::try_from(inner.len()).expect("a short row"), &mut out);
            out.extend(inner);
        } else if let Some(after) = rest.strip_prefix("s'") {
            let (text, after) = after.split_once('\'').expect("a quote is missing");
            *rest = after;
            out.extend(u16::try_from(text.len()).expect("a short row").to_be_bytes());
            out.extend(text.as_bytes());
        } else if let Some(after) = rest.strip_prefix('\'') {
            let (text, after) = after.split_once('\'').expect("a quote is missing");
            *rest = after;
            out.extend(text.as_bytes());
        } else {
            let (digits, after) = rest.split_at(2);
            *rest = after;
            out.push(u8::from_str_radix(digits, 16).expect("not hexadecimal"));
        }
    }
}

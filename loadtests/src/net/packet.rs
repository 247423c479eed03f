//! Control Packets as this tool writes and reads them. Outgoing packets are encoded once; what differs per message
//! (Packet Identifier, stamp) is patched into a copy.

use crate::measure::payload::Stamp;

/// Protocol version of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    /// MQTT 3.1.1.
    V311,
    /// MQTT 5.
    V5,
}

/// What CONNECT says.
#[derive(Debug, Clone)]
pub(crate) struct ConnectOptions {
    /// Protocol version.
    pub version: Version,
    /// Client Identifier.
    pub client_id: String,
    /// Clean Session or Clean Start.
    pub clean: bool,
    /// Keep Alive in seconds; 0 switches it off.
    pub keep_alive_s: u16,
}

/// A packet from the broker, as far as this tool looks at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Incoming<'a> {
    /// CONNACK.
    Connack { session_present: bool, reason: u8, receive_max: u16 },
    /// PUBLISH.
    Publish { qos: u8, packet_id: u16, payload: &'a [u8] },
    /// PUBACK.
    Puback { packet_id: u16, reason: u8 },
    /// PUBREC.
    Pubrec { packet_id: u16, reason: u8 },
    /// PUBREL.
    Pubrel { packet_id: u16 },
    /// PUBCOMP.
    Pubcomp { packet_id: u16 },
    /// SUBACK; `refused` counts Reason Codes of 0x80 and above.
    Suback { refused: usize },
    /// DISCONNECT.
    Disconnect { reason: u8 },
    /// Anything else.
    Other { first_byte: u8 },
}

/// Bytes from the broker that are not MQTT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed packet from the broker (first byte {first_byte:#04x})")]
pub(crate) struct Malformed {
    /// First byte of the packet.
    pub first_byte: u8,
}

/// Splits the first whole packet off `input`, with the number of its bytes; `None` if more must arrive.
///
/// # Errors
/// When the bytes cannot be a packet from a broker.
#[inline]
pub(crate) fn split(input: &[u8], version: Version) -> Result<Option<(Incoming<'_>, usize)>, Malformed> {
    let Some(&first_byte) = input.first() else {
        return Ok(None);
    };
    let Some((remaining, length_bytes)) = variable_byte_integer(&input[1..], first_byte)? else {
        return Ok(None);
    };
    let total = 1 + length_bytes + remaining;
    let Some(body) = input.get(1 + length_bytes..total) else {
        return Ok(None);
    };
    let packet = read(first_byte, body, version).ok_or(Malformed { first_byte })?;
    Ok(Some((packet, total)))
}

#[inline]
fn variable_byte_integer(input: &[u8], first_byte: u8) -> Result<Option<(usize, usize)>, Malformed> {
    let mut value = 0usize;
    for (at, byte) in input.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Ok(Some((value, at + 1)));
        }
    }
    if input.len() < 4 { Ok(None) } else { Err(Malformed { first_byte }) }
}

#[inline]
fn read(first_byte: u8, body: &[u8], version: Version) -> Option<Incoming<'_>> {
    match first_byte >> 4 {
        3 => publish(first_byte, body, version),
        4 => Some(Incoming::Puback { packet_id: u16_at(body, 0)?, reason: reason_at(body, 2) }),
        5 => Some(Incoming::Pubrec { packet_id: u16_at(body, 0)?, reason: reason_at(body, 2) }),
        6 => Some(Incoming::Pubrel { packet_id: u16_at(body, 0)? }),
        7 => Some(Incoming::Pubcomp { packet_id: u16_at(body, 0)? }),
        _ => read_rare(first_byte, body, version),
    }
}

#[inline]
fn publish(first_byte: u8, body: &[u8], version: Version) -> Option<Incoming<'_>> {
    let qos = (first_byte >> 1) & 3;
    let mut at = 2 + usize::from(u16_at(body, 0)?);
    let mut packet_id = 0;
    if qos > 0 {
        packet_id = u16_at(body, at)?;
        at += 2;
    }
    if version == Version::V5 {
        let (length, length_bytes) = variable_byte_integer(body.get(at..)?, first_byte).ok()??;
        at += length + length_bytes;
    }
    Some(Incoming::Publish { qos, packet_id, payload: body.get(at..)? })
}

#[cold]
fn read_rare(first_byte: u8, body: &[u8], version: Version) -> Option<Incoming<'_>> {
    Some(match first_byte >> 4 {
        2 => Incoming::Connack {
            session_present: body.first()? & 1 == 1,
            reason: *body.get(1)?,
            receive_max: receive_max(body.get(2..)?).unwrap_or(u16::MAX),
        },
        9 => {
            let mut at = 2;
            if version == Version::V5 {
                let (length, length_bytes) = variable_byte_integer(body.get(at..)?, first_byte).ok()??;
                at += length + length_bytes;
            }
            Incoming::Suback { refused: body.get(at..)?.iter().filter(|code| **code >= 0x80).count() }
        }
        14 => Incoming::Disconnect { reason: reason_at(body, 0) },
        _ => Incoming::Other { first_byte },
    })
}

fn receive_max(properties: &[u8]) -> Option<u16> {
    // Throwaway: only the common order of properties.
    let at = properties.iter().position(|byte| *byte == 0x21)?;
    u16_at(properties, at + 1)
}

fn u16_at(body: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*body.get(at)?, *body.get(at + 1)?]))
}

fn reason_at(body: &[u8], at: usize) -> u8 {
    body.get(at).copied().unwrap_or(0)
}

/// Encodes CONNECT.
#[must_use]
pub(crate) fn connect(options: &ConnectOptions) -> Vec<u8> {
    let mut body = vec![0, 4, b'M', b'Q', b'T', b'T'];
    body.push(if options.version == Version::V5 { 5 } else { 4 });
    body.push(if options.clean { 2 } else { 0 });
    body.extend_from_slice(&options.keep_alive_s.to_be_bytes());
    if options.version == Version::V5 {
        if options.clean {
            body.push(0);
        } else {
            body.extend_from_slice(&[5, 0x11, 0xff, 0xff, 0xff, 0xff]);
        }
    }
    string(&mut body, &options.client_id);
    frame(0x10, &body)
}

/// Encodes SUBSCRIBE for one Topic Filter.
#[must_use]
pub(crate) fn subscribe(version: Version, packet_id: u16, filter: &str, qos: u8) -> Vec<u8> {
    let mut body = packet_id.to_be_bytes().to_vec();
    if version == Version::V5 {
        body.push(0);
    }
    string(&mut body, filter);
    body.push(qos);
    frame(0x82, &body)
}

/// DISCONNECT, the same in both versions when it says nothing.
pub(crate) const DISCONNECT: [u8; 2] = [0xe0, 0];

/// PUBACK, PUBREC, PUBREL and PUBCOMP in their short form.
#[must_use]
#[inline]
pub(crate) fn ack(first_byte: u8, packet_id: u16) -> [u8; 4] {
    let [high, low] = packet_id.to_be_bytes();
    [first_byte, 2, high, low]
}

/// First byte of PUBACK.
pub(crate) const PUBACK: u8 = 0x40;
/// First byte of PUBREC.
pub(crate) const PUBREC: u8 = 0x50;
/// First byte of PUBREL.
pub(crate) const PUBREL: u8 = 0x62;
/// First byte of PUBCOMP.
pub(crate) const PUBCOMP: u8 = 0x70;

/// An encoded PUBLISH of which the Packet Identifier and the stamp are filled in per message.
#[derive(Debug, Clone)]
pub(crate) struct PublishTemplate {
    bytes: Vec<u8>,
    packet_id_at: Option<usize>,
    payload_at: usize,
}

impl PublishTemplate {
    /// Encodes a PUBLISH with a payload of `payload_bytes`; less than a stamp needs goes without one.
    #[must_use]
    pub(crate) fn new(version: Version, topic: &str, qos: u8, retain: bool, payload_bytes: usize) -> Self {
        let mut body = Vec::new();
        string(&mut body, topic);
        if qos > 0 {
            body.extend_from_slice(&[0, 1]);
        }
        if version == Version::V5 {
            body.push(0);
        }
        body.resize(body.len() + payload_bytes, 0x2e);
        let bytes = frame(0x30 | qos << 1 | u8::from(retain), &body);
        let payload_at = bytes.len() - payload_bytes;
        let packet_id_at = (qos > 0).then(|| payload_at - 2 - usize::from(version == Version::V5));
        Self { bytes, packet_id_at, payload_at }
    }

    /// Appends one message to `out`.
    #[inline]
    pub(crate) fn append(&self, out: &mut Vec<u8>, packet_id: u16, stamp: &Stamp) {
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        let message = &mut out[start..];
        if let Some(at) = self.packet_id_at {
            message[at..at + 2].copy_from_slice(&packet_id.to_be_bytes());
        }
        stamp.write(&mut message[self.payload_at..]);
    }
}

fn string(body: &mut Vec<u8>, text: &str) {
    body.extend_from_slice(&u16::try_from(text.len()).unwrap_or(0).to_be_bytes());
    body.extend_from_slice(text.as_bytes());
}

fn frame(first_byte: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first_byte];
    let mut length = body.len();
    loop {
        let low = (length & 0x7f) as u8;
        length >>= 7;
        if length == 0 {
            bytes.push(low);
            break;
        }
        bytes.push(low | 0x80);
    }
    bytes.extend_from_slice(body);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_carries_identifier_and_stamp_in_every_version_and_qos() {
        for version in [Version::V311, Version::V5] {
            for qos in 0..=2 {
                let template = PublishTemplate::new(version, "a/b", qos, false, 256);
                let stamp = Stamp { publisher: 3, sequence: 9, due_ns: 77 };
                let mut out = vec![0xaa];
                template.append(&mut out, 0x1234, &stamp);
                let (packet, length) = split(&out[1..], version).unwrap().unwrap();
                assert_eq!(length, out.len() - 1);
                let Incoming::Publish { qos: read_qos, packet_id, payload } = packet else {
                    panic!("not a PUBLISH: {packet:?}");
                };
                assert_eq!((read_qos, packet_id), (qos, if qos == 0 { 0 } else { 0x1234 }));
                assert_eq!(payload.len(), 256);
                assert_eq!(Stamp::read(payload), Some(stamp));
            }
        }
    }
}

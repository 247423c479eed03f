//! UNSUBSCRIBE (v5 section 3.10).

use bytes::BufMut;

use super::{put_packet, whole_len};
use crate::bytes_io::{Reader, put_string, string_len};
use crate::error::DecodeError;
use crate::packet_id::PacketId;
use crate::packet_type::PacketType;
use crate::property::Properties;
use crate::property_id::Place;
use crate::receiver::Receiver;
use crate::topic;
use crate::version::ProtocolVersion;

/// The Topic Filters of an UNSUBSCRIBE.
#[derive(Debug, Clone, Copy)]
pub struct TopicFilters<'a>(FilterSource<'a>);

#[derive(Debug, Clone, Copy)]
enum FilterSource<'a> {
    /// A payload that was validated.
    Wire(&'a [u8]),
    List(&'a [&'a str]),
}

impl<'a> From<&'a [&'a str]> for TopicFilters<'a> {
    fn from(list: &'a [&'a str]) -> Self {
        Self(FilterSource::List(list))
    }
}

impl PartialEq for TopicFilters<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for TopicFilters<'_> {}

impl<'a> TopicFilters<'a> {
    /// The Topic Filters in order; those of a decoded packet are valid.
    pub fn iter(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let (mut wire, list) = match self.0 {
            FilterSource::Wire(payload) => (Reader::new(payload), [].as_slice()),
            FilterSource::List(list) => (Reader::new(&[]), list),
        };
        std::iter::from_fn(move || wire.string().ok()).chain(list.iter().copied())
    }

    fn encoded_len(&self) -> usize {
        match self.0 {
            FilterSource::Wire(payload) => payload.len(),
            FilterSource::List(list) => list.iter().map(|filter| string_len(filter)).sum(),
        }
    }
}

/// A client unsubscribes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsubscribe<'a> {
    /// Answered by the UNSUBACK with the same. v5 [MQTT-3.10.4-5]
    pub packet_id: PacketId,
    /// MQTT 5 only.
    pub properties: Properties<'a>,
    /// At least one. v5 [MQTT-3.10.3-2]
    pub filters: TopicFilters<'a>,
}

impl<'a> Unsubscribe<'a> {
    /// The Topic Filters in order.
    pub fn iter(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.filters.iter()
    }

    pub(super) fn decode(version: ProtocolVersion, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let packet_id = reader.packet_id()?;
        let properties = if version.is_v5() {
            Properties::decode(reader, Place::Unsubscribe, Receiver::Server)?
        } else {
            Properties::EMPTY
        };
        // v5 [MQTT-3.10.3-2]
        if reader.is_empty() {
            return Err(DecodeError::EmptyPayload { packet: PacketType::Unsubscribe });
        }
        let payload = reader.take_rest();
        let mut entries = Reader::new(payload);
        while !entries.is_empty() {
            // v5 [MQTT-3.10.3-1]
            topic::validate_filter(entries.string()?).map_err(DecodeError::TopicFilter)?;
        }
        Ok(Self { packet_id, properties, filters: TopicFilters(FilterSource::Wire(payload)) })
    }

    /// Writes the packet.
    pub fn encode(&self, version: ProtocolVersion, out: &mut impl BufMut) {
        put_packet(PacketType::Unsubscribe, self.remaining_len(version), out, |out| {
            out.put_u16(self.packet_id.as_u16());
            if version.is_v5() {
                self.properties.encode(out);
            }
            self.iter().for_each(|filter| put_string(filter, out));
        });
    }

    /// Bytes that [`Unsubscribe::encode`] writes.
    pub fn encoded_len(&self, version: ProtocolVersion) -> usize {
        whole_len(self.remaining_len(version))
    }

    fn remaining_len(&self, version: ProtocolVersion) -> usize {
        let properties = if version.is_v5() { self.properties.encoded_len() } else { 0 };
        2 + properties + self.filters.encoded_len()
    }
}

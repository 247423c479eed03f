//! CONNECT (v5 section 3.1). It names its own protocol version.

use bytes::BufMut;

use super::{check_frame, put_packet, whole_len};
use crate::bytes_io::{Reader, binary_len, put_binary, put_string, string_len};
use crate::error::DecodeError;
use crate::frame::Frame;
use crate::packet_type::PacketType;
use crate::property::Properties;
use crate::property_id::{Place, PropertyId};
use crate::qos::QoS;
use crate::receiver::Receiver;
use crate::topic;
use crate::version::ProtocolVersion;

const RESERVED: u8 = 0b0000_0001;
const CLEAN_START: u8 = 0b0000_0010;
const WILL: u8 = 0b0000_0100;
const WILL_QOS: u8 = 0b0001_1000;
const WILL_QOS_SHIFT: u8 = 3;
const WILL_RETAIN: u8 = 0b0010_0000;
const PASSWORD: u8 = 0b0100_0000;
const USER_NAME: u8 = 0b1000_0000;

/// Of the level: Mosquitto's mark for bridges.
const BRIDGE: u8 = 0b1000_0000;

/// A client asks for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connect<'a> {
    /// The version that the packet names; it holds for the whole connection.
    pub version: ProtocolVersion,
    /// The client is a bridge of Mosquitto (`try_private`), and says so by the top bit of the level, which no specification
    /// has. What it subscribes to is meant with Retain As Published and No Local, for which 3.1 and 3.1.1 have no words; in
    /// MQTT 5 bridges say that themselves, so that the bit is unsupported there.
    pub is_bridge: bool,
    /// Clean Start; before MQTT 5, Clean Session.
    pub clean_start: bool,
    /// Keep Alive in seconds; 0 is none.
    pub keep_alive_s: u16,
    /// MQTT 5 only.
    pub properties: Properties<'a>,
    /// May be empty in the codec; whether that is accepted depends on version and policy.
    pub client_id: &'a str,
    /// Present when the Will Flag is set.
    pub will: Option<Will<'a>>,
    /// Present when its flag is set.
    pub user_name: Option<&'a str>,
    /// Present when its flag is set.
    pub password: Option<&'a [u8]>,
}

/// The Will Message of a CONNECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Will<'a> {
    /// QoS of the message.
    pub qos: QoS,
    /// Whether it is published as a retained message.
    pub retain: bool,
    /// A valid Topic Name.
    pub topic: &'a str,
    /// Any bytes.
    pub payload: &'a [u8],
    /// MQTT 5 only; Will Delay Interval among them.
    pub properties: Properties<'a>,
}

impl<'a> Connect<'a> {
    /// Decodes a CONNECT of any version, as a server.
    ///
    /// # Errors
    /// [`DecodeError::UnsupportedProtocolName`] and [`DecodeError::UnsupportedProtocolLevel`] when the client speaks
    /// something else; [`DecodeError::WrongDirection`] for any other packet, because the
    /// first packet must be CONNECT (v5 [MQTT-3.1.0-1]); else the first fault found.
    pub fn decode(frame: Frame<'a>) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(frame.body());
        let (version, is_bridge) = read_version(frame, &mut reader)?;
        check_frame(version, frame)?;
        let flags = reader.u8()?;
        check_flags(version, flags)?;
        let keep_alive_s = reader.u16()?;
        let properties = read_properties(version, Place::Connect, &mut reader)?;
        check_authentication(properties)?;
        // v5 [MQTT-3.1.3-1], v5 [MQTT-3.1.3-3], v5 [MQTT-3.1.3-4]
        let client_id = reader.string()?;
        // v5 [MQTT-3.1.2-9]
        let will = if flags & WILL != 0 { Some(Will::decode(version, flags, &mut reader)?) } else { None };
        // A flag may be set without its field in 3.1, where Remaining Length takes precedence (3.1 section 3.1).
        let left_out = |reader: &Reader<'_>| version == ProtocolVersion::V31 && reader.is_empty();
        // v5 [MQTT-3.1.2-16], v5 [MQTT-3.1.2-17], v5 [MQTT-3.1.3-12]
        let user_name =
            if flags & USER_NAME != 0 && !left_out(&reader) { Some(reader.string()?) } else { None };
        // v5 [MQTT-3.1.2-18], v5 [MQTT-3.1.2-19]
        let password =
            if flags & PASSWORD != 0 && !left_out(&reader) { Some(reader.binary()?) } else { None };
        reader.finish()?;
        let clean_start = flags & CLEAN_START != 0;
        Ok(Self {
            version,
            is_bridge,
            clean_start,
            keep_alive_s,
            properties,
            client_id,
            will,
            user_name,
            password,
        })
    }

    /// The version that a CONNECT names, even if the rest of it is faulty: it decides how the refusal is written.
    ///
    /// # Errors
    /// As [`Connect::decode`], up to the Protocol Level.
    pub fn version_of(frame: Frame<'_>) -> Result<ProtocolVersion, DecodeError> {
        read_version(frame, &mut Reader::new(frame.body())).map(|(version, _)| version)
    }

    /// The Protocol Name of the packet.
    pub const fn protocol_name(&self) -> &'static str {
        self.version.protocol_name()
    }

    /// Writes the packet in its own version.
    ///
    /// A Password without a User Name is written with an empty User Name before MQTT 5, where it could not stand alone.
    pub fn encode(&self, out: &mut impl BufMut) {
        put_packet(PacketType::Connect, self.remaining_len(), out, |out| {
            put_string(self.version.protocol_name(), out);
            out.put_u8(self.version.level() | if self.is_bridge { BRIDGE } else { 0 });
            out.put_u8(self.flags());
            out.put_u16(self.keep_alive_s);
            self.put_properties(self.properties, out);
            put_string(self.client_id, out);
            if let Some(will) = &self.will {
                self.put_properties(will.properties, out);
                put_string(will.topic, out);
                put_binary(will.payload, out);
            }
            if let Some(user_name) = self.written_user_name() {
                put_string(user_name, out);
            }
            if let Some(password) = self.password {
                put_binary(password, out);
            }
        });
    }

    /// Bytes that [`Connect::encode`] writes.
    pub fn encoded_len(&self) -> usize {
        whole_len(self.remaining_len())
    }

    fn remaining_len(&self) -> usize {
        let properties_len =
            |properties: Properties<'_>| if self.version.is_v5() { properties.encoded_len() } else { 0 };
        let will_len = self.will.map_or(0, |will| {
            properties_len(will.properties) + string_len(will.topic) + binary_len(will.payload)
        });
        string_len(self.version.protocol_name())
            + 4
            + properties_len(self.properties)
            + string_len(self.client_id)
            + will_len
            + self.written_user_name().map_or(0, string_len)
            + self.password.map_or(0, binary_len)
    }

    fn written_user_name(&self) -> Option<&'a str> {
        let implied = self.password.is_some() && !self.version.is_v5();
        self.user_name.or(if implied { Some("") } else { None })
    }

    fn put_properties(&self, properties: Properties<'_>, out: &mut impl BufMut) {
        if self.version.is_v5() {
            properties.encode(out);
        }
    }

    fn flags(&self) -> u8 {
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        let will = self
            .will
            .map_or(0, |will| WILL | will.qos.as_u8() << WILL_QOS_SHIFT | flag(will.retain, WILL_RETAIN));
        will | flag(self.clean_start, CLEAN_START)
            | flag(self.written_user_name().is_some(), USER_NAME)
            | flag(self.password.is_some(), PASSWORD)
    }
}

impl<'a> Will<'a> {
    fn decode(version: ProtocolVersion, flags: u8, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let properties = read_properties(version, Place::Will, reader)?;
        // v5 [MQTT-3.1.3-11]
        let topic = reader.string()?;
        topic::validate_name(topic).map_err(DecodeError::TopicName)?;
        let payload = reader.binary()?;
        // v5 [MQTT-3.1.2-12]
        let qos = QoS::from_bits(flags >> WILL_QOS_SHIFT).ok_or(DecodeError::WillQoS)?;
        Ok(Self { qos, retain: flags & WILL_RETAIN != 0, topic, payload, properties })
    }
}

/// The version, and whether a bridge speaks it.
fn read_version(frame: Frame<'_>, reader: &mut Reader<'_>) -> Result<(ProtocolVersion, bool), DecodeError> {
    let packet = frame.packet_type();
    if packet != PacketType::Connect {
        return Err(DecodeError::WrongDirection { packet });
    }
    // Compared as bytes: a name that is not UTF-8 is unknown too. v5 [MQTT-3.1.2-1]
    let name = reader.binary()?;
    if !ProtocolVersion::ALL.iter().any(|version| version.protocol_name().as_bytes() == name) {
        return Err(DecodeError::UnsupportedProtocolName);
    }
    // v5 [MQTT-3.1.2-2]
    let level = reader.u8()?;
    let is_bridge = level & BRIDGE != 0;
    ProtocolVersion::from_level(level & !BRIDGE)
        .filter(|version| version.protocol_name().as_bytes() == name && !(is_bridge && version.is_v5()))
        .map(|version| (version, is_bridge))
        .ok_or(DecodeError::UnsupportedProtocolLevel { level })
}

fn check_flags(version: ProtocolVersion, flags: u8) -> Result<(), DecodeError> {
    // v5 [MQTT-3.1.2-3]; 3.1 calls the bit unused and demands nothing, nor of the Will flags when there is no Will.
    let lenient = version == ProtocolVersion::V31;
    if flags & RESERVED != 0 && !lenient {
        return Err(DecodeError::ConnectReservedFlag);
    }
    if flags & WILL == 0 {
        // v5 [MQTT-3.1.2-11], v5 [MQTT-3.1.2-13]
        if flags & (WILL_QOS | WILL_RETAIN) != 0 && !lenient {
            return Err(DecodeError::WillFlagsWithoutWill);
        }
    } else if flags & WILL_QOS == WILL_QOS {
        // v5 [MQTT-3.1.2-12]
        return Err(DecodeError::WillQoS);
    }
    // v3.1.1 [MQTT-3.1.2-22]; 3.1 says the same, MQTT 5 allows it.
    if flags & PASSWORD != 0 && flags & USER_NAME == 0 && !version.is_v5() {
        return Err(DecodeError::PasswordWithoutUserName);
    }
    Ok(())
}

fn read_properties<'a>(
    version: ProtocolVersion,
    place: Place,
    reader: &mut Reader<'a>,
) -> Result<Properties<'a>, DecodeError> {
    if !version.is_v5() {
        return Ok(Properties::EMPTY);
    }
    Properties::decode(reader, place, Receiver::Server)
}

/// Section 3.1.2.11.10.
pub(super) const fn check_authentication(properties: Properties<'_>) -> Result<(), DecodeError> {
    let data = properties.contains(PropertyId::AuthenticationData);
    if data && !properties.contains(PropertyId::AuthenticationMethod) {
        return Err(DecodeError::AuthenticationDataWithoutMethod);
    }
    Ok(())
}

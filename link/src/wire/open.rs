//! OPEN: everything that a worker needs to take a device's session, and on a resume what the device has seen so far.

use std::net::{IpAddr, SocketAddr};

use bytes::{BufMut, Bytes, BytesMut};
use mqtt::PacketId;

use super::WireError;
use super::decode::{Limits, one_packet};
use super::field::{LIST_MAX, Reader, Text, put_bytes, put_list, put_option};
use crate::ConnectionId;

/// What the device's TLS handshake gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// The version as TLS numbers it: 0x0303 for 1.2, 0x0304 for 1.3; 0 when the edge does not say.
    pub version: u16,
    /// The cipher suite as TLS numbers it; 0 when the edge does not say.
    pub cipher_suite: u16,
    /// The name that the device asked for (SNI).
    pub server_name: Option<Text>,
    /// The subject of its verified certificate.
    pub certificate_subject: Option<Text>,
}

/// The outcome of enhanced authentication, for CONNACK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authentication {
    /// Authentication Method, as CONNECT gave it.
    // v5 [MQTT-4.12.0-5]
    pub method: Text,
    /// The last Authentication Data from the server.
    pub data: Option<Bytes>,
}

/// How far a flow to the device has come, as the edge saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FlowState {
    /// A QoS 1 PUBLISH went to the device.
    AwaitingPuback = 1,
    /// A QoS 2 PUBLISH went to the device.
    AwaitingPubrec = 2,
    /// The device's PUBREC came; no PUBREL went yet.
    OwingPubrel = 3,
    /// PUBREL went to the device.
    AwaitingPubcomp = 4,
}

impl FlowState {
    /// All states in the order of their numbers.
    pub const ALL: [Self; 4] =
        [Self::AwaitingPuback, Self::AwaitingPubrec, Self::OwingPubrel, Self::AwaitingPubcomp];

    fn from_u8(number: u8) -> Option<Self> {
        match number {
            1..=4 => Some(Self::ALL[usize::from(number) - 1]),
            _ => None,
        }
    }
}

/// An open flow to the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Its Packet Identifier.
    pub packet_id: PacketId,
    /// How far it has come.
    pub state: FlowState,
}

/// One of the device's Topic Aliases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicAlias {
    /// The alias; not 0.
    pub alias: u16,
    /// What it stands for.
    pub topic: Text,
}

/// What a resume adds to OPEN. The lists have at most 65,535 values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resume {
    /// The CONNACK that the device got: its values bind the new worker.
    pub connack: Bytes,
    /// Frames 1 to this of the new stream went to an earlier worker too and may have had their effect. Set by
    /// [`crate::mux::EdgeEnd::open`].
    pub replays: u32,
    /// Frames 1 to this of the new stream came from the device before the resume, the replays first. Nothing is sent to the
    /// device until they are taken: acknowledgements of what looks unacknowledged may be among them. Set as `replays` is.
    pub backlog: u32,
    /// Flows to the device that are open. They count against its Receive Maximum, and their identifiers are taken.
    pub flows: Vec<Flow>,
    /// QoS 2 flows from the device that are open: its PUBLISH came, PUBCOMP has not gone.
    pub inbound_qos2: Vec<PacketId>,
    /// The device's Topic Aliases as they stand behind the replayed frames, which carry their full topics.
    pub topic_aliases: Vec<TopicAlias>,
}

/// A device's connection, authenticated, asks for its session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// Of this connection; random, unique for ever.
    pub connection_id: ConnectionId,
    /// Which OPEN for this connection this is, counted over all workers: one that is carried out late, by a worker that was
    /// given up, must not take the session from a later one.
    pub attempt: u32,
    /// The device's address. Flow label and scope of IPv6 mean nothing elsewhere and stay behind.
    pub address: SocketAddr,
    /// The listener's name in configuration and metrics.
    pub listener: Text,
    /// If it came by TLS.
    pub tls: Option<Tls>,
    /// The passport as a token.
    pub passport: Bytes,
    /// The whole CONNECT packet, validated by the edge.
    pub connect: Bytes,
    /// The Client Identifier that the edge assigned because CONNECT had none.
    pub assigned_client_id: Option<Text>,
    /// The Server Keep Alive that the edge imposes, seconds.
    pub server_keep_alive_s: Option<u16>,
    /// The outcome of enhanced authentication.
    pub authentication: Option<Authentication>,
    /// `None` for a new connection: the CONNECT counts. Otherwise the session is taken as it is.
    pub resume: Option<Resume>,
}

fn option_len<T>(value: Option<&T>, len: impl FnOnce(&T) -> usize) -> usize {
    1 + value.map_or(0, len)
}

impl Tls {
    fn encoded_len(&self) -> usize {
        4 + option_len(self.server_name.as_ref(), Text::encoded_len)
            + option_len(self.certificate_subject.as_ref(), Text::encoded_len)
    }

    fn encode(&self, out: &mut BytesMut) {
        out.put_u16(self.version);
        out.put_u16(self.cipher_suite);
        put_option(self.server_name.as_ref(), out, Text::encode);
        put_option(self.certificate_subject.as_ref(), out, Text::encode);
    }

    fn decode(body: &mut Reader) -> Result<Self, WireError> {
        Ok(Self {
            version: body.u16("TLS version")?,
            cipher_suite: body.u16("cipher suite")?,
            server_name: body.option("server name", |body| body.text("server name"))?,
            certificate_subject: body
                .option("certificate subject", |body| body.text("certificate subject"))?,
        })
    }
}

impl Authentication {
    fn encoded_len(&self) -> usize {
        self.method.encoded_len() + option_len(self.data.as_ref(), |data| 4 + data.len())
    }

    fn encode(&self, out: &mut BytesMut) {
        self.method.encode(out);
        put_option(self.data.as_ref(), out, put_bytes);
    }

    fn decode(body: &mut Reader) -> Result<Self, WireError> {
        Ok(Self {
            method: body.text("authentication method")?,
            data: body.option("authentication data", |body| body.bytes("authentication data"))?,
        })
    }
}

impl Resume {
    fn encoded_len(&self) -> usize {
        let aliases: usize = self.topic_aliases.iter().map(|alias| 2 + alias.topic.encoded_len()).sum();
        4 + self.connack.len()
            + 4
            + 4
            + 2
            + 3 * self.flows.len()
            + 2
            + 2 * self.inbound_qos2.len()
            + 2
            + aliases
    }

    fn encode(&self, out: &mut BytesMut) {
        put_bytes(&self.connack, out);
        out.put_u32(self.replays);
        out.put_u32(self.backlog);
        put_list(&self.flows, out, |flow, out| {
            out.put_u16(flow.packet_id.as_u16());
            out.put_u8(flow.state as u8);
        });
        put_list(&self.inbound_qos2, out, |id, out| out.put_u16(id.as_u16()));
        put_list(&self.topic_aliases, out, |alias, out| {
            out.put_u16(alias.alias);
            alias.topic.encode(out);
        });
    }

    fn decode(body: &mut Reader) -> Result<Self, WireError> {
        let connack = one_packet(body.bytes("CONNACK")?, "CONNACK")?;
        let replays = body.u32("replays")?;
        let backlog = body.u32("backlog")?;
        if replays > backlog {
            return Err(WireError::Value("replays"));
        }
        let flows = body.list("flows", 3, |body| {
            let packet_id = packet_id(body)?;
            let state = FlowState::from_u8(body.u8("state of a flow")?);
            Ok(Flow { packet_id, state: state.ok_or(WireError::Value("state of a flow"))? })
        })?;
        let inbound_qos2 = body.list("inbound QoS 2", 2, packet_id)?;
        let topic_aliases = body.list("topic aliases", 4, |body| {
            let alias = body.u16("topic alias")?;
            if alias == 0 {
                return Err(WireError::Value("topic alias"));
            }
            Ok(TopicAlias { alias, topic: body.text("topic of an alias")? })
        })?;
        Ok(Self { connack, replays, backlog, flows, inbound_qos2, topic_aliases })
    }
}

fn packet_id(body: &mut Reader) -> Result<PacketId, WireError> {
    PacketId::new(body.u16("packet identifier")?).ok_or(WireError::Value("packet identifier"))
}

fn address_len(address: SocketAddr) -> usize {
    1 + 2 + if address.is_ipv4() { 4 } else { 16 }
}

fn put_address(address: SocketAddr, out: &mut BytesMut) {
    match address.ip() {
        IpAddr::V4(ip) => {
            out.put_u8(4);
            out.put_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            out.put_u8(6);
            out.put_slice(&ip.octets());
        }
    }
    out.put_u16(address.port());
}

fn read_address(body: &mut Reader) -> Result<SocketAddr, WireError> {
    let ip: IpAddr = match body.u8("address")? {
        4 => body.array::<4>("address")?.into(),
        6 => body.array::<16>("address")?.into(),
        _ => return Err(WireError::Value("address")),
    };
    Ok(SocketAddr::new(ip, body.u16("address")?))
}

impl Open {
    /// Whether the other end, with the same `limits`, decodes it.
    pub(crate) fn is_encodable(&self, limits: &Limits) -> bool {
        let lists = self.resume.as_ref().map_or([0; 3], |resume| {
            [resume.flows.len(), resume.inbound_qos2.len(), resume.topic_aliases.len()]
        });
        let packets = [Some(&self.connect), self.resume.as_ref().map(|resume| &resume.connack)];
        let aliases = self.resume.iter().flat_map(|resume| &resume.topic_aliases);
        lists.iter().all(|len| *len <= LIST_MAX)
            && packets.into_iter().flatten().all(|packet| one_packet(packet.clone(), "packet").is_ok())
            && aliases.into_iter().all(|alias| alias.alias != 0)
            && self.encoded_len() <= limits.open_bytes_max as usize
    }

    pub(super) fn encoded_len(&self) -> usize {
        16 + 4
            + address_len(self.address)
            + self.listener.encoded_len()
            + option_len(self.tls.as_ref(), Tls::encoded_len)
            + 4
            + self.passport.len()
            + 4
            + self.connect.len()
            + option_len(self.assigned_client_id.as_ref(), Text::encoded_len)
            + option_len(self.server_keep_alive_s.as_ref(), |_| 2)
            + option_len(self.authentication.as_ref(), Authentication::encoded_len)
            + option_len(self.resume.as_ref(), Resume::encoded_len)
    }

    pub(super) fn encode(&self, out: &mut BytesMut) {
        out.put_u128(self.connection_id.0);
        out.put_u32(self.attempt);
        put_address(self.address, out);
        self.listener.encode(out);
        put_option(self.tls.as_ref(), out, Tls::encode);
        put_bytes(&self.passport, out);
        put_bytes(&self.connect, out);
        put_option(self.assigned_client_id.as_ref(), out, Text::encode);
        put_option(self.server_keep_alive_s.as_ref(), out, |seconds, out| out.put_u16(*seconds));
        put_option(self.authentication.as_ref(), out, Authentication::encode);
        put_option(self.resume.as_ref(), out, Resume::encode);
    }

    pub(super) fn decode(body: &mut Reader) -> Result<Self, WireError> {
        Ok(Self {
            connection_id: ConnectionId(body.u128("connection id")?),
            attempt: body.u32("attempt")?,
            address: read_address(body)?,
            listener: body.text("listener")?,
            tls: body.option("TLS", Tls::decode)?,
            passport: body.bytes("passport")?,
            connect: one_packet(body.bytes("CONNECT")?, "CONNECT")?,
            assigned_client_id: body
                .option("assigned client identifier", |body| body.text("assigned client identifier"))?,
            server_keep_alive_s: body.option("server keep alive", |body| body.u16("server keep alive"))?,
            authentication: body.option("authentication", Authentication::decode)?,
            resume: body.option("resume", Resume::decode)?,
        })
    }
}

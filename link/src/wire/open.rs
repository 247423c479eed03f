//! OPEN as bytes.

use std::net::{IpAddr, SocketAddr};

use bytes::{BufMut, Bytes, BytesMut};
use mqtt::PacketId;

use super::decode::{FrameLimits, one_packet};
use super::field::{LIST_MAX, Reader, put_bytes, put_list, put_option, put_text, text_len};
use super::{OpenBody, WireError};
use crate::{AuthenticationOutcome, ConnectionId, Flow, FlowState, Peer, Resume, TopicAlias};

fn option_len<T: ?Sized>(value: Option<&T>, len: impl FnOnce(&T) -> usize) -> usize {
    1 + value.map_or(0, len)
}

impl AuthenticationOutcome {
    fn encoded_len(&self) -> usize {
        text_len(&self.method) + option_len(self.data.as_ref(), |data| 4 + data.len())
    }

    fn encode(&self, out: &mut BytesMut) {
        put_text(&self.method, out);
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
        let aliases: usize = self.topic_aliases.iter().map(|alias| 2 + text_len(&alias.topic)).sum();
        let due = if self.retained_due.is_empty() { 0 } else { 4 + self.retained_due.len() };
        let lists = 2 + 3 * self.flows.len() + 2 + 2 * self.inbound_qos2.len() + 2 + aliases;
        4 + self.connack.len() + 4 + lists + due
    }

    fn encode(&self, out: &mut BytesMut) {
        put_bytes(&self.connack, out);
        out.put_u32(self.backlog);
        put_list(&self.flows, out, |flow, out| {
            out.put_u16(flow.packet_id.as_u16());
            out.put_u8(flow.state as u8);
        });
        put_list(&self.inbound_qos2, out, |id, out| out.put_u16(id.as_u16()));
        put_list(&self.topic_aliases, out, |alias, out| {
            out.put_u16(alias.alias);
            put_text(&alias.topic, out);
        });
        // The last field of OPEN, left out for who does not know it.
        if !self.retained_due.is_empty() {
            put_bytes(&self.retained_due, out);
        }
    }

    fn decode(body: &mut Reader) -> Result<Self, WireError> {
        let connack = one_packet(body.bytes("CONNACK")?, "CONNACK")?.raw;
        let backlog = body.u32("backlog")?;
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
        let retained_due =
            if body.end().is_ok() { Bytes::new() } else { body.bytes("retained messages due")? };
        Ok(Self { connack, backlog, flows, inbound_qos2, topic_aliases, retained_due })
    }
}

fn packet_id(body: &mut Reader) -> Result<PacketId, WireError> {
    PacketId::new(body.u16("packet identifier")?).ok_or(WireError::Value("packet identifier"))
}

fn address_len(address: SocketAddr) -> usize {
    1 + 2 + if address.is_ipv4() { 4 } else { 16 }
}

/// Flow label and scope of IPv6 mean nothing elsewhere and stay behind.
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

impl OpenBody {
    /// Whether the other end, with the same `limits`, decodes it.
    pub(crate) fn is_encodable(&self, limits: &FrameLimits) -> bool {
        let lists = self.resume.as_deref().map_or([0; 3], |resume| {
            [resume.flows.len(), resume.inbound_qos2.len(), resume.topic_aliases.len()]
        });
        let packets = [Some(&self.connect), self.resume.as_deref().map(|resume| &resume.connack)];
        let aliases = self.resume.iter().flat_map(|resume| &resume.topic_aliases);
        lists.iter().all(|len| *len <= LIST_MAX)
            && packets.into_iter().flatten().all(|packet| one_packet(packet.clone(), "packet").is_ok())
            && aliases.into_iter().all(|alias| alias.alias != 0)
            && self.encoded_len() <= limits.open_bytes_max as usize
    }

    pub(super) fn encoded_len(&self) -> usize {
        16 + 4
            + address_len(self.peer.address)
            + text_len(&self.peer.listener)
            + option_len(self.peer.certificate_subject.as_deref(), text_len)
            + 4
            + self.passport.len()
            + 4
            + self.connect.len()
            + option_len(self.assigned_client_id.as_deref(), text_len)
            + option_len(self.server_keep_alive_s.as_ref(), |_| 2)
            + option_len(self.authentication.as_ref(), AuthenticationOutcome::encoded_len)
            + option_len(self.resume.as_deref(), Resume::encoded_len)
    }

    pub(super) fn encode(&self, out: &mut BytesMut) {
        out.put_u128(self.connection_id.0);
        out.put_u32(self.attempt);
        put_address(self.peer.address, out);
        put_text(&self.peer.listener, out);
        put_option(self.peer.certificate_subject.as_deref(), out, put_text);
        put_bytes(&self.passport, out);
        put_bytes(&self.connect, out);
        put_option(self.assigned_client_id.as_deref(), out, put_text);
        put_option(self.server_keep_alive_s.as_ref(), out, |seconds, out| out.put_u16(*seconds));
        put_option(self.authentication.as_ref(), out, AuthenticationOutcome::encode);
        put_option(self.resume.as_deref(), out, Resume::encode);
    }

    pub(super) fn decode(body: &mut Reader) -> Result<Self, WireError> {
        Ok(Self {
            connection_id: ConnectionId(body.u128("connection id")?),
            attempt: body.u32("attempt")?,
            peer: Peer {
                address: read_address(body)?,
                listener: body.text("listener")?,
                certificate_subject: body
                    .option("certificate subject", |body| body.text("certificate subject"))?,
            },
            passport: body.bytes("passport")?,
            connect: one_packet(body.bytes("CONNECT")?, "CONNECT")?.raw,
            assigned_client_id: body
                .option("assigned client identifier", |body| body.text("assigned client identifier"))?,
            server_keep_alive_s: body.option("server keep alive", |body| body.u16("server keep alive"))?,
            authentication: body.option("authentication", AuthenticationOutcome::decode)?,
            resume: body.option("resume", Resume::decode)?.map(Box::new),
        })
    }
}

//! What a device says first, and what its edge asks of a worker with it: everything may be, unless a test changes it.

use std::sync::Arc;

use bytes::Bytes;
use link::wire::OpenBody;
use link::{ConnectionId, Open, Passport, Peer};
use mqtt::{Connect, Packet, PacketId, Properties, ProtocolVersion, Publish, QoS};

/// A CONNECT of a clean session, and nothing else in it.
pub fn connect(version: ProtocolVersion, client_id: &str) -> Connect<'_> {
    Connect {
        version,
        is_bridge: false,
        clean_start: true,
        keep_alive_s: 0,
        properties: Properties::EMPTY,
        client_id,
        will: None,
        user_name: None,
        password: None,
    }
}

/// A CONNECT as it is sent.
pub fn bytes_of(connect: &Connect<'_>) -> Bytes {
    let mut bytes = Vec::new();
    connect.encode(&mut bytes);
    bytes.into()
}

/// A PUBLISH without properties, to be changed. Its identifier counts with QoS 1 and 2.
pub fn publish<'a>(topic: &'a str, payload: &'a [u8], qos: QoS, id: u16) -> Publish<'a> {
    let packet_id = PacketId::new(id).filter(|_| qos != QoS::AtMostOnce);
    Publish { dup: false, qos, retain: false, topic, packet_id, properties: Properties::EMPTY, payload }
}

/// A packet of MQTT 5 as it is sent.
pub fn v5(packet: &Packet<'_>) -> Bytes {
    let mut bytes = Vec::new();
    packet.encode(ProtocolVersion::V5, &mut bytes);
    bytes.into()
}

fn peer() -> Peer {
    Peer { address: ([127, 0, 0, 1], 1).into(), listener: "test".into(), certificate_subject: None }
}

/// What an edge asks for a new connection of `client_id`, who may do everything.
pub fn open(connection: u128, client_id: &str, connect: Bytes) -> Open {
    Open {
        connection_id: ConnectionId(connection),
        attempt: 1,
        peer: peer(),
        passport: Arc::new(Passport::unrestricted("".into(), client_id.into())),
        connect,
        assigned_client_id: None,
        server_keep_alive_s: None,
        authentication: None,
        resume: None,
    }
}

/// The same as it is told a worker, with the passport as a token.
pub fn open_body(connection: u128, passport: Bytes, connect: Bytes) -> OpenBody {
    OpenBody {
        connection_id: ConnectionId(connection),
        attempt: 1,
        peer: peer(),
        passport,
        connect,
        assigned_client_id: None,
        server_keep_alive_s: None,
        authentication: None,
        resume: None,
    }
}

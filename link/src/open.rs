//! OPEN: everything that a worker needs to take a device's session, in one process and over a link, and on a resume what the
//! device has seen so far. What it is as bytes is in [`crate::wire`].

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use mqtt::{ConnectionId, PacketId};

use crate::Passport;

/// Where a connection came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The device's address, through PROXY protocol if that was used.
    pub address: SocketAddr,
    /// The listener's name in configuration and metrics.
    pub listener: Arc<str>,
    /// The subject of the verified client certificate.
    pub certificate_subject: Option<Arc<str>>,
}

/// A device's connection, authenticated, asks for its session. `P` is the passport: over a link it is a token, which the worker
/// verifies.
#[derive(Clone, PartialEq, Eq)]
pub struct Open<P = Arc<Passport>> {
    /// Of this connection.
    pub connection_id: ConnectionId,
    /// Which OPEN for this connection this is, counted over all workers: one that is carried out late, by a worker that was
    /// given up, must not take the session from a later one.
    pub attempt: u32,
    /// Where the connection came from.
    pub peer: Peer,
    /// What the device may do.
    pub passport: P,
    /// The whole CONNECT packet, validated by the edge.
    pub connect: Bytes,
    /// The Client Identifier that the edge assigned because CONNECT had none.
    pub assigned_client_id: Option<Arc<str>>,
    /// The Server Keep Alive that the edge imposes, seconds; the worker announces it.
    pub server_keep_alive_s: Option<u16>,
    /// The outcome of enhanced authentication, for CONNACK.
    pub authentication: Option<AuthenticationOutcome>,
    /// Set when the connection was at another worker before: its session is taken as it is, whatever CONNECT says, and nothing is
    /// answered.
    pub resume: Option<Box<Resume>>,
}

impl<P> Open<P> {
    /// The same with another passport, or with another form of it.
    pub fn with_passport<Q>(self, passport: Q) -> Open<Q> {
        Open {
            connection_id: self.connection_id,
            attempt: self.attempt,
            peer: self.peer,
            passport,
            connect: self.connect,
            assigned_client_id: self.assigned_client_id,
            server_keep_alive_s: self.server_keep_alive_s,
            authentication: self.authentication,
            resume: self.resume,
        }
    }
}

/// Without the CONNECT packet, which may hold a password, and without the passport, which may be a token.
impl<P> fmt::Debug for Open<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Open")
            .field("connection_id", &self.connection_id)
            .field("attempt", &self.attempt)
            .field("peer", &self.peer)
            .field("assigned_client_id", &self.assigned_client_id)
            .field("resume", &self.resume)
            .finish_non_exhaustive()
    }
}

/// What CONNACK says about enhanced authentication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthenticationOutcome {
    /// Authentication Method, as CONNECT gave it.
    // v5 [MQTT-4.12.0-5]
    pub method: Arc<str>,
    /// The last Authentication Data from the server.
    pub data: Option<Bytes>,
}

mqtt::numbered! {
    /// How far a flow to the device has come, as the edge saw it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
    pub topic: Arc<str>,
}

/// What a resume adds to OPEN. The lists have at most 65,535 values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resume {
    /// The CONNACK that the device got: its values bind the new worker.
    pub connack: Bytes,
    /// Frames 1 to this of the new stream came from the device before the resume, the replays first. Nothing is sent to the
    /// device until they are taken: acknowledgements of what looks unacknowledged may be among them. Set by
    /// [`crate::mux::EdgeEnd::open`].
    pub backlog: u32,
    /// Flows to the device that are open. They count against its Receive Maximum, and their identifiers are taken.
    pub flows: Vec<Flow>,
    /// QoS 2 flows from the device that are open: its PUBLISH came, PUBCOMP has not gone.
    pub inbound_qos2: Vec<PacketId>,
    /// The device's Topic Aliases as they stand behind the replayed frames, which carry their full topics.
    pub topic_aliases: Vec<TopicAlias>,
    /// Retained messages that the device is still to get, in the words of the worker before; empty for none. Set by
    /// [`crate::mux::EdgeEnd::open`], where the other end knows it.
    pub retained_due: Bytes,
}

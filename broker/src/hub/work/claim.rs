//! What a CONNECT asks of the store: a session, as it is read from the packet.

use std::sync::Arc;

use link::{ConnectionId, Open, Passport};
use mqtt::{Connect, DecodeError, Property, PropertyId, ProtocolVersion};
use state::{Message, UnixMs, Will};
use tokio::time::Instant;

use crate::authorize::principal::{owner_of, principal_of, session_name};
use crate::config::BrokerConfig;
use crate::directory::succession::ClaimSlot;

/// What a CONNECT asks for, as far as sessions are concerned.
#[derive(Clone)]
pub(crate) struct Wanted {
    /// Names the session: its Client Identifier, or what [`session_name`] makes of it.
    pub client_id: Arc<str>,
    pub passport: Arc<Passport>,
    pub connection: ConnectionId,
    pub version: ProtocolVersion,
    pub clean_start: bool,
    /// Session Expiry Interval, seconds, within the configured bound.
    pub expiry_s: u32,
    pub will: Option<Will>,
    pub receive_maximum: u16,
    /// As in [`Open::attempt`].
    pub attempt: u32,
    /// The connection was at another worker before.
    pub resume: bool,
    /// Its edge can be asked for what it said last.
    pub yields: bool,
}

/// A claim on its way.
pub(crate) struct ClaimCall {
    pub wanted: Wanted,
    pub slot: ClaimSlot,
    /// When it was asked for.
    pub since: Instant,
}

impl ClaimCall {
    /// Whether the connection was at another worker before.
    pub(crate) fn is_resume(&self) -> bool {
        self.wanted.resume
    }

    /// Whose session it is.
    pub(crate) fn client_id(&self) -> &Arc<str> {
        &self.wanted.client_id
    }
}

impl Wanted {
    /// Reads it from the CONNECT packet.
    pub(crate) fn new(open: &Open, connect: &Connect<'_>, config: &BrokerConfig, now: UnixMs) -> Self {
        let v5 = connect.version == ProtocolVersion::V5;
        let expiry_s = if v5 {
            session_expiry_interval(connect)
        } else if connect.clean_start {
            0
        } else {
            config.session_expiry_v3_s
        };
        // The passport was issued for this Client Identifier: one copy in memory serves both.
        let named = open.assigned_client_id.as_deref().unwrap_or(connect.client_id);
        let issued = &open.passport.client_id;
        let client_id = if **issued == *named { Arc::clone(issued) } else { named.into() };
        let principal = principal_of(&open.passport);
        Self {
            client_id: session_name(config.foreign_session, &principal, client_id),
            passport: Arc::clone(&open.passport),
            connection: open.connection_id,
            version: connect.version,
            clean_start: connect.clean_start,
            expiry_s: expiry_s.min(config.session_expiry_max_s),
            will: connect.will.as_ref().map(|will| will_of(will, &open.passport, now)),
            receive_maximum: receive_maximum(connect).min(config.inflight_max),
            resume: open.resume.is_some(),
            attempt: open.attempt,
            yields: false,
        }
    }

    /// A clean session that ends with its connection: nothing of it need be in a store.
    pub(crate) fn is_ephemeral(&self) -> bool {
        self.expiry_s == 0
    }
}

fn session_expiry_interval(connect: &Connect<'_>) -> u32 {
    match connect.properties.find(PropertyId::SessionExpiryInterval) {
        Some(Property::SessionExpiryInterval(seconds)) => seconds,
        _ => 0,
    }
}

fn receive_maximum(connect: &Connect<'_>) -> u16 {
    match connect.properties.find(PropertyId::ReceiveMaximum) {
        Some(Property::ReceiveMaximum(count)) => count,
        _ => u16::MAX,
    }
}

fn will_of(will: &mqtt::Will<'_>, passport: &Passport, now: UnixMs) -> Will {
    let properties = will.properties.publish_summary();
    let message = Message::new(will.topic, &properties.forwardable, will.payload, will.qos, will.retain, now)
        .with_expiry(properties.message_expiry_s);
    let message = if will.retain { message.with_owner(owner_of(passport)) } else { message };
    Will { message: Arc::new(message), delay_s: properties.will_delay_s.unwrap_or(0) }
}

/// Reads the CONNECT packet of an [`Open`].
///
/// # Errors
/// When it is not one whole, valid CONNECT packet, which the edge should have refused.
pub(crate) fn decode(connect: &[u8]) -> Result<Option<Connect<'_>>, DecodeError> {
    mqtt::frame::split(connect, u32::MAX)?.map(Connect::decode).transpose()
}

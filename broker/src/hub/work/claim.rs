//! What a CONNECT asks of the store: a session.

use std::sync::Arc;

use link::{ConnectionId, Open, Passport};
use mqtt::{Connect, DecodeError, ProtocolVersion};
use state::Will;
use tokio::time::Instant;

use crate::authorize::principal::{principal_of, session_name};
use crate::config::BrokerConfig;
use crate::directory::succession::ClaimSlot;
use crate::session::handler::connect::Terms;

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
    /// What this CONNECT asks for.
    pub(crate) fn new(
        open: &Open,
        client_id: &str,
        terms: &Terms,
        config: &BrokerConfig,
        yields: bool,
    ) -> Self {
        // The passport was issued for this Client Identifier: one copy in memory serves both.
        let named = open.assigned_client_id.as_deref().unwrap_or(client_id);
        let issued = &open.passport.client_id;
        let client_id = if **issued == *named { Arc::clone(issued) } else { named.into() };
        let principal = principal_of(&open.passport);
        Self {
            client_id: session_name(config.foreign_session, &principal, client_id),
            passport: Arc::clone(&open.passport),
            connection: open.connection_id,
            version: terms.version,
            clean_start: terms.clean_start,
            expiry_s: terms.expiry_s,
            will: terms.will.clone(),
            receive_maximum: terms.receive_maximum.min(config.inflight_max),
            resume: open.resume.is_some(),
            attempt: open.attempt,
            yields,
        }
    }

    /// A clean session that ends with its connection: nothing of it need be in a store.
    pub(crate) fn is_ephemeral(&self) -> bool {
        self.expiry_s == 0
    }
}

/// Reads the CONNECT packet of an [`Open`].
///
/// # Errors
/// When it is not one whole, valid CONNECT packet, which the edge should have refused.
pub(crate) fn decode(connect: &[u8]) -> Result<Option<Connect<'_>>, DecodeError> {
    mqtt::frame::split(connect, u32::MAX)?.map(Connect::decode).transpose()
}

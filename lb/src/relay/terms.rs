//! What CONNECT says that counts for as long as the connection is there, in a byte.

use mqtt::{Connect, Property, PropertyId, ReasonCode};

use crate::config::EdgeConfig;
use crate::reply::{self, Direction};

/// Of one connection.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Terms(u8);

impl Terms {
    const HAS_EXPIRY: u8 = 1;
    const TAKES_REFERENCE: u8 = 2;

    /// Those of this CONNECT at an edge with this configuration.
    pub(crate) fn of(connect: &Connect<'_>, config: &EdgeConfig) -> Self {
        let mut terms = Self(0);
        if asks_for_expiry(connect) {
            terms.0 |= Self::HAS_EXPIRY;
        }
        if takes_reference(connect, config) {
            terms.0 |= Self::TAKES_REFERENCE;
        }
        terms
    }

    /// It has a Session Expiry Interval above 0, without which DISCONNECT may not have one.
    // v5 section 3.14.2.2.2
    pub(super) fn has_expiry(self) -> bool {
        self.0 & Self::HAS_EXPIRY != 0
    }

    /// Its client takes DISCONNECT with the Server Reference of this edge, if there is one.
    // v5 [MQTT-3.1.2-24]
    pub(super) fn takes_reference(self) -> bool {
        self.0 & Self::TAKES_REFERENCE != 0
    }
}

/// Whether it has a Session Expiry Interval above 0.
pub(crate) fn asks_for_expiry(connect: &Connect<'_>) -> bool {
    let interval = connect.properties.find(PropertyId::SessionExpiryInterval);
    matches!(interval, Some(Property::SessionExpiryInterval(seconds)) if seconds > 0)
}

fn takes_reference(connect: &Connect<'_>, config: &EdgeConfig) -> bool {
    let reference = config.drain_server_reference.as_deref();
    reference.is_some_and(|reference| {
        let direction = Direction { reason: ReasonCode::UseAnotherServer, reference };
        direction.disconnect().len() <= reply::packet_bytes_max(connect)
    })
}

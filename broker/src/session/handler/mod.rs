//! What each Control Packet from the client does to its session: one file per packet, each an `impl Session`. CONNECT is
//! answered when the session is opened; PINGREQ and AUTH are the edge's.

pub(crate) mod connect;
mod disconnect;
mod puback;
mod pubcomp;
mod publish;
mod pubrec;
mod pubrel;
mod subscribe;
#[cfg(test)]
mod tests;
mod unsubscribe;

use mqtt::{Ack, AckKind, PacketId, ReasonCode};

use crate::session::{Outputs, Session};

impl Session {
    /// Writes PUBACK, PUBREC, PUBREL or PUBCOMP. The versions before 5 have no Reason Code there.
    // v5 [MQTT-2.2.1-5]
    pub(crate) fn put_ack(&self, kind: AckKind, id: PacketId, reason: ReasonCode, out: &mut Outputs<'_>) {
        Ack::new(id, reason).encode(kind, self.version, out.wire.buffer());
    }

    /// Writes PUBREL.
    pub(crate) fn put_pubrel(&self, id: PacketId, out: &mut Outputs<'_>) {
        self.put_ack(AckKind::PubRel, id, ReasonCode::Success, out);
    }

    /// Whether a Packet Identifier of the client is taken by any of its flows.
    // v5 [MQTT-2.2.1-3]
    fn is_taken(&self, id: PacketId) -> bool {
        self.filters.as_ref().is_some_and(|filters| filters.uses(id))
            || self.inbound.as_ref().is_some_and(|inbound| inbound.uses(id))
    }
}

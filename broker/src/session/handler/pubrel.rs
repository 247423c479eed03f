//! PUBREL: the client lets go of a QoS 2 flow.

use mqtt::{Ack, AckKind, PacketId, ReasonCode};
use state::StoreError;

use crate::session::{Effect, Fault, Outputs, Receipt, Session, StoreOp};

/// Flows of earlier connections, from which on an identifier that is not known is answered without asking the store: a client
/// that keeps to the protocol has no more.
const STRAYS_MAX: usize = 1024;

impl Session {
    pub(crate) fn on_pubrel(&mut self, ack: &Ack<'_>, out: &mut Outputs<'_>) -> Result<(), Fault> {
        let id = ack.packet_id;
        match self.inbound.as_ref().and_then(|inbound| inbound.receipt(id)) {
            Some(Receipt::Publishing | Receipt::Refusing(_)) => {
                return Err(Fault::Violation(ReasonCode::ProtocolError, "PUBREL before PUBREC"));
            }
            // PUBCOMP is on its way and answers both.
            Some(Receipt::Forgetting | Receipt::ForgettingStray) => {}
            Some(_) if self.keeps_received => {
                self.inbound().advance(id, Receipt::Forgetting);
                out.effects.push(Effect::Store(StoreOp::ForgetReceived(id)));
            }
            Some(_) => self.finish_received(id, out),
            // The worker before this one knew it. The store may still have it as not routed to the end.
            None if self.was_received_before(id) => {
                self.inbound().restore(id);
                self.inbound().advance(id, Receipt::Forgetting);
                out.effects.push(Effect::Store(StoreOp::ForgetReceived(id)));
            }
            None if self.keeps_received && self.inbound().restored() < STRAYS_MAX => {
                self.inbound().restore(id);
                self.inbound().advance(id, Receipt::ForgettingStray);
                out.effects.push(Effect::Store(StoreOp::ForgetReceived(id)));
            }
            // v5 section 4.4; the versions before 5 answer without a code.
            None => self.put_ack(AckKind::PubComp, id, ReasonCode::PacketIdentifierNotFound, out),
        }
        Ok(())
    }

    /// The store has forgotten a Packet Identifier.
    pub(crate) fn on_forgotten(
        &mut self,
        id: PacketId,
        result: Result<(), StoreError>,
        out: &mut Outputs<'_>,
    ) {
        let receipt = self.inbound.as_ref().and_then(|inbound| inbound.receipt(id));
        if let Err(error) = result {
            match receipt {
                // Another PUBREL asks again.
                Some(Receipt::Forgetting) => self.inbound().advance(id, Receipt::AwaitingPubrel),
                Some(Receipt::ForgettingStray) => self.inbound().forget(id),
                _ => {}
            }
            return self.store_failed(&error, out);
        }
        match receipt {
            Some(Receipt::Forgetting) => self.finish_received(id, out),
            // v5 [MQTT-4.3.3-9]
            Some(Receipt::Refusing(code)) => {
                self.inbound().refused(id, code);
                self.put_owed(out);
            }
            Some(Receipt::ForgettingStray) => {
                self.inbound().forget(id);
                self.put_ack(AckKind::PubComp, id, ReasonCode::PacketIdentifierNotFound, out);
            }
            _ => {}
        }
    }

    // v5 [MQTT-4.3.3-11]
    fn finish_received(&mut self, id: PacketId, out: &mut Outputs<'_>) {
        self.inbound().forget(id);
        self.was_received_before(id);
        self.put_ack(AckKind::PubComp, id, ReasonCode::Success, out);
    }
}

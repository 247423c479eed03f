//! PUBREC: the client has a QoS 2 message, or refuses it. PUBREL follows when that is durable, so that the message is
//! never sent again.

use mqtt::{Ack, AckKind, QoS, ReasonCode};
use state::{Number, StoreError, UnixMs};

use crate::session::{DropReason, Effect, Flight, Outputs, Session, StoreOp, packet_id};

impl Session {
    pub(crate) fn on_pubrec(&mut self, ack: &Ack<'_>, now: UnixMs, out: &mut Outputs<'_>) {
        let (stored, is_late) = (self.stored.is_some(), self.is_in_backlog());
        match self.outbound.find(ack.packet_id) {
            Some((number, Flight::AwaitingPubrec)) if ack.reason.is_error() => {
                // v5 [MQTT-4.4.0-2]
                self.complete(number, out);
                out.effects.push(Effect::Dropped(DropReason::Refused, QoS::ExactlyOnce));
                self.pump(now, out);
                self.ask_retained(out);
            }
            Some((number, flight @ (Flight::AwaitingPubrec | Flight::OwingPubrel))) if stored => {
                *flight = Flight::AwaitingStore;
                out.effects.push(Effect::Store(StoreOp::MarkReleased(number)));
            }
            Some((_, flight @ (Flight::AwaitingPubrec | Flight::OwingPubrel))) => {
                // v5 [MQTT-4.3.3-4]
                *flight = Flight::AwaitingPubcomp;
                self.put_pubrel(ack.packet_id, out);
            }
            // PUBREL is on its way and answers both.
            Some((_, Flight::AwaitingStore)) => {}
            // From before the connection went on here: the edge has seen PUBREL, and of the next case PUBCOMP too.
            Some((_, Flight::AwaitingPubcomp)) if is_late => {}
            None if is_late && !ack.reason.is_error() => {}
            Some((_, Flight::AwaitingPubcomp)) => self.put_pubrel(ack.packet_id, out),
            // v5 section 4.4: an identifier that is not known is told, so that the client can let go of it.
            _ if !ack.reason.is_error() => {
                self.put_ack(AckKind::PubRel, ack.packet_id, ReasonCode::PacketIdentifierNotFound, out);
            }
            _ => self.acknowledged_before(ack.packet_id, out),
        }
    }

    /// The store has noted a PUBREC.
    pub(crate) fn on_released(
        &mut self,
        number: Number,
        result: Result<(), StoreError>,
        out: &mut Outputs<'_>,
    ) {
        if let Err(error) = result {
            if let Some(flight @ Flight::AwaitingStore) = self.outbound.find_number(number) {
                // Another PUBREC asks again.
                *flight = Flight::AwaitingPubrec;
            }
            return self.store_failed(&error, out);
        }
        if let Some(flight @ Flight::AwaitingStore) = self.outbound.find_number(number) {
            *flight = Flight::AwaitingPubcomp;
            self.put_pubrel(packet_id(number), out);
        }
    }
}

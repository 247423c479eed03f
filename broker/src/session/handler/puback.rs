//! PUBACK: the client has taken a QoS 1 message, or refuses it.

use mqtt::{Ack, QoS};
use state::UnixMs;

use crate::session::{DropReason, Effect, Flight, Outputs, Session};

impl Session {
    pub(crate) fn on_puback(&mut self, ack: &Ack<'_>, now: UnixMs, out: &mut Outputs<'_>) {
        // The specification has no answer to a PUBACK for nothing: ignored.
        let Some((number, Flight::AwaitingPuback)) =
            self.outbound.find(ack.packet_id).map(|(number, flight)| (number, *flight))
        else {
            return self.acknowledged_before(ack.packet_id, out);
        };
        self.complete(number, out);
        if ack.reason.is_error() {
            // v5 [MQTT-4.4.0-2]
            out.effects.push(Effect::Dropped(DropReason::Refused, QoS::AtLeastOnce));
        }
        self.pump(now, out);
        self.ask_retained(out);
    }
}

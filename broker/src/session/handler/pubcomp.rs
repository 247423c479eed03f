//! PUBCOMP: a QoS 2 message to the client is through.

use mqtt::Ack;
use state::UnixMs;

use crate::session::{Flight, Outputs, Session};

impl Session {
    pub(crate) fn on_pubcomp(&mut self, ack: &Ack<'_>, now: UnixMs, out: &mut Outputs<'_>) {
        // One that answers no PUBREL is ignored, as PUBACK is.
        if let Some((number, Flight::AwaitingPubcomp)) =
            self.outbound.find(ack.packet_id).map(|(number, flight)| (number, *flight))
        {
            self.complete(number, out);
            self.pump(now, out);
            self.ask_retained(out);
        } else {
            self.acknowledged_before(ack.packet_id, out);
        }
    }
}

//! UNSUBSCRIBE: the driver removes the filters, UNSUBACK tells of each.

use std::sync::Arc;

use mqtt::{PacketId, Properties, ReasonCode, UnsubAck, Unsubscribe};

use crate::session::{Effect, Fault, Outputs, Request, RequestKind, Session};

impl Session {
    pub(crate) fn on_unsubscribe(
        &mut self,
        unsubscribe: &Unsubscribe<'_>,
        out: &mut Outputs<'_>,
    ) -> Result<(), Fault> {
        let id = unsubscribe.packet_id;
        let filters: Vec<Arc<str>> = unsubscribe.iter().map(Arc::from).collect();
        let refused = if self.is_taken(id) {
            Some(ReasonCode::PacketIdentifierInUse)
        } else if self.has_no_room_for_request() {
            Some(ReasonCode::ImplementationSpecificError)
        } else {
            None
        };
        match refused {
            Some(code) if self.version.is_v5() => {
                self.put_unsuback(id, &vec![code; filters.len()], out);
            }
            // UNSUBACK cannot refuse before MQTT 5.
            Some(code) => return Err(Fault::Violation(code, "UNSUBSCRIBE while too much is under way")),
            None => {
                let noted = self.filters.get_or_insert_default();
                let noted = filters.iter().map(|filter| noted.note(filter)).collect();
                self.begin_request(id, RequestKind::Unsubscribe, noted);
                let is_again = self.is_in_backlog();
                out.effects.push(Effect::Request(id, Request::Unsubscribe { filters, is_again }));
            }
        }
        Ok(())
    }

    // v5 [MQTT-3.11.3-1]
    pub(crate) fn put_unsuback(&mut self, id: PacketId, codes: &[ReasonCode], out: &mut Outputs<'_>) {
        let unsuback = UnsubAck { packet_id: id, properties: Properties::EMPTY, codes: codes.into() };
        let version = self.version;
        self.put_if_it_fits(unsuback.encoded_len(version), out, |buffer| unsuback.encode(version, buffer));
    }
}

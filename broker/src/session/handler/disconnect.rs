//! DISCONNECT: the client leaves, and says what becomes of its Will Message and its session.

use mqtt::{Disconnect, Property, PropertyId, ReasonCode};

use crate::session::{Fault, Outputs, Session, WillFate};

impl Session {
    pub(crate) fn on_disconnect(
        &mut self,
        disconnect: &Disconnect<'_>,
        out: &mut Outputs<'_>,
    ) -> Result<(), Fault> {
        let expiry = disconnect.properties.find(PropertyId::SessionExpiryInterval);
        if let Some(Property::SessionExpiryInterval(expiry_s)) = expiry {
            if self.wanted_no_expiry && expiry_s != 0 {
                // v5 section 3.14.2.2.2
                let text = "Session Expiry Interval on DISCONNECT after none on CONNECT";
                return Err(Fault::Violation(ReasonCode::ProtocolError, text));
            }
            self.expiry_s = expiry_s.min(self.config.session_expiry_max_s);
        }
        let will = if disconnect.reason == ReasonCode::Success {
            // v5 [MQTT-3.14.4-3]
            WillFate::Drop
        } else {
            WillFate::Publish
        };
        self.close(disconnect.reason, will, out);
        Ok(())
    }
}

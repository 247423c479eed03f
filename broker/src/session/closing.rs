//! How a connection ends from this side: DISCONNECT where the protocol has one, then [`Effect::Close`].

use mqtt::{DecodeError, Disconnect, PropertiesBuf, Property, ReasonCode};

use super::{Closing, Effect, Outputs, Session, WillFate};

/// A fault of the client that ends its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A packet that is not as it must be.
    Packet(DecodeError),
    /// A packet that must not come here and now, and what is wrong in words.
    Violation(ReasonCode, &'static str),
}

impl From<DecodeError> for Fault {
    fn from(error: DecodeError) -> Self {
        Self::Packet(error)
    }
}

impl Fault {
    fn reason(&self) -> ReasonCode {
        match self {
            Self::Packet(error) => error.reason_code(),
            Self::Violation(reason, _) => *reason,
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Packet(error) => error.to_string(),
            Self::Violation(_, text) => (*text).to_owned(),
        }
    }
}

impl Session {
    /// Ends the connection because of what the client sent. The Will Message is due.
    // v5 [MQTT-4.13.1-1]
    pub(crate) fn end_for(&mut self, fault: &Fault, out: &mut Outputs<'_>) {
        if self.version.is_v5() {
            let text = self.wants_reasons.then(|| fault.text());
            self.put_disconnect(fault.reason(), text.as_deref(), out);
        }
        self.close(fault.reason(), WillFate::Publish, out);
    }

    /// Ends the connection for a reason of ours.
    pub(crate) fn end(&mut self, reason: ReasonCode, will: WillFate, out: &mut Outputs<'_>) {
        if self.version.is_v5() {
            self.put_disconnect(reason, None, out);
        }
        self.close(reason, will, out);
    }

    /// Ends the connection without a word: the client said DISCONNECT, or the protocol has no packet for it.
    // v5 [MQTT-3.14.4-2]
    pub(crate) fn close(&mut self, reason: ReasonCode, will: WillFate, out: &mut Outputs<'_>) {
        self.closed = true;
        out.effects.push(Effect::Close(Closing { reason, will, expiry_s: self.expiry_s }));
    }

    fn put_disconnect(&self, reason: ReasonCode, text: Option<&str>, out: &mut Outputs<'_>) {
        let reason = if reason.is_allowed(mqtt::PacketType::Disconnect, mqtt::Receiver::Client) {
            // v5 [MQTT-3.14.2-1]
            reason
        } else {
            ReasonCode::UnspecifiedError
        };
        let mut properties = PropertiesBuf::new();
        if let Some(text) = text {
            properties.push(Property::ReasonString(text));
        }
        for properties in [properties.as_properties(), mqtt::Properties::EMPTY] {
            let packet = Disconnect { reason, properties };
            // v5 [MQTT-3.14.2-3]: without the Reason String if that is what makes it too large.
            if self.fits(packet.encoded_len(self.version)) {
                packet.encode(self.version, out.wire.buffer());
                return;
            }
        }
    }

    /// Writes a packet of so many bytes, or ends the connection when the client does not take it.
    pub(crate) fn put_if_it_fits(
        &mut self,
        bytes: usize,
        out: &mut Outputs<'_>,
        encode: impl FnOnce(&mut bytes::BytesMut),
    ) {
        if self.fits(bytes) {
            encode(out.wire.buffer());
        } else {
            self.end(ReasonCode::PacketTooLarge, WillFate::Publish, out);
        }
    }

    /// Whether a packet of so many bytes may be sent.
    // v5 [MQTT-3.1.2-24]
    pub(crate) fn fits(&self, bytes: usize) -> bool {
        bytes <= self.packet_bytes_max as usize
    }
}

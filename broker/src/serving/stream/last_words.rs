//! A stream whose session another connection has: the device's edge is asked for what the device has sent already, and of that
//! counts what nothing answers, and how the connection ends.

use link::Outgoing;
use mqtt::PacketType;
use mqtt::frame::Frame;

use super::{Phase, State, WorkerStream};
use crate::session::Input;

/// What a stream does when another connection has its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Takeover {
    /// It ends.
    Ends,
    /// It waits for the device's last words, which its edge is to be asked for.
    Asks,
    /// It has seen that it is to ask.
    IsToAsk,
    /// The edge was asked.
    Asked,
}

impl WorkerStream {
    /// Another connection has the session, and the edge is to be asked for the device's last words. Said once.
    pub(crate) fn take_question(&mut self) -> bool {
        let is_to_ask = self.takeover == Takeover::IsToAsk;
        if is_to_ask {
            self.takeover = Takeover::Asked;
        }
        is_to_ask
    }

    /// Whether it waits for the device's last words.
    pub(crate) fn is_yielding(&self) -> bool {
        self.takeover == Takeover::Asked && self.phase() == Phase::Serving
    }

    /// They may still come, but the connection that has the session waits for them no longer.
    pub(crate) fn let_next_begin(&self) {
        if let State::Serving(serving) = &self.state {
            self.hub.let_next_begin(&serving.handle, serving.attachment);
        }
    }

    /// They do not come.
    pub(crate) fn end_yielding(&mut self, out: &mut Outgoing) {
        self.drive(Input::TakenOver, out);
    }

    /// Another connection has the session.
    pub(super) fn lose_session(&mut self, out: &mut Outgoing) {
        match self.takeover {
            Takeover::Ends => self.drive(Input::TakenOver, out),
            Takeover::Asks => {
                self.takeover = Takeover::IsToAsk;
                if let State::Serving(serving) = &mut self.state {
                    // Nothing is answered to it any more that it could wait for.
                    (serving.is_taken_over, serving.is_holding) = (true, false);
                }
            }
            Takeover::IsToAsk | Takeover::Asked => {}
        }
    }
}

/// Whether a packet counts although another connection has the session: one that nothing answers, and that says how the
/// connection ends.
pub(super) fn is_last_word(packet: Frame<'_>) -> bool {
    packet.packet_type() == PacketType::Disconnect || packet.is_qos0_publish()
}

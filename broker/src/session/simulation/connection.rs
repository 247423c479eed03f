//! One connection of the simulation at its worker: the session, and what is under way around it.

use std::collections::VecDeque;

use bytes::Bytes;
use link::Outgoing;
use link::mux::{Asked, asked_by};
use state::Fence;

use super::edge::{Edge, whole};
use super::store::NOW;
use crate::session::{Effect, Input, Outputs, Session};

/// What comes back to a session.
#[derive(Debug)]
pub(super) enum Event {
    Input(Input<'static>),
    /// The effect of this frame of the edge is in the store.
    Durable(u64),
}

pub(super) struct Connection {
    pub(super) generation: u64,
    pub(super) session: Session,
    pub(super) fence: Option<Fence>,
    pub(super) wire: Outgoing,
    /// Not done yet, in order, with the frame of the edge that is done when they are; 0 for none.
    pub(super) effects: VecDeque<(Effect, u64)>,
    pub(super) inbox: VecDeque<Event>,
    /// Frames from the edge that did not arrive yet.
    pub(super) arriving: VecDeque<(u64, Bytes)>,
    /// Frames that an answer to the client is to.
    pub(super) owed: Vec<(Asked, u64)>,
    /// Frames that were answered, of which the edge is told with what follows the answer.
    pub(super) reports: Vec<u64>,
}

impl Connection {
    pub(super) fn handle(&mut self, input: Input<'_>) {
        self.handle_for(0, input);
    }

    /// The edge learns what was answered.
    pub(super) fn tell(&mut self, edge: &mut Edge) {
        self.reports.drain(..).for_each(|number| edge.durable(number));
    }

    /// Hands in a frame of the edge. Answers whether it is done.
    pub(super) fn take(&mut self, number: u64, packet: &Bytes) -> bool {
        let packet = whole(packet);
        let asked = asked_by(packet);
        if let Some(asked) = asked {
            self.owed.push((asked, number));
        }
        let is_done = !self.handle_for(number, Input::Packet(packet));
        is_done && asked.is_none()
    }

    /// Hands in what is done when its first change of the stored queue is. Answers whether there is such a change.
    pub(super) fn handle_for(&mut self, mut frame: u64, input: Input<'_>) -> bool {
        let mut effects = Vec::new();
        let mut out = Outputs { wire: &mut self.wire, effects: &mut effects };
        self.session.handle(input, NOW, &mut out);
        self.session.check_invariants();
        let mut waits = false;
        for effect in effects {
            let done_by = if effect.is_acknowledgement() { std::mem::take(&mut frame) } else { 0 };
            waits |= done_by != 0;
            self.effects.push_back((effect, done_by));
        }
        waits
    }
}

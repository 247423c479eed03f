//! What goes wrong: the client's network, the process with its store, and the worker under a connection.

use state::{Claim, Release, Store};
use testkit::dice::Throw as _;

use super::super::connection::Event;
use super::super::store::{NOW, claim, wanted};
use super::{Place, World};
use crate::session::{Effect, Input};

impl World {
    /// The worker dies, or its link does, and the connection goes on at another one.
    pub(super) fn move_on(&mut self) {
        if self.place == Place::Memory || !self.edge.is_connected() {
            return;
        }
        let Some(mut connection) = self.connection.take() else { return };
        // How far the worker got; the rest it does too late.
        let done_before = self.dice.below(connection.effects.len() + 1);
        let late = connection.effects.split_off(done_before);
        let (generation, fence) = (connection.generation, connection.fence.clone());
        for (effect, frame) in connection.effects {
            if !matches!(effect, Effect::Close(_)) {
                self.perform(effect, frame, generation, fence.clone());
            }
        }
        // What it is still told, it may report. Its release may come before the claim, or never.
        while self.dice.one_in(2) && self.store.step() {}
        let reports = std::mem::take(&mut *self.mailbox.lock().unwrap());
        for (asked_by, event) in reports {
            match event {
                Event::Durable(frame) if self.dice.one_in(2) => self.edge.durable(frame),
                event if asked_by == 0 => self.mailbox.lock().unwrap().push((0, event)),
                _ => {}
            }
        }
        if let Some(fence) = fence.clone().filter(|_| self.dice.one_in(2)) {
            let (expiry_s, sent) = (self.wanted().expiry_s, connection.session.sent());
            let release = Release { expiry_s, keep_will: false, sent, grace_ms: 1000, now: NOW };
            self.store.release(&fence, release, Box::new(|_| ()));
        }
        if self.place == Place::Shared {
            // What waits in memory is lost with the worker.
            let chunk: Vec<u8> = self.edge.to_client.drain(..).collect();
            self.hand_to_client(&chunk);
            self.given.clear();
            self.got_before = self.client.got.len();
        }
        self.generation += 1;
        let resume = self.edge.move_on();
        let owned = claim(&self.store, Claim { resume: true, ..self.wanted() }).expect("it goes on");
        self.open(Some(owned), Some(resume));
        for (effect, frame) in late {
            if !matches!(effect, Effect::Close(_)) {
                self.perform(effect, frame, generation, fence.clone());
            }
        }
    }

    /// The network fails, or the client connects again before the driver notices.
    pub(super) fn break_connection(&mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        self.client.lose();
        let taken_over = !self.calm && self.dice.one_in(3);
        if taken_over {
            // A new owner; what the old one still does is fenced off.
            while self.connection.is_none() {
                self.reconnect();
            }
            connection.handle(Input::TakenOver);
        } else if self.dice.one_in(2) {
            connection.effects.clear();
        }
        let sent = connection.session.sent();
        let (generation, fence) = (connection.generation, connection.fence.clone());
        for (effect, frame) in connection.effects {
            if !matches!(effect, Effect::Close(_)) {
                self.perform(effect, frame, generation, fence.clone());
            }
        }
        if let (Some(fence), false) = (fence, taken_over) {
            let release =
                Release { expiry_s: self.wanted().expiry_s, keep_will: false, sent, grace_ms: 0, now: NOW };
            self.store.release(&fence, release, Box::new(|_| ()));
        }
    }

    /// The process dies and comes back: what the store had is there, what was under way is not.
    pub(super) fn crash(&mut self) {
        self.connection = None;
        self.client.lose();
        self.mailbox.lock().unwrap().clear();
        self.store.restart(NOW);
        self.sink_fence = claim(&self.store, wanted("sink", 0, 1)).expect("the sink is there").fence;
        self.store.hold();
    }
}

//! Clients that talk to each other, and what the events on their connections mean for them.

use std::io;

use mqtt::{Packet, Publish};

use crate::measure::latency::Latency;
use crate::measure::payload::Stamp;
use crate::measure::sequence::{Arrival, SequenceCheck, Tally};
use crate::measure::window::Window;
use crate::net::packet::{self, PublishTemplate};
use crate::net::reactor::{ConnectionId, Handler, Link, Reactor};
use crate::scenario::publisher::{Publisher, answer};

/// One publishing client of a group.
#[derive(Debug)]
pub(super) struct Sender {
    pub(super) id: ConnectionId,
    pub(super) window: Window,
    pub(super) publisher: Publisher,
    pub(super) template: PublishTemplate,
    /// Whether it is on the list of those to look at in this turn.
    listed: bool,
}

impl Sender {
    pub(super) fn new(
        id: ConnectionId,
        window: Window,
        publisher: Publisher,
        template: PublishTemplate,
    ) -> Self {
        Self { id, window, publisher, template, listed: false }
    }

    fn is_open(&self) -> bool {
        self.window.is_open() && self.publisher.is_open()
    }
}

/// What a connection is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Role {
    /// Publishes; index into the senders.
    Sender(usize),
    /// Subscribes to the senders from `first` on; index into the receivers.
    Receiver { receiver: usize, first_sender: usize },
}

/// All groups of one thread.
#[derive(Debug)]
pub(super) struct Groups {
    pub(super) roles: Vec<Role>,
    pub(super) senders: Vec<Sender>,
    /// For each receiver, one check per sender of its group.
    pub(super) receivers: Vec<Vec<SequenceCheck>>,
    pub(super) tally: Tally,
    pub(super) latency: Latency,
    /// Until PUBACK, PUBCOMP, or a refusal.
    pub(super) acknowledged: Latency,
    pub(super) failure: Option<String>,
    /// Senders whose window may have opened.
    listed: Vec<usize>,
}

impl Groups {
    pub(super) fn new(
        roles: Vec<Role>,
        senders: Vec<Sender>,
        receivers: Vec<Vec<SequenceCheck>>,
        [latency, acknowledged]: [Latency; 2],
    ) -> Self {
        let mut groups = Self {
            roles,
            senders,
            receivers,
            tally: Tally::default(),
            latency,
            acknowledged,
            failure: None,
            listed: Vec::new(),
        };
        for sender in 0..groups.senders.len() {
            groups.list(sender);
        }
        groups
    }

    fn list(&mut self, sender: usize) {
        let entry = &mut self.senders[sender];
        if !entry.listed {
            entry.listed = true;
            self.listed.push(sender);
        }
    }

    /// Messages that left.
    pub(super) fn sent(&self) -> u64 {
        self.senders.iter().map(|sender| sender.window.sent()).sum()
    }

    /// Whether nothing is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.senders.iter().all(|sender| sender.window.is_idle() && sender.publisher.is_idle())
    }

    /// Stops waiting for messages that seem to be lost.
    pub(super) fn give_up(&mut self) {
        for sender in 0..self.senders.len() {
            self.senders[sender].window.give_up();
            self.list(sender);
        }
    }

    /// Closed loop: fills every window that opened. Returns how many messages were queued.
    pub(super) fn fill_windows(&mut self, reactor: &mut Reactor) -> u64 {
        let due_ns = reactor.now_ns();
        let mut queued = 0;
        let mut listed = std::mem::take(&mut self.listed);
        for index in listed.drain(..) {
            let sender = &mut self.senders[index];
            sender.listed = false;
            if !sender.is_open() {
                continue;
            }
            let Some(out) = reactor.out(sender.id) else {
                continue;
            };
            while sender.is_open() {
                queued += u64::from(send(sender, self.roles[sender.id], due_ns, out));
            }
        }
        self.listed = listed;
        queued
    }

    /// Open loop: sends one message of sender `index`, if its limits allow.
    pub(super) fn send_due(&mut self, index: usize, due_ns: u64, reactor: &mut Reactor) -> bool {
        let sender = &mut self.senders[index];
        if !sender.is_open() {
            return false;
        }
        let role = self.roles[sender.id];
        reactor.out(sender.id).is_some_and(|out| send(sender, role, due_ns, out))
    }
}

#[inline]
fn send(sender: &mut Sender, role: Role, due_ns: u64, out: &mut Vec<u8>) -> bool {
    let Role::Sender(number) = role else {
        return false;
    };
    let stamp = Stamp { publisher: number as u32, sequence: sender.window.send(), due_ns };
    sender.publisher.send(&sender.template, &stamp, out);
    true
}

impl Handler for Groups {
    #[inline]
    fn packet(&mut self, link: &mut Link<'_>, packet: Packet<'_>) {
        match self.roles[link.id] {
            Role::Sender(sender) => {
                if let Some(due_ns) = self.senders[sender].publisher.acknowledge(&packet, link.out) {
                    self.acknowledged.record_ns(link.now_ns.saturating_sub(due_ns));
                    self.list(sender);
                }
            }
            Role::Receiver { receiver, first_sender } => {
                answer(&packet, link.out);
                if let Packet::Publish(Publish { payload, .. }) = packet {
                    self.receive(receiver, first_sender, payload, link.now_ns);
                }
            }
        }
        if let Packet::Disconnect(_) = packet {
            self.failure = packet::refusal(&packet);
        }
    }

    fn closed(&mut self, _id: ConnectionId, error: Option<io::Error>) {
        if let Some(error) = error {
            self.failure.get_or_insert_with(|| format!("connection lost: {error}"));
        }
    }
}

impl Groups {
    #[inline]
    fn receive(&mut self, receiver: usize, first_sender: usize, payload: &[u8], now_ns: u64) {
        let Some(stamp) = Stamp::read(payload) else {
            return;
        };
        let sender = stamp.publisher as usize;
        let Some(check) =
            sender.checked_sub(first_sender).and_then(|at| self.receivers[receiver].get_mut(at))
        else {
            self.failure = Some("a message reached a subscriber that did not ask for it".to_owned());
            return;
        };
        let arrival = check.observe(stamp.sequence);
        self.tally.add(&arrival);
        self.latency.record_ns(now_ns.saturating_sub(stamp.due_ns));
        let window = &mut self.senders[sender].window;
        if let Arrival::Gap(gap) = arrival {
            for missing in gap {
                window.settle(missing);
            }
        }
        window.settle(stamp.sequence);
        self.list(sender);
    }
}

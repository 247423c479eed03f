//! What a client is subscribed to, as far as it knows.

use mqtt::PacketId;

use super::{Client, Noticed, Phase};

/// Changes of subscriptions that a client asks for at once. Messages need identifiers, too.
const CHANGES_MAX: usize = 8;

/// Where a subscription stands, as the client knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wish {
    /// It is not subscribed.
    #[default]
    Off,
    /// It has asked for it.
    Subscribing,
    /// It is subscribed.
    On,
    /// It has asked for its end.
    Unsubscribing,
}

impl Client {
    /// Asks for a change of a subscription, unless too many have no answer.
    pub fn change(&mut self, filter: usize, is_on: bool) {
        if self.changes.len() >= CHANGES_MAX {
            return;
        }
        self.wishes[filter] = match (is_on, self.wishes[filter]) {
            (true, Wish::On) => Wish::On,
            (true, _) => Wish::Subscribing,
            (false, _) => Wish::Unsubscribing,
        };
        self.put_change(filter, is_on);
    }

    /// Asks again, if it is connected, for what was refused or not answered.
    pub fn insist(&mut self) {
        if self.phase != Phase::Connected {
            return;
        }
        for filter in 0..self.wishes.len() {
            let is_asked = self.changes.values().any(|(asked, _)| *asked == filter);
            match self.wishes[filter] {
                Wish::Subscribing if !is_asked => self.put_change(filter, true),
                Wish::Unsubscribing if !is_asked => self.put_change(filter, false),
                _ => {}
            }
        }
    }

    /// Where its subscriptions will stand, as far as it can know, when what it sends now is carried out: as the changes that it
    /// has asked for on this connection leave them.
    pub fn wishes_in_order(&self) -> Vec<Wish> {
        let is_asked = |filter: usize| self.changes.values().any(|(asked, _)| *asked == filter);
        let in_order = |(filter, wish): (usize, &Wish)| match wish {
            Wish::Subscribing if is_asked(filter) => Wish::On,
            Wish::Unsubscribing if is_asked(filter) => Wish::Off,
            wish => *wish,
        };
        self.wishes.iter().enumerate().map(in_order).collect()
    }

    pub(super) fn is_subscribed_as_it_wishes(&self) -> bool {
        self.changes.is_empty() && self.wishes.iter().all(|wish| matches!(wish, Wish::Off | Wish::On))
    }

    /// The connection is gone, and with it what was asked on it.
    pub(super) fn forget_changes(&mut self) {
        self.changes.clear();
        if self.is_clean {
            self.wishes.fill(Wish::Off);
        }
    }

    fn put_change(&mut self, filter: usize, is_on: bool) {
        let id = self.take_id();
        tracing::info!(client = self.name, filter, is_on, "changes a subscription");
        self.changes.insert(id, (filter, is_on));
        let text = self.filters[filter].as_bytes();
        let mut body = id.as_u16().to_be_bytes().to_vec();
        if self.version.is_v5() {
            body.push(0);
        }
        body.extend([0, text.len() as u8]);
        body.extend(text);
        if is_on {
            body.push(2);
        }
        let first_byte = if is_on { 0x82 } else { 0xA2 };
        self.sending.extend_from_slice(&[first_byte, body.len() as u8]);
        self.sending.extend_from_slice(&body);
    }

    pub(super) fn on_change(&mut self, id: PacketId, is_refused: bool) -> Option<Noticed> {
        let Some((filter, is_on)) = self.changes.remove(&id) else {
            panic!("{}: an answer for nothing", self.name);
        };
        tracing::info!(client = self.name, filter, is_on, is_refused, "changed a subscription");
        // A later change of the same subscription may be under way.
        if !is_refused && !self.changes.values().any(|(other, _)| *other == filter) {
            self.wishes[filter] = if is_on { Wish::On } else { Wish::Off };
        }
        is_refused.then_some(Noticed::NotChanged)
    }
}

//! Messages of a share that one of its members did not get: they go to the others. A member of QoS 2 keeps what was begun
//! with it, whatever becomes of it (v5 section 4.8.2, [MQTT-4.8.2-5]).

use std::collections::VecDeque;
use std::sync::Arc;

use state::{Delivery, DueLeft, Message, Via};

use crate::cluster::Recipient;
use crate::directory::{Index, Item};
use crate::hub::Hub;
use crate::hub::work::latch::{Part, Then};
use crate::hub::work::message::Share;
use crate::routing::route::Found;
use crate::session::{Input, is_for_others};

impl Hub {
    /// Offers what a stored session left to the other members of its share, and tells the store when it is durable there.
    pub(crate) fn publish_left(self: &Arc<Self>, left: DueLeft) {
        let (store, at_hand) = (Arc::clone(&self.store), self.due.token());
        let (share, message) = (Arc::clone(&left.share), Arc::clone(&left.message));
        let finish = move || store.finish_left(&left, Box::new(move |_| drop(at_hand)));
        self.offer_to_share(share, message, Some(Box::new(finish)));
    }

    /// Offers what a session whose queue was in memory did not get, or did not acknowledge, to the others.
    pub(crate) fn share_again(self: &Arc<Self>, deliveries: impl IntoIterator<Item = Delivery>) {
        for Delivery { message, via, .. } in deliveries {
            if let Via::Share(share) = via {
                self.offer_to_share(share, message, None);
            }
        }
    }

    /// Offers a message to the members of one share, and runs `then` when it is durable wherever it must be.
    pub(crate) fn offer_to_share(
        self: &Arc<Self>,
        share: Arc<str>,
        message: Arc<Message>,
        then: Option<Then>,
    ) {
        let part = Part::of_nobody(message.qos(), then);
        if !self.may_match() {
            return self.match_share_later(share, message, part);
        }
        let mut found = Found::default();
        self.route_to_share(&self.directory.index(), &message, &share, &mut found);
        self.offer_again(&message, found, &part);
        self.part_done(part, Ok(()));
    }

    /// Offers a message to the members of one share. Answers whether one has taken it.
    pub(crate) fn route_to_share(
        &self,
        index: &Index,
        message: &Arc<Message>,
        filter: &str,
        found: &mut Found,
    ) -> bool {
        let Some(group) = index.group(filter) else { return false };
        let share = Share { group: group.id(), filter: Arc::clone(group.filter()), tried: Vec::new() };
        self.offer_group(group, message, &share, found)
    }
}

/// What nobody has taken of the mailbox of a session, as far as it is for others.
pub(crate) fn left_to_others(untaken: VecDeque<Item>) -> impl Iterator<Item = Delivery> {
    untaken.into_iter().filter_map(|item| match item {
        Item::Input(Input::Deliver(delivery)) if is_for_others(&delivery, false) => Some(delivery),
        _ => None,
    })
}

impl Recipient for Arc<Hub> {
    fn route_noted(
        &self,
        message: &Arc<Message>,
        at_us: u64,
        is_plain: bool,
        shares: (&[Arc<str>], &mut Vec<Arc<str>>),
    ) -> u64 {
        Hub::route_noted(self, message, at_us, is_plain, shares)
    }

    fn share_anew(&self, share: Arc<str>, message: Arc<Message>, then: Then) {
        let at_hand = self.due.token();
        let then = move || {
            drop(at_hand);
            then();
        };
        self.offer_to_share(share, message, Some(Box::new(then)));
    }
}

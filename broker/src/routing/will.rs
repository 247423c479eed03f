//! Will Messages: those that the store hands out when they are due, and those of sessions that it does not have.

use std::sync::Arc;

use link::Passport;
use state::{DueWill, Message};

use super::publish::Awaited;
use crate::authorize::Authority;
use crate::authorize::principal::client_id_of;
use crate::hub::Hub;
use crate::session::DropReason;

impl Hub {
    /// Publishes a Will that the store has handed out, if it still may be: by the passport of who has its session now, or by
    /// the rules that this process knows, else by those of its owner's last passport, to which the store's Wills keep.
    pub(crate) fn publish_due_will(self: &Arc<Self>, will: DueWill, present: Option<&Arc<Passport>>) {
        if self.may_be_published(&will, present) {
            return self.publish_will_of(will);
        }
        self.metrics.drop_message(DropReason::NotAuthorized, will.message.qos());
        let at_hand = self.due.token();
        self.store.finish_will(&will, Box::new(move |_| drop(at_hand)));
    }

    fn may_be_published(&self, will: &DueWill, present: Option<&Arc<Passport>>) -> bool {
        let Some(principal) = &will.principal else { return true };
        let passport = match (present.filter(|passport| *passport.subject == *principal.0), &self.rules) {
            (Some(passport), _) => Some(Arc::clone(passport)),
            (None, None) => return true,
            (None, Some(rules)) => rules(&principal.0, &client_id_of(&will.session.client_id)),
        };
        passport.is_some_and(|passport| Authority::new(passport).may_publish((&*will.message).into()))
    }

    /// Publishes a Will that the store has handed out, and tells it when that is durable wherever it must be. Until then the store
    /// hands it out again, here or to another worker, since nobody knows whether this one lives: here it is known to be under way,
    /// and stored queues know it wherever it comes from.
    pub(crate) fn publish_will_of(self: &Arc<Self>, will: DueWill) {
        let DueWill { session, message, number, .. } = will.clone();
        if !self.wills.lock().insert((Arc::clone(&session), number)) {
            return;
        }
        let (hub, at_hand) = (Arc::clone(self), self.due.token());
        let identity = (u128::from(session.incarnation) << 64 | u128::from(number)).to_le_bytes();
        let client_id = Arc::clone(&session.client_id);
        let then = move || {
            let known = Arc::clone(&hub);
            let finished = move |_| {
                known.wills.lock().remove(&(session, number));
                drop(at_hand);
            };
            hub.store.finish_will(&will, Box::new(finished));
        };
        self.publish_will(
            &client_id,
            &message,
            Some(Awaited { identity: Some(identity), then: Box::new(then) }),
        );
    }

    /// Publishes a client's Will Message, and does what is awaited when it is durable wherever it must be. It is as new as that: its
    /// Message Expiry Interval begins now, and it follows what was published while its client was connected.
    // v5 section 3.1.3.2.4
    pub(crate) fn publish_will(
        self: &Arc<Self>,
        client_id: &str,
        message: &Arc<Message>,
        awaited: Option<Awaited>,
    ) {
        self.metrics.wills_published.inc();
        let by = self.directory.sessions().find(client_id).map(|session| session.id);
        let message = Arc::new(message.published_again(self.now()));
        self.publish_then(None, None, &message, None, by, awaited);
    }
}

//! Connections of one client at this worker, by way of different edges: the next one has its session at once, so that it is not
//! lost, and is served when the one before it is over. See ARCHITECTURE, rule 32.

use std::sync::Arc;

use crate::directory::succession::Successor;
use crate::directory::{Attachment, SessionHandle};
use crate::hub::Hub;

impl Hub {
    /// Answers a claim when the connection before it is over. `known` had the Client Identifier until now.
    pub(crate) fn answer_in_turn(
        self: &Arc<Self>,
        known: Option<&Arc<SessionHandle>>,
        mut successor: Successor,
    ) {
        let own = Arc::clone(&successor.granted.handle);
        for handle in known.into_iter().chain([&own]) {
            match handle.wait_for_leaver(successor) {
                Some(given_back) => successor = given_back,
                None => return,
            }
        }
        let Successor { slot, granted, unserved } = successor;
        if let Some((granted, grace_ms)) = slot.fill(Ok(granted)) {
            self.let_go(&granted, unserved, grace_ms);
        }
    }

    /// A connection that had a session is over, or has been waited for long enough.
    pub(crate) fn let_next_begin(self: &Arc<Self>, session: &SessionHandle, attachment: Attachment) {
        let mut next = session.take_successors(attachment);
        // One after the other: many may have come and gone meanwhile.
        while let Some(Successor { slot, granted, unserved }) = next.pop() {
            if let Some((granted, grace_ms)) = slot.fill(Ok(granted)) {
                self.give_back(&granted, unserved, grace_ms);
                next.extend(granted.handle.take_successors(granted.attachment));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use link::ConnectionId;

    use super::*;
    use crate::directory::succession::{ClaimSlot, Granted, Unserved};

    fn is_answered(slot: &ClaimSlot) -> bool {
        matches!(slot.poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(Ok(_)))
    }

    const UNSERVED: Unserved = Unserved { expiry_s: 0, resume: false };

    fn grant(session: &Arc<SessionHandle>, connection: u128) -> Granted {
        let attachment = session.attach(ConnectionId(connection), true);
        Granted { handle: Arc::clone(session), attachment, owned: None }
    }

    /// Has a connection wait for its turn.
    fn wait(hub: &Arc<Hub>, granted: Granted) -> ClaimSlot {
        let slot = ClaimSlot::default();
        hub.answer_in_turn(None, Successor { slot: slot.clone(), granted, unserved: UNSERVED });
        slot
    }

    #[test]
    fn who_waits_for_one_that_was_never_served_is_answered_when_that_one_is_let_go() {
        let hub = Hub::of_a_test();
        let session = hub.directory.make_session(&"device".into(), None);
        let (first, second) = (grant(&session, 1), grant(&session, 2));
        let slot = wait(&hub, second);
        assert!(!is_answered(&slot));
        hub.let_go(&first, UNSERVED, 0);
        assert!(is_answered(&slot));
    }

    // Its edge lost the link, and asked this worker once more for the same connection.
    #[test]
    fn a_claim_that_was_given_up_takes_nothing_from_the_next_of_its_connection() {
        let hub = Hub::of_a_test();
        let session = hub.directory.make_session(&"device".into(), None);
        let first = grant(&session, 1);
        let given_up = wait(&hub, grant(&session, 2));
        let next = grant(&session, 2);
        let attachment = next.attachment;
        let slot = wait(&hub, next);
        assert!(given_up.abandon(0).is_none());
        hub.let_go(&first, UNSERVED, 0);
        assert!(is_answered(&slot) && session.is_attached(attachment));
    }
}

//! Connections of one client at this worker, by way of different edges: the next one has its session at once, so that it is not
//! lost, and is served when the one before it is over. See ARCHITECTURE, rule 32.

use std::sync::Arc;

use link::ConnectionId;

use crate::directory::SessionHandle;
use crate::directory::succession::Successor;
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
    pub(crate) fn let_next_begin(self: &Arc<Self>, session: &SessionHandle, connection: ConnectionId) {
        let mut next = session.take_successors(connection);
        // One after the other: many may have come and gone meanwhile.
        while let Some(Successor { slot, granted, unserved }) = next.pop() {
            if let Some((granted, grace_ms)) = slot.fill(Ok(granted)) {
                self.give_back(&granted, unserved, grace_ms);
                next.extend(granted.handle.take_successors(unserved.connection));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use prometheus_client::registry::Registry;
    use state::MemoryStore;

    use super::*;
    use crate::clock::Clock;
    use crate::cluster::Membership;
    use crate::config::BrokerConfig;
    use crate::directory::succession::{ClaimSlot, Granted, Unserved};
    use crate::metrics::Metrics;

    fn is_answered(slot: &ClaimSlot) -> bool {
        matches!(slot.poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(Ok(_)))
    }

    #[test]
    fn who_waits_for_one_that_was_never_served_is_answered_when_that_one_is_let_go() {
        let metrics = Metrics::register(&mut Registry::default());
        let clock = Arc::new(Clock::new(state::clock::running_from(state::clock::wall())));
        let store = Arc::new(MemoryStore::new());
        let hub = Arc::new(Hub::new(BrokerConfig::default(), store, metrics, Membership::alone(), clock));
        let session = hub.directory.make_session(&"device".into(), None);
        let granted = || Granted { handle: Arc::clone(&session), owned: None };
        let unserved = |number| Unserved { connection: ConnectionId(number), expiry_s: 0, resume: false };
        session.attach(ConnectionId(1), true);
        session.attach(ConnectionId(2), true);
        let slot = ClaimSlot::default();
        let successor = Successor { slot: slot.clone(), granted: granted(), unserved: unserved(2) };
        hub.answer_in_turn(None, successor);
        assert!(!is_answered(&slot));
        hub.let_go(&granted(), unserved(1), 0);
        assert!(is_answered(&slot));
    }
}

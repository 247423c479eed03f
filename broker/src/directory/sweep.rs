//! What this worker knows of sessions that others have. The log of routes says that a session has gone which had subscriptions, and
//! nothing of one that had none by then: whoever has nothing here any more is forgotten after a while, and known again when
//! something is heard of it.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::Directory;
use super::session_handle::SessionHandle;
use super::sessions::{SHARDS, Sessions};

/// Which sessions had nothing here when they were looked at last, by their numbers: the epoch that their last change had.
type Suspects = HashMap<u64, u64, RandomState>;

/// How far the look at all sessions is.
#[derive(Default)]
pub(super) struct Sweep {
    /// The part that is looked at next: a shard of the registry, or behind these the strays.
    turn: usize,
    suspects: HashMap<usize, Suspects, RandomState>,
}

impl Directory {
    /// Looks at the next part of what this worker knows, and forgets sessions that had nothing here the last time either, with
    /// no change in between: a change of an earlier owner that comes later than that is as late as a whole round.
    pub(crate) fn sweep(&self) {
        if self.listened.is_none() {
            // Nobody else ends a session.
            return;
        }
        let mut sweep = self.sweep.lock();
        let turn = sweep.turn;
        sweep.turn = (turn + 1) % (SHARDS + 1);
        let before = sweep.suspects.remove(&turn).unwrap_or_default();
        let mut suspects = Suspects::default();
        let mut is_over = |session: &SessionHandle| {
            let Some(epoch) = session.blank_since() else { return false };
            let is_over = before.get(&session.id) == Some(&epoch);
            if !is_over {
                suspects.insert(session.id, epoch);
            }
            is_over
        };
        match turn {
            SHARDS => {
                let mut strays = self.strays.lock();
                strays.retain(|_, session| Sessions::is_held(session) || !is_over(session));
                if strays.len() < strays.capacity() / 4 {
                    strays.shrink_to_fit();
                }
            }
            shard => self.sessions.sweep(shard, is_over),
        }
        if !suspects.is_empty() {
            sweep.suspects.insert(turn, suspects);
        }
    }
}

impl Sessions {
    /// Whether somebody has a session but the place where it is looked up, whose lock is held: nobody else can come to it then.
    fn is_held(session: &Arc<SessionHandle>) -> bool {
        Arc::strong_count(session) > 1
    }

    fn sweep(&self, shard: usize, mut is_over: impl FnMut(&SessionHandle) -> bool) {
        let mut shard = self.lock_shard(shard);
        shard.retain(|_, session| Self::is_held(session) || !is_over(session));
        if shard.len() < shard.capacity() / 4 {
            shard.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use link::ConnectionId;
    use mqtt::QoS;
    use state::{StoredSession, Subscription, SubscriptionOptions};

    use super::*;
    use crate::directory::Arrival;
    use crate::directory::tests::shared;

    fn stored(incarnation: u64) -> Arc<StoredSession> {
        Arc::new(StoredSession { client_id: "a".into(), incarnation })
    }

    fn round(directory: &Directory) {
        (0..=SHARDS).for_each(|_| directory.sweep());
    }

    fn subscription() -> Subscription {
        let (qos, subscription_id) = (QoS::AtMostOnce, 0);
        let options =
            SubscriptionOptions { qos, no_local: false, retain_as_published: false, subscription_id };
        Subscription { filter: "t".into(), options }
    }

    #[test]
    fn a_session_that_has_nothing_here_is_forgotten_after_a_round() {
        let directory = shared();
        let (first, second) = (stored(1), stored(2));
        for (stored, epoch) in [(&first, 7), (&second, 8)] {
            let session = directory.routed_session(stored);
            session.admits_change(epoch);
            directory.put_route(&session, &subscription());
        }
        (0..3).for_each(|_| round(&directory));
        assert!(directory.find_stored(&first).is_some() && directory.find_stored(&second).is_some());
        for stored in [&first, &second] {
            let session = directory.find_stored(stored).expect("known");
            directory.unsubscribe(&session, "t");
        }
        round(&directory);
        let kept = directory.find_stored(&first).expect("known for a round more");
        directory.find_stored(&second).expect("a stray, too").admits_change(9);
        round(&directory);
        drop(kept);
        let known = || [&first, &second].map(|stored| directory.find_stored(stored).is_some());
        assert_eq!(known(), [true, true], "somebody had the first, and something was heard of the second");
        round(&directory);
        assert_eq!(known(), [true, false]);
        round(&directory);
        assert_eq!(known(), [false, false]);
    }

    #[test]
    fn a_session_with_a_connection_stays() {
        let directory = shared();
        let (stored, connection) = (stored(1), ConnectionId(3));
        let attachment = {
            let session = directory.stored_session(&stored);
            directory.attach(&session, connection, &Arrival::default())
        };
        (0..3).for_each(|_| round(&directory));
        let session = directory.find_stored(&stored).expect("it is connected");
        directory.detach(&session, attachment);
        drop(session);
        (0..2).for_each(|_| round(&directory));
        assert!(directory.find_stored(&stored).is_none() && directory.sessions().len() == 0);
    }

    #[test]
    fn alone_everybody_is_known_for_as_long_as_it_is_there() {
        let directory = Directory::new(None);
        directory.stored_session(&stored(1));
        (0..3).for_each(|_| round(&directory));
        assert!(directory.find_stored(&stored(1)).is_some());
    }
}

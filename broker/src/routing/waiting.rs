//! Who waits for what becomes of a message, until every part of the work is durable.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use link::ConnectionId;
use mqtt::{PacketId, QoS, ReasonCode};
use parking_lot::Mutex;
use state::{Fence, StoreError};
use tokio::time::Instant;

use crate::directory::{Item, SessionHandle};
use crate::hub::Hub;

/// Who waits for the answer, until every part of the work is durable.
pub(crate) struct Waiting {
    /// `None`: nobody (QoS 0, the server's own messages).
    pub(crate) publisher: Option<(Arc<SessionHandle>, ConnectionId, PacketId)>,
    /// When it came.
    pub(crate) since: Instant,
    /// Its own, if another worker can have its session.
    pub(crate) fence: Option<Fence>,
    pub(crate) qos: QoS,
    /// As in [`state::Publish::identity`].
    pub(crate) identity: Option<[u8; 16]>,
    pub(crate) matched: AtomicBool,
    pub(crate) parts: AtomicUsize,
    pub(crate) failed: Mutex<Option<StoreError>>,
    /// Runs once all of it is durable.
    pub(crate) then: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Waiting {
    /// Of a message that no client waits for, with one part to be done; then `then`.
    pub(crate) fn of_nobody(qos: QoS, then: Option<Box<dyn FnOnce() + Send>>) -> Arc<Self> {
        Arc::new(Self {
            publisher: None,
            since: Instant::now(),
            fence: None,
            qos,
            identity: None,
            matched: AtomicBool::new(true),
            parts: AtomicUsize::new(1),
            failed: Mutex::default(),
            then: Mutex::new(then),
        })
    }

    /// The session that publishes it.
    pub(crate) fn publisher(&self) -> Option<u64> {
        self.publisher.as_ref().map(|(session, ..)| session.id)
    }

    pub(crate) fn part_done(&self, hub: &Hub, result: Result<(), StoreError>) {
        if let Err(error) = result {
            *self.failed.lock() = Some(error);
        }
        if self.parts.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        let failed = self.failed.lock().take();
        if matches!(failed, Some(StoreError::RetainedQuota)) {
            hub.tell_not_retained(self.publisher.as_ref().map(|(session, ..)| &*session.client_id));
        }
        // Not only if it went well: a Will that cannot be retained would be published again for ever. What a store that is
        // closed could not take comes again when it is open.
        if let Some(then) = self.then.lock().take()
            && !matches!(failed, Some(StoreError::Closed))
        {
            then();
        }
        let Some((session, connection, packet_id)) = &self.publisher else { return };
        if self.fence.as_ref().is_some_and(|fence| session.came_back_since(fence.epoch)) {
            return;
        }
        if hub.cluster.is_shared()
            && let (Some(fence), Some(StoreError::Fenced | StoreError::NoSession)) = (&self.fence, &failed)
        {
            return hub.cluster.doubt(session, *connection, fence.epoch);
        }
        let answer = match failed {
            None if self.matched.load(Ordering::Acquire) => Ok(ReasonCode::Success),
            None => Ok(ReasonCode::NoMatchingSubscribers),
            Some(StoreError::RetainedQuota) => Ok(ReasonCode::QuotaExceeded),
            Some(StoreError::Fenced) => {
                session.answer(*connection, Item::End(ReasonCode::SessionTakenOver));
                return;
            }
            Some(error) => Err(error),
        };
        session.answer(*connection, Item::Published(*packet_id, self.qos, answer, self.since));
    }
}

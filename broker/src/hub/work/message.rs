//! A message on its way: before it is matched, and to the stored sessions that get it.

use std::sync::Arc;

use state::{Delivery, Fence, Message, Origin, Target};

use super::latch::Part;
use crate::directory::SessionHandle;

/// A message that has to wait before it is matched.
pub(crate) struct Unmatched {
    pub message: Arc<Message>,
    /// Whose it is, for No Local.
    pub by: Option<u64>,
    /// Its publisher's, if the session is stored.
    pub fence: Option<Fence>,
    pub origin: Option<Origin>,
    /// Whether it is to be retained before it is matched.
    pub retains: bool,
    /// It was routed when it came before, and is to be retained alone.
    pub is_routed: bool,
    /// It is for the members of this share alone.
    pub share: Option<Arc<str>>,
    pub part: Part,
}

impl Unmatched {
    /// A message of nobody, for all who subscribe.
    pub(crate) fn new(message: Arc<Message>, part: Part) -> Self {
        let (by, fence, origin, share) = (None, None, None, None);
        Self { message, by, fence, origin, retains: false, is_routed: false, share, part }
    }

    /// The session that publishes it.
    pub(crate) fn publisher(&self) -> Option<u64> {
        self.part.publisher()
    }
}

/// A stored session that gets the message.
#[derive(Clone)]
pub(crate) struct Routed {
    pub session: Arc<SessionHandle>,
    pub delivery: Delivery,
    /// Set when it was chosen among the members of a share.
    pub share: Option<Box<Share>>,
}

/// A choice among the members of a share.
#[derive(Clone)]
pub(crate) struct Share {
    pub group: u64,
    /// The whole `$share/...` string.
    pub filter: Arc<str>,
    /// Members that were chosen before and turned out to be gone.
    pub tried: Vec<u64>,
}

impl Routed {
    pub(crate) fn target(&self) -> Option<Target> {
        let session = Arc::clone(self.session.stored.as_ref()?);
        let share = self.share.as_ref().map(|share| Arc::clone(&share.filter));
        Some(Target { session, delivery: self.delivery.clone(), share })
    }
}

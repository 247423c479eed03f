//! A question of one session to the store.

use std::sync::Arc;

use mqtt::PacketId;
use state::{Fence, Release, Will};

use super::departure::Departure;
use crate::directory::{Attachment, SessionHandle};
use crate::session::{Request, StoreOp};

/// A question to the store, with whom to tell the answer.
#[derive(Clone)]
pub(crate) struct Call {
    pub fence: Fence,
    /// The connection that waits for the answer, if one does.
    pub asker: Option<(Arc<SessionHandle>, Attachment)>,
    /// The frame of the edge that caused it and is to be reported when it is done; 0 for none.
    pub frame: u64,
    pub op: Op,
}

/// The question.
#[derive(Clone)]
pub(crate) enum Op {
    /// What the session itself asks.
    Session(StoreOp),
    /// What a SUBSCRIBE or UNSUBSCRIBE asks for.
    Request(PacketId, Arc<Request>),
    /// Subscriptions that the passport does not cover any more.
    Revoke(Vec<Arc<str>>),
    /// A Will that the passport does not cover any more.
    DropWill,
    /// With the Will that is due then, or after its delay, and who is to be told.
    Release(Release, Option<Will>, Option<Arc<Departure>>),
}

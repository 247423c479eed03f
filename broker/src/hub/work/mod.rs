//! What is asked of the store, as far as it can be asked again: the values alone. Who asks is in [`super::ask`] and beside what is
//! asked.

pub(crate) mod call;
pub(crate) mod claim;
pub(crate) mod departure;
pub(crate) mod latch;
pub(crate) mod message;

use std::sync::Arc;

use link::ConnectionId;
use state::{Cursor, Message, Origin};

use crate::directory::SessionHandle;

use self::call::{Call, Op};
use self::claim::ClaimCall;
use self::latch::Part;
use self::message::{Routed, Unmatched};

/// Something to ask of the store.
pub(crate) enum Work {
    Retain(Arc<Message>, Part),
    Enqueue(Arc<Message>, Option<Origin>, Vec<Routed>, Part),
    Page(PageRead),
    Call(Call),
    Claim(Box<ClaimCall>),
    Match(Unmatched),
    /// Whose the publisher's session is, before the last is said of its message.
    Confirm(Part),
}

/// The place of a piece of work in the order in which it was to be done, and of a part among those that it became.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(pub(super) u64, pub(super) u32);

impl Ticket {
    pub(super) const FIRST: Self = Self(0, 0);

    /// The places of parts that this piece of work becomes.
    pub(crate) fn parts(self) -> impl Iterator<Item = Self> {
        (self.1..).map(move |part| Self(self.0, part))
    }
}

/// A page that is wanted, and by whom.
pub(crate) struct PageRead {
    pub filter: Arc<str>,
    pub cursor: Option<Cursor>,
    pub asker: (Arc<SessionHandle>, ConnectionId),
}

impl Work {
    /// The session whose message it is, if that has a place among its others.
    pub(super) fn publisher(&self) -> Option<u64> {
        match self {
            Self::Match(unmatched) => unmatched.publisher(),
            Self::Enqueue(.., part) => part.publisher(),
            Self::Retain(..) | Self::Page(_) | Self::Call(_) | Self::Claim(_) | Self::Confirm(_) => None,
        }
    }

    /// The client whose session it takes or lets go.
    pub(super) fn client(&self) -> Option<&Arc<str>> {
        match self {
            Self::Call(call) if self.is_release() => Some(&call.fence.session.client_id),
            Self::Claim(claim) => Some(claim.client_id()),
            _ => None,
        }
    }

    pub(super) fn is_release(&self) -> bool {
        matches!(self, Self::Call(Call { op: Op::Release(..), .. }))
    }
}

//! What is asked of the store, as far as it can be asked again: the values alone. Who asks is in [`super::ask`] and beside what is
//! asked.

pub(crate) mod call;
pub(crate) mod claim;
pub(crate) mod departure;
pub(crate) mod latch;
pub(crate) mod message;

use std::sync::Arc;

use state::{Cursor, Message, Origin};

use crate::directory::{Attachment, SessionHandle};

pub(crate) use super::line::Ticket;

use self::call::{Call, Op};
use self::claim::ClaimCall;
use self::latch::Part;
use self::message::{Routed, Unmatched};
use super::line::{SessionStep, Waits};

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

/// A page that is wanted, and by whom.
pub(crate) struct PageRead {
    pub filter: Arc<str>,
    pub cursor: Option<Cursor>,
    pub asker: (Arc<SessionHandle>, Attachment),
}

impl Waits for Work {
    fn publisher(&self) -> Option<u64> {
        match self {
            Self::Match(unmatched) => unmatched.publisher(),
            Self::Enqueue(.., part) => part.publisher(),
            Self::Retain(..) | Self::Page(_) | Self::Call(_) | Self::Claim(_) | Self::Confirm(_) => None,
        }
    }

    fn keeps_place(&self) -> bool {
        matches!(self, Self::Match(_))
    }

    fn retains(&self) -> Option<&str> {
        match self {
            Self::Retain(message, _) => Some(message.topic()),
            _ => None,
        }
    }

    fn session(&self) -> Option<(&Arc<str>, SessionStep)> {
        match self {
            Self::Call(Call { op: Op::Release(..), fence, .. }) => {
                Some((&fence.session.client_id, SessionStep::Release))
            }
            Self::Claim(claim) if claim.is_resume() => Some((claim.client_id(), SessionStep::Resume)),
            Self::Claim(claim) => Some((claim.client_id(), SessionStep::Claim)),
            _ => None,
        }
    }
}

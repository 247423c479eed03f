//! A connection on its way to its session: what it is granted, where it waits for that, and who waits behind it. See
//! ARCHITECTURE, rule 32.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use mqtt::ReasonCode;
use parking_lot::Mutex;
use state::{Owned, ResumeRefusal, StoreError};
use thiserror::Error;

use super::Foreign;
use super::session_handle::{Attachment, SessionHandle};

/// A session to serve.
pub(crate) struct Granted {
    pub handle: Arc<SessionHandle>,
    pub attachment: Attachment,
    /// `None`: the session is in memory alone.
    pub owned: Option<Owned>,
}

/// Why there is no session to serve.
#[derive(Debug, Error)]
pub(crate) enum NotGranted {
    /// The store failed, or took no more.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The connection cannot go on here: its session is gone, or a newer connection's.
    #[error("the connection cannot go on here: {0:?}")]
    NotResumed(ResumeRefusal),
}

impl NotGranted {
    /// For CONNACK, or for the end of a connection that cannot go on.
    pub(crate) fn reason_code(&self) -> ReasonCode {
        match self {
            Self::Store(StoreError::SessionQuota | StoreError::PrincipalQuota) => ReasonCode::QuotaExceeded,
            Self::Store(StoreError::Closed) => ReasonCode::ServerShuttingDown,
            Self::Store(_) => ReasonCode::ServerUnavailable,
            Self::NotResumed(ResumeRefusal::TakenOver) => ReasonCode::SessionTakenOver,
            // v5 3.2.2.2: a valid Client Identifier that is not allowed.
            Self::NotResumed(ResumeRefusal::Foreign) => ReasonCode::ClientIdentifierNotValid,
            Self::NotResumed(ResumeRefusal::Gone) => ReasonCode::UnspecifiedError,
        }
    }
}

impl From<Foreign> for NotGranted {
    fn from(_: Foreign) -> Self {
        Self::NotResumed(ResumeRefusal::Foreign)
    }
}

/// A connection that may be gone when its session is granted.
#[derive(Clone, Copy)]
pub(crate) struct Unserved {
    pub expiry_s: u32,
    /// It had its CONNACK from another worker.
    pub resume: bool,
}

/// Where the answer to a claim arrives.
#[derive(Clone, Default)]
pub(crate) struct ClaimSlot(Arc<Mutex<Claiming>>);

#[derive(Default)]
enum Claiming {
    #[default]
    Asked,
    Awaited(Waker),
    Answered(Result<Granted, NotGranted>),
    /// The device has gone, or may go on at another worker for so many milliseconds: whoever fills the slot lets the session
    /// go again.
    Abandoned(u64),
}

impl ClaimSlot {
    /// Puts the answer in, or gives it back if nobody waits for it any more, with the grace for another worker.
    pub(crate) fn fill(&self, answer: Result<Granted, NotGranted>) -> Option<(Granted, u64)> {
        let mut slot = self.0.lock();
        match std::mem::take(&mut *slot) {
            Claiming::Abandoned(grace_ms) => return Some((answer.ok()?, grace_ms)),
            Claiming::Awaited(waker) => {
                *slot = Claiming::Answered(answer);
                drop(slot);
                waker.wake();
            }
            _ => *slot = Claiming::Answered(answer),
        }
        None
    }

    /// Takes the answer or registers the task.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<Result<Granted, NotGranted>> {
        let mut slot = self.0.lock();
        match std::mem::take(&mut *slot) {
            Claiming::Answered(answer) => Poll::Ready(answer),
            _ => {
                *slot = Claiming::Awaited(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Whether nobody waits for the answer any more.
    pub(crate) fn is_abandoned(&self) -> bool {
        matches!(*self.0.lock(), Claiming::Abandoned(_))
    }

    /// Stops waiting. Answers the session if it was granted by now.
    pub(crate) fn abandon(&self, grace_ms: u64) -> Option<Granted> {
        match std::mem::replace(&mut *self.0.lock(), Claiming::Abandoned(grace_ms)) {
            Claiming::Answered(answer) => answer.ok(),
            _ => None,
        }
    }
}

/// A connection that has its session and is not served yet.
pub(crate) struct Successor {
    pub slot: ClaimSlot,
    pub granted: Granted,
    pub unserved: Unserved,
}

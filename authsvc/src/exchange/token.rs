//! A token as the Authentication Data of a method: one message lets the device in, or renews its passport.

use std::sync::Arc;

use bytes::Bytes;

use crate::authorization::Identity;
use crate::local::Decider;
use crate::verdict::Verdict;
use crate::{Decision, DenyReason, Request, Step};

/// The state of one whose client was sent an empty challenge.
const ASKED: &[u8] = b"asked";

/// One run of the method that `auth.jwt.method` names.
pub(super) struct TokenExchange {
    inner: Arc<Decider>,
    request: Request,
    /// An empty challenge was sent because CONNECT had no data.
    asked: bool,
    ended: bool,
}

impl TokenExchange {
    pub(super) fn new(inner: Arc<Decider>, request: Request) -> Self {
        Self { inner, request, asked: false, ended: false }
    }

    /// One that goes on from what [`TokenExchange::suspend`] gave.
    pub(super) fn resume(inner: Arc<Decider>, request: Request, state: &[u8]) -> Option<Self> {
        (state == ASKED).then(|| Self { inner, request, asked: true, ended: false })
    }

    /// What has to be remembered until the client answers: that it was asked.
    pub(super) fn suspend(&self) -> Option<Vec<u8>> {
        (self.asked && !self.ended).then(|| ASKED.to_vec())
    }

    /// Takes the client's next message.
    pub(super) async fn step(&mut self, data: Option<&[u8]>) -> Step {
        let token = data.unwrap_or_default();
        // CONNECT may come without data: the exchange then begins with an empty challenge (RFC 4422 section 3).
        if token.is_empty() && !self.asked {
            self.asked = true;
            return Step::Continue(Bytes::new());
        }
        let source = self.inner.jwt().filter(|_| !self.ended);
        self.ended = true;
        let Some(source) = source else { return Step::Deny(DenyReason::NotAuthorized) };
        match source.decide_token(token, &self.request).await {
            Verdict::Allow(grant) => match self.inner.allow(&Identity::User(grant), &self.request) {
                Decision::Allow(passport) => Step::Done(passport, None),
                Decision::Deny(reason) => Step::Deny(reason),
            },
            Verdict::Deny(reason) => Step::Deny(reason),
            Verdict::Ignore | Verdict::Unknown => Step::Deny(DenyReason::BadCredentials),
        }
    }
}

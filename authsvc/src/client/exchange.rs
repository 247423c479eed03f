//! Enhanced authentication at an edge: each message of the client goes to a service, which seals into its answer what the next
//! one has to know.

use std::sync::Arc;

use bytes::Bytes;

use super::{RemoteCore, source_of};
use crate::wire::{Answer, Base64, Question};
use crate::{Decision, DenyReason, Exchange, Request, Step};

/// One run of an Authentication Method, whichever the service has.
pub struct RemoteExchange {
    shared: Arc<RemoteCore>,
    /// As for the next message, but for that.
    question: Question,
    has_ended: bool,
}

impl RemoteExchange {
    pub(super) fn new(shared: Arc<RemoteCore>, method: &str, request: &Request) -> Self {
        let question = Question { method: Some(method.into()), ..Question::new(request) };
        Self { shared, question, has_ended: false }
    }

    async fn ask(&mut self, data: Option<&[u8]>) -> Step {
        let unavailable = Step::Deny(DenyReason::Unavailable);
        let Some(_share) = self.shared.shares.take(source_of(&self.question)) else { return unavailable };
        self.question.data = data.map(|data| Base64(Bytes::copy_from_slice(data)));
        match self.shared.ask(&self.question).await {
            Ok(Answer::Continue { data, state }) => {
                self.question.state = Some(state);
                Step::Continue(data.0)
            }
            Ok(Answer::Deny { reason }) => Step::Deny(reason.into()),
            Ok(Answer::Allow(mut allowed)) => {
                let data = allowed.data.take().map(|data| data.0);
                match self.shared.decision(Answer::Allow(allowed), &self.question) {
                    Decision::Allow(passport) => Step::Done(passport, data),
                    Decision::Deny(reason) => Step::Deny(reason),
                }
            }
            Err(_) => unavailable,
        }
    }
}

impl Exchange for RemoteExchange {
    async fn step(&mut self, data: Option<&[u8]>) -> Step {
        if self.has_ended {
            return Step::Deny(DenyReason::NotAuthorized);
        }
        let step = self.ask(data).await;
        self.has_ended = !matches!(step, Step::Continue(_));
        match &step {
            Step::Continue(_) => {}
            Step::Done(..) => self.shared.decisions.count_allow(),
            Step::Deny(reason) => self.shared.decisions.count_deny(*reason),
        }
        step
    }
}

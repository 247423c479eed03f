//! SCRAM-SHA-256 as an exchange: looks users up, slows guessing down, turns the outcome into a passport.

use std::sync::Arc;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::authorization::Identity;
use crate::local::Decider;
use crate::scram::{AwaitingProof, ClientFirst, ScramFailure};
use crate::verdict::Grant;
use crate::{Decision, DenyReason, Request, Step};

/// One run of SCRAM-SHA-256. Never blocks: a step costs a few HMACs.
pub(super) struct ScramExchange {
    inner: Arc<Decider>,
    request: Request,
    state: State,
}

/// What is awaited; what is written of it goes where it is sealed only.
#[derive(Serialize, Deserialize)]
enum State {
    /// `asked`: an empty challenge was sent because CONNECT had no data.
    AwaitingFirst {
        asked: bool,
    },
    AwaitingFinal {
        proof: AwaitingProof,
        user: Arc<str>,
        exists: bool,
    },
    Ended,
}

impl ScramExchange {
    pub(super) fn new(inner: Arc<Decider>, request: Request) -> Self {
        Self { inner, request, state: State::AwaitingFirst { asked: false } }
    }

    /// One that goes on from what [`ScramExchange::suspend`] gave.
    pub(super) fn resume(inner: Arc<Decider>, request: Request, state: &[u8]) -> Option<Self> {
        Some(Self { inner, request, state: serde_json::from_slice(state).ok()? })
    }

    fn first(&mut self, data: &[u8], asked: bool) -> Step {
        // CONNECT may come without data: the exchange then begins with an empty challenge (RFC 4422 section 3).
        if data.is_empty() && !asked {
            self.state = State::AwaitingFirst { asked: true };
            return Step::Continue(Bytes::new());
        }
        let Some(first) = ClientFirst::parse(data) else { return Step::Deny(DenyReason::NotAuthorized) };
        if self.request.username.as_ref().is_some_and(|name| **name != *first.user) {
            return Step::Deny(DenyReason::BadCredentials);
        }
        let Some(source) = self.inner.password_file() else { return Step::Deny(DenyReason::BadMethod) };
        let file = source.current();
        let known = file.user(&first.user).and_then(|user| user.scram.clone());
        let exists = known.is_some();
        // Made in any case, so that the time tells nothing.
        let decoy = file.scram_decoy(source.decoy_key(), &first.user);
        let verifier = known.unwrap_or_else(|| Arc::new(decoy));
        let nonce: [u8; 18] = rand::random();
        let proof = AwaitingProof::new(&first, verifier, &STANDARD_NO_PAD.encode(nonce));
        let challenge = Bytes::copy_from_slice(proof.server_first().as_bytes());
        self.state = State::AwaitingFinal { proof, user: first.user.into(), exists };
        Step::Continue(challenge)
    }

    fn last(&self, proof: &AwaitingProof, user: Arc<str>, exists: bool, data: &[u8]) -> Step {
        let now = Instant::now();
        let suspect = self.inner.slow_down.suspect(&user, self.request.peer.ip());
        if !self.inner.slow_down.admit(suspect, now) {
            return Step::Deny(DenyReason::SlowedDown);
        }
        match proof.finish(data) {
            Ok(server_final) if exists => {
                self.inner.slow_down.refund(suspect, now);
                match self.inner.allow(&Identity::User(Grant::of(user)), &self.request) {
                    Decision::Allow(passport) => Step::Done(passport, Some(server_final.into())),
                    Decision::Deny(reason) => Step::Deny(reason),
                }
            }
            Err(ScramFailure::Malformed) => {
                self.inner.slow_down.refund(suspect, now);
                Step::Deny(DenyReason::NotAuthorized)
            }
            Ok(_) | Err(ScramFailure::WrongProof) => {
                self.inner.slow_down.confirm(suspect, now);
                Step::Deny(DenyReason::BadCredentials)
            }
        }
    }

    /// Takes the client's next message.
    pub(super) fn step(&mut self, data: Option<&[u8]>) -> Step {
        match std::mem::replace(&mut self.state, State::Ended) {
            State::AwaitingFirst { asked } => self.first(data.unwrap_or_default(), asked),
            State::AwaitingFinal { proof, user, exists } => {
                self.last(&proof, user, exists, data.unwrap_or_default())
            }
            State::Ended => Step::Deny(DenyReason::NotAuthorized),
        }
    }

    /// What has to be remembered until the client answers.
    pub(super) fn suspend(&self) -> Option<Vec<u8>> {
        serde_json::to_vec(&self.state).ok()
    }
}

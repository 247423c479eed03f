//! From a question to its answer: asks [`crate::Local`], signs the passport, seals what an exchange has to remember.

use std::time::{Duration, Instant};

use bytes::Bytes;
use link::Passport;

use super::ServiceCore;
use super::seal::Sealer;
use crate::clock::now_s;
use crate::revocation::Bearer;
use crate::wire::{Allowed, Answer, Base64, Question};
use crate::{Authenticator as _, Decision, DenyReason, Exchange as _, Request, Step};

impl ServiceCore {
    /// The answer, at the latest after `within`. `since` is when the question came.
    pub(super) async fn decide(&self, question: &Question, within: Duration, since: Instant) -> Answer {
        let deciding = async {
            match &question.method {
                None => match self.local.authenticate(question.request()).await {
                    Decision::Allow(passport) => self.allow(&passport, None, question, since),
                    Decision::Deny(reason) => deny(reason),
                },
                Some(method) => self.step(method, question, since).await,
            }
        };
        tokio::time::timeout(within, deciding).await.unwrap_or_else(|_| deny(DenyReason::Unavailable))
    }

    /// One step of enhanced authentication.
    async fn step(&self, method: &str, question: &Question, since: Instant) -> Answer {
        let request = question.request();
        let exchange = match &question.state {
            None => self.local.begin(method, request.clone()),
            Some(state) => {
                let Some(state) = self.open(state, method, &request) else {
                    return deny(DenyReason::NotAuthorized);
                };
                self.local.resume(method, request.clone(), &state)
            }
        };
        let Some(mut exchange) = exchange else { return deny(DenyReason::BadMethod) };
        match exchange.step(question.data.as_ref().map(|data| &*data.0)).await {
            Step::Done(passport, data) => self.allow(&passport, data, question, since),
            Step::Deny(reason) => deny(reason),
            Step::Continue(data) => {
                let keys = self.keys.current();
                let sealed = exchange.suspend().and_then(|state| {
                    keys.sealer().and_then(|sealer| sealer.seal(&state, method, &request, now_s()))
                });
                match sealed {
                    Some(state) => Answer::Continue { data: Base64(data), state },
                    None => deny(DenyReason::Unavailable),
                }
            }
        }
    }

    fn open(&self, state: &str, method: &str, request: &Request) -> Option<Vec<u8>> {
        let (keys, now_s) = (self.keys.current(), now_s());
        keys.sealers().find_map(|sealer: &Sealer| sealer.open(state, method, request, now_s))
    }

    /// Signs the passport, unless its bearer was revoked.
    fn allow(&self, passport: &Passport, data: Option<Bytes>, question: &Question, since: Instant) -> Answer {
        let certificate = question.tls.as_ref().map(|tls| &*tls.fingerprint);
        let bearer = Bearer::new(passport, certificate);
        if self.local.revocations().verdict(&bearer, since).is_some() {
            return deny(DenyReason::Banned);
        }
        match self.keys.current().signer.sign(passport) {
            Ok(token) => Answer::Allow(Box::new(Allowed {
                passport: Some(String::from_utf8_lossy(&token).into_owned()),
                expires_in: passport.expires_at_s.map(|at_s| at_s.saturating_sub(now_s())),
                data: data.map(Base64),
                ..Allowed::default()
            })),
            Err(error) => {
                tracing::error!(client_id = %passport.client_id, %error, "a passport cannot be signed");
                deny(DenyReason::Unavailable)
            }
        }
    }
}

fn deny(reason: DenyReason) -> Answer {
    Answer::Deny { reason: reason.into() }
}

//! Authentication Methods (v5 section 4.12) that are run in this process.

mod scram;
mod token;

use std::sync::Arc;

use scram::ScramExchange;
use token::TokenExchange;

use crate::local::Decider;
use crate::{Exchange, Request, Step};

/// What `tidegate passwd` writes, and what unknown users are shown when the file has no record to go by.
pub const SCRAM_ITERATIONS: u32 = 15_000;

/// One run of a method that [`crate::Local`] offers.
pub struct LocalExchange {
    inner: Arc<Decider>,
    method: Method,
}

enum Method {
    /// A step costs a few HMACs.
    Scram(Box<ScramExchange>),
    Token(Box<TokenExchange>),
}

impl LocalExchange {
    pub(crate) fn scram(inner: Arc<Decider>, request: Request) -> Self {
        let method = Method::Scram(Box::new(ScramExchange::new(inner.clone(), request)));
        Self { inner, method }
    }

    /// One that goes on from what [`Exchange::suspend`] gave.
    pub(crate) fn resume_scram(inner: Arc<Decider>, request: Request, state: &[u8]) -> Option<Self> {
        let method = Method::Scram(Box::new(ScramExchange::resume(inner.clone(), request, state)?));
        Some(Self { inner, method })
    }

    /// The same.
    pub(crate) fn resume_token(inner: Arc<Decider>, request: Request, state: &[u8]) -> Option<Self> {
        let method = Method::Token(Box::new(TokenExchange::resume(inner.clone(), request, state)?));
        Some(Self { inner, method })
    }

    pub(crate) fn token(inner: Arc<Decider>, request: Request) -> Self {
        let method = Method::Token(Box::new(TokenExchange::new(inner.clone(), request)));
        Self { inner, method }
    }
}

impl Exchange for LocalExchange {
    async fn step(&mut self, data: Option<&[u8]>) -> Step {
        let step = match &mut self.method {
            Method::Scram(exchange) => exchange.step(data),
            Method::Token(exchange) => exchange.step(data).await,
        };
        match &step {
            Step::Continue(_) => {}
            Step::Done(..) => self.inner.metrics.count_allow(),
            Step::Deny(reason) => self.inner.metrics.count_deny(*reason),
        }
        step
    }
    fn suspend(&self) -> Option<Vec<u8>> {
        match &self.method {
            Method::Scram(exchange) => exchange.suspend(),
            Method::Token(exchange) => exchange.suspend(),
        }
    }
}

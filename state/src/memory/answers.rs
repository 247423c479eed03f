//! The answers to one worker's calls: given at once, or when they are let go; and the failures that its calls meet.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::{Done, StoreError};

/// Gives an answer.
type HeldAnswer = Box<dyn FnOnce() + Send>;

/// Clones are the same.
#[derive(Clone, Default)]
pub(super) struct Answers {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Answers that were not given yet, oldest first.
    waiting: VecDeque<HeldAnswer>,
    is_holding: bool,
    /// Some thread gives answers, and will give all that come meanwhile: so they stay in order.
    is_giving: bool,
    failing: Option<StoreError>,
    is_closed: bool,
}

impl State {
    fn permit(&self) -> Result<(), StoreError> {
        match &self.failing {
            _ if self.is_closed => Err(StoreError::Closed),
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }
}

impl Answers {
    /// Applies a call and answers it, or holds the answer.
    pub(super) fn call<T: Send + 'static>(
        &self,
        done: Done<T>,
        apply: impl FnOnce() -> Result<T, StoreError>,
    ) {
        let mut state = self.state.lock();
        let result = state.permit().and_then(|()| apply());
        state.waiting.push_back(Box::new(move || done(result)));
        drop(state);
        self.give_all();
    }

    /// The same for a call that may have to wait: it keeps its `done` then.
    pub(super) fn call_later<T: Send + 'static>(
        &self,
        done: Done<T>,
        apply: impl FnOnce(Done<T>) -> Option<(Done<T>, T)>,
    ) {
        let mut state = self.state.lock();
        let answered = match state.permit() {
            Ok(()) => apply(done).map(|(done, answer)| (done, Ok(answer))),
            Err(error) => Some((done, Err(error))),
        };
        if let Some((done, result)) = answered {
            state.waiting.push_back(Box::new(move || done(result)));
        }
        drop(state);
        self.give_all();
    }

    /// Answers a call that has waited.
    pub(super) fn answer<T: Send + 'static>(&self, done: Done<T>, answer: T) {
        self.call(done, || Ok(answer));
    }

    pub(super) fn hold(&self) {
        self.state.lock().is_holding = true;
    }

    pub(super) fn step(&self) -> bool {
        let answer = self.state.lock().waiting.pop_front();
        answer.map(|give| give()).is_some()
    }

    pub(super) fn held(&self) -> usize {
        self.state.lock().waiting.len()
    }

    pub(super) fn let_go(&self) {
        self.state.lock().is_holding = false;
        self.give_all();
    }

    pub(super) fn fail_with(&self, error: Option<StoreError>) {
        self.state.lock().failing = error;
    }

    pub(super) fn close(&self) {
        self.state.lock().is_closed = true;
    }

    /// As new; what was held is lost.
    pub(super) fn reset(&self) {
        *self.state.lock() = State::default();
    }

    /// Gives answers until none is left, unless they are held or somebody does so already.
    fn give_all(&self) {
        let mut state = self.state.lock();
        if state.is_giving {
            return;
        }
        while !state.is_holding
            && let Some(give) = state.waiting.pop_front()
        {
            state.is_giving = true;
            drop(state);
            give();
            state = self.state.lock();
            state.is_giving = false;
        }
    }
}

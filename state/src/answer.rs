//! Answers that wait for their batch, in the order of the calls.

use crate::tables::{Page, SessionKey};
use crate::{Claimed, Done, Due, Number, Published, QueuePage, RoutePage, StoreError};

/// An answer and who gets it.
pub(crate) struct Ready<T> {
    done: Done<T>,
    result: Result<T, StoreError>,
}

impl<T> Ready<T> {
    pub(crate) fn new(done: Done<T>, result: Result<T, StoreError>) -> Self {
        Self { done, result }
    }

    fn run(self) {
        (self.done)(self.result);
    }

    /// An error that was found before stays.
    fn fail(self, error: &StoreError) {
        (self.done)(self.result.and_then(|_| Err(error.clone())));
    }
}

/// Any answer of a [`crate::Store`].
pub(crate) enum Answer {
    Claimed(Ready<Claimed>),
    Flags(Ready<Vec<bool>>),
    Tails(Ready<Vec<Option<Number>>>),
    Published(Ready<Published>),
    /// A page that may have to be completed from disk.
    Queue(Done<QueuePage>, SessionKey, Result<Page, StoreError>),
    Routes(Ready<RoutePage>),
    Due(Ready<Vec<Due>>),
    Unit(Ready<()>),
}

impl Answer {
    /// Gives the answer. `complete` reads what a page lacks.
    pub(crate) fn run(self, complete: impl FnOnce(SessionKey, Page) -> Result<QueuePage, StoreError>) {
        match self {
            Self::Claimed(ready) => ready.run(),
            Self::Flags(ready) => ready.run(),
            Self::Tails(ready) => ready.run(),
            Self::Published(ready) => ready.run(),
            Self::Queue(done, session, page) => done(page.and_then(|page| complete(session, page))),
            Self::Routes(ready) => ready.run(),
            Self::Due(ready) => ready.run(),
            Self::Unit(ready) => ready.run(),
        }
    }

    /// Answers that it failed.
    pub(crate) fn fail(self, error: &StoreError) {
        match self {
            Self::Claimed(ready) => ready.fail(error),
            Self::Flags(ready) => ready.fail(error),
            Self::Tails(ready) => ready.fail(error),
            Self::Published(ready) => ready.fail(error),
            Self::Queue(done, _, page) => done(page.and_then(|_| Err(error.clone()))),
            Self::Routes(ready) => ready.fail(error),
            Self::Due(ready) => ready.fail(error),
            Self::Unit(ready) => ready.fail(error),
        }
    }
}

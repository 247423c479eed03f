//! The suite over the store in memory, and its own controls.

use state::{MemoryStore, Store, StoreError, UnixMs};

use crate::harness::{Backend, Bounds, begin, claim};
use crate::model::compare_with_model;
use crate::suite::behaviours;

pub(crate) struct Memory(MemoryStore);

impl Backend for Memory {
    fn start(bounds: Bounds) -> Self {
        Self(MemoryStore::with_limits(
            bounds.sessions_max,
            bounds.subscriptions_per_session_max,
            bounds.retained_messages_max,
            bounds.retained_bytes_max,
        ))
    }

    fn store(&self) -> &dyn Store {
        &self.0
    }

    fn restart(&mut self, now: UnixMs) {
        self.0.restart(now);
    }

    fn check(&self) {
        self.0.check_invariants();
    }
}

behaviours!(super::Memory);

#[test]
fn it_does_as_the_model_does() {
    compare_with_model::<Memory>(1500);
}

#[test]
fn held_answers_come_one_by_one_in_order() {
    let store = MemoryStore::new();
    store.hold();
    let first = begin(|done| store.claim(claim("a"), done));
    let second = begin(|done| store.claim(claim("b"), done));
    assert_eq!(store.held(), 2);
    assert!(first.try_recv().is_err());
    assert!(store.step());
    assert!(first.try_recv().is_ok());
    assert!(second.try_recv().is_err());
    store.let_go();
    assert!(second.try_recv().is_ok());
    assert!(!store.step());
}

#[test]
fn injected_failures_have_no_effect() {
    let store = MemoryStore::new();
    store.fail_with(Some(StoreError::Closed));
    assert!(begin(|done| store.claim(claim("a"), done)).recv().expect("an answer").is_err());
    store.fail_with(None);
    assert_eq!(store.stats().sessions, 0);
    assert!(begin(|done| store.claim(claim("a"), done)).recv().expect("an answer").is_ok());
}

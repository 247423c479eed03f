//! Work that the store could not take: kept in order and tried again, so that a store that is away holds devices up and
//! closes none. Its length is bounded by what devices may have in flight; QoS 0 is not kept.

use std::collections::VecDeque;
use std::sync::Arc;

use state::{Message, Origin};

use crate::call::Call;
use crate::hub::Hub;
use crate::publish::{Routed, Waiting};

/// Something to ask of the store.
pub(crate) enum Work {
    Retain(Arc<Message>, Arc<Waiting>),
    Enqueue(Arc<Message>, Option<Origin>, Vec<Routed>, Arc<Waiting>),
    Call(Call),
}

/// What waits for the store, oldest first.
#[derive(Default)]
pub(crate) struct Held {
    work: VecDeque<Work>,
    /// The store has been asked with the oldest one alone.
    is_probing: bool,
}

impl Hub {
    /// Asks the store, unless something older waits for it: overtaking that would break the order of a publisher.
    pub(crate) fn submit(self: &Arc<Self>, work: Work) {
        let mut held = self.held.lock();
        if held.work.is_empty() && !held.is_probing {
            drop(held);
            self.run(work);
        } else {
            held.work.push_back(work);
        }
    }

    /// The store could not take this: it is tried again. What was asked first comes first again.
    pub(crate) fn hold(&self, work: Work) {
        let mut held = self.held.lock();
        if std::mem::take(&mut held.is_probing) {
            held.work.push_front(work);
        } else {
            held.work.push_back(work);
        }
    }

    /// Whether anything waits for the store.
    pub(crate) fn holds_work(&self) -> bool {
        let held = self.held.lock();
        held.is_probing || !held.work.is_empty()
    }

    /// Asks the store with the oldest that waits; when it takes that, the rest follows at the next call.
    pub(crate) fn retry_held(self: &Arc<Self>) {
        let mut held = self.held.lock();
        if held.is_probing {
            // The last probe was taken, or it is still being answered: then the rest is in order behind it.
            held.is_probing = false;
            let work = std::mem::take(&mut held.work);
            drop(held);
            work.into_iter().for_each(|work| self.run(work));
        } else if let Some(oldest) = held.work.pop_front() {
            held.is_probing = true;
            drop(held);
            self.run(oldest);
        }
    }

    fn run(self: &Arc<Self>, work: Work) {
        match work {
            Work::Retain(message, waiting) => self.run_retain(message, waiting),
            Work::Enqueue(message, origin, routed, waiting) => {
                self.run_enqueue(message, origin, routed, waiting);
            }
            Work::Call(call) => self.call(call),
        }
    }
}

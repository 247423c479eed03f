//! A store without a disk, for tests and simulations: the same tables as the embedded store; answers come at once or when
//! they are let go, and failures can be made. Nothing in it is bounded and nothing survives the process.

use std::collections::VecDeque;
use std::sync::Arc;

use mqtt::PacketId;
use parking_lot::Mutex;

use crate::answer::{Answer, Ready};
use crate::tables::journal::Journal;
use crate::tables::retained::{Retained, RetainedLimits};
use crate::tables::{TableLimits, Tables};
use crate::{
    Claim, Claimed, Cursor, Discarded, Done, Due, Fence, Message, Number, Publish, Published, QueuePage,
    Release, RetainedPage, RoutePage, Store, StoreError, StoreStats, StoredSession, Subscription, UnixMs,
};

/// A store in memory. Clones share their content.
#[derive(Clone)]
pub struct MemoryStore {
    state: Arc<Mutex<State>>,
}

struct State {
    tables: Tables,
    retained: Retained,
    /// Answers that were not given yet, oldest first.
    answers: VecDeque<Answer>,
    is_holding: bool,
    /// Some thread gives answers, and will give all that come meanwhile: so they stay in order.
    is_giving: bool,
    failing: Option<StoreError>,
    is_closed: bool,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    /// An empty store that answers at once, on the caller's thread; a call from within an answer is answered after it.
    pub fn new() -> Self {
        Self::with_limits(u64::MAX, usize::MAX, u64::MAX)
    }

    /// An empty store with bounds on sessions, subscriptions of one session, and retained messages.
    pub fn with_limits(
        sessions_max: u64,
        subscriptions_per_session_max: usize,
        retained_messages_max: u64,
    ) -> Self {
        let limits = TableLimits { sessions_max, subscriptions_per_session_max, ..TableLimits::NONE };
        let retained = RetainedLimits { messages_max: retained_messages_max, ..RetainedLimits::NONE };
        let state = State {
            tables: Tables::new(limits, Journal::off()),
            retained: Retained::new(retained),
            answers: VecDeque::new(),
            is_holding: false,
            is_giving: false,
            failing: None,
            is_closed: false,
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// From now on answers wait for [`MemoryStore::step`] (the effect of a call is there at once).
    pub fn hold(&self) {
        self.state.lock().is_holding = true;
    }

    /// Gives the oldest held answer. False if there was none.
    pub fn step(&self) -> bool {
        let answer = self.state.lock().answers.pop_front();
        answer.map(give).is_some()
    }

    /// How many answers are held.
    pub fn held(&self) -> usize {
        self.state.lock().answers.len()
    }

    /// Gives all held answers, and holds none from now on.
    pub fn let_go(&self) {
        self.state.lock().is_holding = false;
        self.give_all();
    }

    /// From now on calls have no effect and are answered with `error`; `None` ends that.
    pub fn fail_with(&self, error: Option<StoreError>) {
        self.state.lock().failing = error;
    }

    /// What a restart of the process at `now` does to the sessions: owners are gone, timers start. Held answers are lost.
    pub fn restart(&self, now: UnixMs) {
        let mut state = self.state.lock();
        state.tables.restart(now);
        state.is_closed = false;
        state.failing = None;
        state.is_holding = false;
        state.answers.clear();
        #[cfg(debug_assertions)]
        state.tables.check_invariants();
    }

    /// Stops if the tables contradict themselves: for tests and simulations.
    ///
    /// # Panics
    /// When an invariant does not hold.
    #[cfg(debug_assertions)]
    #[doc(hidden)]
    pub fn check_invariants(&self) {
        self.state.lock().tables.check_invariants();
    }

    /// Applies a call and answers it, or holds the answer.
    fn call<T>(
        &self,
        done: Done<T>,
        wrap: impl FnOnce(Ready<T>) -> Answer,
        apply: impl FnOnce(&mut State) -> Result<T, StoreError>,
    ) {
        let mut state = self.state.lock();
        let result = state.permit().and_then(|()| apply(&mut state));
        let answer = wrap(Ready::new(done, result));
        state.answers.push_back(answer);
        drop(state);
        self.give_all();
    }

    /// Gives answers until none is left, unless they are held or somebody does so already.
    fn give_all(&self) {
        let mut state = self.state.lock();
        if state.is_giving {
            return;
        }
        while !state.is_holding
            && let Some(answer) = state.answers.pop_front()
        {
            state.is_giving = true;
            drop(state);
            give(answer);
            state = self.state.lock();
            state.is_giving = false;
        }
    }
}

impl State {
    fn permit(&self) -> Result<(), StoreError> {
        match &self.failing {
            _ if self.is_closed => Err(StoreError::Closed),
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }

    fn forget_expired(&mut self, expired: &[Arc<Message>], now: UnixMs) {
        for message in expired {
            self.retained.remove_expired(message.topic(), now);
        }
    }
}

fn give(answer: Answer) {
    answer.run(|_, page| Ok(page.into_ready()));
}

impl Store for MemoryStore {
    fn claim(&self, claim: Claim, done: Done<Claimed>) {
        self.call(done, Answer::Claimed, |state| state.tables.claim(claim));
    }

    fn discard(&self, client_id: Arc<str>, done: Done<Option<Discarded>>) {
        self.call(done, Answer::Discarded, |state| Ok(state.tables.discard(&client_id)));
    }

    fn release(&self, fence: &Fence, release: Release, done: Done<()>) {
        self.call(done, Answer::Unit, |state| state.tables.release(fence, &release));
    }

    fn subscribe(&self, fence: &Fence, subscriptions: Vec<Subscription>, done: Done<Vec<bool>>) {
        self.call(done, Answer::Flags, |state| state.tables.subscribe(fence, subscriptions));
    }

    fn unsubscribe(&self, fence: &Fence, filters: Vec<Arc<str>>, done: Done<Vec<bool>>) {
        self.call(done, Answer::Flags, |state| state.tables.unsubscribe(fence, filters));
    }

    fn publish(&self, publish: Publish, done: Done<Published>) {
        self.call(done, Answer::Published, |state| state.tables.publish(&publish));
    }

    fn read_queue(
        &self,
        fence: &Fence,
        from: Number,
        messages_max: usize,
        bytes_max: usize,
        done: Done<QueuePage>,
    ) {
        self.call(done, Answer::Page, |state| {
            state.tables.read_queue(fence, from, messages_max, bytes_max).map(crate::tables::Page::into_ready)
        });
    }

    fn acknowledge(&self, fence: &Fence, number: Number, done: Done<()>) {
        self.call(done, Answer::Unit, |state| state.tables.acknowledge(fence, number));
    }

    fn mark_released(&self, fence: &Fence, number: Number, done: Done<()>) {
        self.call(done, Answer::Unit, |state| state.tables.mark_released(fence, number));
    }

    fn forget_received(&self, fence: &Fence, packet_id: PacketId, done: Done<()>) {
        self.call(done, Answer::Unit, |state| state.tables.forget_received(fence, packet_id));
    }

    fn retain(&self, message: Arc<Message>, done: Done<()>) {
        self.call(done, Answer::Unit, |state| state.retained.set(message).map(drop));
    }

    fn retained(
        &self,
        filter: &str,
        cursor: Option<Cursor>,
        messages_max: usize,
        now: UnixMs,
        done: Done<RetainedPage>,
    ) {
        self.call(done, Answer::Retained, |state| {
            let (page, expired) = state.retained.read(filter, cursor.as_ref(), messages_max, now);
            state.forget_expired(&expired, now);
            Ok(page)
        });
    }

    fn routes(&self, cursor: Option<Cursor>, sessions_max: usize, done: Done<RoutePage>) {
        self.call(done, Answer::Routes, |state| state.tables.routes(cursor.as_ref(), sessions_max));
    }

    fn claim_due(&self, now: UnixMs, max: usize, done: Done<Vec<Due>>) {
        self.call(done, Answer::Due, |state| Ok(state.tables.claim_due(now, max)));
    }

    fn finish_will(&self, session: &Arc<StoredSession>, done: Done<()>) {
        self.call(done, Answer::Unit, |state| {
            state.tables.finish_will(session);
            Ok(())
        });
    }

    fn stats(&self) -> StoreStats {
        let state = self.state.lock();
        StoreStats {
            retained_messages: state.retained.len(),
            retained_bytes: state.retained.bytes(),
            ..state.tables.stats()
        }
    }

    fn close(&self, done: Done<()>) {
        self.call(done, Answer::Unit, |state| {
            state.is_closed = true;
            Ok(())
        });
    }
}

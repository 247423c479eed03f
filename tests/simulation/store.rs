//! A worker's way to the store: calls are carried out late, answers come late, or the call is refused, or it was carried out and
//! nobody learns it. Calls of one kind keep their order.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;
use rand::Rng;
use state::{
    Burial, Claim, Claimed, Cluster, Cursor, Done, Heard, InboxPage, Joined, Lease, LeftInInbox,
    ListeningPage, LogPage, MemoryStore, MemoryWorker, Noted, Placed, Position, RouteChange, Store,
    StoreError, StoreStats, WorkerId,
};
use testkit::front::{Asked, Way, unavailable};

use super::Dice;

type Answer = Box<dyn FnOnce() + Send>;
/// Carries a call out, or refuses it.
type Call = Box<dyn FnOnce(bool) + Send>;

/// What a call is about: each has a connection of its own, to a server of its own.
#[derive(Clone, Copy)]
enum Lane {
    Sessions,
    Registry,
    Log,
    Inbox,
}

/// How many they are.
pub(super) const LANES: usize = 4;

/// Clones are the same.
#[derive(Clone)]
pub(super) struct Road {
    inner: Arc<MemoryWorker>,
    state: Arc<Mutex<State>>,
}

struct State {
    dice: Dice,
    round: u64,
    /// By lane: calls that were not carried out yet.
    calls: [VecDeque<(u64, Call)>; LANES],
    /// By lane: answers that were not given yet.
    answers: [VecDeque<(u64, Answer)>; LANES],
    /// By lane: refuses everything before that round.
    away_until: [u64; LANES],
    /// The worker is dead.
    is_severed: bool,
    /// By lane: extra rounds that a call and its answer take each, at most.
    delays_max: [u64; LANES],
    /// One answer in so many is lost; 0 for none.
    lost_one_in: u32,
}

impl State {
    fn due(&mut self, lane: usize) -> u64 {
        let delay_max = self.delays_max[lane];
        self.round + self.dice.random_range(0..=delay_max)
    }

    fn is_away(&self, lane: usize) -> bool {
        self.round < self.away_until[lane]
    }

    fn put_answer(&mut self, lane: Lane, answer: Answer) {
        let due = self.due(lane as usize);
        self.answers[lane as usize].push_back((due, answer));
    }

    fn loses(&mut self) -> bool {
        self.lost_one_in > 0 && self.dice.random_ratio(1, self.lost_one_in)
    }
}

impl Road {
    pub(super) fn new(inner: Arc<MemoryWorker>, dice: Dice, lost_one_in: u32) -> Self {
        let state = State {
            dice,
            round: 0,
            calls: Default::default(),
            answers: Default::default(),
            away_until: [0; LANES],
            is_severed: false,
            delays_max: [1; LANES],
            lost_one_in,
        };
        Self { inner, state: Arc::new(Mutex::new(state)) }
    }

    /// Carries out calls that are due and gives answers that are due, within the process of the worker.
    pub(super) fn pass(&self) {
        self.pass_without();
        for lane in 0..LANES {
            let is_away = self.state.lock().is_away(lane);
            loop {
                let mut state = self.state.lock();
                let round = state.round;
                let answer = state.answers[lane].pop_front_if(|(due, _)| is_away || *due <= round);
                drop(state);
                let Some((_, answer)) = answer else { break };
                answer();
            }
            // Behind a call that is refused none is carried out before that was answered: their order would be lost.
            let refused =
                if is_away { std::mem::take(&mut self.state.lock().calls[lane]) } else { VecDeque::new() };
            refused.into_iter().for_each(|(_, call)| call(true));
        }
    }

    /// The worker stands still, the world goes on.
    pub(super) fn pass_without(&self) {
        self.state.lock().round += 1;
        for lane in 0..LANES {
            loop {
                let mut state = self.state.lock();
                let (round, is_away) = (state.round, state.is_away(lane));
                let call = state.calls[lane].pop_front_if(|(due, _)| !is_away && *due <= round);
                drop(state);
                let Some((_, call)) = call else { break };
                call(false);
            }
        }
    }

    /// What these lanes lead to is away for so many rounds.
    pub(super) fn be_away(&self, lanes: Range<usize>, rounds: u64) {
        let mut state = self.state.lock();
        let until = state.round + rounds;
        state.away_until[lanes].fill(until);
    }

    pub(super) fn set_delay(&self, lanes: Range<usize>, rounds_max: u64) {
        self.state.lock().delays_max[lanes].fill(rounds_max);
    }

    /// No more faults.
    pub(super) fn calm(&self) {
        let mut state = self.state.lock();
        (state.away_until, state.delays_max, state.lost_one_in) = ([0; LANES], [0; LANES], 0);
    }

    /// The worker is dead: some of its calls may have got to the store, and nothing else comes of it.
    pub(super) fn sever(&self) {
        let mut state = self.state.lock();
        state.is_severed = true;
        let mut carried = Vec::new();
        for lane in 0..LANES {
            let count = state.calls[lane].len();
            let arrived = state.dice.random_range(0..=count);
            carried.extend(state.calls[lane].drain(..).map(|(_, call)| call).take(arrived));
        }
        drop(state);
        carried.into_iter().for_each(|call| call(false));
        let answers = std::mem::take(&mut self.state.lock().answers);
        drop(answers);
    }

    fn submit<T: Send + 'static>(
        &self,
        lane: Lane,
        done: Done<T>,
        carry_out: impl FnOnce(&MemoryWorker, Done<T>) + Send + 'static,
    ) {
        self.submit_to(lane, matches!(lane, Lane::Sessions | Lane::Registry), done, carry_out);
    }

    fn submit_to<T: Send + 'static>(
        &self,
        lane: Lane,
        may_lose: bool,
        done: Done<T>,
        carry_out: impl FnOnce(&MemoryWorker, Done<T>) + Send + 'static,
    ) {
        let mut state = self.state.lock();
        if state.is_severed {
            drop(state);
            return;
        }
        let (shared, inner) = (Arc::clone(&self.state), Arc::clone(&self.inner));
        let due = state.due(lane as usize);
        let call = move |is_refused| {
            if is_refused {
                return done(Err(unavailable()));
            }
            let answered = move |answer: Result<T, StoreError>| {
                let mut state = shared.lock();
                if state.is_severed {
                    return;
                }
                let is_lost = may_lose && state.loses();
                let answer = if is_lost { answer.and(Err(unavailable())) } else { answer };
                state.put_answer(lane, Box::new(move || done(answer)));
            };
            carry_out(&inner, Box::new(answered));
        };
        state.calls[lane as usize].push_back((due, Box::new(call)));
    }
}

impl Way for Road {
    type Behind = MemoryStore;

    fn call<T: Send + 'static>(
        &self,
        asked: Asked,
        _: Option<&str>,
        done: Done<T>,
        carry_out: impl FnOnce(&MemoryStore, Done<T>) + Send + 'static,
    ) {
        // A store that cannot say what became of a message to be retained says so of those behind it, too.
        let may_lose = asked != Asked::Retain;
        self.submit_to(Lane::Sessions, may_lose, done, |worker, done| carry_out(&worker.store(), done));
    }

    fn stats(&self) -> StoreStats {
        self.inner.store().stats()
    }

    fn claim(&self, claim: Claim, done: Done<Claimed>) {
        let asked_at = self.inner.store().clock();
        self.submit(Lane::Sessions, done, move |worker, done| {
            let store = worker.store();
            let age_ms = claim.age_ms + store.clock().saturating_sub(asked_at);
            store.claim(Claim { age_ms, ..claim }, done);
        });
    }
}

impl Cluster for Road {
    fn id(&self) -> WorkerId {
        self.inner.id()
    }

    fn join(&self, done: Done<Joined>) {
        self.submit(Lane::Registry, done, Cluster::join);
    }

    fn renew(&self, applied: Option<Position>, lease_ms: u64, done: Done<Lease>) {
        self.submit(Lane::Registry, done, move |worker, done| worker.renew(applied, lease_ms, done));
    }

    fn leave(&self, done: Done<()>) {
        self.submit(Lane::Registry, done, Cluster::leave);
    }

    fn append(&self, changes: Vec<RouteChange>, done: Done<Position>) {
        self.submit(Lane::Sessions, done, |worker, done| worker.append(changes, done));
    }

    fn read_log(&self, after: Position, wait_ms: u64, done: Done<LogPage>) {
        self.submit(Lane::Log, done, move |worker, done| worker.read_log(after, wait_ms, done));
    }

    fn listening(&self, cursor: Option<Cursor>, routes_max: usize, done: Done<ListeningPage>) {
        self.submit(Lane::Registry, done, move |worker, done| worker.listening(cursor, routes_max, done));
    }

    fn post(&self, to: WorkerId, notes: Vec<Noted>, done: Done<Heard>) {
        self.submit(Lane::Inbox, done, move |worker, done| worker.post(to, notes, done));
    }

    fn read_inbox(&self, after: Position, wait_ms: u64, done: Done<InboxPage>) {
        self.submit(Lane::Inbox, done, move |worker, done| worker.read_inbox(after, wait_ms, done));
    }

    fn shut_inbox(&self, done: Done<Position>) {
        self.submit(Lane::Inbox, done, Cluster::shut_inbox);
    }

    fn bury(&self, burial: Burial, done: Done<Vec<Placed<LeftInInbox>>>) {
        self.submit(Lane::Registry, done, move |own, done| own.bury(burial, done));
    }
}

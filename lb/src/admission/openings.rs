//! Sessions that are asked for and not answered yet: as many at once as whoever opens them answers without delay. Where more come,
//! they wait here, those first who say that they return to a session, of them the newest, and one that has gone costs nothing. In a
//! worker or its store they would hold up the messages of those who are connected.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;
use tokio::time::{Duration, Instant, timeout};

use super::source::Source;
use super::turns::{Line, Turn, Turns};

/// After so long one that is not answered is in nobody's way any more: a worker that is dead must not keep those of others out.
pub(crate) const OVERDUE: Duration = Duration::from_millis(250);

/// Bounds on the sessions that are asked for at once, and how many it is at first.
const AT_ONCE_MIN: f64 = 16.0;
const AT_ONCE_MAX: f64 = 1_024.0;
const AT_ONCE_FIRST: f64 = 64.0;

/// Answers that take up to so many times as long as usual are no delay.
const PATIENCE: f64 = 2.0;

/// Of how many answers the usual time is the mean: of so many that a storm does not pass for usual.
const USUAL_OVER: f64 = 10_000.0;

/// The share of one answer in how many are asked for at once.
const SHARE: f64 = 0.2;

/// How many sessions may be asked for at once: fewer when answers take longer than they usually do, more while they do not and as many
/// are asked for. This is the rule of the `Gradient2Limit` of Netflix's concurrency-limits.
#[derive(Debug)]
struct Limit {
    at_once: f64,
    /// The mean time of answers, seconds.
    usual: f64,
    answers: f64,
}

impl Limit {
    fn new() -> Self {
        Self { at_once: AT_ONCE_FIRST, usual: 0.0, answers: 0.0 }
    }

    fn at_once(&self) -> usize {
        self.at_once as usize
    }

    /// An answer came after so many seconds, while so many were asked for.
    fn answered(&mut self, took: f64, busy: usize) {
        let took = took.clamp(1e-6, OVERDUE.as_secs_f64());
        self.answers = (self.answers + 1.0).min(USUAL_OVER);
        self.usual += (took - self.usual) / self.answers;
        if (busy as f64) < self.at_once / 2.0 {
            return;
        }
        let gradient = (PATIENCE * self.usual / took).clamp(0.5, 1.0);
        let wanted = self.at_once * gradient + self.at_once.sqrt();
        self.at_once = (self.at_once * (1.0 - SHARE) + wanted * SHARE).clamp(AT_ONCE_MIN, AT_ONCE_MAX);
    }
}

/// Those of one edge.
pub(crate) struct Openings {
    turns: Arc<Turns>,
    state: Mutex<State>,
    gauges: Gauges,
}

/// What is told of them.
#[derive(Clone)]
pub(crate) struct Gauges {
    /// How many may be asked for at once.
    pub(crate) at_once: Gauge,
    /// Those who wait, in each line.
    pub(crate) returning: Gauge,
    pub(crate) new: Gauge,
}

impl Gauges {
    fn waiting(&self, line: Line) -> &Gauge {
        match line {
            Line::Returning => &self.returning,
            Line::New => &self.new,
        }
    }
}

/// Counts one that waits.
struct Counted<'a>(&'a Gauge);

impl<'a> Counted<'a> {
    fn new(gauge: &'a Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

struct State {
    limit: Limit,
    /// Those that are asked for, the oldest first, and some that are over.
    asked: VecDeque<(Instant, Weak<Asked>)>,
}

/// A session that is asked for. When it is dropped, it is in nobody's way any more.
pub(crate) struct Opening(Arc<Asked>);

struct Asked {
    openings: Arc<Openings>,
    /// Taken when it is overdue.
    turn: Mutex<Option<Turn>>,
    asked: Mutex<Instant>,
}

impl Opening {
    /// It is asked for now; it may have waited for whoever had the session before.
    pub(crate) fn asked(&self) {
        *self.0.asked.lock() = Instant::now();
    }

    /// It is answered.
    pub(crate) fn answered(self) {
        let asked = *self.0.asked.lock();
        self.0.openings.answered(asked.elapsed().as_secs_f64());
    }
}

impl Openings {
    pub(crate) fn new(gauges: Gauges) -> Arc<Self> {
        let limit = Limit::new();
        let turns = Turns::new(limit.at_once());
        gauges.at_once.set(limit.at_once() as i64);
        Arc::new(Self { turns, state: Mutex::new(State { limit, asked: VecDeque::new() }), gauges })
    }

    /// Waits until a session may be asked for. Cancel safe.
    pub(crate) async fn opening(self: &Arc<Self>, source: Source, line: Line) -> Opening {
        let waits = Counted::new(self.gauges.waiting(line));
        let mut turn = pin!(self.turns.turn(source, line));
        let turn = loop {
            self.let_overdue_go();
            // It keeps its place in the line, behind those that have come since.
            if let Ok(turn) = timeout(OVERDUE, turn.as_mut()).await {
                break turn;
            }
        };
        drop(waits);
        let asked = Instant::now();
        let held =
            Asked { openings: Arc::clone(self), turn: Mutex::new(Some(turn)), asked: Mutex::new(asked) };
        let held = Arc::new(held);
        self.state.lock().asked.push_back((asked, Arc::downgrade(&held)));
        Opening(held)
    }

    /// Those that are not answered in time are in nobody's way any more.
    fn let_overdue_go(&self) {
        let now = Instant::now();
        loop {
            let held = {
                let mut state = self.state.lock();
                let Some((asked, held)) = state.asked.front() else { return };
                let held = held.upgrade();
                if held.is_some() && now.duration_since(*asked) < OVERDUE {
                    return;
                }
                state.asked.pop_front();
                held
            };
            // Not under the lock: the next one has the turn.
            if let Some(held) = held {
                let turn = held.turn.lock().take();
                drop(turn);
            }
        }
    }

    /// Those that are asked for and neither answered nor overdue.
    #[cfg(test)]
    pub(crate) fn asked(&self) -> usize {
        self.turns.busy()
    }

    fn answered(&self, took: f64) {
        let (before, after) = {
            let mut state = self.state.lock();
            let before = state.limit.at_once();
            state.limit.answered(took, self.turns.busy());
            (before, state.limit.at_once())
        };
        if before != after {
            self.turns.resize(after);
            self.gauges.at_once.set(after as i64);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use super::*;

    fn openings() -> Arc<Openings> {
        let (at_once, returning, new) = (Gauge::default(), Gauge::default(), Gauge::default());
        Openings::new(Gauges { at_once, returning, new })
    }

    /// `count` answers, each after so long, with as many asked for as may be.
    fn answer(limit: &mut Limit, count: usize, took_ms: impl Fn(usize, usize) -> f64) {
        for n in 0..count {
            let at_once = limit.at_once();
            limit.answered(took_ms(n, at_once) / 1000.0, at_once);
        }
    }

    #[test]
    fn where_answers_take_no_longer_more_are_asked_for() {
        let mut limit = Limit::new();
        answer(&mut limit, 1_000, |_, _| 3.0);
        assert_eq!(limit.at_once(), AT_ONCE_MAX as usize);
        // Some that take ten times as long are no reason to ask for less.
        answer(&mut limit, 10_000, |n, _| if n % 10 == 0 { 30.0 } else { 3.0 });
        assert!(limit.at_once() > 256, "{limit:?}");
    }

    #[test]
    fn where_each_that_is_asked_for_adds_to_the_time_of_all_they_stay_few() {
        let mut limit = Limit::new();
        // Calm: hardly any at once.
        for _ in 0..10_000 {
            limit.answered(0.001, 1);
        }
        assert_eq!(limit.at_once(), AT_ONCE_FIRST as usize);
        // A worker that needs 0.2 ms of a core for each.
        answer(&mut limit, 4_000, |_, at_once| 1.0 + 0.2 * at_once as f64);
        assert!(limit.at_once() <= 40, "{limit:?}");
        // And when it is over.
        answer(&mut limit, 10_000, |_, _| 1.0);
        assert_eq!(limit.at_once(), AT_ONCE_MAX as usize);
    }

    #[tokio::test(start_paused = true)]
    async fn one_more_waits_for_an_answer_or_until_one_is_overdue() {
        let openings = openings();
        let source = Source(1);
        let mut asked = Vec::new();
        while openings.turns.busy() < AT_ONCE_FIRST as usize {
            asked.push(openings.opening(source, Line::New).await);
        }
        let begun = Instant::now();
        assert!(timeout(OVERDUE / 2, openings.opening(source, Line::New)).await.is_err(), "there are enough");
        asked.pop();
        let _next = openings.opening(source, Line::New).await;
        assert!(begun.elapsed() < OVERDUE);
        // Nobody answers: those who wait come nevertheless, as many in that time.
        let late = openings.opening(source, Line::New).await;
        assert!(begun.elapsed() >= OVERDUE && begun.elapsed() < 3 * OVERDUE);
        assert_eq!(openings.turns.busy(), 1, "all others are overdue");
        drop((asked, late));
        assert_eq!(openings.turns.busy(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_waited_long_stays_behind_those_who_come_later() {
        let openings = openings();
        let mut asked = Vec::new();
        while openings.turns.busy() < AT_ONCE_FIRST as usize {
            asked.push(openings.opening(Source(1), Line::New).await);
        }
        // Its look for those that are overdue comes first, while the one that comes later waits for its own.
        let mut old = pin!(openings.opening(Source(1), Line::New));
        assert!(timeout(OVERDUE / 2, old.as_mut()).await.is_err());
        let mut new = pin!(openings.opening(Source(1), Line::New));
        assert!(timeout(OVERDUE / 4, new.as_mut()).await.is_err());
        // None of them is overdue yet as far as is known, so that both still wait behind the old one's look.
        openings.state.lock().asked.clear();
        assert!(timeout(OVERDUE / 2, old.as_mut()).await.is_err());
        asked.pop();
        let mut cx = Context::from_waker(Waker::noop());
        assert!(old.as_mut().poll(&mut cx).is_pending());
        assert!(new.as_mut().poll(&mut cx).is_ready());
    }

    #[tokio::test(start_paused = true)]
    async fn who_returns_to_a_session_comes_before_newer_ones_without() {
        let openings = openings();
        let source = Source(1);
        let waiting = || (openings.gauges.returning.get(), openings.gauges.new.get());
        let mut asked = Vec::new();
        while openings.turns.busy() < AT_ONCE_FIRST as usize {
            asked.push(openings.opening(source, Line::New).await);
        }
        assert_eq!(waiting(), (0, 0));
        let mut returning = pin!(openings.opening(source, Line::Returning));
        assert!(timeout(OVERDUE / 8, returning.as_mut()).await.is_err());
        {
            let mut new = pin!(openings.opening(source, Line::New));
            assert!(timeout(OVERDUE / 8, new.as_mut()).await.is_err());
            assert_eq!(waiting(), (1, 1));
            asked.pop();
            let mut cx = Context::from_waker(Waker::noop());
            assert!(new.as_mut().poll(&mut cx).is_pending());
            assert!(returning.as_mut().poll(&mut cx).is_ready());
            assert_eq!(waiting(), (0, 1));
        }
        assert_eq!(waiting(), (0, 0), "who has given up does not wait");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_over_is_not_kept() {
        let openings = openings();
        for _ in 0..10_000 {
            openings.opening(Source(1), Line::New).await.answered();
        }
        assert!(openings.state.lock().asked.len() <= 1);
        assert_eq!(openings.turns.busy(), 0);
    }
}

//! Turns at what is expensive. There are as many as can be carried out at once; who has to wait for one is served newest first,
//! and of several sources each in its turn. Those who return to something stand in a line of their own before the others, who
//! have every fourth turn nevertheless.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use foldhash::fast::RandomState;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::source::Source;

/// Turns that those who return have in a row while others wait: they are asked what they are and not made to prove it, so that
/// nobody may keep others out by an untrue word.
const RETURNING_IN_A_ROW: u32 = 3;

/// Where one waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// With those who return to what they had.
    Returning,
    /// With the others, and with all where nobody is asked.
    New,
}

impl Line {
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Returning => "returning",
            Self::New => "new",
        }
    }
}

/// Turns at one kind of work.
pub(crate) struct Turns {
    queue: Mutex<TurnQueue>,
}

struct TurnQueue {
    /// How many there are.
    count: usize,
    /// Turns that nobody has. Below 0 while more are out than there are.
    free: isize,
    /// The number of the next one to wait.
    number: u64,
    returning: Waiters,
    new: Waiters,
    /// Turns that returning ones have had since a new one had one.
    in_a_row: u32,
}

/// Those of one line.
struct Waiters {
    /// By source; none is empty.
    waiting: HashMap<Source, SourceLine, RandomState>,
    /// The sources of `waiting` by their place; the first one is next.
    order: BTreeMap<i64, Source>,
    /// The next place in front of all, and the next one behind all.
    places: (i64, i64),
}

/// Those of one source.
struct SourceLine {
    place: i64,
    /// The newest is the last.
    turns: BTreeMap<u64, oneshot::Sender<Turn>>,
}

/// A turn; when it is dropped, the next one has it.
pub(crate) struct Turn(Option<Arc<Turns>>);

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(turns) = self.0.take() {
            turns.pass_on();
        }
    }
}

/// One that waits, until it has its turn or gives up.
struct Waiter<'a> {
    turns: &'a Turns,
    source: Source,
    line: Line,
    number: u64,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.turns.queue.lock().line(self.line).remove(self.source, self.number);
    }
}

impl Turns {
    /// So many at once.
    pub(crate) fn new(count: usize) -> Arc<Self> {
        let queue = TurnQueue {
            count,
            free: count.cast_signed(),
            number: 0,
            returning: Waiters::new(),
            new: Waiters::new(),
            in_a_row: 0,
        };
        Arc::new(Self { queue: Mutex::new(queue) })
    }

    /// Waits for a turn. Cancel safe.
    pub(crate) async fn turn(self: &Arc<Self>, source: Source, line: Line) -> Turn {
        let (told, waiter) = {
            let mut queue = self.queue.lock();
            if queue.free > 0 {
                queue.free -= 1;
                return Turn(Some(Arc::clone(self)));
            }
            let (tell, told) = oneshot::channel();
            (told, Waiter { turns: self, source, line, number: queue.push(source, line, tell) })
        };
        let turn = told.await;
        drop(waiter);
        // Nobody drops the sender of one that waits; without it there is nobody to wait for.
        turn.unwrap_or(Turn(None))
    }

    /// There are so many from now on. Those that are out beyond that come back first.
    pub(crate) fn resize(self: &Arc<Self>, count: usize) {
        {
            let mut queue = self.queue.lock();
            queue.free += count.cast_signed() - queue.count.cast_signed();
            queue.count = count;
        }
        self.give_out();
    }

    /// Turns that are out.
    pub(crate) fn busy(&self) -> usize {
        let queue = self.queue.lock();
        usize::try_from(queue.count.cast_signed() - queue.free).unwrap_or(0)
    }

    fn pass_on(self: &Arc<Self>) {
        self.queue.lock().free += 1;
        self.give_out();
    }

    /// Gives free turns to those who wait.
    fn give_out(self: &Arc<Self>) {
        while let Some(next) = self.next() {
            if let Err(mut turn) = next.send(Turn(Some(Arc::clone(self)))) {
                // It has gone in this moment; the turn is the one after it's.
                turn.0 = None;
                self.queue.lock().free += 1;
            }
        }
    }

    /// Whose turn it is.
    fn next(&self) -> Option<oneshot::Sender<Turn>> {
        let mut queue = self.queue.lock();
        if queue.free <= 0 {
            return None;
        }
        let next = queue.pop()?;
        queue.free -= 1;
        Some(next)
    }
}

impl TurnQueue {
    fn line(&mut self, line: Line) -> &mut Waiters {
        match line {
            Line::Returning => &mut self.returning,
            Line::New => &mut self.new,
        }
    }

    /// Has one more wait.
    fn push(&mut self, source: Source, line: Line, tell: oneshot::Sender<Turn>) -> u64 {
        self.number += 1;
        let number = self.number;
        self.line(line).push(source, number, tell);
        number
    }

    /// Takes who is next.
    fn pop(&mut self) -> Option<oneshot::Sender<Turn>> {
        let have_had_theirs = self.in_a_row >= RETURNING_IN_A_ROW && !self.new.is_empty();
        if !have_had_theirs && let Some(next) = self.returning.pop() {
            // Where nobody else waits, nobody is owed anything.
            self.in_a_row = if self.new.is_empty() { 0 } else { self.in_a_row + 1 };
            return Some(next);
        }
        self.in_a_row = 0;
        self.new.pop()
    }
}

impl Waiters {
    fn new() -> Self {
        Self { waiting: HashMap::default(), order: BTreeMap::new(), places: (-1, 0) }
    }

    fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Has one more wait. A source that has nobody waiting comes before the others.
    fn push(&mut self, source: Source, number: u64, tell: oneshot::Sender<Turn>) {
        let waiting = self.waiting.entry(source).or_insert_with(|| {
            let place = self.places.0;
            self.places.0 -= 1;
            self.order.insert(place, source);
            SourceLine { place, turns: BTreeMap::new() }
        });
        waiting.turns.insert(number, tell);
    }

    /// Takes the newest of the source whose turn it is, which goes behind the others.
    fn pop(&mut self) -> Option<oneshot::Sender<Turn>> {
        let (_, source) = self.order.pop_first()?;
        let waiting = self.waiting.get_mut(&source)?;
        let (_, next) = waiting.turns.pop_last()?;
        if waiting.turns.is_empty() {
            self.waiting.remove(&source);
        } else {
            waiting.place = self.places.1;
            self.places.1 += 1;
            self.order.insert(waiting.place, source);
        }
        Some(next)
    }

    fn remove(&mut self, source: Source, number: u64) {
        let Some(waiting) = self.waiting.get_mut(&source) else { return };
        waiting.turns.remove(&number);
        if waiting.turns.is_empty() {
            self.order.remove(&waiting.place);
            self.waiting.remove(&source);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::{Pin, pin};
    use std::task::{Context, Poll, Waker};

    use super::*;

    /// Has these wait in this order and tells in which they have their turns.
    fn order(turns: &Arc<Turns>, waiters: &[(u128, Line)]) -> Vec<usize> {
        let mut cx = Context::from_waker(Waker::noop());
        let held = match pin!(turns.turn(Source(0), Line::New)).poll(&mut cx) {
            Poll::Ready(turn) => turn,
            Poll::Pending => panic!("there is a free turn"),
        };
        let ask = |&(source, line)| Some(Box::pin(turns.turn(Source(source), line)));
        let mut waiting: Vec<_> = waiters.iter().map(ask).collect();
        let mut poll_all = |had: &mut Vec<usize>| {
            let mut given = None;
            for (n, slot) in waiting.iter_mut().enumerate() {
                if let Some(future) = slot
                    && let Poll::Ready(turn) = future.as_mut().poll(&mut cx)
                {
                    assert!(given.is_none(), "one at a time");
                    (given, *slot) = (Some(turn), None);
                    had.push(n);
                }
            }
            given
        };
        let mut had = Vec::new();
        assert!(poll_all(&mut had).is_none());
        drop(held);
        while let Some(turn) = poll_all(&mut had) {
            drop(turn);
        }
        had
    }

    #[test]
    fn the_newest_comes_first_and_sources_take_turns() {
        let turns = Turns::new(1);
        for (sources, expected) in [
            (&[1, 1, 1, 1][..], &[3, 2, 1, 0][..]),
            (&[1, 2, 3, 4], &[3, 2, 1, 0]),
            (&[1, 1, 1, 2, 2], &[4, 2, 3, 1, 0]),
        ] {
            for line in [Line::New, Line::Returning] {
                let waiters: Vec<_> = sources.iter().map(|&source| (source, line)).collect();
                assert_eq!(order(&turns, &waiters), expected, "{waiters:?}");
            }
        }
        expect_nobody(&turns);
    }

    /// Nobody waits, and nobody has a turn.
    fn expect_nobody(turns: &Turns) {
        let queue = turns.queue.lock();
        assert_eq!(queue.free, queue.count.cast_signed());
        for line in [&queue.returning, &queue.new] {
            assert_eq!((line.waiting.len(), line.order.len()), (0, 0));
        }
    }

    #[test]
    fn who_returns_comes_first_and_the_others_have_every_fourth_turn() {
        let turns = Turns::new(1);
        let (returns, is_new) = (|n| (n, Line::Returning), |n| (n, Line::New));
        // Whoever is newer, and whatever the source.
        assert_eq!(order(&turns, &[returns(1), is_new(2), returns(1), is_new(1)]), [2, 0, 3, 1]);
        let many: Vec<_> = (0..8).map(returns).chain((0..3).map(is_new)).collect();
        assert_eq!(order(&turns, &many), [7, 6, 5, 10, 4, 3, 2, 9, 1, 0, 8]);
        // Turns that nobody else waited for are not held against those who return.
        let alone: Vec<_> = (0..8).map(returns).collect();
        assert_eq!(order(&turns, &alone), [7, 6, 5, 4, 3, 2, 1, 0]);
        assert_eq!(order(&turns, &[is_new(1), returns(1), returns(2), returns(3)]), [3, 2, 1, 0]);
        expect_nobody(&turns);
    }

    #[test]
    fn there_may_be_more_and_fewer() {
        let turns = Turns::new(2);
        let mut cx = Context::from_waker(Waker::noop());
        let ask = || Box::pin(turns.turn(Source(0), Line::New));
        let mut poll =
            |future: &mut Pin<Box<dyn Future<Output = Turn> + '_>>| match future.as_mut().poll(&mut cx) {
                Poll::Ready(turn) => Some(turn),
                Poll::Pending => None,
            };
        let mut asked: [Pin<Box<dyn Future<Output = Turn>>>; 4] = [ask(), ask(), ask(), ask()];
        let [a, b, c, d] = &mut asked;
        let (first, second) = (poll(a).expect("free"), poll(b).expect("free"));
        assert!(poll(c).is_none() && poll(d).is_none());
        turns.resize(3);
        let third = poll(d).expect("the newest");
        assert!(poll(c).is_none());
        turns.resize(1);
        drop((first, second));
        assert!(poll(c).is_none(), "one is out");
        assert_eq!(turns.busy(), 1);
        drop(third);
        assert!(poll(c).is_some());
    }

    #[test]
    fn who_gives_up_leaves_nothing_and_takes_no_turn() {
        let turns = Turns::new(1);
        let mut cx = Context::from_waker(Waker::noop());
        let Poll::Ready(held) = pin!(turns.turn(Source(0), Line::New)).poll(&mut cx) else { panic!("free") };
        let mut patient = Box::pin(turns.turn(Source(1), Line::New));
        assert!(patient.as_mut().poll(&mut cx).is_pending());
        for source in [1, 2] {
            let mut hasty = Box::pin(turns.turn(Source(source), Line::New));
            assert!(hasty.as_mut().poll(&mut cx).is_pending());
        }
        assert_eq!(turns.queue.lock().new.order.len(), 1);
        // Told, and gone before it could take notice.
        let mut late = Box::pin(turns.turn(Source(1), Line::New));
        assert!(late.as_mut().poll(&mut cx).is_pending());
        drop(held);
        assert!(patient.as_mut().poll(&mut cx).is_pending());
        drop(late);
        assert!(patient.as_mut().poll(&mut cx).is_ready());
        drop(patient);
        assert_eq!(turns.queue.lock().free, 1);
    }
}

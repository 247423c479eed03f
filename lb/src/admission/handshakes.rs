//! Handshakes under way, within their bounds. Where one too many comes, the one that has gone longest without progress goes, of
//! the source that has most: connections that say nothing, however many, keep nobody out.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use foldhash::fast::RandomState;
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;

use super::source::Source;

/// Those of one edge.
pub(crate) struct Handshakes {
    /// In all, and of one source.
    bounds: (usize, usize),
    underway: Mutex<Ongoing>,
}

#[derive(Default)]
struct Ongoing {
    /// By source, and there by when they last made progress.
    sources: HashMap<Source, BTreeMap<u64, Arc<GivenUp>>, RandomState>,
    /// The same by what they take: the last one gives way first.
    by_share: BTreeSet<(Share, Source)>,
    count: usize,
    /// Those that are given up and have not ended.
    leaving: usize,
    /// The next moment of progress.
    moment: u64,
}

/// What a source takes: how many there are, and, the less the more, when its oldest last made progress.
type Share = (usize, Reverse<u64>);

/// The place of one handshake among those under way.
#[derive(Debug)]
pub(crate) struct Ticket {
    source: Source,
    progress: u64,
    given_up: Arc<GivenUp>,
}

/// Whether a handshake is given up for others.
#[derive(Debug, Default)]
pub(crate) struct GivenUp {
    is_given_up: AtomicBool,
    waker: AtomicWaker,
}

impl GivenUp {
    fn give_up(&self) {
        self.is_given_up.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Returns when it is.
    pub(crate) async fn wait(&self) {
        poll_fn(|cx| {
            self.waker.register(cx.waker());
            if self.is_given_up.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

impl Ticket {
    /// Where its connection comes from.
    pub(crate) fn source(&self) -> Source {
        self.source
    }

    /// To be waited for.
    pub(crate) fn given_up(&self) -> Arc<GivenUp> {
        Arc::clone(&self.given_up)
    }
}

impl Handshakes {
    /// Bounds in all and for each source.
    pub(crate) fn new(max: usize, source_max: usize) -> Self {
        Self { bounds: (max, source_max), underway: Mutex::default() }
    }

    /// Begins one, for which another is given up where there are too many in all, or where room `is_scarce`; says whether one was.
    pub(crate) fn begin(&self, source: Source, is_scarce: bool) -> (Ticket, bool) {
        let mut underway = self.underway.lock();
        let most = underway.by_share.last().map(|&(_, source)| source);
        let gives = most.filter(|_| is_scarce || underway.count >= self.bounds.0);
        if let Some(gives) = gives {
            underway.give_up_oldest(gives);
        }
        let mut ticket = Ticket { source, progress: 0, given_up: Arc::default() };
        underway.insert(&mut ticket);
        (ticket, gives.is_some())
    }

    /// It has made progress: others are given up before it.
    pub(crate) fn progress(&self, ticket: &mut Ticket) {
        let mut underway = self.underway.lock();
        if underway.remove(ticket) {
            underway.insert(ticket);
        }
    }

    /// It is from there, as a load balancer in front says.
    pub(crate) fn belongs_to(&self, ticket: &mut Ticket, source: Source) {
        let mut underway = self.underway.lock();
        if underway.remove(ticket) {
            ticket.source = source;
            underway.insert(ticket);
        }
    }

    /// Gives up the oldest of its source, if that has more than it may have; says whether it had. To be asked when it is known
    /// where this one comes from.
    pub(crate) fn bound_source(&self, ticket: &Ticket) -> bool {
        let mut underway = self.underway.lock();
        let is_over = underway.of(ticket.source) > self.bounds.1;
        if is_over {
            underway.give_up_oldest(ticket.source);
        }
        is_over
    }

    /// It has ended, either way.
    pub(crate) fn end(&self, ticket: &Ticket) {
        let mut underway = self.underway.lock();
        if !underway.remove(ticket) && ticket.given_up.is_given_up.load(Ordering::Acquire) {
            underway.leaving = underway.leaving.saturating_sub(1);
        }
    }

    /// Whether some are given up and have not ended yet.
    pub(crate) fn are_leaving(&self) -> bool {
        self.underway.lock().leaving > 0
    }
}

impl Ongoing {
    /// How many there are of a source.
    fn of(&self, source: Source) -> usize {
        self.sources.get(&source).map_or(0, BTreeMap::len)
    }

    fn insert(&mut self, ticket: &mut Ticket) {
        self.moment += 1;
        ticket.progress = self.moment;
        let of_source = self.sources.entry(ticket.source).or_default();
        let before = share(of_source);
        of_source.insert(ticket.progress, Arc::clone(&ticket.given_up));
        let after = share(of_source);
        self.count += 1;
        self.rank(ticket.source, before, after);
    }

    /// `false` if it is not there: it was given up.
    fn remove(&mut self, ticket: &Ticket) -> bool {
        self.take(ticket.source, |of_source| of_source.remove(&ticket.progress)).is_some()
    }

    fn give_up_oldest(&mut self, source: Source) {
        if let Some((_, given_up)) = self.take(source, BTreeMap::pop_first) {
            self.leaving += 1;
            // Under the lock: whoever has ended before is not told any more.
            given_up.give_up();
        }
    }

    fn take<T>(
        &mut self,
        source: Source,
        one: impl FnOnce(&mut BTreeMap<u64, Arc<GivenUp>>) -> Option<T>,
    ) -> Option<T> {
        let of_source = self.sources.get_mut(&source)?;
        let before = share(of_source);
        let taken = one(of_source)?;
        let after = share(of_source);
        if after.is_none() {
            self.sources.remove(&source);
        }
        self.count -= 1;
        self.rank(source, before, after);
        Some(taken)
    }

    fn rank(&mut self, source: Source, before: Option<Share>, after: Option<Share>) {
        if let Some(share) = before {
            self.by_share.remove(&(share, source));
        }
        if let Some(share) = after {
            self.by_share.insert((share, source));
        }
    }
}

/// `None` for nothing.
fn share(of_source: &BTreeMap<u64, Arc<GivenUp>>) -> Option<Share> {
    of_source.first_key_value().map(|(progress, _)| (of_source.len(), Reverse(*progress)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOUD: Source = Source(1);
    const QUIET: Source = Source(2);

    fn is_given_up(ticket: &Ticket) -> bool {
        ticket.given_up.is_given_up.load(Ordering::Acquire)
    }

    fn given_up(tickets: &[Ticket]) -> Vec<usize> {
        (0..tickets.len()).filter(|&n| is_given_up(&tickets[n])).collect()
    }

    #[test]
    fn the_source_that_has_most_gives_its_oldest() {
        let handshakes = Handshakes::new(6, 6);
        let loud: Vec<_> = (0..5).map(|_| handshakes.begin(LOUD, false).0).collect();
        let quiet = handshakes.begin(QUIET, false).0;
        for (source, gone) in [(QUIET, vec![0]), (Source(3), vec![0, 1])] {
            assert!(handshakes.begin(source, false).1);
            assert_eq!(given_up(&loud), gone);
        }
        assert!(!is_given_up(&quiet));
    }

    #[test]
    fn who_makes_progress_stays_longer() {
        let handshakes = Handshakes::new(3, 3);
        let mut tickets: Vec<_> = (0..3).map(|_| handshakes.begin(LOUD, false).0).collect();
        handshakes.progress(&mut tickets[0]);
        let _new = handshakes.begin(LOUD, false);
        assert_eq!(given_up(&tickets), [1]);
        // One that was given up does not come back.
        handshakes.progress(&mut tickets[1]);
        handshakes.belongs_to(&mut tickets[1], QUIET);
        assert_eq!((handshakes.underway.lock().count, tickets[1].source), (3, LOUD));
    }

    #[test]
    fn of_sources_that_have_as_much_the_oldest_gives_whatever_its_address() {
        let handshakes = Handshakes::new(3, 3);
        let tickets: Vec<_> = [5, 9, 1, 8, 2].map(|source| handshakes.begin(Source(source), false).0).into();
        assert_eq!(given_up(&tickets), [0, 1]);
    }

    #[test]
    fn where_room_is_scarce_one_is_given_up_for_each_that_comes() {
        let handshakes = Handshakes::new(10, 10);
        assert!(!handshakes.begin(QUIET, true).1, "there is none to give up");
        let loud: Vec<_> = (0..3).map(|_| handshakes.begin(LOUD, false).0).collect();
        assert!(handshakes.begin(QUIET, true).1);
        assert_eq!(given_up(&loud), [0]);
        assert!(handshakes.are_leaving());
        handshakes.end(&loud[1]);
        assert!(handshakes.are_leaving());
        handshakes.end(&loud[0]);
        assert!(!handshakes.are_leaving());
    }

    #[test]
    fn a_source_has_a_bound_of_its_own() {
        let handshakes = Handshakes::new(10, 2);
        let begin = || {
            let ticket = handshakes.begin(LOUD, false).0;
            let is_over = handshakes.bound_source(&ticket);
            (ticket, is_over)
        };
        let (loud, were_over): (Vec<_>, Vec<_>) = (0..3).map(|_| begin()).unzip();
        assert_eq!((given_up(&loud), were_over), (vec![0], vec![false, false, true]));
    }

    #[test]
    fn a_source_behind_a_load_balancer_has_that_bound_and_the_load_balancer_has_none() {
        let handshakes = Handshakes::new(10, 2);
        let mut proxied: Vec<_> = (0..4).map(|_| handshakes.begin(QUIET, false).0).collect();
        for (number, ticket) in proxied.iter_mut().enumerate() {
            handshakes.belongs_to(ticket, LOUD);
            assert_eq!(handshakes.bound_source(ticket), number >= 2);
        }
        assert_eq!((given_up(&proxied), proxied[3].source()), (vec![0, 1], LOUD));
        assert_eq!(handshakes.underway.lock().of(LOUD), 2);
    }

    #[test]
    fn nothing_is_left_of_those_that_ended() {
        let handshakes = Handshakes::new(10, 10);
        let tickets: Vec<_> = (0..20).map(|n| handshakes.begin(Source(n % 3), false).0).collect();
        for ticket in &tickets {
            handshakes.end(ticket);
            handshakes.end(ticket);
        }
        let underway = handshakes.underway.lock();
        assert_eq!((underway.count, underway.sources.len(), underway.by_share.len()), (0, 0, 0));
        assert_eq!(underway.leaving, 0);
    }
}

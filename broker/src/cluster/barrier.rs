//! Who waits until every worker that may be matching has applied the log through some place: SUBSCRIBE before SUBACK, and
//! UNSUBSCRIBE before UNSUBACK. Workers whose lease has lapsed match nothing, so nobody waits for them.

use std::sync::Arc;

use state::{Member, Position};
use tokio::time::Instant;

use super::Cluster;

/// Runs when it is so.
pub(super) type Passed = Box<dyn FnOnce() + Send>;

#[derive(Default)]
pub(super) struct Barrier {
    waiting: Vec<Waiter>,
    /// Calls for the list of workers that have begun.
    asked: u64,
    /// Every worker that may be matching has applied the log through this place, whoever joins.
    passed: Position,
}

struct Waiter {
    position: Position,
    /// A list of workers counts only if it was asked for after this call: later than the entry was written.
    after: u64,
    since: Instant,
    then: Passed,
}

impl Cluster {
    /// Runs `then` when every worker that may be matching has applied the log through `position`.
    pub(super) fn wait_for_all(&self, position: Position, then: Passed) {
        let mut barrier = self.barrier.lock();
        let after = barrier.asked;
        barrier.waiting.push(Waiter { position, after, since: Instant::now(), then });
        drop(barrier);
        self.renew_soon.notify_one();
    }

    /// Whether anybody waits.
    pub(super) fn is_waited_for(&self) -> bool {
        !self.barrier.lock().waiting.is_empty()
    }

    /// The list of workers is being asked for. Answers which call this is.
    pub(super) fn begin_list(&self) -> u64 {
        let mut barrier = self.barrier.lock();
        barrier.asked += 1;
        barrier.asked
    }

    /// As far as every worker that may be matching is known to have applied the log.
    pub(super) fn passed_through(&self) -> Position {
        self.barrier.lock().passed
    }

    /// The places of the log may begin anew.
    pub(super) fn forget_passed(&self) {
        self.barrier.lock().passed = Position::default();
    }

    /// This call has listed the workers when the log went to `log_end`: those may go on who waited for no others.
    pub(super) fn pass(&self, call: u64, members: &[Member], log_end: Position) {
        let others = members.iter().filter(|member| member.id != self.id && member.is_live);
        let applied = others.filter_map(|member| member.applied).min();
        let passes =
            |waiter: &Waiter| call > waiter.after && applied.is_none_or(|applied| applied >= waiter.position);
        let mut passed = Vec::new();
        {
            let mut barrier = self.barrier.lock();
            // Whoever is loading the routes, or joins, has what the log had by now when it begins to match.
            let through = applied.map_or(log_end, |applied| applied.min(log_end));
            barrier.passed = barrier.passed.max(through);
            for waiter in std::mem::take(&mut barrier.waiting) {
                if passes(&waiter) { passed.push(waiter) } else { barrier.waiting.push(waiter) }
            }
        }
        for waiter in passed {
            self.metrics.subscribe_wait_seconds.observe(waiter.since.elapsed().as_secs_f64());
            (waiter.then)();
        }
    }
}

/// So that the type is shared with whoever makes one of it.
pub(super) fn passed(cluster: &Arc<Cluster>, then: Passed) -> super::log_writer::Written {
    let cluster = Arc::clone(cluster);
    Box::new(move |position| cluster.wait_for_all(position, then))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use state::{MemoryCluster, WorkerId};

    use super::*;

    fn member(applied: u64, is_live: bool) -> Member {
        let applied = Some(Position(applied));
        Member { id: WorkerId(7), name: "other".into(), applied, is_live, silent_ms: 0 }
    }

    // ARCHITECTURE, rule 21: a subscriber writes its entry, then lists the workers.
    #[test]
    fn only_a_list_that_was_asked_for_after_the_entry_counts() {
        let api = MemoryCluster::new().worker("one");
        let cluster = Cluster::for_tests(api);
        let passed = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&passed);
        let early = cluster.begin_list();
        cluster.wait_for_all(Position(5), Box::new(move || told.store(true, Ordering::Relaxed)));
        cluster.pass(early, &[], Position(5));
        assert!(!passed.load(Ordering::Relaxed), "somebody may have joined since");
        let late = cluster.begin_list();
        cluster.pass(late, &[member(4, true)], Position(6));
        assert!(!passed.load(Ordering::Relaxed), "somebody has not applied it");
        cluster.pass(late, &[member(4, false), member(5, true)], Position(6));
        assert!(passed.load(Ordering::Relaxed));
    }

    #[test]
    fn what_all_have_applied_is_remembered() {
        let api = MemoryCluster::new().worker("one");
        let cluster = Cluster::for_tests(api);
        let pass = |applied: &[Option<u64>], log_end| {
            let member = |applied: &Option<u64>| Member { applied: applied.map(Position), ..member(0, true) };
            let members: Vec<_> = applied.iter().map(member).collect();
            let call = cluster.begin_list();
            cluster.pass(call, &members, Position(log_end));
            cluster.passed_through().0
        };
        assert_eq!(pass(&[Some(3), Some(7)], 9), 3);
        assert_eq!(pass(&[Some(1), Some(9)], 9), 3, "somebody has joined");
        assert_eq!(pass(&[None], 8), 8, "one that is loading has what is there now");
        assert_eq!(pass(&[], 12), 12);
        cluster.forget_passed();
        assert_eq!(pass(&[Some(3)], 12), 3);
    }
}

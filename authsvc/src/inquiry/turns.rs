//! Who may ask now: so many at a time, others wait for a while. Addresses take turns, the newest of each comes first (it is
//! the one that still waits for an answer), and when too many wait the oldest of the address that has most is given up.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::fair::FairQueue;

/// Hands out turns.
pub(super) struct Turns {
    shared: Arc<Seats>,
}

struct Seats {
    state: Mutex<State>,
    waiting_max: usize,
}

struct State {
    free: usize,
    waiting: FairQueue<oneshot::Sender<Turn>>,
}

/// One turn, until it is dropped.
pub(super) struct Turn {
    shared: Option<Arc<Seats>>,
}

impl Turns {
    /// `concurrent_max` at a time, `waiting_max` more wait.
    pub(super) fn new(concurrent_max: usize, waiting_max: usize) -> Self {
        let state = Mutex::new(State { free: concurrent_max, waiting: FairQueue::default() });
        Self { shared: Arc::new(Seats { state, waiting_max }) }
    }

    /// A turn for `source` within `timeout`; `None` if there is none by then, or too many wait.
    pub(super) async fn take(&self, source: u64, timeout: Duration) -> Option<Turn> {
        let turn = {
            let mut state = self.shared.state.lock();
            if state.free > 0 {
                state.free -= 1;
                return Some(Turn { shared: Some(self.shared.clone()) });
            }
            let (next, turn) = oneshot::channel();
            state.waiting.push(source, next);
            if state.waiting.len() > self.shared.waiting_max {
                // Dropped, it wakes who waits for it.
                state.waiting.shed();
            }
            turn
        };
        tokio::time::timeout(timeout, turn).await.ok()?.ok()
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(shared) = self.shared.take() else { return };
        loop {
            let next = {
                let mut state = shared.state.lock();
                let Some(next) = state.waiting.pop() else {
                    state.free += 1;
                    return;
                };
                next
            };
            match next.send(Self { shared: Some(shared.clone()) }) {
                Ok(()) => return,
                // It waits no more: the turn comes back, not to be dropped but to be passed on here.
                Err(mut turn) => drop(turn.shared.take()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::{JoinHandle, yield_now};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    async fn wait(turns: &Arc<Turns>, source: u64, timeout: Duration) -> JoinHandle<Option<Turn>> {
        let turns = turns.clone();
        let waiting = tokio::spawn(async move { turns.take(source, timeout).await });
        yield_now().await;
        waiting
    }

    #[tokio::test(start_paused = true)]
    async fn the_newest_is_next() {
        let turns = Arc::new(Turns::new(1, 10));
        let first = turns.take(1, LONG).await.unwrap();
        let (early, late) = (wait(&turns, 1, LONG).await, wait(&turns, 1, LONG).await);
        drop(first);
        let turn = late.await.unwrap().unwrap();
        assert!(!early.is_finished());
        drop(turn);
        assert!(early.await.unwrap().is_some());
        assert_eq!(turns.shared.state.lock().free, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_most_gives_way_and_nobody_waits_for_ever() {
        let turns = Arc::new(Turns::new(1, 2));
        let first = turns.take(1, LONG).await.unwrap();
        let (crowd, other) = (wait(&turns, 1, LONG).await, wait(&turns, 2, LONG).await);
        let newest = wait(&turns, 1, LONG).await;
        assert!(crowd.await.unwrap().is_none(), "the oldest of the crowd");
        assert!(!other.is_finished() && !newest.is_finished());
        assert!(other.await.unwrap().is_none() && newest.await.unwrap().is_none(), "after the timeout");
        drop(first);
        assert_eq!(turns.shared.state.lock().free, 1, "who had gone got no turn");
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_that_is_given_to_somebody_who_goes_is_not_lost() {
        let turns = Arc::new(Turns::new(1, 10));
        let first = turns.take(1, LONG).await.unwrap();
        let mut waiting = Box::pin(turns.take(1, LONG));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        drop(first);
        drop(waiting);
        assert_eq!(turns.shared.state.lock().free, 1);
    }
}

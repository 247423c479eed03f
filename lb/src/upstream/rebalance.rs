//! Gives a worker that has joined, or come back, its share: now and then moves some of the sessions that another has above the
//! bound on its load. Who is moved is decided here and looked at again when its turn comes; how, in [`super::route`].

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::task::yield_now;
use tokio::time::{Duration, MissedTickBehavior, interval};

use super::device::Device;
use super::pool::Pool;
use super::ring::Ring;
use super::worker::Worker;

/// Between two looks; `workers.rebalance_per_s` is for this time.
const TICK: Duration = Duration::from_secs(1);

/// Ticks without a move after one that came to nothing, doubled each time up to this.
const WAIT_TICKS_MAX: u32 = 64;

/// Devices looked at in one go; then other tasks of the thread have their turn.
const LOOKS: usize = 1_024;

/// How fast to go: at the full rate as long as workers take what they are given, otherwise one device now and then.
#[derive(Default)]
struct MovePace {
    wait: u32,
    skip: u32,
    has_asked: bool,
}

impl MovePace {
    /// How many devices may be moved in this tick.
    fn budget(&mut self, had_setback: bool, is_quiet: bool, max: usize) -> usize {
        if had_setback {
            self.wait = (self.wait * 2).clamp(2, WAIT_TICKS_MAX);
            self.skip = self.wait;
            self.has_asked = false;
        }
        if !is_quiet {
            return 0;
        }
        if std::mem::take(&mut self.has_asked) {
            self.wait = 0;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return 0;
        }
        if self.wait > 0 { max.min(1) } else { max }
    }
}

/// Looks again and again, for ever.
pub(super) async fn run(pool: Arc<Pool>) {
    let max = pool.config.rebalance_per_s;
    if max == 0 {
        return;
    }
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut balance = Balance::default();
    loop {
        ticks.tick().await;
        balance.look(&pool, max).await;
    }
}

/// What is known from one look to the next.
#[derive(Default)]
pub(super) struct Balance {
    pace: MovePace,
    /// Who was on the ring.
    known: Vec<SocketAddr>,
}

impl Balance {
    /// Has up to `max` devices moved, if it is time for that. How many.
    pub(super) async fn look(&mut self, pool: &Pool, max: usize) -> usize {
        let ring = pool.ring.load_full();
        // A worker that comes and goes draws nobody.
        let here = addresses(&ring);
        let is_quiet = here == std::mem::replace(&mut self.known, here.clone()) && pool.is_quiet();
        let budget = self.pace.budget(pool.devices.take_setback(), is_quiet, max);
        let chosen = relieve(pool, &ring, budget).await;
        self.pace.has_asked |= chosen > 0;
        chosen
    }
}

fn addresses(ring: &Ring) -> Vec<SocketAddr> {
    let mut addresses: Vec<_> = ring.workers().map(|worker| worker.address).collect();
    addresses.sort_unstable();
    addresses
}

/// Has up to `budget` devices moved away from workers that have too many. How many.
async fn relieve(pool: &Pool, ring: &Ring, budget: usize) -> usize {
    let bound = ring.bound(0, pool.config.load_factor);
    let crowded = ring.workers().filter(|worker| worker.streams() > bound).cloned().collect();
    let mut left = budget;
    for worker in pool.devices.chance.shuffled::<Arc<Worker>>(crowded) {
        let excess = worker.streams().saturating_sub(bound).min(left);
        if excess > 0 {
            let chosen = choose(pool, ring, &worker, excess).await;
            tracing::info!(worker = %worker.address, devices = chosen.len(), "worker relieved");
            left -= chosen.len();
            pool.devices.agenda.push(chosen);
        }
    }
    budget - left
}

/// So many devices of `worker`, first those whose place is elsewhere when nobody has too many.
pub(super) async fn choose(pool: &Pool, ring: &Ring, worker: &Arc<Worker>, count: usize) -> Vec<Arc<Device>> {
    let mut chosen = Vec::new();
    let mut at_home = Vec::new();
    for (at, device) in pool.devices.chance.shuffled(worker.devices()).into_iter().enumerate() {
        if chosen.len() == count {
            break;
        }
        if at % LOOKS == LOOKS - 1 {
            yield_now().await;
        }
        let best = ring.candidates(&device.client_id).next();
        if !best.is_some_and(|best| Arc::ptr_eq(best, worker)) {
            chosen.extend(Some(device).filter(|device| device.mark_excess(worker)));
        } else if at_home.len() < count && device.may_leave(worker) {
            at_home.push(device);
        }
    }
    let short = count - chosen.len();
    chosen.extend(at_home.into_iter().filter(|device| device.mark_excess(worker)).take(short));
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_setback_it_is_tried_less_and_less_often_with_one() {
        let mut pace = MovePace::default();
        assert_eq!(pace.budget(false, true, 100), 100);
        pace.has_asked = true;
        assert_eq!(pace.budget(true, false, 100), 0, "others move");
        let mut waits = Vec::new();
        for _ in 0..7 {
            let waited = (0..).find(|_| pace.budget(false, true, 100) == 1);
            waits.extend(waited);
            pace.has_asked = true;
            pace.budget(true, false, 100);
        }
        assert_eq!(waits, [2, 4, 8, 16, 32, 64, 64]);
        while pace.budget(false, true, 100) == 0 {}
        pace.has_asked = true;
        assert_eq!(pace.budget(false, true, 100), 100, "the one was taken");
    }
}

//! Gives the devices of a worker that is without its store to one that has it. When no worker has it they stay where they are,
//! and a pause that all workers share, or one that is short, moves nobody. How a device is moved: [`super::route`].

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::time::{Duration, Instant, MissedTickBehavior, interval};

use super::pool::Pool;
use super::worker::{Standing, Worker};

/// Between two looks.
const TICK: Duration = Duration::from_millis(250);

/// For so long one worker is without the store while another has it, before its devices go: workers that lose it together do
/// not say so at the same moment.
const PATIENCE: Duration = Duration::from_secs(1);

/// The same after a time in which no worker had it: they do not find it again at the same moment either.
const PATIENCE_AFTER_ALL: Duration = Duration::from_secs(5);

/// Looks again and again, for ever.
pub(super) async fn run(pool: Arc<Pool>) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut watch = Watch::default();
    loop {
        let now = ticks.tick().await;
        for worker in watch.look(&pool, now) {
            let devices = worker.devices();
            if !devices.is_empty() {
                tracing::warn!(
                    worker = %worker.address, devices = devices.len(),
                    "worker is without its store, its devices go to others"
                );
                pool.devices.agenda.push(pool.devices.chance.shuffled(devices));
            }
        }
    }
}

/// What is known from one look to the next.
#[derive(Debug, Default)]
struct Watch {
    /// Since when each has been without the store beside others that have it.
    alone: BTreeMap<SocketAddr, Instant>,
    /// When nobody had it.
    nobody_at: Option<Instant>,
}

impl Watch {
    /// The workers whose devices are to go now.
    fn look(&mut self, pool: &Pool, now: Instant) -> Vec<Arc<Worker>> {
        let (away, has_good) = {
            let workers = pool.workers.lock();
            let is_good = |worker: &Arc<Worker>| worker.standing() == Standing::Good;
            let away: Vec<_> = workers.values().filter(|worker| worker.is_store_away()).cloned().collect();
            (away, workers.values().any(is_good))
        };
        let due = self.count(away.iter().map(|worker| worker.address), has_good, now);
        away.into_iter().filter(|worker| due.contains(&worker.address)).collect()
    }

    fn count(
        &mut self,
        away: impl Iterator<Item = SocketAddr>,
        has_good: bool,
        now: Instant,
    ) -> Vec<SocketAddr> {
        let away: Vec<_> = away.collect();
        if !has_good {
            self.alone.clear();
            self.nobody_at = (!away.is_empty()).then_some(now).or(self.nobody_at);
            return Vec::new();
        }
        let since_all = self.nobody_at.map(|at| now.saturating_duration_since(at));
        let patience = match since_all {
            Some(since) if since < PATIENCE_AFTER_ALL => PATIENCE_AFTER_ALL,
            _ => PATIENCE,
        };
        self.alone.retain(|address, _| away.contains(address));
        let mut due = Vec::new();
        for address in away {
            let since = self.alone.entry(address).or_insert(now);
            if now.saturating_duration_since(*since) >= patience {
                // Who came meanwhile, or could not go, has its turn then.
                *since = now;
                due.push(address);
            }
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, number], 7883))
    }

    /// Looks every [`TICK`] for this long; after how long which were due.
    fn looks(
        watch: &mut Watch,
        start: &mut Instant,
        away: &[u8],
        has_good: bool,
        within: Duration,
    ) -> Vec<(Duration, SocketAddr)> {
        let begin = *start;
        let mut due = Vec::new();
        while *start < begin + within {
            let found = watch.count(away.iter().map(|number| address(*number)), has_good, *start);
            due.extend(found.into_iter().map(|address| (*start - begin, address)));
            *start += TICK;
        }
        due
    }

    // CORRECTNESS 38.
    #[test]
    fn only_a_worker_that_is_alone_without_the_store_gives_its_devices_away() {
        let (mut watch, mut now) = (Watch::default(), Instant::now());
        let seconds = Duration::from_secs;
        assert_eq!(looks(&mut watch, &mut now, &[1], true, PATIENCE), [], "a hiccup");
        assert_eq!(looks(&mut watch, &mut now, &[], true, seconds(9)), []);
        assert_eq!(looks(&mut watch, &mut now, &[1], true, seconds(2)), [(PATIENCE, address(1))]);
        assert_eq!(looks(&mut watch, &mut now, &[], true, seconds(9)), []);
        // All lose it, one after the other, and find it again so.
        assert_eq!(looks(&mut watch, &mut now, &[1], true, Duration::from_millis(750)), []);
        assert_eq!(looks(&mut watch, &mut now, &[1, 2, 3], false, seconds(30)), []);
        assert_eq!(looks(&mut watch, &mut now, &[1, 2], true, seconds(2)), []);
        assert_eq!(looks(&mut watch, &mut now, &[1], true, seconds(2)), []);
        assert_eq!(looks(&mut watch, &mut now, &[], true, seconds(9)), []);
        // One does not.
        assert_eq!(looks(&mut watch, &mut now, &[1, 2, 3], false, seconds(30)), []);
        let due = looks(&mut watch, &mut now, &[2], true, seconds(6));
        assert_eq!(due.first(), Some(&(PATIENCE_AFTER_ALL - TICK, address(2))));
    }
}

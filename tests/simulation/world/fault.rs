//! What goes wrong.

use std::ops::Range;
use std::time::Duration;

use rand::Rng;

use super::{EDGES, WORKERS, World};
use crate::store::LANES;

impl World {
    pub(super) fn harm(&mut self) {
        let n = self.dice.random_range(0..WORKERS);
        let edge = self.dice.random_range(0..EDGES);
        let is_long = self.dice.random_ratio(1, 4);
        let rounds = self.dice.random_range(1..if is_long { 300 } else { 60 });
        match self.dice.random_range(0..20) {
            0..6 if !self.setup.is_rough => {}
            0..3 => self.kill(n),
            3..6 => self.stop(n, rounds),
            6..8 => self.drain(n),
            8..12 => self.cut(edge, n),
            12..14 => {
                self.setup.network.stall(edge, self.places[n].address, rounds);
                tracing::info!(n, edge, rounds, now_ms = self.now(), "links stall");
                self.counts[7] += 1;
            }
            14 => self.be_away(n, rounds),
            15 => (0..WORKERS).for_each(|n| self.be_away(n, rounds)),
            16 => self.be_slow(n),
            17 => self.setup.cluster.trim_log(),
            18 => self.setup.cluster.fail_over(self.dice.random_range(0..3)),
            _ if self.dice.random_ratio(1, 2) => self.kill_edge(edge),
            _ => {}
        }
    }

    fn kill(&mut self, n: usize) {
        let place = &mut self.places[n];
        let Some(worker) = place.run.take() else { return };
        let address = place.address;
        tracing::info!(n, "worker killed");
        self.setup.network.cut(|_, worker| worker == address);
        worker.kill();
        place.start_at = self.round + self.dice.random_range(1..300);
        self.counts[3] += 1;
    }

    fn stop(&mut self, n: usize, rounds: u64) {
        let now_ms = self.now();
        let Some(worker) = &mut self.places[n].run else { return };
        tracing::info!(n, now_ms, rounds, "worker stands still");
        worker.stands_until = self.round + rounds;
        self.counts[4] += 1;
    }

    fn drain(&mut self, n: usize) {
        let within = Duration::from_millis(self.dice.random_range(100..5_000));
        let Some(worker) = self.places[n].run.as_mut().filter(|worker| worker.is_serving()) else { return };
        tracing::info!(n, ?within, "worker leaves");
        worker.leave(within);
        self.counts[5] += 1;
    }

    fn cut(&mut self, edge: usize, n: usize) {
        let address = self.places[n].address;
        let is_all = self.dice.random_ratio(1, 3);
        let cut = self.setup.network.cut(|from, to| to == address && (is_all || from == edge));
        tracing::info!(n, edge, is_all, cut, now_ms = self.now(), "links cut");
        self.counts[6] += usize::from(cut > 0);
    }

    fn be_away(&mut self, n: usize, rounds: u64) {
        let (now_ms, lanes) = (self.now(), self.some_lanes());
        let Some(worker) = &self.places[n].run else { return };
        tracing::info!(n, rounds, now_ms, ?lanes, "store away");
        worker.road.be_away(lanes, rounds);
        self.counts[8] += 1;
    }

    fn be_slow(&mut self, n: usize) {
        let (rounds_max, lanes) = (self.dice.random_range(0..12), self.some_lanes());
        if let Some(worker) = &self.places[n].run {
            worker.road.set_delay(lanes, rounds_max);
        }
    }

    /// The whole store, or what one of its servers has.
    fn some_lanes(&mut self) -> Range<usize> {
        if self.dice.random_bool(0.4) {
            return 0..LANES;
        }
        let lane = self.dice.random_range(0..LANES);
        lane..lane + 1
    }

    /// Its devices lose their connections, and another one begins in its place.
    fn kill_edge(&mut self, edge: usize) {
        self.setup.network.cut(|from, _| from == edge);
        for n in 0..self.devices.len() {
            self.devices[n].edge_died(
                edge,
                &mut self.oracle,
                self.now_ms.load(std::sync::atomic::Ordering::Relaxed),
            );
        }
        let since_ms = self.now().saturating_sub(20_000);
        self.oracle.edge_died(edge, since_ms);
        let new = self.new_edge(edge);
        drop(std::mem::replace(&mut self.edges[edge], new));
        tracing::info!(edge, now_ms = self.now(), "edge killed");
        self.counts[9] += 1;
    }

    /// No more faults: whoever was stopped goes on, and whoever is dead begins anew.
    pub(super) fn calm(&mut self) {
        self.setup.network.calm();
        for place in &mut self.places {
            place.start_at = 0;
            if let Some(worker) = &mut place.run {
                worker.stands_until = 0;
                worker.road.calm();
            }
        }
    }
}

//! The end of a simulation: without faults everything arrives, and with the devices everything that was kept for them goes.

use super::{COUNTED, EDGES, READERS, World};
use crate::oracle::watches;
use crate::will::{RETAINED_AT, WILL_BIT};
use crate::worker::Worker;

/// Turns within which everything has to have arrived.
const TURNS_MAX: usize = 6_000;

/// So long after everybody is there and idle what was acknowledged has come: sooner than a worker looks at all its queues for
/// what nobody told it of.
const TOLD_WITHIN_MS: u64 = 10_000;

impl World {
    /// Ends all faults, lets everything come to rest, and looks whether it is as it should be.
    pub(crate) fn settle(&mut self) {
        self.calm();
        let mut unrest = None;
        let mut idle_at = None;
        for turn in 0..TURNS_MAX {
            if turn % 50 == 0 {
                self.calm();
            }
            for n in 0..self.devices.len() {
                if self.devices[n].line.is_none() {
                    self.connect(n);
                }
                self.devices[n].client.insist();
            }
            self.turn();
            if self.devices.iter().any(|device| !device.client.is_idle()) {
                idle_at = None;
            }
            let idle_for_ms = self.now() - *idle_at.get_or_insert(self.now());
            if turn % 20 == 0 && turn > 60 {
                unrest = self.unrest();
                if unrest.is_none() {
                    break;
                }
                // Whoever enqueued something and died, or had no answer, has told nobody: that is found by a look at all queues.
                if idle_for_ms > TOLD_WITHIN_MS && !self.setup.is_rough {
                    assert_eq!(self.missing(), None, "what has not come within {TOLD_WITHIN_MS} ms of calm");
                }
            }
        }
        assert_eq!(unrest, None, "what has not come to rest");
        // Who asks now is given what is newest.
        let from = READERS.map(|n| (n, self.devices[n].client.got.len())).collect::<Vec<_>>();
        READERS.for_each(|n| self.change(n, RETAINED_AT, true));
        // What should not come has its chance.
        for _ in 0..60 {
            self.turn();
        }
        for (n, from) in from {
            assert_eq!(self.oracle.outdated(&self.devices[n].client, from), None, "what is retained");
        }
    }

    /// What is still to come.
    fn unrest(&self) -> Option<String> {
        for device in &self.devices {
            let name = &device.client.name;
            if !device.client.is_idle() {
                return Some(format!("{name} is not idle: {}", device.client.tell()));
            }
            // Whoever is to tell it may have died, or have had no answer: then it learns when it does something.
            if !device.ghosts.is_empty() && !self.setup.is_rough {
                return Some(format!("{name} has a connection that was not told of its end"));
            }
        }
        self.missing().or_else(|| self.oracle.missing_will(&self.devices[0].client))
    }

    /// An acknowledged message that a device lacks.
    fn missing(&self) -> Option<String> {
        let clients = || self.devices.iter().map(|device| &device.client);
        self.oracle.missing(clients()).or_else(|| self.oracle.missing_share(clients()))
    }

    pub(crate) fn check(&mut self) {
        for (n, device) in self.devices.iter().enumerate() {
            self.oracle.check_messages(n, &device.client);
            self.oracle.check_qos_0(&device.client);
        }
        self.oracle.check_share(self.devices.iter().map(|device| &device.client));
        assert!(watches(&self.devices[0].client));
        let are_once = !self.setup.is_rough && self.counts[8] == 0;
        self.oracle.check_wills(&self.devices[0].client, are_once);
        let wills = self.devices[0].client.got.iter().filter(|message| message.index & WILL_BIT != 0);
        self.counts[10] = wills.count();
    }

    /// All devices leave: nothing of them stays but stored sessions without an owner.
    pub(crate) fn part(&mut self) -> [usize; COUNTED.len()] {
        for n in 0..self.devices.len() {
            self.hang_up(n, n == 0 || n % 2 == 1);
            for ghost in std::mem::take(&mut self.devices[n].ghosts) {
                self.edges[ghost.edge].process.run(async { ghost.close() });
            }
        }
        let mut left = None;
        for turn in 0..3_000 {
            self.turn();
            if turn % 20 == 0 {
                left = self.left();
                if left.is_none() {
                    break;
                }
            }
        }
        assert_eq!(left, None, "what has stayed");
        for edge in 0..EDGES {
            assert_eq!(self.edges[edge].stop(), 0, "connections of which no worker has heard the end");
        }
        self.counts
    }

    /// What there still is of the devices.
    fn left(&self) -> Option<String> {
        for edge in &self.edges {
            for metric in ["workers_moving", "workers_closing"] {
                if edge.metric(metric) > 0 {
                    return Some(format!("{metric} of an edge"));
                }
            }
        }
        for place in &self.places {
            let devices = place.run.as_ref().map_or((0, 0), Worker::devices);
            if devices != (0, 0) {
                return Some(format!("{} has {devices:?} streams and connections", place.name));
            }
        }
        let stats = self.setup.cluster.worker("reader").store();
        let sessions = state::Store::stats(&stats).sessions as usize;
        let stored = self.devices.iter().filter(|device| !device.client.is_clean).count();
        (sessions != stored).then(|| format!("{sessions} sessions in the store, not {stored}"))
    }
}

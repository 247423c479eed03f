//! The memory of the process: how much it may have, and what is done about more. What it has is what the system says, so that
//! nothing is left out and no message is counted for it; only when that is too much, those who are served are asked who leaves
//! most unread.

use std::collections::VecDeque;
use std::fs;
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use broker::Broker;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use crate::exit::Failure;
use crate::process_metrics::resident_bytes;

/// How often it is looked at, and how often near the bound: what a few fast clients can send in between is to be little.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
const CLOSE_LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// That is from so much of what it may have on.
const NEAR_PERCENT: u64 = 70;

/// How long what was let go of may take to be given back to the system; for so long it counts as gone.
const SETTLE: Duration = Duration::from_secs(2);

/// Of what there is, so much is for this process if nobody says how much.
const SHARE_PERCENT: u64 = 80;

/// Below so much of what it may have, the process is not short of memory any more.
const ENOUGH_PERCENT: u64 = 98;

/// Down to so much of what it may have, memory is let go of.
const TARGET_PERCENT: u64 = 95;

/// Who can let go of memory.
pub(crate) trait Relief: Send {
    /// The process has too much from now on, or not any more.
    fn set_short_of_memory(&self, is_short: bool);

    /// Bytes that it could let go of, and those that it is letting go of.
    fn held_bytes(&self) -> usize;

    /// Lets go of about so many bytes. Answers how many.
    fn relieve(&self, bytes: usize) -> usize;
}

impl Relief for Broker {
    fn set_short_of_memory(&self, is_short: bool) {
        Self::set_short_of_memory(self, is_short);
    }

    fn held_bytes(&self) -> usize {
        self.unread_bytes()
    }

    fn relieve(&self, bytes: usize) -> usize {
        Self::relieve(self, bytes)
    }
}

impl Relief for lb::Relief {
    fn set_short_of_memory(&self, is_short: bool) {
        Self::set_short_of_memory(self, is_short);
    }

    fn held_bytes(&self) -> usize {
        self.unread_bytes()
    }

    fn relieve(&self, bytes: usize) -> usize {
        Self::relieve(self, bytes)
    }
}

/// Looks after the memory of the process until it is dropped.
pub(crate) struct MemoryWatch {
    /// Its end ends the thread.
    _running: Sender<()>,
}

impl MemoryWatch {
    /// Has `reliefs` let go of memory, the first of them first, when the process has more than `max_bytes`. `None` where nobody
    /// can, or there is no bound.
    pub(crate) fn start(
        reliefs: Vec<Box<dyn Relief>>,
        max_bytes: u64,
        registry: &mut Registry,
    ) -> Result<Option<Self>, Failure> {
        if reliefs.is_empty() || max_bytes == 0 {
            return Ok(None);
        }
        let gauge = Gauge::<i64>::default();
        gauge.set(i64::try_from(max_bytes).unwrap_or(i64::MAX));
        registry.register_with_unit(
            "tidegate_memory_max",
            "Memory that the process may have",
            Unit::Bytes,
            gauge,
        );
        let (running, ended) = channel();
        let mut budget = Budget::new(max_bytes);
        let watch = move || {
            let mut interval = LOOK_INTERVAL;
            while ended.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                let used = resident_bytes().and_then(|bytes| u64::try_from(bytes).ok());
                if let Some(used) = used {
                    budget.look(used, Instant::now(), &reliefs);
                    interval = budget.interval(used);
                }
            }
        };
        thread::Builder::new()
            .name("memory".to_owned())
            .spawn(watch)
            .map_err(|error| Failure::unavailable(format!("cannot start the thread for memory: {error}")))?;
        Ok(Some(Self { _running: running }))
    }
}

/// What the process may have, and what was done about more.
struct Budget {
    max_bytes: u64,
    is_short: bool,
    /// What was let go of lately, and when.
    settling: VecDeque<(Instant, u64)>,
    /// What could still be let go of when some was, or less later: what comes beyond it takes the place of what was let go of, and
    /// is too much as well. `None` while there is enough.
    held_max: Option<u64>,
}

impl Budget {
    fn new(max_bytes: u64) -> Self {
        Self { max_bytes, is_short: false, settling: VecDeque::new(), held_max: None }
    }

    fn percent(&self, percent: u64) -> u64 {
        self.max_bytes / 100 * percent
    }

    fn look(&mut self, used: u64, now: Instant, reliefs: &[Box<dyn Relief>]) {
        let enough = if self.is_short { self.percent(ENOUGH_PERCENT) } else { self.max_bytes };
        let is_short = used > enough;
        if is_short != self.is_short {
            self.is_short = is_short;
            for relief in reliefs {
                relief.set_short_of_memory(is_short);
            }
            let (used_bytes, memory_max_bytes) = (used, self.max_bytes);
            if is_short {
                tracing::warn!(used_bytes, memory_max_bytes, "too much memory: nobody new is let in");
            } else {
                tracing::info!(used_bytes, memory_max_bytes, "there is enough memory again");
            }
        }
        if !is_short {
            self.held_max = None;
        }
        while self.settling.pop_front_if(|(since, _)| now.duration_since(*since) >= SETTLE).is_some() {}
        let settling: u64 = self.settling.iter().map(|(_, bytes)| bytes).sum();
        if used <= self.max_bytes {
            return;
        }
        let held = held_by(reliefs);
        let held_max = self.held_max.map_or(held, |max| max.min(held));
        let grown = held - held_max;
        let is_settled_beyond = used.saturating_sub(settling) > self.max_bytes;
        let beyond = if is_settled_beyond { used - settling - self.percent(TARGET_PERCENT) } else { 0 };
        let wanted = beyond.max(grown);
        let mut freed = 0;
        for relief in reliefs {
            if freed < wanted {
                freed += relief.relieve(usize::try_from(wanted - freed).unwrap_or(usize::MAX)) as u64;
            }
        }
        // What takes the place of something else is not given back.
        if freed > grown {
            self.settling.push_back((now, freed - grown));
        }
        self.held_max = Some(if freed > 0 { held_by(reliefs) } else { held_max });
    }

    /// Until the next look.
    fn interval(&self, used: u64) -> Duration {
        if used > self.percent(NEAR_PERCENT) { CLOSE_LOOK_INTERVAL } else { LOOK_INTERVAL }
    }
}

fn held_by(reliefs: &[Box<dyn Relief>]) -> u64 {
    reliefs.iter().map(|relief| relief.held_bytes() as u64).sum()
}

/// Memory that the process may have if nobody says how much.
pub(crate) fn default_max_bytes() -> u64 {
    available_bytes(Path::new("/")).unwrap_or(0) / 100 * SHARE_PERCENT
}

/// Memory that there is for the process: of the machine, within the bounds of its control group.
fn available_bytes(root: &Path) -> Option<u64> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let in_group = groups.lines().filter_map(|line| limit_of_group(root, line)).min();
    let machine = fs::read_to_string(root.join("proc/meminfo")).ok().and_then(|text| {
        let kib = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        kib.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
    });
    in_group.into_iter().chain(machine).min()
}

/// The bound of a control group and of those that it is in; a line of `/proc/self/cgroup` names it.
fn limit_of_group(root: &Path, line: &str) -> Option<u64> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (controllers, group) = (parts.next()?, parts.next()?);
    let (mount, file) = match controllers {
        "" => ("sys/fs/cgroup", "memory.max"),
        "memory" => ("sys/fs/cgroup/memory", "memory.limit_in_bytes"),
        _ => return None,
    };
    // Seen from a container, its own group is often the root of what is mounted.
    let groups = Path::new(group.trim_start_matches('/')).ancestors();
    let read = |group: &Path| fs::read_to_string(root.join(mount).join(group).join(file)).ok();
    groups.filter_map(|group| read(group)?.trim().parse::<u64>().ok()).min()
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;

    /// Has so much to let go of; what it was told.
    struct Fake(RefCell<usize>, Arc<Mutex<Vec<String>>>);

    impl Relief for Fake {
        fn set_short_of_memory(&self, is_short: bool) {
            self.1.lock().push(format!("short {is_short}"));
        }

        fn held_bytes(&self) -> usize {
            *self.0.borrow()
        }

        fn relieve(&self, bytes: usize) -> usize {
            self.1.lock().push(format!("relieve {bytes}"));
            let freed = bytes.min(*self.0.borrow());
            *self.0.borrow_mut() -= freed;
            freed
        }
    }

    #[test]
    fn what_is_too_much_is_let_go_of_once() {
        let said = Arc::new(Mutex::new(Vec::new()));
        let fake = |bytes| Box::new(Fake(RefCell::new(bytes), said.clone())) as Box<dyn Relief>;
        let reliefs = [fake(100), fake(1_000)];
        let mut budget = Budget::new(1_000);
        let start = Instant::now();
        let mut look = |used, after_ms| {
            budget.look(used, start + Duration::from_millis(after_ms), &reliefs);
            std::mem::take(&mut *said.lock())
        };
        assert!(look(1_000, 0).is_empty());
        assert_eq!(look(1_150, 100), ["short true", "short true", "relieve 200", "relieve 100"]);
        // It may still be on its way.
        assert!(look(1_150, 200).is_empty() && look(1_190, 300).is_empty());
        assert_eq!(look(1_250, 400), ["relieve 100", "relieve 100"], "more has come");
        assert!(look(990, 500).is_empty());
        assert_eq!(look(980, 600), ["short false", "short false"]);
        // It was not given back.
        assert_eq!(look(1_010, 3_000), ["short true", "short true", "relieve 60", "relieve 60"]);
    }

    // What was let go of is used again by what comes, so that the system sees none of it.
    #[test]
    fn what_comes_in_place_of_what_was_let_go_of_is_let_go_of_too() {
        let said = Arc::new(Mutex::new(Vec::new()));
        let held = Arc::new(Mutex::new(1_000));
        struct Flooded(Arc<Mutex<usize>>, Arc<Mutex<Vec<usize>>>);
        impl Relief for Flooded {
            fn set_short_of_memory(&self, _: bool) {}

            fn held_bytes(&self) -> usize {
                *self.0.lock()
            }

            fn relieve(&self, bytes: usize) -> usize {
                self.1.lock().push(bytes);
                *self.0.lock() -= bytes;
                bytes
            }
        }
        let reliefs = [Box::new(Flooded(held.clone(), said.clone())) as Box<dyn Relief>];
        let mut budget = Budget::new(1_000);
        let start = Instant::now();
        let mut look = |used, after_ms, come: usize| {
            *held.lock() += come;
            budget.look(used, start + Duration::from_millis(after_ms), &reliefs);
            std::mem::take(&mut *said.lock())
        };
        assert_eq!(look(1_050, 0, 0), [100]);
        assert_eq!(look(1_050, 20, 70), [70]);
        assert_eq!(look(1_050, 40, 30), [30]);
        assert_eq!(look(1_050, 60, 0), [0; 0]);
        *held.lock() -= 500;
        assert_eq!(look(1_050, 80, 0), [0; 0], "devices have read");
        assert_eq!(look(1_050, 100, 40), [40]);
        assert_eq!(look(1_050, 2_100, 0), [100], "it was not given back");
        assert_eq!(look(900, 2_200, 400), [0; 0], "there is room");
    }

    #[test]
    fn the_bound_is_that_of_the_tightest_group() {
        let root = tempfile::tempdir().expect("a directory");
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a directory")).expect("made");
            fs::write(path, text).expect("written");
        };
        assert_eq!(available_bytes(root.path()), None);
        write("proc/meminfo", "MemTotal:  2048 kB\nMemFree: 1 kB\n");
        assert_eq!(available_bytes(root.path()), Some(2 << 20));
        write("proc/self/cgroup", "0::/outer/inner\n");
        write("sys/fs/cgroup/outer/inner/memory.max", "max\n");
        write("sys/fs/cgroup/outer/memory.max", "1048576\n");
        assert_eq!(available_bytes(root.path()), Some(1 << 20));
        write("proc/self/cgroup", "5:cpu:/x\n4:memory:/docker/abc\n");
        write("sys/fs/cgroup/memory/memory.limit_in_bytes", "524288\n");
        assert_eq!(available_bytes(root.path()), Some(1 << 19), "seen from a container");
    }
}

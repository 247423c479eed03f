//! How many threads serve connected devices, if nobody says. Threads that have no core to run on cost more than they do: two
//! processes with two threads each, on two cores, spend a fifth more than with one.

use std::fs;
use std::path::Path;

/// On so many cores or fewer a tier does not count on having them to itself.
const FEW_CORES: usize = 4;

/// What a process finds where it starts.
#[derive(Clone, Copy, Debug)]
struct Found {
    /// Cores that this process may use: those that it is bound to, within the quota of its control group.
    usable: usize,
    /// Cores of the machine; 0 if that is not known.
    machine: usize,
    /// Processes of this program that can be seen, this one among them.
    processes: usize,
    /// It is an edge or a worker, which are not alone.
    is_tier: bool,
}

impl Found {
    /// A process with cores of its own, or which is all there is, uses all of them; tiers that share the machine's divide them.
    fn threads(self) -> usize {
        let has_its_own = self.usable < self.machine;
        if has_its_own || !self.is_tier {
            return self.usable.max(1);
        }
        let fewest = if self.usable <= FEW_CORES { 2 } else { 1 };
        (self.usable / self.processes.max(fewest)).max(1)
    }
}

/// The number for this process and this machine.
pub(crate) fn worker_threads(is_tier: bool) -> usize {
    let found = Found {
        usable: std::thread::available_parallelism().map_or(1, usize::from),
        machine: fs::read_to_string("/sys/devices/system/cpu/online").map_or(0, |list| cores_in(&list)),
        processes: if is_tier { processes(Path::new("/proc")) } else { 1 },
        is_tier,
    };
    let threads = found.threads();
    tracing::debug!(threads, ?found, "threads that serve connected devices");
    threads
}

/// Counts a list such as `0-3,6`.
fn cores_in(list: &str) -> usize {
    let count = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
        Some((last + 1).saturating_sub(first))
    };
    list.trim().split(',').map(|range| count(range).unwrap_or(0)).sum()
}

/// Processes whose name is that of this one, where there is a `/proc`.
fn processes(proc: &Path) -> usize {
    let Ok(own) = fs::read(proc.join("self/comm")) else { return 1 };
    let Ok(entries) = fs::read_dir(proc) else { return 1 };
    let is_process = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit());
    let same = entries.filter_map(Result::ok).filter(|entry| {
        entry.file_name().to_str().is_some_and(is_process)
            && fs::read(entry.path().join("comm")).is_ok_and(|name| name == own)
    });
    same.count().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_divided_where_they_are_shared() {
        let found =
            |usable, machine, processes, is_tier| Found { usable, machine, processes, is_tier }.threads();
        assert_eq!(found(2, 2, 1, false), 2, "one process for all");
        assert_eq!(found(2, 2, 1, true), 1, "the first of several");
        assert_eq!(found(2, 2, 4, true), 1);
        assert_eq!(found(16, 16, 4, true), 4);
        assert_eq!(found(16, 16, 1, true), 16, "alone on a large machine");
        assert_eq!(found(2, 64, 9, true), 2, "a quota, or bound to cores");
        assert_eq!(found(1, 64, 1, true), 1);
        assert_eq!(found(8, 0, 2, true), 4, "the machine is not known");
    }

    #[test]
    fn a_list_of_cores_is_counted() {
        assert_eq!(cores_in("0-3,6\n"), 5);
        assert_eq!(cores_in("0"), 1);
        assert_eq!(cores_in("what"), 0);
    }

    #[test]
    fn processes_of_one_name_are_counted() {
        let proc = tempfile::tempdir().expect("a directory");
        for (name, comm) in [
            ("self", "tidegate\n"),
            ("1", "tidegate\n"),
            ("20", "tidegate\n"),
            ("3", "sh\n"),
            ("x4", "tidegate\n"),
        ] {
            fs::create_dir(proc.path().join(name)).expect("a directory");
            fs::write(proc.path().join(name).join("comm"), comm).expect("a file");
        }
        assert_eq!(processes(proc.path()), 2);
        assert_eq!(processes(&proc.path().join("nothing")), 1);
    }
}

//! Seeded simulation of everything behind devices' sockets: two edges, three workers and a store, each with its own tasks and clock,
//! and devices that publish, subscribe, move, come back and take each other over, while workers are killed, stand still and leave,
//! edges are killed, links are cut and stall, and the store is slow or away. It holds P1, P2, P3 and P5 of ARCHITECTURE.md, QoS 2 and
//! Wills once, one owner, and that nothing is left in the end; rules 1, 3 to 8, 10 to 12, 14 to 16, 21 and 26.
//! `TIDEGATE_SEED=n` replays one seed (`RUST_LOG=debug` tells what happens), `TIDEGATE_SEEDS=n` tries so many.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a simulation that meets the unexpected stops at once")]

mod client;
mod edge;
mod network;
mod oracle;
mod process;
mod store;
mod worker;
mod world;

use std::path::PathBuf;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rand::rngs::StdRng;

use world::{COUNTED, World};

/// Seeds of an ordinary test run.
const SEEDS: u64 = 64;

/// Steps of one seed, before everything is let run to its end without faults.
const STEPS: usize = 500;

type Dice = StdRng;

/// What passports are signed with.
struct Keys {
    _folder: tempfile::TempDir,
    file: PathBuf,
    public_pem: String,
}

static KEYS: LazyLock<Keys> = LazyLock::new(|| {
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("passport.pem");
    std::fs::write(&file, pair.serialize_pem()).unwrap();
    let public_pem = link::PassportSigner::from_file(&file).unwrap().public_pem().to_owned();
    Keys { _folder: folder, file, public_pem }
});

fn run(seed: u64) -> [usize; COUNTED.len()] {
    let mut world = World::new(seed);
    for _ in 0..STEPS {
        world.step();
    }
    world.settle();
    world.check();
    world.part()
}

fn number_from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn tell(counts: &[usize]) {
    let told: Vec<_> = COUNTED.iter().zip(counts).map(|(what, count)| format!("{count} {what}")).collect();
    println!("{}", told.join(", "));
}

#[test]
fn no_schedule_breaks_a_promise() {
    if let Some(seed) = number_from_environment("TIDEGATE_SEED") {
        let log = tracing_subscriber::fmt().without_time().with_ansi(false);
        log.with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
        return tell(&run(seed));
    }
    let seeds = number_from_environment("TIDEGATE_SEEDS").unwrap_or(SEEDS);
    let next = AtomicU64::new(0);
    let try_seeds = || {
        let mut total = [0; COUNTED.len()];
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds {
                return total;
            }
            let result = std::panic::catch_unwind(|| run(seed));
            let counts = result.unwrap_or_else(|_| panic!("replay with TIDEGATE_SEED={seed}"));
            total.iter_mut().zip(counts).for_each(|(total, count)| *total += count);
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(4);
    let totals: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(try_seeds)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let total: Vec<usize> = (0..COUNTED.len()).map(|at| totals.iter().map(|total| total[at]).sum()).collect();
    tell(&total);
    assert!(total.iter().all(|count| *count > 0), "something never happened");
}

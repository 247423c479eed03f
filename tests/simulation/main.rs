//! Seeded simulation of everything behind devices' sockets: two edges, three workers and a store, each with its own tasks and clock,
//! and devices that publish, retain, subscribe, share, move, come back and take each other over, while workers are killed, stand still and leave,
//! edges are killed, links are cut and stall, and the store, or one of its servers, is slow or away. It holds P1, P2, P3 and P5 of
//! ARCHITECTURE.md, QoS 2 and Wills once, one owner, and that nothing is left in the end; rules 1, 3 to 8, 10 to 12, 14 to 18, 21,
//! 26 and 30.
//! `TIDEGATE_SEED=n` replays one seed (`RUST_LOG=debug` tells what happens), `TIDEGATE_SEEDS=n` tries so many.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a simulation that meets the unexpected stops at once")]

mod edge;
mod network;
mod oracle;
mod process;
mod store;
mod will;
mod worker;
mod world;

use std::path::PathBuf;
use std::sync::LazyLock;

use testkit::authority::write_passport_key;
use testkit::dice::Dice;
use testkit::seeds;

use world::{COUNTED, World};

/// Seeds of an ordinary test run.
const SEEDS: u64 = 128;

/// Steps of one seed, before everything is let run to its end without faults.
const STEPS: usize = 500;

/// What passports are signed with.
struct Keys {
    _folder: tempfile::TempDir,
    file: PathBuf,
    public_pem: String,
}

static KEYS: LazyLock<Keys> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("passport.pem");
    write_passport_key(&file);
    let public_pem = link::PassportSigner::from_file(&file).unwrap().public_pem().to_owned();
    Keys { _folder: folder, file, public_pem }
});

#[test]
fn no_schedule_breaks_a_promise() {
    if seeds::replayed().is_some() {
        let log = tracing_subscriber::fmt().without_time().with_ansi(false);
        log.with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    }
    seeds::run(SEEDS, COUNTED, |seed| {
        let mut world = World::new(seed);
        for _ in 0..STEPS {
            world.step();
        }
        world.settle();
        world.check();
        world.part()
    });
}

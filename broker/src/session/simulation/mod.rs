//! Seeded simulation: a model client, the session core, a store, and a driver that delays, reorders, repeats and loses
//! what it may, with connections that break, processes that die, and connections that go on at another worker. `TIDEGATE_SEED=n` replays one seed, and
//! `TIDEGATE_SEEDS=n` tries so many.

mod client;
mod connection;
mod delivery;
mod dice;
mod edge;
mod store;
mod world;

use self::world::World;

/// Seeds of an ordinary test run.
const SEEDS: u64 = 320;

/// Steps of one seed, before everything is let run to its end without faults.
const STEPS: usize = 1_200;

/// The last of them, in which nothing new is published, so that faults come late too.
const STEPS_WINDING_DOWN: usize = 200;

fn run(seed: u64) {
    let mut world = World::new(seed);
    for step in 0..STEPS {
        world.step(step >= STEPS - STEPS_WINDING_DOWN);
    }
    world.settle();
    world.check();
}

fn number_from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn no_schedule_loses_repeats_or_reorders_a_message() {
    if let Some(seed) = number_from_environment("TIDEGATE_SEED") {
        return run(seed);
    }
    for seed in 0..number_from_environment("TIDEGATE_SEEDS").unwrap_or(SEEDS) {
        let result = std::panic::catch_unwind(|| run(seed));
        assert!(result.is_ok(), "replay with TIDEGATE_SEED={seed}");
    }
}

//! Seeded simulation: a model client, the session core, a store, and a driver that delays, reorders, repeats and loses
//! what it may, with connections that break, processes that die, and connections that go on at another worker. `TIDEGATE_SEED=n` replays one seed, and
//! `TIDEGATE_SEEDS=n` tries so many.

mod connection;
mod delivery;
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

#[test]
fn no_schedule_loses_repeats_or_reorders_a_message() {
    testkit::seeds::run(SEEDS, [], |seed| {
        let mut world = World::new(seed);
        for step in 0..STEPS {
            world.step(step >= STEPS - STEPS_WINDING_DOWN);
        }
        world.settle();
        world.check();
        []
    });
}

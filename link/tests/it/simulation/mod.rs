//! Seeded simulation: devices at one edge, workers behind links that cut bytes anywhere, stop for a while and die, and
//! workers that answer late, store in any order, refuse, drain and close. `TIDEGATE_SEED=n` replays one seed, and
//! `TIDEGATE_SEEDS=n` tries so many.

mod cable;
mod device;
mod world;

use self::world::World;

/// Seeds of an ordinary test run.
const SEEDS: u64 = 40;

/// Steps of one seed, before everything is let run to its end without faults.
const STEPS: usize = 1_500;

#[test]
fn what_is_not_durable_is_replayed_in_order_and_nothing_else() {
    let counted = ["packets", "replays", "deaths by silence", "links cut"];
    testkit::seeds::run(SEEDS, counted, |seed| {
        let mut world = World::new(seed);
        for _ in 0..STEPS {
            world.step(true);
        }
        world.settle();
        world.counts
    });
}

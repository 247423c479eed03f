//! Seeded simulation: devices at one edge, workers behind links that cut bytes anywhere, stop for a while and die, and
//! workers that answer late, store in any order, refuse, drain and close. `TIDEGATE_SEED=n` replays one seed, and
//! `TIDEGATE_SEEDS=n` tries so many.

mod cable;
mod device;
mod dice;
mod world;

use self::world::World;

/// Seeds of an ordinary test run.
const SEEDS: u64 = 40;

/// Steps of one seed, before everything is let run to its end without faults.
const STEPS: usize = 1_500;

fn run(seed: u64) -> [usize; 4] {
    let mut world = World::new(seed);
    for _ in 0..STEPS {
        world.step(true);
    }
    world.settle();
    world.counts
}

fn number_from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn what_is_not_durable_is_replayed_in_order_and_nothing_else() {
    if let Some(seed) = number_from_environment("TIDEGATE_SEED") {
        println!("packets, replays, deaths by silence, links cut: {:?}", run(seed));
        return;
    }
    let mut total = [0; 4];
    for seed in 0..number_from_environment("TIDEGATE_SEEDS").unwrap_or(SEEDS) {
        let result = std::panic::catch_unwind(|| run(seed));
        let counts = result.unwrap_or_else(|_| panic!("replay with TIDEGATE_SEED={seed}"));
        total.iter_mut().zip(counts).for_each(|(total, count)| *total += count);
    }
    println!("packets, replays, deaths by silence, links cut: {total:?}");
    assert!(total.iter().all(|count| *count > 0), "something never happened");
}

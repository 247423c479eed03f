//! Seeded simulation: devices with stored sessions that publish, subscribe and move between workers which share a store, while
//! answers come late or are lost, workers stop, are cut off and buried, and the log of routes loses its end.
//! `TIDEGATE_SEED=n` replays one seed, and `TIDEGATE_SEEDS=n` tries so many.

mod client;
mod dice;
pub(crate) mod faulty;
mod world;

use self::world::World;

/// Seeds of an ordinary test run.
const SEEDS: u64 = 320;

/// Steps of one seed, before everything is let run to its end without faults.
const STEPS: usize = 250;

fn run(seed: u64) -> [usize; 6] {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mut world = World::new(seed).await;
        for _ in 0..STEPS {
            world.step().await;
        }
        world.settle().await;
        world.check()
    })
}

fn number_from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

// P1, P3, P5, ARCHITECTURE, rules 1, 4, 14, 15, 16, 18, 21, 24.
#[test]
fn no_schedule_of_workers_loses_repeats_or_reorders_a_message() {
    if let Some(seed) = number_from_environment("TIDEGATE_SEED") {
        println!("messages, moves, stops, cuts, failovers, expelled: {:?}", run(seed));
        return;
    }
    let mut total = [0; 6];
    for seed in 0..number_from_environment("TIDEGATE_SEEDS").unwrap_or(SEEDS) {
        let result = std::panic::catch_unwind(|| run(seed));
        let counts = result.unwrap_or_else(|_| panic!("replay with TIDEGATE_SEED={seed}"));
        total.iter_mut().zip(counts).for_each(|(total, count)| *total += count);
    }
    println!("messages, moves, stops, cuts, failovers, expelled: {total:?}");
    assert!(total.iter().all(|count| *count > 0), "something never happened");
}

//! Throws of dice, which a seed repeats.

use rand::{Rng, SeedableRng};

/// Dice with a seed.
pub type Dice = rand::rngs::StdRng;

/// Those of this seed.
pub fn dice(seed: u64) -> Dice {
    Dice::seed_from_u64(seed)
}

/// What a simulation wants to know of them.
pub trait Throw: Rng {
    /// 0 to `bound` - 1; 0 for a bound of 0.
    fn below(&mut self, bound: usize) -> usize {
        self.random_range(0..bound.max(1))
    }

    /// Once in `n` times.
    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

impl Throw for Dice {}

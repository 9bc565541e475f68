//! A small random generator whose seed is the whole of its state.

use std::time::{SystemTime, UNIX_EPOCH};

pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    /// SplitMix64.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `sides`.
    pub(crate) fn roll(&mut self, sides: usize) -> usize {
        (self.next() % sides as u64) as usize
    }
}

/// Runs a check for as many seeds as the environment asks for, and says which.
pub(crate) fn for_each_seed(kind: &str, mut check: impl FnMut(u64)) {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let programs = number("EPILOGUE_MODEL_PROGRAMS").unwrap_or(10_000);
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
    let first = number("EPILOGUE_MODEL_SEED").unwrap_or_else(now) & (u64::MAX >> 1);
    println!("{kind}: {programs} programs from seed {first}");
    (first..first + programs).for_each(&mut check);
    println!("{kind}: no difference");
}

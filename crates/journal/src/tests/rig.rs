//! A small journal over a medium that fails on request, and dice.

use std::path::Path;
use std::sync::Arc;

use crate::header::{Meta, NewMeta, Tier};
use crate::journal::{Journal, Record};
use crate::layout::Geometry;
use crate::medium::{FileMedium, faulty::Faulty};

/// Eight slots a segment, twelve segments: what takes a real journal hours happens in a few steps.
pub(super) const SMALL: Geometry = Geometry { slots_log2: 3, segments_max: 12 };

pub(super) fn meta(tier: Tier) -> Meta {
    Meta::new(NewMeta { tier, ..NewMeta::default() }, SMALL, true).unwrap()
}

/// A new journal, and the medium under it.
pub(super) fn fresh(meta: &Meta) -> (Journal, Arc<Faulty>) {
    let medium = Arc::new(Faulty::new(Vec::new()));
    let journal = over(meta, &medium);
    journal.format_for_test();
    (journal, medium)
}

/// What somebody finds who comes later.
pub(super) fn found(meta: &Meta, words: Vec<u64>) -> Journal {
    over(meta, &Arc::new(Faulty::new(words)))
}

fn over(meta: &Meta, medium: &Arc<Faulty>) -> Journal {
    Journal::over(Path::new("test"), meta.clone(), FileMedium::Faulty(Arc::clone(medium)))
}

pub(super) fn record(body: &[u8], tier: Tier) -> Record<'_> {
    Record { scope: 1, time_ms: 5, body, tier }
}

/// A small random generator (splitmix64): a failing test says its seed.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn seeded(name: &str) -> (Dice, u64) {
        let given = std::env::var("EPILOGUE_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| {
            let mut bytes = [0; 8];
            crate::os::random(&mut bytes).unwrap();
            u64::from_le_bytes(bytes)
        });
        eprintln!("{name}: EPILOGUE_SEED={seed}");
        (Dice(seed), seed)
    }

    /// A number below `below`.
    pub(super) fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % below.max(1)
    }
}

/// How many rounds: many where somebody asks for them.
pub(super) fn rounds(usual: u64) -> u64 {
    std::env::var("EPILOGUE_JOURNAL_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(usual)
}

//! Where things are in the file. `docs/journal-format.md` is this file in prose.
//!
//! Everything is a little-endian 64-bit word; offsets below are in words.
//!
//! ```text
//! 0      header, first copy      512 words
//! 512    header, second copy     512 words
//! 1024   control words           512 words
//! 1536   directory              1024 words: which segment is where
//! 2560   unused, zero           1536 words
//! 4096   segments, each `slots` slots of 16 words
//! ```

pub(crate) const WORD_BYTES: usize = 8;
pub(crate) const HEADER_WORDS: usize = 512;
pub(crate) const CONTROL_WORDS: usize = 4096;
pub(crate) const SLOT_WORDS: usize = 16;
pub(crate) const DIRECTORY: usize = 1536;
pub(crate) const DIRECTORY_LEN: usize = 1024;

/// The control words, each on a cache line of its own.
pub(crate) mod control {
    /// Generation << 8 | phase.
    pub(crate) const PHASE: usize = 1024;
    /// The next position that nobody has reserved.
    pub(crate) const TAIL: usize = 1032;
    /// The copy that a mover is at; 0 while there is none. Under the lock.
    pub(crate) const COPYING: usize = 1033;
    /// Positions for copies that nobody has used: the next, and the end. Under the lock.
    pub(crate) const COPY_NEXT: usize = 1035;
    pub(crate) const COPY_END: usize = 1036;
    /// Odd while a record is being moved: who read meanwhile may have seen it nowhere.
    pub(crate) const MOVES: usize = 1037;
    /// How many amendments were made. Under the lock.
    pub(crate) const AMENDS: usize = 1038;
    /// How many segments the file has room for.
    pub(crate) const SEGMENTS: usize = 1040;
    /// The process whose death ends the run: pid, then its start time in clock ticks since boot.
    pub(crate) const OWNER: usize = 1048;
    /// 1 while that process itself holds the lock that says that the run's owner lives.
    pub(crate) const OWNER_HOLDS: usize = OWNER + 2;
    /// Who pays at the moment: pid, then start time, then the PID namespace that both are of; 0 while that
    /// is not known.
    pub(crate) const PAYER: usize = 1056;
    pub(crate) const PAYER_NAMESPACE: usize = PAYER + 2;
    /// The last scope number given out.
    pub(crate) const SCOPES: usize = 1064;
    /// How the owner ended, if somebody knows: see [`Ended`](crate::Ended).
    pub(crate) const ENDED: usize = 1072;
    /// 1 once a record was promised to survive a power cut.
    pub(crate) const POWER: usize = 1096;
    /// The process that waits for the owner and pays after it, as `OWNER`; 0 where there is none.
    pub(crate) const WRAPPER: usize = 1080;
}

/// Sizes that the header states, so that a test can have small ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    /// Slots of a segment, as a power of two.
    pub(crate) slots_log2: u32,
    /// How many segments there may be.
    pub(crate) segments_max: u32,
}

impl Geometry {
    /// 2048 slots, 256 KiB a segment; 256 MiB in all.
    pub(crate) const STANDARD: Geometry = Geometry { slots_log2: 11, segments_max: 1023 };

    pub(crate) fn slots(self) -> u64 {
        1 << self.slots_log2
    }

    pub(crate) fn segment_words(self) -> usize {
        SLOT_WORDS << self.slots_log2
    }

    /// The first word of a segment's place.
    pub(crate) fn place(self, index: u32) -> usize {
        CONTROL_WORDS + index as usize * self.segment_words()
    }

    /// Words of a file with room for this many segments.
    pub(crate) fn words(self, segments: u32) -> usize {
        self.place(segments)
    }

    /// The first position that there is not: the directory holds numbers of segments in 32 bits. At a
    /// million records a second that is a hundred days.
    pub(crate) fn positions(self) -> u64 {
        u64::from(u32::MAX - 1) << self.slots_log2
    }

    pub(crate) fn segment_of(self, lsn: u64) -> u64 {
        lsn >> self.slots_log2
    }

    pub(crate) fn slot_of(self, lsn: u64) -> usize {
        // Masked to `slots_log2` bits, so it fits.
        (lsn & (self.slots() - 1)) as usize
    }
}

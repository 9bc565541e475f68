//! The layout of the file, in 64-bit words of the machine's byte order.
//!
//! ```text
//! header   16 words    magic, pid, totals, number of the next event
//! pending  1024 slots  state, time, then 14 words of text
//! events   4096 slots  number + 1, time, kind, then 13 words of text
//! ```
//!
//! A slot's first word is written last, with release ordering: a slot whose first word is set is
//! whole, whenever the writer died.

/// `EPLRING1`, as bytes in file order.
pub(crate) const MAGIC: u64 = u64::from_ne_bytes(*b"EPLRING1");

pub(crate) const HEADER_WORDS: usize = 16;
pub(crate) const SLOT_WORDS: usize = 16;
pub(crate) const PENDING_SLOTS: usize = 1024;
pub(crate) const EVENT_SLOTS: usize = 4096;
pub(crate) const PENDING_TEXT_WORDS: usize = 14;
pub(crate) const EVENT_TEXT_WORDS: usize = 13;

pub(crate) const WORDS: usize = HEADER_WORDS + SLOT_WORDS * (PENDING_SLOTS + EVENT_SLOTS);
pub(crate) const BYTES: usize = WORDS * 8;

/// Words of the header.
pub(crate) mod header {
    pub(crate) const MAGIC: usize = 0;
    pub(crate) const PID: usize = 1;
    pub(crate) const RAN: usize = 2;
    pub(crate) const FAILED: usize = 3;
    pub(crate) const PANICKED: usize = 4;
    pub(crate) const ABANDONED: usize = 5;
    pub(crate) const DISARMED: usize = 6;
    /// Registrations for which the table had no room.
    pub(crate) const UNNAMED: usize = 7;
    pub(crate) const NEXT_EVENT: usize = 8;
}

/// States of a pending slot.
pub(crate) mod state {
    pub(crate) const FREE: u64 = 0;
    pub(crate) const CLAIMED: u64 = 1;
    pub(crate) const PENDING: u64 = 2;
}

pub(crate) fn pending_slot(index: usize) -> usize {
    HEADER_WORDS + index * SLOT_WORDS
}

pub(crate) fn event_slot(number: u64) -> usize {
    // The remainder is below EVENT_SLOTS, so it fits.
    let index = (number % EVENT_SLOTS as u64) as usize;
    HEADER_WORDS + (PENDING_SLOTS + index) * SLOT_WORDS
}

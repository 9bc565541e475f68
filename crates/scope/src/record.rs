//! Where registrations and payments are made known, for a program that wants them on record; and
//! the list of the scopes that are live.
//!
//! This crate writes nothing itself: a [`Recorder`] does, once one is set. With neither a recorder
//! nor the list, a registration costs one relaxed load.

mod context;
mod live;
mod registration;

pub use context::{Context, current, in_context};
pub use live::{Live, LiveScope, PendingCleanup, list_live_scopes, live_scopes};
#[doc(hidden)]
pub use live::{enter, owes};
pub use registration::{Finished, Recorder, Registration, set_recorder};

use std::sync::atomic::{AtomicU8, Ordering};

/// What is on: bits, so that one load tells that nothing is.
static ON: AtomicU8 = AtomicU8::new(0);
const RECORDER: u8 = 1;
const LIST: u8 = 2;

#[inline(always)]
fn is_on(what: u8) -> bool {
    // Relaxed: what is behind the bit is published by its own lock.
    ON.load(Ordering::Relaxed) & what != 0
}

/// Whether anything is recorded or listed.
#[inline(always)]
pub fn is_recording() -> bool {
    is_on(RECORDER | LIST)
}

fn turn(what: u8, on: bool) {
    if on {
        ON.fetch_or(what, Ordering::Release);
    } else {
        ON.fetch_and(!what, Ordering::Release);
    }
}

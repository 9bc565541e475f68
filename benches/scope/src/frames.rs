//! The functions whose machine code is shown in `docs/why/cost-of-a-defer.md`, and the bare guard that
//! everything is compared with.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};

use epilogue::defer;

static COUNT: AtomicU64 = AtomicU64::new(0);

/// What is deferred: not inlined, and may unwind for all that the caller knows.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "Rust" fn callee(value: u64) {
    if black_box(value) == u64::MAX {
        std::panic::resume_unwind(Box::new(value));
    }
    COUNT.store(value, Ordering::Relaxed);
}

/// Two calls, one after the other.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "Rust" fn by_hand(value: u64) {
    callee(value);
    callee(value + 1);
}

/// The second call in a hand-written guard: what every peer is at best.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "Rust" fn by_drop(value: u64) {
    let _guard = Bare(|| callee(value + 1));
    callee(value);
}

/// The second call deferred.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "Rust" fn by_defer(value: u64) {
    defer!(callee(value + 1));
    callee(value);
}

/// A guard that isolates nothing.
pub(crate) struct Bare<F: FnMut()>(pub(crate) F);

impl<F: FnMut()> Drop for Bare<F> {
    #[inline(always)]
    fn drop(&mut self) {
        (self.0)();
    }
}

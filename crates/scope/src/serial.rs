//! Numbers that tell scopes apart.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

/// Below it a number counts the scopes of one thread, above it the threads.
const THREAD_BITS: u32 = 40;

/// Of no other scope of this thread: a scope does not leave its thread, so the thread may count.
#[inline]
pub(crate) fn next() -> u64 {
    thread_local!(static LAST: Cell<u64> = const { Cell::new(0) });
    LAST.set(LAST.get() + 1);
    LAST.get()
}

/// A number of [`next`], made one that no other thread has either. Never 0, and at least 2⁴⁰.
pub(crate) fn of_process(serial: u64) -> u64 {
    static THREADS: AtomicU64 = AtomicU64::new(0);
    thread_local!(static THREAD: Cell<u64> = const { Cell::new(0) });
    if THREAD.get() == 0 {
        THREAD.set(THREADS.fetch_add(1, Ordering::Relaxed) + 1);
    }
    THREAD.get() << THREAD_BITS | serial
}

/// A number for a scope of another kind.
pub fn fresh() -> u64 {
    of_process(next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_scopes_of_a_process_have_the_same_number() {
        let take = || (0..100).map(|_| fresh()).collect::<Vec<_>>();
        let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(take)).collect();
        let mut all: Vec<u64> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 400);
        assert!(all[0] >= 1 << THREAD_BITS);
    }
}

//! Numbers that tell the scopes of a process apart.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

/// A thread takes so many numbers at a time, so that it can count by itself.
const BLOCK: u64 = 1 << 16;
/// Below are the numbers that journals give out themselves. Above 2⁵³, which some readers of JSON round, are
/// those of the 10¹¹th thread.
const FIRST: u64 = 1 << 40;

/// Of no other scope of this process, and above those that this thread was given before.
#[inline]
pub fn next() -> u64 {
    thread_local!(static NEXT: Cell<u64> = const { Cell::new(0) });
    let next = match NEXT.get() {
        used if used.is_multiple_of(BLOCK) => block(),
        next => next,
    };
    NEXT.set(next + 1);
    next
}

#[cold]
fn block() -> u64 {
    static BLOCKS: AtomicU64 = AtomicU64::new(FIRST);
    BLOCKS.fetch_add(BLOCK, Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_scopes_of_a_process_have_the_same_number_and_a_threads_own_rise() {
        let take = || (0..2 * BLOCK + 10).map(|_| next()).collect::<Vec<_>>();
        let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(take)).collect();
        let each: Vec<Vec<u64>> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert!(each.iter().all(|numbers| numbers.is_sorted() && numbers[0] >= FIRST));
        let mut all = each.concat();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len() as u64, 4 * (2 * BLOCK + 10));
    }
}

//! The lock of an async stack: one atomic exchange to take, one store to give back.
//!
//! It is held for a push or a pop, and nearly always by the one future that has the scope; only a
//! handle on another thread can meet it. A standard mutex costs two exchanges, and there is one at
//! every registration.

use std::ops::{Deref, DerefMut};

use crate::sync::{AtomicBool, MutPtr, Ordering, UnsafeCell, yield_now};

pub(crate) struct Lock<T> {
    held: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached through a guard only, and there is one guard at a time.
unsafe impl<T: Send> Sync for Lock<T> {}

impl<T> Lock<T> {
    pub(crate) fn new(value: T) -> Lock<T> {
        Lock { held: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }

    /// Waits for whoever holds it, which is for the length of a push. Nothing that is called while it
    /// is held may panic, or come back here.
    #[inline]
    pub(crate) fn lock(&self) -> Guard<'_, T> {
        while self.held.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
            yield_now();
        }
        Guard { value: self.value.get_mut(), _release: Release(&self.held) }
    }
}

/// The access to the value ends before the lock is released: fields are dropped in their order.
pub(crate) struct Guard<'a, T> {
    value: MutPtr<T>,
    _release: Release<'a>,
}

struct Release<'a>(&'a AtomicBool);

impl Drop for Release<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: there is one guard at a time, and this borrows it.
        unsafe { self.value.deref() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above, and this borrows it mutably.
        unsafe { self.value.deref() }
    }
}

#[cfg(all(test, epilogue_loom))]
mod loom_tests {
    use loom::sync::Arc;

    use super::Lock;

    #[test]
    fn two_threads_never_hold_it_at_once_and_see_each_others_writes() {
        crate::sync::model(|| {
            let lock = Arc::new(Lock::new((0_u32, 0_u32)));
            let threads: Vec<_> = (0..2)
                .map(|_| {
                    let lock = lock.clone();
                    loom::thread::spawn(move || {
                        let mut held = lock.lock();
                        held.0 += 1;
                        assert_eq!(held.0, held.1 + 1);
                        held.1 += 1;
                    })
                })
                .collect();
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            assert_eq!(*lock.lock(), (2, 2));
        });
    }
}

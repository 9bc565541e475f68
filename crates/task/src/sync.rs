//! What is shared between threads, from std or from loom.

#[cfg(epilogue_loom)]
pub(crate) use loom::{
    cell::{MutPtr, UnsafeCell},
    sync::atomic::{AtomicBool, Ordering},
    thread::yield_now,
};
#[cfg(not(epilogue_loom))]
pub(crate) use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread::yield_now,
};

#[cfg(not(epilogue_loom))]
pub(crate) use plain::{MutPtr, UnsafeCell};

/// Loom's shapes over std's cell.
#[cfg(not(epilogue_loom))]
mod plain {
    pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

    impl<T> UnsafeCell<T> {
        pub(crate) fn new(value: T) -> UnsafeCell<T> {
            UnsafeCell(std::cell::UnsafeCell::new(value))
        }

        #[inline]
        pub(crate) fn get_mut(&self) -> MutPtr<T> {
            MutPtr(self.0.get())
        }
    }

    pub(crate) struct MutPtr<T>(*mut T);

    impl<T> MutPtr<T> {
        /// # Safety
        ///
        /// The value is alive, and nobody else has a reference to it.
        #[inline]
        #[expect(clippy::mut_from_ref, reason = "the contract says that it is the only one")]
        pub(crate) unsafe fn deref(&self) -> &mut T {
            // SAFETY: this function's contract.
            unsafe { &mut *self.0 }
        }
    }
}

/// Runs a body in every order of its threads. A lock that is spun on needs a bound: without one a
/// thread could be left spinning for ever.
#[cfg(all(test, epilogue_loom))]
pub(crate) fn model(body: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(body);
}

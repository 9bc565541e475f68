//! Guards: cleanups that live on the stack of the function that owes them.

use std::fmt;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, Location, catch_unwind, resume_unwind};

use crate::chain::{Payload, keep_late, keep_overtaking};
use crate::cleanup::CleanupResult;
use crate::record::{Finished, Registration};
use crate::report;

/// Ties `cleanup` to `value`: the value stays usable through the guard, and is handed to the
/// cleanup when the guard is dropped.
///
/// # Examples
///
/// ```
/// use epilogue_scope::guard;
/// use std::fs;
///
/// let path = std::env::temp_dir().join(format!("guard-{}", std::process::id()));
/// fs::write(&path, "half an upload")?;
/// let spool = guard(path.clone(), fs::remove_file);
/// assert!(spool.exists());          // usable meanwhile
/// drop(spool);
/// assert!(!path.exists());
/// # Ok::<(), std::io::Error>(())
/// ```
#[track_caller]
pub fn guard<T, F, C>(value: T, cleanup: F) -> Guard<T, F, C>
where
    F: FnOnce(T) -> C,
    C: CleanupResult,
{
    let place = Location::caller();
    Guard {
        owed: ManuallyDrop::new((value, cleanup)),
        registration: Registration::new("guard", place),
        place,
    }
}

/// A cleanup with the value it ends; see [`guard`].
///
/// Dropping it runs the cleanup once. What the cleanup returns as an error goes to the
/// [`report`](crate::report) sink. Recorded, when a [`Recorder`](crate::record::Recorder) is set.
#[must_use = "a guard that is not bound is dropped at once, and its cleanup runs at once"]
pub struct Guard<T, F, C = ()>
where
    F: FnOnce(T) -> C,
    C: CleanupResult,
{
    owed: ManuallyDrop<(T, F)>,
    registration: Registration,
    place: &'static Location<'static>,
}

impl<T, F: FnOnce(T) -> C, C: CleanupResult> Guard<T, F, C> {
    /// Takes the value back; the cleanup shall not run.
    ///
    /// # Examples
    ///
    /// ```
    /// let reply = epilogue_scope::guard(String::from("kept"), drop);
    /// assert_eq!(reply.disarm(), "kept");
    /// ```
    pub fn disarm(self) -> T {
        let mut this = ManuallyDrop::new(self);
        this.registration.finish(Finished::Disarmed);
        // SAFETY: `this` is never dropped, so `owed` is taken here and nowhere else.
        let (value, cleanup) = unsafe { ManuallyDrop::take(&mut this.owed) };
        drop(cleanup);
        value
    }

    /// Runs the cleanup now instead of at the end of the block.
    pub fn run_now(self) {
        drop(self);
    }
}

impl<T, F: FnOnce(T) -> C, C: CleanupResult> Drop for Guard<T, F, C> {
    fn drop(&mut self) {
        // SAFETY: `drop` runs once, and `disarm`, the only other taker, prevents it from running.
        let (value, cleanup) = unsafe { ManuallyDrop::take(&mut self.owed) };
        let place = self.place;
        let registration = &mut self.registration;
        isolate(|| match catch_unwind(AssertUnwindSafe(|| cleanup(value).into_error())) {
            Ok(None) => registration.finish(Finished::Ran),
            Ok(Some(error)) => {
                registration.finish(Finished::Failed);
                report::failed(&report::Place(place).to_string(), &*error);
            }
            Err(payload) => {
                registration.finish(Finished::Panicked);
                resume_unwind(payload)
            }
        });
    }
}

impl<T, F: FnOnce(T) -> C, C: CleanupResult> Deref for Guard<T, F, C> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.owed.0
    }
}

impl<T, F: FnOnce(T) -> C, C: CleanupResult> DerefMut for Guard<T, F, C> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.owed.0
    }
}

impl<T: fmt::Debug, F: FnOnce(T) -> C, C: CleanupResult> fmt::Debug for Guard<T, F, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Guard").field(&self.owed.0).finish()
    }
}

/// The guard behind [`defer!`](crate::defer): runs a closure when dropped, isolated.
///
/// Use the macro; it keeps errors, and refuses values that are not cleanups.
pub struct Defer<F: FnOnce()>(ManuallyDrop<F>);

impl<F: FnOnce()> Defer<F> {
    /// Owes `cleanup` to the block that holds the guard.
    #[inline(always)]
    pub fn new(cleanup: F) -> Defer<F> {
        Defer(ManuallyDrop::new(cleanup))
    }
}

impl<F: FnOnce()> Drop for Defer<F> {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: `drop` runs once and is the only place that takes the closure.
        let cleanup = unsafe { ManuallyDrop::take(&mut self.0) };
        isolate(cleanup);
    }
}

/// [`Defer`] in a function with a boundary of its own around the guard: a cleanup that looks at the
/// ending stands before it. A panic waits for that boundary, so that the result which the function
/// has returned meanwhile is not lost with it.
pub struct LateDefer<F: FnOnce()>(ManuallyDrop<F>);

impl<F: FnOnce()> LateDefer<F> {
    /// Owes `cleanup` to the function that holds the guard.
    #[inline(always)]
    pub fn new(cleanup: F) -> LateDefer<F> {
        LateDefer(ManuallyDrop::new(cleanup))
    }
}

impl<F: FnOnce()> Drop for LateDefer<F> {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: `drop` runs once and is the only place that takes the closure.
        let cleanup = unsafe { ManuallyDrop::take(&mut self.0) };
        if let Err(payload) = catch_unwind(AssertUnwindSafe(cleanup)) {
            keep_late(payload);
        }
    }
}

/// Runs a cleanup of a guard. Always catching costs less than asking whether the thread is
/// unwinding: the good path has no test.
#[inline(always)]
fn isolate(cleanup: impl FnOnce()) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(cleanup)) {
        escaped(payload);
    }
}

#[cold]
#[inline(never)]
fn escaped(payload: Payload) {
    if std::thread::panicking() {
        // A second panic cannot replace the one in flight: the next boundary puts them in a chain.
        keep_overtaking(payload);
    } else {
        resume_unwind(payload);
    }
}

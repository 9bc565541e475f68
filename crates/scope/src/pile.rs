//! A pile: a stack of cleanups that is a value of its own.

use std::fmt;
use std::panic::Location;
use std::ptr::NonNull;

use crate::attempt::Errors;
use crate::cleanup::{CleanupError, CleanupResult};
use crate::ending::{Ending, How};
use crate::pay;
use crate::record::Registration;
use crate::stack::Stack;

/// Cleanups that run when the pile is dropped, newest first, each isolated from the others.
///
/// For what is registered in a loop or a branch and owed by what is around it, and for handing on
/// what a scope owes ([`Scope::pop_all`](crate::Scope::pop_all)). Errors go to the
/// [`report`](crate::report) sink. `#[scoped]` puts one before every loop that defers.
///
/// # Panics
///
/// Dropping it raises the newest panic of its cleanups, after all of them have run.
///
/// # Cost
///
/// A few words a cleanup; the first four small ones without an allocation, and one for every
/// doubling after that.
///
/// # Examples
///
/// ```
/// use epilogue_scope::Pile;
/// # use std::cell::RefCell;
///
/// let log = RefCell::new(Vec::new());
/// {
///     let pile = Pile::new();
///     for turn in 0..3 {
///         pile.defer({ let log = &log; move || log.borrow_mut().push(turn) });
///     }
/// }
/// assert_eq!(*log.borrow(), [2, 1, 0]);
/// ```
#[must_use = "a pile that is not bound is dropped at once, and its cleanups run at once"]
pub struct Pile<'a> {
    owed: Stack<'a, How>,
    /// The function around it has a boundary of its own, for which its panics wait.
    late: bool,
    /// The scopes whose cleanups these are, where somebody keeps something beside them.
    of: Option<Box<[u64]>>,
}

impl<'a> Pile<'a> {
    /// A pile that owes nothing.
    #[inline]
    pub const fn new() -> Pile<'a> {
        Pile { owed: Stack::new(), late: false, of: None }
    }

    /// A pile of a function with a boundary of its own around it, for `#[scoped]`.
    #[doc(hidden)]
    #[inline]
    pub const fn late() -> Pile<'a> {
        Pile { owed: Stack::new(), late: true, of: None }
    }

    /// Owes a cleanup, which may borrow what was declared before the pile.
    #[inline]
    #[track_caller]
    pub fn defer<C: CleanupResult>(&self, cleanup: impl FnOnce() -> C + 'a) {
        let place = Location::caller();
        self.owed.push(move |_| cleanup().into_error(), place, Registration::new("pile", place));
    }

    /// Owes a cleanup that is told how the pile ends: [`How::Dropped`], or how the scope ended that
    /// [adopted](crate::Scope::adopt) it.
    #[track_caller]
    pub fn defer_with<C: CleanupResult>(&self, cleanup: impl FnOnce(How) -> C + 'a) {
        let place = Location::caller();
        self.owed.push(move |how| cleanup(*how).into_error(), place, Registration::new("pile", place));
    }

    /// Owes a cleanup with the value it ends, which stays usable meanwhile.
    ///
    /// # Examples
    ///
    /// ```
    /// use epilogue_scope::Pile;
    /// use std::{fs, env};
    ///
    /// let pile = Pile::new();
    /// for part in 0..2 {
    ///     let path = pile.keep(env::temp_dir().join(format!("part-{part}-{}", std::process::id())),
    ///                          |path| fs::remove_file(path));
    ///     fs::write(&*path, "half an upload")?;
    /// }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[inline]
    #[track_caller]
    #[expect(clippy::mut_from_ref, reason = "each call makes a value of its own, which nobody else touches")]
    pub fn keep<T: 'a, C: CleanupResult>(&self, value: T, cleanup: impl FnOnce(T) -> C + 'a) -> &mut T {
        let (mut value, owner) = Kept::new(value);
        self.defer(move || cleanup(owner.take()));
        // SAFETY: allocated above; its owner touches it only when the cleanup runs or is dropped, for
        // which the pile must not be borrowed, as the returned reference does.
        unsafe { value.as_mut() }
    }

    /// [`keep`](Pile::keep) for `#[scoped]`: an error is kept for the function's result.
    #[doc(hidden)]
    #[inline]
    #[track_caller]
    pub fn keep_into<T, C, F>(&self, errors: &'a Errors, place: &'static str, value: T, cleanup: F) -> &mut T
    where
        T: 'a,
        C: CleanupResult,
        F: FnOnce(T) -> C + 'a,
    {
        self.keep(value, move |value| errors.keep(cleanup(value), place))
    }

    /// How many cleanups are pending. What was taken off a scope counts as one.
    pub fn pending(&self) -> usize {
        self.owed.len()
    }

    /// Runs everything now, and gives the errors to the caller.
    ///
    /// # Errors
    ///
    /// What the cleanups returned.
    ///
    /// # Panics
    ///
    /// As dropping it.
    pub fn run_now(mut self) -> Result<(), crate::CleanupErrors> {
        let mut errors = Vec::new();
        let raised = pay::pile(&mut self.owed, How::Dropped, &mut errors);
        if raised.is_any() {
            errors.iter().for_each(CleanupError::report);
        }
        raised.raise_if_any();
        crate::CleanupErrors::new(errors).map_or(Ok(()), Err)
    }

    /// Makes sure that nothing of it runs. The closures are dropped.
    pub fn disarm(mut self) {
        let raised =
            self.owed.drop_all(|registration| registration.finish(crate::record::Finished::Disarmed));
        if let Some(raised) = raised {
            raised.raise_if_any();
        }
    }

    /// What it owes, and whose that was.
    pub(crate) fn into_stack(mut self) -> (Stack<'a, How>, Box<[u64]>) {
        (self.owed.take_all(), self.of.take().unwrap_or_default())
    }

    /// Owes what these scopes owed, as one entry.
    pub(crate) fn adopt_stack<R: 'a>(
        &mut self,
        mut stack: Stack<'a, Ending<'a, R>>,
        of: Vec<u64>,
        place: &'static Location<'static>,
    ) {
        self.of = Some(of).filter(|of| !of.is_empty()).map(Vec::into_boxed_slice);
        let pay = move |how: &mut How| {
            let mark = crate::chain::Mark::here();
            let mut ending = Ending::<R>::known_only(*how);
            pay::scope(&mut stack, &mut ending, &Default::default());
            pay::conclude_open(mark, ending);
            None
        };
        // Each of them is on record already.
        self.owed.push(pay, place, Registration::default());
    }
}

impl Default for Pile<'_> {
    fn default() -> Self {
        Pile::new()
    }
}

impl fmt::Debug for Pile<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pile").field("pending", &self.pending()).finish()
    }
}

impl Drop for Pile<'_> {
    #[inline]
    fn drop(&mut self) {
        if !self.owed.is_empty() {
            drop_pile(&mut self.owed, self.late);
        }
    }
}

fn drop_pile(owed: &mut Stack<'_, How>, late: bool) {
    let mut errors = Vec::new();
    let raised = pay::pile(owed, How::Dropped, &mut errors);
    errors.iter().for_each(CleanupError::report);
    if late { raised.keep_late() } else { raised.raise_or_keep() }
}

/// A [`Pile`] whose cleanups may be run on another thread: for a future that is sent between
/// threads.
#[must_use = "a pile that is not bound is dropped at once, and its cleanups run at once"]
#[derive(Debug, Default)]
pub struct SendPile<'a>(Pile<'a>);

// SAFETY: only closures, and the values they keep, that are Send are ever put on it.
unsafe impl Send for SendPile<'_> {}

impl<'a> SendPile<'a> {
    /// As [`Pile::new`].
    #[inline]
    pub const fn new() -> SendPile<'a> {
        SendPile(Pile::new())
    }

    /// As `Pile::late`.
    #[doc(hidden)]
    #[inline]
    pub const fn late() -> SendPile<'a> {
        SendPile(Pile::late())
    }

    /// As [`Pile::defer`].
    #[inline]
    #[track_caller]
    pub fn defer<C: CleanupResult>(&self, cleanup: impl FnOnce() -> C + Send + 'a) {
        self.0.defer(cleanup);
    }

    /// As [`Pile::keep`].
    #[inline]
    #[track_caller]
    pub fn keep<T, C, F>(&self, value: T, cleanup: F) -> &mut T
    where
        T: Send + 'a,
        C: CleanupResult,
        F: FnOnce(T) -> C + Send + 'a,
    {
        self.0.keep(value, cleanup)
    }

    /// As `Pile::keep_into`.
    #[doc(hidden)]
    #[inline]
    #[track_caller]
    pub fn keep_into<T, C, F>(&self, errors: &'a Errors, place: &'static str, value: T, cleanup: F) -> &mut T
    where
        T: Send + 'a,
        C: CleanupResult,
        F: FnOnce(T) -> C + Send + 'a,
    {
        self.0.keep_into(errors, place, value, cleanup)
    }

    /// As [`Pile::disarm`].
    pub fn disarm(self) {
        self.0.disarm();
    }

    /// As [`Pile::pending`].
    pub fn pending(&self) -> usize {
        self.0.pending()
    }
}

/// A value that is borrowed elsewhere until its cleanup runs. On the heap: the closure that owns it
/// moves with its pile, and no reference may be into that.
pub(crate) struct Kept<T>(NonNull<T>);

impl<T> Kept<T> {
    /// The value's place, and its owner, which must not be dropped or taken from while that place is
    /// in use.
    pub(crate) fn new(value: T) -> (NonNull<T>, Kept<T>) {
        let place = NonNull::from(Box::leak(Box::new(value)));
        (place, Kept(place))
    }

    pub(crate) fn take(self) -> T {
        let kept = std::mem::ManuallyDrop::new(self);
        // SAFETY: from `Box::leak`, taken once: `self` is not dropped.
        *unsafe { Box::from_raw(kept.0.as_ptr()) }
    }
}

impl<T> Drop for Kept<T> {
    fn drop(&mut self) {
        // SAFETY: from `Box::leak`; `take` keeps this from running.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

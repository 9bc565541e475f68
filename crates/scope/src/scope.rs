//! The scope as a plain function: a stack of cleanups that may look at the ending.

use std::cell::OnceCell;
use std::panic::Location;
use std::rc::{Rc, Weak};

use crate::adopted;
use crate::boundary::attempt_into;
use crate::chain::Mark;
use crate::cleanup::{CleanupError, CleanupErrors, CleanupResult};
use crate::ending::{Ending, How};
use crate::pay;
use crate::pile::Pile;
use crate::record::{Live, Registration};
use crate::serial;
use crate::stack::Stack;

/// Runs `body`, then what it registered on the scope, newest first, and returns what is left: the
/// body's result, what a cleanup put in its place, or the panic, raised again.
///
/// Cleanups run after the body has been left, so they see `std::thread::panicking() == false`
/// even when a panic is in flight, and code they call behaves as in a normal return. An error that
/// a cleanup returns goes to the [`report`](crate::report) sink; [`try_scope`] puts it into the
/// result instead.
///
/// # Panics
///
/// Raises the newest panic in flight that no cleanup recovered.
///
/// # Cost
///
/// One catch, and a few words a cleanup: nothing is allocated for the first four small ones.
///
/// # Examples
///
/// ```
/// use epilogue_scope::scope;
///
/// let total = scope(|s| {
///     s.defer_with(|end| if end.result() == Some(&3) { end.replace(4) });
///     1 + 2
/// });
/// assert_eq!(total, 4);
/// ```
#[track_caller]
pub fn scope<'env, R>(body: impl FnOnce(&Scope<'env, R>) -> R) -> R {
    let (result, errors) = run(body, |_| false, false);
    errors.iter().for_each(CleanupError::report);
    result
}

/// [`scope`] for a fallible body: an error of a cleanup is not lost in the sink, and cleanups can
/// tell [failure](How::Failed) from success.
///
/// # Errors
///
/// The body's own error stays as it is, and the cleanups' errors go to the
/// [`report`](crate::report) sink. Where the body returned `Ok`, the cleanups' errors become the
/// result, by `E: From<CleanupErrors>`.
///
/// # Panics
///
/// As [`scope`].
///
/// # Examples
///
/// ```
/// use epilogue_scope::{CleanupErrors, try_scope};
///
/// let saved: Result<u32, CleanupErrors> = try_scope(|s| {
///     s.defer(|| Err::<(), _>("the disk is full"));
///     Ok(7)
/// });
/// assert!(saved.unwrap_err().to_string().ends_with("failed: the disk is full"));
/// ```
#[track_caller]
pub fn try_scope<'env, T, E: From<CleanupErrors>>(
    body: impl FnOnce(&Scope<'env, Result<T, E>>) -> Result<T, E>,
) -> Result<T, E> {
    let (result, errors) = run(body, Result::is_err, true);
    match CleanupErrors::new(errors) {
        Some(errors) => errors.join(result),
        None => result,
    }
}

/// The stack of what a [`scope`] owes.
pub struct Scope<'env, R> {
    owed: Stack<'env, Ending<'env, R>>,
    live: Live,
    /// Unlike its address, no other scope's of this thread.
    serial: u64,
    /// Made when somebody asks; gone with the scope.
    open: OnceCell<Rc<()>>,
}

/// A cleanup on a [`Scope`], to [disarm](Scope::disarm) it or to [run it now](Scope::run_now).
#[derive(Clone, Copy, Debug)]
pub struct Deferred {
    scope: u64,
    id: u64,
}

/// Of a cleanup that was taken out: given back when its closure is gone, also by a panic.
struct Room<'a, 'env, Cx> {
    of: &'a Stack<'env, Cx>,
    id: u64,
}

impl<Cx> Drop for Room<'_, '_, Cx> {
    fn drop(&mut self) {
        self.of.give_back(self.id);
    }
}

impl<'env, R> Scope<'env, R> {
    /// Registers a cleanup, to run when the scope is left by any door.
    #[track_caller]
    pub fn defer<C: CleanupResult>(&self, cleanup: impl FnOnce() -> C + 'env) -> Deferred {
        self.push(Location::caller(), move |_| cleanup().into_error())
    }

    /// Registers a cleanup that looks at the ending, and may replace the result or recover.
    #[track_caller]
    pub fn defer_with<C, F>(&self, cleanup: F) -> Deferred
    where
        C: CleanupResult,
        F: FnOnce(&mut Ending<'env, R>) -> C + 'env,
    {
        self.push(Location::caller(), move |end| cleanup(end).into_error())
    }

    /// Makes sure that a cleanup will not run. Returns whether it was pending; the closure is
    /// dropped.
    ///
    /// # Examples
    ///
    /// ```
    /// epilogue_scope::scope(|s| {
    ///     let undo = s.defer(|| panic!("must not run"));
    ///     assert!(s.disarm(undo));
    ///     assert!(!s.disarm(undo), "it is not pending any more");
    /// });
    /// ```
    ///
    /// # Cost
    ///
    /// A search from the newest down. Its room is used again once nothing newer is pending.
    pub fn disarm(&self, deferred: Deferred) -> bool {
        let Some(mut top) = self.take(deferred) else { return false };
        let _room = Room { of: &self.owed, id: deferred.id };
        top.registration.finish(crate::record::Finished::Disarmed);
        drop(top);
        true
    }

    /// Runs a cleanup now, not at the end. Returns whether it was pending. It sees
    /// [`How::Open`]; an error goes to the [`report`](crate::report) sink.
    ///
    /// # Panics
    ///
    /// With what the cleanup raised.
    pub fn run_now(&self, deferred: Deferred) -> bool {
        let Some(top) = self.take(deferred) else { return false };
        let room = Room { of: &self.owed, id: deferred.id };
        let mut ending = Ending::<'env, R>::known_only(How::Open);
        let mark = Mark::here();
        // SAFETY: it was just taken from this scope's stack, whose closures take this `Ending`.
        unsafe { pay::single(top, &mut ending) };
        drop(room);
        pay::conclude_open(mark, ending);
        true
    }

    /// How many cleanups are pending.
    pub fn pending(&self) -> usize {
        self.owed.len()
    }

    /// A number that no other scope of this process has, for what is kept beside the scope.
    pub fn id(&self) -> u64 {
        self.serial
    }

    /// Alive as long as this scope is: its body, and its cleanups as it is left. Not as long as a pile of what
    /// it owed.
    #[doc(hidden)]
    pub fn while_open(&self) -> Weak<()> {
        Rc::downgrade(self.open.get_or_init(Rc::default))
    }

    /// Takes everything that is pending off this scope, in its order: Python's `pop_all`. The pile
    /// runs it when it is dropped; another scope can [adopt](Scope::adopt) it.
    ///
    /// A cleanup that looks at the ending sees how the pile ends, without a result.
    ///
    /// # Examples
    ///
    /// Acquire several things; keep them only if all could be had:
    ///
    /// ```
    /// use epilogue_scope::{Pile, scope};
    ///
    /// fn open_all(log: &std::cell::RefCell<Vec<u32>>) -> Result<Pile<'_>, &'static str> {
    ///     scope(|s| {
    ///         for number in 1..=3 {
    ///             s.defer(move || log.borrow_mut().push(number));     // closes it
    ///         }
    ///         Ok(s.pop_all())
    ///     })
    /// }
    ///
    /// let log = Default::default();
    /// let held = open_all(&log).unwrap();
    /// assert!(log.borrow().is_empty());
    /// drop(held);
    /// assert_eq!(*log.borrow(), [3, 2, 1]);
    /// ```
    #[track_caller]
    pub fn pop_all(&self) -> Pile<'env>
    where
        R: 'env,
    {
        let mut pile = Pile::new();
        let owed = self.owed.take_all();
        if !owed.is_empty() {
            pile.adopt_stack(owed, self.whose(), Location::caller());
        }
        self.live.paid_all();
        pile
    }

    /// Owes what a pile held, on top of what is pending here.
    #[track_caller]
    pub fn adopt(&self, pile: Pile<'env>) -> Deferred {
        let (mut stack, of) = pile.into_stack();
        let owes = adopted::adopt(&of, self.serial);
        self.push(Location::caller(), move |end: &mut Ending<'env, R>| {
            let _till_paid = owes;
            let mut errors = Vec::new();
            let raised = pay::pile(&mut stack, end.how(), &mut errors);
            if !errors.is_empty() {
                end.errors().append(&mut errors);
            }
            raised.raise_if_any();
            None
        })
    }

    /// The scopes whose cleanups are pending here, if anybody has asked: its own, and those it has adopted.
    fn whose(&self) -> Vec<u64> {
        let own = self.open.get().map(|_| self.serial);
        adopted::hand_on(self.serial).into_iter().chain(own).collect()
    }

    fn take(&self, deferred: Deferred) -> Option<crate::stack::Top> {
        if deferred.scope != self.serial {
            return None;
        }
        let top = self.owed.take(deferred.id)?;
        self.live.paid(deferred.id);
        Some(top)
    }

    fn push(
        &self,
        place: &'static Location<'static>,
        cleanup: impl FnOnce(&mut Ending<'env, R>) -> Option<crate::cleanup::BoxError> + 'env,
    ) -> Deferred {
        let id = self.owed.push(cleanup, place, Registration::new("scope", place));
        self.live.owes(id, place);
        Deferred { scope: self.serial, id }
    }
}

impl<'env, T, E> Scope<'env, Result<T, E>> {
    /// Registers a cleanup for anything but `Ok`: an error, a panic, a task exit. Zig's `errdefer`.
    ///
    /// # Examples
    ///
    /// ```
    /// let saved: Result<(), &str> = epilogue_scope::scope(|s| {
    ///     s.defer_err(|| println!("rolled back"));
    ///     Err("no")
    /// });
    /// # assert!(saved.is_err());
    /// ```
    #[doc(alias = "errdefer")]
    #[track_caller]
    pub fn defer_err<C: CleanupResult>(&self, cleanup: impl FnOnce() -> C + 'env) -> Deferred {
        self.push(Location::caller(), move |end| if succeeded(end) { None } else { cleanup().into_error() })
    }

    /// Registers a cleanup for `Ok` alone.
    #[track_caller]
    pub fn defer_ok<C: CleanupResult>(&self, cleanup: impl FnOnce() -> C + 'env) -> Deferred {
        self.push(Location::caller(), move |end| if succeeded(end) { cleanup().into_error() } else { None })
    }
}

fn succeeded<T, E>(end: &Ending<'_, Result<T, E>>) -> bool {
    matches!(end.result(), Some(Ok(_))) && end.how() == How::Returned
}

#[track_caller]
fn run<'env, R, F>(body: F, failed: fn(&R) -> bool, holds: bool) -> (R, Vec<CleanupError>)
where
    F: FnOnce(&Scope<'env, R>) -> R,
{
    let live = Live::enter(std::any::type_name::<F>(), Location::caller());
    let mark = Mark::here();
    let mut scope = Scope { owed: Stack::new(), live, serial: serial::next(), open: OnceCell::new() };
    let mut ending = Ending::without_result(failed);
    if holds {
        ending.set_holds(false);
    }
    attempt_into(mark, &mut ending, || body(&scope));
    pay::scope(&mut scope.owed, &mut ending, &scope.live);
    pay::conclude(mark, ending)
}

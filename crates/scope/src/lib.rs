//! Scopes: what was started is ended in reverse, whatever way the scope is left.
//!
//! A *cleanup* is registered right after what it ends. It runs when its scope is left by return,
//! `?` or panic; newest first; isolated from the others, so that one which panics or fails never
//! stops the ones below it.
//!
//! Three forms, from the cheapest on:
//!
//! - [`defer!`] is a guard in place. It may borrow anything declared before it.
//! - [`guard`] carries a value that stays usable until the cleanup, and can be disarmed.
//! - [`scope`] is a function boundary: its cleanups may look at how the scope ended and may
//!   recover a panic; [`try_scope`] joins their errors to the result.
//!
//! # Guarantees
//!
//! 1. A cleanup runs at most once, and exactly once unless its guard is leaked
//!    ([`std::mem::forget`]), disarmed, or the process ends without unwinding.
//! 2. A cleanup that panics never aborts the process and never hides another: at the next
//!    boundary the panics form one chain, and the newest is current, as in Go.
//! 3. An error that no result can hold goes to the [`report`] sink; none is dropped.
//!
//! # What this crate does not do
//!
//! No clock, no runtime, no signals, no I/O, but for the one line on stderr that the default
//! [`report`] sink writes. It does not write records anywhere: it calls the
//! [`record::Recorder`] that the program has set, if any.
//!
//! It cannot isolate other people's `Drop`: a foreign destructor that panics while the thread is
//! unwinding still aborts the process, by Rust's own rule. Under `panic = "abort"` nothing runs on
//! a panic.
//!
//! # Examples
//!
//! ```
//! use epilogue_scope::defer;
//! use std::cell::RefCell;
//!
//! let log = RefCell::new(Vec::new());
//! {
//!     defer!(log.borrow_mut().push("registered first, runs last"));
//!     defer!(log.borrow_mut().push("registered last, runs first"));
//!     log.borrow_mut().push("body");
//! }
//! assert_eq!(*log.borrow(), ["body", "registered last, runs first", "registered first, runs last"]);
//! ```

mod adopted;
mod attempt;
mod attempt_async;
mod boundary;
mod chain;
mod cleanup;
mod ending;
mod guard;
mod pay;
mod pile;
pub mod record;
pub mod report;
mod scope;
mod serial;
mod stack;
pub mod task;

pub use boundary::{Caught, catch};
pub use chain::{Chain, Link, Payload, describe};
pub use cleanup::{BoxError, CleanupError, CleanupErrors, CleanupResult};
pub use ending::{Ending, How};
pub use guard::{Defer, Guard, guard};
pub use pile::{Pile, SendPile};
pub use scope::{Deferred, Scope, scope, try_scope};

/// Runs code when the enclosing block is left, by whatever door: return, `?`, `break`, panic, or
/// the drop of the future that holds it.
///
/// The code may borrow what was declared before it, and is of type `()` or `Result<(), E>`; an
/// error goes to the [`report`] sink with this line's place. A closure or function *value* is
/// refused by the compiler: it would never be called.
///
/// Runs once, newest first among the guards of a block. A panic inside propagates like any panic
/// if the scope was being left normally, and joins the chain of the next boundary if the thread
/// was unwinding already.
///
/// # Cost
///
/// A guard on the stack: nothing is allocated and nothing recorded; one instruction more than a
/// hand-written `Drop`.
///
/// # Examples
///
/// ```
/// # use epilogue_scope::defer;
/// # use std::{fs, env};
/// let path = env::temp_dir().join(format!("defer-{}", std::process::id()));
/// fs::write(&path, "spooled")?;
/// {
///     defer!(fs::remove_file(&path));   // leave the `?` out: the error is kept
///     assert!(path.exists());
/// }
/// assert!(!path.exists());
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// A value that is not a cleanup does not compile:
///
/// ```compile_fail
/// # use epilogue_scope::defer;
/// fn tidy() {}
/// defer!(tidy); // write `defer!(tidy())`
/// ```
#[macro_export]
macro_rules! defer {
    (@mentioned) => {};
    () => {
        ::core::compile_error!("`defer!` without a cleanup: `defer!(file.close())`")
    };
    (async $($cleanup:tt)*) => {
        ::core::compile_error!(
            "an async cleanup needs a scope that can await it: `#[scoped]` on this `async fn`, above attributes such as \
             `#[tokio::main]`; or `async_scope`"
        )
    };
    (|$end:pat_param| $($cleanup:tt)*) => {
        $crate::__epilogue_needs_scoped!("a cleanup that looks at the ending")
    };
    (move |$end:pat_param| $($cleanup:tt)*) => {
        $crate::__epilogue_needs_scoped!("a cleanup that looks at the ending")
    };
    (move || -> $kind:ty $cleanup:block) => {
        #[allow(unreachable_code, clippy::diverging_sub_expression)]
        let _deferred = $crate::Defer::new(move || {
            $crate::__private::keep($crate::__private::call_once(|| -> $kind { $cleanup }), $crate::__private::place!())
        });
    };
    (|| -> $kind:ty $cleanup:block) => {
        #[allow(unreachable_code, clippy::diverging_sub_expression)]
        let _deferred = $crate::Defer::new(|| {
            $crate::__private::keep($crate::__private::call_once(|| -> $kind { $cleanup }), $crate::__private::place!())
        });
    };
    (move || $($cleanup:tt)*) => {
        #[allow(unreachable_code, clippy::diverging_sub_expression)]
        let _deferred = $crate::Defer::new(move || {
            $crate::__private::keep($crate::__private::call_once(|| { $($cleanup)* }), $crate::__private::place!())
        });
    };
    (|| $($cleanup:tt)*) => {
        #[allow(unreachable_code, clippy::diverging_sub_expression)]
        let _deferred = $crate::Defer::new(|| {
            $crate::__private::keep($crate::__private::call_once(|| { $($cleanup)* }), $crate::__private::place!())
        });
    };
    ($($cleanup:tt)*) => {
        #[allow(unreachable_code, clippy::diverging_sub_expression)]
        let _deferred = $crate::Defer::new(|| {
            $crate::__private::keep($crate::__private::call_once(|| { $($cleanup)* }), $crate::__private::place!())
        });
    };
}

/// Runs code when the function is left by anything but `Ok`: an error, a panic, cancellation, a
/// task exit. Zig's `errdefer`. In a function with `#[scoped]`; elsewhere
/// [`Scope::defer_err`] does the same.
#[doc(alias = "errdefer")]
#[macro_export]
macro_rules! defer_err {
    (@mentioned) => {};
    ($($cleanup:tt)*) => {
        $crate::__epilogue_needs_scoped!("`defer_err!`")
    };
}

/// Runs code when the function returns, and not with `Err`. In a function with `#[scoped]`;
/// elsewhere [`Scope::defer_ok`] does the same.
#[macro_export]
macro_rules! defer_ok {
    (@mentioned) => {};
    ($($cleanup:tt)*) => {
        $crate::__epilogue_needs_scoped!("`defer_ok!`")
    };
}

/// `keep!(value, cleanup)`: gives `&mut` to a value that stays usable to the end of its block, while
/// the function owes its cleanup: for what is acquired in a loop. In a function with `#[scoped]`;
/// elsewhere [`Pile::keep`] does the same, and [`guard`] for a single value.
#[macro_export]
macro_rules! keep {
    (@mentioned) => {};
    ($($cleanup:tt)*) => {
        $crate::__epilogue_needs_scoped!("`keep!`")
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __epilogue_needs_scoped {
    ($what:literal) => {
        ::core::compile_error!(::core::concat!(
            $what,
            " needs `#[scoped]` on the function around it, above attributes that rewrite its body, such as \
             `#[tokio::main]` (a closure or an `async` block is a function of its own); or `scope(|s| …)`"
        ))
    };
}

#[doc(hidden)]
pub mod __private {
    pub use crate::adopted::adopted_scopes;
    pub use crate::attempt::{
        Attempt, CanFail, CanHold, CannotFail, CannotHold, EndingPile, Errors, Kind, call_async, call_once,
    };
    pub use crate::attempt_async::{AsyncAttempt, OnEnding, attempt_async, on_any, on_err, on_ok};
    pub use crate::boundary::catch_boxed;
    pub use crate::cleanup::keep;
    pub use crate::guard::LateDefer;
    pub use crate::record::{enter, owes};
    pub use crate::report::Place;
    pub use crate::serial::next as fresh_scope_id;

    #[doc(hidden)]
    #[macro_export]
    macro_rules! __epilogue_place {
        () => {
            concat!(file!(), ":", line!())
        };
    }
    pub use crate::__epilogue_place as place;
}

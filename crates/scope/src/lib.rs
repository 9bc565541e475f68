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

mod boundary;
mod chain;
mod cleanup;
mod ending;
mod guard;
pub mod record;
pub mod report;
mod scope;
pub mod task;

pub use boundary::{Caught, catch};
pub use chain::{Chain, Payload, describe};
pub use cleanup::{CleanupError, CleanupErrors, CleanupResult};
pub use ending::{Ending, How};
pub use guard::{Defer, Guard, guard};
pub use scope::{Scope, scope, try_scope};

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
    (move || $($cleanup:tt)*) => {
        let _deferred = $crate::Defer::new(move || {
            $crate::__private::keep({ $($cleanup)* }, $crate::__private::place!())
        });
    };
    (|| $($cleanup:tt)*) => {
        let _deferred = $crate::Defer::new(|| {
            $crate::__private::keep({ $($cleanup)* }, $crate::__private::place!())
        });
    };
    ($($cleanup:tt)*) => {
        let _deferred = $crate::Defer::new(|| {
            $crate::__private::keep({ $($cleanup)* }, $crate::__private::place!())
        });
    };
}

#[doc(hidden)]
pub mod __private {
    pub use crate::cleanup::keep;

    #[doc(hidden)]
    #[macro_export]
    macro_rules! __epilogue_place {
        () => {
            concat!(file!(), ":", line!())
        };
    }
    pub use crate::__epilogue_place as place;
}

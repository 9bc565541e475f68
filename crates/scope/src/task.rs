//! Task exit: Go's `Goexit`, for code that must end its task from deep inside.

use std::any::Any;
use std::panic::resume_unwind;

/// Ends the current task: unwinds to its boundary and runs every cleanup on the way. It is not a
/// panic: no hook runs, nothing is printed, and [`recover_with`](crate::Ending::recover_with)
/// refuses it.
///
/// A plain `return` is the better style wherever it reaches. Under `std::thread::spawn` or
/// `tokio::spawn` the exit shows as a panic with an opaque payload: only a boundary of this crate
/// can tell it apart ([`is_exit`]). Under `panic = "abort"` it aborts the process.
///
/// # Examples
///
/// ```
/// use epilogue_scope::{catch, defer, task};
///
/// let caught = catch(|| {
///     defer!(());
///     task::exit_task()
/// });
/// assert!(caught.err().is_some_and(|caught| caught.chain().exits_task()));
/// ```
pub fn exit_task() -> ! {
    resume_unwind(Box::new(TaskExit { _address: 0, _until_settled: None }))
}

/// The same with a value that is dropped when the exit has come to its boundary: for whoever waits
/// until the stack of this thread is unwound.
#[doc(hidden)]
pub fn exit_task_with(until_settled: Box<dyn Any + Send>) -> ! {
    resume_unwind(Box::new(TaskExit { _address: 0, _until_settled: Some(until_settled) }))
}

/// Whether a caught payload is a task exit and not a panic.
pub fn is_exit(payload: &(dyn Any + Send)) -> bool {
    payload.is::<TaskExit>()
}

/// Not zero-sized: the chain is filed under the payload's address.
struct TaskExit {
    _address: u8,
    _until_settled: Option<Box<dyn Any + Send>>,
}

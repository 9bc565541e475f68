//! Which task and which trace the running code belongs to.

use std::cell::RefCell;
use std::sync::Arc;

/// What a live scope says of the task that holds it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Context {
    /// The task's name; without one the thread's name stands for it.
    pub task: Option<Arc<str>>,
    /// The trace the work belongs to, as in W3C trace context: 128 bits.
    pub trace: Option<u128>,
}

impl Context {
    /// The context of a task of this name, in the current trace.
    pub fn of_task(name: impl Into<Arc<str>>) -> Context {
        Context { task: Some(name.into()), ..current() }
    }

    /// The current context, in this trace.
    pub fn of_trace(trace: u128) -> Context {
        Context { trace: Some(trace), ..current() }
    }
}

/// Runs `body` with another context; the former one is back afterwards, also after a panic.
///
/// For a future, each poll is such a body.
///
/// # Examples
///
/// ```
/// use epilogue_scope::record::{Context, current, in_context};
///
/// let context = Context::of_trace(0xfeed);
/// in_context(&context, || assert_eq!(current().trace, Some(0xfeed)));
/// assert_eq!(current().trace, None);
/// ```
pub fn in_context<R>(context: &Context, body: impl FnOnce() -> R) -> R {
    let _back = Back(swap(context.clone()));
    body()
}

/// The context of the running code; empty where none was set.
pub fn current() -> Context {
    CURRENT.try_with(|current| current.borrow().clone()).unwrap_or_default()
}

thread_local! {
    static CURRENT: RefCell<Context> = const { RefCell::new(Context { task: None, trace: None }) };
}

fn swap(context: Context) -> Context {
    // While a thread is torn down there is no context to be in.
    CURRENT.try_with(|current| current.replace(context)).unwrap_or_default()
}

struct Back(Context);

impl Drop for Back {
    fn drop(&mut self) {
        swap(std::mem::take(&mut self.0));
    }
}

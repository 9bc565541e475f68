//! Go's rules of defer, panic, recover and Goexit, row by row. `docs/go-parity.md` says which test is
//! for which row; `page.rs` holds the page to that.

mod chains;
mod order;
mod page;
mod panics;
mod results;
mod skips;
mod task_exit;

use std::any::Any;
use std::cell::RefCell;
use std::panic::resume_unwind;

use epilogue::{Caught, Ending, describe};

/// What happened, in its order.
#[derive(Default)]
pub(crate) struct Log(RefCell<Vec<String>>);

impl Log {
    pub(crate) fn add(&self, what: impl ToString) {
        self.0.borrow_mut().push(what.to_string());
    }

    /// As the page writes it: `a | b`.
    pub(crate) fn told(&self) -> String {
        self.0.borrow().join(" | ")
    }
}

/// Raises without a message from the panic hook.
pub(crate) fn raise<T: Any + Send>(value: T) {
    resume_unwind(Box::new(value));
}

pub(crate) fn text(caught: Caught) -> String {
    caught.chain().to_string()
}

/// What a cleanup recovers, as text; `nil` for nothing.
pub(crate) fn recovered<R: Default>(end: &mut Ending<'_, R>) -> String {
    end.recover().map_or("nil".to_owned(), |panic| describe(&*panic))
}

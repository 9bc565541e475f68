//! The one place where this crate speaks to the operating system. Linux.

use std::io::Write;
use std::sync::atomic::{AtomicU32, Ordering};

/// The process that registered the handler.
static ARMED_IN: AtomicU32 = AtomicU32::new(0);

/// Registers `handler` to run when somebody calls `exit`, or `main` returns.
pub(crate) fn at_exit(handler: extern "C" fn()) -> bool {
    ARMED_IN.store(std::process::id(), Ordering::Relaxed);
    // SAFETY: `handler` is a function of this program, which is not unloaded.
    unsafe { libc::atexit(handler) == 0 }
}

/// A forked child inherits the handler: it is for the child too, once that has something on its lane.
pub(crate) fn arm_in_this_process() {
    ARMED_IN.store(std::process::id(), Ordering::Relaxed);
}

/// Whether this is the process that registered the handler, and not its forked child.
pub(crate) fn is_armed_process() -> bool {
    ARMED_IN.load(Ordering::Relaxed) == std::process::id()
}

/// Prints a line on stderr. A closed stderr leaves nobody to tell.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

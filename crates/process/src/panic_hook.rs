//! The panic hook of `run`, in the place of the standard one.
//!
//! The standard hook prints a full backtrace for every panic that is raised while another one
//! unwinds, whatever `RUST_BACKTRACE` says: tens of milliseconds for the first. Cleanups that panic
//! while they are paid do just that. Ours prints the same message, and a backtrace when asked to.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt::Write;
use std::panic::{PanicHookInfo, set_hook, take_hook};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::os;

/// Puts ours in the place of the standard hook, once a process. A hook that somebody has set stays.
pub(crate) fn set() {
    static SET: Once = Once::new();
    SET.call_once(|| {
        let before = take_hook();
        // Taken now it is the standard one.
        let standard = take_hook();
        set_hook(if is_same(&*before, &*standard) { Box::new(print) } else { before });
    });
}

type Hook = dyn Fn(&PanicHookInfo<'_>) + Sync + Send;

/// The standard hook is a function: the same one, if the tables of its type are the same.
fn is_same(one: &Hook, other: &Hook) -> bool {
    std::ptr::eq(one, other)
}

fn print(info: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    // Nothing that may panic: a panic in here aborts the process.
    let payload = info.payload();
    let text = payload.downcast_ref::<&'static str>().copied();
    let text = text
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a value that is not text");
    let mut told =
        format!("\nthread '{}' panicked at {place}:\n{text}", thread.name().unwrap_or("<unnamed>"));
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        // A string takes everything.
        let _ = write!(told, "\nstack backtrace:\n{backtrace}");
    } else {
        static SAID: AtomicBool = AtomicBool::new(false);
        if !SAID.swap(true, Ordering::Relaxed) {
            told.push_str("\nnote: run with `RUST_BACKTRACE=1` environment variable to display a backtrace");
        }
    }
    os::say(&told);
}

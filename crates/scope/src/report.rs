//! The sink for cleanup failures that no result can hold.
//!
//! A guard has no result to join, a cancelled scope nobody to return to. Their errors and panics
//! end here: counted always, and handed to one sink, by default a line on stderr.

use std::any::Any;
use std::error::Error;
use std::fmt;
use std::io::Write;
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::chain::describe;

/// A cleanup failure that could not be returned to anybody; or something that somebody should know before
/// one comes of it.
#[derive(Debug)]
#[non_exhaustive]
pub struct Failure<'a> {
    /// What failed: `cleanup at file:line`, where the place is known, or who it was otherwise.
    pub what: &'a str,
    /// True for a panic, false for a returned error.
    pub panicked: bool,
    /// Nothing has failed yet.
    pub notice: bool,
    /// The error with its sources, or the panic's message.
    pub message: &'a str,
}

/// Hands every later [`Failure`] to `sink` instead of stderr, for the life of the process.
///
/// The sink may be called from any thread, also while that thread is unwinding: it must not
/// panic.
///
/// # Errors
///
/// Gives `sink` back when one is set already; that one stays.
pub fn set_sink(sink: Sink) -> Result<(), Sink> {
    SINK.set(sink)
}

/// What [`set_sink`] takes.
pub type Sink = Box<dyn Fn(&Failure<'_>) + Send + Sync>;

/// How many failures the process has reported so far.
pub fn count() -> u64 {
    COUNT.load(Ordering::Relaxed)
}

/// Reports a cleanup that returned an error. Sources are appended, `: ` between them.
#[cold]
pub fn failed(place: &str, error: &(dyn Error + 'static)) {
    failed_to(&format!("cleanup at {place}"), error);
}

/// The same for what has no place in the source: a cleanup by what it does.
#[cold]
pub fn failed_to(what: &str, error: &(dyn Error + 'static)) {
    send(&Failure { what, panicked: false, notice: false, message: &with_sources(error) });
}

/// Says something that somebody should know. It is not counted: nothing has failed.
#[cold]
pub fn noticed(what: &str, message: &str) {
    send(&Failure { what, panicked: false, notice: true, message });
}

/// Reports a panic that nobody can catch any more, of `what`: a cleanup at its place, a task.
#[cold]
pub fn panicked(what: &str, payload: &(dyn Any + Send)) {
    send(&Failure { what, panicked: true, notice: false, message: &describe(payload) });
}

/// An error with its sources, `: ` between them. If its `Display` panics, the text says so, and the
/// panic ends here: it must not take the report with it.
pub(crate) fn with_sources(error: &(dyn Error + 'static)) -> String {
    let told = catch_unwind(AssertUnwindSafe(|| read(error)));
    told.unwrap_or_else(|panic| format!("(its Display panicked: {})", describe(&*panic)))
}

fn read(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        // Some say their cause themselves.
        if !text.ends_with(&words) {
            text = format!("{text}: {words}");
        }
        source = cause.source();
    }
    text
}

static SINK: OnceLock<Sink> = OnceLock::new();
static COUNT: AtomicU64 = AtomicU64::new(0);

fn send(failure: &Failure<'_>) {
    if !failure.notice {
        COUNT.fetch_add(1, Ordering::Relaxed);
    }
    match SINK.get() {
        Some(sink) => sink(failure),
        None => write_line(failure),
    }
}

fn write_line(failure: &Failure<'_>) {
    let verb = match failure {
        Failure { notice: true, .. } => "",
        Failure { panicked: true, .. } => " panicked",
        _ => " failed",
    };
    // A closed stderr leaves nobody to tell; the count still says it.
    let _ = writeln!(std::io::stderr(), "epilogue: {}{verb}: {}", failure.what, failure.message);
}

/// A place as reports name it: `file:line`. The column is more than anybody looks for.
#[doc(hidden)]
pub struct Place<'a>(pub &'a Location<'a>);

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.0.file(), self.0.line())
    }
}

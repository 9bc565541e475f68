//! The dump: what a program is at, what it owes, and in which scopes, at the moment when somebody asks.

use std::fmt::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use epilogue_scope::record::{self, LiveScope};
use epilogue_task::lane;

use crate::app::Inner;
use crate::os;

/// Lists the scopes that are entered from now on.
pub(crate) fn list_scopes() {
    LISTED.store(true, Ordering::Release);
    record::list_live_scopes(true);
}

static LISTED: AtomicBool = AtomicBool::new(false);

/// Tells it on stderr. On a thread of its own: a part may not come to telling what it is busy with, whoever
/// reads stderr may be slow, and the next signal must not wait for either. Whoever asks while one is being told
/// is told next, all of them at once.
pub(crate) fn begin(inner: &Arc<Inner>, asked_by: &str) {
    let stopping = inner.control.now().stopping();
    let head = format!("epilogue: pid {}, asked by {asked_by}: {}", std::process::id(), doing(inner));
    {
        let mut telling = telling();
        telling.next = Some(Question { inner: Arc::clone(inner), head, stopping });
        if std::mem::replace(&mut telling.busy, true) {
            return;
        }
    }
    if let Err(error) = std::thread::Builder::new().name("epilogue-dump".into()).spawn(tell_all) {
        *telling() = Telling::default();
        os::say_now(&format!("epilogue: no dump: {error}\n"));
    }
}

/// Returns when what was asked for is told, or after so long.
pub(crate) fn told(limit: Duration) {
    drop(TOLD.wait_timeout_while(telling(), limit, |telling| telling.busy));
}

#[derive(Default)]
struct Telling {
    busy: bool,
    next: Option<Question>,
}

/// What was to be seen when it was asked.
struct Question {
    inner: Arc<Inner>,
    head: String,
    stopping: bool,
}

static TELLING: Mutex<Telling> = Mutex::new(Telling { busy: false, next: None });
static TOLD: Condvar = Condvar::new();

fn telling() -> MutexGuard<'static, Telling> {
    TELLING.lock().unwrap_or_else(PoisonError::into_inner)
}

fn tell_all() {
    loop {
        let next = {
            let mut telling = telling();
            telling.busy = telling.next.is_some();
            telling.next.take()
        };
        TOLD.notify_all();
        let Some(Question { inner, head, stopping }) = next else { return };
        os::say(&text(&inner, head, stopping));
    }
}

fn text(inner: &Inner, mut text: String, stopping: bool) -> String {
    if stopping {
        section(&mut text, "what that is busy with", inner.current_status());
    }
    section(
        &mut text,
        "owed by the program, newest first",
        inner.stack.describe().into_iter().chain(inner.last.names()).collect(),
    );
    section(&mut text, "owed by futures that were dropped, on the lane", on_the_lane());
    if LISTED.load(Ordering::Acquire) {
        section(&mut text, "scopes that are alive", record::live_scopes().iter().map(scope).collect());
    } else {
        list_scopes();
        text.push_str("\n  scopes are listed from now on: ask again, or start with EPILOGUE_SCOPES=1");
    }
    text
}

fn doing(inner: &Inner) -> String {
    let state = inner.control.now();
    let starting = inner.starting.tell();
    let Some((trigger, since)) = state.begun else {
        return match (starting.is_empty(), inner.ready.load(Ordering::Acquire)) {
            (false, _) => format!("starting {}", starting.join("; ")),
            (true, true) => "running".into(),
            (true, false) => "running, not ready yet (App::ready)".into(),
        };
    };
    let level = format!("{:?}", state.level).to_lowercase();
    let now = Some(inner.current()).filter(|current| !current.is_empty());
    let starting = (!starting.is_empty()).then(|| format!("the start of {}", starting.join("; ")));
    let now = now.or(starting).map_or_else(String::new, |step| format!(", now {step}"));
    format!("stopping for {:.1?} because {trigger} ({level}{now})", since.elapsed())
}

fn section(text: &mut String, title: &str, lines: Vec<String>) {
    if lines.is_empty() {
        let _ = write!(text, "\n  {title}: none");
        return;
    }
    let _ = write!(text, "\n  {title}:");
    for line in lines {
        let _ = write!(text, "\n    {line}");
    }
}

fn on_the_lane() -> Vec<String> {
    let places =
        |left: Vec<String>| if left.is_empty() { "one that has begun".into() } else { left.join(", ") };
    lane::unfinished().into_iter().map(|job| places(job.left)).collect()
}

fn scope(scope: &LiveScope) -> String {
    let pending: Vec<&str> = scope.pending.iter().rev().map(|pending| pending.place.as_str()).collect();
    let owed = if pending.is_empty() { "nothing".into() } else { pending.join(", ") };
    format!("{} in {} ({}) owes {owed}", scope.task, scope.function, scope.place)
}

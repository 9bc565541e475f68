//! What a command leaves running when it is gone. This process is the subreaper, so all of it are its
//! children.

use std::time::{Duration, Instant};

use crate::child::say;
use crate::guard::GUARDIAN_ENV;
use crate::identity::start_of;
use crate::os;
use crate::proc::{self, Shown};

/// Says what is still there, and leaves it alone.
pub(crate) fn name() {
    let named = named(&children());
    if !named.is_empty() {
        say(&format!("epilogue: it left running: {named} (--leftovers=term ends what is left)"));
    }
}

/// Ends what is still there: TERM, five seconds, KILL.
pub(crate) fn end() {
    let left = children();
    if left.is_empty() {
        return;
    }
    say(&format!("epilogue: ending what it left running: {}", named(&left)));
    let pidfds: Vec<_> = left.iter().filter_map(|one| os::pidfd(one.pid).ok()).collect();
    for signal in [libc::SIGTERM, libc::SIGKILL] {
        os::signal_and_wait(&pidfds, signal, Instant::now() + Duration::from_secs(5));
    }
    while os::reap().is_some() {}
}

fn named(left: &[Shown]) -> String {
    let named: Vec<String> = left.iter().map(|one| format!("{} {}", one.pid, one.command_name())).collect();
    named.join(", ")
}

/// What the command has left, but for guardians, of this run and of runs within it.
fn children() -> Vec<Shown> {
    let mut found = proc::children();
    found.retain(|one| start_of(one.pid).is_some() && !one.is_leaving() && !one.carries(GUARDIAN_ENV, None));
    found
}

//! What a command leaves running when it is gone. This process is the subreaper, so all of it are its
//! children.

use std::time::{Duration, Instant};

use crate::child::say;
use crate::guard::GUARDIAN_ENV;
use crate::identity::{carries, start_of};
use crate::os;

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
    let pidfds = os::pidfds(&left);
    for signal in [libc::SIGTERM, libc::SIGKILL] {
        os::signal_and_wait(&pidfds, signal, Instant::now() + Duration::from_secs(5));
    }
    while os::reap().is_some() {}
}

fn named(pids: &[u32]) -> String {
    let named: Vec<String> = pids.iter().map(|pid| format!("{pid} {}", command_name(*pid))).collect();
    named.join(", ")
}

/// What the command has left, but for guardians, of this run and of runs within it.
fn children() -> Vec<u32> {
    let mut found = Vec::new();
    for task in std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let text = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        found.extend(text.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
    }
    found.retain(|pid| start_of(*pid).is_some() && !is_leaving(*pid) && !carries(*pid, GUARDIAN_ENV, None));
    found
}

/// Whether a process is so near its end that its memory is gone: nothing else has no command line.
fn is_leaving(pid: u32) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.is_empty())
}

fn command_name(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}

//! What signals mean to a run.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::app::Inner;
use crate::escalation::{Action, Level, StopSignal};
use crate::os::{self, Received, Signal};
use crate::{dump, reload, upgrade};

/// Does what a signal asks for. On the thread of the signals, which must not wait for anything.
pub(crate) fn on_signal(inner: &Arc<Inner>, received: Received) {
    let over = inner.over.load(Ordering::Acquire);
    match received.signal {
        Signal::Dump if over => {}
        Signal::Dump => {
            let asked_by = inner.control.note("SIGUSR1", received.from_pid, "asked what the program is at");
            dump::begin(inner, &asked_by);
        }
        Signal::Upgrade if over => {}
        Signal::Upgrade => {
            inner.control.note("SIGUSR2", received.from_pid, "asked for an upgrade");
            upgrade::begin(inner);
        }
        Signal::Stop(signal) if over => {
            if !inner.control.echoes() {
                os::die_of(signal);
            }
        }
        Signal::Stop(StopSignal::Hup) if reloads(inner) => {
            inner.control.note("SIGHUP", received.from_pid, "reloads");
            reload::begin(inner);
        }
        Signal::Stop(signal) => stop(inner, signal, received.from_pid),
    }
}

fn reloads(inner: &Inner) -> bool {
    inner.reload.is_wanted() && !inner.control.now().stopping()
}

fn stop(inner: &Arc<Inner>, signal: StopSignal, from_pid: i32) {
    if signal == StopSignal::Quit && !inner.control.now().stopping() {
        // What it is at is taken down here and now; the rest is told beside the stop.
        dump::begin(inner, "SIGQUIT");
    }
    let action = inner.control.signal(signal, from_pid);
    if action == Action::Raise(Level::Die) {
        os::say_now(&last_words(inner));
        os::die_of(signal);
    }
}

fn last_words(inner: &Inner) -> String {
    let mut words = String::from("epilogue: told to die; abandoned:\n");
    let starts = inner.starting.tell().into_iter().map(|start| format!("the start of {start}"));
    let current = Some(inner.current()).filter(|name| !name.is_empty());
    for name in starts.chain(current).chain(inner.stack.names()).chain(inner.last.names()) {
        words.push_str(&format!("  {name}\n"));
    }
    words
}

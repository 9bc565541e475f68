//! What signals mean to a run.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::app::{App, Inner};
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
            if inner.options.owns_process && !inner.control.echoes() {
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

impl App {
    /// Does what this signal would do, were it to come now: for tests, with the [clock](tokio::time) of the test. Where
    /// a third, impatient one would [kill](crate::escalation), an [embedded](crate::Options::embedded) run cuts what
    /// is left, at once.
    ///
    /// # Examples
    ///
    /// ```
    /// # use epilogue_process::{App, Options, escalation::StopSignal, run_with};
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// let (_, report) = run_with(Options::embedded(), async |app: &App| {
    ///     app.defer("takes its time", async || Ok(tokio::time::sleep(Duration::from_secs(5)).await));
    ///     app.signal(StopSignal::Term);
    ///     let impatient = app.clone();
    ///     tokio::spawn(async move {
    ///         tokio::time::sleep(Duration::from_secs(1)).await;
    ///         impatient.signal(StopSignal::Int);                  // a second each, from now on
    ///     });
    ///     Ok(())
    /// })
    /// .await;
    /// assert_eq!((report.total, report.code), (Duration::from_secs(2), 124));
    /// # }
    /// ```
    pub fn signal(&self, signal: StopSignal) {
        on_signal(&self.inner, Received { signal: Signal::Stop(signal), from_pid: 0 });
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
    if action == Action::Raise(Level::Hurry) && inner.options.owns_process && !inner.options.quiet {
        os::say_now(&format!(
            "epilogue: hurries because of {signal}: requests have 2 s, every other step 1 s, from now on; one more Ctrl-C ends it at once\n"
        ));
    }
    // Of a process that is not its own a run does not dispose.
    if action == Action::Raise(Level::Die) && inner.options.owns_process {
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

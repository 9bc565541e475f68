//! Pulls the trigger, and watches the program until it is gone.

use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::client::Client;
use crate::row::{Conditions, Exit, Observation, POLL, Prestop, hang_limit, millis};
use crate::running::{self, Running};
use crate::target::Target;
use crate::trigger::{Means, REPEAT_AFTER, Trigger};
use crate::{os, procfs};

/// Runs the preStop hook, and says how long it took.
pub(crate) async fn prestop(prestop: &Prestop) -> u64 {
    let began = Instant::now();
    match prestop {
        Prestop::No => return 0,
        Prestop::Sleep(time) => tokio::time::sleep(*time).await,
        Prestop::Command(command) => {
            let command = command.clone();
            let run = move || std::process::Command::new("sh").arg("-c").arg(command).status();
            if let Ok(Err(error)) = tokio::task::spawn_blocking(run).await {
                eprintln!("epilogue: prestop: {error}");
            }
        }
    }
    millis(began.elapsed())
}

/// Pulls the trigger. The task that is returned does what comes later, or waits for the hook's
/// answer.
pub(crate) fn pull(
    target: &Target,
    trigger: Trigger,
    process: &Running,
    address: SocketAddr,
) -> JoinHandle<()> {
    let pid = process.pid;
    match trigger.means() {
        Means::Signal(signal) => {
            os::kill(pid, signal);
            tokio::spawn(async {})
        }
        Means::Twice(signal) => {
            os::kill(pid, signal);
            tokio::spawn(async move {
                tokio::time::sleep(REPEAT_AFTER).await;
                // Not if it is gone: the pid is a zombie of ours until it is reaped, so it cannot
                // be somebody else's.
                os::kill(pid, signal);
            })
        }
        Means::Hook => {
            let ask = target.hooks.get(&trigger).cloned();
            tokio::spawn(async move {
                let Some(ask) = ask else { return };
                if let Ok(mut client) = Client::connect(address, hang_limit()).await {
                    // What it answers, if it lives to answer, is of no interest.
                    let _ = client.ask(&ask, Duration::from_secs(3600), || {}).await;
                }
            })
        }
    }
}

/// Watches readiness, listener and process until it is gone, or has survived, or must be killed.
pub(crate) async fn watch_it_end(
    target: &Target,
    trigger: Trigger,
    conditions: &Conditions,
    process: &mut Running,
    address: SocketAddr,
    began: Instant,
    seen: &mut Observation,
) {
    let readiness = tokio::spawn(readiness_off(target.ready.clone(), address, began));
    let listening = tokio::spawn(listener_closed(address.port(), began));
    let settled = conditions.lag + Duration::from_millis(500);
    loop {
        if let Some(status) = process.poll_exit() {
            seen.exit = Some(exit(status, began));
            break;
        }
        // A program that is meant to live through it, and still answers as if nothing had been.
        if trigger.survivable()
            && began.elapsed() >= settled
            && !readiness.is_finished()
            && !listening.is_finished()
            && !process_is_stopping(process)
        {
            seen.survived = true;
            break;
        }
        if began.elapsed() >= conditions.grace {
            seen.overstayed = true;
            process.end_all();
            seen.exit = process.poll_exit().map(|status| exit(status, began));
            break;
        }
        tokio::time::sleep(POLL).await;
    }
    seen.readiness_off_ms = settle(readiness).await;
    seen.listener_closed_ms = settle(listening).await;
}

/// A program that has begun to pay its cleanups is on its way out.
fn process_is_stopping(process: &Running) -> bool {
    process.ring().is_some_and(|ring| {
        let parts = |event: &&epilogue_observe::Event| !event.what.starts_with("guard @");
        ring.events.iter().filter(parts).any(|event| event.kind != epilogue_observe::EventKind::Registered)
    })
}

async fn settle(task: JoinHandle<u64>) -> Option<u64> {
    if !task.is_finished() {
        // One more look: the process may have ended between two polls.
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    if task.is_finished() {
        return task.await.ok();
    }
    task.abort();
    None
}

async fn readiness_off(ready: Option<String>, address: SocketAddr, began: Instant) -> u64 {
    let Some(path) = ready else { return std::future::pending().await };
    loop {
        match running::status_of(address, &path).await {
            Some(status) if (200..300).contains(&status) => {}
            _ => return millis(began.elapsed()),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn listener_closed(port: u16, began: Instant) -> u64 {
    while !procfs::listeners(port).is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    millis(began.elapsed())
}

/// Ends a program that has survived the trigger the ordinary way.
pub(crate) async fn end_survivor(process: &mut Running, grace: Duration) {
    os::kill(process.pid, libc::SIGTERM);
    let until = Instant::now() + grace;
    while process.poll_exit().is_none() && Instant::now() < until {
        tokio::time::sleep(POLL).await;
    }
}

fn exit(status: ExitStatus, began: Instant) -> Exit {
    Exit { code: status.code(), signal: status.signal(), ms: millis(began.elapsed()) }
}

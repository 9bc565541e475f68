//! The stop of a server, state by state.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Phase;
use super::connections::Shared;
use super::drain::{Leaving, Verdict};
use crate::error::Error;
use crate::escalation::Level;
use crate::state::StopCx;

pub(crate) async fn drain(
    shared: &Arc<Shared>,
    accepting: JoinHandle<usize>,
    mut cx: StopCx,
) -> Result<(), Error> {
    give_up_on_exit(shared, &cx);
    cx.in_flight(shared.in_flight().len());
    // Kept back for closing what is cut, and for saying so.
    let deadline = cx.deadline() - (cx.remaining() / 20).min(Duration::from_millis(200));

    shared.enter(Phase::Leaving);
    let left_at = cx.began();
    let leaving = leaving(shared, &cx, left_at);
    if !shared.is_handed_over() {
        leave(shared, &mut cx, &leaving, deadline).await;
    }
    let held = Instant::now().saturating_duration_since(left_at);

    shared.enter(Phase::Closing);
    let cap = shared.times().stream_cap;
    let streams_until = cap.and_then(|cap| Instant::now().checked_add(cap)).unwrap_or(cx.deadline());
    let queued = accepting.await.unwrap_or_else(|error| {
        cx.note(format!("the accept loop had ended: {error}"));
        0
    });
    // Idle connections of a server that nobody asked for a while are not worth a second; a client that has just
    // connected is about to ask.
    let patience = shared.times().idle_linger;
    if queued > 0 || !leaving.nobody_came(shared.last_demand()) {
        linger(shared, &mut cx, deadline.min(Instant::now() + patience)).await;
    } else if let Some(until) = shared.first_request_until(patience) {
        linger(shared, &mut cx, deadline.min(until)).await;
    }

    shared.enter(Phase::Finishing);
    let finish_by = if cx.level() >= Level::Hurry {
        deadline.min(Instant::now() + Duration::from_secs(2))
    } else {
        deadline
    };
    finish(shared, &mut cx, finish_by, streams_until).await;

    let cut = shared.unfinished();
    shared.enter(Phase::Cut);
    for request in &cut {
        cx.abandon(request.clone());
    }
    // A handler that blocks its thread cannot be cut: it is named, not waited for.
    let _ = tokio::time::timeout_at(deadline + (cx.deadline() - deadline) / 2, shared.none_open()).await;
    cx.in_flight(cut.len());
    cx.note(format!("listener open {:.1} s longer", held.as_secs_f64()));
    Ok(())
}

/// The handler that called `exit` never returns: its connection is not waited for.
fn give_up_on_exit(shared: &Shared, cx: &StopCx) {
    if let Some(request) = cx.exit_thread().and_then(|thread| shared.give_up_on(thread)) {
        cx.note(format!("exit was called by {request}"));
    }
}

fn leaving(shared: &Shared, cx: &StopCx, began: Instant) -> Leaving {
    let times = shared.times();
    let told = cx.listen_until().map_or(Duration::ZERO, |until| until.saturating_duration_since(began));
    Leaving {
        began,
        quiet: times.quiet,
        hold_min: times.hold_min.unwrap_or_else(default_hold_min).max(told),
        // Who has asked for a longer hold in so many words gets it.
        hold_max: times.hold_max.unwrap_or_else(|| {
            Duration::from_secs(10).min(cx.budget() / 3).max(times.hold_min.unwrap_or_default())
        }),
        demand_before: shared.last_demand_before(began),
        born: shared.born(),
    }
}

async fn leave(shared: &Shared, cx: &mut StopCx, leaving: &Leaving, deadline: Instant) {
    loop {
        let now = Instant::now();
        if now >= deadline || cx.level() >= Level::Hurry {
            return;
        }
        match leaving.at(now, shared.last_demand(), cx.skip_idle_waits()) {
            Verdict::Close => return,
            Verdict::Wait(until) => {
                tokio::select! {
                    () = tokio::time::sleep_until(until.min(deadline)) => {}
                    () = cx.changed() => {}
                }
            }
        }
    }
}

async fn linger(shared: &Shared, cx: &mut StopCx, until: Instant) {
    while !cx.skip_idle_waits() {
        tokio::select! {
            () = tokio::time::sleep_until(until) => return,
            () = shared.none_open() => return,
            () = cx.changed() => give_up_on_exit(shared, cx),
        }
    }
}

async fn finish(shared: &Shared, cx: &mut StopCx, mut until: Instant, streams_until: Instant) {
    loop {
        tokio::select! {
            () = tokio::time::sleep_until(until) => return,
            () = shared.none_open() => return,
            () = tokio::time::sleep_until(streams_until), if shared.phase() < Phase::StreamsCut => {
                for stream in shared.streams() {
                    cx.note(format!("did not end when it was told: {stream}"));
                }
                shared.enter(Phase::StreamsCut);
            }
            () = cx.changed() => {
                give_up_on_exit(shared, cx);
                if cx.level() >= Level::Hurry {
                    until = until.min(Instant::now() + Duration::from_secs(2));
                }
            }
        }
    }
}

fn default_hold_min() -> Duration {
    if std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() {
        Duration::from_secs(5)
    } else {
        Duration::ZERO
    }
}

//! How much time the stop has left: the budget, what the platform lets it have on top, and what it may borrow from the
//! margin to the kill.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::app::Inner;
use crate::budget::Grace;
use crate::state::Trigger;

/// How long after its budget a process is ended, whatever holds it; or half of the margin, if that is less.
const LEAVE_AFTER: Duration = Duration::from_millis(250);

/// How long a step may be in its first turn, whatever its time, as long as there is overtime: most are done with it,
/// and none that can be is called abandoned because others have used everything up.
pub(crate) const FIRST_TURN: Duration = Duration::from_millis(50);

/// In microseconds.
#[derive(Default)]
pub(crate) struct Changes {
    /// What was added to the budget; and of that what systemd was told.
    extension: AtomicU64,
    told: AtomicU64,
    /// By how much steps have overrun their limits: first turns, timers that are late.
    overrun: AtomicU64,
}

impl Inner {
    /// What the stop may take, all in all.
    pub(crate) fn budget(&self) -> Duration {
        self.grace.budget() + Duration::from_micros(self.changes.extension.load(Ordering::Acquire))
    }

    /// What is left of it. What steps have overrun is not taken from those after them, but from the margin to the kill.
    pub(crate) fn time_left(&self) -> Duration {
        let overrun = Duration::from_micros(self.changes.overrun.load(Ordering::Acquire));
        (self.began() + self.budget() + overrun).saturating_duration_since(Instant::now())
    }

    /// When the process is ended at the latest, from the moment when the stop began.
    pub(crate) fn leaves_after(&self) -> Duration {
        self.budget() + leave_after(&self.grace)
    }

    /// When somebody who is inside `exit` goes on at the latest: after the last overtime, before the process is ended.
    pub(crate) fn lets_exit_after(&self) -> Duration {
        self.budget() + leave_after(&self.grace) * 3 / 4
    }

    /// What a step is left for its first turn when everything else is spent: of what is between the budget and the end
    /// of the process half, so that the report comes out.
    pub(crate) fn first_turn(&self) -> Duration {
        let overrun = Duration::from_micros(self.changes.overrun.load(Ordering::Acquire));
        most_overtime(&self.grace).saturating_sub(overrun).min(FIRST_TURN)
    }

    /// A step has taken so much more than its limit.
    pub(crate) fn overran(&self, by: Duration) {
        let most = micros(most_overtime(&self.grace));
        // One thread stops at a time.
        let overrun = self.changes.overrun.load(Ordering::Acquire).saturating_add(micros(by)).min(most);
        self.changes.overrun.store(overrun, Ordering::Release);
    }

    /// Where the platform can be told that the stop goes on, what has ended well gives its time back to what comes
    /// later: up to twice the grace, all in all.
    pub(crate) fn give_back(&self, time: Duration) {
        if !self.systemd.is_there() {
            return;
        }
        let Changes { extension, told, .. } = &self.changes;
        let extended =
            extension.load(Ordering::Acquire).saturating_add(micros(time)).min(micros(self.grace.time));
        extension.store(extended, Ordering::Release);
        // Thousands of tasks that end at once have nothing to tell.
        let news = extended.saturating_sub(told.load(Ordering::Relaxed));
        let handed_over = matches!(self.control.now().why(), Trigger::HandedOver { .. });
        if news < 100_000 || handed_over {
            return;
        }
        told.store(extended, Ordering::Relaxed);
        self.systemd.takes(self.time_left() + (self.grace.time - self.grace.budget()));
    }

    /// When the stop began.
    pub(crate) fn began(&self) -> Instant {
        self.control.began().unwrap_or_else(Instant::now)
    }
}

fn leave_after(grace: &Grace) -> Duration {
    LEAVE_AFTER.min((grace.time - grace.budget()) / 2)
}

fn most_overtime(grace: &Grace) -> Duration {
    leave_after(grace) / 2
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

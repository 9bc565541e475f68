//! What a stop signal means, given those before it.
//!
//! ```text
//! running ──any stop signal──▶ graceful ──▶ hurry ──▶ die
//! ```
//!
//! - Signals within 500 ms of the last change of level change nothing: one Ctrl-C through a
//!   forwarding wrapper arrives twice within a millisecond.
//! - INT or QUIT again, or another stop signal than the first, go up one level: an impatient
//!   person, or a platform that escalates.
//! - The same TERM or HUP again only skips waits that serve nobody. Platforms repeat TERM; it
//!   never cuts a request in flight and never kills. Impatient platforms have KILL.

use std::fmt;
use std::time::Duration;

/// Signals that follow a change of level within this time change nothing.
pub const DEBOUNCE: Duration = Duration::from_millis(500);

/// How urgent the stop is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// No stop has been asked for.
    Running,
    /// Stop in order, within the budget.
    Graceful,
    /// Requests in flight have 2 s, every other step 1 s; all cleanups still run.
    Hurry,
    /// Say what is abandoned and die of the signal.
    Die,
}

/// The signals that stop a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopSignal {
    /// SIGINT
    Int,
    /// SIGTERM
    Term,
    /// SIGQUIT
    Quit,
    /// SIGHUP
    Hup,
}

impl StopSignal {
    /// All of them.
    pub const ALL: [StopSignal; 4] = [StopSignal::Int, StopSignal::Term, StopSignal::Quit, StopSignal::Hup];

    /// The signal's number.
    pub fn number(self) -> i32 {
        match self {
            StopSignal::Int => libc::SIGINT,
            StopSignal::Term => libc::SIGTERM,
            StopSignal::Quit => libc::SIGQUIT,
            StopSignal::Hup => libc::SIGHUP,
        }
    }

    /// The stop signal of this number, if it is one.
    pub fn from_number(number: i32) -> Option<StopSignal> {
        StopSignal::ALL.into_iter().find(|signal| signal.number() == number)
    }
}

impl fmt::Display for StopSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            StopSignal::Int => "SIGINT",
            StopSignal::Term => "SIGTERM",
            StopSignal::Quit => "SIGQUIT",
            StopSignal::Hup => "SIGHUP",
        })
    }
}

/// What is to be done about a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing but note it.
    Note,
    /// The level has gone up to this one.
    Raise(Level),
    /// End waits that serve nobody (minimum hold, idle linger); cut nothing.
    SkipIdleWaits,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Action::Note => "changed nothing",
            Action::Raise(Level::Hurry) => "hurries",
            Action::Raise(Level::Die) => "kills",
            Action::Raise(_) => "begins the stop",
            Action::SkipIdleWaits => "skips waits that serve nobody",
        })
    }
}

/// The level, and what it takes to raise it.
#[derive(Debug)]
pub struct Escalation {
    level: Level,
    /// Each kind that came so far, in the order of their first arrivals.
    seen: Vec<StopSignal>,
    changed: Duration,
}

impl Default for Escalation {
    fn default() -> Escalation {
        Escalation { level: Level::Running, seen: Vec::new(), changed: Duration::ZERO }
    }
}

impl Escalation {
    /// The level now.
    pub fn level(&self) -> Level {
        self.level
    }

    /// Whether a signal at `at` is taken for an echo of the one that changed the level last.
    pub fn echoes(&self, at: Duration) -> bool {
        self.level > Level::Running && at.saturating_sub(self.changed) < DEBOUNCE
    }

    /// The stop began without a signal.
    pub fn begin(&mut self, at: Duration) {
        if self.level == Level::Running {
            self.level = Level::Graceful;
            self.changed = at;
        }
    }

    /// A signal arrived at `at`, on any clock that does not go back.
    pub fn signal(&mut self, signal: StopSignal, at: Duration) -> Action {
        let (first_of_all, seen_before) = (self.seen.is_empty(), self.seen.contains(&signal));
        if !seen_before {
            self.seen.push(signal);
        }
        if self.level == Level::Running {
            return self.raise(Level::Graceful, at);
        }
        // Where the stop began by other means, the first signal is not an impatient second.
        if self.echoes(at) || first_of_all {
            return Action::Note;
        }
        match self.level {
            _ if seen_before && matches!(signal, StopSignal::Term | StopSignal::Hup) => Action::SkipIdleWaits,
            Level::Graceful => self.raise(Level::Hurry, at),
            _ => self.raise(Level::Die, at),
        }
    }

    fn raise(&mut self, level: Level, at: Duration) -> Action {
        self.level = level;
        self.changed = at;
        Action::Raise(level)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use StopSignal::{Hup, Int, Quit, Term};

    fn play(signals: &[(StopSignal, u64)]) -> Vec<Action> {
        let mut escalation = Escalation::default();
        signals.iter().map(|&(s, ms)| escalation.signal(s, Duration::from_millis(ms))).collect()
    }

    const STOP: Action = Action::Raise(Level::Graceful);
    const HURRY: Action = Action::Raise(Level::Hurry);
    const DIE: Action = Action::Raise(Level::Die);

    #[test]
    fn one_ctrl_c_that_arrives_twice_is_one() {
        assert_eq!(play(&[(Int, 0), (Int, 0), (Int, 499)]), [STOP, Action::Note, Action::Note]);
    }

    #[test]
    fn an_impatient_person_goes_up_level_by_level() {
        assert_eq!(play(&[(Int, 0), (Int, 600), (Int, 1200)]), [STOP, HURRY, DIE]);
        assert_eq!(play(&[(Int, 0), (Int, 600), (Int, 700)]), [STOP, HURRY, Action::Note]);
        assert_eq!(play(&[(Quit, 0), (Quit, 500)]), [STOP, HURRY]);
    }

    #[test]
    fn a_repeated_term_or_hup_never_cuts_and_never_kills() {
        let skip = Action::SkipIdleWaits;
        assert_eq!(play(&[(Term, 0), (Term, 600), (Term, 9000)]), [STOP, skip, skip]);
        assert_eq!(play(&[(Hup, 0), (Hup, 600)]), [STOP, skip]);
    }

    #[test]
    fn another_kind_of_signal_escalates() {
        // GitHub Actions: INT, 7.5 s later TERM.
        assert_eq!(play(&[(Int, 0), (Term, 7500)]), [STOP, HURRY]);
        assert_eq!(play(&[(Term, 0), (Int, 600), (Int, 1200)]), [STOP, HURRY, DIE]);
        let skip = Action::SkipIdleWaits;
        assert_eq!(play(&[(Term, 0), (Int, 600), (Term, 1200)]), [STOP, HURRY, skip]);
        // Ctrl-C, then the platform's TERM, and TERM again.
        assert_eq!(play(&[(Int, 0), (Term, 600), (Term, 1200)]), [STOP, HURRY, skip]);
    }

    #[test]
    fn a_thousand_in_ten_milliseconds_are_one() {
        let burst: Vec<_> = (0..1000).map(|at| (Term, at / 100)).collect();
        let actions = play(&burst);
        assert_eq!(actions[0], STOP);
        assert!(actions[1..].iter().all(|action| *action == Action::Note));
    }

    #[test]
    fn the_first_signal_after_a_stop_by_other_means_is_not_an_impatient_second() {
        let mut escalation = Escalation::default();
        escalation.begin(Duration::ZERO);
        assert_eq!(escalation.signal(Term, Duration::from_secs(1)), Action::Note);
        assert_eq!(escalation.signal(Int, Duration::from_secs(2)), HURRY);
    }
}

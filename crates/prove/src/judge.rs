//! From what was seen to a verdict and its reason. Pure.

use serde::Serialize;

use crate::expect::Expect;
use crate::outcome::Counts;
use crate::row::{Exit, Leak, Observation};
use crate::running::how_ended;
use crate::trigger::{Means, Trigger};

/// What is said of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Every expectation held.
    Pass,
    /// Some expectation did not.
    Fail,
    /// The load was not as it should be: nothing can be said.
    Inconclusive,
    /// The trigger could not be pulled.
    Skipped,
}

/// A verdict with its reason; empty for a pass that needs no word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Judged {
    pub(crate) verdict: Verdict,
    pub(crate) reason: String,
    /// The only losses are one or two requests of a cohort: whether they happen may be a race.
    pub(crate) few: bool,
}

/// The generator may be this late; beyond, the load was another than was asked for.
const LATE_MS: f64 = 200.0;

pub(crate) fn judge(trigger: Trigger, expect: Expect, seen: &Observation) -> Judged {
    if let Some(why) = spoilt(seen) {
        return Judged { verdict: Verdict::Inconclusive, reason: why, few: false };
    }
    let requests = request_faults(expect, seen);
    let facts = fact_faults(trigger, expect, seen);
    let few = facts.is_empty() && !requests.is_empty() && requests.iter().all(|fault| fault.lost <= 2);
    let mut words: Vec<String> = requests.into_iter().map(|fault| fault.words).collect();
    words.extend(facts);
    let verdict = if words.is_empty() { Verdict::Pass } else { Verdict::Fail };
    if verdict == Verdict::Pass && seen.survived {
        words.push("kept serving; then stopped by TERM".into());
    }
    words.extend(shown_only(trigger, expect, seen));
    Judged { verdict, reason: words.join("; "), few }
}

/// What is lost and not judged, so that nobody takes it for nothing.
fn shown_only(trigger: Trigger, expect: Expect, seen: &Observation) -> Option<String> {
    let rest = expect.complement();
    let mut words: Vec<String> = request_faults(rest, seen).into_iter().map(|fault| fault.words).collect();
    words.extend(cleanup_faults(rest, seen));
    (!words.is_empty()).then(|| format!("shown, and not judged of {trigger}: {}", words.join("; ")))
}

fn spoilt(seen: &Observation) -> Option<String> {
    if let Some(why) = &seen.spoilt {
        return Some(why.clone());
    }
    if seen.unsent > 0 {
        return Some(format!("the generator could not send {} requests", seen.unsent));
    }
    (seen.late_max_ms > LATE_MS).then(|| format!("the generator was up to {:.0} ms late", seen.late_max_ms))
}

struct Fault {
    lost: u32,
    words: String,
}

fn request_faults(expect: Expect, seen: &Observation) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut add = |judged: bool, counts: &Counts, lost: u32, words: String| {
        if judged && lost > 0 {
            faults.push(Fault { lost, words: format!("{words}: {}", counts.losses()) });
        }
    };
    add(expect.in_flight.judged(), &seen.in_flight, seen.in_flight.lost(), "lost in flight".into());
    add(expect.idle.judged(), &seen.idle, seen.idle.lost(), "lost on idle connections".into());
    add(expect.arrivals.judged(), &seen.arrivals, seen.arrivals.lost(), "lost on arrival".into());
    add(expect.arrivals.judged(), &seen.pool, seen.pool.lost(), "lost in the pool".into());
    faults
}

fn fact_faults(trigger: Trigger, expect: Expect, seen: &Observation) -> Vec<String> {
    let mut words = Vec::new();
    if seen.overstayed {
        words.push("still there at the end of the grace: killed".to_owned());
    } else if expect.exit.judged()
        && let Some(exit) = seen.exit
        && !stopped_as_asked(trigger, exit)
    {
        words.push(format!("ended with {}", how_ended(exit.code, exit.signal)));
    }
    if let Some(ledger) = &seen.ledger
        && expect.ledger.judged()
        && ledger.lost > 0
    {
        words.push(format!("{} of {} acknowledged writes lost", ledger.lost, ledger.acked));
    }
    if expect.leaks.judged() && !seen.leaks.is_empty() {
        words.push(format!("left behind: {}", kinds(&seen.leaks)));
    }
    words.extend(cleanup_faults(expect, seen));
    if let Some(why) = &seen.restart_failed {
        words.push(format!("does not start again: {why}"));
    }
    words
}

/// How many of each kind; which they are stands in the list of leaks.
fn kinds(leaks: &[Leak]) -> String {
    let count = |kind: &str| leaks.iter().filter(|leak| leak.kind == kind).count();
    let kinds = [("child", "children"), ("port", "ports"), ("socket", "sockets"), ("file", "files")];
    let counted = kinds.into_iter().filter_map(|(one, many)| match count(one) {
        0 => None,
        1 => Some(format!("1 {one}")),
        several => Some(format!("{several} {many}")),
    });
    counted.collect::<Vec<_>>().join(", ")
}

fn cleanup_faults(expect: Expect, seen: &Observation) -> Vec<String> {
    let mut words = Vec::new();
    if let Some(cleanups) = &seen.cleanups
        && expect.cleanups.judged()
    {
        if cleanups.pending > 0 {
            words.push(format!("{} of {} cleanups never ran", cleanups.pending, cleanups.registered));
        }
        if cleanups.failed > 0 {
            words.push(format!("{} cleanups failed", cleanups.failed));
        }
    }
    words
}

/// Code 0, or death by the very signal that was sent, in either of its spellings. A program that
/// exited or panicked by itself says so by a code of its own, and 124 is nobody's: something was
/// abandoned.
fn stopped_as_asked(trigger: Trigger, exit: Exit) -> bool {
    match (trigger.means(), exit.code, exit.signal) {
        _ if matches!(trigger, Trigger::Exit | Trigger::PanicMain) => {
            exit.code.is_some_and(|code| code != 0 && code != 124)
        }
        (_, Some(0), _) => true,
        (Means::Signal(sent) | Means::Twice(sent, _), code, signal) => {
            signal == Some(sent) || code == Some(128 + sent)
        }
        _ => false,
    }
}

/// Puts the verdicts of repeated runs together: a loss that comes and goes is a race.
pub(crate) fn of_repeats(runs: &[Judged]) -> Judged {
    let failed: Vec<_> = runs.iter().filter(|run| run.verdict == Verdict::Fail).collect();
    match failed.first() {
        Some(first) if failed.len() < runs.len() => Judged {
            verdict: Verdict::Fail,
            reason: format!("racy, {} of {} runs: {}", failed.len(), runs.len(), first.reason),
            few: true,
        },
        Some(first) => (*first).clone(),
        None => runs.last().cloned().unwrap_or(Judged {
            verdict: Verdict::Inconclusive,
            reason: "never run".into(),
            few: false,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Outcome;
    use crate::row::{Cleanups, Ledger};

    fn counts(of: &[(Outcome, usize)]) -> Counts {
        of.iter().flat_map(|(outcome, n)| std::iter::repeat_n(*outcome, *n)).collect()
    }

    fn clean() -> Observation {
        Observation {
            in_flight: counts(&[(Outcome::Ok, 30)]),
            arrivals: counts(&[(Outcome::OkClose, 100)]),
            pool: counts(&[(Outcome::OkClose, 190), (Outcome::ClosedBeforeSend, 10)]),
            exit: Some(Exit { code: Some(0), signal: None, ms: 3000 }),
            ledger: Some(Ledger { acked: 9, recovered: 9, ..Ledger::default() }),
            cleanups: Some(Cleanups { registered: 7, run: 7, ..Cleanups::default() }),
            ..Observation::default()
        }
    }

    fn verdict(trigger: Trigger, seen: &Observation) -> (Verdict, String) {
        let judged = judge(trigger, Expect::of(trigger), seen);
        (judged.verdict, judged.reason)
    }

    #[test]
    fn losing_nothing_passes_and_what_is_safe_to_retry_is_no_loss() {
        assert_eq!(verdict(Trigger::Term, &clean()), (Verdict::Pass, String::new()));
    }

    #[test]
    fn exit_0_does_not_hide_what_was_lost() {
        let mut seen = clean();
        seen.in_flight = counts(&[(Outcome::Truncated, 30)]);
        let (verdict, reason) = verdict(Trigger::Term, &seen);
        assert_eq!((verdict, reason.as_str()), (Verdict::Fail, "lost in flight: 30 truncated"));
    }

    #[test]
    fn a_kill_is_judged_by_what_is_left_behind_not_by_requests() {
        let mut seen = clean();
        seen.in_flight = counts(&[(Outcome::Reset, 30)]);
        seen.exit = Some(Exit { code: None, signal: Some(libc::SIGKILL), ms: 1 });
        assert_eq!(
            verdict(Trigger::Kill, &seen),
            (Verdict::Pass, "shown, and not judged of KILL: lost in flight: 30 reset".into())
        );
        seen.leaks.push(Leak { kind: "file", what: "lock (5 bytes)".into() });
        let (failed, reason) = verdict(Trigger::Kill, &seen);
        assert!(failed == Verdict::Fail && reason.starts_with("left behind: 1 file; shown"));
    }

    #[test]
    fn a_program_that_dies_of_the_signal_it_was_sent_stopped_as_asked() {
        let mut seen = clean();
        seen.exit = Some(Exit { code: Some(143), signal: None, ms: 1 });
        assert_eq!(verdict(Trigger::Term, &seen).0, Verdict::Pass);
        assert_eq!(verdict(Trigger::Int, &seen).1, "ended with exit 143");
        seen.exit = Some(Exit { code: Some(124), signal: None, ms: 1 });
        assert_eq!(verdict(Trigger::Term, &seen).1, "ended with exit 124");
    }

    #[test]
    fn an_exit_or_a_panic_says_so_in_its_status() {
        let mut seen = clean();
        assert_eq!(verdict(Trigger::PanicMain, &seen).1, "ended with exit 0");
        seen.exit = Some(Exit { code: Some(101), signal: None, ms: 1 });
        assert_eq!(verdict(Trigger::PanicMain, &seen).0, Verdict::Pass);
        seen.exit = Some(Exit { code: None, signal: Some(libc::SIGSEGV), ms: 1 });
        assert_eq!(verdict(Trigger::Exit, &seen).1, "ended with SIGSEGV");
    }

    #[test]
    fn lost_writes_pending_cleanups_and_a_failed_restart_are_named() {
        let mut seen = clean();
        seen.ledger = Some(Ledger { acked: 9, recovered: 8, lost: 1, ..Ledger::default() });
        seen.cleanups = Some(Cleanups { registered: 7, run: 5, pending: 2, ..Cleanups::default() });
        seen.restart_failed = Some("port taken".into());
        assert_eq!(
            verdict(Trigger::Exit, &seen).1,
            "ended with exit 0; 1 of 9 acknowledged writes lost; 2 of 7 cleanups never ran; does not start again: port taken"
        );
    }

    #[test]
    fn a_late_generator_says_nothing_about_the_program() {
        let mut seen = clean();
        seen.in_flight = counts(&[(Outcome::Reset, 30)]);
        seen.late_max_ms = 300.0;
        assert_eq!(verdict(Trigger::Term, &seen).0, Verdict::Inconclusive);
    }

    #[test]
    fn one_or_two_lost_now_and_then_is_a_race_and_no_pass() {
        let judge = |lost| {
            let mut seen = clean();
            seen.pool = counts(&[(Outcome::Ok, 100), (Outcome::Reset, lost)]);
            judge(Trigger::Term, Expect::of(Trigger::Term), &seen)
        };
        assert!(judge(2).few && !judge(3).few);
        let mixed = of_repeats(&[judge(1), judge(0), judge(0)]);
        assert_eq!(mixed.reason, "racy, 1 of 3 runs: lost in the pool: 1 reset");
        assert_eq!(mixed.verdict, Verdict::Fail);
        assert!(!of_repeats(&[judge(1), judge(1), judge(1)]).reason.contains("racy"));
    }
}

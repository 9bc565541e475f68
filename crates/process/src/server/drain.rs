//! When a leaving server may close its listener. Pure: every moment is an argument.

use std::time::Duration;

use tokio::time::Instant;

/// A server that came this long without a request before the stop has nobody to wait for.
const IDLE_BEFORE: Duration = Duration::from_secs(10);
/// And after this long not even a late router is assumed.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

/// What a leaving server waits for.
pub(super) struct Leaving {
    pub(super) began: Instant,
    pub(super) quiet: Duration,
    pub(super) hold_min: Duration,
    pub(super) hold_max: Duration,
    /// The last request before the stop began, if there was one.
    pub(super) demand_before: Option<Instant>,
    /// When the server began to listen.
    pub(super) born: Instant,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Close,
    Wait(Instant),
}

impl Leaving {
    /// Whether the listener may close at `now`, or until when to wait before asking again.
    pub(super) fn at(&self, now: Instant, last_demand: Option<Instant>, skip_hold: bool) -> Verdict {
        let latest = self.began + self.hold_max;
        let hold = self.began + if skip_hold { Duration::ZERO } else { self.hold() };
        let until = hold.max(self.quiet_at(last_demand)).min(latest);
        if now >= until { Verdict::Close } else { Verdict::Wait(until) }
    }

    /// Whether there was no request in the 10 s before the stop, and none since.
    pub(super) fn nobody_came(&self, last_demand: Option<Instant>) -> bool {
        self.idle_for(IDLE_BEFORE) && last_demand.is_none_or(|at| at <= self.began)
    }

    fn hold(&self) -> Duration {
        // One that has just begun was announced, and may be sent its first request at any moment.
        let young = self.began.saturating_duration_since(self.born) < FORGOTTEN_AFTER;
        if self.idle_for(FORGOTTEN_AFTER) && !young { Duration::ZERO } else { self.hold_min }
    }

    fn quiet_at(&self, last_demand: Option<Instant>) -> Instant {
        match last_demand {
            Some(at) if at > self.began => at + self.quiet,
            _ if self.idle_for(IDLE_BEFORE) => self.began,
            _ => self.began + self.quiet,
        }
    }

    fn idle_for(&self, time: Duration) -> bool {
        self.demand_before.is_none_or(|at| self.began.saturating_duration_since(at) >= time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// One second of quiet, at most ten of hold; the last request came `before` ms before the stop.
    fn leaving(hold_min: u64, before: Option<u64>) -> Leaving {
        let began = Instant::now() + Duration::from_secs(3600);
        Leaving {
            began,
            quiet: ms(1000),
            hold_min: ms(hold_min),
            hold_max: ms(10_000),
            demand_before: before.map(|before| began - ms(before)),
            born: began - ms(3_600_000),
        }
    }

    fn closes_at(leaving: &Leaving, last_demand: Option<u64>, skip_hold: bool) -> u128 {
        let last = last_demand.map(|at| leaving.began + ms(at)).or(leaving.demand_before);
        match leaving.at(leaving.began, last, skip_hold) {
            Verdict::Close => 0,
            Verdict::Wait(until) => until.duration_since(leaving.began).as_millis(),
        }
    }

    #[test]
    fn without_traffic_the_listener_closes_at_once() {
        assert_eq!(closes_at(&leaving(0, None), None, false), 0);
        assert_eq!(closes_at(&leaving(0, Some(10_000)), None, false), 0);
    }

    #[test]
    fn with_recent_traffic_it_waits_for_quiet() {
        assert_eq!(closes_at(&leaving(0, Some(20)), None, false), 1000);
        assert_eq!(closes_at(&leaving(0, Some(20)), Some(1900), false), 2900);
    }

    #[test]
    fn clients_that_never_stop_end_at_the_maximum() {
        assert_eq!(closes_at(&leaving(0, Some(20)), Some(9_900), false), 10_000);
    }

    #[test]
    fn a_minimum_hold_is_kept_unless_a_minute_was_silent() {
        assert_eq!(closes_at(&leaving(5000, Some(20_000)), None, false), 5000);
        assert_eq!(closes_at(&leaving(5000, Some(60_000)), None, false), 0);
    }

    #[test]
    fn a_server_that_has_just_begun_is_not_idle_where_somebody_is_told_of_it() {
        let mut just_begun = leaving(2000, None);
        just_begun.born = just_begun.began - ms(50);
        assert_eq!(closes_at(&just_begun, None, false), 2000);
        just_begun.hold_min = Duration::ZERO;
        assert_eq!(closes_at(&just_begun, None, false), 0, "without a router nobody knows of it");
    }

    #[test]
    fn a_repeated_term_skips_the_hold_but_not_the_quiet() {
        assert_eq!(closes_at(&leaving(5000, Some(20)), Some(300), true), 1300);
    }
}

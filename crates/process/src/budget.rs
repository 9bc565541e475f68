//! One budget for the whole stop: the platform's grace less a margin, spent greedily with a floor
//! kept for every later step.
//!
//! An equal split would starve the drain, a flat total the last steps; the sum of per-step limits
//! would overrun the grace. So a step may use all that is left but for the floors of the steps
//! after it, and never more than its own cap; what it does not use belongs to all later ones.

use std::time::Duration;

/// The environment variable that says how long the platform waits before it kills.
pub const GRACE_ENV: &str = "EPILOGUE_GRACE";

/// What is kept for every later step.
pub const FLOOR: Duration = Duration::from_millis(250);

/// What is kept for a task that is cancelled, of which there may be thousands: [`App::spawn`](crate::App::spawn).
pub const TASK_FLOOR: Duration = Duration::from_millis(1);

/// What is kept for a cleanup that must run: [`App::defer`](crate::App::defer).
pub const CLEANUP_FLOOR: Duration = Duration::from_millis(500);

/// How long the platform waits between asking and killing, and how that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Grace {
    /// From the first stop signal to SIGKILL.
    pub time: Duration,
    /// Where the figure comes from, for the report.
    pub from: &'static str,
}

/// Ten years: any clock can be told to wait for so long.
pub(crate) const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

impl Grace {
    /// A grace that the program states itself.
    pub fn stated(time: Duration) -> Grace {
        Grace { time: time.min(LONGEST), from: "set by the program" }
    }

    /// Looks where the grace can be known: [`GRACE_ENV`], then what kind of platform this is.
    ///
    /// A preStop hook counts within the platform's grace and cannot be seen from inside:
    /// subtract it in [`GRACE_ENV`].
    ///
    /// # Errors
    ///
    /// The value of [`GRACE_ENV`] when it is not a duration.
    pub fn discover(env: impl Fn(&str) -> Option<String>, is_pid_1: bool) -> Result<Grace, InvalidDuration> {
        if let Some(text) = env(GRACE_ENV) {
            return Ok(Grace { time: parse_duration(&text)?.min(LONGEST), from: GRACE_ENV });
        }
        Ok(Grace::of_the_platform(env, is_pid_1))
    }

    pub(crate) fn of_the_platform(env: impl Fn(&str) -> Option<String>, is_pid_1: bool) -> Grace {
        let (seconds, from) = if env("KUBERNETES_SERVICE_HOST").is_some() {
            (30, "Kubernetes' default")
        } else if is_pid_1 {
            (10, "Docker's default")
        } else {
            (30, "the default")
        };
        Grace { time: Duration::from_secs(seconds), from }
    }

    /// What may be spent: the grace less a fifteenth, at least 0.5 s and at most 2 s. A stop that
    /// ends exactly at the grace races with SIGKILL.
    pub fn budget(&self) -> Duration {
        let margin = (self.time / 15).clamp(Duration::from_millis(500), Duration::from_secs(2));
        self.time.saturating_sub(margin).max(self.time / 2)
    }
}

/// How long a step may take: all that is left but for the floors of the `later` ones, and never
/// more than its cap. Late in an overspent budget a step still gets its own floor, or what is left.
pub fn limit(left: Duration, floor: Duration, cap: Option<Duration>, later: Duration) -> Duration {
    let fair = left.saturating_sub(later).max(floor.min(left));
    cap.map_or(fair, |cap| fair.min(cap))
}

/// A text that is not a duration such as `30s`, `500ms`, `1.5s` or `2m`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a duration{}; write it like 30s, 500ms or 2m", without_unit(text))]
pub struct InvalidDuration {
    /// The text as it was given.
    pub text: String,
}

fn without_unit(text: &str) -> &'static str {
    match text.trim().parse::<f64>() {
        Ok(_) => ": it has no unit",
        Err(_) => "",
    }
}

/// Reads a duration: a number, and `ms`, `s`, `m` or `h`; or several, as in `1m30s`. A bare number is refused: it would
/// be guessed.
///
/// # Errors
///
/// [`InvalidDuration`] with the text.
///
/// # Examples
///
/// ```
/// use epilogue_process::budget::parse_duration;
/// use std::time::Duration;
///
/// assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1500)));
/// assert!(parse_duration("30").is_err());
/// ```
pub fn parse_duration(text: &str) -> Result<Duration, InvalidDuration> {
    let invalid = || InvalidDuration { text: text.to_owned() };
    let mut rest = text.trim();
    let mut sum = Duration::ZERO;
    loop {
        let (one, after) = first_of(rest).ok_or_else(invalid)?;
        sum = sum.checked_add(one).ok_or_else(invalid)?;
        rest = after;
        if rest.is_empty() {
            return Ok(sum);
        }
    }
}

/// The first number with its unit, and what comes after.
fn first_of(text: &str) -> Option<(Duration, &str)> {
    let (number, rest) = text.split_at(text.find(|c: char| c.is_ascii_alphabetic())?);
    let (unit, rest) = rest.split_at(rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len()));
    let seconds_per_unit = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    let number: f64 = number.trim().parse().ok()?;
    Some((Duration::try_from_secs_f64(number * seconds_per_unit).ok()?, rest.trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_grace_is_the_first_that_is_known() {
        let none = |_: &str| None;
        let kubernetes = |name: &str| (name == "KUBERNETES_SERVICE_HOST").then(|| "10.0.0.1".into());
        let stated = |name: &str| (name == GRACE_ENV).then(|| "20s".into());
        assert_eq!(Grace::discover(none, false).unwrap().time, s(30));
        assert_eq!(Grace::discover(none, true).unwrap().time, s(10));
        assert_eq!(Grace::discover(kubernetes, true).unwrap().time, s(30));
        assert_eq!(Grace::discover(stated, true).unwrap().time, s(20));
        assert!(Grace::discover(|_| Some("soon".into()), false).is_err());
    }

    #[test]
    fn the_budget_leaves_before_the_kill() {
        let budget = |time| Grace::stated(time).budget();
        assert_eq!(budget(s(30)), s(28));
        assert_eq!(budget(s(10)).as_millis(), 9333);
        assert_eq!(budget(s(300)), s(298));
        assert_eq!(budget(Duration::from_millis(400)), Duration::from_millis(200));
    }

    #[test]
    fn an_early_step_may_use_all_but_the_later_floors() {
        assert_eq!(limit(s(28), FLOOR, None, s(3)), s(25));
        assert_eq!(limit(s(28), FLOOR, Some(s(5)), s(3)), s(5));
    }

    #[test]
    fn a_late_step_of_an_overspent_budget_still_gets_its_floor() {
        assert_eq!(limit(Duration::from_millis(600), FLOOR, None, s(1)), FLOOR);
        assert_eq!(limit(Duration::from_millis(100), FLOOR, None, s(1)), Duration::from_millis(100));
        assert_eq!(limit(Duration::ZERO, FLOOR, None, Duration::ZERO), Duration::ZERO);
    }

    #[test]
    fn durations_name_their_unit() {
        for text in ["", "30", "s", "-1s", "1 fortnight", "nans", "1e999s", "1m30", "1m-5s", "1e18h1e18h"] {
            assert!(parse_duration(text).is_err(), "{text:?}");
        }
        assert_eq!(parse_duration("250ms").unwrap(), FLOOR);
        assert_eq!(parse_duration(" 2m ").unwrap(), s(120));
        assert_eq!(parse_duration("1m30s").unwrap(), s(90));
        assert_eq!(parse_duration("1h 0.5s 500ms").unwrap(), s(3601));
        let said = parse_duration("10").unwrap_err().to_string();
        assert_eq!(said, r#""10" is not a duration: it has no unit; write it like 30s, 500ms or 2m"#);
    }
}

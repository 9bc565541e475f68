//! The ways a program is ended.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// One way to end a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Trigger {
    /// Asked to stop by its own means.
    Return,
    /// `process::exit` in a handler.
    Exit,
    /// A panic in a handler.
    PanicHandler,
    /// A panic in the main task.
    PanicMain,
    /// `abort`.
    Abort,
    /// SIGSEGV, sent until it is obeyed: a runtime that looks for stack overflows passes over one.
    Segv,
    /// SIGINT.
    Int,
    /// SIGTERM.
    Term,
    /// SIGTERM, and again after 1.5 s: nothing more may be lost.
    TermTwice,
    /// SIGINT, and again after 1.5 s: in flight may be cut, cleanups all run.
    IntTwice,
    /// SIGQUIT.
    Quit,
    /// SIGHUP.
    Hup,
    /// SIGKILL.
    Kill,
}

/// How a trigger is pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Means {
    /// By a request to the program, if the target names one.
    Hook,
    /// By this signal.
    Signal(i32),
    /// By this signal, and again after a while.
    Twice(i32, Duration),
}

const REPEAT_AFTER: Duration = Duration::from_millis(1500);

impl Trigger {
    /// All of them, in the order in which they are tried.
    pub const ALL: [Trigger; 13] = [
        Trigger::Return,
        Trigger::Exit,
        Trigger::PanicHandler,
        Trigger::PanicMain,
        Trigger::Abort,
        Trigger::Segv,
        Trigger::Int,
        Trigger::Term,
        Trigger::TermTwice,
        Trigger::IntTwice,
        Trigger::Quit,
        Trigger::Hup,
        Trigger::Kill,
    ];

    /// Its name in options, files and reports.
    pub fn name(self) -> &'static str {
        match self {
            Trigger::Return => "return",
            Trigger::Exit => "exit",
            Trigger::PanicHandler => "panic-handler",
            Trigger::PanicMain => "panic-main",
            Trigger::Abort => "abort",
            Trigger::Segv => "SEGV",
            Trigger::Int => "INT",
            Trigger::Term => "TERM",
            Trigger::TermTwice => "TERM-twice",
            Trigger::IntTwice => "INT-twice",
            Trigger::Quit => "QUIT",
            Trigger::Hup => "HUP",
            Trigger::Kill => "KILL",
        }
    }

    pub(crate) fn means(self) -> Means {
        match self {
            Trigger::Segv => Means::Twice(libc::SIGSEGV, Duration::from_millis(20)),
            Trigger::Int => Means::Signal(libc::SIGINT),
            Trigger::Term => Means::Signal(libc::SIGTERM),
            Trigger::TermTwice => Means::Twice(libc::SIGTERM, REPEAT_AFTER),
            Trigger::IntTwice => Means::Twice(libc::SIGINT, REPEAT_AFTER),
            Trigger::Quit => Means::Signal(libc::SIGQUIT),
            Trigger::Hup => Means::Signal(libc::SIGHUP),
            Trigger::Kill => Means::Signal(libc::SIGKILL),
            _ => Means::Hook,
        }
    }

    /// Whether the program is meant to live through it.
    pub(crate) fn survivable(self) -> bool {
        matches!(self, Trigger::PanicHandler | Trigger::Hup)
    }
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is no trigger.
#[derive(Clone, Debug, thiserror::Error)]
#[error("unknown trigger {name:?}; there are {}", all_names())]
pub struct UnknownTrigger {
    /// The name as it was given.
    pub name: String,
}

impl FromStr for Trigger {
    type Err = UnknownTrigger;

    fn from_str(name: &str) -> Result<Trigger, UnknownTrigger> {
        Trigger::ALL
            .into_iter()
            .find(|trigger| trigger.name().eq_ignore_ascii_case(name.trim().trim_start_matches("SIG")))
            .ok_or_else(|| UnknownTrigger { name: name.to_owned() })
    }
}

fn all_names() -> String {
    Trigger::ALL.map(Trigger::name).join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written_and_as_people_type_them() {
        for trigger in Trigger::ALL {
            assert_eq!(trigger.name().parse::<Trigger>().unwrap(), trigger);
        }
        assert_eq!("SIGTERM".parse::<Trigger>().unwrap(), Trigger::Term);
        assert_eq!("term-twice".parse::<Trigger>().unwrap(), Trigger::TermTwice);
        let error = "STOP".parse::<Trigger>().unwrap_err().to_string();
        assert!(error.starts_with("unknown trigger \"STOP\"; there are return, exit"), "{error}");
    }
}

//! What is expected of a program when it is ended in some way.

use serde::Deserialize;

use crate::trigger::Trigger;

/// Whether a kind of loss is judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rule {
    /// None of it is allowed.
    #[default]
    None,
    /// It is shown and not judged.
    Any,
}

impl Rule {
    pub(crate) fn judged(self) -> bool {
        self == Rule::None
    }
}

/// What is judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expect {
    /// Requests in flight when the trigger is pulled.
    pub in_flight: Rule,
    /// Requests on connections that were idle.
    pub idle: Rule,
    /// Requests that come while the router does not know yet, on new connections and pooled ones.
    pub arrivals: Rule,
    /// Acknowledged writes.
    pub ledger: Rule,
    /// Files, sockets, ports and children that stay.
    pub leaks: Rule,
    /// Registered cleanups that did not run.
    pub cleanups: Rule,
    /// An exit status that says something other than "stopped as asked".
    pub exit: Rule,
}

impl Expect {
    /// The kinds of cleanup and request loss that are not judged, as those that are.
    pub(crate) fn complement(self) -> Expect {
        let other = |rule: Rule| if rule.judged() { Rule::Any } else { Rule::None };
        Expect {
            in_flight: other(self.in_flight),
            idle: other(self.idle),
            arrivals: other(self.arrivals),
            cleanups: other(self.cleanups),
            ..self
        }
    }

    /// What anyone would expect of a program ended this way.
    ///
    /// Asked to stop, it loses nothing and ends well. Impatience may cut requests, never
    /// cleanups. An exit or a panic says so in its status. What no program can outlive is judged
    /// by what it leaves behind.
    pub fn of(trigger: Trigger) -> Expect {
        let all = Expect::default();
        match trigger {
            Trigger::PanicHandler => Expect { exit: Rule::Any, ..all },
            Trigger::IntTwice => {
                let requests = Expect { in_flight: Rule::Any, idle: Rule::Any, arrivals: Rule::Any, ..all };
                Expect { exit: Rule::Any, ..requests }
            }
            Trigger::Abort | Trigger::Segv | Trigger::Kill => {
                let requests = Expect { in_flight: Rule::Any, idle: Rule::Any, arrivals: Rule::Any, ..all };
                Expect { exit: Rule::Any, cleanups: Rule::Any, ..requests }
            }
            _ => all,
        }
    }
}

/// What a file says of a trigger; the rest is as anyone would expect.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Changes {
    in_flight: Option<Rule>,
    idle: Option<Rule>,
    arrivals: Option<Rule>,
    ledger: Option<Rule>,
    leaks: Option<Rule>,
    cleanups: Option<Rule>,
    exit: Option<Rule>,
}

impl Changes {
    pub(crate) fn over(self, base: Expect) -> Expect {
        Expect {
            in_flight: self.in_flight.unwrap_or(base.in_flight),
            idle: self.idle.unwrap_or(base.idle),
            arrivals: self.arrivals.unwrap_or(base.arrivals),
            ledger: self.ledger.unwrap_or(base.ledger),
            leaks: self.leaks.unwrap_or(base.leaks),
            cleanups: self.cleanups.unwrap_or(base.cleanups),
            exit: self.exit.unwrap_or(base.exit),
        }
    }
}

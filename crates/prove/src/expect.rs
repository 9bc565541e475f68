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

/// What is judged. In a file, what is left out is judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
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
    /// What anyone would expect of a program ended this way.
    ///
    /// Asked to stop, it loses nothing and ends well. Impatience may cut requests, never
    /// cleanups. An exit or a panic says so in its status. What no program can outlive is judged
    /// by what it leaves behind.
    pub fn of(trigger: Trigger) -> Expect {
        let all = Expect::default();
        match trigger {
            Trigger::Exit | Trigger::PanicMain | Trigger::PanicHandler => Expect { exit: Rule::Any, ..all },
            Trigger::IntTwice => {
                Expect { in_flight: Rule::Any, idle: Rule::Any, arrivals: Rule::Any, exit: Rule::Any, ..all }
            }
            Trigger::Abort | Trigger::Kill => {
                Expect { in_flight: Rule::Any, idle: Rule::Any, arrivals: Rule::Any, exit: Rule::Any, ..all }
            }
            _ => all,
        }
    }
}

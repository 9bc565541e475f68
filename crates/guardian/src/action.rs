//! Actions: cleanups that have a name and arguments instead of captured variables, so that a process
//! which was not there when they were registered can run them.

use std::fmt;
use std::time::{Duration, Instant};

use epilogue_journal::Ended;
use linkme::distributed_slice;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A cleanup that survives its process.
///
/// The value is the arguments: it is written to the journal as JSON, and read back by whoever runs it,
/// which may be this process, a guardian of the same program, or the program's next start. It must
/// therefore say everything that is needed, hold no secrets (see [`SecretRef`](crate::SecretRef)), and
/// succeed when there is nothing to do: it is on record before the resource exists, and it may run twice.
///
/// Make it known with [`action!`](crate::action!), or only the process that registered it can run it.
///
/// # Examples
///
/// ```
/// use epilogue_guardian::{Action, ActionCx, ActionError};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct AbortUpload {
///     bucket: String,
///     key: String,
/// }
///
/// impl Action for AbortUpload {
///     const NAME: &'static str = "uploads.abort";
///
///     fn run(&self, cx: &ActionCx) -> Result<(), ActionError> {
///         // What became known only after the upload had begun.
///         let id: Option<String> = cx.amendment()?;
///         println!("abort {}/{} {id:?}, key {}", self.bucket, self.key, cx.key());
///         Ok(())
///     }
/// }
/// epilogue_guardian::action!(AbortUpload);
/// ```
pub trait Action: Serialize + DeserializeOwned {
    /// Its name for ever: what is on record under it must be run by later versions of the program.
    const NAME: &'static str;
    /// The version of its arguments. A runner that knows only an older one parks the record.
    const VERSION: u16 = 1;
    /// Names that it had before.
    const ALIASES: &'static [&'static str] = &[];
    /// It destroys what cannot be had again: it does not run as long as a newer cleanup of its scope, or of
    /// one within that, is not done. A tree is not removed over a mount that could not be undone.
    const DESTROYS: bool = false;
    /// What it ends is gone with the boot of the machine: a process, a mount, something in memory.
    const OF_THIS_BOOT: bool = false;

    /// Runs it. Blocking is fine. "Already gone" is success.
    ///
    /// # Errors
    ///
    /// [`ActionError`]: tried again later, or parked.
    fn run(&self, cx: &ActionCx) -> Result<(), ActionError>;

    /// What it does, for lists and logs.
    fn describe(&self) -> String {
        Self::NAME.to_owned()
    }
}

/// What an action knows of the moment in which it runs.
#[derive(Clone, Debug)]
pub struct ActionCx {
    pub(crate) key: String,
    pub(crate) attempt: u8,
    pub(crate) fence: u64,
    pub(crate) ended: Ended,
    pub(crate) amendment: Option<Value>,
    pub(crate) deadline: Instant,
    pub(crate) journal: String,
    pub(crate) environment: Option<String>,
    pub(crate) output: crate::child::Output,
    /// What it printed, for the log.
    pub(crate) said: std::sync::Arc<std::sync::Mutex<String>>,
}

impl ActionCx {
    /// The same for every attempt at this record, and for no other record: an idempotency key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Which attempt this is, from 1 on.
    pub fn attempt(&self) -> u8 {
        self.attempt
    }

    /// The generation of the payer. Where the resource can compare, a smaller one than it has seen is
    /// of a payer that was replaced.
    pub fn fence(&self) -> u64 {
        self.fence
    }

    /// How the owner of the scope ended, as far as that is known.
    pub fn ended(&self) -> Ended {
        self.ended
    }

    /// When it will be cut off.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// What is left of its time.
    pub fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// What became known after the registration; `None` if nothing did: the process may have died
    /// between the two.
    ///
    /// # Errors
    ///
    /// When it is there and is not a `T`: the record is parked.
    pub fn amendment<T: DeserializeOwned>(&self) -> Result<Option<T>, ActionError> {
        let Some(amendment) = &self.amendment else { return Ok(None) };
        T::deserialize(amendment)
            .map(Some)
            .map_err(|error| ActionError::park(format!("the amendment cannot be read: {error}")))
    }
}

/// Why an action did not do what it should.
#[derive(Debug)]
pub struct ActionError {
    pub(crate) message: String,
    pub(crate) park: bool,
}

impl ActionError {
    /// It may succeed if it is tried again.
    pub fn retry(message: impl Into<String>) -> ActionError {
        ActionError { message: message.into(), park: false }
    }

    /// It will never succeed, or nobody can know what it would do here: it is put aside for an operator.
    pub fn park(message: impl Into<String>) -> ActionError {
        ActionError { message: message.into(), park: true }
    }
}

impl fmt::Display for ActionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl<E: std::error::Error> From<E> for ActionError {
    fn from(error: E) -> ActionError {
        ActionError::retry(error.to_string())
    }
}

/// A kind of action that this program knows.
pub struct Known {
    name: &'static str,
    version: u16,
    aliases: &'static [&'static str],
    of_this_boot: bool,
    /// Whether the guardian runs it itself, or in a child that can be killed.
    pub(crate) in_child: bool,
    run: fn(Value, &ActionCx) -> Result<(), ActionError>,
    describe: fn(Value) -> Option<String>,
}

/// Every action that was made known to this program.
#[doc(hidden)]
#[distributed_slice]
pub static ACTIONS: [Known];

impl Known {
    #[doc(hidden)]
    pub const fn of<A: Action>(in_child: bool) -> Known {
        Known {
            name: A::NAME,
            version: A::VERSION,
            aliases: A::ALIASES,
            of_this_boot: A::OF_THIS_BOOT,
            in_child,
            run: |value, cx| {
                let unreadable = |error| ActionError::park(format!("the arguments cannot be read: {error}"));
                A::deserialize(value).map_err(unreadable)?.run(cx)
            },
            describe: |value| A::deserialize(value).ok().map(|action| action.describe()),
        }
    }

    /// The action of this name.
    pub(crate) fn find(name: &str) -> Option<&'static Known> {
        ACTIONS.iter().find(|known| known.name == name || known.aliases.contains(&name))
    }
}

/// Makes actions known to this program, so that its guardian and its next start can run them.
#[macro_export]
macro_rules! action {
    ($($action:ty),+ $(,)?) => {
        $(const _: () = {
            #[$crate::__private::distributed_slice($crate::__private::ACTIONS)]
            #[linkme(crate = $crate::__private::linkme)]
            static KNOWN: $crate::__private::Known = $crate::__private::Known::of::<$action>(true);
        };)+
    };
}

/// When a cleanup runs at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum When {
    /// However the owner ended.
    #[default]
    Always,
    /// Unless the owner is known to have succeeded.
    Failure,
    /// If the owner is known to have succeeded.
    Success,
}

impl When {
    /// Whether it applies to this end.
    pub fn applies(self, ended: Ended) -> bool {
        let succeeded = ended == Ended::Exited(0);
        match self {
            When::Always => true,
            When::Failure => !succeeded,
            When::Success => succeeded,
        }
    }
}

/// What is on record: an action by name, with its arguments and how it is to be run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// The action.
    #[serde(rename = "a")]
    pub action: String,
    /// The version of its arguments.
    #[serde(rename = "v", default = "one", skip_serializing_if = "is_one")]
    pub version: u16,
    /// Its arguments.
    #[serde(rename = "args", default, skip_serializing_if = "Value::is_null")]
    pub arguments: Value,
    /// What an operator can call it.
    #[serde(rename = "n", default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// How long one attempt may take, in milliseconds; 30 s unless said.
    #[serde(rename = "t", default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// How often it is tried; otherwise as its payer does.
    #[serde(rename = "r", default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<u8>,
    /// When it runs at all.
    #[serde(rename = "if", default, skip_serializing_if = "is_always")]
    pub when: When,
    /// See [`Action::DESTROYS`].
    #[serde(rename = "d", default, skip_serializing_if = "std::ops::Not::not")]
    pub destroys: bool,
    /// The scopes around its own that were open with something pending, by number.
    #[serde(rename = "in", default, skip_serializing_if = "Vec::is_empty")]
    pub within: Vec<u64>,
}

fn one() -> u16 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_one(version: &u16) -> bool {
    *version == 1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_always(when: &When) -> bool {
    *when == When::Always
}

/// How long one attempt may take unless something else is said.
pub const TIMEOUT: Duration = Duration::from_secs(30);

impl Call {
    /// What is put on record for an action.
    ///
    /// # Errors
    ///
    /// When its arguments cannot be written as JSON.
    pub fn of<A: Action>(action: &A) -> Result<Call, serde_json::Error> {
        Ok(Call {
            action: A::NAME.to_owned(),
            version: A::VERSION,
            arguments: serde_json::to_value(action)?,
            name: None,
            timeout_ms: None,
            retries: None,
            when: When::Always,
            destroys: A::DESTROYS,
            within: Vec::new(),
        })
    }

    /// As bytes for a journal.
    ///
    /// # Errors
    ///
    /// When its arguments cannot be written as JSON.
    pub fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }

    /// Reads what a journal holds.
    ///
    /// # Errors
    ///
    /// When it is no call.
    pub fn from_bytes(bytes: &[u8]) -> Result<Call, serde_json::Error> {
        serde_json::from_slice(bytes)
    }

    /// How long one attempt may take.
    pub fn timeout(&self) -> Duration {
        self.timeout_ms.map_or(TIMEOUT, Duration::from_millis)
    }

    /// What it does, in words.
    pub fn describe(&self) -> String {
        let known = Known::find(&self.action);
        known
            .and_then(|known| (known.describe)(self.arguments.clone()))
            .unwrap_or_else(|| format!("{} {}", self.action, self.arguments))
    }

    /// Whether what it ends is gone with the boot in which it was registered.
    pub(crate) fn is_of_this_boot(&self) -> bool {
        Known::find(&self.action).is_some_and(|known| known.of_this_boot)
    }

    /// Runs it here.
    pub(crate) fn run(&self, cx: &ActionCx) -> Result<(), ActionError> {
        let Some(known) = Known::find(&self.action) else {
            return Err(ActionError::park(format!("this program knows no action {:?}", self.action)));
        };
        if self.version > known.version {
            return Err(ActionError::park(format!(
                "{} was registered with arguments of version {}, and this program knows {}",
                self.action, self.version, known.version
            )));
        }
        (known.run)(self.arguments.clone(), cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_says_no_more_than_it_must() {
        let call = Call {
            action: "a.b".into(),
            version: 1,
            arguments: Value::Null,
            name: None,
            timeout_ms: None,
            retries: None,
            when: When::Always,
            destroys: false,
            within: Vec::new(),
        };
        assert_eq!(call.to_bytes().unwrap(), br#"{"a":"a.b"}"#);
        assert_eq!(Call::from_bytes(br#"{"a":"a.b"}"#).unwrap(), call);
    }

    #[test]
    fn failure_is_everything_but_a_known_success() {
        for (ended, failure) in [
            (Ended::Unknown, true),
            (Ended::Exited(0), false),
            (Ended::Exited(3), true),
            (Ended::Signalled(9), true),
        ] {
            assert_eq!(When::Failure.applies(ended), failure);
            assert_eq!(When::Success.applies(ended), !failure);
            assert!(When::Always.applies(ended));
        }
    }
}

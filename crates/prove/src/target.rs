//! What is proved: a command, its URLs, and what is expected of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::client::Ask;
use crate::expect::{Changes, Expect};
use crate::trigger::{Trigger, UnknownTrigger};

/// A program to end, and how to talk to it.
///
/// In the command and in `watch`, `{port}` stands for the port of the row and `{dir}` for a
/// directory of its own, made for the row and removed after it.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its name in reports.
    pub name: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// The port it listens on. Unset: one is chosen if the command mentions `{port}`, else the
    /// port is found by looking.
    pub port: Option<u16>,
    /// Answers 2xx when the program is ready, and something else when it is not.
    pub ready: Option<String>,
    /// Answers at once.
    pub fast: String,
    /// Takes its time to answer; `{id}` stands for what the first write returned.
    pub slow: Option<String>,
    /// Takes a request body, however slowly it comes.
    pub upload: Option<String>,
    /// A write that is acknowledged with 2xx, and how to read it back.
    pub ledger: Option<LedgerSpec>,
    /// A directory in which nothing is to be left when the program has ended.
    pub watch: Option<String>,
    /// The requests that pull the triggers for which there is no signal.
    pub hooks: BTreeMap<Trigger, Ask>,
    /// What is expected, per trigger.
    pub expect: BTreeMap<Trigger, Expect>,
    /// Rows that are known to fail, and why: they are shown as they are and do not make the
    /// result a failure.
    pub known: BTreeMap<Trigger, String>,
    /// How long it may take to become ready.
    pub ready_within: Duration,
}

/// A write, and its read-back. `{n}` in the body stands for a number that is new each time,
/// `{id}` in the path for what the write returned.
#[derive(Clone, Debug)]
pub struct LedgerSpec {
    /// The write.
    pub write: Ask,
    /// The path to read it back; 2xx means it is there.
    pub read: String,
}

impl Target {
    /// A target that is only known by its command.
    pub fn new(name: impl Into<String>, command: Vec<String>) -> Target {
        Target {
            name: name.into(),
            command,
            port: None,
            ready: None,
            fast: "/".into(),
            slow: None,
            upload: None,
            ledger: None,
            watch: None,
            hooks: BTreeMap::new(),
            expect: Trigger::ALL.into_iter().map(|trigger| (trigger, Expect::of(trigger))).collect(),
            known: BTreeMap::new(),
            ready_within: Duration::from_secs(10),
        }
    }

    /// Reads `prove.toml`.
    ///
    /// # Errors
    ///
    /// [`TargetError`], with the file, the field and its value.
    pub fn read(path: &Path) -> Result<Target, TargetError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| TargetError::Read { path: path.to_owned(), source })?;
        let file: File = toml::from_str(&text).map_err(|error| TargetError::Parse {
            path: path.to_owned(),
            why: error.to_string().trim_end().to_owned(),
        })?;
        file.into_target()
    }

    pub(crate) fn expect(&self, trigger: Trigger) -> Expect {
        self.expect.get(&trigger).copied().unwrap_or_else(|| Expect::of(trigger))
    }

    pub(crate) fn mentions_port(&self) -> bool {
        self.command.iter().any(|word| word.contains("{port}"))
    }
}

/// Why a target could not be made of what was given.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not what it should be; the text shows the line.
    #[error("{}: {why}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        why: String,
    },
    /// A request is not `METHOD /path`.
    #[error("{field} = {value:?} is not a request; write it like \"POST /admin/stop\"")]
    NotARequest {
        /// The option or field.
        field: String,
        /// What was given.
        value: String,
    },
    /// A path does not start with `/`.
    #[error("{field} = {value:?} is not a path; it starts with a / (host and port are the target's)")]
    NotAPath {
        /// The option or field.
        field: String,
        /// What was given.
        value: String,
    },
    /// A trigger that is none.
    #[error(transparent)]
    Trigger(#[from] UnknownTrigger),
    /// Nothing to run.
    #[error("command is empty; give the program and its arguments")]
    NoCommand,
}

/// Reads `METHOD /path`.
///
/// # Errors
///
/// [`TargetError::NotARequest`] naming `field`.
pub fn parse_ask(field: &str, value: &str) -> Result<Ask, TargetError> {
    let wrong = || TargetError::NotARequest { field: field.to_owned(), value: value.to_owned() };
    let (method, path) = value.trim().split_once(' ').ok_or_else(wrong)?;
    let method_ok = !method.is_empty() && method.bytes().all(|byte| byte.is_ascii_uppercase());
    if !method_ok || !path.trim().starts_with('/') || path.trim().contains(char::is_whitespace) {
        return Err(wrong());
    }
    Ok(Ask { method: method.to_owned(), path: path.trim().to_owned(), body: None })
}

/// Checks a path.
///
/// # Errors
///
/// [`TargetError::NotAPath`] naming `field`.
pub fn parse_path(field: &str, value: &str) -> Result<String, TargetError> {
    if value.starts_with('/') && !value.contains(char::is_whitespace) {
        Ok(value.to_owned())
    } else {
        Err(TargetError::NotAPath { field: field.to_owned(), value: value.to_owned() })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    name: Option<String>,
    command: Vec<String>,
    port: Option<u16>,
    ready: Option<String>,
    fast: Option<String>,
    slow: Option<String>,
    upload: Option<String>,
    watch: Option<String>,
    ready_within_s: Option<f64>,
    write: Option<WriteFile>,
    #[serde(default)]
    hooks: BTreeMap<String, String>,
    #[serde(default)]
    expect: BTreeMap<String, Changes>,
    #[serde(default)]
    known: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct WriteFile {
    request: String,
    body: Option<String>,
    content_type: Option<String>,
    read: String,
}

impl File {
    fn into_target(self) -> Result<Target, TargetError> {
        let program = self.command.first().ok_or(TargetError::NoCommand)?;
        let mut target = Target::new(self.name.unwrap_or_else(|| program.clone()), self.command.clone());
        let path =
            |field: &str, value: Option<String>| value.map(|value| parse_path(field, &value)).transpose();
        target.port = self.port;
        target.ready = path("ready", self.ready)?;
        target.slow = path("slow", self.slow)?;
        target.upload = path("upload", self.upload)?;
        if let Some(fast) = path("fast", self.fast)? {
            target.fast = fast;
        }
        target.watch = self.watch;
        if let Some(within) = self.ready_within_s.and_then(|s| Duration::try_from_secs_f64(s).ok()) {
            target.ready_within = within;
        }
        if let Some(write) = self.write {
            target.ledger = Some(write.into_spec()?);
        }
        for (trigger, request) in self.hooks {
            target.hooks.insert(trigger.parse()?, parse_ask(&format!("hooks.{trigger}"), &request)?);
        }
        for (trigger, changes) in self.expect {
            let trigger: Trigger = trigger.parse()?;
            target.expect.insert(trigger, changes.over(Expect::of(trigger)));
        }
        for (trigger, why) in self.known {
            target.known.insert(trigger.parse()?, why);
        }
        Ok(target)
    }
}

impl WriteFile {
    fn into_spec(self) -> Result<LedgerSpec, TargetError> {
        let mut write = parse_ask("write.request", &self.request)?;
        if let Some(body) = self.body {
            let kind = self.content_type.unwrap_or_else(|| "application/json".into());
            write.body = Some((kind, body.into_bytes()));
        }
        Ok(LedgerSpec { write, read: parse_path("write.read", &self.read)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Target, String> {
        let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
        file.into_target().map_err(|error| error.to_string())
    }

    #[test]
    fn a_file_names_everything_a_target_has() {
        let target = parse(
            r#"
            command = ["./server", "--port", "{port}"]
            ready = "/ready"
            slow = "/slow"
            watch = "{dir}/run"
            [write]
            request = "POST /orders"
            body = '{"n": {n}}'
            read = "/orders/{id}"
            [hooks]
            exit = "POST /admin/exit"
            [expect.INT]
            in-flight = "any"
            [expect.INT-twice]
            leaks = "any"
            [known]
            KILL = "nothing survives it"
            "#,
        )
        .unwrap();
        assert_eq!(target.name, "./server");
        assert!(target.mentions_port());
        assert_eq!(target.hooks[&Trigger::Exit].path, "/admin/exit");
        assert!(!target.expect(Trigger::Int).in_flight.judged());
        assert!(target.expect(Trigger::Int).leaks.judged(), "what a file leaves out stays as it was");
        assert!(!target.expect(Trigger::IntTwice).arrivals.judged());
        assert!(target.known.contains_key(&Trigger::Kill));
    }

    #[test]
    fn mistakes_name_the_field_and_the_value() {
        let wrong = |text: &str| parse(text).unwrap_err();
        assert!(wrong("command = []").contains("command is empty"));
        assert!(wrong("command = [\"x\"]\nslow = \"slow\"").contains("slow = \"slow\" is not a path"));
        assert!(wrong("command = [\"x\"]\n[hooks]\nexit = \"/x\"").contains("hooks.exit = \"/x\""));
        assert!(wrong("command = [\"x\"]\n[hooks]\nEXIT9 = \"POST /x\"").contains("EXIT9"));
        assert!(wrong("command = [\"x\"]\nslwo = \"/slow\"").contains("slwo"));
        assert!(wrong("command = [\"x\"]\n[expect.TERM]\nleaks = \"some\"").contains("some"));
    }
}

//! Finding the scope that a command means, and runs by their names.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use epilogue_guardian::{Home, Run, ScopeRef, effective_uid, is_set_uid};
use epilogue_journal::State;

use super::status::{Failure, NO_INPUT, NO_SCOPE, NOT_YOURS, TOO_LATE};

/// Which scope is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    /// The innermost.
    Inner,
    /// The one around that.
    Outer,
    /// The outermost.
    Root,
    /// As it stands in `EPILOGUE_SCOPE`.
    Named(ScopeRef),
}

impl std::str::FromStr for Which {
    type Err = String;

    fn from_str(text: &str) -> Result<Which, String> {
        match text {
            "inner" => Ok(Which::Inner),
            "outer" => Ok(Which::Outer),
            "root" => Ok(Which::Root),
            other => ScopeRef::parse(other).map(Which::Named).ok_or_else(|| {
                format!("{other:?} is no scope: outer, root, or the value of EPILOGUE_SCOPE somewhere")
            }),
        }
    }
}

/// The scope that is meant, opened.
pub(crate) fn scope(which: &Which) -> Result<(Run, u64), Failure> {
    let found = match which {
        Which::Named(scope) => scope.clone(),
        which => among(which)?,
    };
    let run = open(&found.dir)?;
    Ok((run, found.scope))
}

fn among(which: &Which) -> Result<ScopeRef, Failure> {
    let mut scopes = if is_set_uid() { Vec::new() } else { ScopeRef::from_environment() };
    if scopes.is_empty() {
        let homes = Home::look(None).unwrap_or_default();
        scopes.extend(ScopeRef::of_ancestors(&homes));
    }
    let at = match which {
        Which::Outer => 1,
        Which::Root => scopes.len().saturating_sub(1),
        _ => 0,
    };
    if scopes.is_empty() {
        return Err(Failure::new(
            NO_SCOPE,
            "there is no scope here: run the script under 'epilogue run -- ./script', or guard this shell \
             with --owner $$; in a container or over ssh pass EPILOGUE_SCOPE on. Nothing was registered",
        ));
    }
    scopes.into_iter().nth(at).ok_or_else(|| {
        Failure::new(NO_SCOPE, "there is no scope around this one (--scope outer); nothing was registered")
    })
}

fn open(dir: &Path) -> Result<Run, Failure> {
    match std::fs::symlink_metadata(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(over(dir)),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Err(Failure::new(
            NOT_YOURS,
            format!(
                "the scope in {} is another user's, and only its user defers to it ({error})",
                dir.display()
            ),
        )),
        Ok(found) if found.uid() != effective_uid() => {
            let (theirs, mine) = (found.uid(), effective_uid());
            let advice = if mine == 0 {
                "its payer could not do what root defers: use 'sudo epilogue run -- …', or defer \
                 'sudo -n …' as the user"
            } else {
                "only its user defers to it"
            };
            Err(Failure::new(
                NOT_YOURS,
                format!("the scope belongs to uid {theirs}, and this is uid {mine}: {advice}"),
            ))
        }
        _ => Run::open(dir).map_err(|error| {
            // Taken away since it was looked at.
            if dir.join("journal").exists() { error.into() } else { over(dir) }
        }),
    }
}

fn over(dir: &Path) -> Failure {
    Failure::new(
        TOO_LATE,
        format!(
            "too late: there is no scope in {} (any more): it was paid, or its directory deleted",
            dir.display()
        ),
    )
}

/// A record by the name that an operator gives it: `ID`, `RUN/ID`, or its own name.
#[derive(Clone, Debug)]
pub(crate) struct Name {
    run: Option<String>,
    record: String,
}

impl std::str::FromStr for Name {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Name, Self::Err> {
        let text = text.trim_start_matches('#');
        Ok(match text.split_once('/') {
            Some((run, record)) => {
                Name { run: Some(run.into()), record: record.trim_start_matches('#').into() }
            }
            None => Name { run: None, record: text.into() },
        })
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.run {
            Some(run) => write!(f, "{run}/{}", self.record),
            None => f.write_str(&self.record),
        }
    }
}

impl Name {
    /// Whether the run could be the one that is meant.
    pub(crate) fn in_run(&self, run: &Run) -> bool {
        self.run.as_ref().is_none_or(|name| run.meta().uuid.starts_with(name.as_str()))
    }

    pub(crate) fn names_run(&self) -> bool {
        self.run.is_some()
    }

    /// The record in this run, if it is there: of several with that name the newest that is armed, or the
    /// newest of those that are still owed, or the newest.
    pub(crate) fn record_in(&self, run: &Run) -> Result<Option<u64>, Failure> {
        let scan = run.journal.scan()?;
        if let Ok(id) = self.record.parse::<u64>() {
            return Ok(scan.find(id).map(|entry| entry.id));
        }
        let named = |entry: &&epilogue_journal::Entry| {
            let call = epilogue_guardian::Call::from_bytes(&entry.body);
            call.is_ok_and(|call| call.name.as_deref() == Some(self.record.as_str()))
        };
        let all: Vec<_> = scan.entries.iter().rev().filter(named).collect();
        let newest = |of: fn(State) -> bool| all.iter().find(|entry| of(entry.state));
        let found = newest(State::is_untouched).or_else(|| newest(State::is_open)).or_else(|| all.first());
        Ok(found.map(|entry| entry.id))
    }

    /// Of records in several runs nobody can know which is meant.
    pub(crate) fn ambiguous(&self, candidates: &[String]) -> Failure {
        Failure::usage(format!("{self} could be any of {}: say which, as RUN/ID", candidates.join(", ")))
    }

    pub(crate) fn not_found(&self) -> Failure {
        Failure::new(
            NO_INPUT,
            format!("there is no record {self}; 'epilogue pending list' shows what there is"),
        )
    }
}

/// Every run there is, in every usual place or in the one that was named. What cannot be opened is said.
pub(crate) fn all_runs(dir: Option<&Path>) -> Result<Vec<Run>, Failure> {
    Ok(readable_runs(dir)?.0)
}

/// The same, and whether there was one that cannot be opened.
pub(crate) fn readable_runs(dir: Option<&Path>) -> Result<(Vec<Run>, bool), Failure> {
    let (mut found, mut unreadable) = (Vec::new(), false);
    for home in homes(dir)? {
        let all = Run::all(&home)
            .map_err(|error| Failure::new(super::status::IO, format!("{}: {error}", home.display())))?;
        for (dir, run) in all {
            match run {
                Ok(run) => found.push(run),
                // Paid and removed since the directory was read.
                Err(_) if !dir.exists() => {}
                Err(error) => {
                    unreadable = true;
                    super::say(format_args!("epilogue: left out: {error}"));
                }
            }
        }
    }
    Ok((found, unreadable))
}

pub(crate) fn homes(dir: Option<&Path>) -> Result<Vec<PathBuf>, Failure> {
    Home::look(dir).map_err(|error| Failure::usage(error.to_string()))
}

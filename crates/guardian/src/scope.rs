//! Finding the scope that a command runs in.

use std::path::{Path, PathBuf};

use crate::identity;
use crate::pay::WHOLE_RUN;
use crate::run::Run;

/// The variable that names the innermost scope.
pub const SCOPE_ENV: &str = "EPILOGUE_SCOPE";
/// The variable that names those around it, the nearest first, with semicolons between.
pub const OUTER_ENV: &str = "EPILOGUE_OUTER";

/// A scope: a run, and its number in the run's journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScopeRef {
    /// The run's directory.
    pub dir: PathBuf,
    /// The scope's number; 1 is the run itself.
    pub scope: u64,
}

impl ScopeRef {
    /// As it stands in the environment: `PATH/journal:NUMBER`.
    pub fn parse(text: &str) -> Option<ScopeRef> {
        let (journal, scope) = text.rsplit_once(':')?;
        let dir = Path::new(journal).parent()?.to_owned();
        let scope = scope.parse().ok().filter(|scope| *scope > 0)?;
        (dir.is_absolute() && journal.ends_with("/journal")).then_some(ScopeRef { dir, scope })
    }

    /// The scopes that the environment names, the innermost first.
    pub fn from_environment() -> Vec<ScopeRef> {
        let set = |name| std::env::var(name).unwrap_or_default();
        let named = format!("{};{}", set(SCOPE_ENV), set(OUTER_ENV));
        named.split(';').filter_map(ScopeRef::parse).collect()
    }

    /// The scope of the nearest process above this one that owns a run: for a command whose environment
    /// was wiped.
    pub fn of_ancestors(homes: &[PathBuf]) -> Option<ScopeRef> {
        let runs: Vec<Run> = homes
            .iter()
            .filter_map(|home| Run::all(home).ok())
            .flatten()
            .filter_map(|(_, run)| run.ok())
            .collect();
        let mut pid = std::process::id();
        while let Some(parent) = identity::parent_of(pid).filter(|parent| *parent > 0) {
            let start = identity::start_of(parent);
            let owns = |run: &&Run| {
                let here = run.meta().pid_namespace == identity::pid_namespace()
                    && run.meta().boot_id == identity::boot_id();
                let is = |process: epilogue_journal::ProcessId| {
                    let same = |start| process.start == 0 || identity::same_start(process.start, start);
                    process.pid == parent && start.is_some_and(same)
                };
                here && (run.journal.owner().is_ok_and(is) || run.journal.wrapper().is_ok_and(is))
            };
            // Of several, the one that began last is the innermost.
            if let Some(run) = runs.iter().rev().find(owns) {
                return Some(ScopeRef { dir: run.dir.clone(), scope: WHOLE_RUN });
            }
            pid = parent;
        }
        None
    }
}

impl std::fmt::Display for ScopeRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/journal:{}", self.dir.display(), self.scope)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_is_read_as_it_is_written_and_nothing_else_is() {
        let scope = ScopeRef { dir: "/a b:c/run".into(), scope: 12 };
        assert_eq!(ScopeRef::parse(&scope.to_string()), Some(scope));
        for wrong in ["", "/a/journal", "/a/journal:", "/a/journal:0", "a/journal:1", "/a/other:1", ":1"] {
            assert_eq!(ScopeRef::parse(wrong), None, "{wrong}");
        }
    }
}

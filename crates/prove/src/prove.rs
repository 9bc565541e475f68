//! All rows: which are run, how often, and what is said of them.

use std::io;
use std::sync::Mutex;

use crate::judge::{self, Judged, Verdict};
use crate::leftovers::{self, RunDir};
use crate::os;
use crate::report::{Report, Row, TargetReport};
use crate::row::{self, Conditions, Observation, RowError};
use crate::running::{Place, StartError};
use crate::target::Target;
use crate::trigger::{Means, Trigger};

/// A row whose few losses may be a race, and one whose load was spoilt, are run this often.
const RUNS_MAX: u32 = 3;

/// What is to be proved.
#[derive(Clone, Debug)]
pub struct Proof {
    /// The programs. Several are ended side by side, trigger by trigger.
    pub targets: Vec<Target>,
    /// The ways.
    pub triggers: Vec<Trigger>,
    /// Under which conditions.
    pub conditions: Conditions,
}

/// Something that happened while the rows are run.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Progress<'a> {
    /// Earlier runs had left something, and this was done about it.
    CleanedUp(&'a str),
    /// A row is at this stage.
    Stage {
        /// Which target.
        target: &'a str,
        /// Which trigger.
        trigger: Trigger,
        /// What it is doing.
        stage: &'static str,
    },
    /// A row is run again, and why.
    Again {
        /// Which target.
        target: &'a str,
        /// Which trigger.
        trigger: Trigger,
        /// Why.
        why: &'a str,
    },
    /// A row is done.
    Done {
        /// Which target.
        target: &'a str,
        /// What is said of it.
        row: &'a Row,
        /// How many rows are done, over all targets.
        done: usize,
        /// How many there are.
        of: usize,
    },
}

/// Whoever watches.
pub type Watcher<'a> = &'a (dyn Fn(Progress<'_>) + Sync);

/// Why nothing could be proved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProveError {
    /// There is no place for the run's files.
    #[error("no place for the run's files: {0}")]
    Place(#[source] io::Error),
    /// A target did not come up.
    #[error("{target}: {source}")]
    Row {
        /// Its name.
        target: String,
        /// Why.
        source: RowError,
    },
}

impl ProveError {
    /// Whether what was asked for cannot be done, rather than that the program failed at it.
    pub fn is_usage(&self) -> bool {
        match self {
            ProveError::Place(_) => true,
            ProveError::Row { source: RowError::Start(source), .. } => matches!(
                source,
                StartError::NotFound { .. } | StartError::Spawn { .. } | StartError::PortTaken { .. }
            ),
            ProveError::Row { .. } => false,
        }
    }
}

/// Runs every row and returns the report.
///
/// # Errors
///
/// [`ProveError`] when a target cannot even be started. What it loses is no error.
///
/// # Cancel safety
///
/// Dropping the future ends everything it has started and removes its files.
pub async fn prove(proof: &Proof, watcher: Watcher<'_>) -> Result<Report, ProveError> {
    os::adopt_orphans();
    for line in leftovers::sweep().map_err(ProveError::Place)? {
        watcher(Progress::CleanedUp(&line));
    }
    let run = RunDir::create().map_err(ProveError::Place)?;
    let done = Mutex::new(0);
    let mut rows: Vec<Vec<Row>> = proof.targets.iter().map(|_| Vec::new()).collect();
    for &trigger in &proof.triggers {
        let side_by_side = proof
            .targets
            .iter()
            .enumerate()
            .map(|(at, target)| prove_row(proof, at, target, trigger, &run, watcher, &done));
        for (at, row) in join_all(side_by_side).await.into_iter().enumerate() {
            rows[at].push(row?);
        }
    }
    let targets =
        proof.targets.iter().zip(rows).map(|(target, rows)| TargetReport::new(target, rows)).collect();
    Ok(Report::new(&proof.conditions, targets))
}

async fn prove_row(
    proof: &Proof,
    at: usize,
    target: &Target,
    trigger: Trigger,
    run: &RunDir,
    watcher: Watcher<'_>,
    done: &Mutex<usize>,
) -> Result<Row, ProveError> {
    let row = if trigger.means() == Means::Hook && !target.hooks.contains_key(&trigger) {
        let why = format!("not exercised: no request that does it (give --hook {trigger}='POST /path')");
        Row::skipped(trigger, why)
    } else {
        repeated(proof, at, target, trigger, run, watcher).await?
    };
    let done = {
        let mut done = done.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *done += 1;
        *done
    };
    let of = proof.targets.len() * proof.triggers.len();
    watcher(Progress::Done { target: &target.name, row: &row, done, of });
    Ok(row)
}

/// Runs a row, and again if a race or a spoilt load calls for it.
async fn repeated(
    proof: &Proof,
    at: usize,
    target: &Target,
    trigger: Trigger,
    run: &RunDir,
    watcher: Watcher<'_>,
) -> Result<Row, ProveError> {
    let mut conclusive: Vec<(Judged, Observation)> = Vec::new();
    let mut last_spoilt = None;
    let mut runs = 0;
    while runs < RUNS_MAX {
        runs += 1;
        let name = format!("{at}-{trigger}-{runs}");
        let stage = |stage| watcher(Progress::Stage { target: &target.name, trigger, stage });
        let seen = once(proof, target, trigger, run, &name, &stage)
            .await
            .map_err(|source| ProveError::Row { target: target.name.clone(), source })?;
        let judged = judge::judge(trigger, target.expect(trigger), &seen);
        let again = |why: &str| watcher(Progress::Again { target: &target.name, trigger, why });
        if judged.verdict == Verdict::Inconclusive {
            if runs < RUNS_MAX {
                again(&judged.reason);
            }
            last_spoilt = Some((judged, seen));
            continue;
        }
        let few = judged.few;
        conclusive.push((judged, seen));
        let started_racing = conclusive.iter().any(|(judged, _)| judged.few);
        if !started_racing {
            break;
        }
        if few && runs < RUNS_MAX {
            again("one or two requests were lost: a race?");
        }
    }
    let known = target.known.get(&trigger).cloned();
    let (judged, seen) = match conclusive.iter().position(|(judged, _)| judged.verdict == Verdict::Fail) {
        // The run that shows the loss is the one to look at.
        Some(at) => {
            let verdicts: Vec<Judged> = conclusive.iter().map(|(judged, _)| judged.clone()).collect();
            (judge::of_repeats(&verdicts), conclusive.swap_remove(at).1)
        }
        None => match conclusive.pop().or(last_spoilt) {
            Some(run) => run,
            None => return Ok(Row::skipped(trigger, "never run".into())),
        },
    };
    let known = known.filter(|_| judged.verdict == Verdict::Fail);
    Ok(Row::new(trigger, judged.verdict, judged.reason, runs, seen, known))
}

async fn once(
    proof: &Proof,
    target: &Target,
    trigger: Trigger,
    run: &RunDir,
    name: &str,
    stage: row::Stage<'_>,
) -> Result<Observation, RowError> {
    let files =
        |source: io::Error| RowError::Start(StartError::Files { path: format!("row {name}"), source });
    let dir = run.row(name).map_err(files)?;
    let salt = name.bytes().fold(0_u32, |salt, byte| salt.wrapping_mul(31).wrapping_add(u32::from(byte)));
    let (port, _lock) = match target.port {
        Some(port) => (Some(port), None),
        None if target.mentions_port() => {
            let (port, lock) = leftovers::take_port(salt).map_err(files)?;
            (Some(port), Some(lock))
        }
        None => (None, None),
    };
    let place = Place { dir: dir.path.clone(), mark: dir.mark.clone(), port };
    row::run(target, trigger, &proof.conditions, &place, stage).await
}

/// Polls all futures to their ends, in order of their results.
async fn join_all<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut running: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|cx| {
        let mut pending = false;
        for (future, result) in &mut running {
            if result.is_none() {
                match future.as_mut().poll(cx) {
                    std::task::Poll::Ready(output) => *result = Some(output),
                    std::task::Poll::Pending => pending = true,
                }
            }
        }
        if pending { std::task::Poll::Pending } else { std::task::Poll::Ready(()) }
    })
    .await;
    running.into_iter().filter_map(|(_, result)| result).collect()
}

//! All rows: which are run, how often, and what is said of them.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

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
    #[error("{source}")]
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
            ProveError::Row { source: RowError::Setup(_), .. } => true,
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
    let came_up: Vec<_> = proof.targets.iter().map(|_| AtomicBool::new(false)).collect();
    let mut rows: Vec<Vec<Row>> = proof.targets.iter().map(|_| Vec::new()).collect();
    for &trigger in &proof.triggers {
        let side_by_side = proof.targets.iter().enumerate().map(|(at, target)| {
            let name = format!("{at}-{}", rows[at].len());
            let row = RowRun { proof, target, trigger, run: &run, name, came_up: &came_up[at], watcher };
            row.proved(&done)
        });
        for (at, row) in join_all(side_by_side).await.into_iter().enumerate() {
            rows[at].push(row?);
        }
    }
    let targets =
        proof.targets.iter().zip(rows).map(|(target, rows)| TargetReport::new(target, rows)).collect();
    Ok(Report::new(&proof.conditions, targets))
}

/// One row of one target, with all that it needs to know.
struct RowRun<'a> {
    proof: &'a Proof,
    target: &'a Target,
    trigger: Trigger,
    run: &'a RunDir,
    name: String,
    /// Whether this target has come up in any row so far.
    came_up: &'a AtomicBool,
    watcher: Watcher<'a>,
}

impl RowRun<'_> {
    async fn proved(self, done: &Mutex<usize>) -> Result<Row, ProveError> {
        let Self { target, trigger, .. } = self;
        let row = if trigger.means() == Means::Hook && !target.hooks.contains_key(&trigger) {
            let how = format!("give --hook {trigger}='POST /path'");
            Row::skipped(trigger, format!("not exercised: no request that does it ({how})"))
        } else {
            self.repeated().await?
        };
        let done = {
            let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
            *done += 1;
            *done
        };
        let of = self.proof.targets.len() * self.proof.triggers.len();
        (self.watcher)(Progress::Done { target: &target.name, row: &row, done, of });
        Ok(row)
    }

    /// Runs the row, and again if a race or a spoilt load calls for it.
    async fn repeated(&self) -> Result<Row, ProveError> {
        let Self { target, trigger, .. } = self;
        let mut conclusive: Vec<(Judged, Observation)> = Vec::new();
        let mut spoilt = None;
        let mut runs = 0;
        while runs < RUNS_MAX {
            runs += 1;
            let seen = match self.once(runs).await {
                Ok(seen) => seen,
                Err(error) if self.is_of_this_row(&error) => {
                    return Ok(Row::failed(*trigger, error.to_string(), runs));
                }
                Err(source) => return Err(ProveError::Row { target: target.name.clone(), source }),
            };
            let judged = judge::judge(*trigger, target.expect(*trigger), &seen);
            if judged.verdict == Verdict::Inconclusive {
                self.again(runs, &judged.reason);
                spoilt = Some((judged, seen));
                continue;
            }
            let few = judged.few;
            conclusive.push((judged, seen));
            if !conclusive.iter().any(|(judged, _)| judged.few) {
                break;
            }
            if few {
                self.again(runs, "one or two requests were lost: a race?");
            }
        }
        Ok(self.verdict(conclusive, spoilt, runs))
    }

    fn verdict(
        &self,
        mut conclusive: Vec<(Judged, Observation)>,
        spoilt: Option<(Judged, Observation)>,
        runs: u32,
    ) -> Row {
        let verdicts: Vec<Judged> = conclusive.iter().map(|(judged, _)| judged.clone()).collect();
        let failed = verdicts.iter().position(|judged| judged.verdict == Verdict::Fail);
        let (judged, seen) = match (failed, spoilt) {
            // The run that shows the loss is the one to look at.
            (Some(at), _) => (judge::of_repeats(&verdicts), conclusive.swap_remove(at).1),
            (None, spoilt) => match conclusive.pop().or(spoilt) {
                Some(run) => run,
                None => return Row::skipped(self.trigger, "never run".into()),
            },
        };
        let known = self.target.known.get(&self.trigger).cloned();
        let known = known.filter(|_| judged.verdict == Verdict::Fail);
        Row::new(self.trigger, judged.verdict, judged.reason, runs, seen, known)
    }

    fn again(&self, runs: u32, why: &str) {
        if runs < RUNS_MAX {
            let Self { target, trigger, .. } = self;
            (self.watcher)(Progress::Again { target: &target.name, trigger: *trigger, why });
        }
    }

    /// A program that has come up before and does not this time has failed at this row. One that
    /// never came up is a mistake in what was asked for.
    fn is_of_this_row(&self, error: &RowError) -> bool {
        match error {
            RowError::DiedEarly { .. } => true,
            RowError::Start(StartError::Died { .. } | StartError::NeverReady { .. }) => {
                self.came_up.load(Ordering::Relaxed)
            }
            _ => false,
        }
    }

    async fn once(&self, attempt: u32) -> Result<Observation, RowError> {
        let Self { proof, target, trigger, .. } = self;
        let name = format!("{}-{attempt}", self.name);
        let files =
            |source: io::Error| RowError::Start(StartError::Files { path: format!("row {name}"), source });
        let dir = self.run.row(&name).map_err(files)?;
        let (port, _lock) = match target.port {
            Some(port) => (Some(port), None),
            None if target.mentions_port() => {
                let (port, lock) = leftovers::take_port(&name).map_err(files)?;
                (Some(port), Some(lock))
            }
            None => (None, None),
        };
        let place = Place { dir: dir.path.clone(), mark: dir.mark.clone(), port };
        let stage = |stage| {
            if stage != row::FIRST_STAGE {
                self.came_up.store(true, Ordering::Relaxed);
            }
            (self.watcher)(Progress::Stage { target: &target.name, trigger: *trigger, stage });
        };
        row::run(target, *trigger, &proof.conditions, &place, &stage).await
    }
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

//! One row: start, load, end, look, start again.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::client::{Answer, Ask, Client};
use crate::ending::{Began, end_survivor, prestop, pull, watch_it_end};
use crate::in_flight::bring_in_flight;
use crate::leaks::leaks;
use crate::load::{CONNECT_LIMIT, Generator, LoadSpec, Plan, Seen, id_of, numbered};
use crate::outcome::Counts;
use crate::restart::restart;
use crate::running::{self, Place, Running, StartError};
use crate::target::Target;
use crate::trigger::Trigger;

/// How the rows are run.
#[derive(Clone, Debug)]
pub struct Conditions {
    /// How long requests keep coming after termination begins.
    pub lag: Duration,
    /// How long the platform waits between the signal and the kill.
    pub grace: Duration,
    /// What runs between the beginning of termination and the signal, within the grace.
    pub prestop: Prestop,
    /// How much load there is.
    pub load: LoadSpec,
}

/// A preStop hook.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Prestop {
    /// None.
    No,
    /// A sleep.
    Sleep(Duration),
    /// A shell command.
    Command(String),
}

/// All that was seen of one row. Judged elsewhere.
#[derive(Debug, Default)]
pub(crate) struct Observation {
    pub(crate) in_flight: Counts,
    pub(crate) idle: Counts,
    pub(crate) arrivals: Counts,
    pub(crate) pool: Counts,
    pub(crate) proof: String,
    /// Why a cell has nothing to show: cell, reason.
    pub(crate) not_exercised: Vec<(&'static str, String)>,
    pub(crate) exit: Option<Exit>,
    pub(crate) survived: bool,
    /// It had to be killed at the end of the grace.
    pub(crate) overstayed: bool,
    pub(crate) ledger: Option<Ledger>,
    pub(crate) cleanups: Option<Cleanups>,
    pub(crate) leaks: Vec<Leak>,
    pub(crate) restart_ms: Option<u64>,
    pub(crate) restart_failed: Option<String>,
    pub(crate) readiness_off_ms: Option<u64>,
    pub(crate) listener_closed_ms: Option<u64>,
    pub(crate) prestop_ms: u64,
    pub(crate) late_p99_ms: f64,
    pub(crate) late_max_ms: f64,
    pub(crate) unsent: u32,
    pub(crate) timeline: Vec<(i64, crate::Outcome)>,
    pub(crate) events: Vec<(i64, String)>,
    /// Why nothing can be said of the program: the load was not as it should be.
    pub(crate) spoilt: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exit {
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
    /// From the beginning of termination.
    pub(crate) ms: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ledger {
    pub(crate) acked: u32,
    pub(crate) recovered: u32,
    pub(crate) lost: u32,
    pub(crate) indeterminate: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cleanups {
    pub(crate) registered: u64,
    pub(crate) run: u64,
    /// Ran when the program was gone: they were durable.
    pub(crate) run_later: u64,
    pub(crate) pending: u64,
    pub(crate) failed: u64,
    /// The names of what is pending, newest first.
    pub(crate) owed: Vec<String>,
}

impl Cleanups {
    fn paid_later(&mut self, count: u64) {
        // Never more than what was open: a cleanup may have run, and died before it said so.
        self.run_later = count.min(self.pending);
        self.pending -= self.run_later;
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leak {
    pub(crate) kind: &'static str,
    pub(crate) what: String,
}

/// Why a row could not be run at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RowError {
    /// The target did not come up.
    #[error(transparent)]
    Start(#[from] StartError),
    /// It was ready, and ended before it was told to.
    #[error("{program} ended by itself ({how}) before it was told to{output}")]
    DiedEarly {
        /// As it was given.
        program: String,
        /// Its exit status.
        how: String,
        /// The last lines it printed.
        output: String,
    },
    /// What was said of the target is not true of it.
    #[error("{0}")]
    Setup(String),
    /// The load generator could not be started.
    #[error("the load generator could not be started: {0}")]
    Generator(std::io::Error),
}

/// What a row is doing, for whoever watches.
pub(crate) type Stage<'a> = &'a (dyn Fn(&'static str) + Sync);

/// While a row is here, the target has not come up.
pub(crate) const FIRST_STAGE: &str = "starting";

pub(crate) const POLL: Duration = Duration::from_millis(5);

/// Runs one row, from the start of the target to the last look at what is left.
pub(crate) async fn run(
    target: &Target,
    trigger: Trigger,
    conditions: &Conditions,
    place: &Place,
    stage: Stage<'_>,
) -> Result<Observation, RowError> {
    let mut watch_was_there = false;
    let watch = target.watch.as_ref().map(|dir| PathBuf::from(place.fill(dir)));
    let before: HashSet<PathBuf> = watch.iter().flat_map(|dir| running::files_below(dir)).collect();
    let mut seen = Observation::default();

    stage(FIRST_STAGE);
    // Alive until the row is over: what it left behind is in the way of the restart, as in life.
    let mut process = Running::start(target, place, 1, conditions.grace)?;
    let address = process.ready(target).await?;
    let first_id = check(target, address).await.map_err(RowError::Setup)?;
    let generator = Generator::start(plan(target, conditions, address, first_id.as_deref()))
        .map_err(RowError::Generator)?;
    stage("bringing requests in flight");
    bring_in_flight(target, &generator, address, &mut seen).await.map_err(RowError::Setup)?;
    if let Some(status) = process.poll_exit() {
        return Err(RowError::DiedEarly {
            program: target.command.first().cloned().unwrap_or_default(),
            how: running::told(status),
            output: process.last_words(),
        });
    }

    stage("ending it");
    process.note_family();
    watch_was_there |= watch.as_ref().is_some_and(|dir| dir.is_dir());
    let began = Began { at: Instant::now(), ns: epilogue_observe::monotonic_ns() };
    generator.ending(began.at);
    match prestop(conditions, &place.mark).await {
        Ok(ms) => seen.prestop_ms = ms,
        Err(why) => drop(seen.spoilt.get_or_insert(why)),
    }
    note_ended_early(&generator, &mut seen);
    let mut pulled = pull(target, trigger, &process, address);
    watch_it_end(target, trigger, conditions, &mut process, address, began, &mut pulled, &mut seen).await;
    let pulled = pulled.at;
    let (began, began_ns) = (began.at, began.ns);

    stage("waiting for the last answers");
    let outstanding = CONNECT_LIMIT + hang_limit() + Duration::from_secs(1);
    let left = conditions.lag.saturating_sub(began.elapsed());
    let load = generator.finish(left + outstanding).await;
    if seen.survived {
        end_survivor(&mut process, conditions.grace.saturating_sub(pulled.elapsed())).await;
    }

    stage("looking for what is left");
    if target.watch.is_some() && !watch_was_there {
        let why = "the watched directory was never there".to_owned();
        seen.not_exercised.push(("files", why));
    }
    seen.cleanups = cleanups(&process, began_ns, &mut seen.events);
    seen.leaks = leaks(&process, watch.as_deref(), &before, address.port()).await;
    if let Some(cleanups) = &mut seen.cleanups {
        cleanups.paid_later(process.paid_after_death());
    }
    // The row's own directory has a random name and is gone when this is read.
    let dir = place.dir.display().to_string();
    for leak in &mut seen.leaks {
        leak.what = leak.what.replace(&dir, "{dir}");
    }
    let acked = take_load(&mut seen, load, target);

    stage("starting it again");
    restart(target, place, address, conditions.grace, &acked, &mut seen).await;
    Ok(seen)
}

/// A preStop hook may outlast the requests that were held for the signal.
fn note_ended_early(generator: &Generator, seen: &mut Observation) {
    let load = generator.seen();
    let ended = load.held.iter().filter(|held| held.ended).count();
    if seen.prestop_ms > 0 && ended > 0 {
        let why = format!(
            "not exercised: {ended} of {} held requests had ended before the signal, during the preStop hook",
            load.held.len()
        );
        seen.not_exercised.push(("in_flight", why));
    }
}

/// When a request without an answer counts as hung.
pub(crate) fn hang_limit() -> Duration {
    Duration::from_secs(5)
}

fn plan(target: &Target, conditions: &Conditions, address: SocketAddr, id: Option<&str>) -> Plan {
    let fill = |path: &String| path.replace("{id}", id.unwrap_or("1"));
    let upload = |path: &String| Ask {
        method: "POST".into(),
        path: path.clone(),
        body: Some(("application/octet-stream".into(), Vec::new())),
    };
    Plan {
        address,
        fast: Ask::get(fill(&target.fast)),
        slow: target.slow.as_ref().map(|path| Ask::get(fill(path))),
        upload: target.upload.as_ref().map(upload),
        write: target.ledger.as_ref().map(|ledger| ledger.write.clone()),
        load: conditions.load,
        lag: conditions.lag,
        hang: hang_limit(),
        hold: conditions.grace + hang_limit(),
    }
}

/// Whether the target answers as was said, before anything hangs on it: the fast path, and one write
/// that is read back. Gives the identifier of that write, for paths that mention it.
async fn check(target: &Target, address: SocketAddr) -> Result<Option<String>, String> {
    let mut id = None;
    if let Some(ledger) = &target.ledger {
        let write = numbered(&ledger.write, 0);
        let name = format!("{} {}", write.method, write.path);
        let answer = ask(&write, address).await.map_err(|why| format!("--write: {name}: {why}"))?;
        if !(200..300).contains(&answer.status) {
            return Err(format!("--write: {name} was answered {}: no write is acknowledged", answer.status));
        }
        let Some(written) = id_of(&answer) else {
            return Err(format!(
                "--write: {name} was acknowledged without an id: neither \"id\" in a JSON answer nor Location"
            ));
        };
        found("--read", &ledger.read.replace("{id}", &written), address).await?;
        id = Some(written);
    }
    found("--fast", &target.fast.replace("{id}", id.as_deref().unwrap_or("1")), address).await?;
    Ok(id)
}

async fn found(option: &str, path: &str, address: SocketAddr) -> Result<(), String> {
    let answer = ask(&Ask::get(path), address).await.map_err(|why| format!("{option}: GET {path}: {why}"))?;
    match answer.status {
        200..400 => Ok(()),
        status => Err(format!("{option}: GET {path} was answered {status}; give a path that is there")),
    }
}

async fn ask(ask: &Ask, address: SocketAddr) -> Result<Answer, &'static str> {
    let mut client = Client::connect(address, hang_limit()).await.map_err(crate::Outcome::name)?;
    client.ask(ask, hang_limit(), || {}).await.map_err(crate::Outcome::name)
}

fn cleanups(process: &Running, began_ns: u64, events: &mut Vec<(i64, String)>) -> Option<Cleanups> {
    let ring = process.ring()?;
    for event in ring.events.iter().filter(|event| event.at_ns >= began_ns) {
        let at = i64::try_from((event.at_ns - began_ns) / 1_000_000).unwrap_or(i64::MAX);
        events.push((at, format!("{:?} {}", event.kind, event.what)));
    }
    let registered = ring.registered();
    let run = ring.totals.run();
    let mut owed: Vec<String> = ring.pending.iter().rev().map(|pending| pending.what.clone()).collect();
    if ring.totals.unnamed > 0 {
        owed.push(format!("{} more, for which the table had no room: nobody knows", ring.totals.unnamed));
    }
    let registered = registered + ring.totals.unnamed;
    Some(Cleanups {
        registered,
        run,
        run_later: 0,
        pending: registered.saturating_sub(run),
        failed: ring.totals.failed + ring.totals.panicked,
        owed,
    })
}

fn take_load(seen: &mut Observation, load: Seen, target: &Target) -> Vec<String> {
    seen.in_flight = load.in_flight;
    seen.idle = load.idle;
    seen.arrivals = load.arrivals;
    seen.pool = load.pool;
    seen.unsent = load.unsent;
    seen.timeline = load.timeline;
    seen.timeline.sort_by_key(|(at, _)| *at);
    let mut late = load.lateness_us;
    late.sort_unstable();
    let at = |share: f64| late.get(((late.len() as f64) * share) as usize).or(late.last()).copied();
    seen.late_p99_ms = at(0.99).unwrap_or(0) as f64 / 1000.0;
    seen.late_max_ms = late.last().copied().unwrap_or(0) as f64 / 1000.0;
    if load.closes_each {
        let why = "not exercised: the server closes after each response";
        seen.not_exercised.push(("idle", why.into()));
    } else if load.never_idle && seen.idle.total() == 0 {
        let why = "not exercised: no first answer came before the trigger, so that no connection was idle (is the fast \
                   request held up by the slow ones?)";
        seen.not_exercised.push(("idle", why.into()));
    }
    if target.ledger.is_none() {
        let why = "not exercised: no write to read back (give --write and --read)";
        seen.not_exercised.push(("ledger", why.into()));
    } else {
        seen.ledger = Some(Ledger {
            acked: u32::try_from(load.acked.len()).unwrap_or(u32::MAX),
            indeterminate: load.indeterminate,
            ..Ledger::default()
        });
    }
    if target.watch.is_none() {
        seen.not_exercised.push(("files", "no directory watched for leaks (give --watch)".into()));
    }
    if seen.cleanups.is_none() {
        seen.not_exercised.push(("cleanups", "not recorded: not a program built on Epilogue".into()));
    }
    load.acked
}

pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

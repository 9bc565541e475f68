//! One row: start, load, end, look, start again.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use crate::client::{Ask, Client};
use crate::load::{Generator, LoadSpec, Plan, Seen, id_of, numbered};
use crate::outcome::Counts;
use crate::running::{self, Place, Running, StartError};
use crate::target::{LedgerSpec, Target};
use crate::trigger::{Means, REPEAT_AFTER, Trigger};
use crate::{os, procfs};

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
    pub(crate) pending: u64,
    pub(crate) failed: u64,
    /// The names of what is pending, newest first.
    pub(crate) owed: Vec<String>,
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
    /// The load generator could not be started.
    #[error("the load generator could not be started: {0}")]
    Generator(std::io::Error),
}

/// What a row is doing, for whoever watches.
pub(crate) type Stage<'a> = &'a (dyn Fn(&'static str) + Sync);

/// While a row is here, the target has not come up.
pub(crate) const FIRST_STAGE: &str = "starting";

const HELD_WITHIN: Duration = Duration::from_secs(2);
const STEADY: Duration = Duration::from_millis(500);
const POLL: Duration = Duration::from_millis(5);

/// Runs one row, from the start of the target to the last look at what is left.
pub(crate) async fn run(
    target: &Target,
    trigger: Trigger,
    conditions: &Conditions,
    place: &Place,
    stage: Stage<'_>,
) -> Result<Observation, RowError> {
    let watch = target.watch.as_ref().map(|dir| PathBuf::from(place.fill(dir)));
    let before: HashSet<PathBuf> = watch.iter().flat_map(|dir| running::files_below(dir)).collect();
    let mut seen = Observation::default();

    stage(FIRST_STAGE);
    // Alive until the row is over: what it left behind is in the way of the restart, as in life.
    let mut process = Running::start(target, place, 1)?;
    let address = process.ready(target).await?;
    let first_id = first_write(target, address).await;
    let generator = Generator::start(plan(target, conditions, address, first_id.as_deref()))
        .map_err(RowError::Generator)?;
    stage("bringing requests in flight");
    bring_in_flight(target, &generator, address, &mut seen).await;
    if let Some(status) = process.poll_exit() {
        return Err(RowError::DiedEarly {
            program: target.command.first().cloned().unwrap_or_default(),
            how: running::told(status),
            output: process.last_words(),
        });
    }

    stage("ending it");
    let began = Instant::now();
    let began_ns = os::monotonic_ns();
    generator.ending(began);
    seen.prestop_ms = prestop(&conditions.prestop).await;
    let pulled = Instant::now();
    let hook = pull(target, trigger, &process, address);
    watch_it_end(target, trigger, conditions, &mut process, address, began, &mut seen).await;
    hook.abort();

    stage("waiting for the last answers");
    let outstanding = hang_limit() + Duration::from_secs(1);
    let left = conditions.lag.saturating_sub(began.elapsed());
    let load = generator.finish(left + outstanding).await;
    if seen.survived {
        end_survivor(&mut process, conditions.grace.saturating_sub(pulled.elapsed())).await;
    }

    stage("looking for what is left");
    seen.cleanups = cleanups(&process, began_ns, &mut seen.events);
    seen.leaks = leaks(&process, watch.as_deref(), &before, address.port()).await;
    // The row's own directory has a random name and is gone when this is read.
    let dir = place.dir.display().to_string();
    for leak in &mut seen.leaks {
        leak.what = leak.what.replace(&dir, "{dir}");
    }
    let acked = take_load(&mut seen, load, target);

    stage("starting it again");
    restart(target, place, address, &acked, &mut seen).await;
    Ok(seen)
}

fn hang_limit() -> Duration {
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

/// The first write gives the slow URL something to be slow about.
async fn first_write(target: &Target, address: SocketAddr) -> Option<String> {
    let ledger = target.ledger.as_ref()?;
    let mut client = Client::connect(address, hang_limit()).await.ok()?;
    let answer = client.ask(&numbered(&ledger.write, 0), hang_limit(), || {}).await.ok()?;
    id_of(&answer)
}

/// Waits until every held request is proven to be in flight, and the rest of the load is steady.
async fn bring_in_flight(target: &Target, generator: &Generator, server: SocketAddr, seen: &mut Observation) {
    let began = Instant::now();
    let wanted = held_wanted(target, generator);
    if wanted == 0 {
        seen.not_exercised.push((
            "in_flight",
            "not exercised: no way to hold a request open (give --slow or --upload)".into(),
        ));
        seen.proof = "none needed".into();
    } else {
        let (mut answering, mut read) = (0, 0);
        while began.elapsed() < HELD_WITHIN {
            (answering, read) = proven(generator, server);
            if answering + read >= wanted {
                break;
            }
            tokio::time::sleep(POLL).await;
        }
        seen.proof = format!("{answering} answering, {read} read by the server, of {wanted}");
        if answering + read < wanted {
            let ended = generator.seen().in_flight.losses();
            let ended = if ended.is_empty() { String::new() } else { format!(" ({ended})") };
            seen.spoilt = Some(format!(
                "only {} of {wanted} requests could be proven in flight within 2 s{ended}",
                answering + read
            ));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    tokio::time::sleep(STEADY.saturating_sub(began.elapsed())).await;
    let load = generator.seen();
    if load.held.iter().filter(|held| held.ended).count() > 0 && seen.spoilt.is_none() {
        seen.spoilt = Some("a held request ended before the program was told to stop".into());
    }
    if load.baseline_lost.total() > 0 && seen.spoilt.is_none() {
        seen.spoilt = Some(format!(
            "not steady before it was told to stop: {} of {} requests were not answered ({})",
            load.baseline_lost.total(),
            load.baseline,
            load.baseline_lost.losses()
        ));
    }
}

fn held_wanted(target: &Target, generator: &Generator) -> usize {
    let any = target.slow.is_some() || target.upload.is_some();
    // The clients are counted by the plan, not by those that have connected so far.
    if any { generator.in_flight_wanted() } else { 0 }
}

/// Held requests whose answer has begun, and those whose bytes the server has taken.
fn proven(generator: &Generator, server: SocketAddr) -> (usize, usize) {
    let held = generator.seen().held.clone();
    let live: Vec<_> = held.iter().filter(|held| !held.ended).collect();
    let answering = live.iter().filter(|held| held.begun_answer).count();
    let silent: Vec<_> = live.iter().filter(|held| !held.begun_answer).map(|held| held.client).collect();
    if silent.is_empty() {
        return (answering, 0);
    }
    let read = procfs::sockets()
        .into_iter()
        .filter(|socket| socket.local.port() == server.port() && silent.contains(&socket.remote))
        .filter(|socket| socket.inode != 0 && socket.unread == 0)
        .count();
    (answering, read)
}

async fn prestop(prestop: &Prestop) -> u64 {
    let began = Instant::now();
    match prestop {
        Prestop::No => return 0,
        Prestop::Sleep(time) => tokio::time::sleep(*time).await,
        Prestop::Command(command) => {
            let command = command.clone();
            let run = move || std::process::Command::new("sh").arg("-c").arg(command).status();
            if let Ok(Err(error)) = tokio::task::spawn_blocking(run).await {
                eprintln!("epilogue: prestop: {error}");
            }
        }
    }
    millis(began.elapsed())
}

/// Pulls the trigger. The task that is returned does what comes later, or waits for the hook's
/// answer.
fn pull(
    target: &Target,
    trigger: Trigger,
    process: &Running,
    address: SocketAddr,
) -> tokio::task::JoinHandle<()> {
    let pid = process.pid;
    match trigger.means() {
        Means::Signal(signal) => {
            os::kill(pid, signal);
            tokio::spawn(async {})
        }
        Means::Twice(signal) => {
            os::kill(pid, signal);
            tokio::spawn(async move {
                tokio::time::sleep(REPEAT_AFTER).await;
                // Not if it is gone: the pid is a zombie of ours until it is reaped, so it cannot
                // be somebody else's.
                os::kill(pid, signal);
            })
        }
        Means::Hook => {
            let ask = target.hooks.get(&trigger).cloned();
            tokio::spawn(async move {
                let Some(ask) = ask else { return };
                if let Ok(mut client) = Client::connect(address, hang_limit()).await {
                    // What it answers, if it lives to answer, is of no interest.
                    let _ = client.ask(&ask, Duration::from_secs(3600), || {}).await;
                }
            })
        }
    }
}

/// Watches readiness, listener and process until it is gone, or has survived, or must be killed.
async fn watch_it_end(
    target: &Target,
    trigger: Trigger,
    conditions: &Conditions,
    process: &mut Running,
    address: SocketAddr,
    began: Instant,
    seen: &mut Observation,
) {
    let readiness = tokio::spawn(readiness_off(target.ready.clone(), address, began));
    let listening = tokio::spawn(listener_closed(address.port(), began));
    let settled = conditions.lag + Duration::from_millis(500);
    loop {
        if let Some(status) = process.poll_exit() {
            seen.exit = Some(exit(status, began));
            break;
        }
        // A program that is meant to live through it, and still answers as if nothing had been.
        if trigger.survivable()
            && began.elapsed() >= settled
            && !readiness.is_finished()
            && !listening.is_finished()
            && !process_is_stopping(process)
        {
            seen.survived = true;
            break;
        }
        if began.elapsed() >= conditions.grace {
            seen.overstayed = true;
            process.end_all();
            seen.exit = process.poll_exit().map(|status| exit(status, began));
            break;
        }
        tokio::time::sleep(POLL).await;
    }
    seen.readiness_off_ms = settle(readiness).await;
    seen.listener_closed_ms = settle(listening).await;
}

/// A program that has begun to pay its cleanups is on its way out.
fn process_is_stopping(process: &Running) -> bool {
    process.ring().is_some_and(|ring| {
        let parts = |event: &&epilogue_observe::Event| !event.what.starts_with("guard @");
        ring.events.iter().filter(parts).any(|event| event.kind != epilogue_observe::EventKind::Registered)
    })
}

async fn settle(task: tokio::task::JoinHandle<u64>) -> Option<u64> {
    if !task.is_finished() {
        // One more look: the process may have ended between two polls.
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    if task.is_finished() {
        return task.await.ok();
    }
    task.abort();
    None
}

async fn readiness_off(ready: Option<String>, address: SocketAddr, began: Instant) -> u64 {
    let Some(path) = ready else { return std::future::pending().await };
    loop {
        match running::status_of(address, &path).await {
            Some(status) if (200..300).contains(&status) => {}
            _ => return millis(began.elapsed()),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn listener_closed(port: u16, began: Instant) -> u64 {
    while !procfs::listeners(port).is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    millis(began.elapsed())
}

async fn end_survivor(process: &mut Running, grace: Duration) {
    os::kill(process.pid, libc::SIGTERM);
    let until = Instant::now() + grace;
    while process.poll_exit().is_none() && Instant::now() < until {
        tokio::time::sleep(POLL).await;
    }
}

fn exit(status: ExitStatus, began: Instant) -> Exit {
    Exit { code: status.code(), signal: status.signal(), ms: millis(began.elapsed()) }
}

fn cleanups(process: &Running, began_ns: u64, events: &mut Vec<(i64, String)>) -> Option<Cleanups> {
    let ring = process.ring()?;
    for event in ring.events.iter().filter(|event| event.at_ns >= began_ns) {
        let at = i64::try_from((event.at_ns - began_ns) / 1_000_000).unwrap_or(i64::MAX);
        events.push((at, format!("{:?} {}", event.kind, event.what)));
    }
    let registered = ring.registered();
    let run = ring.totals.run();
    Some(Cleanups {
        registered,
        run,
        pending: registered.saturating_sub(run),
        failed: ring.totals.failed + ring.totals.panicked,
        owed: ring.pending.iter().rev().map(|pending| pending.what.clone()).collect(),
    })
}

/// What stays once the main process is gone: files and sockets, children, the port.
async fn leaks(
    process: &Running,
    watch: Option<&std::path::Path>,
    before: &HashSet<PathBuf>,
    port: u16,
) -> Vec<Leak> {
    // Children that end with their parent do so within a few scheduling turns.
    let until = Instant::now() + Duration::from_millis(300);
    let mut alive = process.alive();
    while !alive.is_empty() && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(10)).await;
        alive = process.alive();
    }
    let mut found = Vec::new();
    let owner = procfs::owner_of(&procfs::listeners(port));
    for pid in alive {
        let line = procfs::command_line(pid);
        found.push(Leak { kind: "child", what: format!("pid {pid} {line}") });
        if owner == Some(pid) {
            found.push(Leak { kind: "port", what: format!("{port}, still held by pid {pid} {line}") });
        }
    }
    let Some(dir) = watch else { return found };
    for path in running::files_below(dir).into_iter().filter(|path| !before.contains(path)) {
        let Ok(metadata) = path.symlink_metadata() else { continue };
        let name = path.strip_prefix(dir).unwrap_or(&path).display().to_string();
        found.push(if metadata.file_type().is_socket() {
            Leak { kind: "socket", what: name }
        } else {
            Leak { kind: "file", what: format!("{name} ({} bytes)", metadata.len()) }
        });
    }
    found
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

/// Starts the target once more, on the same port and files, and reads every acknowledged write
/// back.
async fn restart(
    target: &Target,
    place: &Place,
    address: SocketAddr,
    acked: &[String],
    seen: &mut Observation,
) {
    // A mark of its own: what the first start left behind is not part of the new instance.
    let mark = format!("{}.again", place.mark);
    let again = Place { port: Some(address.port()), mark, ..place.clone() };
    let mut process = match Running::start(target, &again, 2) {
        Ok(process) => process,
        Err(error) => return seen.restart_failed = Some(error.to_string()),
    };
    match process.ready(target).await {
        // An answer may come from an orphan: only one of the new process counts.
        Ok(_) if process.owns_port(address.port()) => {
            seen.restart_ms = Some(millis(process.started.elapsed()));
        }
        Ok(_) => {
            let why = format!("port {} is answered by another process", address.port());
            return seen.restart_failed = Some(why);
        }
        Err(error) => return seen.restart_failed = Some(error.to_string()),
    }
    if let (Some(spec), Some(ledger)) = (&target.ledger, &mut seen.ledger) {
        read_back(spec, address, acked, ledger).await;
    }
}

async fn read_back(spec: &LedgerSpec, address: SocketAddr, acked: &[String], ledger: &mut Ledger) {
    let mut client: Option<Client> = None;
    for id in acked {
        let ask = Ask::get(spec.read.replace("{id}", id));
        let mut answer = None;
        // A connection that the server has closed meanwhile says nothing about the write.
        for _ in 0..2 {
            let mut open = match client.take() {
                Some(client) => client,
                None => match Client::connect(address, hang_limit()).await {
                    Ok(client) => client,
                    Err(_) => continue,
                },
            };
            if let Ok(found) = open.ask(&ask, hang_limit(), || {}).await {
                client = found.keep_alive.then_some(open);
                answer = Some(found.status);
                break;
            }
        }
        match answer {
            Some(status) if (200..300).contains(&status) => ledger.recovered += 1,
            Some(_) => ledger.lost += 1,
            None => ledger.indeterminate += 1,
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

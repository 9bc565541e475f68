//! `epilogue pending`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use epilogue_guardian::{
    Alive, Call, Options, Recovered, Run, Runner, attempts, describe, now_ms, past, recover_run,
};
use epilogue_journal::{Entry, State};
use serde_json::{Value, json};

use super::find::{self, Name};
use super::status::{Failure, TOO_LATE};

/// What is owed: look at it, try it again, drop it
#[derive(Debug, Parser)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
    /// Where the runs are [default: every place where they may be]
    #[arg(long, value_name = "DIR", global = true)]
    dir: Option<PathBuf>,
    /// Print it as JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Everything that is owed or parked; exit status 1 if something needs an operator
    ///
    /// That is: a cleanup that is parked; one of a dead owner that nobody is paying; a damaged journal.
    List,
    /// One cleanup, with every attempt at it
    Show {
        /// RUN/ID, as the list shows it
        name: Name,
    },
    /// Try a failed or parked cleanup again, now if its owner is gone
    Retry {
        /// RUN/ID, as the list shows it
        name: Name,
    },
    /// Say that a cleanup shall never run
    Drop {
        /// RUN/ID, as the list shows it
        name: Name,
    },
    /// Everything that is owed, with its arguments, as JSON
    Export,
    /// What was paid: the runs of the last 30 days, and attempts at what is still owed
    Log,
}

/// Runs the command.
pub(crate) fn main(args: Args) -> ExitCode {
    super::status::code(match &args.what {
        What::List => list(&args),
        What::Show { name } => show(&args, name),
        What::Retry { name } => retry(&args, name),
        What::Drop { name } => drop_record(&args, name),
        What::Export => export(&args),
        What::Log => log(&args),
    })
}

fn list(args: &Args) -> Result<u8, Failure> {
    let (mut parked, mut unattended, mut rows) = (false, false, Vec::new());
    let (runs, unreadable) = find::readable_runs(args.dir.as_deref())?;
    for run in runs {
        let scan = run.journal.scan()?;
        let owner = owner(&run);
        if scan.damaged > 0 && run.is_of_this_boot() {
            parked = true;
            super::say(format_args!(
                "epilogue: {}: {} slots of its journal cannot be read; remove the directory when you have looked",
                run.dir.display(),
                scan.damaged
            ));
        }
        let attended = owner != "dead" || run.is_being_paid()?;
        for entry in scan.open() {
            parked |= entry.state == State::Parked;
            unattended |= entry.state != State::Parked && !attended;
            if args.json {
                rows.push(as_json(&run, entry));
            } else {
                super::print(format_args!(
                    "{:<14} {:<8} {:>7}  {}  [{}, {owner}]",
                    format!("{}/{}", run.short(), entry.id),
                    entry.state.name(),
                    age(entry.time_ms),
                    describe(entry),
                    run.meta().name,
                ));
            }
        }
    }
    if args.json {
        super::print(format_args!("{:#}", json!({ "schema": "epilogue.pending/v1", "pending": rows })));
    }
    if unattended && !args.json {
        super::say("epilogue: nobody is paying what dead owners owe: run 'epilogue recover'");
    }
    Ok(u8::from(parked || unattended || unreadable))
}

fn owner(run: &Run) -> &'static str {
    match run.alive() {
        Ok(Alive::Yes) => "alive",
        Ok(Alive::No) => "dead",
        _ => "unknown",
    }
}

fn as_json(run: &Run, entry: &Entry) -> Value {
    let call = Call::from_bytes(&entry.body).ok();
    let amendment: Option<Value> =
        entry.amendment.as_deref().and_then(|body| serde_json::from_slice(body).ok());
    json!({
        "id": format!("{}/{}", run.short(), entry.id),
        "run": run.meta().uuid,
        "run_name": run.meta().name,
        "owner": owner(run),
        "scope": entry.scope,
        "state": entry.state.name(),
        "attempts": entry.attempts,
        "registered_ms": entry.time_ms,
        "what": describe(entry),
        "call": call,
        "amendment": amendment,
        "survives_power_loss": entry.power,
    })
}

fn age(time_ms: u64) -> String {
    let seconds = now_ms().saturating_sub(time_ms) / 1000;
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

fn find_record(args: &Args, name: &Name) -> Result<(Run, Entry), Failure> {
    let mut found = Vec::new();
    for run in find::all_runs(args.dir.as_deref())?.into_iter().filter(|run| name.in_run(run)) {
        if let Some(id) = name.record_in(&run)? {
            let entry = run.journal.entry(id)?;
            found.push((run, entry));
        }
    }
    if found.len() > 1 {
        // What is over can be meant only where nothing else can.
        let open = found.iter().filter(|(_, entry)| entry.state.is_open()).count();
        found.retain(|(_, entry)| open == 0 || entry.state.is_open());
    }
    if found.len() > 1 {
        let named: Vec<String> =
            found.iter().map(|(run, entry)| format!("{}/{}", run.short(), entry.id)).collect();
        return Err(name.ambiguous(&named));
    }
    found.pop().ok_or_else(|| name.not_found())
}

fn show(args: &Args, name: &Name) -> Result<u8, Failure> {
    let (run, entry) = find_record(args, name)?;
    let tried: Vec<_> = attempts(&run.dir).into_iter().filter(|attempt| attempt.id == entry.id).collect();
    if args.json {
        let mut shown = as_json(&run, &entry);
        shown["log"] = json!(tried);
        super::print(format_args!("{shown:#}"));
        return Ok(0);
    }
    super::print(format_args!("{}/{}  {}", run.short(), entry.id, describe(&entry)));
    super::print(format_args!("state     {}, begun {} times", entry.state.name(), entry.attempts));
    super::print(format_args!(
        "run       {} ({}), owner {}",
        run.meta().name,
        run.dir.display(),
        owner(&run)
    ));
    super::print(format_args!("age       {}", age(entry.time_ms)));
    if let Ok(call) = Call::from_bytes(&entry.body) {
        super::print(format_args!("arguments {}", call.arguments));
    }
    for attempt in tried {
        let why = attempt.why.unwrap_or_default();
        super::print(format_args!(
            "{:<9} {} ago by the {}: {} {why} ({} ms)",
            if attempt.by == Runner::Operator { "told" } else { "tried" },
            age(attempt.at_ms),
            attempt.by.name(),
            attempt.outcome,
            attempt.took_ms
        ));
        for line in attempt.output.lines() {
            super::print(format_args!("          | {line}"));
        }
    }
    Ok(0)
}

fn retry(args: &Args, name: &Name) -> Result<u8, Failure> {
    let (run, entry) = find_record(args, name)?;
    if !epilogue_guardian::retry(&run, entry.id)? {
        let state = run.journal.entry(entry.id)?.state;
        if state == State::Done {
            super::say(format_args!("epilogue: {name} is done already: {}", describe(&entry)));
            return Ok(0);
        }
        return Err(Failure::new(
            TOO_LATE,
            format!("{name} is {state}: only what failed or is parked is tried again"),
        ));
    }
    let owner_lives = owner(&run) != "dead";
    let short = run.short().to_owned();
    if owner_lives {
        super::say(format_args!(
            "epilogue: {short}/{} is pending again; it runs when its owner is gone",
            entry.id
        ));
        return Ok(0);
    }
    let options = Options::of(Runner::Recover);
    match recover_run(run, &options, Duration::from_secs(1))? {
        Recovered::Paid(report) => {
            let failed = report.failed.iter().chain(&report.parked).find(|item| item.id == entry.id);
            match failed {
                None => super::say(format_args!("epilogue: done: {}", describe(&entry))),
                Some(item) => super::say(format_args!(
                    "epilogue: not done: {}: {}",
                    item.what,
                    item.why.as_deref().unwrap_or_default()
                )),
            }
            Ok(u8::from(failed.is_some()))
        }
        _ => Err(Failure::new(TOO_LATE, "another payer has it; it is pending again")),
    }
}

fn drop_record(args: &Args, name: &Name) -> Result<u8, Failure> {
    let (run, entry) = find_record(args, name)?;
    if !epilogue_guardian::drop_record(&run, entry.id)? {
        let state = run.journal.entry(entry.id)?.state;
        return Err(Failure::new(TOO_LATE, format!("{name} is {state}, and cannot be dropped")));
    }
    super::say(format_args!("epilogue: dropped; this will never run: {}", describe(&entry)));
    if owner(&run) == "dead" && run.journal.scan()?.open().next().is_none() {
        // Nothing keeps the run any more.
        let _ = recover_run(run, &Options::of(Runner::Recover), Duration::ZERO);
    }
    Ok(0)
}

fn export(args: &Args) -> Result<u8, Failure> {
    let mut rows = Vec::new();
    for run in find::all_runs(args.dir.as_deref())? {
        rows.extend(run.journal.scan()?.open().map(|entry| as_json(&run, entry)));
    }
    super::print(format_args!("{:#}", json!({ "schema": "epilogue.pending/v1", "pending": rows })));
    Ok(0)
}

fn log(args: &Args) -> Result<u8, Failure> {
    let (mut runs, mut tried) = (Vec::new(), Vec::new());
    for home in find::homes(args.dir.as_deref())? {
        runs.extend(past(&home));
    }
    for run in find::all_runs(args.dir.as_deref())? {
        let short = run.short().to_owned();
        tried.extend(attempts(&run.dir).into_iter().map(|attempt| (short.clone(), attempt)));
    }
    if args.json {
        let tried: Vec<Value> =
            tried.iter().map(|(run, attempt)| json!({ "run": run, "attempt": attempt })).collect();
        super::print(format_args!(
            "{:#}",
            json!({ "schema": "epilogue.log/v1", "paid": runs, "attempts": tried })
        ));
        return Ok(0);
    }
    for run in runs {
        super::print(format_args!(
            "{} ago  {} ({}) {}; the {} ran {} of {}",
            age(run.at_ms),
            run.name,
            run.run,
            run.ended,
            run.by.name(),
            run.ran,
            run.ran + run.report.left(),
        ));
        for item in &run.report.ran {
            super::print(format_args!("    done     {}", item.what));
        }
        for item in &run.report.skipped {
            super::print(format_args!(
                "    skipped  {}: {}",
                item.what,
                item.why.as_deref().unwrap_or_default()
            ));
        }
        for item in run.report.failed.iter().chain(&run.report.parked) {
            super::print(format_args!(
                "    left     {}: {}",
                item.what,
                item.why.as_deref().unwrap_or_default()
            ));
        }
    }
    for (run, attempt) in tried {
        super::print(format_args!(
            "{} ago  {run}/{} {} by the {}: {} {}",
            age(attempt.at_ms),
            attempt.id,
            attempt.outcome,
            attempt.by.name(),
            attempt.what,
            attempt.why.unwrap_or_default()
        ));
    }
    Ok(0)
}

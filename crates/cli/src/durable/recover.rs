//! `epilogue recover`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use epilogue::budget::parse_duration;
use epilogue_guardian::{Options, Output, Recovered, Report, Runner, pay_shared, recover_all};

use super::find;
use super::status::{Failure, IO, TOO_LATE};

/// Pay what dead processes owed: at boot, in ExecStopPost=, in a step of a pipeline that always runs
///
/// Pays every run of this user whose owner, and the command that its scope belongs to, are provably dead.
/// A run that lives is not touched. Exit status: 0 all paid, or nothing to do; 1 some failed, or are
/// parked; 75 another payer has some of it.
#[derive(Debug, Parser)]
pub(crate) struct Args {
    /// Where the runs are [default: every place where they may be]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// How long to wait for another payer
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "0s")]
    wait: Duration,
    /// How long all of it may take
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "90s")]
    pay: Duration,
    /// Whether actions of other programs are run, by those programs
    #[arg(long, value_name = "YES|NO", default_value = "yes")]
    user_actions: YesNo,
    /// Pay what dead owners left in a PostgreSQL database that several machines share; VARIABLE holds
    /// its address
    #[arg(long, value_name = "VARIABLE", conflicts_with = "dir")]
    postgres: Option<String>,
    /// How long this payer's word counts without being renewed, with --postgres
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "30s", requires = "postgres")]
    lease: Duration,
    /// Say nothing about what was paid
    #[arg(short, long)]
    quiet: bool,
    /// Print what came of it as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum YesNo {
    Yes,
    No,
}

/// Runs the command.
pub(crate) fn main(args: &Args) -> ExitCode {
    super::status::code(recover(args))
}

fn recover(args: &Args) -> Result<u8, Failure> {
    let quiet = args.quiet;
    let options = Options {
        budget: args.pay,
        user_actions: args.user_actions == YesNo::Yes,
        output: Output::Kept,
        beginning: Arc::new(move |what| {
            if !quiet {
                super::say(format_args!("epilogue: running {what}"));
            }
        }),
        ..Options::of(Runner::Recover)
    };
    if let Some(variable) = &args.postgres {
        return recover_shared(args, variable, &options);
    }
    let (mut status, mut lines) = (0, Vec::new());
    for home in find::homes(args.dir.as_deref())? {
        let all = recover_all(&home, &options, args.wait, |_| true)
            .map_err(|error| Failure::new(IO, format!("{}: {error}", home.display())))?;
        for (name, recovered) in all {
            let (this, word) = match &recovered {
                Ok(Recovered::Paid(report)) => (u8::from(report.left() > 0), "paid"),
                Ok(Recovered::Alive) => (0, "alive"),
                Ok(Recovered::Busy) => (TOO_LATE, "busy"),
                Ok(Recovered::Unknown) => (1, "unknown"),
                Err(_) => (1, "error"),
            };
            status = if status == 1 || this == 0 { status } else { this };
            if args.json {
                lines.push(as_json(&name, word, &recovered));
            } else if !args.quiet || this != 0 {
                tell(&name, &recovered);
            }
        }
    }
    if args.json {
        let json = serde_json::json!({ "schema": "epilogue.recover/v1", "runs": lines });
        super::print(format_args!("{json:#}"));
    }
    Ok(status)
}

fn recover_shared(args: &Args, variable: &str, options: &Options) -> Result<u8, Failure> {
    let address =
        std::env::var(variable).map_err(|error| Failure::usage(format!("--postgres {variable}: {error}")))?;
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let payer = format!("{} {}", host.trim(), std::process::id());
    let all = pay_shared(&address, &payer, args.lease, options).map_err(Failure::from)?;
    let (mut status, mut lines) = (0, Vec::new());
    for (owner, paid) in all {
        let recovered = paid.map(Recovered::Paid).map_err(epilogue_guardian::RunError::from);
        let good = matches!(&recovered, Ok(Recovered::Paid(report)) if report.left() == 0);
        status |= u8::from(!good);
        if args.json {
            lines.push(as_json(&owner, if good { "paid" } else { "left" }, &recovered));
        } else {
            tell(&owner, &recovered);
        }
    }
    if args.json {
        super::print(format_args!(
            "{:#}",
            serde_json::json!({ "schema": "epilogue.recover/v1", "runs": lines })
        ));
    }
    Ok(status)
}

fn as_json(
    name: &str,
    word: &str,
    recovered: &Result<Recovered, epilogue_guardian::RunError>,
) -> serde_json::Value {
    let report = match recovered {
        Ok(Recovered::Paid(report)) => serde_json::json!(report),
        _ => serde_json::Value::Null,
    };
    let error = recovered.as_ref().err().map(ToString::to_string);
    serde_json::json!({ "run": name, "outcome": word, "report": report, "error": error })
}

fn tell(name: &str, recovered: &Result<Recovered, epilogue_guardian::RunError>) {
    match recovered {
        Ok(Recovered::Paid(report)) => tell_report(name, report),
        Ok(Recovered::Busy) => {
            super::say(format_args!("epilogue: {name}: another payer has it (--wait waits)"))
        }
        Ok(Recovered::Unknown) => super::say(format_args!(
            "epilogue: {name}: its owner may live; not touched. From this PID namespace it is not seen: try where it was"
        )),
        Err(error) => super::say(format_args!("epilogue: {error}")),
        _ => {}
    }
}

fn tell_report(name: &str, report: &Report) {
    let (ran, total) = (report.ran.len(), report.total());
    if total > 0 {
        super::say(format_args!("epilogue: {name}: ran {ran} of {total} in {} ms", report.took_ms));
    }
    for item in report.failed.iter().chain(&report.parked) {
        let why = item.why.as_deref().unwrap_or_default();
        super::say(format_args!("epilogue:   #{} {}: {why}", item.id, item.what));
    }
}

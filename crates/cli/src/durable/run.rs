//! `epilogue run`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use epilogue::budget::{Grace, parse_duration};
use epilogue_guardian::{Home, Leftovers, OnWrapperDeath, RunError, Wrap, WrapError, Wrapped};
use epilogue_journal::{Ended, Tier};

use super::status::Failure;

/// Run a command; when it is gone, by whatever means, run what was deferred in it, newest first
///
/// Inside it, 'epilogue defer -- CMD' and 'epilogue tmp' put cleanups on record. They run when COMMAND
/// returns, fails, is interrupted, or is killed with kill -9; and if this wrapper is killed as well, by a
/// guardian that watches both.
#[derive(Debug, Parser)]
#[command(after_long_help = AFTER_HELP)]
pub(crate) struct Args {
    /// The command, with its arguments
    #[arg(required = true, last = true, value_name = "COMMAND")]
    command: Vec<String>,
    /// What it is called in lists [default: the command's name]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// How far the promise reaches: every death of a process, or a power cut too (a flush a record)
    #[arg(long, value_enum, default_value = "process", value_name = "TIER")]
    tier: TierArg,
    /// How long COMMAND has to end once it was asked to, then KILL; with a terminal it is never killed
    /// [default: the platform's grace less a margin, 28s where nothing is known; two thirds of it while
    /// something is owed]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    grace: Option<Duration>,
    /// How long the cleanups have together [default: 30s, or what a stop leaves of the platform's grace]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pay: Option<Duration>,
    /// Do not pass on signals that other processes send to this wrapper: COMMAND gets them anyhow
    #[arg(long)]
    no_forward: bool,
    /// Give COMMAND a session of its own: no signal of the terminal reaches it but through this wrapper
    #[arg(long)]
    isolate: bool,
    /// What becomes of what COMMAND leaves running
    #[arg(long, value_enum, default_value = "keep", value_name = "WHAT")]
    leftovers: LeftoversArg,
    /// What the guardian does when this wrapper alone is killed
    #[arg(long, value_enum, default_value = "term", value_name = "WHAT")]
    on_wrapper_death: WrapperDeathArg,
    /// Do not run COMMAND without a guardian
    #[arg(long)]
    require_guardian: bool,
    /// Where the journal goes [default: the first place that works; see 'epilogue capabilities']
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Say nothing about cleanups that succeeded
    #[arg(short, long)]
    quiet: bool,
    /// Write what came of it as JSON (- for stdout)
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

const AFTER_HELP: &str = r#"Examples:
  epilogue run -- ./deploy.sh
  epilogue run -- bash -c 'd=$(epilogue tmp -d); make -C "$d"'
  epilogue run --tier power --name nightly -- make nightly

Exit status: that of COMMAND, and death by the signal that it died of (INT, TERM, HUP, QUIT, PIPE; for
others 128 + the number). 123: COMMAND succeeded and a cleanup did not. 124: COMMAND had to be killed at
its grace. 125: the wrapper itself failed. 126, 127: COMMAND cannot be executed, or is not there.

What the cleanups print goes to stderr. A first Ctrl-C while they run says what is running, a second
leaves the rest to the guardian: nothing is lost by impatience."#;

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum TierArg {
    Process,
    Power,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum LeftoversArg {
    /// It is named, and left alone
    Keep,
    /// It is ended before anything is paid
    Term,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum WrapperDeathArg {
    /// Ends COMMAND (TERM, ten seconds, KILL), then pays
    Term,
    /// Waits until COMMAND has ended by itself, then pays
    Wait,
}

/// Becomes the command, with the pid of passed sockets set right.
#[derive(Debug, Parser)]
pub(crate) struct ExecArgs {
    #[arg(required = true, last = true)]
    command: Vec<String>,
}

/// Runs the command.
pub(crate) fn main(args: Args) -> ExitCode {
    let json = args.json.clone();
    let command = args.command.clone();
    // Before anything runs: a report that cannot be written is an error of the call.
    let writable = |path: &std::path::PathBuf| path.as_os_str() == "-" || std::fs::File::create(path).is_ok();
    if let Some(path) = json.as_ref().filter(|path| !writable(path)) {
        return Failure::new(
            125,
            format!("--json {}: it cannot be written; nothing was run", path.display()),
        )
        .tell();
    }
    match wrap(args) {
        Ok(wrapped) => {
            if let Some(path) = json
                && let Err(error) = write_json(&path, &command, &wrapped)
            {
                super::say(format_args!("epilogue: {}: {error}", path.display()));
            }
            ExitCode::from(wrapped.leave())
        }
        Err(failure) => failure.tell(),
    }
}

/// Runs the hidden command.
pub(crate) fn exec(args: &ExecArgs) -> ExitCode {
    let error = epilogue_guardian::exec_with_listen_pid(&args.command);
    Failure::new(not_started(&error), format!("{}: {error}", args.command[0])).tell()
}

fn wrap(args: Args) -> Result<Wrapped, Failure> {
    let own = |message: String| Failure::new(125, message);
    let tier = match args.tier {
        TierArg::Process => Tier::Process,
        TierArg::Power => Tier::Power,
    };
    let home = Home::find(args.dir.as_deref(), tier).map_err(|error| own(error.to_string()))?;
    let budget = grace()?.budget();
    let wrap = Wrap {
        argv: args.command,
        home,
        name: args.name,
        tier,
        budget,
        grace: args.grace,
        pay: args.pay,
        forward: !args.no_forward,
        isolate: args.isolate,
        leftovers: match args.leftovers {
            LeftoversArg::Keep => Leftovers::Keep,
            LeftoversArg::Term => Leftovers::Term,
        },
        on_wrapper_death: match args.on_wrapper_death {
            WrapperDeathArg::Term => OnWrapperDeath::Term,
            WrapperDeathArg::Wait => OnWrapperDeath::Wait,
        },
        require_guardian: args.require_guardian,
        quiet: args.quiet,
    };
    wrap.run().map_err(|error| match error {
        WrapError::Command { ref source, .. } => Failure::new(not_started(source), error.to_string()),
        WrapError::Run(RunError::Full { .. }) => own(error.to_string()),
        error => own(error.to_string()),
    })
}

fn grace() -> Result<Grace, Failure> {
    let env = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    Grace::discover(env, std::process::id() == 1)
        .map_err(|error| Failure::new(125, format!("{}: {error}", epilogue::budget::GRACE_ENV)))
}

fn not_started(error: &std::io::Error) -> u8 {
    if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 }
}

fn write_json(path: &std::path::Path, command: &[String], wrapped: &Wrapped) -> std::io::Result<()> {
    let (how, number) = match wrapped.ended {
        Ended::Exited(code) => ("exited", Some(code)),
        Ended::Signalled(signal) => ("signalled", Some(signal)),
        _ => ("unknown", None),
    };
    let json = serde_json::json!({
        "schema": "epilogue.run/v1",
        "command": command,
        "run": wrapped.run,
        "ended": { "how": how, "number": number, "killed_by_wrapper": wrapped.killed },
        "report": wrapped.report,
    });
    let text = format!("{}\n", serde_json::to_string_pretty(&json)?);
    if path.as_os_str() == "-" {
        super::print(text.trim_end());
        return Ok(());
    }
    std::fs::write(path, text)
}

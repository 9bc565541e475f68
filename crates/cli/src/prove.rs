//! `epilogue prove`.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use epilogue::{App, Error, Options, budget::parse_duration};
use epilogue_prove::{
    Ask, Conditions, LedgerSpec, LoadSpec, Paint, Prestop, Progress, Proof, Report, Target, TargetError,
    Trigger, parse_ask, parse_path, prove, report_dir, summary, table,
};

use crate::builtin::{self, Style};
use crate::progress::Shown;

/// End a program every way there is, under load, and show what was lost
///
/// Without COMMAND the built-in order service is ended, written the ordinary way and on Epilogue,
/// side by side. With COMMAND any HTTP server is; in its arguments {port} stands for a free port
/// and {dir} for a directory made for the row. A command without {port} is watched to see where it
/// listens.
///
/// While a row runs, requests are held in flight, connections rest, new ones come at 50 a second
/// and a pool of ten asks ten times a second each. They go on for the lag after termination
/// begins, as behind a load balancer that does not know yet.
#[derive(Debug, Parser)]
#[command(after_long_help = AFTER_HELP)]
pub(crate) struct Args {
    /// The server to end, with its arguments
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
    /// Read the target from a file instead (see the README for its fields)
    #[arg(long, value_name = "FILE", conflicts_with = "command")]
    config: Option<PathBuf>,
    /// Which styles of the built-in service to end
    #[arg(long, value_enum, default_value = "both", conflicts_with_all = ["command", "config"])]
    style: Style,
    /// Only these ways out, separated by commas: return, exit, panic-handler, panic-main, abort, SEGV,
    /// INT, TERM, TERM-twice, INT-twice, QUIT, HUP, KILL
    #[arg(short, long, value_name = "TRIGGERS", value_delimiter = ',')]
    trigger: Vec<Trigger>,
    /// How often to run each way out
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeat: u32,

    /// A path that answers 2xx when the server is ready, and not when it is stopping
    #[arg(long, value_name = "PATH", help_heading = "Target")]
    ready: Option<String>,
    /// A path that answers at once [default: /]
    #[arg(long, value_name = "PATH", help_heading = "Target")]
    fast: Option<String>,
    /// A path that takes its time; without one, and without --upload, nothing is held in flight
    #[arg(long, value_name = "PATH", help_heading = "Target")]
    slow: Option<String>,
    /// A path that takes a request body, however slowly it comes
    #[arg(long, value_name = "PATH", help_heading = "Target")]
    upload: Option<String>,
    /// A write that is acknowledged with 2xx and an id, such as 'POST /orders'
    #[arg(long, value_name = "REQUEST", requires = "read", help_heading = "Target")]
    write: Option<String>,
    /// The body of the write, as JSON; the letter n in braces stands for a new number each time
    #[arg(long, value_name = "BODY", requires = "write", help_heading = "Target")]
    write_body: Option<String>,
    /// Where to read a write back, such as /orders/{id}
    #[arg(long, value_name = "PATH", requires = "write", help_heading = "Target")]
    read: Option<String>,
    /// A directory in which nothing may be left, such as {dir}/run
    #[arg(long, value_name = "DIR", help_heading = "Target")]
    watch: Option<String>,
    /// A request that ends the server in one of the ways for which there is no signal:
    /// exit='POST /admin/exit'
    #[arg(long, value_name = "TRIGGER=REQUEST", help_heading = "Target")]
    hook: Vec<String>,
    /// How long it may take to become ready [default: 10s]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, help_heading = "Target")]
    ready_within: Option<Duration>,
    /// The port the server listens on, if it cannot be told by {port}
    #[arg(long, value_name = "PORT", help_heading = "Target")]
    port: Option<u16>,

    /// How long requests keep coming after termination begins [default: 2s]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, help_heading = "Conditions")]
    lag: Option<Duration>,
    /// How long the platform waits before it kills [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, help_heading = "Conditions")]
    grace: Option<Duration>,
    /// What runs before the signal, within the grace: a duration to sleep, or a shell command
    #[arg(long, value_name = "DURATION|COMMAND", help_heading = "Conditions")]
    prestop: Option<String>,
    /// plain: no lag; kubernetes: lag 2s, grace 30s; compose: lag 2s, grace 10s
    #[arg(long, value_enum, default_value = "kubernetes", help_heading = "Conditions")]
    preset: Preset,
    /// How many requests to hold in flight
    #[arg(long, value_name = "N", default_value_t = 30, help_heading = "Conditions")]
    in_flight: usize,
    /// New connections a second
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=2000), help_heading = "Conditions")]
    rate: u32,

    /// Write the report as JSON (- for stdout; the table then goes to stderr)
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    json: Option<PathBuf>,
    /// Write the report as one self-contained HTML page
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    html: Option<PathBuf>,
    /// Show no progress
    #[arg(short, long, help_heading = "Output")]
    quiet: bool,
}

const AFTER_HELP: &str = "\
Examples:
  epilogue prove                                      the built-in service, both styles
  epilogue prove -t TERM,KILL --html report.html
  epilogue prove -- python3 -m http.server {port}
  epilogue prove --ready /healthz --slow /report -- ./server --port {port}

Exit status: 0 every expectation held (for the built-in comparison: of the epilogue style); 1 some
did not; 2 bad usage, or the command cannot be started; 5 nothing can be said; 130 interrupted.

The table: flight is requests in flight when it was told to stop; idle is requests on connections
that had rested; new and pool are requests that came in the lag, each on a new connection, or on ten
kept ones; writes are acknowledged writes read back after the restart. Cells show what was answered
of what was asked. A refused request is lost; one whose connection was closed before a byte of it had
arrived is not. n/e is not exercised, with the reason below the table. Verdicts: pass, FAIL, known (to
fail, and said so), unsure (nothing can be said), skip.";

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Preset {
    Plain,
    Kubernetes,
    Compose,
}

/// Runs the command.
pub(crate) fn main(args: Args) -> ExitCode {
    let proof = match proof(&args) {
        Ok(proof) => proof,
        Err(why) => {
            eprintln!("epilogue: error: {why}\n\nFor more, try 'epilogue prove --help'.");
            return ExitCode::from(2);
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("epilogue: error: no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    // What is in the environment is meant for the program that is ended.
    let options = Options::default().quiet(true).without_environment();
    runtime.block_on(epilogue::run_with(options, async |app: &App| run(app, &args, &proof).await)).0
}

async fn run(app: &App, args: &Args, proof: &Proof) -> Result<(), Error> {
    let shown = Shown::new(args.quiet);
    let watcher = |progress: Progress<'_>| shown.note(progress);
    let proved = tokio::select! {
        proved = prove(proof, &watcher) => Some(proved),
        // Dropping the proof ends everything that it has started.
        () = app.stopping() => None,
    };
    shown.finish();
    match proved {
        None => {
            say(
                &mut std::io::stderr(),
                "epilogue: interrupted; everything that was started has been ended\n",
            );
            app.exit(130);
        }
        Some(Err(error)) => {
            let told = format!("epilogue: error: {error}\nEverything that was started has been ended.\n");
            say(&mut std::io::stderr(), &told);
            app.exit(if error.is_usage() { 2 } else { 1 });
        }
        Some(Ok(report)) => {
            show(args, &report)?;
            app.exit(code(args, &report));
        }
    }
    Ok(())
}

fn show(args: &Args, report: &Report) -> Result<(), Error> {
    let json_to_stdout = args.json.as_ref().is_some_and(|path| path.as_os_str() == "-");
    let coloured = std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty());
    let terminal =
        if json_to_stdout { std::io::stderr().is_terminal() } else { std::io::stdout().is_terminal() };
    let paint = if coloured && terminal { Paint::Colour } else { Paint::Plain };
    let mut text = String::new();
    for target in &report.targets {
        text.push_str(&table(report, target, paint));
        text.push('\n');
    }
    text.push_str(&summary(report, paint));
    if json_to_stdout {
        say(&mut std::io::stderr(), &text);
        say(&mut std::io::stdout(), &report.to_json()?);
    } else {
        say(&mut std::io::stdout(), &text);
    }

    let default_dir = report_dir()?;
    let html = args.html.clone().unwrap_or_else(|| default_dir.join("report.html"));
    let json =
        args.json.clone().filter(|_| !json_to_stdout).unwrap_or_else(|| default_dir.join("report.json"));
    let named = |path: &PathBuf| {
        let path = path.display().to_string();
        move |error: std::io::Error| Error::msg(format!("the report could not be written to {path}: {error}"))
    };
    report.write_html(&html).map_err(named(&html))?;
    report.write_json(&json).map_err(named(&json))?;
    let lies = format!("full report: {}\n             {}\n", html.display(), json.display());
    if json_to_stdout {
        say(&mut std::io::stderr(), &lies);
    } else {
        say(&mut std::io::stdout(), &lies);
    }
    Ok(())
}

/// Writes all of it. A reader that has gone (`| head`) has seen what it wanted.
fn say(out: &mut impl Write, text: &str) {
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn code(args: &Args, report: &Report) -> u8 {
    let comparison = args.command.is_empty() && args.config.is_none() && report.targets.len() > 1;
    let judged = || report.targets.iter().filter(|target| !comparison || target.name == builtin::EPILOGUE);
    if judged().any(epilogue_prove::TargetReport::failed) {
        1
    } else if judged().any(|target| target.inconclusive() || target.is_untried()) {
        5
    } else {
        0
    }
}

#[derive(Debug)]
enum Usage {
    Target(TargetError),
    Words(String),
}

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Usage::Target(error) => error.fmt(f),
            Usage::Words(words) => f.write_str(words),
        }
    }
}

impl From<TargetError> for Usage {
    fn from(error: TargetError) -> Usage {
        Usage::Target(error)
    }
}

/// Better said before a minute of work than after it.
fn check_outputs(args: &Args) -> Result<(), Usage> {
    for (option, path) in [("--json", &args.json), ("--html", &args.html)] {
        let Some(path) = path else { continue };
        if path.as_os_str() == "-" {
            if option == "--html" {
                return Err(Usage::Words("--html - : the page goes to a file".into()));
            }
            continue;
        }
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        if let Some(parent) = parent.filter(|parent| !parent.is_dir()) {
            return Err(Usage::Words(format!(
                "{option} {}: {} is no directory",
                path.display(),
                parent.display()
            )));
        }
    }
    Ok(())
}

fn proof(args: &Args) -> Result<Proof, Usage> {
    check_outputs(args)?;
    let mut triggers = if args.trigger.is_empty() { Trigger::ALL.to_vec() } else { args.trigger.clone() };
    let once = triggers.clone();
    for _ in 1..args.repeat {
        triggers.extend(&once);
    }
    Ok(Proof { targets: targets(args)?, triggers, conditions: conditions(args) })
}

fn targets(args: &Args) -> Result<Vec<Target>, Usage> {
    if let Some(path) = &args.config {
        let mut target = Target::read(path)?;
        fill_in(args, &mut target)?;
        return Ok(vec![target]);
    }
    let Some(program) = args.command.first() else {
        if let Some(option) = needs_a_command(args) {
            return Err(Usage::Words(format!(
                "{option} is about a server of yours: give its command after --, or a file with --config"
            )));
        }
        let this = std::env::current_exe()
            .map_err(|error| Usage::Words(format!("this program cannot find itself: {error}")))?;
        return Ok(builtin::targets(&this, args.style));
    };
    let name = std::path::Path::new(program).file_name().unwrap_or(program.as_ref());
    let mut target = Target::new(name.to_string_lossy(), args.command.clone());
    fill_in(args, &mut target)?;
    Ok(vec![target])
}

fn needs_a_command(args: &Args) -> Option<&'static str> {
    let given = [
        (args.ready.is_some(), "--ready"),
        (args.fast.is_some(), "--fast"),
        (args.slow.is_some(), "--slow"),
        (args.upload.is_some(), "--upload"),
        (args.write.is_some(), "--write"),
        (args.watch.is_some(), "--watch"),
        (!args.hook.is_empty(), "--hook"),
        (args.port.is_some(), "--port"),
    ];
    given.into_iter().find(|(given, _)| *given).map(|(_, option)| option)
}

/// What the options say goes over what the file says.
fn fill_in(args: &Args, target: &mut Target) -> Result<(), Usage> {
    let path = |option: &str, value: &Option<String>| {
        value.as_ref().map(|value| parse_path(option, value)).transpose()
    };
    target.ready = path("--ready", &args.ready)?.or(target.ready.take());
    target.slow = path("--slow", &args.slow)?.or(target.slow.take());
    target.upload = path("--upload", &args.upload)?.or(target.upload.take());
    if let Some(fast) = path("--fast", &args.fast)? {
        target.fast = fast;
    }
    if let (Some(write), Some(read)) = (&args.write, &args.read) {
        let mut ask: Ask = parse_ask("--write", write)?;
        ask.body = args.write_body.clone().map(|body| ("application/json".into(), body.into_bytes()));
        target.ledger = Some(LedgerSpec { write: ask, read: parse_path("--read", read)? });
    }
    target.watch = args.watch.clone().or(target.watch.take());
    target.port = args.port.or(target.port);
    target.ready_within = args.ready_within.unwrap_or(target.ready_within);
    if let Some(watch) = &target.watch
        && watch.replace("{dir}", "").replace("{port}", "").contains('{')
    {
        return Err(Usage::Words(format!("--watch {watch:?}: only {{dir}} and {{port}} are filled in")));
    }
    for hook in &args.hook {
        let (trigger, request) = hook.split_once('=').ok_or_else(|| {
            Usage::Words(format!("--hook {hook:?} is not TRIGGER=REQUEST; write exit='POST /admin/exit'"))
        })?;
        let trigger: Trigger = trigger.parse().map_err(TargetError::from)?;
        target.hooks.insert(trigger, parse_ask(&format!("--hook {trigger}"), request)?);
    }
    Ok(())
}

fn conditions(args: &Args) -> Conditions {
    let (lag, grace) = match args.preset {
        Preset::Plain => (0, 30),
        Preset::Kubernetes => (2, 30),
        Preset::Compose => (2, 10),
    };
    let prestop = match &args.prestop {
        None => Prestop::No,
        Some(text) => match parse_duration(text) {
            Ok(time) => Prestop::Sleep(time),
            Err(_) => Prestop::Command(text.clone()),
        },
    };
    Conditions {
        lag: args.lag.unwrap_or(Duration::from_secs(lag)),
        grace: args.grace.unwrap_or(Duration::from_secs(grace)),
        prestop,
        load: LoadSpec { in_flight: args.in_flight, fresh_per_s: args.rate, ..LoadSpec::default() },
    }
}

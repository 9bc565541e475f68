//! `epilogue defer`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use epilogue::budget::parse_duration;
use epilogue_guardian::{
    Action, Call, Guardian, Home, KillGroup, NewRun, RemoveFile, RemoveTree, Run, RunCommand, Settings, When,
    capture, current_hash, start_of,
};
use epilogue_journal::{ProcessId, Tier};

use super::find::{self, Which};
use super::register::{millis, register};
use super::status::{CANNOT_CREATE, Failure, NO_INPUT};

/// Put a cleanup on record: it runs when the scope is left, by whatever means, newest first
///
/// The command is resolved now, and runs with the arguments, directory, umask and environment that it has
/// now; without a shell between, and without a terminal. If its directory is gone by then, or another one,
/// or its environment is lost to a reboot, it is not guessed: it is parked for 'epilogue pending'.
///
/// Register first, then create: 'd=$(epilogue tmp -d)' does both in that order.
#[derive(Debug, Parser)]
#[command(after_long_help = AFTER_HELP)]
pub(crate) struct Args {
    /// The command, with its arguments
    #[arg(last = true, value_name = "COMMAND", required_unless_present_any = ["rm", "kill"])]
    command: Vec<String>,
    /// Remove this file or directory with all that is in it; it need not be there yet
    #[arg(long, value_name = "PATH", conflicts_with_all = ["kill", "command"])]
    rm: Option<PathBuf>,
    /// End this process and its group: TERM, five seconds, KILL
    #[arg(long, value_name = "PID", conflicts_with = "command")]
    kill: Option<u32>,
    /// Only if the scope's command fails: a code other than 0, a signal, or nobody knows
    #[arg(long, conflicts_with = "on_success")]
    on_failure: bool,
    /// Only if the scope's command is known to have succeeded
    #[arg(long)]
    on_success: bool,
    /// A name to disarm it by
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Print its id
    #[arg(short = 'p', long)]
    print_id: bool,
    /// How long it may take: then TERM, five seconds, KILL
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "30s")]
    timeout: Duration,
    /// How often it is tried again when it fails [default: 2 by the wrapper, 7 by the guardian]
    #[arg(long, value_name = "N")]
    retries: Option<u8>,
    /// Store the value of this variable durably, in the journal; for what is not secret
    #[arg(long, value_name = "NAME")]
    env: Vec<String>,
    /// It does not depend on its environment: run it with any
    #[arg(long, conflicts_with = "env")]
    no_env: bool,
    /// Register although the arguments seem to hold a secret
    #[arg(long)]
    allow_secret_argv: bool,
    /// Which scope: outer, root, or the value of EPILOGUE_SCOPE somewhere
    #[arg(long, value_name = "SCOPE", default_value = "inner", conflicts_with = "owner")]
    scope: Which,
    /// No scope: when this process is gone, as in --owner $$
    #[arg(long, value_name = "PID")]
    owner: Option<u32>,
    /// Where the journal goes, with --owner
    #[arg(long, value_name = "DIR", requires = "owner")]
    dir: Option<PathBuf>,
}

const AFTER_HELP: &str = r#"Examples:
  d=$(epilogue tmp -d)                                   on record first, then created
  n=web-$(epilogue id)
  epilogue defer -- docker rm -f "$n"                    before the container exists
  docker run --name "$n" -d nginx
  epilogue defer --on-failure --name undo -- ./rollback  and at the end: epilogue disarm undo
  epilogue defer --owner $$ -- rm -f /tmp/lock           no wrapper: guards this shell

It sees EPILOGUE_EXIT (ok, failed, signalled, lost), EPILOGUE_EXIT_CODE, EPILOGUE_ATTEMPT, EPILOGUE_KEY.

Exit status: 0 on record; otherwise nothing was registered: 2 bad usage; 66 no such command or process;
69 no scope here; 73 no journal can be made; 74 it cannot be written; 75 too late, the scope is being
paid; 77 the scope belongs to another user."#;

/// Runs the command.
pub(crate) fn main(args: Args) -> ExitCode {
    super::status::code(defer(&args).map(|()| 0))
}

fn defer(args: &Args) -> Result<(), Failure> {
    check_secrets(args)?;
    if args.name.as_deref() == Some("") {
        return Err(Failure::usage("--name: it is empty; nothing was registered"));
    }
    if args.timeout.is_zero() {
        return Err(Failure::usage("--timeout 0s: it could never succeed; nothing was registered"));
    }
    let (run, scope) = match args.owner {
        Some(pid) => (owned_by(pid, args.dir.as_deref())?, 1),
        None => find::scope(&args.scope)?,
    };
    let mut call = call(args, &run)?;
    call.name.clone_from(&args.name);
    call.timeout_ms = Some(millis(args.timeout));
    call.retries = args.retries;
    call.when = match (args.on_failure, args.on_success) {
        (true, _) => When::Failure,
        (_, true) => When::Success,
        _ => When::Always,
    };
    let id = register(&run, scope, &call)?;
    if args.print_id {
        super::print(format_args!("{}/{id}", run.short()));
    }
    Ok(())
}

fn call(args: &Args, run: &Run) -> Result<Call, Failure> {
    let missing = |error: std::io::Error| Failure::new(NO_INPUT, format!("{error}; nothing was registered"));
    if let Some(path) = &args.rm {
        let missing = |error| {
            Failure::new(NO_INPUT, format!("--rm {}: {error}; nothing was registered", path.display()))
        };
        return if path.is_file() || path.is_symlink() {
            call_of(&RemoveFile::new(path).map_err(missing)?)
        } else {
            call_of(&RemoveTree::new(path).map_err(missing)?)
        };
    }
    if let Some(pid) = args.kill {
        if pid <= 1 {
            return Err(Failure::usage(format!(
                "--kill {pid}: that is the init of this machine or container; nothing was registered"
            )));
        }
        return call_of(&KillGroup::new(pid).map_err(missing)?);
    }
    let command =
        RunCommand::new(args.command.iter().cloned()).and_then(RunCommand::here).map_err(missing)?;
    if args.no_env {
        return call_of(&command);
    }
    let captured = capture(&run.meta().uuid, &args.env).map_err(Failure::usage)?;
    call_of(&command.environment(captured))
}

fn call_of<A: Action>(action: &A) -> Result<Call, Failure> {
    Call::of(action).map_err(|error| Failure::usage(error.to_string()))
}

/// The run that guards a process, which is made if it is not there.
fn owned_by(pid: u32, dir: Option<&std::path::Path>) -> Result<Run, Failure> {
    let Some(start) = start_of(pid) else {
        return Err(Failure::new(
            NO_INPUT,
            format!("--owner {pid}: there is no such process; nothing was registered"),
        ));
    };
    let home =
        Home::find(dir, Tier::Process).map_err(|error| Failure::new(CANNOT_CREATE, error.to_string()))?;
    let failed =
        |error: std::io::Error| Failure::new(CANNOT_CREATE, format!("{}: {error}", home.path.display()));
    // Two commands of one shell must not make two runs, whose cleanups had no order between them.
    let lock = std::fs::File::options().create(true).append(true).open(home.path.join("owners"));
    let lock = lock.and_then(|lock| lock.lock().map(|()| lock)).map_err(failed)?;
    let owner = ProcessId { pid, start };
    for (_, run) in Run::all(&home.path).map_err(failed)? {
        if let Ok(run) = run
            && run.journal.owner().is_ok_and(|found| found == owner)
            && run.journal.wrapper().is_ok_and(|wrapper| wrapper.pid == 0)
            && run.process_alive(owner) == epilogue_guardian::Alive::Yes
        {
            return Ok(run);
        }
    }
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned();
    let settings = Settings { environment: Some(current_hash()), ..Settings::default() };
    let run = Run::create(&home, NewRun { name, settings: Some(settings), ..NewRun::default() })?;
    if let Some(warning) = &run.warning {
        super::say(format_args!("epilogue: {warning}"));
    }
    run.journal.set_owner(owner)?;
    let guardian = Guardian::start(&run.dir).map_err(failed)?;
    if !guardian.wait_armed(Duration::from_secs(5)) {
        super::say(
            "epilogue: the guardian did not say that it watches; 'epilogue recover' pays what it does not",
        );
    }
    guardian.dismiss();
    drop(lock);
    Ok(run)
}

/// Arguments are stored as they are, on disk.
fn check_secrets(args: &Args) -> Result<(), Failure> {
    if args.allow_secret_argv {
        return Ok(());
    }
    let follows = |at: usize| args.command.get(at + 1).is_some_and(|next| !next.starts_with('-'));
    let secret = |(at, word): &(usize, &String)| is_secret(word, follows(*at));
    match args.command.iter().enumerate().find(secret).map(|(_, word)| word) {
        None => Ok(()),
        Some(word) => {
            let shown: String = word.chars().take_while(|c| *c != '=' && *c != ':').collect();
            Err(Failure::usage(format!(
                "the argument {shown}… seems to hold a secret, and arguments are stored on disk: pass it in a \
                 variable or a file, or insist with --allow-secret-argv. Nothing was registered"
            )))
        }
    }
}

/// Whether a word looks like a secret, or, where another word follows, like the name of one.
fn is_secret(word: &str, has_next: bool) -> bool {
    const NAMES: [&str; 8] =
        ["password", "passwd", "passphrase", "token", "secret", "api-key", "apikey", "secret-key"];
    const BEGINNINGS: [&str; 7] = ["ghp_", "gho_", "github_pat_", "glpat-", "xoxb-", "akia", "-----begin "];
    let lower = word.to_ascii_lowercase();
    let ends_in_name = |name: &str| NAMES.iter().any(|secret| name.ends_with(secret));
    let assigned = lower.split_once('=').is_some_and(|(name, value)| {
        // A word of a script is not looked into: '$TOKEN' is no secret, and 'token=' names none.
        ends_in_name(name) && !name.contains(' ') && !value.is_empty() && !value.starts_with('$')
    });
    let option = has_next && lower.starts_with("--") && ends_in_name(&lower);
    let bearer = lower.contains("authorization:") && (lower.contains("bearer ") || lower.contains("basic "));
    let plain = lower.len() > 16 && BEGINNINGS.iter().any(|begins| lower.starts_with(begins));
    assigned || option || (bearer && !lower.contains('$')) || plain || has_credentials(&lower)
}

fn has_credentials(word: &str) -> bool {
    let Some((_, rest)) = word.split_once("://") else { return false };
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    host.split_once('@').is_some_and(|(login, _)| login.contains(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_in_arguments_are_seen_and_their_names_alone_are_not() {
        for (word, has_next) in [
            ("--password=hunter2", false),
            ("--password", true),
            ("PGPASSWORD=hunter2", true),
            ("Authorization: Bearer abc", false),
            ("ghp_0123456789abcdefghij", false),
            ("AKIAIOSFODNN7EXAMPLE", false),
        ] {
            assert!(is_secret(word, has_next), "{word}");
        }
        for (word, has_next) in [
            ("--password", false),
            ("--token-file", true),
            ("--password=$PASSWORD", false),
            ("token=", false),
            ("Authorization: Bearer $TOKEN", false),
            ("kubectl delete secret my-secret", true),
            ("ghp_", false),
        ] {
            assert!(!is_secret(word, has_next), "{word}");
        }
    }

    #[test]
    fn credentials_in_an_address_are_seen_and_names_of_users_are_not_secrets() {
        assert!(has_credentials("https://me:pw@host/x"));
        assert!(has_credentials("postgres://u:p@db:5432/a"));
        for fine in ["https://host/a:b@c", "ssh://git@host/x", "a:b@c", "https://host:80/"] {
            assert!(!has_credentials(fine), "{fine}");
        }
    }
}

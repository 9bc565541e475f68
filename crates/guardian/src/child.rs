//! Running a command within its time: its own group, ended as a whole, its last words kept.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::action::ActionError;
use crate::{held, os};

/// The most that is kept of what a command prints, in bytes.
pub(crate) const OUTPUT_MAX: usize = 64 << 10;
/// How long a command that was told to end may take to do so.
const AFTER_TERM: Duration = Duration::from_secs(5);

/// Where what a command prints goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Output {
    /// To this process's stderr, as it comes.
    Stderr,
    /// It is kept for the log: the last 64 KiB.
    #[default]
    Kept,
}

/// What came of a command.
pub(crate) struct Outcome {
    pub(crate) result: Result<(), ActionError>,
    pub(crate) output: String,
}

/// Runs a command to its end, or to its deadline. Nothing of its group is left behind at a deadline.
pub(crate) fn run(mut command: Command, umask: Option<u32>, deadline: Instant, output: Output) -> Outcome {
    let none = |error: ActionError| Outcome { result: Err(error), output: String::new() };
    command.stdin(Stdio::null()).process_group(0);
    let reader = match output {
        Output::Stderr => {
            let stderr = || io::stderr().as_fd().try_clone_to_owned();
            match (stderr(), stderr()) {
                (Ok(one), Ok(two)) if !os::is_broken(&one) => command.stdout(one).stderr(two),
                // Closed, or a pipe whose reader has gone (`| head -1`): nobody reads it, and a cleanup that
                // prints must not die of that.
                _ => command.stdout(Stdio::null()).stderr(Stdio::null()),
            };
            None
        }
        Output::Kept => {
            match io::pipe().and_then(|(reader, writer)| Ok((reader, writer.try_clone()?, writer))) {
                Ok((reader, one, two)) => {
                    command.stdout(one).stderr(two);
                    Some(reader)
                }
                Err(error) => return none(error.into()),
            }
        }
    };
    // A child inherits what its parent blocks. Where nothing has to be undone no code of ours runs
    // between fork and exec, and a large process need not be copied for it.
    if umask.is_some() || os::blocks_signals() {
        // SAFETY: it only calls what may be called between fork and exec.
        unsafe { command.pre_exec(move || os::prepare_child(umask)) };
    }
    let spawned = held::spawn(&mut command);
    // Its copies of the pipe's end would keep the reader waiting.
    drop(command);
    let (mut child, pidfd) = match spawned {
        Ok(spawned) => spawned,
        Err(error) => return none(cannot_start(&error)),
    };
    let reading = reader.map(|reader| std::thread::spawn(move || last_words(reader)));
    let result = wait(&mut child, pidfd.as_ref(), deadline);
    let output = match reading {
        // What it left running in the background may hold the pipe for as long as it likes.
        Some(reading) => finished_within(reading, Duration::from_millis(200)),
        None => String::new(),
    };
    Outcome { result, output }
}

fn cannot_start(error: &io::Error) -> ActionError {
    match error.kind() {
        // Neither comes by itself, and what is found under the same name later may be something else.
        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied | io::ErrorKind::NotADirectory => {
            ActionError::park(format!("it cannot be started: {error}"))
        }
        _ => ActionError::retry(format!("it cannot be started: {error}")),
    }
}

fn wait(child: &mut Child, pidfd: Option<&OwnedFd>, deadline: Instant) -> Result<(), ActionError> {
    let group = child.id();
    if let Some(status) = wait_until(child, pidfd, deadline)? {
        return judge(status);
    }
    let _ = os::signal_group(group, libc::SIGTERM);
    let ended = wait_until(child, pidfd, Instant::now() + AFTER_TERM)?.is_some();
    // Also what it has started, and left in its group.
    let _ = os::signal_group(group, libc::SIGKILL);
    if !ended {
        let _ = child.wait();
    }
    let how = if ended { "told to end" } else { "killed" };
    Err(ActionError::retry(format!("it took too long, and was {how}")))
}

fn wait_until(
    child: &mut Child,
    pidfd: Option<&OwnedFd>,
    deadline: Instant,
) -> io::Result<Option<ExitStatus>> {
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(Some(status)),
            Ok(None) => {}
            Err(error) if error.raw_os_error() == Some(libc::ECHILD) => return collected(pidfd).map(Some),
            Err(error) => return Err(error),
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        match pidfd {
            Some(pidfd) => drop(os::wait_readable(&[pidfd.as_fd()], Some(left))?),
            // A kernel without pidfds: looked at now and then.
            None => std::thread::sleep(left.min(Duration::from_millis(5))),
        }
    }
}

/// How a child ended that the kernel has collected, because this program ignores SIGCHLD. Told since Linux
/// 6.15.
fn collected(pidfd: Option<&OwnedFd>) -> io::Result<ExitStatus> {
    let status = pidfd.and_then(os::exit_status).map(ExitStatus::from_raw);
    status.ok_or_else(|| {
        io::Error::other(
            "it ended, and nobody can tell how: this program ignores SIGCHLD (or waits for any child)",
        )
    })
}

fn judge(status: ExitStatus) -> Result<(), ActionError> {
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(()),
        (Some(code), _) => Err(ActionError::retry(format!("exit code {code}"))),
        (None, Some(signal)) => Err(ActionError::retry(format!("died of signal {signal}"))),
        (None, None) => Err(ActionError::retry("ended in an unknown way")),
    }
}

fn last_words(mut reader: io::PipeReader) -> Vec<u8> {
    let (mut kept, mut buffer) = (Vec::new(), [0; 8192]);
    while let Ok(got @ 1..) = reader.read(&mut buffer) {
        kept.extend_from_slice(&buffer[..got]);
        if kept.len() > 2 * OUTPUT_MAX {
            kept.drain(..kept.len() - OUTPUT_MAX);
        }
    }
    kept.drain(..kept.len().saturating_sub(OUTPUT_MAX));
    kept
}

fn finished_within(reading: std::thread::JoinHandle<Vec<u8>>, patience: Duration) -> String {
    let until = Instant::now() + patience;
    while !reading.is_finished() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(1));
    }
    if !reading.is_finished() {
        return "(its output is still held open by something that it left running)".into();
    }
    String::from_utf8_lossy(&reading.join().unwrap_or_default()).into_owned()
}

/// Prints a line on stderr. A closed stderr leaves nobody to tell, and is no reason to panic.
pub(crate) fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, limit: Duration) -> Outcome {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        run(command, None, Instant::now() + limit, Output::Kept)
    }

    #[test]
    fn the_last_words_are_kept_and_the_status_is_told() {
        let good = sh("echo out; echo err >&2", Duration::from_secs(20));
        assert!(good.result.is_ok());
        assert_eq!(good.output, "out\nerr\n");
        let bad = sh("exit 3", Duration::from_secs(20));
        assert_eq!(bad.result.unwrap_err().message, "exit code 3");
        let long = sh("yes 0123456789 | head -c 500000; printf end", Duration::from_secs(20));
        assert_eq!(long.output.len(), OUTPUT_MAX);
        assert!(long.output.ends_with("end"));
    }

    #[test]
    fn at_its_deadline_the_whole_group_is_ended() {
        let began = Instant::now();
        let cut = sh("sleep 600 & echo $!; wait", Duration::from_millis(200));
        assert!(began.elapsed() < Duration::from_secs(5));
        assert_eq!(cut.result.unwrap_err().message, "it took too long, and was told to end");
        let pid: u32 = cut.output.trim().parse().unwrap();
        // Killed; its remains are init's to collect.
        let until = Instant::now() + Duration::from_secs(5);
        while crate::identity::start_of(pid).is_some() && Instant::now() < until {
            std::thread::yield_now();
        }
        assert_eq!(crate::identity::start_of(pid), None);
    }

    #[test]
    fn what_a_command_leaves_running_does_not_hold_its_payer() {
        let began = Instant::now();
        let left = sh("sleep 3 & exit 0", Duration::from_secs(20));
        assert!(left.result.is_ok() && began.elapsed() < Duration::from_secs(2));
    }

    #[test]
    fn a_command_that_is_not_there_is_parked() {
        let outcome = run(Command::new("/nonexistent"), None, Instant::now() + TIMEOUT, Output::Kept);
        let error = outcome.result.unwrap_err();
        assert!(error.park && error.message.contains("cannot be started"), "{error}");
    }

    const TIMEOUT: Duration = Duration::from_secs(5);
}

//! The log shipper: a child process that follows the message log and copies it elsewhere.

use std::fs::File;
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};

/// Starts the child. It follows `log` and appends to `shipped`. It does not end with its parent,
/// as most children do not.
///
/// # Errors
///
/// When a file or the process cannot be had.
pub fn command(log: &Path, shipped: &Path) -> io::Result<Command> {
    drop(File::options().create(true).append(true).open(log)?);
    let out = File::options().create(true).append(true).open(shipped)?;
    let mut command = Command::new("tail");
    command.args(["-n", "0", "-F"]).arg(log).stdin(Stdio::null()).stdout(out).stderr(Stdio::null());
    Ok(command)
}

/// Asks the child to end and waits for it; kills it after a second.
///
/// # Errors
///
/// When it cannot be killed or waited for.
pub async fn stop(child: &mut Child) -> io::Result<()> {
    // `tail` polls about once a second without inotify; its output is written as it comes.
    child.start_kill()?;
    tokio::time::timeout(Duration::from_secs(1), child.wait())
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the shipper did not end"))??;
    Ok(())
}

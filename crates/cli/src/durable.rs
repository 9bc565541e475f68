//! Durable cleanups from the command line: for a shell, a Makefile, any language.

pub(crate) mod capabilities;
pub(crate) mod defer;
pub(crate) mod disarm;
mod find;
pub(crate) mod id;
pub(crate) mod pending;
pub(crate) mod recover;
mod register;
pub(crate) mod run;
mod status;
pub(crate) mod tmp;

use std::io::Write;

/// Prints a line on stdout. A reader that has gone (`| head`) has seen what it wanted; a full disk has not
/// taken what somebody relies on.
fn print(line: impl std::fmt::Display) {
    match writeln!(std::io::stdout(), "{line}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            say(format_args!("epilogue: stdout: {error}"));
            std::process::exit(status::IO.into());
        }
        _ => {}
    }
}

/// Prints a line on stderr. A closed stderr leaves nobody to tell.
fn say(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

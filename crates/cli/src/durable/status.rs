//! What went wrong, in words, with an exit status that means it.

use std::process::ExitCode;

use epilogue_guardian::RunError;
use epilogue_journal::JournalError;

/// The exit statuses of the commands.
pub(crate) const USAGE: u8 = 2;
pub(crate) const NO_INPUT: u8 = 66;
pub(crate) const NO_SCOPE: u8 = 69;
pub(crate) const CANNOT_CREATE: u8 = 73;
pub(crate) const IO: u8 = 74;
pub(crate) const TOO_LATE: u8 = 75;
pub(crate) const NOT_YOURS: u8 = 77;

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) status: u8,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(status: u8, message: impl Into<String>) -> Failure {
        Failure { status, message: message.into() }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Failure {
        Failure::new(USAGE, message)
    }

    /// Says it, and gives the status.
    pub(crate) fn tell(&self) -> ExitCode {
        super::say(format_args!("epilogue: error: {}", self.message));
        ExitCode::from(self.status)
    }
}

impl From<JournalError> for Failure {
    fn from(error: JournalError) -> Failure {
        let status = match &error {
            JournalError::TooLate => TOO_LATE,
            JournalError::NotTrusted { .. } => NOT_YOURS,
            JournalError::NoSuchRecord { .. } => NO_INPUT,
            JournalError::TooLong { .. } => USAGE,
            _ => IO,
        };
        let nothing = matches!(error, JournalError::Io { .. } | JournalError::Full { .. });
        let more = if nothing { "; nothing was registered" } else { "" };
        Failure::new(status, format!("{error}{more}"))
    }
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Failure {
        match error {
            RunError::Journal(error) => error.into(),
            RunError::NotTrusted { .. } => Failure::new(NOT_YOURS, error.to_string()),
            RunError::Full { .. } => Failure::new(IO, error.to_string()),
            error => Failure::new(CANNOT_CREATE, error.to_string()),
        }
    }
}

/// The exit code of a command.
pub(crate) fn code(done: Result<u8, Failure>) -> ExitCode {
    match done {
        Ok(status) => ExitCode::from(status),
        Err(failure) => failure.tell(),
    }
}

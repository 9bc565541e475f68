//! Putting a call on record.

use std::time::Duration;

use epilogue_guardian::{Call, Run, now_ms};
use epilogue_journal::Record;

use super::status::Failure;

/// Registers a call in a scope. Returns its id.
pub(crate) fn register(run: &Run, scope: u64, call: &Call) -> Result<u64, Failure> {
    let body = call.to_bytes().map_err(|error| Failure::usage(error.to_string()))?;
    let record = Record { scope, time_ms: now_ms(), body: &body, tier: run.meta().tier };
    Ok(run.journal.register(&record)?.id())
}

/// A duration as people write it.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

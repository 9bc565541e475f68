//! Running one action, in a process that was started for it.

use std::ffi::OsString;
use std::path::Path;

use crate::action::{ActionError, Call};
use crate::child::say;
use crate::pay::{self, Order, PARK, RETRY};
use crate::run::Run;

pub(crate) fn main(order: OsString) -> u8 {
    match obey(&order) {
        Ok(()) => 0,
        Err(error) => {
            say(&error.message);
            if error.park { PARK } else { RETRY }
        }
    }
}

fn obey(order: &OsString) -> Result<(), ActionError> {
    let order: Order = serde_json::from_str(&order.to_string_lossy())?;
    let run = Run::open(Path::new(&order.dir))?;
    let entry = run.journal.entry(order.id)?;
    let call = Call::from_bytes(&entry.body)
        .map_err(|error| ActionError::park(format!("it cannot be read: {error}")))?;
    let mut cx = pay::context_of_run(&run, &entry, order.attempt)?;
    cx.fence = order.fence;
    cx.deadline = std::time::Instant::now() + call.timeout();
    call.run(&cx)
}

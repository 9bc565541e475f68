//! A durable cleanup without a scope: it runs when its guard is dropped.

use std::panic::Location;

use epilogue_guardian::Action;
use epilogue_scope::__private::fresh_scope_id;
use epilogue_scope::record::{Finished, Registration};
use serde::Serialize;

use crate::handle::{Durable, DurableError};
use crate::scopes::{Promise, of_this_thread};
use crate::unpaid::Turn;

/// Puts an action on record. It runs when the guard is dropped, or after the death of the process.
///
/// A guard is a scope of its own, within those that are open where it is made: the failure of another guard
/// holds back nothing of it. For cleanups that depend on each other there is [`DurableScope`](crate::DurableScope).
///
/// # Errors
///
/// [`DurableError`]: nothing was registered, so the resource must not be made.
///
/// # Examples
///
/// ```no_run
/// use epilogue_durable::{RemoveFile, guard};
///
/// let half = guard(RemoveFile::new("/var/spool/upload.part")?)?;
/// std::fs::write("/var/spool/upload.part", "…")?;
/// std::fs::rename("/var/spool/upload.part", "/var/spool/upload")?;
/// half.disarm();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[track_caller]
pub fn guard<A: Action>(action: A) -> Result<DurableGuard, DurableError> {
    let durable = Durable::register(&action, Promise::Process.tier(), of_this_thread(fresh_scope_id()))?;
    let registration = Registration::new("guard", Location::caller());
    Ok(DurableGuard { durable: Some(durable), registration })
}

/// What [`guard`] makes. A failure of the action goes to the [report sink](epilogue_scope::report).
#[must_use = "dropped at once, it runs at once"]
pub struct DurableGuard {
    durable: Option<Durable>,
    registration: Registration,
}

impl DurableGuard {
    /// As [`Durable::amend`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn amend(&self, known: impl Serialize) -> Result<(), DurableError> {
        self.durable.as_ref().map_or(Ok(()), |durable| durable.amend(known))
    }

    /// As [`Durable::disarm`].
    pub fn disarm(mut self) -> bool {
        self.registration.finish(Finished::Disarmed);
        self.durable.take().is_some_and(Durable::disarm)
    }
}

impl Drop for DurableGuard {
    fn drop(&mut self) {
        let Some(durable) = self.durable.take() else { return };
        match durable.owed.run(Turn::Left) {
            Ok(_) => self.registration.finish(Finished::Ran),
            Err(error) => {
                self.registration.finish(Finished::Failed);
                epilogue_scope::report::failed_to("a durable cleanup", &error);
            }
        }
    }
}

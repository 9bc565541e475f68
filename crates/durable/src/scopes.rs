//! Durable cleanups as cleanups of a scope, of an async scope, of a program.

use std::sync::Arc;
use std::time::Duration;

use epilogue_guardian::{Action, WHOLE_RUN};
use epilogue_journal::Tier;
use epilogue_process::{App, Error};
use epilogue_scope::Scope;
use epilogue_task::{AsyncScope, enclosing_scopes};

use crate::handle::{Durable, DurableError, Owed};
use crate::mailbox::{Mailbox, pending_scopes};
use crate::unpaid::{Of, Turn};

/// How far a durable cleanup's promise reaches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Promise {
    /// Every death of the process. For what dies with the machine, and for what may stay behind a power cut.
    #[default]
    Process,
    /// A power cut too: registration and disarm wait for the device. For what outlives the machine.
    Power,
}

/// Something that durable cleanups can be registered on: a [`Scope`], an [`AsyncScope`], an [`App`].
///
/// # Examples
///
/// ```no_run
/// use epilogue_durable::{DurableScope, Identity, RemoveFile};
/// use epilogue_process::{App, Error};
///
/// async fn serve(app: &App) -> Result<(), Error> {
///     let owed = app.durable(RemoveFile::new("/run/service.lock")?)?;   // stops after all that follows
///     std::fs::write("/run/service.lock", "")?;
///     owed.amend(Identity::of("/run/service.lock".as_ref())?)?;         // this very file
///     Ok(())
/// }
/// ```
pub trait DurableScope {
    /// Puts an action on record, and owes it at this place of the scope.
    ///
    /// # Errors
    ///
    /// [`DurableError`]: nothing was registered, so the resource must not be made.
    #[track_caller]
    fn durable<A: Action>(&self, action: A) -> Result<Durable, DurableError> {
        self.durable_with(action, Promise::Process)
    }

    /// The same, with a choice of how far the promise reaches.
    ///
    /// # Errors
    ///
    /// As [`durable`](DurableScope::durable); [`DurableError::NotHere`] where the promise cannot be given.
    #[track_caller]
    fn durable_with<A: Action>(&self, action: A, promise: Promise) -> Result<Durable, DurableError>;
}

/// Whose a record is that is registered here on a scope of this thread: also of the scopes around that. One
/// that was entered later, as its higher number says, is not around it.
pub(crate) fn of_this_thread(scope: u64) -> Of {
    let around = pending_scopes().into_iter().filter(|other| *other < scope);
    of(scope, around.chain(enclosing_scopes()))
}

/// The same for an async scope, which may have come from another thread.
fn of_this_task(scope: u64) -> Of {
    of(scope, pending_scopes().into_iter().chain(enclosing_scopes()).filter(|other| *other != scope))
}

/// So many scopes around its own are put on record, the innermost: a recursion must not fill a journal with
/// them.
const WITHIN_MAX: usize = 100;

fn of(scope: u64, around: impl Iterator<Item = u64>) -> Of {
    let mut within: Vec<u64> = around.collect();
    if within.len() > WITHIN_MAX {
        // The higher its number, the later it was entered.
        within.sort_unstable();
        within.drain(..within.len() - WITHIN_MAX);
    }
    Of { scope, within }
}

impl Promise {
    pub(crate) fn tier(self) -> Tier {
        match self {
            Promise::Process => Tier::Process,
            Promise::Power => Tier::Power,
        }
    }
}

impl<R> DurableScope for Scope<'_, R> {
    #[track_caller]
    fn durable_with<A: Action>(&self, action: A, promise: Promise) -> Result<Durable, DurableError> {
        let mailbox = Mailbox::of(self);
        for gone in mailbox.take() {
            self.disarm(gone);
        }
        let durable = Durable::register(&action, promise.tier(), of_this_thread(self.id()))?;
        let (owed, theirs) = (Arc::clone(&durable.owed), Arc::clone(&mailbox));
        let deferred = self.defer(move || {
            let _its = theirs;
            owed.run(Turn::LEFT).map(drop)
        });
        durable.forget_with(move || mailbox.put(deferred));
        Ok(durable)
    }
}

impl DurableScope for AsyncScope {
    #[track_caller]
    fn durable_with<A: Action>(&self, action: A, promise: Promise) -> Result<Durable, DurableError> {
        let durable = Durable::register(&action, promise.tier(), of_this_task(self.id()))?;
        let owed = Arc::clone(&durable.owed);
        let deferred = self.defer(async move |_| run_aside(owed, Turn::Left { patience: PATIENCE }).await);
        let scope = self.weak_handle();
        durable.forget_with(move || {
            scope.disarm(deferred);
        });
        Ok(durable)
    }
}

impl DurableScope for App {
    #[track_caller]
    fn durable_with<A: Action>(&self, action: A, promise: Promise) -> Result<Durable, DurableError> {
        let of = Of { scope: WHOLE_RUN, within: Vec::new() };
        let durable = Durable::register(&action, promise.tier(), of)?;
        let owed = Arc::clone(&durable.owed);
        let name = owed.what().to_owned();
        let step = self.defer(name, async move || run_aside(owed, Turn::LEFT).await.map_err(Error::from));
        durable.forget_with(move || {
            step.disarm();
        });
        Ok(durable)
    }
}

/// So long an async scope that is left waits, before it destroys, for what is within it and still runs:
/// cleanups of a future that was dropped, on the lane.
const PATIENCE: Duration = Duration::from_secs(5);

/// Actions may block: not on a thread of the runtime.
async fn run_aside(owed: Arc<Owed>, turn: Turn) -> Result<(), DurableError> {
    let what = owed.what().to_owned();
    let ran = tokio::task::spawn_blocking(move || owed.run(turn)).await;
    match ran {
        Ok(ran) => ran.map(drop),
        Err(error) => Err(DurableError::Failed { what, why: error.to_string() }),
    }
}

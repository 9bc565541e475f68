//! Durable cleanups as cleanups of a scope, of an async scope, of a program.

use std::sync::Arc;
use std::time::{Duration, Instant};

use epilogue_guardian::{Action, WHOLE_RUN};
use epilogue_journal::Tier;
use epilogue_process::{App, Error};
use epilogue_scope::{__private, Scope};
use epilogue_task::{AsyncScope, enclosing_scopes};
use tokio::runtime::Handle;

use crate::handle::{Durable, DurableError, Outcome, Owed};
use crate::mailbox::{Mailbox, pending_scopes};
use crate::unpaid::{Of, Standing, Turn};

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

/// Whose a record is that is registered here on a scope of this thread: also of the scopes around that.
pub(crate) fn of_this_thread(scope: u64) -> Of {
    of(scope, scope)
}

/// The same for an async scope, which may have come from another thread.
fn of_this_task(scope: u64) -> Of {
    of(scope, u64::MAX)
}

/// So many scopes of each kind are put on record as around its own, the innermost; and so many whose cleanups
/// these have adopted, the latest: a recursion, or a long life, must not fill a journal with them.
const WITHIN_MAX: usize = 100;

fn of(scope: u64, inner: u64) -> Of {
    let of_task = enclosing_scopes();
    let adopted_here = __private::adopted_scopes(inner, WITHIN_MAX);
    let adopted_by_task = epilogue_task::__private::handed_scopes(&of_task);
    let mut within: Vec<u64> = Vec::new();
    for scopes in [pending_scopes(inner), of_task, adopted_here, adopted_by_task] {
        let others: Vec<u64> = scopes.into_iter().filter(|other| *other != scope).collect();
        within.extend(&others[others.len().saturating_sub(WITHIN_MAX)..]);
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
            owed.run(Turn::Left).map(drop)
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
        let deferred = self.defer(async move |_| run_aside(owed).await);
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
        owed.begins_anew();
        let name = owed.what().to_owned();
        let step = self.defer(name, async move || run_at_exit(owed).await.map_err(Error::from));
        durable.forget_with(move || {
            step.disarm();
        });
        Ok(durable)
    }
}

/// So long what destroys waits, as its async scope is left, for what is within and still runs, or has its turn
/// on the lane because its future was dropped.
const PATIENCE: Duration = Duration::from_secs(5);
/// The same for the program's own, whose guardian is at hand.
const PATIENCE_AT_EXIT: Duration = Duration::from_secs(1);

async fn run_aside(owed: Arc<Owed>) -> Result<(), DurableError> {
    match outcome(&owed, PATIENCE).await? {
        Outcome::Ran(_) => Ok(()),
        Outcome::HeldBack(newer) => Err(owed.held_back(newer)),
    }
}

/// What is held back only by what still lives is not lost: both are paid when the process is gone.
async fn run_at_exit(owed: Arc<Owed>) -> Result<(), DurableError> {
    match outcome(&owed, PATIENCE_AT_EXIT).await? {
        Outcome::Ran(_) => Ok(()),
        Outcome::HeldBack(newer) if newer.standing == Standing::Stuck => Err(owed.held_back(newer)),
        Outcome::HeldBack(newer) => {
            let why = format!("left to the next payer: #{} above it is not done yet", newer.id);
            epilogue_scope::report::noticed(owed.what(), &why);
            Ok(())
        }
    }
}

/// Actions may block: not on a thread of the runtime, where there is one.
async fn outcome(owed: &Arc<Owed>, patience: Duration) -> Result<Outcome, DurableError> {
    let turn = OwedTurn::begin(owed);
    if Handle::try_current().is_err() {
        return turn.over(owed.run_or_hold(Turn::Left));
    }
    let until = Instant::now() + patience;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let its = Arc::clone(owed);
        match tokio::task::spawn_blocking(move || its.step(left)).await {
            Ok(Ok(None)) => {}
            Ok(Ok(Some(outcome))) => return turn.over(Ok(outcome)),
            Ok(Err(error)) => return turn.over(Err(error)),
            // The runtime is going away, and takes nothing any more.
            Err(error) if error.is_cancelled() => return turn.over(owed.run_or_hold(Turn::Left)),
            Err(error) => {
                return Err(DurableError::Failed { what: owed.what().to_owned(), why: error.to_string() });
            }
        }
    }
}

/// The turn of a cleanup has come. Dropped before it is over, it is held: nobody else may come to it.
struct OwedTurn<'a>(Option<&'a Arc<Owed>>);

impl OwedTurn<'_> {
    fn begin(owed: &Arc<Owed>) -> OwedTurn<'_> {
        owed.waits();
        OwedTurn(Some(owed))
    }

    fn over<T>(mut self, ended: T) -> T {
        self.0 = None;
        ended
    }
}

impl Drop for OwedTurn<'_> {
    fn drop(&mut self) {
        if let Some(owed) = self.0 {
            owed.passed_over();
        }
    }
}

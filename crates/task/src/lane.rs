//! The lane: where async cleanups run whose future is gone.
//!
//! Three drivers hand back to each other. While a program's `run` is active, its own runtime runs
//! them as tasks ([`adopt`]): pools and sockets of that runtime still work. Otherwise, and for what
//! a runtime dropped half-way, a runtime of the lane's own does, with two threads. When the process
//! exits, an exit handler waits, because returning from `main` would cut those threads.
//!
//! What one scope owed is one job: strictly newest first inside, and concurrent with other jobs.

mod exit;
mod job;
mod state;
mod thread;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use epilogue_scope::How;
use tokio::runtime::Handle;

use crate::shared::Shared;
use job::Job;

pub(crate) use exit::arm;
pub(crate) use state::Alive;
pub use state::{Unfinished, unfinished};

/// How many jobs have not come to their end.
pub fn pending() -> usize {
    state::LANE.jobs()
}

/// The [numbers](crate::AsyncScope::id) of the scopes whose cleanups the lane has not finished, those that had
/// been [handed over](crate::AsyncScope::hand_over) to them included.
pub fn scopes() -> Vec<u64> {
    let mut scopes: Vec<u64> = state::LANE.all().iter().map(|(_, shared)| shared.id()).collect();
    scopes.extend(crate::adopted::handed_scopes(&scopes));
    scopes
}

/// Returns when no job is left. Cancel safe.
pub async fn drained() {
    state::LANE.drained().await;
}

/// Waits, without a runtime, until no job is left, or the limit is over. Returns whether none is.
pub fn wait(limit: Duration) -> bool {
    state::LANE.wait(limit)
}

/// How long the process waits for the lane when it exits by itself: 10 s unless set.
pub fn set_exit_limit(limit: Duration) {
    state::LANE.set_exit_limit(limit);
}

/// Lets a runtime run the lane's jobs until the guard is dropped. The latest one that was adopted
/// gets them.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use epilogue_task::{async_scope, lane};
///
/// let adopted = lane::adopt(tokio::runtime::Handle::current());
/// let cut = async_scope(async |s| {
///     s.defer(async |_| println!("tidied on this runtime"));
///     std::future::pending::<()>().await;
/// });
/// tokio::time::timeout(std::time::Duration::from_millis(1), cut).await.unwrap_err();
/// lane::drained().await;
/// drop(adopted);
/// # }
/// ```
pub fn adopt(runtime: Handle) -> Adopted {
    state::LANE.adopt(runtime)
}

/// A runtime runs the lane's jobs; see [`adopt`].
#[must_use = "dropped at once, the runtime gets no job"]
#[derive(Debug)]
pub struct Adopted(pub(crate) u64);

impl Drop for Adopted {
    fn drop(&mut self) {
        state::LANE.release(self.0);
    }
}

/// Whether the process is told that it exits by somebody else, who waits for the lane then: `run`,
/// while it is active.
#[doc(hidden)]
pub fn waited_for_elsewhere(elsewhere: bool) {
    state::LANE.set_waited_for(elsewhere);
}

/// Pays what is left on threads of the lane's own as well, because the runtime that has it may never go
/// on: somebody is inside `exit` on a thread of it. Where it does go on, each cleanup is still run once.
#[doc(hidden)]
pub fn rescue() {
    state::LANE.release_all();
    // One that is in the middle of a cleanup keeps the order of the rest, for good or ill.
    for (job, shared) in state::LANE.all() {
        let how = shared.how();
        if let Some(taken) = Job::take_over(shared, how) {
            thread::send(taken);
            state::LANE.end(job);
        }
    }
}

/// Takes over what a scope owed whose future is gone.
pub(crate) fn hand_over(shared: Arc<Shared>, how: How) {
    crate::os::arm_in_this_process();
    place(Job::first(shared, how));
}

/// Gives a job to a driver.
fn place(job: Job) {
    match state::LANE.driver().filter(|_| !job.was_dropped()) {
        // A runtime that is going away drops it at once: it comes back here, and goes to the thread.
        Some(runtime) => drop(runtime.spawn(job.run())),
        None => thread::send(job),
    }
}

/// Runs a future to its end on the lane, with what the process exits for waiting for it.
#[doc(hidden)]
pub fn run_there(future: impl Future<Output = ()> + Send + 'static) {
    let stack = crate::stack::AsyncStack::new();
    stack.defer(move |_| future);
    drop(stack);
}

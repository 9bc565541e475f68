//! The exit handler: `main` has returned, or somebody called `exit`, and the lane is not empty.
//!
//! It waits and does no more. The jobs run where they ran, so nothing of the exiting thread is
//! touched; and no owner is raced, because what is on the lane has no owner any more.

use std::sync::Once;
use std::time::Duration;

use super::state::LANE;
use super::thread;

/// A future that is dropped by a runtime going down in the background may come to the lane a moment
/// after `main` has returned. So scopes that are alive still are given this long to come: no longer,
/// because they may as well belong to a future that nobody drops.
const LATE: Duration = Duration::from_millis(250);

/// Makes the process wait for the lane when it exits.
#[inline]
pub(crate) fn arm() {
    static ARMED: Once = Once::new();
    ARMED.call_once(|| {
        crate::os::at_exit(at_exit);
    });
}

extern "C" fn at_exit() {
    // A forked child inherits the handler and must not wait for its parent's debts.
    if !crate::os::is_armed_process() {
        return;
    }
    let Some(limit) = LANE.exit_limit() else { return };
    let _ = std::panic::catch_unwind(|| {
        // A cleanup on the lane called `exit`: it never ends, and neither does its job, nor its thread.
        let stuck = usize::from(thread::is_this());
        if stuck > 0 {
            thread::replace();
            super::rescue();
        }
        LANE.wait_for_late(LATE);
        if !LANE.wait_but_for(stuck, limit) {
            let left = super::unfinished();
            let places: Vec<_> = left.iter().flat_map(|job| &job.left).cloned().collect();
            crate::os::say(&format!(
                "epilogue: {} scope(s) of async cleanups were not finished within {limit:?} of the exit; not begun: {}",
                left.len(),
                if places.is_empty() { "none, one is running".into() } else { places.join(", ") }
            ));
        }
    });
}

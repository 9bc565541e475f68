//! A program that leaves in the way its first argument names, with something owed. What it pays it
//! says on stdout. `tests/leaving.rs` runs every one of them; `cargo run --example leaves` lists them.

mod exits;
mod lane;
mod support;
mod worst;

use std::process::ExitCode;

type Way = (&'static str, fn() -> ExitCode);

const WAYS: &[Way] = &[
    ("main-returns", lane::main_returns),
    ("runtime-dropped", lane::runtime_dropped),
    ("shutdown-background", lane::shutdown_background),
    ("begun-on-a-dying-runtime", lane::begun_on_a_dying_runtime),
    ("no-runtime", lane::no_runtime),
    ("process-exit-in-a-worker", lane::process_exit_in_a_worker),
    ("run-drains", lane::run_drains),
    ("run-and-a-foreign-task", lane::run_and_a_foreign_task),
    ("lane-hangs", lane::lane_hangs),
    ("lane-hangs-under-run", lane::lane_hangs_under_run),
    ("exit-in-main", exits::exit_in_main),
    ("exit-in-a-thread", exits::exit_in_a_thread),
    ("exit-in-a-foreign-task", exits::exit_in_a_foreign_task),
    ("exit-in-the-body-of-run", exits::exit_in_the_body_of_run),
    ("exit-in-a-task-of-run", exits::exit_in_a_task_of_run),
    ("exit-while-unwinding", exits::exit_while_unwinding),
    ("exit-twice", exits::exit_twice),
    ("exit-task-in-the-body-of-run", exits::exit_task_in_the_body_of_run),
    ("task-panic-stops", worst::task_panic_stops),
    ("forked-child", worst::forked_child),
    ("thread-torn-down", worst::thread_torn_down),
    ("after-main", worst::after_main),
    ("cleanups-panic-under-run", worst::cleanups_panic_under_run),
    ("two-threads-exit", exits::two_threads_exit),
    ("exit-in-a-cleanup-of-an-exit", exits::exit_in_a_cleanup_of_an_exit),
    ("main-returns-while-a-thread-exits", exits::main_returns_while_a_thread_exits),
    ("process-exit-in-a-task-under-run", lane::process_exit_in_a_task_under_run),
    ("process-exit-on-the-lane", lane::process_exit_on_the_lane),
    ("run-dropped-in-its-stop", worst::run_dropped_in_its_stop),
    ("step-cannot-be-printed", worst::step_cannot_be_printed),
    ("payload-cannot-be-printed", worst::payload_cannot_be_printed),
    ("worker-rolls-back", lane::worker_rolls_back),
    ("body-cuts-a-future", lane::body_cuts_a_future),
    ("impossible-grace", worst::impossible_grace),
];

fn main() -> ExitCode {
    // Before the first scope is entered: one that is entered while the list is off is not on it.
    epilogue_scope::record::list_live_scopes(true);
    let wanted = std::env::args().nth(1).unwrap_or_default();
    match WAYS.iter().find(|(name, _)| *name == wanted) {
        Some((_, leave)) => leave(),
        None => {
            WAYS.iter().for_each(|(name, _)| println!("{name}"));
            ExitCode::from(2)
        }
    }
}

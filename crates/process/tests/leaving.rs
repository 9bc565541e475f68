//! Whole programs that leave with something owed: `examples/leaves`, once for each way.

use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Runs the program; what it says on stdout, its status, and its stderr.
fn leave(way: &str) -> (Vec<String>, i32, String) {
    let test = std::env::current_exe().unwrap();
    let program = test.parent().unwrap().with_file_name("examples").join("leaves");
    let began = Instant::now();
    let output = Command::new(program)
        .arg(way)
        .env("EPILOGUE_GRACE", "10s")
        .env_remove("RUST_BACKTRACE")
        .stdin(Stdio::null())
        .output()
        .expect("examples are built with the tests");
    assert!(began.elapsed() < Duration::from_secs(9), "{way} was held: {output:?}");
    told(output)
}

fn told(output: Output) -> (Vec<String>, i32, String) {
    let lines = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    (lines, output.status.code().unwrap_or(-1), stderr)
}

#[track_caller]
fn leaves(way: &str, expected: &[&str], code: i32) -> String {
    let (lines, status, stderr) = leave(way);
    assert_eq!(
        (lines.as_slice(), status),
        (expected.iter().map(ToString::to_string).collect::<Vec<_>>().as_slice(), code),
        "{stderr}"
    );
    stderr
}

const ASYNC: [&str; 2] = ["async first", "async last, Cancelled"];

#[test]
fn main_that_returns_waits_for_the_lane() {
    leaves("main-returns", &ASYNC, 0);
}

#[test]
fn a_dropped_runtime_loses_nothing() {
    leaves("runtime-dropped", &ASYNC, 0);
}

#[test]
fn a_runtime_shut_down_in_the_background_loses_nothing() {
    leaves("shutdown-background", &ASYNC, 6);
}

#[test]
fn a_cleanup_begun_on_a_dying_runtime_is_reported_and_the_next_one_runs() {
    let stderr = leaves("begun-on-a-dying-runtime", &["the next one"], 0);
    assert!(stderr.contains("epilogue: cleanup at"), "{stderr}");
}

#[test]
fn without_any_runtime_nothing_is_lost() {
    leaves("no-runtime", &ASYNC, 0);
}

#[test]
fn a_foreign_process_exit_waits_for_the_lane_and_keeps_its_code() {
    leaves("process-exit-in-a-worker", &ASYNC, 3);
}

#[test]
fn run_drains_the_lane_before_it_returns() {
    leaves("run-drains", &["part", ASYNC[0], ASYNC[1], "run returned"], 0);
}

#[test]
fn a_task_that_run_knows_nothing_of_is_paid_for_after_it() {
    leaves("run-and-a-foreign-task", &["run returned", ASYNC[0], ASYNC[1]], 0);
}

#[test]
fn a_lane_that_hangs_cannot_hold_the_exit_and_is_named() {
    let stderr = leaves("lane-hangs", &[], 0);
    assert!(stderr.contains("not begun: ") && stderr.contains("leaves/lane.rs:"), "{stderr}");
}

#[test]
fn a_lane_that_hangs_under_run_is_abandoned_and_the_status_says_so() {
    let stderr = leaves("lane-hangs-under-run", &["what runs last has its time"], 124);
    assert!(stderr.contains("cleanups of dropped futures"), "{stderr}");
}

#[test]
fn exit_in_main_pays_its_frames_and_cannot_be_recovered() {
    leaves("exit-in-main", &["guard", "scope TaskExited, recovered false", "first of main"], 3);
}

#[test]
fn exit_in_a_thread_pays_that_thread() {
    leaves("exit-in-a-thread", &["guard of the thread"], 4);
}

#[test]
fn exit_in_a_task_whose_handle_is_kept_pays_it_and_is_not_held() {
    let (lines, code, stderr) = leave("exit-in-a-foreign-task");
    assert_eq!(code, 5, "{stderr}");
    assert_eq!(lines, ["guard of the task", ASYNC[0], ASYNC[1]]);
}

#[test]
fn exit_in_the_body_of_run_pays_body_and_parts() {
    leaves("exit-in-the-body-of-run", &["guard of the body", "part"], 6);
}

#[test]
fn exit_in_a_task_of_run_pays_task_and_parts() {
    leaves("exit-in-a-task-of-run", &["guard of the task", "part"], 7);
}

#[test]
fn exit_while_unwinding_aborts_nothing() {
    let (_, code, stderr) = leave("exit-while-unwinding");
    assert_eq!(code, 8, "{stderr}");
}

#[test]
fn the_first_exit_decides() {
    leaves("exit-twice", &["scope"], 9);
}

#[test]
fn a_body_that_exits_its_task_ends_the_run_in_order() {
    leaves("exit-task-in-the-body-of-run", &["part"], 0);
}

#[test]
fn a_task_panic_under_the_policy_to_stop_pays_everything_and_exits_101() {
    leaves("task-panic-stops", &["scope", "part"], 101);
}

#[test]
fn a_forked_child_pays_its_own_debts_and_not_its_parents() {
    let (lines, code, stderr) = leave("forked-child");
    assert_eq!(code, 0, "{stderr}");
    let twice = ["sync in the child", ASYNC[0], ASYNC[1], "child 0"];
    assert_eq!(lines, [&ASYNC[..], &twice].concat());
}

#[test]
fn on_a_thread_that_is_torn_down_scopes_still_pay() {
    leaves("thread-torn-down", &["guard in a destructor of the thread", "recovered late", "caught true"], 0);
}

#[test]
fn in_an_exit_handler_scopes_and_lane_still_pay() {
    leaves(
        "after-main",
        &["scope in an exit handler", "guard in an exit handler", ASYNC[0], ASYNC[1], "paid true"],
        0,
    );
}

#[test]
fn a_chain_under_run_is_printed_without_forced_backtraces() {
    let stderr = leaves("cleanups-panic-under-run", &[], 101);
    assert!(stderr.contains("panic: first\n\tpanic: second\n\tpanic: third\n"), "{stderr}");
    assert!(!stderr.contains("stack backtrace"), "{stderr}");
}

#[test]
fn a_second_exit_does_not_cut_the_cleanups_of_the_first() {
    leaves("two-threads-exit", &["the other one's", "the first one's cleanup"], 3);
    leaves("exit-in-a-cleanup-of-an-exit", &["outermost"], 3);
}

#[test]
fn main_that_returns_waits_for_a_thread_that_exits() {
    leaves("main-returns-while-a-thread-exits", &["its cleanup"], 3);
}

#[test]
fn a_foreign_exit_on_a_worker_under_run_strands_nothing_on_it() {
    let (mut lines, code, stderr) = leave("process-exit-in-a-task-under-run");
    lines.sort();
    assert_eq!((lines, code), (vec![ASYNC[0].into(), ASYNC[1].into(), "part".into()], 3), "{stderr}");
}

#[test]
fn a_cleanup_on_the_lane_that_calls_exit_does_not_wait_for_itself() {
    leaves("process-exit-on-the-lane", &ASYNC, 3);
}

#[test]
fn a_run_that_is_dropped_in_its_stop_leaves_the_rest_to_the_exit() {
    leaves("run-dropped-in-its-stop", &["database"], 0);
}

#[test]
fn what_cannot_be_printed_does_not_end_the_stop() {
    leaves("step-cannot-be-printed", &["database"], 123);
    leaves("payload-cannot-be-printed", &["database"], 101);
}

#[test]
fn what_a_cancelled_task_owes_is_paid_before_what_it_uses_is_closed() {
    leaves("worker-rolls-back", &["the worker rolls back", "the pool closes"], 0);
    leaves("body-cuts-a-future", &["the job rolls back", "the pool closes"], 0);
}

#[test]
fn a_grace_beyond_any_clock_is_as_good_as_ten_years() {
    leaves("impossible-grace", &["part"], 0);
}

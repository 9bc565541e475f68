//! `prove` itself, ended while it works: it must stop as it preaches.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Scratch, marked, signal, turn};

/// Starts a proof and waits until its first target is up: its lock file is there.
fn started(scratch: &Scratch) -> (Child, Vec<i32>) {
    let mut child = scratch
        .epilogue(&["prove", "-t", "TERM"])
        .env("EPILOGUE_E2E", scratch.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mark = scratch.path().to_str().unwrap();
    let began = Instant::now();
    // The command has started two services; each its log shipper, and one of them its guardian.
    while !all_up(&marked("EPILOGUE_E2E", mark)) {
        assert!(began.elapsed() < Duration::from_secs(20), "the services did not come up");
        assert!(child.try_wait().unwrap().is_none(), "ended early");
        std::thread::yield_now();
    }
    (child, marked("EPILOGUE_E2E", mark))
}

fn all_up(pids: &[i32]) -> bool {
    let name = |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let called = |wanted: &str| pids.iter().filter(|pid| name(pid).trim() == wanted).count();
    // A guardian is the program by the name that the kernel has for it.
    called("tail") == 2 && called("exe") == 1
}

fn stderr_of(child: &mut Child) -> String {
    let stderr = BufReader::new(child.stderr.take().unwrap());
    stderr.lines().map_while(Result::ok).collect::<Vec<_>>().join("\n")
}

#[test]
fn ctrl_c_ends_everything_that_was_started_and_exits_130() {
    for number in [libc::SIGINT, libc::SIGTERM] {
        let _turn = turn();
        let scratch = Scratch::new("ctrl-c");
        let (mut child, _) = started(&scratch);
        signal(&child, number);
        let stderr = stderr_of(&mut child);
        assert_eq!(child.wait().unwrap().code(), Some(130), "{stderr}");
        assert!(stderr.contains("interrupted; everything that was started has been ended"), "{stderr}");
        assert_eq!(marked("EPILOGUE_E2E", scratch.path().to_str().unwrap()), Vec::<i32>::new());
        assert_eq!(scratch.runs(), Vec::<std::path::PathBuf>::new());
    }
}

#[test]
fn killed_in_mid_run_the_next_start_finds_what_was_left_says_so_and_cleans_up() {
    let _turn = turn();
    let scratch = Scratch::new("killed");
    let (mut child, _) = started(&scratch);
    signal(&child, libc::SIGKILL);
    child.wait().unwrap();
    let mark = scratch.path().to_str().unwrap().to_owned();
    let left = marked("EPILOGUE_E2E", &mark);
    assert!(left.len() == 5 && all_up(&left), "SIGKILL leaves them behind: {left:?}");
    assert_eq!(scratch.runs().len(), 1);

    let output = scratch.epilogue(&["prove", "-t", "TERM", "--", "./no-such-server"]).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("cleaned up after a run that was killed: ended pid "), "{stderr}");
    assert_eq!(marked("EPILOGUE_E2E", &mark), Vec::<i32>::new());
    assert_eq!(scratch.runs(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn a_run_that_is_alive_is_left_alone_by_another() {
    let _turn = turn();
    let scratch = Scratch::new("beside");
    let (mut child, before) = started(&scratch);
    let output = scratch.epilogue(&["prove", "-t", "TERM", "--", "./no-such-server"]).output().unwrap();
    assert!(!String::from_utf8_lossy(&output.stderr).contains("cleaned up"));
    let now = marked("EPILOGUE_E2E", scratch.path().to_str().unwrap());
    assert!(before.iter().all(|pid| now.contains(pid)), "{before:?} {now:?}");
    signal(&child, libc::SIGINT);
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

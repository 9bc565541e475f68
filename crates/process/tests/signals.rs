//! Whole programs, real signals. Each test starts this very test binary again as the program that
//! `program` names, and ends it from outside.

mod rig;

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use epilogue_process::{App, Error, Options, Started, part, run_with};
use rig::{FILE, PROGRAM, Running, a_person_waits, signal, start, start_as};

/// Not a test: the programs. Without the variable there is nothing to do.
#[test]
fn program() {
    let Ok(name) = std::env::var(PROGRAM) else { return };
    let mut builder = match name.ends_with("current-thread") {
        true => tokio::runtime::Builder::new_current_thread(),
        false => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = builder.worker_threads(2).enable_all().build().unwrap();
    let code = runtime.block_on(async {
        let (_, report) = run_with(Options::default(), async |app: &App| body(app, &name).await).await;
        i32::from(report.code)
    });
    if name == "lingers" {
        println!("run returned");
        let _ = block();
    }
    drop(runtime);
    std::process::exit(code);
}

async fn body(app: &App, name: &str) -> Result<(), Error> {
    let file = PathBuf::from(std::env::var_os(FILE).unwrap_or_default());
    std::fs::write(&file, "owed")?;
    app.defer("file", async move || Ok(std::fs::remove_file(file)?));
    match name {
        "hangs" => {
            app.start(part("never ends", async || {
                Ok(Started::new((), async |_| std::future::pending().await))
            }))
            .await?;
        }
        "blocks-current-thread" => {
            app.start(part("blocks", async || Ok(Started::new((), async |_| block())))).await?;
        }
        "starts" => {
            let starts = part("database", async || {
                println!("ready");
                std::future::pending::<Result<Started<()>, Error>>().await
            });
            app.start(starts).await?;
        }
        "unknown-thread" => drop(tokio::task::spawn_blocking(block)),
        "fails" => drop(app.defer("fails", async || Err(Error::msg("disk on fire")))),
        _ => {}
    }
    println!("ready");
    match name {
        "exits" | "exits-current-thread" => {
            tokio::spawn(async { std::process::exit(7) });
        }
        "blocks-in-body" | "blocks-in-body-current-thread" => block()?,
        "body-exits" => std::process::exit(2),
        "forks" => {
            fork_and_exit();
            println!("child gone");
        }
        _ => {}
    }
    app.stopping().await;
    Ok(())
}

fn block() -> Result<(), Error> {
    loop {
        std::thread::park();
    }
}

fn fork_and_exit() {
    // SAFETY: the child calls exit at once. Exit handlers run in it, which is what is tested.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            libc::exit(0);
        }
        let mut status = 0;
        libc::waitpid(child, &raw mut status, 0);
    }
}

#[test]
fn every_stop_signal_runs_what_is_owed_and_exits_0() {
    for (number, name) in [
        (libc::SIGINT, "SIGINT"),
        (libc::SIGTERM, "SIGTERM"),
        (libc::SIGQUIT, "SIGQUIT"),
        (libc::SIGHUP, "SIGHUP"),
    ] {
        let program = start("serves");
        let file = program.file.clone();
        assert!(file.exists());
        program.signal(number);
        let (status, _, said) = program.end();
        assert_eq!(status.code(), Some(0), "{said}");
        let told = format!("because {name} from pid {}", std::process::id());
        assert!(said.contains(&format!("stopping {told}; at most 28.0s (grace: the default)")), "{said}");
        assert!(said.contains(&format!("{told}; exit 0")), "{said}");
        assert!(!file.exists());
    }
}

#[test]
fn a_burst_of_a_thousand_is_one() {
    let program = start("serves");
    for _ in 0..1000 {
        program.signal(libc::SIGINT);
    }
    let (status, _, said) = program.end();
    assert_eq!(status.code(), Some(0), "{said}");
}

#[test]
fn an_echo_of_ctrl_c_does_not_kill_a_program_that_has_just_stopped_but_a_later_one_does() {
    let mut program = start("lingers");
    program.signal(libc::SIGINT);
    program.wait_for("run returned");
    program.signal(libc::SIGINT);
    a_person_waits();
    assert!(program.child.try_wait().unwrap().is_none(), "the echo killed it");
    program.signal(libc::SIGINT);
    assert_eq!(program.end().0.signal(), Some(libc::SIGINT));
}

#[test]
fn the_third_impatient_signal_kills_by_that_signal_and_says_what_is_abandoned() {
    let program = start("hangs");
    let file = program.file.clone();
    program.signal(libc::SIGINT);
    a_person_waits();
    program.signal(libc::SIGINT);
    a_person_waits();
    program.signal(libc::SIGINT);
    let (status, _, said) = program.end();
    assert_eq!(status.signal(), Some(libc::SIGINT), "{status} {said}");
    assert!(said.contains("told to die; abandoned:\n  never ends\n  file ("), "{said}");
    std::fs::remove_file(file).unwrap();
}

#[test]
fn a_hurry_cuts_a_hanging_step_after_a_second_and_the_rest_still_runs() {
    let program = start("hangs");
    let file = program.file.clone();
    program.signal(libc::SIGTERM);
    a_person_waits();
    program.signal(libc::SIGINT);
    let (status, took, said) = program.end();
    assert_eq!(status.code(), Some(124), "{said}");
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(said.contains("abandoned: never ends ("), "{said}");
    assert!(said.contains("hurries because of SIGINT: requests have 2 s"), "{said}");
    assert!(said.contains(", in a hurry, because SIGTERM"), "{said}");
    assert!(!file.exists());
}

#[test]
fn a_signal_that_was_ignored_at_the_start_stays_ignored() {
    let shell = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh"];
    let program = start_as("serves", &shell, &[]);
    program.signal(libc::SIGINT);
    a_person_waits();
    program.signal(libc::SIGTERM);
    let (status, _, said) = program.end();
    assert_eq!(status.code(), Some(0));
    assert!(said.contains("because SIGTERM"), "the SIGINT was not seen: {said}");
}

#[test]
fn a_blocking_thread_that_run_knows_nothing_of_cannot_hold_the_exit() {
    let program = start_as("unknown-thread", &[], &[("EPILOGUE_GRACE", "2s")]);
    let file = program.file.clone();
    program.signal(libc::SIGTERM);
    let (status, took, said) = program.end();
    assert_eq!(status.code(), Some(124), "{said}");
    assert!(took < Duration::from_secs(2), "gone before the platform kills: {took:?}");
    assert!(said.contains("held by the runtime (a blocking thread?)"), "{said}");
    assert!(!file.exists());
}

#[test]
fn a_stop_that_blocks_the_only_thread_is_left_behind_in_time() {
    let program = start_as("blocks-current-thread", &[], &[("EPILOGUE_GRACE", "2s")]);
    let file = program.file.clone();
    program.signal(libc::SIGTERM);
    let (status, took, said) = program.end();
    assert_eq!(status.code(), Some(124), "{said}");
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert!(said.contains("held by blocks"), "{said}");
    std::fs::remove_file(file).unwrap();
}

#[test]
fn process_exit_runs_what_is_owed_and_keeps_its_code() {
    for (name, code) in [("exits", 7), ("exits-current-thread", 7), ("body-exits", 2)] {
        let program = start(name);
        let file = program.file.clone();
        let (status, took, said) = program.end();
        assert_eq!(status.code(), Some(code), "{name}: {said}");
        assert!(!file.exists(), "{name}: {said}");
        assert!(said.contains("because process::exit was called; exit as called"), "{name}: {said}");
        assert!(took < Duration::from_secs(3), "{name}: {took:?}");
    }
}

#[test]
fn a_body_that_blocks_its_thread_cannot_keep_the_rest_from_running() {
    for name in ["blocks-in-body", "blocks-in-body-current-thread"] {
        let program = start_as(name, &[], &[("EPILOGUE_GRACE", "2s")]);
        let file = program.file.clone();
        program.signal(libc::SIGTERM);
        let (status, took, said) = program.end();
        assert_eq!(status.code(), Some(124), "{name}: {said}");
        assert!(took < Duration::from_secs(2), "{name}: {took:?}");
        assert!(said.contains("abandoned: the body was still running at its limit"), "{name}: {said}");
        assert!(!file.exists(), "{name}: {said}");
    }
}

#[test]
fn a_closed_stderr_keeps_nothing_from_running() {
    for name in ["fails", "unknown-thread"] {
        let mut program = start_as(name, &[], &[("EPILOGUE_GRACE", "2s")]);
        drop(program.child.stderr.take());
        let file = program.file.clone();
        program.signal(libc::SIGTERM);
        let began = Instant::now();
        let status = program.child.wait().unwrap();
        assert!(matches!(status.code(), Some(123 | 124)), "{name}: {status}");
        assert!(began.elapsed() < Duration::from_secs(2));
        assert!(!file.exists(), "{name}");
    }
}

#[test]
fn a_forked_child_that_exits_does_not_pay_its_parents_debts() {
    let mut program = start("forks");
    program.wait_for("child gone");
    assert!(program.file.exists());
    program.signal(libc::SIGTERM);
    let file = program.file.clone();
    assert_eq!(program.end().0.code(), Some(0));
    assert!(!file.exists());
}

#[test]
fn a_cleanup_that_fails_is_said_in_the_exit_status() {
    let program = start("fails");
    program.signal(libc::SIGTERM);
    let (status, _, said) = program.end();
    assert_eq!(status.code(), Some(123), "{said}");
    assert!(said.contains("FAILED: disk on fire"), "{said}");
}

#[test]
fn a_grace_that_is_no_duration_is_named_and_not_guessed() {
    let program = start_as("serves", &[], &[("EPILOGUE_GRACE", "soon")]);
    program.signal(libc::SIGTERM);
    let (status, _, said) = program.end();
    assert_eq!(status.code(), Some(0));
    assert!(said.contains("EPILOGUE_GRACE: \"soon\" is not a duration"), "{said}");
    assert!(said.contains("it is left aside, the grace is 30.0s (the default)"), "{said}");
    assert!(said.contains("at most 28.0s (grace: the default)"), "{said}");
}

#[test]
fn the_exit_report_is_written_where_the_environment_says() {
    let path = std::env::temp_dir().join(format!("epilogue-exit-{}.json", std::process::id()));
    let program = start_as("serves", &[], &[("EPILOGUE_REPORT", path.to_str().unwrap())]);
    program.signal(libc::SIGTERM);
    program.end();
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    std::fs::remove_file(path).unwrap();
    assert_eq!(report["trigger"]["name"], "SIGTERM");
    assert_eq!(report["steps"][0]["name"], "file");
}

mod as_pid_1 {
    use super::*;

    /// In a PID namespace of its own, for which an ordinary user needs one for users as well.
    const UNSHARE: [&str; 5] = ["unshare", "--user", "--map-root-user", "--pid", "--fork"];

    /// The program is the child of `unshare`; its pid as seen from here.
    fn inside(program: &Running) -> u32 {
        let children = format!("/proc/{0}/task/{0}/children", program.child.id());
        std::fs::read_to_string(children).unwrap().trim().parse().unwrap()
    }

    fn allowed() -> bool {
        let tried = Command::new(UNSHARE[0]).args(&UNSHARE[1..]).arg("true").output();
        let allowed = tried.is_ok_and(|output| output.status.success());
        if !allowed {
            eprintln!("skipped: this machine allows no user namespace");
        }
        allowed
    }

    #[test]
    fn term_stops_in_order() {
        if !allowed() {
            return;
        }
        let program = start_as("serves", &UNSHARE, &[]);
        let file = program.file.clone();
        signal(inside(&program), libc::SIGTERM);
        let (status, _, said) = program.end();
        assert_eq!(status.code(), Some(0), "{said}");
        assert!(!file.exists());
    }

    #[test]
    fn it_leaves_by_128_plus_n_where_it_cannot_die_of_the_signal() {
        if !allowed() {
            return;
        }
        let program = start_as("hangs", &UNSHARE, &[]);
        let file = program.file.clone();
        let pid = inside(&program);
        for _ in 0..3 {
            signal(pid, libc::SIGINT);
            a_person_waits();
        }
        let (status, _, said) = program.end();
        assert_eq!(status.code(), Some(130), "{status} {said}");
        std::fs::remove_file(file).unwrap();
    }
}

#[test]
fn sigterm_in_the_middle_of_a_start_leaves_in_time_and_names_it() {
    let running = start("starts");
    running.signal(libc::SIGTERM);
    let file = running.file.clone();
    let (status, took, said) = running.end();
    assert_eq!(status.code(), Some(124), "{said}");
    assert!(said.contains("abandoned: the start of database (crates/process/tests/signals.rs:"), "{said}");
    assert!(took < Duration::from_secs(8), "{took:?}");
    assert!(!file.exists(), "what had started was stopped");
}

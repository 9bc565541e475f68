//! What signals ask for beside the stop: what a program is at, a reload; and the ways to end by one.

mod rig;

use std::os::unix::process::ExitStatusExt;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use epilogue_process::{App, Error, ExitStyle, Options, Started, main_with, part, run_with};
use epilogue_scope::guard;
use epilogue_task::async_scope;
use rig::{PROGRAM, a_person_waits, signal, start, start_as};

/// Not a test: the programs. Without the variable there is nothing to do.
#[test]
fn program() {
    let Ok(name) = std::env::var(PROGRAM) else { return };
    let style = if name.starts_with("tool") { ExitStyle::Tool } else { ExitStyle::Service };
    if name == "slow-start" {
        // Before there is a runtime, and after `main` has begun to hear: a name that nobody else has.
        println!("ready");
    }
    let code = main_with(Options::default().exit_style(style), async |app: &App| body(app, &name).await);
    std::process::exit(i32::from(code != ExitCode::SUCCESS));
}

async fn body(app: &App, name: &str) -> Result<(), Error> {
    app.start(part("queue", async || {
        let started = Started::new((), async |_| Ok(()));
        Ok(started.status(|| vec!["holds message 17".into()]))
    }))
    .await?;
    match name {
        "reloads" => reloads(app),
        "tool-fails" => drop(app.defer("fails", async || Err(Error::msg("disk on fire")))),
        "scopes" => app.spawn("worker", async {
            async_scope(async |s| {
                s.defer(async |_| ());
                println!("ready");
                std::future::pending::<()>().await;
            })
            .await;
        }),
        "reload-hangs" => app.on_reload("for ever", || {
            println!("reloads");
            std::future::pending()
        }),
        "status-hangs" => {
            app.start(part("stuck", async || {
                Ok(Started::new((), async |_| Ok(())).status(|| {
                    loop {
                        std::thread::park();
                    }
                }))
            }))
            .await?;
        }
        "hangs" => {
            app.start(part("never ends", async || {
                let started = Started::new((), async |_| std::future::pending().await);
                Ok(started.status(|| vec!["lent to GET /slow".into()]))
            }))
            .await?;
        }
        _ => {}
    }
    if name != "scopes" {
        println!("ready");
    }
    app.stopping().await;
    Ok(())
}

/// The second one fails the first time, and panics the second.
fn reloads(app: &App) {
    let turns = Arc::new(AtomicU32::new(0));
    let counts = turns.clone();
    app.on_reload("limits", move || {
        counts.fetch_add(1, Ordering::Relaxed);
        async { Ok(()) }
    });
    app.on_reload("certificates", move || match turns.load(Ordering::Relaxed) {
        2 => std::panic::resume_unwind(Box::new("no such key")),
        turn => async move { if turn == 1 { Err(Error::msg("expired")) } else { Ok(()) } },
    });
}

/// What fails beside the steps is counted for the whole process: here no other test asks for it.
#[tokio::test]
async fn what_a_status_holds_may_panic_when_it_is_dropped_and_spoils_no_other_step() {
    let (_, report) = run_with(Options::embedded(), async |app: &App| {
        app.defer("oldest", async || Ok(()));
        for name in ["older", "newer"] {
            app.start(part(name, async || {
                let holds = guard((), |()| std::panic::resume_unwind(Box::new("held")));
                let status = move || vec![format!("{:?}", *holds)];
                Ok(Started::new((), async |_| Ok(())).status(status))
            }))
            .await?;
        }
        Ok(())
    })
    .await;
    let outcomes: Vec<_> =
        report.steps.iter().map(|step| (step.name.as_str(), step.outcome.to_string())).collect();
    let ok = || "ok".to_owned();
    assert_eq!(outcomes, [("newer", ok()), ("older", ok()), ("oldest", ok())], "{report}");
    assert_eq!((report.cleanup_failures, report.code), (2, 123), "{report}");
}

#[test]
fn usr1_tells_what_is_owed_and_busy_and_stops_nothing() {
    let mut program = start("plain");
    program.signal(libc::SIGUSR1);
    let said = program.wait_to_hear("ask again, or start with EPILOGUE_SCOPES=1");
    let pid = std::process::id();
    assert!(said.contains(&format!("asked by SIGUSR1 from pid {pid}: running")), "{said}");
    assert!(said.contains("newest first:\n    queue (crates/process/tests/asked.rs:"), "{said}");
    assert!(said.contains("\n      holds message 17\n"), "{said}");
    assert!(said.contains("on the lane: none"), "{said}");
    program.signal(libc::SIGUSR1);
    let said = program.wait_to_hear("scopes that are alive: none");
    assert!(!said.contains("ask again"), "{said}");
    program.signal(libc::SIGTERM);
    assert_eq!(program.end().0.code(), Some(0));
}

#[test]
fn scopes_are_listed_from_the_start_where_that_is_asked_for() {
    let mut program = start_as("scopes", &[], &[("EPILOGUE_SCOPES", "1")]);
    program.signal(libc::SIGUSR1);
    let said = program.wait_to_hear("owes crates/process/tests/asked.rs:");
    assert!(said.contains("    worker in asked::body ("), "{said}");
    program.signal(libc::SIGTERM);
    assert_eq!(program.end().0.code(), Some(0));
}

#[test]
fn quit_tells_the_same_and_then_stops() {
    let program = start("plain");
    program.signal(libc::SIGQUIT);
    let (status, _, said) = program.end();
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(said.contains("asked by SIGQUIT") && said.contains("because SIGQUIT from pid"), "{said}");
}

#[test]
fn asked_in_the_middle_of_a_stop_it_tells_what_holds_it_and_so_does_the_report() {
    let mut program = start_as("hangs", &[], &[("EPILOGUE_GRACE", "2s")]);
    program.signal(libc::SIGTERM);
    program.wait_to_hear("stopping because SIGTERM");
    let said = loop {
        program.signal(libc::SIGUSR1);
        let said = program.wait_to_hear("owed by the program");
        if said.contains("now never ends") {
            break said;
        }
    };
    assert!(said.contains("what that is busy with:\n    lent to GET /slow\n"), "{said}");
    let (status, _, said) = program.end();
    assert_eq!(status.code(), Some(124), "{said}");
    assert!(said.contains("abandoned: never ends: lent to GET /slow"), "{said}");
}

#[test]
fn hup_reloads_where_there_is_something_to_reload_and_what_fails_stops_nothing() {
    let mut program = start("reloads");
    program.signal(libc::SIGHUP);
    let said = program.wait_to_hear("the program goes on as it was");
    assert!(
        said.contains("1 of 2 reload hooks failed: certificates (crates/process/tests/asked.rs:"),
        "{said}"
    );
    assert!(said.contains("): expired;"), "{said}");
    program.signal(libc::SIGHUP);
    assert!(program.wait_to_hear("goes on as it was").contains("): panicked: no such key;"));
    program.signal(libc::SIGHUP);
    program.wait_to_hear("epilogue: reloaded");
    program.signal(libc::SIGTERM);
    let (status, _, said) = program.end();
    assert_eq!(status.code(), Some(0), "{said}");
}

#[test]
fn a_reload_that_hangs_is_cut_and_everything_is_stopped_in_time() {
    let mut program = start_as("reload-hangs", &[], &[("EPILOGUE_GRACE", "2s")]);
    program.signal(libc::SIGHUP);
    program.wait_for("reloads");
    program.signal(libc::SIGTERM);
    let (status, _, said) = program.end();
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(said.contains("queue") && said.contains("ok"), "{said}");
}

#[test]
fn a_part_that_cannot_tell_what_it_is_busy_with_keeps_no_signal_waiting() {
    let program = start("status-hangs");
    program.signal(libc::SIGUSR1);
    program.signal(libc::SIGQUIT);
    let (status, _, said) = program.end();
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(said.contains("because SIGQUIT"), "{said}");
}

#[test]
fn a_hup_while_it_stops_is_no_reload() {
    let mut program = start_as("hangs", &[], &[("EPILOGUE_GRACE", "2s")]);
    program.signal(libc::SIGTERM);
    program.wait_to_hear("stopping because SIGTERM");
    a_person_waits();
    program.signal(libc::SIGHUP);
    let (status, _, said) = program.end();
    assert_eq!(status.code(), Some(124));
    assert!(!said.contains("reloaded"), "{said}");
}

#[test]
fn a_tool_dies_of_the_signal_that_has_stopped_it_once_everything_has_run() {
    for number in [libc::SIGINT, libc::SIGTERM] {
        let program = start("tool");
        program.signal(number);
        let (status, _, said) = program.end();
        assert_eq!(status.signal(), Some(number), "{said}");
        assert!(said.contains("queue") && said.contains("exit 0"), "{said}");
    }
    let program = start("tool-fails");
    program.signal(libc::SIGINT);
    assert_eq!(program.end().0.code(), Some(1), "not completely: that is the news");
}

#[test]
fn a_term_that_was_ignored_at_the_start_is_said_to_be() {
    let mut program = start_as("plain", &["sh", "-c", "trap '' TERM; exec \"$@\"", "sh"], &[]);
    program.wait_to_hear("SIGTERM was ignored when this program began, and stays so");
    program.signal(libc::SIGTERM);
    program.signal(libc::SIGINT);
    let (status, _, said) = program.end();
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(said.contains("because SIGINT"), "{said}");
}

#[test]
fn a_signal_in_the_first_moments_stops_a_program_that_has_not_begun() {
    let program = start("slow-start");
    // From "ready" on, which is before there is a runtime: now and then it is early enough to kill.
    let pid = program.child.id();
    let heard = || std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    while !heard().lines().any(|line| line.starts_with("SigCgt:") && handles(line, libc::SIGTERM)) {
        std::thread::yield_now();
    }
    signal(pid, libc::SIGTERM);
    let (status, _, said) = program.end();
    assert_eq!(status.code(), Some(0), "{said}");
}

/// Whether a line of proc(5) has this signal in its mask.
fn handles(line: &str, number: i32) -> bool {
    let mask = line.split_whitespace().nth(1).and_then(|mask| u64::from_str_radix(mask, 16).ok());
    mask.is_some_and(|mask| mask & 1 << (number - 1) != 0)
}

//! Worst moments.

use std::cell::RefCell;
use std::future::pending;
use std::process::ExitCode;
use std::time::Duration;

use epilogue_process::{App, run};
use epilogue_scope::{Guard, defer, guard, scope};
use epilogue_task::{async_scope, lane};

use crate::lane::no_runtime;
use crate::support::{current_thread, say, workers};

pub(crate) fn task_panic_stops() -> ExitCode {
    workers().block_on(run(async |app: &App| {
        app.defer("part", async || {
            say("part");
            Ok(())
        });
        async_scope(async |s| {
            s.defer(async |_| say("scope"));
            let policy = epilogue_process::TaskPanic::Stop;
            let _ = s.spawn_with("fatal", policy, async { panic!("boom") }).await;
        })
        .await;
        app.stopping().await;
        Ok(())
    }))
}

pub(crate) fn forked_child() -> ExitCode {
    // The parent has a lane, with its thread, before it forks.
    no_runtime();
    assert!(lane::wait(Duration::from_secs(10)));
    // SAFETY: the parent only waits. The child has one thread, and allocates: glibc sees to that.
    unsafe {
        match libc::fork() {
            0 => {
                scope(|s| s.defer(|| say("sync in the child")));
                no_runtime();
                assert!(lane::wait(Duration::from_secs(10)));
                libc::exit(0)
            }
            child => {
                let mut status = 0;
                libc::waitpid(child, &raw mut status, 0);
                say(&format!("child {status}"));
            }
        }
    }
    ExitCode::SUCCESS
}

struct Late;

impl Drop for Late {
    fn drop(&mut self) {
        let value = scope(|s| {
            s.defer_with(|end| end.recover_with(|panic| epilogue_scope::describe(&*panic)));
            defer!(say("guard in a destructor of the thread"));
            std::panic::resume_unwind(Box::new("late"))
        });
        say(&format!("recovered {value}"));
        // The chain's own lists may be gone by now.
        let caught = epilogue_scope::catch(|| {
            defer!(std::panic::resume_unwind(Box::new("two")));
            std::panic::resume_unwind(Box::new("one"))
        });
        say(&format!("caught {}", caught.is_err()));
    }
}

thread_local!(static LATE: RefCell<Option<Late>> = const { RefCell::new(None) });

pub(crate) fn thread_torn_down() -> ExitCode {
    let thread = std::thread::spawn(|| {
        LATE.with(|late| late.replace(Some(Late)));
        // Used after, so torn down before.
        let _ = epilogue_scope::catch(|| {
            defer!(std::panic::resume_unwind(Box::new("two")));
            std::panic::resume_unwind(Box::new("one"))
        });
    });
    let _ = thread.join();
    ExitCode::SUCCESS
}

extern "C" fn handler() {
    scope(|s| s.defer(|| say("scope in an exit handler")));
    let held: Guard<_, _, ()> = guard((), |()| say("guard in an exit handler"));
    drop(held);
    no_runtime();
    let paid = lane::wait(Duration::from_secs(10));
    say(&format!("paid {paid}"));
}

pub(crate) fn after_main() -> ExitCode {
    // SAFETY: the handler is a function of this program.
    unsafe { libc::atexit(handler) };
    ExitCode::SUCCESS
}

pub(crate) fn cleanups_panic_under_run() -> ExitCode {
    current_thread().block_on(run(async |_: &App| {
        defer!(panic!("third"));
        defer!(panic!("second"));
        panic!("first")
    }))
}

pub(crate) fn run_dropped_in_its_stop() -> ExitCode {
    let runtime = workers();
    runtime.block_on(async {
        let stops = run(async |app: &App| {
            app.defer("database", async || {
                say("database");
                Ok(())
            });
            app.defer("slow", async || pending().await);
            Ok(())
        });
        let _ = tokio::time::timeout(Duration::from_millis(200), stops).await;
    });
    ExitCode::SUCCESS
}

/// An error that will not be printed.
#[derive(Debug)]
struct Sulks;

impl std::fmt::Display for Sulks {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::panic::resume_unwind(Box::new("sulks"))
    }
}

impl std::error::Error for Sulks {}

pub(crate) fn step_cannot_be_printed() -> ExitCode {
    workers().block_on(run(async |app: &App| {
        app.defer("database", async || {
            say("database");
            Ok(())
        });
        app.defer("sulks", async || Err(Sulks.into()));
        Ok(())
    }))
}

pub(crate) fn payload_cannot_be_printed() -> ExitCode {
    workers().block_on(run(async |app: &App| {
        app.defer("database", async || {
            say("database");
            Ok(())
        });
        let error: Box<dyn std::error::Error + Send + Sync> = Box::new(Sulks);
        std::panic::panic_any(error)
    }))
}

pub(crate) fn impossible_grace() -> ExitCode {
    let options = epilogue_process::Options::default().grace(Duration::MAX);
    workers().block_on(async {
        let (code, _) = epilogue_process::run_with(options, async |app: &App| {
            app.defer("part", async || {
                say("part");
                Ok(())
            });
            Ok(())
        })
        .await;
        code
    })
}

//! A program that leaves in the way its first argument names, with something owed. What it pays it
//! says on stdout. `tests/leaving.rs` runs every one of them; `cargo run --example leaves` lists them.

use std::cell::RefCell;
use std::future::{pending, poll_fn};
use std::pin::Pin;
use std::process::ExitCode;
use std::task::Poll;
use std::time::Duration;

use epilogue_process::{App, exit, run};
use epilogue_scope::{Guard, defer, guard, scope};
use epilogue_task::{async_scope, lane};
use tokio::runtime::{Builder, Runtime};

type Way = (&'static str, fn() -> ExitCode);

const WAYS: &[Way] = &[
    ("main-returns", main_returns),
    ("runtime-dropped", runtime_dropped),
    ("shutdown-background", shutdown_background),
    ("begun-on-a-dying-runtime", begun_on_a_dying_runtime),
    ("no-runtime", no_runtime),
    ("process-exit-in-a-worker", process_exit_in_a_worker),
    ("run-drains", run_drains),
    ("run-and-a-foreign-task", run_and_a_foreign_task),
    ("lane-hangs", lane_hangs),
    ("lane-hangs-under-run", lane_hangs_under_run),
    ("exit-in-main", exit_in_main),
    ("exit-in-a-thread", exit_in_a_thread),
    ("exit-in-a-foreign-task", exit_in_a_foreign_task),
    ("exit-in-the-body-of-run", exit_in_the_body_of_run),
    ("exit-in-a-task-of-run", exit_in_a_task_of_run),
    ("exit-while-unwinding", exit_while_unwinding),
    ("exit-twice", exit_twice),
    ("exit-task-in-the-body-of-run", exit_task_in_the_body_of_run),
    ("task-panic-stops", task_panic_stops),
    ("forked-child", forked_child),
    ("thread-torn-down", thread_torn_down),
    ("after-main", after_main),
    ("cleanups-panic-under-run", cleanups_panic_under_run),
    ("two-threads-exit", two_threads_exit),
    ("exit-in-a-cleanup-of-an-exit", exit_in_a_cleanup_of_an_exit),
    ("main-returns-while-a-thread-exits", main_returns_while_a_thread_exits),
    ("process-exit-in-a-task-under-run", process_exit_in_a_task_under_run),
    ("process-exit-on-the-lane", process_exit_on_the_lane),
    ("run-dropped-in-its-stop", run_dropped_in_its_stop),
    ("step-cannot-be-printed", step_cannot_be_printed),
    ("payload-cannot-be-printed", payload_cannot_be_printed),
    ("worker-rolls-back", worker_rolls_back),
    ("impossible-grace", impossible_grace),
];

fn main() -> ExitCode {
    let wanted = std::env::args().nth(1).unwrap_or_default();
    match WAYS.iter().find(|(name, _)| *name == wanted) {
        Some((_, leave)) => leave(),
        None => {
            WAYS.iter().for_each(|(name, _)| println!("{name}"));
            ExitCode::from(2)
        }
    }
}

fn current_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn workers() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

fn say(what: &str) {
    println!("{what}");
}

/// Owes two async cleanups that take their time, and never ends.
async fn owing() {
    async_scope(async |s| {
        s.defer(async |how| say(&format!("async last, {how:?}")));
        s.defer(async |_| {
            tokio::time::sleep(Duration::from_millis(30)).await;
            say("async first");
        });
        pending::<()>().await;
    })
    .await;
}

/// Polls a future once.
async fn once(mut future: Pin<Box<impl Future<Output = ()>>>) {
    poll_fn(|cx| {
        let _ = future.as_mut().poll(cx);
        Poll::Ready(())
    })
    .await;
}

fn main_returns() -> ExitCode {
    current_thread().block_on(once(Box::pin(owing())));
    ExitCode::SUCCESS
}

fn runtime_dropped() -> ExitCode {
    let runtime = workers();
    runtime.block_on(async {
        tokio::spawn(owing());
        while lane_scopes() == 0 {
            tokio::task::yield_now().await;
        }
    });
    drop(runtime);
    ExitCode::SUCCESS
}

/// How many scopes hold something: seen from outside.
fn lane_scopes() -> usize {
    epilogue_scope::record::list_live_scopes(true);
    epilogue_scope::record::live_scopes().iter().filter(|scope| scope.pending.len() == 2).count()
}

fn shutdown_background() -> ExitCode {
    epilogue_scope::record::list_live_scopes(true);
    let runtime = workers();
    runtime.block_on(async {
        tokio::spawn(owing());
        while lane_scopes() == 0 {
            tokio::task::yield_now().await;
        }
    });
    runtime.shutdown_background();
    ExitCode::from(6)
}

fn begun_on_a_dying_runtime() -> ExitCode {
    let runtime = workers();
    runtime.block_on(async {
        let (begun, has_begun) = tokio::sync::oneshot::channel();
        tokio::spawn(async_scope(async move |s| {
            s.defer(async |_| say("the next one"));
            s.defer(async move |_| {
                let _ = begun.send(());
                tokio::time::sleep(Duration::from_millis(200)).await;
                say("unlikely");
            });
        }));
        let _ = has_begun.await;
    });
    drop(runtime);
    ExitCode::SUCCESS
}

fn no_runtime() -> ExitCode {
    let mut future = Box::pin(owing());
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(future.as_mut().poll(&mut cx).is_pending());
    drop(future);
    ExitCode::SUCCESS
}

fn process_exit_in_a_worker() -> ExitCode {
    workers().block_on(async {
        once(Box::pin(owing())).await;
        let _ = tokio::spawn(async { std::process::exit(3) }).await;
    });
    ExitCode::SUCCESS
}

fn run_drains() -> ExitCode {
    let code = current_thread().block_on(run(async |app: &App| {
        app.defer("part", async || {
            say("part");
            Ok(())
        });
        tokio::spawn(async {
            once(Box::pin(owing())).await;
            pending::<()>().await;
        });
        tokio::task::yield_now().await;
        Ok(())
    }));
    say("run returned");
    code
}

fn run_and_a_foreign_task() -> ExitCode {
    let runtime = workers();
    let code = runtime.block_on(run(async |_: &App| {
        tokio::spawn(owing());
        while lane_scopes() == 0 {
            tokio::task::yield_now().await;
        }
        Ok(())
    }));
    say("run returned");
    drop(runtime);
    code
}

fn lane_hangs() -> ExitCode {
    lane::set_exit_limit(Duration::from_millis(100));
    current_thread().block_on(once(Box::pin(async_scope(async |s| {
        s.defer(async |_| say("not begun"));
        s.defer(async |_| pending::<()>().await);
        pending().await
    }))));
    ExitCode::SUCCESS
}

fn lane_hangs_under_run() -> ExitCode {
    let options = epilogue_process::Options::default().grace(Duration::from_secs(1));
    let (code, _) = current_thread().block_on(epilogue_process::run_with(options, async |_: &App| {
        once(Box::pin(async_scope(async |s| {
            s.defer(async |_| pending::<()>().await);
            pending().await
        })))
        .await;
        Ok(())
    }));
    code
}

fn exit_in_main() -> ExitCode {
    defer!(say("first of main"));
    scope(|s| {
        s.defer_with(|end| say(&format!("scope {:?}, recovered {}", end.how(), end.recover().is_some())));
        defer!(say("guard"));
        exit(3)
    })
}

fn exit_in_a_thread() -> ExitCode {
    let _ = std::thread::spawn(|| {
        defer!(say("guard of the thread"));
        exit(4)
    })
    .join();
    loop {
        std::thread::park();
    }
}

fn exit_in_a_foreign_task() -> ExitCode {
    workers().block_on(async {
        let _kept = tokio::spawn(async {
            defer!(say("guard of the task"));
            once(Box::pin(owing())).await;
            exit(5)
        });
        pending::<()>().await;
    });
    ExitCode::SUCCESS
}

fn exit_in_the_body_of_run() -> ExitCode {
    workers().block_on(run(async |app: &App| {
        app.defer("part", async || {
            say("part");
            Ok(())
        });
        defer!(say("guard of the body"));
        exit(6)
    }))
}

fn exit_in_a_task_of_run() -> ExitCode {
    workers().block_on(run(async |app: &App| {
        app.defer("part", async || {
            say("part");
            Ok(())
        });
        app.spawn("leaver", async {
            defer!(say("guard of the task"));
            exit(7)
        });
        app.stopping().await;
        Ok(())
    }))
}

fn exit_while_unwinding() -> ExitCode {
    defer!(say("beneath"));
    defer!(exit(8));
    panic!("unwinds")
}

fn exit_twice() -> ExitCode {
    scope(|s| {
        s.defer(|| exit(10));
        s.defer(|| say("scope"));
        exit(9)
    })
}

fn exit_task_in_the_body_of_run() -> ExitCode {
    workers().block_on(run(async |app: &App| {
        app.defer("part", async || {
            say("part");
            Ok(())
        });
        epilogue_scope::task::exit_task()
    }))
}

fn task_panic_stops() -> ExitCode {
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

fn forked_child() -> ExitCode {
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

fn thread_torn_down() -> ExitCode {
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

fn after_main() -> ExitCode {
    // SAFETY: the handler is a function of this program.
    unsafe { libc::atexit(handler) };
    ExitCode::SUCCESS
}

fn cleanups_panic_under_run() -> ExitCode {
    current_thread().block_on(run(async |_: &App| {
        defer!(panic!("third"));
        defer!(panic!("second"));
        panic!("first")
    }))
}

fn two_threads_exit() -> ExitCode {
    let (first, second) = std::sync::mpsc::channel();
    let slow = std::thread::spawn(move || {
        defer!({
            let _ = first.send(());
            std::thread::sleep(Duration::from_millis(200));
            say("the first one's cleanup");
        });
        exit(3)
    });
    let _ = second.recv();
    let other = std::thread::spawn(|| {
        defer!(say("the other one's"));
        exit(4)
    });
    let _ = (other.join(), slow.join());
    loop {
        std::thread::park();
    }
}

fn exit_in_a_cleanup_of_an_exit() -> ExitCode {
    defer!({
        std::thread::sleep(Duration::from_millis(100));
        say("outermost");
    });
    scope(|s| {
        s.defer(|| exit(4));
        exit(3)
    })
}

fn main_returns_while_a_thread_exits() -> ExitCode {
    let (begun, has_begun) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        defer!({
            let _ = begun.send(());
            std::thread::sleep(Duration::from_millis(200));
            say("its cleanup");
        });
        exit(3)
    });
    let _ = has_begun.recv();
    ExitCode::SUCCESS
}

fn process_exit_in_a_task_under_run() -> ExitCode {
    workers().block_on(run(async |app: &App| {
        app.defer("part", async || {
            say("part");
            Ok(())
        });
        tokio::spawn(async {
            once(Box::pin(owing())).await;
            std::process::exit(3)
        });
        app.stopping().await;
        Ok(())
    }))
}

fn process_exit_on_the_lane() -> ExitCode {
    current_thread().block_on(async {
        once(Box::pin(owing())).await;
        once(Box::pin(async_scope(async |s| {
            s.defer(async |_| std::process::exit(3));
            pending().await
        })))
        .await;
        pending::<()>().await;
    });
    ExitCode::SUCCESS
}

fn run_dropped_in_its_stop() -> ExitCode {
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

fn step_cannot_be_printed() -> ExitCode {
    workers().block_on(run(async |app: &App| {
        app.defer("database", async || {
            say("database");
            Ok(())
        });
        app.defer("sulks", async || Err(Sulks.into()));
        Ok(())
    }))
}

fn payload_cannot_be_printed() -> ExitCode {
    workers().block_on(run(async |app: &App| {
        app.defer("database", async || {
            say("database");
            Ok(())
        });
        let error: Box<dyn std::error::Error + Send + Sync> = Box::new(Sulks);
        std::panic::panic_any(error)
    }))
}

fn worker_rolls_back() -> ExitCode {
    workers().block_on(run(async |app: &App| {
        app.defer("pool", async || {
            say("the pool closes");
            Ok(())
        });
        let (begun, has_begun) = tokio::sync::oneshot::channel();
        app.spawn(
            "worker",
            async_scope(async move |s| {
                s.defer(async |_| {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    say("the worker rolls back");
                });
                let _ = begun.send(());
                pending::<()>().await;
            }),
        );
        let _ = has_begun.await;
        Ok(())
    }))
}

fn impossible_grace() -> ExitCode {
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

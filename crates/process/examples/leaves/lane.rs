//! Ways out with something on the lane.

use std::future::pending;
use std::process::ExitCode;
use std::time::Duration;

use epilogue_process::{App, run};
use epilogue_task::{async_scope, lane};

use crate::support::{current_thread, lane_scopes, once, owing, say, workers};

pub(crate) fn main_returns() -> ExitCode {
    current_thread().block_on(once(Box::pin(owing())));
    ExitCode::SUCCESS
}

pub(crate) fn runtime_dropped() -> ExitCode {
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

pub(crate) fn shutdown_background() -> ExitCode {
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

pub(crate) fn begun_on_a_dying_runtime() -> ExitCode {
    let runtime = workers();
    runtime.block_on(async {
        let (begun, has_begun) = tokio::sync::oneshot::channel();
        tokio::spawn(async_scope(async move |s| {
            s.defer(async |_| say("the next one"));
            s.defer(async move |_| {
                let _ = begun.send(());
                // A timer of the runtime that dies, which does not end by itself.
                tokio::time::sleep(Duration::from_secs(3600)).await;
                say("not reached");
            });
        }));
        let _ = has_begun.await;
    });
    drop(runtime);
    ExitCode::SUCCESS
}

pub(crate) fn no_runtime() -> ExitCode {
    let mut future = Box::pin(owing());
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(future.as_mut().poll(&mut cx).is_pending());
    drop(future);
    ExitCode::SUCCESS
}

pub(crate) fn process_exit_in_a_worker() -> ExitCode {
    workers().block_on(async {
        once(Box::pin(owing())).await;
        let _ = tokio::spawn(async { std::process::exit(3) }).await;
    });
    ExitCode::SUCCESS
}

pub(crate) fn run_drains() -> ExitCode {
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

pub(crate) fn run_and_a_foreign_task() -> ExitCode {
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

pub(crate) fn lane_hangs() -> ExitCode {
    lane::set_exit_limit(Duration::from_millis(100));
    current_thread().block_on(once(Box::pin(async_scope(async |s| {
        s.defer(async |_| say("not begun"));
        s.defer(async |_| pending::<()>().await);
        pending().await
    }))));
    ExitCode::SUCCESS
}

pub(crate) fn lane_hangs_under_run() -> ExitCode {
    let options = epilogue_process::Options::default().grace(Duration::from_secs(2));
    let (code, _) = current_thread().block_on(epilogue_process::run_with(options, async |app: &App| {
        app.defer_last("telemetry", async |_| {
            tokio::time::sleep(Duration::from_millis(300)).await;
            say("what runs last has its time");
            Ok(())
        });
        once(Box::pin(async_scope(async |s| {
            s.defer(async |_| pending::<()>().await);
            pending().await
        })))
        .await;
        Ok(())
    }));
    code
}

pub(crate) fn process_exit_in_a_task_under_run() -> ExitCode {
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

pub(crate) fn process_exit_on_the_lane() -> ExitCode {
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

pub(crate) fn worker_rolls_back() -> ExitCode {
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

pub(crate) fn body_cuts_a_future() -> ExitCode {
    workers().block_on(run(async |app: &App| {
        app.defer("pool", async || {
            say("the pool closes");
            Ok(())
        });
        tokio::select! {
            biased;
            () = async_scope(async |s| {
                s.defer(async |_| {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    say("the job rolls back");
                });
                pending().await
            }) => {}
            () = tokio::task::yield_now() => {}
        }
        Ok(())
    }))
}

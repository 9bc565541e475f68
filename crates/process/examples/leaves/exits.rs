//! Ways out by `exit`.

use std::future::pending;
use std::process::ExitCode;
use std::time::Duration;

use epilogue_process::{App, exit, run};
use epilogue_scope::{defer, scope};

use crate::support::{once, owing, say, workers};

pub(crate) fn exit_in_main() -> ExitCode {
    defer!(say("first of main"));
    scope(|s| {
        s.defer_with(|end| say(&format!("scope {:?}, recovered {}", end.how(), end.recover().is_some())));
        defer!(say("guard"));
        exit(3)
    })
}

pub(crate) fn exit_in_a_thread() -> ExitCode {
    let _ = std::thread::spawn(|| {
        defer!(say("guard of the thread"));
        exit(4)
    })
    .join();
    loop {
        std::thread::park();
    }
}

pub(crate) fn exit_in_a_foreign_task() -> ExitCode {
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

pub(crate) fn exit_in_the_body_of_run() -> ExitCode {
    workers().block_on(run(async |app: &App| {
        app.defer("part", async || {
            say("part");
            Ok(())
        });
        defer!(say("guard of the body"));
        exit(6)
    }))
}

pub(crate) fn exit_in_a_task_of_run() -> ExitCode {
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

pub(crate) fn exit_while_unwinding() -> ExitCode {
    defer!(say("beneath"));
    defer!(exit(8));
    panic!("unwinds")
}

pub(crate) fn exit_twice() -> ExitCode {
    scope(|s| {
        s.defer(|| exit(10));
        s.defer(|| say("scope"));
        exit(9)
    })
}

pub(crate) fn exit_task_in_the_body_of_run() -> ExitCode {
    workers().block_on(run(async |app: &App| {
        app.defer("part", async || {
            say("part");
            Ok(())
        });
        epilogue_scope::task::exit_task()
    }))
}

pub(crate) fn two_threads_exit() -> ExitCode {
    let (begun, has_begun) = std::sync::mpsc::channel();
    let (exits, has_exited) = std::sync::mpsc::channel();
    let slow = std::thread::spawn(move || {
        defer!({
            let _ = begun.send(());
            // The other one is on its way out, too.
            let _ = has_exited.recv();
            say("the first one's cleanup");
        });
        exit(3)
    });
    let _ = has_begun.recv();
    let other = std::thread::spawn(move || {
        defer!({
            say("the other one's");
            let _ = exits.send(());
        });
        exit(4)
    });
    let _ = (other.join(), slow.join());
    loop {
        std::thread::park();
    }
}

pub(crate) fn exit_in_a_cleanup_of_an_exit() -> ExitCode {
    defer!({
        std::thread::sleep(Duration::from_millis(100));
        say("outermost");
    });
    scope(|s| {
        s.defer(|| exit(4));
        exit(3)
    })
}

pub(crate) fn main_returns_while_a_thread_exits() -> ExitCode {
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

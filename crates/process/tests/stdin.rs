//! Programs that read standard input, which nothing can interrupt.

mod rig;

use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use epilogue_process::{App, Error, main_with, run};
use rig::{FILE, PROGRAM, Running};
use tokio::io::AsyncReadExt;

/// Not a test: the programs. Without the variable there is nothing to do.
#[test]
fn program() {
    let Ok(name) = std::env::var(PROGRAM) else { return };
    let code = match name.as_str() {
        "run" => {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(run(reads))
        }
        "writes" => main_with(Default::default(), async |app: &App| {
            app.defer("file", async || {
                let file = std::env::var_os(FILE).unwrap_or_default();
                // Longer than it takes to see that somebody reads standard input.
                tokio::task::spawn_blocking(|| {
                    std::thread::sleep(Duration::from_millis(600));
                    std::fs::write(file, "written")
                });
                Ok(())
            });
            reads(app).await
        }),
        "task" => epilogue_process::main(async |app: &App| {
            println!("ready");
            tokio::spawn(async { std::io::Read::read(&mut std::io::stdin(), &mut [0]) });
            app.stopping().await;
            Ok(())
        }),
        _ => epilogue_process::main(reads),
    };
    std::process::exit(i32::from(code != ExitCode::SUCCESS));
}

async fn reads(app: &App) -> Result<(), Error> {
    println!("ready");
    let mut byte = [0];
    let mut stdin = tokio::io::stdin();
    tokio::select! {
        read = stdin.read(&mut byte) => drop(read?),
        _ = app.stopping() => {}
    }
    Ok(())
}

/// With an input that stays open and empty; TERM comes when it is being read.
fn stopped(name: &str) -> (Option<i32>, Duration, String, std::path::PathBuf) {
    let (mut command, file) = rig::command(name, &[]);
    command.env("EPILOGUE_GRACE", "3s").stdin(Stdio::piped());
    let mut running = Running::of(command.spawn().unwrap(), file.clone());
    let _open = running.child.stdin.take();
    running.wait_for("ready");
    let threads = format!("/proc/{}/task", running.child.id());
    let calls = || -> Vec<String> {
        let threads = std::fs::read_dir(&threads).unwrap().flatten();
        threads
            .map(|thread| {
                std::fs::read_to_string(thread.path().join("syscall"))
                    .unwrap_or_else(|error| error.to_string())
            })
            .collect()
    };
    let until = Instant::now() + Duration::from_secs(20);
    while !calls().iter().any(|call| call.starts_with(&format!("{} 0x0 ", libc::SYS_read))) {
        assert!(Instant::now() < until, "nobody reads: {:?}", calls());
        std::thread::yield_now();
    }
    let began = Instant::now();
    running.signal(libc::SIGTERM);
    let (status, _, said) = running.end();
    (status.code(), began.elapsed(), said, file)
}

#[test]
fn a_read_of_standard_input_does_not_hold_a_main_of_ours() {
    let (code, took, said, _) = stopped("main");
    assert_eq!(code, Some(0), "{said}");
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert!(said.contains("a thread that reads standard input is left behind"), "{said}");
}

#[test]
fn a_task_that_reads_it_itself_is_not_left_behind_in_silence() {
    let (code, _, said, _) = stopped("task");
    assert_eq!(code, Some(124), "{said}");
    assert!(said.contains("held by the runtime (a blocking thread?)"), "{said}");
}

#[test]
fn another_thread_of_its_runtime_is_waited_for_all_the_same() {
    let (code, _, said, file) = stopped("writes");
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "written", "{said}");
    std::fs::remove_file(file).unwrap();
}

#[test]
fn with_a_runtime_of_somebody_elses_it_is_named_when_the_budget_is_over() {
    let (code, took, said, _) = stopped("run");
    assert_eq!(code, Some(124), "{said}");
    assert!(took < Duration::from_secs(3), "{took:?}");
    assert!(said.contains("held by the runtime (a blocking thread? one reads standard input"), "{said}");
}

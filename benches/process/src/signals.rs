//! From a signal to the first line of what it is to run.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use epilogue::{App, Options, run_with};
use tokio::signal::unix::{SignalKind, signal};

pub(crate) fn measure() {
    let runtime = crate::runtime();
    let hook = Hook::start();
    crate::compare(
        "signal to first step",
        200,
        &[
            ("signal-hook, its iterator", &|| hook.sample()),
            ("tokio::signal, a task", &|| runtime.block_on(tokio_signal())),
            ("App::stopping, a task", &|| runtime.block_on(stopping())),
            ("run, the first step", &|| runtime.block_on(first_step())),
        ],
    );
}

fn raise(number: i32) -> Instant {
    let at = Instant::now();
    // SAFETY: no memory is passed; the process has a handler for each number that is used here.
    unsafe { libc::kill(libc::getpid(), number) };
    at
}

/// A thread that waits for SIGALRM.
struct Hook(mpsc::Receiver<Instant>);

impl Hook {
    fn start() -> Hook {
        let (tell, told) = mpsc::channel();
        let mut signals = signal_hook::iterator::Signals::new([libc::SIGALRM]).expect("a handler");
        std::thread::spawn(move || {
            for _ in signals.forever() {
                let _ = tell.send(Instant::now());
            }
        });
        Hook(told)
    }

    fn sample(&self) -> Duration {
        rest();
        let sent = raise(libc::SIGALRM);
        self.0.recv().expect("the thread lives").duration_since(sent)
    }
}

/// Whoever waits is asleep by now.
fn rest() {
    std::thread::sleep(Duration::from_millis(2));
}

async fn tokio_signal() -> Duration {
    let mut signal = signal(SignalKind::from_raw(libc::SIGVTALRM)).expect("a handler");
    let waits = tokio::spawn(async move {
        signal.recv().await;
        Instant::now()
    });
    let sent = tokio::task::spawn_blocking(|| {
        rest();
        raise(libc::SIGVTALRM)
    });
    let sent = sent.await.expect("no panic");
    waits.await.expect("no panic").duration_since(sent)
}

/// A program that is sent SIGTERM once it waits.
async fn program(body: impl AsyncFnOnce(&App, mpsc::Sender<Instant>)) -> Duration {
    let (tell, told) = mpsc::channel();
    let mut sent = Instant::now();
    run_with(Options::default().without_environment().quiet(true), async |app: &App| {
        body(app, tell).await;
        let raised = tokio::task::spawn_blocking(|| {
            rest();
            raise(libc::SIGTERM)
        });
        sent = raised.await?;
        app.stopping().await;
        Ok(())
    })
    .await;
    told.recv().expect("it has run").duration_since(sent)
}

async fn stopping() -> Duration {
    program(async |app, tell| {
        let stopping = app.stopping();
        tokio::spawn(async move {
            stopping.await;
            let _ = tell.send(Instant::now());
        });
    })
    .await
}

async fn first_step() -> Duration {
    program(async |app, tell| {
        drop(app.defer("first", async move || {
            let _ = tell.send(Instant::now());
            Ok(())
        }));
    })
    .await
}

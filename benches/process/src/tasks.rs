//! The stop of ten thousand tasks that wait for nothing else.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use epilogue::{App, Options, async_scope, run_with};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const COUNT: usize = 10_000;

pub(crate) fn measure() {
    let runtime = crate::runtime();
    crate::compare(
        "stop of 10,000 parked tasks",
        15,
        &[
            ("token and TaskTracker", &|| runtime.block_on(tracker())),
            ("swansong", &|| runtime.block_on(swansong())),
            ("async_scope", &|| runtime.block_on(scope())),
            ("App::spawn", &|| runtime.block_on(spawned())),
            ("App::spawn_until", &|| runtime.block_on(spawned_until())),
        ],
    );
}

static PARKED: AtomicUsize = AtomicUsize::new(0);

/// Waits until all of them have been polled.
async fn all_parked() {
    while PARKED.load(Ordering::Acquire) < COUNT {
        tokio::task::yield_now().await;
    }
    PARKED.store(0, Ordering::Release);
}

fn parked() {
    PARKED.fetch_add(1, Ordering::AcqRel);
}

async fn tracker() -> Duration {
    let (token, tracker) = (CancellationToken::new(), TaskTracker::new());
    for _ in 0..COUNT {
        let token = token.clone();
        tracker.spawn(async move {
            parked();
            token.cancelled().await;
        });
    }
    all_parked().await;
    let began = Instant::now();
    token.cancel();
    tracker.close();
    tracker.wait().await;
    began.elapsed()
}

async fn swansong() -> Duration {
    let swansong = swansong::Swansong::new();
    for _ in 0..COUNT {
        let guard = swansong.guard();
        let stopping = swansong.clone();
        tokio::spawn(async move {
            let _guard = guard;
            parked();
            stopping.interrupt(std::future::pending::<()>()).await;
        });
    }
    all_parked().await;
    let began = Instant::now();
    swansong.shut_down().await;
    began.elapsed()
}

async fn scope() -> Duration {
    let mut began = Instant::now();
    let cancelled = async {
        async_scope(async |scope| {
            for _ in 0..COUNT {
                drop(scope.spawn("parked", async {
                    parked();
                    std::future::pending::<()>().await;
                }));
            }
            all_parked().await;
            began = Instant::now();
            // Leaves by a panic: what it has spawned is cancelled, and awaited.
            std::panic::resume_unwind(Box::new(()));
        })
        .await
    };
    let left = std::panic::AssertUnwindSafe(cancelled);
    let _ = futures_catch(left).await;
    began.elapsed()
}

/// Polls a future with its panic caught.
async fn futures_catch<T>(future: impl Future<Output = T>) -> Result<T, ()> {
    let mut future = Box::pin(future);
    std::future::poll_fn(|cx| {
        let polled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| future.as_mut().poll(cx)));
        match polled {
            Ok(polled) => polled.map(Ok),
            Err(_) => std::task::Poll::Ready(Err(())),
        }
    })
    .await
}

async fn spawned() -> Duration {
    app(|app| {
        for _ in 0..COUNT {
            app.spawn("parked", async {
                parked();
                std::future::pending::<()>().await;
            });
        }
    })
    .await
}

async fn spawned_until() -> Duration {
    app(|app| {
        for _ in 0..COUNT {
            app.spawn_until("parked", async |stop| {
                parked();
                stop.stopped().await;
            });
        }
    })
    .await
}

async fn app(spawn: impl FnOnce(&App)) -> Duration {
    let mut began = Instant::now();
    run_with(Options::embedded(), async |app: &App| {
        spawn(app);
        all_parked().await;
        began = Instant::now();
        app.stop();
        Ok(())
    })
    .await;
    began.elapsed()
}

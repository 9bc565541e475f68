//! A stop, or a drop, at each place where a future waits.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use epilogue_process::{App, Error, ExitReport, Options, run_with};

/// Runs a program again and again: the first time it is stopped when its body waits for the first time, then when it
/// waits for the second time, and so on, until it ends before. Gives each report to `check`, with the number of
/// the wait. Returns how often the body waits. The program itself should come to its end without being stopped.
///
/// # Examples
///
/// ```
/// use epilogue_process::{App, Options, Started, part};
/// use epilogue_testkit::stop_at_every_await;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let waits = stop_at_every_await(
///     Options::embedded,
///     async |app: &App| {
///         app.start(part("pool", async || {
///             tokio::task::yield_now().await;                    // it connects
///             Ok(Started::new((), async |_| Ok(())))
///         }))
///         .await?;
///         tokio::task::yield_now().await;
///         Ok(())
///     },
///     |wait, report| assert_eq!(report.code, 0, "stopped at wait {wait}: {report}"),
/// )
/// .await;
/// assert_eq!(waits, 2);
/// # }
/// ```
pub async fn stop_at_every_await(
    options: impl Fn() -> Options,
    body: impl AsyncFn(&App) -> Result<(), Error>,
    mut check: impl FnMut(usize, ExitReport),
) -> usize {
    let mut wait = 1;
    loop {
        let mut waits = 0;
        let (_, report) = run_with(options(), async |app: &App| {
            let mut running = pin!(body(app));
            poll_fn(|cx| {
                let polled = running.as_mut().poll(cx);
                if polled.is_pending() {
                    waits += 1;
                    if waits == wait {
                        app.stop();
                    }
                }
                polled
            })
            .await
        })
        .await;
        if waits < wait {
            return waits;
        }
        check(wait, report);
        wait += 1;
    }
}

/// Polls a future again and again: the first one is dropped when it waits for the first time, the next when it waits
/// for the second time, and so on, until one comes to its end before. After each drop `check` is awaited, with the
/// number of the wait. Returns how often it waits.
///
/// # Examples
///
/// ```
/// use epilogue_testkit::drop_at_every_await;
/// use std::sync::atomic::{AtomicI32, Ordering};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// static HELD: AtomicI32 = AtomicI32::new(0);
/// struct Permit;
/// impl Drop for Permit {
///     fn drop(&mut self) {
///         HELD.fetch_sub(1, Ordering::Relaxed);
///     }
/// }
/// let work = async || {
///     HELD.fetch_add(1, Ordering::Relaxed);
///     let _permit = Permit;
///     tokio::task::yield_now().await;
///     tokio::task::yield_now().await;
/// };
/// let check = async |wait| assert_eq!(HELD.load(Ordering::Relaxed), 0, "dropped at wait {wait}");
/// assert_eq!(drop_at_every_await(work, check).await, 2);
/// # }
/// ```
pub async fn drop_at_every_await<T>(make: impl AsyncFn() -> T, check: impl AsyncFn(usize)) -> usize {
    let mut wait = 1;
    loop {
        let mut waits = 0;
        let ended = {
            let mut running = pin!(make());
            poll_fn(|cx| match running.as_mut().poll(cx) {
                Poll::Ready(_) => Poll::Ready(true),
                Poll::Pending => {
                    waits += 1;
                    if waits == wait { Poll::Ready(false) } else { Poll::Pending }
                }
            })
            .await
        };
        if ended {
            return waits;
        }
        check(wait).await;
        wait += 1;
    }
}

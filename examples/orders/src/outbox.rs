//! The outbox: tells the world about orders, in order, at least once.

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use tokio::io::AsyncWriteExt;

use crate::store::{Store, StoreError};

const BATCH: u32 = 100;
const PAUSE: Duration = Duration::from_millis(100);

/// Sends what is in the outbox until `stop` is over, then once more, and ends between two batches.
pub async fn work(store: Store, log: PathBuf, stop: impl Future<Output = ()>) {
    let mut stop = pin!(stop);
    loop {
        let last = tokio::select! {
            () = &mut stop => true,
            () = tokio::time::sleep(PAUSE) => false,
        };
        if let Err(error) = send(&store, &log).await {
            eprintln!("orders: outbox: {error}; trying again");
        }
        if last {
            return;
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum OutboxError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{0}")]
    Send(#[from] io::Error),
}

async fn send(store: &Store, log: &PathBuf) -> Result<(), OutboxError> {
    let batch = store.unsent(BATCH).await?;
    let Some((last, _)) = batch.last().copied() else { return Ok(()) };
    let lines: String = batch.iter().map(|(_, order)| format!("order {order} accepted\n")).collect();
    let mut file = tokio::fs::File::options().create(true).append(true).open(log).await?;
    file.write_all(lines.as_bytes()).await?;
    file.flush().await?;
    Ok(store.sent_up_to(last).await?)
}

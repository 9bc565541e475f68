//! Starts a program again, and reads back what it had acknowledged.

use std::net::SocketAddr;
use std::time::Duration;

use crate::client::{Ask, Client};
use crate::row::{Ledger, Observation, hang_limit, millis};
use crate::running::{Place, Running};
use crate::target::{LedgerSpec, Target};

/// Starts the target once more, on the same port and files, and reads every acknowledged write
/// back.
pub(crate) async fn restart(
    target: &Target,
    place: &Place,
    address: SocketAddr,
    grace: Duration,
    acked: &[String],
    seen: &mut Observation,
) {
    // A mark of its own: what the first start left behind is not part of the new instance.
    let mark = format!("{}.again", place.mark);
    let again = Place { port: Some(address.port()), mark, ..place.clone() };
    let mut process = match Running::start(target, &again, 2, grace) {
        Ok(process) => process,
        Err(error) => return seen.restart_failed = Some(error.to_string()),
    };
    match process.ready(target).await {
        // An answer may come from an orphan: only one of the new process counts.
        Ok(_) if process.owns_port(address.port()) => {
            seen.restart_ms = Some(millis(process.started.elapsed()));
        }
        Ok(_) => {
            let why = format!("port {} is answered by another process", address.port());
            return seen.restart_failed = Some(why);
        }
        Err(error) => return seen.restart_failed = Some(error.to_string()),
    }
    if let (Some(spec), Some(ledger)) = (&target.ledger, &mut seen.ledger) {
        read_back(spec, address, acked, ledger).await;
    }
}

/// Reads every acknowledged write back. When one gets no answer at all, the rest are not tried: a
/// server that hangs would hold the row for hours.
async fn read_back(spec: &LedgerSpec, address: SocketAddr, acked: &[String], ledger: &mut Ledger) {
    let mut client = None;
    for (at, id) in acked.iter().enumerate() {
        let ask = Ask::get(spec.read.replace("{id}", id));
        match read_one(&mut client, &ask, address).await {
            Some(status) if (200..300).contains(&status) => ledger.recovered += 1,
            Some(_) => ledger.lost += 1,
            None => {
                ledger.indeterminate += u32::try_from(acked.len() - at).unwrap_or(u32::MAX);
                return;
            }
        }
    }
}

async fn read_one(client: &mut Option<Client>, ask: &Ask, address: SocketAddr) -> Option<u16> {
    // A kept connection that the server has closed meanwhile says nothing about the write.
    for kept in [client.take(), None] {
        let mut open = match kept {
            Some(kept) => kept,
            None => Client::connect(address, hang_limit()).await.ok()?,
        };
        if let Ok(found) = open.ask(ask, hang_limit(), || {}).await {
            *client = found.keep_alive.then_some(open);
            return Some(found.status);
        }
    }
    None
}

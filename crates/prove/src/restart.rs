//! Starts a program again, and reads back what it had acknowledged.

use std::net::SocketAddr;

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
    acked: &[String],
    seen: &mut Observation,
) {
    // A mark of its own: what the first start left behind is not part of the new instance.
    let mark = format!("{}.again", place.mark);
    let again = Place { port: Some(address.port()), mark, ..place.clone() };
    let mut process = match Running::start(target, &again, 2) {
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

async fn read_back(spec: &LedgerSpec, address: SocketAddr, acked: &[String], ledger: &mut Ledger) {
    let mut client: Option<Client> = None;
    for id in acked {
        let ask = Ask::get(spec.read.replace("{id}", id));
        let mut answer = None;
        // A connection that the server has closed meanwhile says nothing about the write.
        for _ in 0..2 {
            let mut open = match client.take() {
                Some(client) => client,
                None => match Client::connect(address, hang_limit()).await {
                    Ok(client) => client,
                    Err(_) => continue,
                },
            };
            if let Ok(found) = open.ask(&ask, hang_limit(), || {}).await {
                client = found.keep_alive.then_some(open);
                answer = Some(found.status);
                break;
            }
        }
        match answer {
            Some(status) if (200..300).contains(&status) => ledger.recovered += 1,
            Some(_) => ledger.lost += 1,
            None => ledger.indeterminate += 1,
        }
    }
}

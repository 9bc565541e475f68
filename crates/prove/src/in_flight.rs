//! Brings requests in flight, and proves from outside that they are.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::load::Generator;
use crate::procfs;
use crate::row::{Observation, POLL};
use crate::target::Target;

const HELD_WITHIN: Duration = Duration::from_secs(2);
const STEADY: Duration = Duration::from_millis(500);

/// Waits until every held request is proven to be in flight, and the rest of the load is steady.
pub(crate) async fn bring_in_flight(
    target: &Target,
    generator: &Generator,
    server: SocketAddr,
    seen: &mut Observation,
) -> Result<(), String> {
    let began = Instant::now();
    let wanted = held_wanted(target, generator);
    if wanted == 0 {
        seen.not_exercised.push((
            "in_flight",
            if generator.in_flight_wanted() == 0 {
                "not exercised: none was to be held".into()
            } else {
                "not exercised: no way to hold a request open (give --slow or --upload)".into()
            },
        ));
        seen.proof = "none needed".into();
    } else {
        let (mut answering, mut read) = (0, 0);
        while began.elapsed() < HELD_WITHIN {
            (answering, read) = proven(generator, server);
            if answering + read >= wanted {
                break;
            }
            tokio::time::sleep(POLL).await;
        }
        seen.proof = format!("{answering} answering, {read} read by the server, of {wanted}");
        if answering + read == 0
            && let Some(status) = generator.seen().held.iter().find_map(|held| held.status)
        {
            return Err(format!(
                "--slow and --upload: a request that was to be held was answered {status} at once; give a path that \
                 takes its time"
            ));
        }
        if answering + read < wanted {
            let ended = generator.seen().in_flight.losses();
            let ended = if ended.is_empty() { String::new() } else { format!(" ({ended})") };
            seen.spoilt = Some(format!(
                "only {} of {wanted} requests could be proven in flight within 2 s{ended}",
                answering + read
            ));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    tokio::time::sleep(STEADY.saturating_sub(began.elapsed())).await;
    let load = generator.seen();
    if load.held.iter().filter(|held| held.ended).count() > 0 && seen.spoilt.is_none() {
        seen.spoilt = Some("a held request ended before the program was told to stop".into());
    }
    if load.baseline_lost.total() > 0 && seen.spoilt.is_none() {
        seen.spoilt = Some(format!(
            "not steady before it was told to stop: {} of {} requests were not answered ({})",
            load.baseline_lost.total(),
            load.baseline,
            load.baseline_lost.losses()
        ));
    }
    Ok(())
}

fn held_wanted(target: &Target, generator: &Generator) -> usize {
    let any = target.slow.is_some() || target.upload.is_some();
    // The clients are counted by the plan, not by those that have connected so far.
    if any { generator.in_flight_wanted() } else { 0 }
}

/// Held requests whose answer has begun, and those whose bytes the server has taken.
fn proven(generator: &Generator, server: SocketAddr) -> (usize, usize) {
    let held = generator.seen().held.clone();
    let live: Vec<_> = held.iter().filter(|held| !held.ended).collect();
    let answering = live.iter().filter(|held| held.begun_answer).count();
    let silent: Vec<_> = live.iter().filter(|held| !held.begun_answer).map(|held| held.client).collect();
    if silent.is_empty() {
        return (answering, 0);
    }
    let read = procfs::sockets()
        .into_iter()
        .filter(|socket| socket.local.port() == server.port() && silent.contains(&socket.remote))
        .filter(|socket| socket.inode != 0 && socket.unread == 0)
        .count();
    (answering, read)
}

//! The clients: held requests, fresh connections, a keep-alive pool, idle cohorts, writers.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{Held, Plan, Seen, Stage, lock};
use crate::client::{Answer, Ask, Client};
use crate::outcome::Outcome;

/// How long a client waits for its connection.
pub(crate) const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// How long a dripped body takes, in pieces of this pace.
const DRIP_PIECES: usize = 20;
const DRIP_PACE: Duration = Duration::from_millis(100);

#[derive(Clone)]
struct Ctx {
    plan: Arc<Plan>,
    seen: Arc<Mutex<Seen>>,
    stage: watch::Receiver<Stage>,
}

#[derive(Clone, Copy)]
enum Cohort {
    Fresh,
    Pool,
}

/// Runs all clients until each has come to its end, or the row is over.
pub(super) async fn run(plan: Arc<Plan>, seen: Arc<Mutex<Seen>>, stage: watch::Receiver<Stage>) {
    let mut over = stage.clone();
    let ctx = Ctx { plan, seen, stage };
    let mut clients = JoinSet::new();
    let load = ctx.plan.load;
    held(&ctx, &mut clients);
    for at in 0..load.pool {
        clients.spawn(pool_client(ctx.clone(), at));
    }
    for at in 0..load.idle * 3 {
        clients.spawn(idle_client(ctx.clone(), at));
    }
    clients.spawn(fresh(ctx.clone()));
    if ctx.plan.write.is_some() {
        clients.spawn(writer(ctx.clone()));
    }
    tokio::select! {
        () = async { while clients.join_next().await.is_some() {} } => {}
        _ = over.wait_for(|stage| *stage == Stage::Over) => {}
    }
}

impl Ctx {
    fn stage(&self) -> Stage {
        *self.stage.borrow()
    }

    /// Whether requests are still routed to this program.
    fn routed(&self) -> bool {
        match self.stage() {
            Stage::Steady => true,
            Stage::Ending(at) => at.elapsed() < self.plan.lag,
            Stage::Over => false,
        }
    }

    async fn ending(&self) -> Option<Instant> {
        let mut stage = self.stage.clone();
        let now = *stage.wait_for(|stage| *stage != Stage::Steady).await.ok()?;
        match now {
            Stage::Ending(at) => Some(at),
            _ => None,
        }
    }

    /// Waits for the moment a request is due and notes how late it is noticed.
    async fn due(&self, at: Instant) {
        tokio::time::sleep_until(at.into()).await;
        let late = at.elapsed().as_micros();
        lock(&self.seen).lateness_us.push(u64::try_from(late).unwrap_or(u64::MAX));
    }

    fn note(&self, cohort: Cohort, intended: Instant, outcome: Outcome) {
        let mut seen = lock(&self.seen);
        if outcome == Outcome::Unsent {
            seen.unsent += 1;
            return;
        }
        match self.stage() {
            // One that was on its way when the trigger was pulled counts if it was cut by it.
            Stage::Ending(at) if intended >= at || outcome.is_loss() => {
                match cohort {
                    Cohort::Fresh => seen.arrivals.add(outcome),
                    Cohort::Pool => seen.pool.add(outcome),
                }
                seen.timeline.push((millis(intended.saturating_duration_since(at)), outcome));
            }
            _ => {
                seen.baseline += 1;
                if !outcome.is_ok() {
                    seen.baseline_lost.add(outcome);
                }
            }
        }
    }
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

async fn one(ctx: &Ctx, ask: &Ask) -> Result<Answer, Outcome> {
    let mut client = Client::connect(ctx.plan.address, CONNECT_LIMIT).await?;
    client.ask(ask, ctx.plan.hang, || {}).await
}

fn outcome(result: &Result<Answer, Outcome>) -> Outcome {
    result.as_ref().map_or_else(|outcome| *outcome, Answer::outcome)
}

/// New connections at a constant rate, one request each.
async fn fresh(ctx: Ctx) {
    let period = Duration::from_secs(1) / ctx.plan.load.fresh_per_s.max(1);
    let mut requests = JoinSet::new();
    let mut at = Instant::now();
    while ctx.routed() {
        ctx.due(at).await;
        if !ctx.routed() {
            break;
        }
        let (theirs, intended) = (ctx.clone(), at);
        requests.spawn(async move {
            let result = one(&theirs, &theirs.plan.fast).await;
            theirs.note(Cohort::Fresh, intended, outcome(&result));
        });
        at += period;
    }
    while requests.join_next().await.is_some() {}
}

/// A keep-alive client: it honours `Connection: close`, and reconnects while it is routed here.
async fn pool_client(ctx: Ctx, number: usize) {
    let period = Duration::from_secs(1) / ctx.plan.load.pool_per_s.max(1);
    // Spread over one period, so that the pool as a whole is as even as its clients.
    let mut at = Instant::now() + period * (number as u32) / (ctx.plan.load.pool.max(1) as u32);
    let mut connection: Option<Client> = None;
    while ctx.routed() {
        ctx.due(at).await;
        if !ctx.routed() {
            return;
        }
        let intended = at;
        let (kept, outcome) = pool_request(&ctx, connection.take()).await;
        connection = kept;
        ctx.note(Cohort::Pool, intended, outcome);
        // A client that had to wait for its answer sends its next request at its next moment.
        while at <= Instant::now() {
            at += period;
        }
    }
}

async fn pool_request(ctx: &Ctx, connection: Option<Client>) -> (Option<Client>, Outcome) {
    let open = connection.filter(|client| !client.is_closed());
    let client = match open {
        Some(client) => Ok(client),
        None => Client::connect(ctx.plan.address, CONNECT_LIMIT).await,
    };
    let mut client = match client {
        Ok(client) => client,
        Err(outcome) => return (None, outcome),
    };
    match client.ask(&ctx.plan.fast, ctx.plan.hang, || {}).await {
        Ok(answer) => (answer.keep_alive.then_some(client), answer.outcome()),
        Err(outcome) => (None, outcome),
    }
}

/// A connection that was used once and then rests. One cohort asks again shortly after the
/// trigger, one in the middle of the lag, one never.
async fn idle_client(ctx: Ctx, number: usize) {
    let Ok(mut client) = Client::connect(ctx.plan.address, CONNECT_LIMIT).await else { return };
    match client.ask(&ctx.plan.fast, ctx.plan.hang, || {}).await {
        Ok(answer) if answer.keep_alive => {}
        // What a server that is being ended says of its connections, and to whom, is another matter.
        _ if ctx.stage() != Stage::Steady => {
            lock(&ctx.seen).never_idle = true;
            return;
        }
        Ok(_) => {
            lock(&ctx.seen).closes_each = true;
            return;
        }
        Err(_) => return,
    }
    let Some(began) = ctx.ending().await else { return };
    let per_cohort = ctx.plan.load.idle.max(1);
    let spread = (number % per_cohort) as u32;
    let after = match number / per_cohort {
        0 => Duration::from_millis(50) + Duration::from_millis(150) * spread / per_cohort as u32,
        1 => ctx.plan.lag / 2 + Duration::from_millis(u64::from(spread)),
        _ => return,
    };
    ctx.due(began + after).await;
    let outcome = if client.is_closed() {
        Outcome::ClosedBeforeSend
    } else {
        outcome(&client.ask(&ctx.plan.fast, ctx.plan.hang, || {}).await)
    };
    let mut seen = lock(&ctx.seen);
    seen.idle.add(outcome);
    seen.timeline.push((millis(after), outcome));
}

/// Writes, each acknowledged or not.
async fn writer(ctx: Ctx) {
    let Some(write) = ctx.plan.write.clone() else { return };
    let period = Duration::from_secs(1) / ctx.plan.load.writes_per_s.max(1);
    let mut writes = JoinSet::new();
    let mut at = Instant::now();
    let mut number = 0_u64;
    while ctx.routed() {
        ctx.due(at).await;
        if !ctx.routed() {
            break;
        }
        number += 1;
        let (theirs, ask) = (ctx.clone(), numbered(&write, number));
        writes.spawn(async move {
            let result = one(&theirs, &ask).await;
            note_write(&theirs, &result);
        });
        at += period;
    }
    while writes.join_next().await.is_some() {}
}

/// A write with its `{n}` filled in.
pub(crate) fn numbered(write: &Ask, number: u64) -> Ask {
    let mut ask = write.clone();
    ask.path = ask.path.replace("{n}", &number.to_string());
    if let Some((_, body)) = &mut ask.body {
        *body = String::from_utf8_lossy(body).replace("{n}", &number.to_string()).into_bytes();
    }
    ask
}

fn note_write(ctx: &Ctx, result: &Result<Answer, Outcome>) {
    let mut seen = lock(&ctx.seen);
    match result {
        Ok(answer) if (200..300).contains(&answer.status) => match id_of(answer) {
            Some(id) => seen.acked.push(id),
            None => seen.indeterminate += 1,
        },
        // Refused by the server, or never sent: nothing was promised and nothing is unknown.
        Ok(_) | Err(Outcome::Refused | Outcome::ClosedUnread | Outcome::ClosedBeforeSend) => {}
        Err(Outcome::Unsent) => seen.unsent += 1,
        Err(_) => seen.indeterminate += 1,
    }
}

/// What the server calls the thing that was written: `id` of a JSON answer, or the last part of
/// `Location`.
pub(crate) fn id_of(answer: &Answer) -> Option<String> {
    let json: Option<serde_json::Value> = serde_json::from_slice(&answer.body).ok();
    match json.as_ref().and_then(|json| json.get("id")) {
        Some(serde_json::Value::String(id)) => Some(id.clone()),
        Some(serde_json::Value::Number(id)) => Some(id.to_string()),
        _ => answer.location.as_ref()?.rsplit('/').next().map(str::to_owned),
    }
}

/// Brings the requests in flight: slow answers, and bodies that come slowly. Where the target
/// has both, every third is an upload.
fn held(ctx: &Ctx, clients: &mut JoinSet<()>) {
    for number in 0..ctx.plan.load.in_flight {
        match (&ctx.plan.slow, &ctx.plan.upload) {
            (_, Some(upload)) if ctx.plan.slow.is_none() || number % 3 == 2 => {
                clients.spawn(hold(ctx.clone(), upload.clone(), true));
            }
            (Some(slow), _) => {
                clients.spawn(hold(ctx.clone(), slow.clone(), false));
            }
            _ => {}
        }
    }
}

async fn hold(ctx: Ctx, ask: Ask, drip: bool) {
    let connected = Client::connect(ctx.plan.address, CONNECT_LIMIT).await;
    let client = connected.and_then(|c| c.local_addr().map(|a| (c, a)).map_err(|_| Outcome::Unsent));
    let (mut client, address) = match client {
        Ok(client) => client,
        Err(outcome) => return lock(&ctx.seen).in_flight.add(outcome),
    };
    let at = {
        let mut seen = lock(&ctx.seen);
        seen.held.push(Held { client: address, begun_answer: false, ended: false, status: None });
        seen.held.len() - 1
    };
    let result = if drip {
        client.drip(&ask, DRIP_PIECES, DRIP_PACE, ctx.plan.hold).await
    } else {
        client.ask(&ask, ctx.plan.hold, || lock(&ctx.seen).held[at].begun_answer = true).await
    };
    let outcome = outcome(&result);
    let mut seen = lock(&ctx.seen);
    seen.held[at].ended = true;
    seen.held[at].status = result.as_ref().ok().map(|answer| answer.status);
    seen.in_flight.add(outcome);
    if let Stage::Ending(began) = ctx.stage() {
        seen.timeline.push((millis(began.elapsed()), outcome));
    }
}

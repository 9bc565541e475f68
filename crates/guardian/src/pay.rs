//! Payment: what is owed, newest first; what fails is tried again; what cannot succeed is kept.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use epilogue_journal::{Ended, Entry, Generation, JournalError, Paid, State, Store};
use serde::{Deserialize, Serialize};

use crate::action::{ActionCx, ActionError, Call, Known};
use crate::builtin::KEY_ENV;
use crate::carriers::Mark;
use crate::child::Output;
use crate::log::{self, Log};
use crate::order;
use crate::run::Run;

/// An attempt that its payer did not survive is tried this often: then it is thought to kill its payers.
const POISON: u8 = 3;
/// After this many attempts in all, by whichever payers, a record is parked.
const ATTEMPTS_MAX: u8 = 24;
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// Who pays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Runner {
    /// The program that owes it.
    Owner,
    /// `epilogue run`, when its command is gone.
    Wrapper,
    /// The guardian of a dead process.
    Guardian,
    /// `epilogue recover`, or the program's next start.
    Recover,
    /// Nobody: an operator has said what is to become of it.
    Operator,
}

impl Runner {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Runner::Owner => "owner",
            Runner::Wrapper => "wrapper",
            Runner::Guardian => "guardian",
            Runner::Recover => "recover",
            Runner::Operator => "operator",
        }
    }
}

/// How to pay.
#[derive(Clone)]
pub struct Options {
    /// Who pays.
    pub runner: Runner,
    /// How long all of it may take.
    pub budget: Duration,
    /// How often a record is tried before it is left to the next payer.
    pub attempts: u8,
    /// Whether actions of other programs are run, by those programs.
    pub user_actions: bool,
    /// Where what commands print goes.
    pub output: Output,
    /// Asked between two cleanups: whether to leave the rest to the next payer.
    pub stop: Arc<dyn Fn() -> bool + Send + Sync>,
    /// Told what is about to run.
    pub beginning: Arc<dyn Fn(&str) + Send + Sync>,
}

impl Options {
    /// What this payer does unless it is told otherwise.
    pub fn of(runner: Runner) -> Options {
        let (budget, attempts, output) = match runner {
            Runner::Owner | Runner::Wrapper => (Duration::from_secs(30), 3, Output::Stderr),
            Runner::Guardian => (Duration::from_secs(15 * 60), 8, Output::Kept),
            Runner::Recover | Runner::Operator => (Duration::from_secs(90), 3, Output::Kept),
        };
        let (stop, beginning) = (Arc::new(|| false), Arc::new(|_: &str| {}));
        Options { runner, budget, attempts, user_actions: true, output, stop, beginning }
    }
}

/// What came of a payment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Cleanups that ran and succeeded.
    pub ran: Vec<Item>,
    /// Cleanups that shall not run, for what they say of themselves: the owner succeeded, or what they
    /// end went with the boot.
    pub skipped: Vec<Item>,
    /// Cleanups that are still owed, and why.
    pub failed: Vec<Item>,
    /// Cleanups that are kept for an operator, and why.
    pub parked: Vec<Item>,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}

/// One cleanup of a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// Its id in the journal.
    pub id: u64,
    /// What it does.
    pub what: String,
    /// Why it failed, was skipped or parked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

impl Report {
    /// Cleanups that are not paid.
    pub fn left(&self) -> usize {
        self.failed.len() + self.parked.len()
    }

    /// Cleanups that it was about.
    pub fn total(&self) -> usize {
        self.ran.len() + self.left()
    }
}

/// Pays what a run owes. The caller has taken it over, and knows that its owner is gone.
///
/// # Errors
///
/// [`JournalError::Fenced`] when another payer took over meanwhile: then nothing more was begun.
pub fn pay(run: &Run, generation: Generation, options: &Options) -> Result<Report, JournalError> {
    let about = About::run(run)?;
    let mut report = Payment::new(&*run.journal, &about, generation, options).pay()?;
    let damaged = run.journal.scan()?.damaged;
    // After a power cut what nobody was promised may be torn; otherwise somebody has to look at it.
    if damaged > 0 && about.same_boot {
        let (what, why) = (format!("{damaged} slots of the journal"), Some(DAMAGED.to_owned()));
        report.parked.push(Item { id: 0, what, why });
    }
    Ok(report)
}

const DAMAGED: &str = "they cannot be read: somebody has changed the file, or the device has; what they said is lost, \
                       and the run is kept until its directory is removed";

/// The same for what another store holds.
///
/// # Errors
///
/// As [`pay`], and [`JournalError::LeaseLost`] where the right to pay is for a time only.
pub fn pay_store(
    store: &dyn Store,
    about: &About,
    generation: Generation,
    options: &Options,
) -> Result<Report, JournalError> {
    Payment::new(store, about, generation, options).pay()
}

/// What a payer has to know of an owner beside its records.
#[derive(Clone, Debug)]
pub struct About {
    /// Unique: with a record's id it is a key that never comes twice.
    pub uuid: String,
    /// How the owner ended.
    pub ended: Ended,
    /// Whether the machine is up since before the owner began.
    pub same_boot: bool,
    /// Where attempts are noted, and from where children read their orders.
    pub dir: Option<PathBuf>,
    /// The program that knows its actions.
    pub program: Option<PathBuf>,
    /// The environment in which the owner began.
    pub environment: Option<String>,
}

impl About {
    fn run(run: &Run) -> Result<About, JournalError> {
        Ok(About {
            uuid: run.meta().uuid.clone(),
            ended: run.journal.ended()?,
            same_boot: run.is_of_this_boot(),
            dir: Some(run.dir.clone()),
            program: run.meta().program.clone(),
            environment: run.settings.environment.clone(),
        })
    }
}

struct Payment<'a> {
    store: &'a dyn Store,
    about: &'a About,
    generation: Generation,
    options: &'a Options,
    began: Instant,
    tries: HashMap<u64, Tries>,
    report: Report,
    log: Log,
}

/// What came of a look at a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tried {
    /// Its time has not come.
    NotNow,
    /// It was run, or needs not be.
    Settled,
    /// Somebody has moved or amended it since it was read: what is older must not come before it.
    Changed,
}

/// What became of a record so far.
struct Tries {
    count: u8,
    again_at: Instant,
    what: String,
    why: String,
    /// No further attempt in this payment.
    over: bool,
}

impl<'a> Payment<'a> {
    fn new(
        store: &'a dyn Store,
        about: &'a About,
        generation: Generation,
        options: &'a Options,
    ) -> Payment<'a> {
        Payment {
            store,
            about,
            generation,
            options,
            began: Instant::now(),
            tries: HashMap::new(),
            report: Report::default(),
            log: Log::of(about.dir.as_deref()),
        }
    }

    fn pay(mut self) -> Result<Report, JournalError> {
        while !self.out_of_time() {
            let open = self.store.open_entries()?;
            let owed: Vec<&Entry> =
                open.iter().filter(|entry| entry.state != State::Parked && !self.is_over(entry.id)).collect();
            if owed.is_empty() {
                break;
            }
            let mut progress = false;
            for entry in owed {
                if self.out_of_time() {
                    break;
                }
                let tried = self.try_one(entry, &open)?;
                progress |= tried != Tried::NotNow;
                if tried == Tried::Changed {
                    break;
                }
            }
            if !progress && !self.wait_for_next() {
                break;
            }
        }
        self.conclude()
    }

    fn out_of_time(&self) -> bool {
        self.began.elapsed() >= self.options.budget || (self.options.stop)()
    }

    fn is_over(&self, id: u64) -> bool {
        self.tries.get(&id).is_some_and(|tries| tries.over)
    }

    /// Tries a record if its time has come.
    fn try_one(&mut self, entry: &Entry, open: &[Entry]) -> Result<Tried, JournalError> {
        if self.tries.get(&entry.id).is_some_and(|tries| tries.again_at > Instant::now()) {
            return Ok(Tried::NotNow);
        }
        let call = match Call::from_bytes(&entry.body) {
            Ok(call) => call,
            Err(error) => {
                self.park(entry, "?".into(), format!("it cannot be read: {error}"))?;
                return Ok(Tried::Settled);
            }
        };
        let what = call.describe();
        if let Some(why) = self.needless(&call) {
            if self.store.begin(self.generation, entry)?.is_some() {
                self.store.finish(self.generation, entry, Paid::Done)?;
                self.note(entry, &what, "skipped", Some(&why), None, Duration::ZERO);
                self.report.skipped.push(Item { id: entry.id, what, why: Some(why) });
            }
            return Ok(Tried::Settled);
        }
        if let Some(newer) = call.destroys.then(|| self.unpaid_above(entry, open)).flatten() {
            let why = format!("held back: #{newer} above it was not done");
            self.tries.insert(entry.id, Tries::waiting(what, why));
            return Ok(Tried::NotNow);
        }
        let deaths = self.deaths(entry);
        if deaths >= POISON {
            let why = format!("{deaths} payers died while they ran it");
            self.park(entry, what, why)?;
            return Ok(Tried::Settled);
        }
        if !self.options.user_actions && Known::find(&call.action).is_none() {
            let why = format!("{} is an action of another program, and those are off here", call.action);
            self.tries.insert(entry.id, Tries::waiting(what, why));
            return Ok(Tried::NotNow);
        }
        self.run_one(entry, &call, what)
    }

    /// How many of the attempts at a record have no outcome: who began them has died of them, or beside them.
    fn deaths(&self, entry: &Entry) -> u8 {
        if entry.state != State::Running {
            return 0;
        }
        let noted = self.about.dir.as_deref().map_or(0, |dir| log::failures(dir, entry.id));
        entry.attempts.saturating_sub(u8::try_from(noted).unwrap_or(u8::MAX))
    }

    fn needless(&self, call: &Call) -> Option<String> {
        if !call.when.applies(self.about.ended) {
            return Some(match call.when {
                crate::When::Failure => "only on failure, and the owner succeeded".into(),
                _ => "only on success, and the owner is not known to have succeeded".into(),
            });
        }
        (call.is_of_this_boot() && !self.about.same_boot)
            .then(|| "it went with the boot of the machine".into())
    }

    /// A newer cleanup of the same scope, or of one within it, that was not done.
    fn unpaid_above(&self, entry: &Entry, open: &[Entry]) -> Option<u64> {
        let above = open.iter().take_while(|other| other.id > entry.id);
        let mut unpaid =
            above.filter(|other| other.state == State::Parked || self.tries.contains_key(&other.id));
        let within = |other: &Entry| Call::from_bytes(&other.body).map_or(Vec::new(), |call| call.within);
        unpaid.find(|other| depends(other.scope, &within(other), entry.scope)).map(|other| other.id)
    }

    fn run_one(&mut self, entry: &Entry, call: &Call, what: String) -> Result<Tried, JournalError> {
        let Some(attempt) = self.store.begin(self.generation, entry)? else { return Ok(Tried::Changed) };
        (self.options.beginning)(&what);
        let began = Instant::now();
        let left = || self.options.budget.saturating_sub(self.began.elapsed());
        let cx = context(self.about, entry, self.generation, attempt);
        let former = end_former(entry, &cx.key, left());
        let deadline = Instant::now() + call.timeout().min(left());
        let cx = ActionCx { deadline, output: self.options.output, ..cx };
        let result = former.and_then(|()| self.perform(entry, call, &cx));
        let said = cx.said.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match result {
            Ok(()) => {
                self.store.finish(self.generation, entry, Paid::Done)?;
                self.tries.remove(&entry.id);
                self.note(entry, &what, "done", None, Some(said), began.elapsed());
                self.report.ran.push(Item { id: entry.id, what, why: None });
            }
            Err(error) if error.park || attempt >= ATTEMPTS_MAX => {
                self.store.finish(self.generation, entry, Paid::Parked)?;
                self.tries.remove(&entry.id);
                self.note(entry, &what, "parked", Some(&error.message), Some(said), began.elapsed());
                self.report.parked.push(Item { id: entry.id, what, why: Some(error.message) });
            }
            Err(error) => {
                self.store.finish(self.generation, entry, Paid::Failed)?;
                self.note(entry, &what, "failed", Some(&error.message), Some(said), began.elapsed());
                let most = call.retries.map_or(self.options.attempts, |retries| retries.saturating_add(1));
                let tries = self.tries.entry(entry.id).or_insert_with(|| Tries::waiting(what, String::new()));
                tries.count += 1;
                tries.again_at = Instant::now() + backoff(tries.count);
                tries.over = tries.count >= most;
                tries.why = error.message;
            }
        }
        Ok(Tried::Settled)
    }

    fn perform(&self, entry: &Entry, call: &Call, cx: &ActionCx) -> Result<(), ActionError> {
        let Some(known) = Known::find(&call.action) else { return self.elsewhere(entry, call, cx) };
        match &self.about.dir {
            Some(dir) if known.in_child && self.options.runner != Runner::Owner => {
                order::give(&std::env::current_exe()?, dir, entry, cx)
            }
            _ => call.run(cx),
        }
    }

    /// An action of another program: run by that, if it is there; never guessed.
    fn elsewhere(&self, entry: &Entry, call: &Call, cx: &ActionCx) -> Result<(), ActionError> {
        let other = self
            .about
            .program
            .as_deref()
            .filter(|program| std::env::current_exe().ok().as_deref() != Some(*program));
        let (Some(program), Some(dir)) = (other, &self.about.dir) else { return call.run(cx) };
        let (action, program_name) = (&call.action, program.display());
        if !program.exists() {
            return Err(ActionError::retry(format!(
                "only {program_name} knows how to run {action}, and that is not there"
            )));
        }
        order::give(program, dir, entry, cx)
    }

    fn park(&mut self, entry: &Entry, what: String, why: String) -> Result<(), JournalError> {
        if self.store.park(self.generation, entry)? {
            self.note(entry, &what, "parked", Some(&why), None, Duration::ZERO);
            self.report.parked.push(Item { id: entry.id, what, why: Some(why) });
        }
        Ok(())
    }

    /// Sleeps until the next attempt is due. `false`: there is none.
    fn wait_for_next(&self) -> bool {
        let due =
            self.tries.values().filter(|tries| !tries.over && tries.count > 0).map(|tries| tries.again_at);
        let Some(due) = due.min() else { return false };
        while Instant::now() < due && !self.out_of_time() {
            std::thread::sleep(due.saturating_duration_since(Instant::now()).min(Duration::from_millis(50)));
        }
        true
    }

    fn conclude(mut self) -> Result<Report, JournalError> {
        let mut untried = String::from("there was no time for it");
        if (self.options.stop)() {
            untried = "left to the next payer".into();
        }
        for entry in &self.store.open_entries()? {
            if entry.state == State::Parked {
                // By this payer, or by one before it.
                if !self.report.parked.iter().any(|item| item.id == entry.id) {
                    let why = self.about.dir.as_deref().and_then(|dir| log::why_parked(dir, entry.id));
                    let (what, why) = (describe(entry), Some(why.unwrap_or_else(|| "parked before".into())));
                    self.report.parked.push(Item { id: entry.id, what, why });
                }
                continue;
            }
            let (what, why) = match self.tries.remove(&entry.id) {
                Some(tries) => (tries.what, tries.why),
                None => (describe(entry), untried.clone()),
            };
            self.report.failed.push(Item { id: entry.id, what, why: Some(why) });
        }
        self.report.took_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(self.report)
    }

    fn note(
        &mut self,
        entry: &Entry,
        what: &str,
        outcome: &str,
        why: Option<&str>,
        said: Option<String>,
        took: Duration,
    ) {
        self.log.attempt(entry, self.options.runner, what, outcome, why, said.as_deref().unwrap_or(""), took);
    }
}

impl Tries {
    fn waiting(what: String, why: String) -> Tries {
        Tries { count: 0, again_at: Instant::now(), what, why, over: false }
    }
}

/// Whether a cleanup of `scope`, itself within others, may need what an older one of `older` removes. The
/// scope of the whole run is around all.
pub fn depends(scope: u64, within: &[u64], older: u64) -> bool {
    older == WHOLE_RUN || older == scope || within.contains(&older)
}

/// The number of the scope that is left with the program.
pub const WHOLE_RUN: u64 = 1;

/// Runs one record in the process that owes it, which lives. Returns `None` when it was settled before.
///
/// What fails stays on record, for whoever pays next.
///
/// # Errors
///
/// [`JournalError`] when it cannot be noted, and it was then not begun.
pub fn run_here(run: &Run, id: u64, ended: Ended) -> Result<Option<Result<(), ActionError>>, JournalError> {
    let (about, generation) = (About::run(run)?, run.journal.generation()?);
    let (entry, attempt) = loop {
        let entry = run.journal.entry(id)?;
        if let Some(attempt) = run.journal.begin_entry(generation, &entry)? {
            break (entry, attempt);
        }
        // Moved, or amended, since it was read: it is still owed.
        if !matches!(run.journal.entry(id)?.state, State::Live | State::Amended | State::Failed) {
            return Ok(None);
        }
    };
    let call = Call::from_bytes(&entry.body)
        .map_err(|error| ActionError::park(format!("it cannot be read: {error}")));
    let result = call.and_then(|call| {
        let cx = context(&about, &entry, generation, attempt);
        end_former(&entry, &cx.key, FORMER)?;
        let cx = ActionCx { deadline: Instant::now() + call.timeout(), ended, ..cx };
        // An action that panics has failed, and is still owed.
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| call.run(&cx)))
            .unwrap_or_else(|_| Err(ActionError::retry("it panicked")))
    });
    let paid = match &result {
        Ok(()) => Paid::Done,
        Err(error) if error.park => Paid::Parked,
        Err(_) => Paid::Failed,
    };
    run.journal.finish_entry(generation, &entry, paid)?;
    Ok(Some(result))
}

/// What a record does, in words.
pub fn describe(entry: &Entry) -> String {
    Call::from_bytes(&entry.body).map_or_else(|_| "?".into(), |call| call.describe())
}

/// How long what an attempt before has left running has to end, once it was killed.
const FORMER: Duration = Duration::from_secs(5);

/// Ends what attempts before this one have left running: beside it a cleanup would run twice at a time.
fn end_former(entry: &Entry, key: &str, within: Duration) -> Result<(), ActionError> {
    let mark = Mark { variable: KEY_ENV, value: key };
    let until = Instant::now() + FORMER.min(within);
    if entry.attempts == 0 || mark.end(libc::SIGKILL, until) {
        return Ok(());
    }
    Err(ActionError::retry("what an attempt before had started for it does not end"))
}

/// The same for one that is not tried again. Returns whether nothing of it is left.
pub(crate) fn end_begun(run: &Run, entry: &Entry) -> bool {
    end_former(entry, &key(&run.meta().uuid, entry.id), FORMER).is_ok()
}

/// The same for every attempt at a record, and for no other.
fn key(uuid: &str, id: u64) -> String {
    format!("{uuid}-{id}")
}

/// What an action is told about the moment in which it runs.
pub(crate) fn context(about: &About, entry: &Entry, generation: Generation, attempt: u8) -> ActionCx {
    ActionCx {
        key: key(&about.uuid, entry.id),
        attempt,
        fence: generation.number(),
        ended: about.ended,
        amendment: entry.amendment.as_deref().and_then(|body| serde_json::from_slice(body).ok()),
        deadline: Instant::now() + crate::action::TIMEOUT,
        journal: about.uuid.clone(),
        environment: about.environment.clone(),
        output: Output::Kept,
        said: Arc::new(Mutex::new(String::new())),
    }
}

/// The same for a record of a run, in a process that was started for it.
pub(crate) fn context_of_run(run: &Run, entry: &Entry, attempt: u8) -> Result<ActionCx, JournalError> {
    Ok(context(&About::run(run)?, entry, run.journal.generation()?, attempt))
}

/// Full jitter: many that failed for one reason do not come back all at once.
fn backoff(tries: u8) -> Duration {
    use std::hash::{BuildHasher, Hasher};
    let most = (BACKOFF_FIRST * 2_u32.pow(u32::from(tries.saturating_sub(1)).min(16))).min(BACKOFF_MAX);
    let random = std::hash::RandomState::new().build_hasher().finish();
    most.mul_f64((random % 1024) as f64 / 1024.0)
}

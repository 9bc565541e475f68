//! An instance in a registry, as a part: registered, kept alive, and taken off the moment the stop begins.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use epilogue_process::{Error, Part, Started, StopCx, Trigger, is_taking_over};
use epilogue_task::try_async_scope;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::client::{Beat, Client};
use crate::error::RegistryError;
use crate::instance::Instance;

/// Registers an instance, for as long as the program is not stopping. Start it after the server that it leads
/// to: what starts last stops first.
pub fn registered(registry: impl Client, instance: Instance) -> Registered {
    Registered {
        registry: Arc::new(registry),
        instance,
        start_limit: Duration::from_secs(10),
        limit: Duration::from_secs(2),
        required: true,
        every: None,
        of_this_generation: false,
    }
}

/// A registration that has not started; see [`registered`].
#[must_use = "nothing is registered until it is started: app.start(registered(…)).await?"]
pub struct Registered {
    registry: Arc<dyn Client>,
    instance: Instance,
    start_limit: Duration,
    limit: Duration,
    required: bool,
    every: Option<Duration>,
    of_this_generation: bool,
}

/// As long as anybody means who says for ever: any clock can be told to wait for it.
const A_YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

impl Registered {
    /// Its address is this generation's of the program alone: in an [upgrade](epilogue_process::App::upgrade) it is
    /// taken off the list like at any stop. For a server that listens elsewhere than on a listener of
    /// [`App::listener`](epilogue_process::App::listener). Unless so, the entry is left to the generation that takes
    /// over, which is reached by the same address; it is taken off where that was offered the listener of this address
    /// and has not taken it.
    pub fn of_this_generation(mut self) -> Registered {
        self.of_this_generation = true;
        self
    }

    /// How long the start tries to reach the registry; 10 s unless set.
    pub fn start_limit(mut self, limit: Duration) -> Registered {
        self.start_limit = limit.min(A_YEAR);
        self
    }

    /// How long one call may take, and the leaving at the stop at most; 2 s unless set.
    pub fn limit(mut self, limit: Duration) -> Registered {
        self.limit = limit.min(A_YEAR);
        self
    }

    /// How often it says that it lives, whatever the registry asks for: a tenth of a second at least.
    pub fn beat_every(mut self, interval: Duration) -> Registered {
        self.every = Some(interval);
        self
    }

    /// The program starts although the registry cannot be reached; it is tried again with every heartbeat.
    pub fn optional(mut self) -> Registered {
        self.required = false;
        self
    }
}

/// A running registration. Dropped, it goes on.
#[derive(Clone, Debug)]
pub struct Registration {
    state: watch::Receiver<State>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The registry has not heard of it, or has forgotten it.
    Unknown,
    Known,
    /// The program is stopping.
    Left,
}

impl Registration {
    /// Whether the registry has it on its list, as far as it has said.
    pub fn is_known(&self) -> bool {
        *self.state.borrow() == State::Known
    }

    /// Returns when it is on the list. Cancel safe.
    pub async fn known(&self) {
        let _ = self.state.clone().wait_for(|state| *state == State::Known).await;
    }
}

/// What the heartbeat and the leaving share.
struct Shared {
    registry: Arc<dyn Client>,
    instance: Instance,
    limit: Duration,
    of_this_generation: bool,
    state: watch::Sender<State>,
    /// Held by a call that may put it on the list.
    calling: Arc<Mutex<()>>,
}

impl Part for Registered {
    type Handle = Registration;

    fn name(&self) -> String {
        format!("registry {}", self.instance.service())
    }

    async fn start(self) -> Result<Started<Registration>, Error> {
        let Registered { registry, instance, start_limit, limit, required, every, of_this_generation } = self;
        let state = watch::Sender::new(State::Unknown);
        let handle = Registration { state: state.subscribe() };
        let shared = Arc::new(Shared {
            registry,
            instance,
            limit,
            of_this_generation,
            state,
            calling: Arc::default(),
        });
        begin(&shared, Instant::now() + start_limit, required).await?;
        let beats = tokio::spawn(beat(Arc::clone(&shared), every));
        let leaving = watch::Sender::new(None);
        let left = leaving.subscribe();
        let (theirs, runtime) = (Arc::clone(&shared), tokio::runtime::Handle::current());
        let notice = move |why: &Trigger| {
            if let Some(pid) = theirs.left_to(why) {
                // The other generation is registered under the same address, and beats.
                beats.abort();
                leaving.send_replace(Some(Left::To(pid)));
                return;
            }
            drop(runtime.spawn(async move {
                let began = Instant::now();
                let left = leave(&theirs, beats).await.map_err(|error| error.to_string());
                leaving.send_replace(Some(Left::Taken(left, began.elapsed())));
            }));
        };
        let cap = limit + Duration::from_millis(500);
        let status = Arc::clone(&shared);
        Ok(Started::new(handle, async move |cx| stop(&shared, left, cx).await)
            .on_stopping_because(notice)
            .status(move || vec![format!("{}: {:?}", status.registry.describe(), *status.state.borrow())])
            .cap(cap)
            .floor(Duration::from_millis(500)))
    }
}

/// A start that fails, or that nobody waits for any more, leaves nothing behind: the registry may have taken what
/// it did not acknowledge.
async fn begin(shared: &Arc<Shared>, until: Instant, required: bool) -> Result<(), Error> {
    try_async_scope(async |scope| {
        let theirs = Arc::clone(shared);
        // It is one that cannot be reached, as often as not.
        scope.defer_err(async move |_| {
            // What the generation before has registered under this address it still needs.
            if theirs.of_this_generation || !is_taking_over() {
                drop(take_back(&theirs).await);
            }
        });
        match first(shared, until).await {
            Err(error) if required => Err(error.into()),
            Err(error) => {
                report(shared, &format!("{error}; tried again with every heartbeat"));
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    })
    .await
}

async fn first(shared: &Arc<Shared>, until: Instant) -> Result<(), RegistryError> {
    let mut pause = Duration::from_millis(100);
    loop {
        let Err(error) = register(shared).await else { return Ok(()) };
        if Instant::now() + pause >= until {
            return Err(error);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(2));
    }
}

async fn register(shared: &Arc<Shared>) -> Result<(), RegistryError> {
    let calling = Arc::clone(&shared.calling).lock_owned().await;
    if *shared.state.borrow() == State::Left {
        return Ok(());
    }
    call(shared, move |shared| {
        // Until the call itself is over: whoever waits for it may be cut.
        let _calling = calling;
        shared.registry.register(&shared.instance, shared.limit)
    })
    .await?;
    shared.is_now(State::Known);
    Ok(())
}

/// Says now and then that it lives. What goes wrong is said once, until it goes well again.
async fn beat(shared: Arc<Shared>, every: Option<Duration>) {
    let mut wrong = false;
    let wanted = |next: Option<Duration>| {
        every.or(next).unwrap_or(shared.registry.interval()).clamp(SHORTEST, LONGEST)
    };
    let mut interval = wanted(None);
    loop {
        tokio::time::sleep(jittered(interval)).await;
        let beaten = call(&shared, |shared| shared.registry.beat(&shared.instance, shared.limit)).await;
        let went = match beaten {
            Ok(Beat::Known { next }) => {
                interval = wanted(next);
                shared.is_now(State::Known);
                Ok(())
            }
            Ok(Beat::Unknown) => {
                shared.is_now(State::Unknown);
                report(&shared, "it had forgotten this instance, which is registered again");
                register(&shared).await
            }
            Err(error) => Err(error),
        };
        match &went {
            Err(error) if !wrong => report(&shared, &format!("{error}; tried again with every heartbeat")),
            Ok(()) if wrong => report(&shared, "it answers again"),
            _ => {}
        }
        wrong = went.is_err();
    }
}

/// A registry may ask for any interval; no sooner than this, and no later.
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(60);

/// Within a tenth more or less, so that many that started together do not beat together.
fn jittered(interval: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish() % 2001;
    interval * (9000 + u32::try_from(random).unwrap_or(0)) / 10_000
}

async fn leave(shared: &Arc<Shared>, beats: JoinHandle<()>) -> Result<(), RegistryError> {
    beats.abort();
    take_back(shared).await
}

/// At once; and once more if a call that was on its way may have put it back.
async fn take_back(shared: &Arc<Shared>) -> Result<(), RegistryError> {
    shared.is_now(State::Left);
    // Asked before: it may reach the registry after the other call and be over before that.
    let on_its_way = shared.calling.try_lock().is_err();
    let left = deregister(shared).await;
    if !on_its_way {
        return left;
    }
    drop(shared.calling.lock().await);
    deregister(shared).await
}

async fn deregister(shared: &Arc<Shared>) -> Result<(), RegistryError> {
    call(shared, |shared| shared.registry.deregister(&shared.instance, shared.limit)).await
}

/// How it was left.
#[derive(Clone)]
enum Left {
    /// To another generation of the program.
    To(u32),
    /// Taken off the list: what came of it, and how long that took.
    Taken(Result<(), String>, Duration),
}

async fn stop(shared: &Shared, mut left: watch::Receiver<Option<Left>>, cx: StopCx) -> Result<(), Error> {
    let left = left.wait_for(Option::is_some).await.ok().and_then(|left| left.clone());
    let (left, took) = match left {
        Some(Left::Taken(left, took)) => (left, took),
        Some(Left::To(pid)) => {
            cx.note(format!("left to pid {pid}"));
            return Ok(());
        }
        None => return Err(Error::msg("it was not left: the runtime is going away")),
    };
    left.map_err(|why| Error::msg(format!("{why}; it forgets this instance without heartbeats")))?;
    // Whoever reads it learns that with its next poll: till then requests still come.
    let known_by = cx.began() + took + shared.registry.learned_within().min(A_YEAR) + Duration::from_secs(1);
    cx.keep_listening_until(known_by);
    cx.note(format!("left after {} ms", took.as_millis()));
    Ok(())
}

/// A call that blocks, on a thread for that.
async fn call<T: Send + 'static>(
    shared: &Arc<Shared>,
    ask: impl FnOnce(&Shared) -> Result<T, RegistryError> + Send + 'static,
) -> Result<T, RegistryError> {
    let theirs = Arc::clone(shared);
    let asked = tokio::task::spawn_blocking(move || ask(&theirs)).await;
    asked.unwrap_or_else(|error| {
        let what = shared.registry.describe();
        Err(RegistryError::Unreachable { what, source: Box::new(error) })
    })
}

impl Shared {
    /// The other generation of this program, if the entry is that one's from now on, or still.
    fn left_to(&self, why: &Trigger) -> Option<u32> {
        match why {
            _ if self.of_this_generation => None,
            Trigger::HandedOver { to_pid, .. }
                if why.has_handed_over(self.instance.address())
                    || !why.has_given_up(self.instance.address()) =>
            {
                Some(*to_pid)
            }
            Trigger::HandedOver { .. } => None,
            _ if is_taking_over() => Some(std::os::unix::process::parent_id()),
            _ => None,
        }
    }

    /// Never back from having left.
    fn is_now(&self, new: State) {
        self.state.send_if_modified(|state| {
            let changes = *state != State::Left && *state != new;
            if changes {
                *state = new;
            }
            changes
        });
    }
}

fn report(shared: &Shared, what: &str) {
    epilogue_scope::report::noticed(&shared.registry.describe(), what);
}

//! A NATS subscriber that handles what has come before it goes.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::{Client, ConnectOptions, Message, ServerAddr, Subscriber};
use epilogue_process::{Error, Part, Started, StopCx};
use futures_util::{FutureExt, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{AbortHandle, JoinHandle, unconstrained};

use crate::in_flight::InFlight;

/// Handles each message of a subject by `handler`, until the program stops. What goes wrong with one is said on stderr:
/// NATS itself, without JetStream, delivers a message once and knows of no way back.
///
/// So the moment the stop begins the subscription is given up, and in its turn the stop waits until all that had reached
/// the program by then is handled, and the server has what the handlers have answered. What is being handled at the
/// deadline is named, and lost with what waits for its turn. What the server sends before it has heard of the stop is lost
/// as well, as the client gives the subscription up at once; and so is what comes when 65,536 wait.
///
/// A connection that is lost is made anew. At a stop whose server does not answer within two seconds, what had come is
/// handled and the step fails: whether the answers have arrived cannot be told. A user who may not use inboxes is never
/// told that; what is written to the connection then counts as sent.
///
/// # Examples
///
/// ```no_run
/// # use epilogue_adapters::nats_subscriber;
/// # use epilogue_process::{App, Error};
/// # async fn body(app: &App) -> Result<(), Error> {
/// let orders = nats_subscriber("orders", "nats://127.0.0.1:4222", "orders.*", |client, message| async move {
///     if let Some(reply) = message.reply {
///         client.publish(reply, "done".into()).await?;
///     }
///     Ok(())
/// });
/// app.start(orders.queue_group("workers")).await?;
/// # Ok(()) }
/// ```
pub fn nats_subscriber<F, Fut>(
    name: impl Into<String>,
    url: impl Into<String>,
    subject: impl Into<String>,
    handler: F,
) -> NatsSubscriber<F>
where
    F: Fn(Client, Message) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), Error>> + Send + 'static,
{
    let (name, url, subject) = (name.into(), url.into(), subject.into());
    NatsSubscriber { name, url, options: ConnectOptions::new(), subject, group: None, at_once: 16, handler }
}

/// A subscriber that has not started; see [`nats_subscriber`].
#[must_use = "nothing is subscribed to until it is started: app.start(nats_subscriber(…)).await?"]
pub struct NatsSubscriber<F> {
    name: String,
    url: String,
    options: ConnectOptions,
    subject: String,
    group: Option<String>,
    at_once: usize,
    handler: F,
}

impl<F> NatsSubscriber<F> {
    /// How it connects: with a token, credentials, TLS, by async-nats' own settings. A login in the address counts as well.
    pub fn options(mut self, options: ConnectOptions) -> Self {
        self.options = options;
        self
    }

    /// Each message goes to one subscriber of this group alone.
    pub fn queue_group(mut self, group: impl Into<String>) -> Self {
        self.group = Some(group.into());
        self
    }

    /// How many messages are handled at the same time: 16 unless set.
    pub fn at_once(mut self, count: usize) -> Self {
        self.at_once = count.max(1);
        self
    }
}

/// A running subscriber.
#[derive(Clone)]
pub struct Subscribed {
    client: Client,
    in_flight: Arc<InFlight>,
}

impl Subscribed {
    /// The connection.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// How many messages are being handled.
    pub fn in_flight(&self) -> usize {
        self.in_flight.count()
    }
}

impl<F, Fut> Part for NatsSubscriber<F>
where
    F: Fn(Client, Message) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), Error>> + Send + 'static,
{
    type Handle = Subscribed;

    fn name(&self) -> String {
        self.name.clone()
    }

    async fn start(self) -> Result<Started<Subscribed>, Error> {
        let NatsSubscriber { name, url, mut options, subject, group, at_once, handler } = self;
        let server: ServerAddr = url.parse()?;
        // The client reads the address for where, not for who.
        if let Some(user) = server.username() {
            let password = server.password().unwrap_or_default();
            options = options.user_and_password(user.to_owned(), password.to_owned());
        }
        let place = format!("{}:{}", server.host(), server.port());
        let client = options.connect(server).await.map_err(|error| Error::from(error).context(place))?;
        let subscriber = match group {
            Some(group) => client.queue_subscribe(subject, group).await?,
            None => client.subscribe(subject).await?,
        };
        // From now on messages are delivered. One that may not use inboxes does without.
        let echoes = heard(&client).await;
        if let Err(error) = &echoes {
            say(&name, &format!("whether the subscription is known already cannot be told: {error}"));
        }
        let server = Server { client: client.clone(), echoes: echoes.is_ok() };
        let in_flight = Arc::<InFlight>::default();
        let (tell, told) = watch::channel(false);
        let consumer = Consumer {
            name,
            server: server.clone(),
            in_flight: Arc::clone(&in_flight),
            turns: Arc::new(Semaphore::new(at_once)),
            handler: Arc::new(handler),
        };
        let turns = Arc::clone(&consumer.turns);
        let consuming = tokio::spawn(consumer.consume(subscriber, told));
        let handle = Subscribed { client: client.clone(), in_flight: Arc::clone(&in_flight) };
        let asked = Arc::clone(&in_flight);
        let stop = async move |cx: StopCx| stop(&in_flight, turns, &server, consuming, cx).await;
        Ok(Started::new(handle, stop)
            .on_stopping(move || {
                tell.send_replace(true);
            })
            .status(move || asked.tell())
            .serving())
    }
}

/// How long the server may take to answer at the start and at the stop.
const ANSWER: Duration = Duration::from_secs(2);

#[derive(Clone)]
struct Server {
    client: Client,
    /// It has sent back what was sent to an inbox.
    echoes: bool,
}

impl Server {
    /// Returns when it has heard all that was sent to it so far, as far as it can tell.
    async fn hears(&self) -> Result<(), Error> {
        if self.echoes {
            return heard(&self.client).await;
        }
        within(async { Ok(self.client.flush().await?) }).await
    }
}

/// Returns when the server has heard all that was sent to it so far.
///
/// # Errors
///
/// It does not say so in time: it is not there, or one may not use inboxes.
async fn heard(client: &Client) -> Result<(), Error> {
    let echoed = async {
        let inbox = client.new_inbox();
        let mut echo = client.subscribe(inbox.clone()).await?;
        client.publish(inbox, "".into()).await?;
        client.flush().await?;
        echo.next().await;
        echo.unsubscribe().await?;
        Ok::<(), Error>(())
    };
    let sent = || client.statistics().out_bytes.load(Ordering::Relaxed);
    let mut echoed = pin!(echoed);
    loop {
        let before = sent();
        match within(echoed.as_mut()).await {
            // What is still being written comes before it.
            Err(_) if sent() > before => {}
            answer => return answer,
        }
    }
}

async fn within<T>(answer: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let late = |_| Err(Error::msg(format!("the server did not answer within {ANSWER:?}")));
    tokio::time::timeout(ANSWER, answer).await.unwrap_or_else(late)
}

struct Consumer<F> {
    name: String,
    server: Server,
    in_flight: Arc<InFlight>,
    turns: Arc<Semaphore>,
    handler: Arc<F>,
}

impl<F, Fut> Consumer<F>
where
    F: Fn(Client, Message) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), Error>> + Send + 'static,
{
    /// Handles what comes until the stop begins, and then what has come. An error: the server did not hear of the end.
    async fn consume(self, mut subscriber: Subscriber, mut told: watch::Receiver<bool>) -> Result<(), Error> {
        loop {
            tokio::select! {
                biased;
                () = stopping(&mut told) => break,
                next = self.next(&mut subscriber) => match next {
                    Some((message, turn)) => self.handle(message, turn),
                    None => return Ok(()),
                },
            }
        }
        // What has come by now still comes; then the stream ends, unless there is no server to end it.
        let given_up = within(async { Ok(subscriber.drain().await?) }).await;
        let mut silent = pin!(async {
            if let Err(error) = given_up {
                return error;
            }
            // Again and again: the client notes that the stream is over when it next has something to send.
            loop {
                if let Err(error) = self.server.hears().await {
                    return error;
                }
                tokio::time::sleep(ANSWER).await;
            }
        });
        let silence = loop {
            tokio::select! {
                biased;
                next = self.next(&mut subscriber) => match next {
                    Some((message, turn)) => self.handle(message, turn),
                    None => return Ok(()),
                },
                error = &mut silent => break error,
            }
        };
        while let Ok(turn) = Arc::clone(&self.turns).acquire_owned().await {
            // In full: a task that has had its share of the runtime's time would find nothing there.
            match unconstrained(subscriber.next()).now_or_never().flatten() {
                Some(message) => self.handle(message, turn),
                None => break,
            }
        }
        Err(silence)
    }

    /// A turn first: a message that is taken is handled. `None` when the stream is over, or the stop was cut, which
    /// closes the turns.
    async fn next(&self, subscriber: &mut Subscriber) -> Option<(Message, OwnedSemaphorePermit)> {
        let turn = Arc::clone(&self.turns).acquire_owned().await.ok()?;
        Some((subscriber.next().await?, turn))
    }

    fn handle(&self, message: Message, turn: OwnedSemaphorePermit) {
        let what = format!("a message of {:?}", message.subject.as_str());
        let (handler, client, name) =
            (Arc::clone(&self.handler), self.server.client.clone(), self.name.clone());
        let handled = tokio::spawn(async move { handler(client, message).await });
        let busy = self.in_flight.begin(what.clone(), handled.abort_handle());
        tokio::spawn(async move {
            let _held = (busy, turn);
            match handled.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => say(&name, &format!("{what}: {error}")),
                Err(error) => say(&name, &format!("{what}: its handler {error}")),
            }
        });
    }
}

/// Returns when the stop begins. A sender that is gone means the same.
async fn stopping(told: &mut watch::Receiver<bool>) {
    let _ = told.wait_for(|stop| *stop).await;
}

async fn stop(
    in_flight: &Arc<InFlight>,
    turns: Arc<Semaphore>,
    server: &Server,
    consuming: JoinHandle<Result<(), Error>>,
    cx: StopCx,
) -> Result<(), Error> {
    let cut = Cut { turns, consuming: consuming.abort_handle(), in_flight: Arc::clone(in_flight) };
    cx.in_flight(in_flight.count());
    let given_up = consuming.await.unwrap_or(Ok(()));
    in_flight.none().await;
    drop(cut);
    cx.in_flight(0);
    // One that was silent is not asked again.
    let answered = match given_up {
        Ok(()) => server.hears().await,
        Err(error) => Err(error),
    };
    within(async { Ok(server.client.drain().await?) }).await?;
    answered.map_err(|error| error.context("whether what was answered has arrived cannot be told"))
}

/// A stop that is cut takes nothing more, and cuts the handlers.
struct Cut {
    turns: Arc<Semaphore>,
    consuming: AbortHandle,
    in_flight: Arc<InFlight>,
}

impl Drop for Cut {
    fn drop(&mut self) {
        self.turns.close();
        self.consuming.abort();
        self.in_flight.abort();
    }
}

fn say(name: &str, what: &str) {
    epilogue_scope::report::noticed(name, what);
}

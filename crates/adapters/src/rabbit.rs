//! A RabbitMQ consumer that stops without losing or repeating a message that it could still finish.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use epilogue_process::{Error, Part, Started, StopCx};
use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions,
};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties, Consumer};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::in_flight::InFlight;

/// Handles each message of a queue by `handler`, until the program stops. What it returns decides: `Ok` acknowledges the
/// message, an error or a panic gives it back to the queue.
///
/// The moment the stop begins no more messages are taken, and those that were sent ahead and not begun go back at once.
/// In its turn the stop waits for those that are being handled, acknowledges them, and closes channel and connection. One
/// that is not done at the deadline is named, and goes back to its queue: it will be handled again, by somebody else.
///
/// A connection that is lost is an error that is said on stderr; the consumer does not connect anew.
///
/// # Examples
///
/// ```no_run
/// # use epilogue_adapters::rabbit_consumer;
/// # use epilogue_process::{App, Error};
/// # async fn body(app: &App) -> Result<(), Error> {
/// let orders = rabbit_consumer("orders", "amqp://127.0.0.1:5672/%2f", "orders", |message| async move {
///     println!("{} bytes", message.data.len());
///     Ok(())
/// });
/// app.start(orders.prefetch(32)).await?;
/// # Ok(()) }
/// ```
pub fn rabbit_consumer<F, Fut>(
    name: impl Into<String>,
    uri: impl Into<String>,
    queue: impl Into<String>,
    handler: F,
) -> RabbitConsumer<F>
where
    F: Fn(Delivery) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), Error>> + Send + 'static,
{
    RabbitConsumer { name: name.into(), uri: uri.into(), queue: queue.into(), prefetch: 16, handler }
}

/// A consumer that has not started; see [`rabbit_consumer`].
#[must_use = "nothing is consumed until it is started: app.start(rabbit_consumer(…)).await?"]
pub struct RabbitConsumer<F> {
    name: String,
    uri: String,
    queue: String,
    prefetch: u16,
    handler: F,
}

impl<F> RabbitConsumer<F> {
    /// How many messages are handled at the same time: 16 unless set.
    pub fn prefetch(mut self, prefetch: u16) -> Self {
        self.prefetch = prefetch.max(1);
        self
    }
}

/// A running consumer.
#[derive(Clone)]
pub struct Consuming(Arc<Shared>);

impl Consuming {
    /// How many messages are being handled.
    pub fn in_flight(&self) -> usize {
        self.0.in_flight.count()
    }
}

struct Shared {
    stopping: AtomicBool,
    in_flight: Arc<InFlight>,
}

impl<F, Fut> Part for RabbitConsumer<F>
where
    F: Fn(Delivery) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), Error>> + Send + 'static,
{
    type Handle = Consuming;

    fn name(&self) -> String {
        self.name.clone()
    }

    async fn start(self) -> Result<Started<Consuming>, Error> {
        let RabbitConsumer { name, uri, queue, prefetch, handler } = self;
        let connection = Connection::connect(&uri, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
        let tag = format!("epilogue-{}", std::process::id());
        let begin = channel.basic_consume(
            queue.as_str().into(),
            tag.as_str().into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        );
        let consumer = begin.await?;
        let shared = Arc::new(Shared { stopping: AtomicBool::new(false), in_flight: Arc::default() });
        let consuming = tokio::spawn(consume(name, consumer, Arc::clone(&shared), Arc::new(handler)));
        let (told, cancels, runtime) = (Arc::clone(&shared), channel.clone(), Handle::current());
        let notice = move || {
            told.stopping.store(true, Ordering::Release);
            // No more are taken; the stream of those that were sent ends.
            drop(runtime.spawn(async move {
                cancels.basic_cancel(tag.as_str().into(), BasicCancelOptions::default()).await
            }));
        };
        let asked = Arc::clone(&shared.in_flight);
        let handle = Consuming(Arc::clone(&shared));
        let stop = async move |cx: StopCx| stop(&shared, connection, &channel, consuming, cx).await;
        Ok(Started::new(handle, stop).on_stopping(notice).status(move || asked.tell()).serving())
    }
}

async fn consume<F, Fut>(name: String, mut consumer: Consumer, shared: Arc<Shared>, handler: Arc<F>)
where
    F: Fn(Delivery) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), Error>> + Send + 'static,
{
    let give_back = BasicNackOptions { requeue: true, ..BasicNackOptions::default() };
    while let Some(delivery) = consumer.next().await {
        let delivery = match delivery {
            Ok(delivery) => delivery,
            Err(error) => {
                say(&name, &format!("no more messages come: {error}"));
                return;
            }
        };
        let acker = delivery.acker.clone();
        if shared.stopping.load(Ordering::Acquire) {
            if let Err(error) = acker.nack(give_back).await {
                say(&name, &format!("a message was not given back: {error}"));
            }
            continue;
        }
        let what = format!("message {} of {:?}", delivery.delivery_tag, delivery.routing_key.as_str());
        let name = name.clone();
        let handler = Arc::clone(&handler);
        // Within the task, so that a handler that panics before it has made its future is one like any other.
        let handled = tokio::spawn(async move { handler(delivery).await });
        let busy = shared.in_flight.begin(what, handled.abort_handle());
        tokio::spawn(async move {
            let _busy = busy;
            let told = match handled.await {
                Ok(Ok(())) => acker.ack(BasicAckOptions::default()).await,
                Ok(Err(error)) => {
                    say(&name, &format!("a message goes back: {error}"));
                    acker.nack(give_back).await
                }
                Err(error) => {
                    say(&name, &format!("a message goes back: its handler {error}"));
                    acker.nack(give_back).await
                }
            };
            if let Err(error) = told {
                say(&name, &format!("what became of a message was not told: {error}"));
            }
        });
    }
}

async fn stop(
    shared: &Arc<Shared>,
    connection: Connection,
    channel: &Channel,
    consuming: JoinHandle<()>,
    cx: StopCx,
) -> Result<(), Error> {
    cx.in_flight(shared.in_flight.count());
    let connection = Cut { shared: Arc::clone(shared), connection: Some(connection) };
    // The stream ends once the broker has heard that no more are wanted.
    let _ = consuming.await;
    shared.in_flight.none().await;
    cx.in_flight(0);
    channel.close(200, "stopped".into()).await?;
    connection.close().await
}

/// Dropped, it cuts what is being handled, and closes the connection: the broker gives the messages to others.
struct Cut {
    shared: Arc<Shared>,
    connection: Option<Connection>,
}

impl Cut {
    async fn close(mut self) -> Result<(), Error> {
        if let Some(connection) = self.connection.take() {
            connection.close(200, "stopped".into()).await?;
        }
        Ok(())
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        self.shared.in_flight.abort();
        if let Ok(runtime) = Handle::try_current() {
            drop(runtime.spawn(async move { connection.close(200, "stopped".into()).await }));
        }
    }
}

fn say(name: &str, what: &str) {
    epilogue_scope::report::noticed(name, what);
}

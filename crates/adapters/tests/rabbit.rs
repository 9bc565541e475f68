//! A consumer of a real RabbitMQ server.
#![cfg(feature = "rabbit")]

#[path = "../../guardian/tests/support/servers.rs"]
mod support;

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use epilogue_adapters::rabbit_consumer;
use epilogue_process::{App, Error, Options, run_with};
use lapin::options::{BasicPublishOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Connection, ConnectionProperties};
use tokio::sync::Semaphore;

const S: Duration = Duration::from_secs(1);

/// A broker of the test's own.
struct Broker {
    child: Child,
    dir: PathBuf,
    port: u16,
}

impl Broker {
    fn start(name: &str) -> Broker {
        let (port, distribution, dir) = (support::free_port(), support::free_port(), support::scratch(name));
        let node = format!("{name}-{}@localhost", std::process::id());
        let child = Command::new("/usr/lib/rabbitmq/bin/rabbitmq-server")
            .env("RABBITMQ_NODENAME", node)
            .env("RABBITMQ_NODE_PORT", port.to_string())
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_DIST_PORT", distribution.to_string())
            .env("RABBITMQ_MNESIA_BASE", dir.join("data"))
            .env("RABBITMQ_LOG_BASE", dir.join("log"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", dir.join("plugins"))
            .env("RABBITMQ_PID_FILE", dir.join("pid"))
            .env("HOME", &dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("rabbitmq-server is installed");
        let broker = Broker { child, dir, port };
        support::wait_until("the broker listens", || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        broker
    }

    fn uri(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.port)
    }

    async fn connect(&self) -> Connection {
        Connection::connect(&self.uri(), ConnectionProperties::default()).await.unwrap()
    }

    async fn publish(&self, queue: &str, count: usize) {
        let connection = self.connect().await;
        let channel = connection.create_channel().await.unwrap();
        channel
            .queue_declare(queue.into(), QueueDeclareOptions::default(), FieldTable::default())
            .await
            .unwrap();
        for _ in 0..count {
            let options = BasicPublishOptions::default();
            channel
                .basic_publish("".into(), queue.into(), options, b"order", BasicProperties::default())
                .await
                .unwrap();
        }
        connection.close(200, "".into()).await.unwrap();
    }

    /// How many messages wait in a queue, of which nobody has any.
    async fn ready(&self, queue: &str) -> u32 {
        let connection = self.connect().await;
        let channel = connection.create_channel().await.unwrap();
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let count = channel
            .queue_declare(queue.into(), passive, FieldTable::default())
            .await
            .unwrap()
            .message_count();
        connection.close(200, "".into()).await.unwrap();
        count
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // SAFETY: no memory is passed; the child was not waited for.
        unsafe { libc::kill(i32::try_from(self.child.id()).unwrap(), libc::SIGTERM) };
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_being_handled_is_acknowledged_and_what_was_only_sent_ahead_goes_back() {
    let broker = tokio::task::spawn_blocking(|| Broker::start("rabbit-drains")).await.unwrap();
    broker.publish("orders", 10).await;
    let (begun, handled, go) =
        (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
    let theirs = (Arc::clone(&begun), Arc::clone(&handled), Arc::clone(&go));
    let (_, report) = run_with(Options::embedded(), async |app: &App| {
        let (begun, handled, go) = theirs;
        let later = go.clone();
        let consumer = rabbit_consumer("orders", broker.uri(), "orders", move |message| {
            let (begun, handled, go) = (begun.clone(), handled.clone(), go.clone());
            async move {
                begun.fetch_add(1, Ordering::SeqCst);
                let _permit = go.acquire().await?;
                assert_eq!(message.data, b"order");
                handled.fetch_add(1, Ordering::SeqCst);
                Ok(())
            }
        });
        let consuming = app.start(consumer.prefetch(4)).await?;
        while consuming.in_flight() < 4 {
            tokio::time::sleep(S / 100).await;
        }
        app.stop();
        tokio::spawn(async move {
            tokio::time::sleep(S / 2).await;
            later.add_permits(10);
        });
        Ok(())
    })
    .await;
    assert_eq!(report.code, 0, "{report}");
    assert_eq!(begun.load(Ordering::SeqCst), 4, "none was taken after the stop began");
    assert_eq!(handled.load(Ordering::SeqCst), 4);
    assert_eq!(broker.ready("orders").await, 6, "the others are there for somebody else");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_not_done_at_the_deadline_is_named_and_goes_back_to_its_queue() {
    let broker = tokio::task::spawn_blocking(|| Broker::start("rabbit-cuts")).await.unwrap();
    broker.publish("orders", 2).await;
    let options = Options::embedded().grace(2 * S);
    let (_, report) = run_with(options, async |app: &App| {
        let fails_first = Arc::new(AtomicUsize::new(0));
        let consumer = rabbit_consumer("orders", broker.uri(), "orders", move |_| {
            let turn = fails_first.fetch_add(1, Ordering::SeqCst);
            async move {
                match turn {
                    0 => Err(Error::msg("not now")),
                    1 => std::panic::resume_unwind(Box::new("never")),
                    _ => std::future::pending().await,
                }
            }
        });
        let consuming = app.start(consumer).await?;
        // Both came again.
        while consuming.in_flight() < 2 {
            tokio::time::sleep(S / 100).await;
        }
        tokio::time::sleep(S / 5).await;
        app.stop();
        Ok(())
    })
    .await;
    assert_eq!(report.code, 124, "{report}");
    assert!(report.to_string().contains("abandoned: orders: message "), "{report}");
    let again = async {
        while broker.ready("orders").await != 2 {
            tokio::time::sleep(S / 20).await;
        }
    };
    tokio::time::timeout(20 * S, again).await.expect("both are in the queue again");
}

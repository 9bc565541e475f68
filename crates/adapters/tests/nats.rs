//! A subscriber of a real NATS server.
#![cfg(feature = "nats")]

#[path = "../../guardian/tests/support/servers.rs"]
mod support;

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use epilogue_adapters::nats_subscriber;
use epilogue_process::{App, Error, Options, run_with};
use tokio::sync::Semaphore;

const S: Duration = Duration::from_secs(1);

struct Server {
    child: Child,
    port: u16,
    login: &'static str,
}

impl Server {
    fn start() -> Server {
        Server::configured(&[])
    }

    fn without_inboxes() -> Server {
        let file = support::scratch("nats").join("nats.conf");
        let users = r#"authorization { users = [{ user: a, password: b, permissions: { subscribe: { deny: "_INBOX.>" } } }] }"#;
        std::fs::write(&file, users).unwrap();
        let mut server = Server::configured(&["-c", file.to_str().unwrap()]);
        server.login = "a:b@";
        server
    }

    fn configured(arguments: &[&str]) -> Server {
        let port = support::free_port();
        let child = Command::new("nats-server")
            .args(["-a", "127.0.0.1", "-p", &port.to_string()])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nats-server is installed");
        let server = Server { child, port, login: "" };
        support::wait_until("the server listens", || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        server
    }

    fn signal(&self, number: i32) {
        // SAFETY: no memory is passed; the child was not waited for, so its pid is its own.
        assert_eq!(unsafe { libc::kill(i32::try_from(self.child.id()).unwrap(), number) }, 0);
    }

    fn url(&self) -> String {
        format!("nats://{}127.0.0.1:{}", self.login, self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Until so many messages have come, the one with which the server tells that it listens included.
async fn until_received(client: &async_nats::Client, count: u64) {
    while client.statistics().in_messages.load(Ordering::SeqCst) < count {
        tokio::time::sleep(S / 100).await;
    }
}

/// A server that stands still, its connections open.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_no_longer_answers_holds_the_stop_for_seconds_and_no_longer() {
    silent(Server::start(), 123).await;
}

/// Then nobody can know.
#[tokio::test(flavor = "multi_thread")]
async fn nor_does_it_hold_one_who_may_not_use_inboxes() {
    silent(Server::without_inboxes(), 0).await;
}

async fn silent(server: Server, code: u8) {
    let login = async_nats::ConnectOptions::with_user_and_password("a".into(), "b".into());
    let other = login.connect(server.url()).await.unwrap();
    let handled = Arc::new(AtomicUsize::new(0));
    let theirs = Arc::clone(&handled);
    let (_, report) = run_with(Options::embedded(), async |app: &App| {
        let subscriber = nats_subscriber("orders", server.url(), "orders", move |_, _| {
            let handled = Arc::clone(&theirs);
            async move {
                tokio::time::sleep(S).await;
                handled.fetch_add(1, Ordering::SeqCst);
                Ok(())
            }
        });
        let subscribed = app.start(subscriber.at_once(1)).await?;
        // More than are handled before it is known to be silent.
        for _ in 0..4 {
            other.publish("orders", "".into()).await?;
        }
        // Whoever may not use inboxes gets no echo.
        until_received(subscribed.client(), if code == 0 { 4 } else { 5 }).await;
        server.signal(libc::SIGSTOP);
        app.stop();
        Ok(())
    })
    .await;
    server.signal(libc::SIGCONT);
    assert_eq!((report.code, handled.load(Ordering::SeqCst)), (code, 4), "{report}");
    assert!(report.total < 8 * S, "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_had_come_is_handled_and_answered_and_nothing_that_comes_later_is_taken() {
    let server = Server::start();
    let other = async_nats::connect(server.url()).await.unwrap();
    let (handled, go) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
    let theirs = (Arc::clone(&handled), Arc::clone(&go));
    let asking = other.clone();
    let answers = Arc::new(Mutex::new(None));
    let told = Arc::clone(&answers);
    let (_, report) = run_with(Options::embedded(), async |app: &App| {
        let (handled, go) = theirs;
        let later = go.clone();
        let subscriber = nats_subscriber("orders", server.url(), "orders.*", move |client, message| {
            let (handled, go) = (handled.clone(), go.clone());
            async move {
                let _permit = go.acquire().await?;
                handled.fetch_add(1, Ordering::SeqCst);
                if let Some(reply) = message.reply {
                    client.publish(reply, "done".into()).await?;
                }
                Ok(())
            }
        });
        let subscribed = app.start(subscriber.at_once(4).queue_group("workers")).await?;
        let answered: Vec<_> = (0..10)
            .map(|at| {
                let asking = asking.clone();
                tokio::spawn(async move { asking.request(format!("orders.{at}"), "".into()).await })
            })
            .collect();
        while subscribed.in_flight() < 4 {
            tokio::time::sleep(S / 100).await;
        }
        // The other six have come as well, and wait for their turn.
        until_received(subscribed.client(), 11).await;
        app.stop();
        app.stopping().await;
        let answers = tokio::spawn(async move {
            tokio::time::sleep(S / 5).await;
            let late = asking.request("orders.late", "".into()).await;
            assert!(late.is_err(), "nobody is subscribed any more");
            later.add_permits(10);
            for one in answered {
                assert_eq!(one.await.unwrap().unwrap().payload, "done");
            }
        });
        *told.lock().unwrap() = Some(answers);
        Ok(())
    })
    .await;
    let answers = answers.lock().unwrap().take().unwrap();
    answers.await.unwrap();
    assert_eq!((report.code, handled.load(Ordering::SeqCst)), (0, 10), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_server_the_stop_waits_for_seconds_and_a_stop_that_is_cut_takes_no_more() {
    let server = Server::start();
    let other = async_nats::connect(server.url()).await.unwrap();
    let begun = Arc::new(AtomicUsize::new(0));
    let theirs = Arc::clone(&begun);
    let (_, report) = run_with(Options::embedded().grace(2 * S), async |app: &App| {
        let subscriber = nats_subscriber("orders", server.url(), "orders", move |_, _| {
            theirs.fetch_add(1, Ordering::SeqCst);
            std::future::pending::<Result<(), Error>>()
        });
        let subscribed = app.start(subscriber.at_once(2)).await?;
        for _ in 0..6 {
            other.publish("orders", "".into()).await?;
        }
        while subscribed.in_flight() < 2 {
            tokio::time::sleep(S / 100).await;
        }
        until_received(subscribed.client(), 7).await;
        app.stop();
        Ok(())
    })
    .await;
    assert_eq!((report.code, report.abandoned().len()), (124, 3), "{report}");
    tokio::time::sleep(S / 2).await;
    assert_eq!(begun.load(Ordering::SeqCst), 2, "the others did not begin afterwards");

    let (_, report) = run_with(Options::embedded(), async |app: &App| {
        app.start(nats_subscriber("orders", server.url(), "orders", |_, _| async { Ok(()) })).await?;
        drop(server);
        app.stop();
        Ok(())
    })
    .await;
    assert_eq!(report.code, 123, "{report}");
    assert!(report.total < 5 * S, "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_done_at_the_deadline_is_named_and_a_server_that_is_not_there_is_an_error_of_the_start() {
    let server = Server::start();
    let other = async_nats::connect(server.url()).await.unwrap();
    let (_, report) = run_with(Options::embedded().grace(2 * S), async |app: &App| {
        let subscriber = nats_subscriber("orders", server.url(), "orders", |_, message| {
            assert!(message.payload != "bad", "before any future is made");
            async { std::future::pending::<Result<(), Error>>().await }
        });
        let subscribed = app.start(subscriber).await?;
        other.publish("orders", "bad".into()).await?;
        other.publish("orders", "good".into()).await?;
        while subscribed.in_flight() < 1 {
            tokio::time::sleep(S / 100).await;
        }
        until_received(subscribed.client(), 3).await;
        app.stop();
        Ok(())
    })
    .await;
    assert_eq!((report.code, report.abandoned().len()), (124, 2), "{report}");
    assert!(report.abandoned()[1].starts_with("orders: a message of \"orders\", for "), "{report}");

    let (_, report) = run_with(Options::embedded(), async |app: &App| {
        let nowhere = nats_subscriber("orders", "nats://127.0.0.1:1", "orders", |_, _| async { Ok(()) });
        app.start(nowhere).await?;
        Ok(())
    })
    .await;
    assert_eq!(report.code, 1, "{report}");
}

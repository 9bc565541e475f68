//! Registered with real requests, over real sockets, to a registry that has the faults of real ones.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use epilogue_process::{App, ExitReport, Options, Started, StepOutcome, http, part, run_with};
use epilogue_registry::{Client, Eureka, Instance, Local, Nacos, Registered, registered};
use epilogue_testkit::RegistryServer;
use tokio::sync::oneshot;

const LIMIT: Duration = Duration::from_secs(2);
const FAST: Duration = Duration::from_millis(100);

fn instance(port: u16) -> Instance {
    Instance::new("orders", "127.0.0.1", port).unwrap().weight(0.5).metadata("release", "7&8=\"9\"")
}

fn address(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

/// Until it holds: other tasks go on meanwhile.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let late = tokio::time::sleep(Duration::from_secs(20));
    tokio::pin!(late);
    while !holds() {
        tokio::select! {
            () = &mut late => panic!("never: {what}"),
            () = tokio::time::sleep(Duration::from_millis(5)) => {}
        }
    }
}

/// A program with this registration alone, until it is told to stop.
async fn with<T>(registration: Registered, body: impl AsyncFnOnce(&App) -> T) -> (Option<T>, ExitReport) {
    let mut came_of_it = None;
    let (_, report) = run_with(Options::embedded(), async |app: &App| {
        app.start(registration).await?;
        came_of_it = Some(body(app).await);
        app.stop();
        Ok(())
    })
    .await;
    (came_of_it, report)
}

fn each(server: &RegistryServer) -> Vec<(&'static str, Arc<dyn Client>)> {
    vec![
        ("nacos", Arc::new(Nacos::at(server.nacos()))),
        ("eureka", Arc::new(Eureka::at(server.eureka()))),
        ("local", Arc::new(Local::new())),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn each_registry_knows_an_instance_with_all_that_is_said_of_it_until_it_leaves() {
    let server = RegistryServer::start().await.unwrap();
    for old in [false, true] {
        server.is_old(old);
        for (name, client) in each(&server) {
            tokio::task::spawn_blocking(move || {
                assert_eq!(client.list("orders", LIMIT).unwrap(), [], "{name}");
                client.register(&instance(8080), LIMIT).unwrap();
                client.register(&instance(8081), LIMIT).unwrap();
                client.register(&instance(8080), LIMIT).unwrap();
                let mut all = client.list("orders", LIMIT).unwrap();
                all.sort_by_key(Instance::address);
                assert_eq!(all, [instance(8080), instance(8081)], "{name}");
                client.deregister(&instance(8080), LIMIT).unwrap();
                client.deregister(&instance(8080), LIMIT).unwrap();
                assert_eq!(client.list("orders", LIMIT).unwrap(), [instance(8081)], "{name}, of one");
                client.deregister(&instance(8081), LIMIT).unwrap();
            })
            .await
            .unwrap();
        }
    }
    let asked = server.asked();
    assert!(
        asked.iter().any(|asked| asked.contains("/v3/")) && asked.iter().any(|asked| asked.contains("/v1/"))
    );
}

#[tokio::test]
async fn heartbeats_keep_it_alive_and_one_that_was_forgotten_is_registered_again() {
    let server = RegistryServer::start().await.unwrap();
    for old in [false, true] {
        server.is_old(old);
        let registration = registered(Nacos::at(server.nacos()), instance(8080)).beat_every(FAST);
        let (_, report) = with(registration, async |_| {
            for _ in 0..4 {
                let beats = server.asked().len();
                server.advance(Duration::from_secs(14));
                until("another heartbeat", || server.asked().len() > beats + 1).await;
                assert_eq!(server.instances("orders"), [address(8080)]);
            }
            server.forget();
            until("it is registered again", || server.instances("orders") == [address(8080)]).await;
        })
        .await;
        assert_eq!((report.code, server.instances("orders").len()), (0, 0), "{report}");
    }
}

#[tokio::test]
async fn eureka_forgets_who_is_silent_but_not_while_it_preserves_itself() {
    let server = RegistryServer::start().await.unwrap();
    let silent = registered(Eureka::at(server.eureka()), instance(8080)).beat_every(Duration::from_secs(60));
    let (_, report) = with(silent, async |_| {
        server.preserves_itself(true);
        server.advance(Duration::from_secs(100));
        assert_eq!(server.instances("orders"), [address(8080)]);
        server.preserves_itself(false);
        server.advance(Duration::ZERO);
        assert_eq!(server.instances("orders"), []);
    })
    .await;
    assert_eq!(report.code, 0, "to leave where one is not known is success: {report}");
}

#[tokio::test]
async fn it_is_left_the_moment_the_stop_begins_whatever_stops_before_it() {
    let server = RegistryServer::start().await.unwrap();
    let nacos = Nacos::at(server.nacos());
    let (gone, see) = oneshot::channel::<()>();
    let (_, report) = run_with(Options::embedded(), async |app: &App| {
        app.start(registered(nacos, instance(8080))).await?;
        let holds = async move |_| {
            let _ = see.await;
            Ok(())
        };
        app.start(part("newer", async || Ok(Started::new((), holds)))).await?;
        assert_eq!(server.instances("orders"), [address(8080)]);
        app.stop();
        until("it is left", || server.instances("orders").is_empty()).await;
        let _ = gone.send(());
        Ok(())
    })
    .await;
    assert_eq!(report.code, 0, "{report}");
    assert!(report.to_string().contains("left after"), "{report}");
}

#[tokio::test]
async fn the_server_listens_until_whoever_polls_the_registry_has_learned_it() {
    let server = RegistryServer::start().await.unwrap();
    let nacos = Nacos::at(server.nacos()).polled_every(Duration::from_secs(1));
    let (_, report) = run_with(Options::embedded(), async |app: &App| {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let router = Router::new().route("/", get(|| async { "hello" }));
        let http = app.start(http::serve(listener, router)).await?;
        app.start(registered(nacos, instance(http.local_addr().port()))).await?;
        // Nobody has asked for anything yet: somebody may be about to.
        app.stop();
        Ok(())
    })
    .await;
    let [left, http] = report.steps.as_slice() else { panic!("{report}") };
    assert_eq!((left.name.as_str(), report.code), ("registry orders", 0), "{report}");
    assert!(left.time < Duration::from_secs(1), "it is not waited for twice: {report}");
    assert!(http.time > Duration::from_millis(1900), "a poll, and a second: {report}");
}

#[tokio::test]
async fn a_registry_that_fails_at_the_start_is_tried_again_and_one_that_is_not_there_is_an_error() {
    let server = RegistryServer::start().await.unwrap();
    server.fails(3, 503);
    let (known, _) =
        with(registered(Nacos::at(server.nacos()), instance(8080)), async |_| server.instances("orders"))
            .await;
    assert_eq!(known.unwrap(), [address(8080)]);

    let nowhere = || Nacos::at("http://127.0.0.1:1/nacos");
    let required = registered(nowhere(), instance(8080)).start_limit(FAST);
    let (started, report) = with(required, async |_| ()).await;
    assert!(started.is_none() && report.code == 1, "{report}");
    assert!(format!("{:?}", report.trigger).contains("POST http://127.0.0.1:1/nacos/v3/client/ns/instance"));

    let optional = registered(nowhere(), instance(8080)).start_limit(FAST).optional();
    let (started, report) = with(optional, async |_| ()).await;
    assert!(started.is_some(), "{report}");
    let StepOutcome::Failed { error } = &report.steps[0].outcome else { panic!("{report}") };
    assert!(error.contains("it forgets this instance without heartbeats"), "{report}");
}

#[tokio::test]
async fn a_registry_that_is_back_knows_it_again() {
    let server = RegistryServer::start().await.unwrap();
    let registration = registered(Eureka::at(server.eureka()), instance(8080)).beat_every(FAST);
    let (_, report) = with(registration, async |_| {
        server.fails(3, 503);
        server.forget();
        until("it is registered again", || server.instances("orders") == [address(8080)]).await;
        server.breaks_off(2);
        let asked = server.asked().len();
        until("it goes on", || server.asked().len() > asked + 4).await;
    })
    .await;
    assert_eq!((report.code, server.instances("orders").len()), (0, 0), "{report}");
}

#[tokio::test]
async fn a_heartbeat_that_is_on_its_way_when_it_leaves_does_not_put_it_back() {
    let server = RegistryServer::start().await.unwrap();
    let registration = registered(Nacos::at(server.nacos()), instance(8080)).beat_every(FAST);
    let (_, report) = with(registration, async |_| {
        // The next heartbeat is told that it is not known; the registration that follows takes its time.
        server.forget();
        server.stalls(2, Duration::from_millis(300));
        let registers = || server.asked().iter().filter(|asked| asked.starts_with("POST")).count();
        let before = registers();
        until("the registration is on its way", || registers() >= before + 2).await;
    })
    .await;
    assert_eq!((report.code, server.instances("orders").len()), (0, 0), "{report}");
}

#[tokio::test]
async fn a_registry_that_hangs_costs_its_limit_and_is_named() {
    let server = RegistryServer::start().await.unwrap();
    let registration =
        registered(Nacos::at(server.nacos()), instance(8080)).limit(Duration::from_millis(300));
    let (_, report) = with(registration, async |_| server.stalls(10, Duration::from_secs(60))).await;
    let StepOutcome::Failed { error } = &report.steps[0].outcome else { panic!("{report}") };
    assert!(error.starts_with("DELETE http://127.0.0.1:"), "{report}");
    assert!(report.total < Duration::from_secs(3), "{report}");
}

#[tokio::test]
async fn with_a_login_a_token_that_has_ended_is_asked_for_anew() {
    let server = RegistryServer::start().await.unwrap();
    server.wants_login("epilogue", "secret");
    for old in [false, true] {
        server.is_old(old);
        let nacos = Nacos::at(server.nacos()).login("epilogue", "secret");
        let (_, report) = with(registered(nacos, instance(8080)), async |_| {
            assert_eq!(server.instances("orders"), [address(8080)]);
            server.expires_tokens();
        })
        .await;
        assert_eq!((report.code, server.instances("orders").len()), (0, 0), "{report}");
    }
    let nowhere = Nacos::at("").login("epilogue", "secret").list("orders", LIMIT).unwrap_err().to_string();
    assert!(nowhere.ends_with("it is no address with http:// and a host") && !nowhere.contains("secret"));
    let wrong = Nacos::at(server.nacos()).login("epilogue", "wrong");
    let (started, report) = with(registered(wrong, instance(8080)).start_limit(FAST), async |_| ()).await;
    assert!(started.is_none() && format!("{:?}", report.trigger).contains("status 403"), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_hangs_keeps_nobody_else_beyond_its_limit() {
    let server = RegistryServer::start().await.unwrap();
    server.wants_login("epilogue", "secret");
    server.stalls(2, Duration::from_secs(60));
    let nacos = Arc::new(Nacos::at(server.nacos()).login("epilogue", "secret"));
    let list = |limit: Duration| {
        let nacos = Arc::clone(&nacos);
        tokio::task::spawn_blocking(move || nacos.list("orders", limit))
    };
    let patient = list(Duration::from_secs(3));
    until("the login is on its way", || server.asked().len() == 1).await;
    let began = std::time::Instant::now();
    assert!(list(FAST).await.unwrap().is_err());
    assert!(began.elapsed() < LIMIT, "{:?}", began.elapsed());
    assert!(patient.await.unwrap().is_err());
}

#[tokio::test]
async fn a_start_that_is_dropped_with_its_call_on_the_way_leaves_nothing_behind() {
    let server = RegistryServer::start().await.unwrap();
    server.stalls(1, Duration::from_millis(500));
    let options = Options::embedded().body_limit(Duration::from_millis(50));
    let (_, report) = run_with(options, async |app: &App| {
        let stop = async {
            until("the call is on its way", || !server.asked().is_empty()).await;
            app.stop();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            started = app.start(registered(Nacos::at(server.nacos()), instance(8080))) => drop(started?),
            () = stop => {}
        }
        Ok(())
    })
    .await;
    assert!(report.body_dropped, "{report}");
    until("what it owed is paid", || epilogue_task::lane::pending() == 0).await;
    let asked = server.asked();
    assert!(asked[0].starts_with("POST ") && asked.last().unwrap().starts_with("DELETE "), "{asked:?}");
    assert_eq!(server.instances("orders"), []);
}

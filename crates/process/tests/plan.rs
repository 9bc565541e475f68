//! The plan of the stop, as a program tells it before it stops.

mod rig;

use std::process::{ExitCode, Output};
use std::time::Duration;

use epilogue_process::{App, Error, Options, Plan, Started, main_with, part, run_with};
use rig::PROGRAM;

const S: Duration = Duration::from_secs(1);

/// Not a test: the programs. Without the variable there is nothing to do.
#[test]
fn program() {
    let Ok(name) = std::env::var(PROGRAM) else { return };
    let code = main_with(Options::default().quiet(true), async |app: &App| {
        service(app, &name).await?;
        println!("all started");
        if name != "returns" {
            app.stopping().await;
        }
        Ok(())
    });
    std::process::exit(i32::from(code != ExitCode::SUCCESS));
}

/// A pool, a server, and what came too late to serve it.
async fn service(app: &App, name: &str) -> Result<(), Error> {
    let floor = if name == "greedy" { 20 * S } else { S };
    let stops = |name: &'static str| part(name, async || Ok(Started::new((), async |_| Ok(()))));
    app.defer("lock file", async || Ok(()));
    app.start(part("pool", async || Ok(Started::new((), async |_| Ok(())).floor(floor).cap(10 * S)))).await?;
    app.start(part("http", async || Ok(Started::new((), async |_| Ok(())).floor(floor).serving()))).await?;
    app.start(stops("cache")).await?;
    app.spawn("asks for the stop", app.stopping());
    Ok(())
}

async fn planned(name: &str) -> Plan {
    let mut plan = None;
    let options = Options::embedded().grace(30 * S);
    let (_, report) = run_with(options, async |app: &App| {
        service(app, name).await?;
        plan = Some(app.plan());
        app.stop();
        Ok(())
    })
    .await;
    let plan = plan.unwrap();
    let order = |steps: Vec<&str>| steps.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(
        order(plan.steps.iter().map(|step| step.name.as_str()).collect()),
        order(report.steps.iter().map(|step| step.name.as_str()).collect()),
        "what was planned is what was done"
    );
    plan
}

#[tokio::test]
async fn each_step_is_told_what_it_may_take_at_best_and_at_worst() {
    let plan = planned("modest").await;
    let [task, cache, http, pool, file] = plan.steps.as_slice() else { panic!("{plan}") };
    // 28 s, of which the later ones keep 250 ms, 1 s, 1 s and 500 ms.
    assert_eq!(task.at_most, 28 * S - Duration::from_millis(2750));
    assert_eq!(cache.at_least, Duration::from_millis(250), "the task may have taken all but the floors");
    assert_eq!((http.at_most, http.at_least), (28 * S - Duration::from_millis(1500), S));
    assert_eq!((pool.at_most, pool.at_least), (10 * S, S), "never more than its cap");
    assert_eq!((file.at_least, file.over_by), (Duration::from_millis(500), 28 * S));
    assert!(plan.errors.is_empty());
    let [cap, late, later] = plan.warnings.as_slice() else { panic!("{plan}") };
    assert_eq!(cap, "pool gets only 1.0 s of its 10.0 s when everything before it takes its time");
    assert!(late.starts_with("asks for the stop stops before http"), "{late}");
    assert_eq!(later, "cache stops before http, whose requests in flight may still need it: start it before");
}

#[tokio::test]
async fn floors_beyond_the_budget_are_an_error() {
    let plan = planned("greedy").await;
    let [error] = plan.errors.as_slice() else { panic!("{plan}") };
    assert!(error.starts_with("the floors of all steps are 40.8 s together, more than the budget of 28.0 s"));
    assert!(error.ends_with("cache, http, pool, lock file"), "{error}");
}

#[tokio::test]
async fn neither_a_starting_part_nor_a_run_within_makes_a_body_ready() {
    let (_, report) = run_with(Options::embedded(), async |app: &App| {
        let watches = app.clone();
        let started = part("watches", async || {
            tokio::select! {
                () = watches.stopping() => unreachable!("nobody has asked"),
                () = tokio::task::yield_now() => {}
            }
            Ok(Started::new((), async |_| Ok(())))
        });
        app.start(started).await?;
        assert!(!app.is_ready());
        run_with(Options::embedded(), async |inner: &App| {
            tokio::task::yield_now().await;
            assert!(!inner.is_ready());
            inner.stop();
            Ok(())
        })
        .await;
        assert!(!app.is_ready());
        let stopping = std::pin::pin!(app.stopping());
        tokio::select! {
            () = stopping => unreachable!("nobody has asked"),
            () = tokio::task::yield_now() => {}
        }
        assert!(app.is_ready());
        Ok(())
    })
    .await;
    assert_eq!(report.code, 0, "{report}");
}

fn ask(name: &str, how: &str) -> Output {
    rig::command(name, &[]).0.env("EPILOGUE_PLAN", how).output().unwrap()
}

#[test]
fn a_program_that_is_asked_for_its_plan_starts_tells_it_and_stops() {
    for name in ["waits", "returns"] {
        let output = ask(name, "1");
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
        let after = told.split_once("all started\n").unwrap().1;
        assert!(after.starts_with("plan of the stop: grace 30.0 s (the default), of which 28.0 s"), "{told}");
        assert!(told.contains("warning: cache stops before http"), "{told}");
    }
    let output = ask("waits", "json");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let json = told.split_once("all started\n").unwrap().1;
    let plan: serde_json::Value =
        serde_json::Deserializer::from_str(json).into_iter().next().unwrap().unwrap();
    assert_eq!((&plan["schema"], &plan["budget_ms"]), (&"epilogue.plan/v1".into(), &28000.0.into()));
    assert_eq!(plan["steps"][2]["name"], "http");
}

#[test]
fn a_plan_that_will_not_do_is_a_failure() {
    let output = ask("greedy", "1");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("error: the floors of all steps"));
}

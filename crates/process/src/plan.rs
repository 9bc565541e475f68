//! The plan of the stop: its order, and what each step may take, before anything stops.

use std::fmt;
use std::panic::Location;
use std::time::Duration;

use serde::Serialize;

use crate::app::{App, Inner};
use crate::budget;
use crate::report::{StepKind, as_ms, short};

/// What [`App::plan`] returns: what is owed by now, in the order in which it will stop, and how much time there
/// is for it.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Plan {
    /// `epilogue.plan/v1`.
    pub schema: &'static str,
    /// How long the platform waits before it kills.
    #[serde(rename = "grace_ms", serialize_with = "as_ms")]
    pub grace: Duration,
    /// How that is known.
    pub grace_from: &'static str,
    /// What may be spent of it.
    #[serde(rename = "budget_ms", serialize_with = "as_ms")]
    pub budget: Duration,
    /// The steps, the first to stop first.
    pub steps: Vec<PlannedStep>,
    /// What will not do: the exit code of a program that is asked for its plan is 1 then.
    pub errors: Vec<String>,
    /// What may surprise.
    pub warnings: Vec<String>,
}

/// One step of a [`Plan`].
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct PlannedStep {
    /// The name it was started under.
    pub name: String,
    /// What it is.
    pub kind: StepKind,
    /// `file:line` of its start.
    pub place: String,
    /// What earlier steps leave to it in any case.
    #[serde(rename = "floor_ms", serialize_with = "as_ms")]
    pub floor: Duration,
    /// The longest it may take, budget or not; `null`: as long as the budget allows.
    #[serde(rename = "cap_ms", serialize_with = "maybe_as_ms")]
    pub cap: Option<Duration>,
    /// It serves until it is told to stop.
    pub serves: bool,
    /// How long it has when all before it stop at once.
    #[serde(rename = "at_most_ms", serialize_with = "as_ms")]
    pub at_most: Duration,
    /// How long it has when all before it take all they may.
    #[serde(rename = "at_least_ms", serialize_with = "as_ms")]
    pub at_least: Duration,
    /// When it is over at the latest, counted from the first signal.
    #[serde(rename = "over_by_ms", serialize_with = "as_ms")]
    pub over_by: Duration,
}

impl PlannedStep {
    /// One whose times are still to be filled in.
    pub(crate) fn new(
        name: &str,
        kind: StepKind,
        place: &'static Location<'static>,
        floor: Duration,
    ) -> Self {
        PlannedStep {
            name: name.to_owned(),
            kind,
            place: place.to_string(),
            floor,
            cap: None,
            serves: false,
            at_most: Duration::ZERO,
            at_least: Duration::ZERO,
            over_by: Duration::ZERO,
        }
    }
}

impl App {
    /// The plan of the stop, were it to begin now.
    ///
    /// A program that is started with `EPILOGUE_PLAN=1` (or `json`) in its environment, or with
    /// [`Options::plan`](crate::Options::plan), starts, prints its plan on stdout when everything has started,
    /// and stops; with status 1 if there are [errors](Plan::errors).
    ///
    /// # Examples
    ///
    /// ```
    /// # use epilogue_process::{App, Options, Started, part, run_with};
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// run_with(Options::embedded().grace(Duration::from_secs(30)), async |app: &App| {
    ///     app.start(part("pool", async || Ok(Started::new((), async |_| Ok(()))))).await?;
    ///     let plan = app.plan();
    ///     assert_eq!(plan.steps[0].name, "pool");
    ///     assert_eq!(plan.steps[0].at_most, Duration::from_secs(28));
    ///     Ok(())
    /// })
    /// .await;
    /// # }
    /// ```
    pub fn plan(&self) -> Plan {
        plan(&self.inner)
    }
}

pub(crate) fn plan(inner: &Inner) -> Plan {
    let (grace, budget) = (&inner.grace, inner.grace.budget());
    let mut steps = inner.stack.plan();
    steps.extend(inner.last.plan());
    let mut plan = Plan {
        schema: "epilogue.plan/v1",
        grace: grace.time,
        grace_from: grace.from,
        budget,
        steps: with_limits(steps, budget),
        errors: Vec::new(),
        warnings: Vec::new(),
    };
    plan.errors.extend(floors_beyond(&plan));
    plan.warnings = caps_out_of_reach(&plan).chain(stopped_before_a_server(&plan)).collect();
    plan
}

/// The first to stop comes first; its limits are filled in.
fn with_limits(mut steps: Vec<PlannedStep>, budget: Duration) -> Vec<PlannedStep> {
    let mut later: Duration = steps.iter().map(|step| step.floor).sum();
    let mut left = budget;
    for step in &mut steps {
        later = later.saturating_sub(step.floor);
        step.at_most = budget::limit(budget, step.floor, step.cap, later);
        step.at_least = budget::limit(left, step.floor, step.cap, later);
        left = left.saturating_sub(step.at_least);
        step.over_by = budget - left;
    }
    steps
}

fn floors_beyond(plan: &Plan) -> Option<String> {
    let floors: Duration = plan.steps.iter().map(|step| step.floor).sum();
    (floors > plan.budget).then(|| {
        let names: Vec<&str> = plan.steps.iter().map(|step| step.name.as_str()).collect();
        format!(
            "the floors of all steps are {} together, more than the budget of {}: the last ones may get no time. \
             Raise the grace ({}), or lower floors of: {}",
            short(floors),
            short(plan.budget),
            budget::GRACE_ENV,
            names.join(", ")
        )
    })
}

fn caps_out_of_reach(plan: &Plan) -> impl Iterator<Item = String> {
    let reduced = |step: &&PlannedStep| step.cap.is_some_and(|cap| cap > step.at_least);
    plan.steps.iter().filter(reduced).map(|step| {
        format!(
            "{} gets only {} of its {} when everything before it takes its time",
            step.name,
            short(step.at_least),
            short(step.cap.unwrap_or_default())
        )
    })
}

/// What a request needs has to outlive the server: so it is to be started before it.
fn stopped_before_a_server(plan: &Plan) -> impl Iterator<Item = String> {
    plan.steps.iter().enumerate().filter_map(|(at, step)| {
        let server = plan.steps[at + 1..].iter().find(|later| later.serves)?;
        let used = !step.serves && step.kind != StepKind::Cleanup;
        used.then(|| {
            format!(
                "{} stops before {}, whose requests in flight may still need it: start it before",
                step.name, server.name
            )
        })
    })
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (grace, budget) = (short(self.grace), short(self.budget));
        writeln!(f, "plan of the stop: grace {grace} ({}), of which {budget} may be spent", self.grace_from)?;
        let width = self.steps.iter().map(|step| step.name.len()).max().unwrap_or(0).max(4);
        writeln!(f, "  {:width$}  {:>8}  {:>8}  {:>8}", "step", "at most", "at least", "over by")?;
        for step in &self.steps {
            let times = [step.at_most, step.at_least, step.over_by].map(short);
            let [at_most, at_least, over_by] = times;
            writeln!(f, "  {:width$}  {at_most:>8}  {at_least:>8}  {over_by:>8}  {}", step.name, step.place)?;
        }
        for error in &self.errors {
            writeln!(f, "  error: {error}")?;
        }
        self.warnings.iter().try_for_each(|warning| writeln!(f, "  warning: {warning}"))
    }
}

fn maybe_as_ms<S: serde::Serializer>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => as_ms(time, serializer),
        None => serializer.serialize_none(),
    }
}

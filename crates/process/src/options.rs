//! Settings of [`run_with`](crate::run_with).

use std::path::PathBuf;
use std::time::Duration;

use epilogue_task::TaskPanic;

use crate::budget::Grace;

/// Settings of a run. [`Options::default`] is what a program wants; [`Options::embedded`] is for
/// tests and for running inside a larger program.
#[derive(Clone, Debug)]
pub struct Options {
    pub(crate) grace: Option<Grace>,
    pub(crate) task_panic: TaskPanic,
    pub(crate) owns_process: bool,
    pub(crate) quiet: bool,
    pub(crate) report_file: Option<PathBuf>,
    pub(crate) body_limit: Duration,
    pub(crate) environment: bool,
    pub(crate) panic_hook: bool,
    pub(crate) exit_style: ExitStyle,
    pub(crate) list_scopes: bool,
    pub(crate) plan: PlanAs,
    pub(crate) upgrade_limit: Duration,
    pub(crate) report_as: ReportAs,
}

/// Whether a program is only asked for its plan, and how it is to tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PlanAs {
    NotAsked,
    Text,
    Json,
}

/// How a program that was stopped by a signal, and has stopped completely, ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExitStyle {
    /// With status 0: for whoever supervises a service, a stop that was asked for is a success.
    #[default]
    Service,
    /// By the signal itself, once everything has run. A shell stops a loop only when its command has *died* of
    /// SIGINT, and not when that exits with 130. As PID 1: 128 + its number.
    ///
    /// The process does not exit then: handlers of `atexit` do not run, and with [`run`](crate::run) nor does
    /// what detached tasks of its runtime owe. [`main`](crate::main) waits for the latter.
    Tool,
}

/// How the exit report is told on stderr.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReportAs {
    /// For people: a line for each step.
    #[default]
    Text,
    /// [One line](crate::ExitReport::line) of `key=value`.
    Line,
    /// One line of JSON, as [`write_json`](crate::ExitReport::write_json) has it.
    Json,
}

impl ReportAs {
    fn of(asked: Option<String>) -> ReportAs {
        match asked.as_deref() {
            None | Some("" | "text") => ReportAs::Text,
            Some("line") => ReportAs::Line,
            Some("json") => ReportAs::Json,
            Some(other) => {
                let words = "it is text, line or json; the report is told as text";
                crate::os::say(&format!("epilogue: {REPORT_AS_ENV}={other:?}: {words}"));
                ReportAs::Text
            }
        }
    }
}

/// The variable that says how the report is told.
const REPORT_AS_ENV: &str = "EPILOGUE_REPORT_AS";
/// The variable that asks for the plan.
const PLAN_ENV: &str = "EPILOGUE_PLAN";

impl PlanAs {
    fn of(asked: Option<String>) -> PlanAs {
        match asked.as_deref() {
            None | Some("" | "0") => PlanAs::NotAsked,
            Some("json") => PlanAs::Json,
            Some(_) => PlanAs::Text,
        }
    }
}

impl Default for Options {
    fn default() -> Options {
        Options {
            grace: None,
            task_panic: TaskPanic::Isolate,
            owns_process: true,
            quiet: false,
            report_file: std::env::var_os("EPILOGUE_REPORT").map(PathBuf::from),
            body_limit: Duration::from_secs(5),
            environment: true,
            panic_hook: true,
            exit_style: ExitStyle::Service,
            list_scopes: false,
            plan: PlanAs::of(std::env::var(PLAN_ENV).ok()),
            upgrade_limit: Duration::from_secs(60),
            report_as: ReportAs::of(std::env::var(REPORT_AS_ENV).ok()),
        }
    }
}

impl Options {
    /// No signal handlers, no exit hook, nothing printed, and the process is never ended: the
    /// caller gets code and report, and stops the run by [`App::stop`](crate::App::stop).
    pub fn embedded() -> Options {
        let plan = PlanAs::NotAsked;
        Options { owns_process: false, quiet: true, report_file: None, plan, ..Options::default() }
    }

    /// Takes nothing from the environment: neither `EPILOGUE_GRACE`, `EPILOGUE_REPORT`,
    /// `EPILOGUE_REPORT_AS`, `EPILOGUE_RING`, `EPILOGUE_PLAN` and `EPILOGUE_SCOPES`, nor what platform this is. For a program that runs others, for which those
    /// variables are meant.
    pub fn without_environment(mut self) -> Options {
        self.environment = false;
        self.plan = PlanAs::NotAsked;
        self.report_file = None;
        self.report_as = ReportAs::Text;
        self
    }

    /// How long the platform waits between the first stop signal and SIGKILL.
    pub fn grace(mut self, grace: Duration) -> Options {
        self.grace = Some(Grace::stated(grace));
        self
    }

    /// What a panic in a spawned task means.
    pub fn on_task_panic(mut self, policy: TaskPanic) -> Options {
        self.task_panic = policy;
        self
    }

    /// Prints neither that the stop begins nor the exit report. Errors and what was abandoned are printed all the same.
    pub fn quiet(mut self, quiet: bool) -> Options {
        self.quiet = quiet;
        self
    }

    /// Writes the exit report as JSON to this file; without it, to the one that `EPILOGUE_REPORT`
    /// names, if any.
    pub fn report_file(mut self, path: impl Into<PathBuf>) -> Options {
        self.report_file = Some(path.into());
        self
    }

    /// How the exit report is told on stderr; without it as `EPILOGUE_REPORT_AS` says: `text`, `line` or `json`.
    pub fn report_as(mut self, report_as: ReportAs) -> Options {
        self.report_as = report_as;
        self
    }

    /// How long the body may go on after the stop began, 5 s unless set: a start in progress ends
    /// within it, or is dropped.
    pub fn body_limit(mut self, limit: Duration) -> Options {
        self.body_limit = limit;
        self
    }

    /// How the process ends when a signal has stopped it and everything has run. [`ExitStyle::Tool`] is for
    /// interactive programs; [`run`](crate::run) does not return then.
    pub fn exit_style(mut self, style: ExitStyle) -> Options {
        self.exit_style = style;
        self
    }

    /// Starts only to print the [plan](crate::App::plan) of its stop, and stops: what a `--plan` of the program
    /// may set. Without it a variable `EPILOGUE_PLAN=1` (or `json`) does.
    pub fn plan(mut self, plan: bool) -> Options {
        self.plan = match (plan, self.plan) {
            (true, PlanAs::NotAsked) => PlanAs::Text,
            (true, asked) => asked,
            (false, _) => PlanAs::NotAsked,
        };
        self
    }

    /// How long a new generation of the program may take to be ready in an [upgrade](crate::App::upgrade); 60 s
    /// unless set.
    pub fn upgrade_limit(mut self, limit: Duration) -> Options {
        self.upgrade_limit = limit;
        self
    }

    /// Lists the scopes that are alive from the start, for the dump that SIGUSR1 asks for; so does a variable
    /// `EPILOGUE_SCOPES=1`. Otherwise the first dump begins the list. See
    /// [`list_live_scopes`](epilogue_scope::record::list_live_scopes) for what it costs.
    pub fn list_scopes(mut self, list: bool) -> Options {
        self.list_scopes = list;
        self
    }

    /// Whether `run` replaces the standard panic hook; it does unless told otherwise. A hook that
    /// somebody else has set stays in any case.
    ///
    /// The standard hook prints a full backtrace for every panic that a cleanup raises while another
    /// one unwinds, whatever `RUST_BACKTRACE` says, which takes milliseconds each. Ours prints the
    /// same message, and a backtrace when asked to.
    pub fn panic_hook(mut self, set: bool) -> Options {
        self.panic_hook = set;
        self
    }
}

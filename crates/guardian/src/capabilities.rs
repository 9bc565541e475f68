//! How far the promise reaches here, said before anything is owed.

use std::fmt;
use std::fs;

use epilogue_journal::Tier;
use serde::Serialize;

use crate::home::{Home, HomeError};
use crate::os;

/// How far durable cleanups reach in this place.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Capabilities {
    /// Where the journal goes, and how that was found.
    pub journal: String,
    /// Why places before it were passed over.
    pub passed_over: Vec<String>,
    /// Whether what is owed is still known after a power cut or a reboot.
    pub survives_reboot: bool,
    /// Whether records can be promised to survive a power cut.
    pub power_tier: bool,
    /// Whether the death of a process is told at once, without a race about its pid.
    pub pidfd: bool,
    /// This process is the first of its PID namespace: its death takes the guardian with it.
    pub is_pid_1: bool,
    /// It is in a PID namespace of its own: a container, whose end takes the guardian with it.
    pub in_container: bool,
    /// The control group that it shares with its guardian; who kills all of it kills both.
    pub cgroup: Option<String>,
    /// Everything in the control group is killed when one process runs out of memory.
    pub oom_kills_group: Option<bool>,
    /// A supervisor that can run `epilogue recover` after it, if it is told to.
    pub supervisor: Option<&'static str>,
    /// What to do about what does not reach.
    pub advice: Vec<String>,
}

/// Looks at how far the promise reaches here.
///
/// # Errors
///
/// [`HomeError`] when there is no place for a journal at all.
pub fn capabilities(named: Option<&std::path::Path>) -> Result<Capabilities, HomeError> {
    let home = Home::find(named, Tier::Process)?;
    let power_tier = Home::find(named, Tier::Power).is_ok();
    let cgroup = cgroup();
    let oom_kills_group = cgroup.as_deref().and_then(oom_group);
    let in_container = in_container();
    let mut found = Capabilities {
        journal: format!("{} ({})", home.path.display(), home.from),
        passed_over: home
            .passed_over
            .iter()
            .map(|(path, why)| format!("{}: {why}", path.display()))
            .collect(),
        survives_reboot: !home.volatile,
        power_tier,
        pidfd: os::pidfd(std::process::id()).is_ok(),
        is_pid_1: std::process::id() == 1,
        in_container,
        cgroup,
        oom_kills_group,
        supervisor: supervisor(),
        advice: Vec::new(),
    };
    found.advise(home.warning());
    Ok(found)
}

impl Capabilities {
    fn advise(&mut self, crowded: Option<String>) {
        let mut advice: Vec<String> = crowded.into_iter().collect();
        if !self.survives_reboot {
            advice.push("the journal is in memory: name a directory on disk with EPILOGUE_STATE_DIR".into());
        }
        if self.in_container || self.is_pid_1 {
            advice.push(
                "when the container is killed the guardian dies too: keep EPILOGUE_STATE_DIR on a volume that \
                 outlives it, and run 'epilogue recover' when the next one starts"
                    .into(),
            );
        }
        if self.oom_kills_group == Some(true) {
            advice.push(
                "memory.oom.group=1: running out of memory kills the guardian as well; as above".into(),
            );
        }
        if self.supervisor == Some("systemd") {
            advice.push(
                "stopping the unit may kill the guardian: ExecStopPost=epilogue recover pays what is left"
                    .into(),
            );
        }
        if !self.pidfd {
            advice.push("no pidfds here: the guardian looks for its owner fifty times a second".into());
        }
        self.advice = advice;
    }
}

impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let yes = |yes: bool| if yes { "yes" } else { "no" };
        writeln!(f, "journal           {}", self.journal)?;
        for why in &self.passed_over {
            writeln!(f, "                  not {why}")?;
        }
        writeln!(f, "after kill -9     the guardian pays")?;
        writeln!(f, "after a reboot    {}", yes(self.survives_reboot))?;
        writeln!(f, "after power loss  {}", yes(self.power_tier))?;
        writeln!(f, "container         {}", yes(self.in_container))?;
        if let Some(cgroup) = &self.cgroup {
            writeln!(f, "control group     {cgroup}, shared with the guardian")?;
        }
        if let Some(supervisor) = self.supervisor {
            writeln!(f, "supervisor        {supervisor}")?;
        }
        for advice in &self.advice {
            writeln!(f, "note: {advice}")?;
        }
        Ok(())
    }
}

/// The control group in which memory is limited, or the only one.
fn cgroup() -> Option<String> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = |line: &str| line.splitn(3, ':').nth(2).map(str::to_owned);
    let memory = groups.lines().find(|line| line.split(':').nth(1) == Some("memory"));
    let unified = groups.lines().find(|line| line.starts_with("0::"));
    path(memory.or(unified)?).filter(|path| path != "/")
}

fn oom_group(cgroup: &str) -> Option<bool> {
    let text = fs::read_to_string(format!("/sys/fs/cgroup{cgroup}/memory.oom.group")).ok()?;
    Some(text.trim() == "1")
}

/// Whether the first process that can be seen is not the machine's.
fn in_container() -> bool {
    // The initial PID namespace has a fixed number.
    const INITIAL: u64 = 0xefff_fffc;
    crate::identity::pid_namespace() != INITIAL
}

fn supervisor() -> Option<&'static str> {
    let set = |name: &str| std::env::var_os(name).is_some();
    if set("KUBERNETES_SERVICE_HOST") {
        Some("Kubernetes")
    } else if set("GITHUB_ACTIONS") {
        Some("GitHub Actions")
    } else if set("INVOCATION_ID") {
        Some("systemd")
    } else {
        None
    }
}

//! systemd: how long it waits before it kills, and what it is told (`sd_notify(3)`).

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::app::Inner;
use crate::os;

/// Who is told, in a program that a unit with `Type=notify` runs.
pub(crate) struct Systemd(Option<SocketAddr>);

impl Systemd {
    /// As the environment says, if it is to be asked.
    pub(crate) fn from_environment(asked: bool) -> Systemd {
        let socket = std::env::var("NOTIFY_SOCKET").ok().filter(|socket| asked && !socket.is_empty());
        Systemd(socket.and_then(|socket| {
            let address = match socket.strip_prefix('@') {
                Some(name) => SocketAddr::from_abstract_name(name),
                None => SocketAddr::from_pathname(&socket),
            };
            address.inspect_err(|error| os::say(&format!("epilogue: NOTIFY_SOCKET {socket:?}: {error}"))).ok()
        }))
    }

    pub(crate) fn is_there(&self) -> bool {
        self.0.is_some()
    }

    pub(crate) fn ready(&self) {
        self.tell(&format!("READY=1\nMAINPID={}", std::process::id()));
    }

    pub(crate) fn reloading(&self) {
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={}", os::monotonic().as_micros()));
    }

    pub(crate) fn reloaded(&self) {
        self.tell("READY=1");
    }

    pub(crate) fn stopping(&self, why: &str) {
        self.tell(&format!("STOPPING=1\nSTATUS=stopping because {}", why.replace('\n', " ")));
    }

    /// The stop goes on, for `more` at most from now.
    pub(crate) fn takes(&self, more: Duration) {
        self.tell(&format!("EXTEND_TIMEOUT_USEC={}", more.as_micros()));
    }

    /// What cannot be told now is not worth a wait.
    fn tell(&self, words: &str) {
        let Some(address) = &self.0 else { return };
        let told = UnixDatagram::unbound().and_then(|socket| {
            socket.set_nonblocking(true)?;
            socket.send_to_addr(words.as_bytes(), address)
        });
        if let Err(error) = told {
            os::say(&format!("epilogue: systemd was not told {:?}: {error}", words.lines().next()));
        }
    }
}

/// The unit's process is another one from now on: it must not end with this one.
pub(crate) fn main_pid_is(inner: &Inner, pid: u32) {
    inner.systemd.tell(&format!("MAINPID={pid}"));
}

/// Names the process that systemd has started.
pub(crate) const EXEC_PID: &str = "SYSTEMD_EXEC_PID";

/// Whether systemd has started this very process, or the one that it is the successor of.
pub(crate) fn is_the_units_process() -> bool {
    // The one before goes when this one is ready: it is asked for as the program begins.
    static IS: OnceLock<bool> = OnceLock::new();
    *IS.get_or_init(look_whose_process)
}

fn look_whose_process() -> bool {
    let started = std::env::var(EXEC_PID).ok().and_then(|pid| pid.parse::<u32>().ok());
    let handed = std::env::var_os(crate::inherited::HANDED_ENV).is_some();
    started.is_some_and(|pid| {
        pid == std::process::id() || (handed && pid == std::os::unix::process::parent_id())
    })
}

/// How long systemd waits between asking and killing, if it has started this very process. Asks it: it is in no
/// variable. Half a second at most.
pub(crate) fn stop_timeout() -> Option<Duration> {
    let cgroups = std::fs::read_to_string("/proc/self/cgroup").ok().filter(|_| is_the_units_process())?;
    let (unit, of_a_user) = unit_of(&cgroups)?;
    let mut show = Command::new("systemctl");
    show.args(if of_a_user { &["--user"][..] } else { &[] })
        .args(["show", "--property=TimeoutStopUSec", "--value", &unit])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .stdout(Stdio::piped());
    let mut child = show.spawn().ok()?;
    let until = Instant::now() + Duration::from_millis(500);
    while child.try_wait().ok()?.is_none() {
        if Instant::now() > until {
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let mut text = String::new();
    std::io::Read::read_to_string(&mut child.stdout.take()?, &mut text).ok()?;
    parse_span(text.trim())
}

/// The unit in `/proc/self/cgroup`, and whether it is one of a user's own.
fn unit_of(cgroups: &str) -> Option<(String, bool)> {
    let of_systemd = |line: &&str| line.starts_with("0::") || line.contains(":name=systemd:");
    let path = cgroups.lines().find(of_systemd)?.splitn(3, ':').nth(2)?;
    let unit = path.split('/').rfind(|part| part.ends_with(".service"))?;
    // The user's manager itself is a unit of the system's.
    let of_a_user = path.contains("/user@") && !unit.starts_with("user@");
    Some((unit.to_owned(), of_a_user))
}

/// A time as `systemctl show` writes it: `1min 30s`, `500ms`; `infinity` is none.
fn parse_span(text: &str) -> Option<Duration> {
    const UNITS: [(&str, f64); 9] = [
        ("month", 2_629_800.0),
        ("min", 60.0),
        ("ms", 1e-3),
        ("us", 1e-6),
        ("s", 1.0),
        ("h", 3_600.0),
        ("d", 86_400.0),
        ("w", 604_800.0),
        ("y", 31_557_600.0),
    ];
    let one = |part: &str| {
        let at = part.find(|c: char| c.is_ascii_alphabetic())?;
        let (number, unit) = part.split_at(at);
        let (_, seconds) =
            UNITS.iter().find(|(name, _)| *name == unit.trim_end_matches('s') || *name == unit)?;
        Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()
    };
    let parts: Option<Vec<Duration>> = text.split_whitespace().map(one).collect();
    parts.filter(|parts| !parts.is_empty()).map(|parts| parts.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_systemctl_writes_them() {
        let s = |seconds| Some(Duration::from_secs(seconds));
        for (text, time) in [
            ("1min 30s", s(90)),
            ("45s", s(45)),
            ("1h 2min 3s", s(3723)),
            ("1d", s(86_400)),
            ("2months", s(5_259_600)),
            ("500ms", Some(Duration::from_millis(500))),
            ("1s 500ms", Some(Duration::from_millis(1500))),
            ("10us", Some(Duration::from_micros(10))),
            ("infinity", None),
            ("", None),
            ("5", None),
            ("5parsecs", None),
        ] {
            assert_eq!(parse_span(text), time, "{text:?}");
        }
    }

    #[test]
    fn the_unit_is_the_innermost_service() {
        let of = |text: &str| unit_of(text);
        assert_eq!(of("0::/system.slice/orders.service\n"), Some(("orders.service".into(), false)));
        assert_eq!(
            of("4:memory:/x\n1:name=systemd:/system.slice/a.service/sub\n"),
            Some(("a.service".into(), false))
        );
        let user = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/my.service";
        assert_eq!(of(user), Some(("my.service".into(), true)));
        let manager = "0::/user.slice/user-1000.slice/user@1000.service/init.scope";
        assert_eq!(of(manager), Some(("user@1000.service".into(), false)));
        assert_eq!(of("0::/\n"), None);
    }
}

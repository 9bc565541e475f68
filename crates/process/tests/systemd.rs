//! What systemd is told, on a real socket.

mod rig;

use std::os::unix::net::UnixDatagram;
use std::process::ExitCode;
use std::time::Duration;

use epilogue_process::{App, main};

/// Not a test: a program whose two cleanups take more than its budget of 2.5 s, together and not each.
#[test]
fn program() {
    if std::env::var(rig::PROGRAM).is_err() {
        return;
    }
    let code = main(async |app: &App| {
        for name in ["older", "newer"] {
            app.defer(name, async || {
                tokio::time::sleep(Duration::from_millis(1500)).await;
                Ok(())
            });
        }
        app.on_reload("settings", || async { Ok(()) });
        println!("ready");
        app.stopping().await;
        Ok(())
    });
    std::process::exit(if code == ExitCode::SUCCESS { 0 } else { 9 });
}

struct Unit {
    socket: UnixDatagram,
    child: std::process::Child,
}

impl Unit {
    fn start(name: &str) -> Unit {
        let path = std::env::temp_dir().join(format!("epilogue-notify-{}-{name}", std::process::id()));
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let (mut command, _) = rig::command("notifies", &[]);
        command.env("NOTIFY_SOCKET", &path).env("EPILOGUE_GRACE", "3s");
        Unit { socket, child: command.spawn().unwrap() }
    }

    fn told(&self) -> String {
        let mut bytes = [0; 4096];
        let length = self.socket.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        if let Some(path) = self.socket.local_addr().ok().as_ref().and_then(|at| at.as_pathname()) {
            let _ = std::fs::remove_file(path);
        }
    }
}

#[test]
fn systemd_is_told_of_readiness_reloads_and_a_stop_that_goes_on() {
    let mut unit = Unit::start("told");
    assert_eq!(unit.told(), format!("READY=1\nMAINPID={}", unit.child.id()));
    rig::signal(unit.child.id(), libc::SIGHUP);
    let reloading = unit.told();
    let began = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").map(str::parse::<u64>);
    assert!(began.is_some_and(|began| began.is_ok()), "{reloading}");
    assert_eq!(unit.told(), "READY=1");
    rig::signal(unit.child.id(), libc::SIGTERM);
    let stopping = unit.told();
    assert!(stopping.starts_with("STOPPING=1\nSTATUS=stopping because SIGTERM from pid "), "{stopping}");
    // The first cleanup gives its 1.5 s back: 2.5 s are left, and the margin.
    let more = unit.told();
    let micros: u64 = more.strip_prefix("EXTEND_TIMEOUT_USEC=").unwrap().parse().unwrap();
    assert!((2_500_000..3_100_000).contains(&micros), "{more}");
    assert_eq!(unit.child.wait().unwrap().code(), Some(0), "what went well gave its time to what came later");
}

#[test]
fn without_systemd_the_budget_is_what_it_is() {
    let mut running = rig::start_as("notifies", &[], &[("EPILOGUE_GRACE", "3s"), ("NOTIFY_SOCKET", "")]);
    running.signal(libc::SIGTERM);
    assert_eq!(running.child.wait().unwrap().code(), Some(124), "the second cleanup was cut");
}

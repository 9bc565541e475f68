//! Listeners that outlive a generation: handed over by the one before, or by systemd. Real processes.
#![cfg(feature = "axum")]

mod rig;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use epilogue_process::{App, Options, http, main_with, run_with};
use rig::{FILE, PROGRAM};

/// Not a test: the program, which says its pid to whoever asks.
#[test]
fn program() {
    let Ok(name) = std::env::var(PROGRAM) else { return };
    let file = std::path::PathBuf::from(std::env::var_os(FILE).unwrap_or_default());
    let again = std::env::var_os("EPILOGUE_LISTENERS").is_some();
    let options =
        Options::default().upgrade_limit(Duration::from_millis(if name == "hangs" { 500 } else { 20_000 }));
    let code = main_with(options, async |app: &App| {
        if again && name == "fails" {
            app.exit(9);
            return Ok(());
        }
        if again && name == "hangs" {
            std::fs::write(&file, std::process::id().to_string())?;
            app.start(epilogue_process::part("hangs", async || {
                std::future::pending::<Result<epilogue_process::Started<()>, _>>().await
            }))
            .await?;
        }
        if again && name == "waits" {
            println!("has begun");
        }
        while again && name == "waits" && !file.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if name == "moves" {
            std::env::set_current_dir("/")?;
            // SAFETY: nobody else reads or writes the environment at this moment of this program.
            unsafe { std::env::set_var("EPILOGUE_TEST_SET", "by the program itself") };
        }
        let listener = match again && name == "elsewhere" {
            true => app.listener("http", "127.0.0.1:1").await?,
            false => app.listener("http", "127.0.0.1:0").await?,
        };
        println!("at {}", listener.local_addr()?);
        let router = Router::new().route("/", get(|| async { std::process::id().to_string() }));
        app.start(http::serve(listener, router).readiness("/ready")).await?;
        if !again && name == "asks-itself" {
            let (one, other) = tokio::join!(app.upgrade(), app.upgrade());
            println!("both {}", one? == other?);
        }
        Ok(())
    });
    std::process::exit(i32::from(code != ExitCode::SUCCESS));
}

struct Running {
    child: std::process::Child,
    lines: BufReader<std::process::ChildStdout>,
    address: SocketAddr,
    file: PathBuf,
    /// Lines before that.
    said: Vec<String>,
}

fn start(program: &str, before: &[&str], stdin: Option<OwnedFd>) -> Running {
    let (mut command, file) = rig::command(program, before);
    if let Some(stdin) = stdin {
        command.stdin(stdin);
    }
    Running::of(command, file)
}

impl Running {
    fn of(mut command: Command, file: PathBuf) -> Running {
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        let address = ([0, 0, 0, 0], 0).into();
        let mut running = Running { child, lines, address, file, said: Vec::new() };
        running.address = running.next_address();
        running
    }

    /// Where the next generation says that it listens.
    fn next_address(&mut self) -> SocketAddr {
        let mut line = String::new();
        loop {
            line.clear();
            assert!(self.lines.read_line(&mut line).unwrap() > 0, "ended before it said where it listens");
            if let Some((_, address)) = line.split_once("at 127") {
                return format!("127{}", address.trim()).parse().unwrap();
            }
            self.said.push(line.trim_end().to_owned());
        }
    }

    /// Until it has said this on stderr; all that was said till then.
    fn hear(&mut self, wanted: &str) -> String {
        let stderr = self.child.stderr.as_mut().unwrap();
        let (mut said, mut byte) = (Vec::new(), [0]);
        while !String::from_utf8_lossy(&said).contains(wanted) {
            assert!(stderr.read(&mut byte).unwrap() > 0, "{}", String::from_utf8_lossy(&said));
            said.push(byte[0]);
        }
        String::from_utf8_lossy(&said).into_owned()
    }
}

impl Running {
    /// The pid of the generation that has taken over.
    fn upgraded(&mut self) -> u32 {
        let told = self.hear(" is starting: ");
        let pid = told.rsplit_once("upgrade: pid ").unwrap().1.split(' ').next().unwrap().to_owned();
        self.hear(&format!("stopping because pid {pid} has taken over"));
        pid.parse().unwrap()
    }

    /// Until every generation has let go of stderr; what was said till then.
    fn all_ended(&mut self) -> String {
        let mut said = String::new();
        self.child.stderr.as_mut().unwrap().read_to_string(&mut said).unwrap();
        said
    }
}

/// One request; whether the connection is the last, and the answer.
fn ask(stream: &mut TcpStream, path: &str) -> std::io::Result<(bool, String)> {
    write!(stream, "GET {path} HTTP/1.1\r\nhost: test\r\n\r\n")?;
    let mut reader = BufReader::new(stream);
    let (mut closes, mut length) = (false, 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim().to_lowercase();
        closes |= line == "connection: close";
        length = line.strip_prefix("content-length: ").map_or(length, |length| length.parse().unwrap());
        if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok((closes, String::from_utf8(body).unwrap()))
}

/// A client that keeps its connection as long as it is let; it never asks twice for the same. Who answered.
fn ask_on(address: SocketAddr, done: &AtomicBool) -> std::io::Result<BTreeSet<u32>> {
    let mut answered = BTreeSet::new();
    let mut stream = TcpStream::connect(address)?;
    while !done.load(Ordering::Relaxed) {
        let (closes, pid) = ask(&mut stream, "/")?;
        answered.insert(pid.parse().unwrap());
        if closes {
            stream = TcpStream::connect(address)?;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(answered)
}

/// The clients end, also when the test fails.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn end(pid: u32) {
    rig::signal(pid, libc::SIGTERM);
}

#[test]
fn three_generations_serve_one_address_and_nobody_notices() {
    let mut running = start("serves", &[], None);
    let (address, first) = (running.address, running.child.id());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _done = Done(&done);
        let clients: Vec<_> = (0..4).map(|_| scope.spawn(|| ask_on(address, &done))).collect();
        let mut pid = first;
        for _ in 0..2 {
            // A probe that comes by an old connection is answered for the address, not for the process.
            let mut probe = TcpStream::connect(address).unwrap();
            assert_eq!(ask(&mut probe, "/ready").unwrap().1, "ready\n");
            rig::signal(pid, libc::SIGUSR2);
            assert_eq!(running.next_address(), address);
            let next = running.upgraded();
            assert_eq!(ask(&mut probe, "/ready").unwrap(), (true, "ready\n".into()));
            assert_ne!(next, pid);
            if pid == first {
                assert_eq!(running.child.wait().unwrap().code(), Some(0));
            }
            pid = next;
        }
        std::thread::sleep(Duration::from_millis(200));
        done.store(true, Ordering::Relaxed);
        let answered: BTreeSet<u32> =
            clients.into_iter().flat_map(|client| client.join().unwrap().unwrap()).collect();
        assert!(answered.len() == 3 && answered.contains(&first) && answered.contains(&pid), "{answered:?}");
        end(pid);
    });
    running.all_ended();
}

#[test]
fn a_generation_that_fails_is_told_of_and_the_old_one_goes_on() {
    let mut running = start("fails", &[], None);
    rig::signal(running.child.id(), libc::SIGUSR2);
    let told = running.hear("this generation goes on");
    assert!(told.contains("it ended before it was ready: exit code"), "{told}");
    let mut client = TcpStream::connect(running.address).unwrap();
    assert_eq!(ask(&mut client, "/").unwrap(), (false, running.child.id().to_string()));
    end(running.child.id());
    assert_eq!(running.child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_generation_that_is_never_ready_is_ended_in_time() {
    let mut running = start("hangs", &[], None);
    rig::signal(running.child.id(), libc::SIGUSR2);
    let told = running.hear("this generation goes on");
    assert!(told.contains("it was not ready within 500ms"), "{told}");
    let successor = std::fs::read_to_string(&running.file).unwrap();
    assert!(!std::path::Path::new("/proc").join(successor).exists());
    let mut client = TcpStream::connect(running.address).unwrap();
    assert_eq!(ask(&mut client, "/").unwrap().1, running.child.id().to_string());
    end(running.child.id());
    assert_eq!(running.child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_stop_in_the_middle_of_an_upgrade_ends_both_generations() {
    let mut running = start("hangs", &[], None);
    rig::signal(running.child.id(), libc::SIGUSR2);
    running.hear("is starting");
    end(running.child.id());
    let said = running.all_ended();
    assert_eq!(running.child.wait().unwrap().code(), Some(0), "{said}");
}

/// By a link, as a relative path from a directory that the program has left, or by `PATH`; it leads to another file now.
#[test]
fn the_next_generation_is_what_the_name_of_this_one_leads_to_by_now() {
    for way in ["./cur", "cur"] {
        let (template, file) = rig::command("moves", &[]);
        let this = std::env::current_exe().unwrap();
        let dir = std::env::temp_dir().join(format!("epilogue-link-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        std::os::unix::fs::symlink(&this, dir.join("cur")).unwrap();
        let mut command = Command::new(way);
        command.current_dir(&dir).args(template.get_args());
        command.envs(template.get_envs().filter_map(|(name, value)| Some((name, value?))));
        if way == "cur" {
            command.env("PATH", &dir);
        }
        command.stdin(std::process::Stdio::null());
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let mut running = Running::of(command, file);
        let newer = dir.join("newer");
        std::fs::copy(&this, &newer).unwrap();
        std::fs::remove_file(dir.join("cur")).unwrap();
        std::os::unix::fs::symlink(&newer, dir.join("cur")).unwrap();
        rig::signal(running.child.id(), libc::SIGUSR2);
        let next = running.upgraded();
        assert_eq!(std::fs::read_link(format!("/proc/{next}/exe")).unwrap(), newer, "{way}");
        assert_eq!(environment_of(next, "EPILOGUE_TEST_SET"), None, "as it was started: {way}");
        end(next);
        running.all_ended();
        std::fs::remove_dir_all(dir).unwrap();
    }
}

fn environment_of(pid: u32, name: &str) -> Option<String> {
    let all = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
    let all = String::from_utf8_lossy(&all).into_owned();
    all.split('\0').find_map(|one| one.strip_prefix(&format!("{name}=")).map(str::to_owned))
}

#[test]
fn the_command_of_a_wrapper_is_not_started_anew() {
    let dir = std::env::temp_dir().join(format!("epilogue-wrapped-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    // Who starts it is called as the wrapper is, and does not become it.
    let wrapper = dir.join("epilogue");
    std::os::unix::fs::symlink("/bin/sh", &wrapper).unwrap();
    let wrapped = [wrapper.to_str().unwrap(), "-c", r#"EPILOGUE_SCOPE=x "$0" "$@" & echo "pid $!"; wait"#];
    let (command, file) = rig::command("serves", &wrapped);
    let mut running = Running::of(command, file);
    let pid = running.said.iter().find_map(|line| line.strip_prefix("pid ")).unwrap().parse().unwrap();
    rig::signal(pid, libc::SIGUSR2);
    running.hear("no upgrade: this is the command of `epilogue run`");
    end(pid);
    running.all_ended();
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_unit_that_is_not_told_of_the_hand_over_is_not_started_anew() {
    let unit = ["sh", "-c", r#"SYSTEMD_EXEC_PID=$$ exec "$0" "$@""#];
    let (mut command, file) = rig::command("serves", &unit);
    let mut running = Running::of(
        {
            command.env_remove("NOTIFY_SOCKET");
            command
        },
        file,
    );
    rig::signal(running.child.id(), libc::SIGUSR2);
    running.hear("no upgrade: systemd would take the end of this process for that of the service");
    end(running.child.id());
    running.all_ended();
}

#[test]
fn a_generation_that_is_starting_serves_when_the_old_one_is_killed() {
    let mut running = start("waits", &[], None);
    let first = running.child.id();
    rig::signal(first, libc::SIGUSR2);
    let told = running.hear(" is starting: ");
    let next: u32 = told.rsplit_once("upgrade: pid ").unwrap().1.split(' ').next().unwrap().parse().unwrap();
    let mut line = String::new();
    while !line.contains("has begun") {
        line.clear();
        assert!(running.lines.read_line(&mut line).unwrap() > 0);
    }
    rig::signal(first, libc::SIGKILL);
    running.child.wait().unwrap();
    std::fs::write(&running.file, "go on").unwrap();
    let mut client = TcpStream::connect(running.address).unwrap();
    assert_eq!(ask(&mut client, "/").unwrap().1, next.to_string());
    std::fs::remove_file(&running.file).unwrap();
    end(next);
    running.all_ended();
}

#[tokio::test]
async fn an_embedded_run_does_not_start_the_process_of_others_anew() {
    let (_, report) = run_with(Options::embedded(), async |app: &App| {
        let _listener = app.listener("http", "127.0.0.1:0").await?;
        app.upgrade().await.map(drop)
    })
    .await;
    assert!(report.to_string().contains("it said: this run is embedded"), "{report}");
}

#[test]
fn a_body_that_upgrades_has_started_and_whoever_asks_meanwhile_gets_the_same() {
    let mut running = start("asks-itself", &[], None);
    let next = running.upgraded();
    let mut line = String::new();
    while !line.starts_with("both ") {
        line.clear();
        assert!(running.lines.read_line(&mut line).unwrap() > 0);
    }
    assert_eq!(line, "both true\n");
    end(next);
    running.all_ended();
}

#[test]
fn a_listener_that_was_handed_over_stays_where_it_is_and_both_generations_say_who_speaks() {
    let mut running = start("elsewhere", &[], None);
    rig::signal(running.child.id(), libc::SIGUSR2);
    assert_eq!(running.next_address(), running.address);
    let told = running.hear(" has taken over");
    let pid = told.rsplit_once("because pid ").unwrap().1.split(' ').next().unwrap();
    let at = running.address;
    let says = format!(
        "epilogue[{pid}]: listener \"http\" is open at {at} already, and stays there; asked for is \"127.0.0.1:1\""
    );
    assert!(told.contains(&says), "{told}");
    assert!(told.contains(&format!("epilogue[{}]: stopping", running.child.id())), "{told}");
    end(pid.parse().unwrap());
    running.all_ended();
}

#[test]
fn a_socket_of_systemds_is_taken_and_handed_on() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // As systemd does: descriptor 3, and whom it is for.
    let activated = ["sh", "-c", r#"LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" "$@" 3<&0 </dev/null"#];
    let mut running = start("serves", &activated, Some(listener.into()));
    assert_eq!(running.address, address);
    rig::signal(running.child.id(), libc::SIGUSR2);
    assert_eq!(running.next_address(), address);
    let next = running.upgraded();
    assert_eq!(running.child.wait().unwrap().code(), Some(0));
    let mut client = TcpStream::connect(address).unwrap();
    assert_eq!(ask(&mut client, "/").unwrap().1, next.to_string());
    end(next);
    running.all_ended();
    assert!(TcpStream::connect(address).is_err(), "nobody holds it open any more");
}

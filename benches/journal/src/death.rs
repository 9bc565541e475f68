//! From SIGKILL to the first cleanup done: the guardian beside the least that a watcher can do.

use std::ffi::CString;
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use epilogue_guardian::{Call, Guardian, Home, NewRun, RemoveFile, Run, RunCommand};
use epilogue_journal::Tier;

use crate::register::record;
use crate::{median, tell};

const ROUNDS: usize = 101;

pub(crate) fn measure(dir: &Path) {
    look_first();
    for how in ["built-in", "command"] {
        let (mut floor, mut ours) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            floor.push(bare(dir, &dir.join(format!("floor-{round}")), how));
            ours.push(guarded(dir, &dir.join(format!("guarded-{round}")), how));
        }
        let (what, unit) = if how == "built-in" { ("unlink", "µs") } else { ("rm", "µs") };
        let group = format!("SIGKILL to the first cleanup done, {what}");
        tell(&group, "bare pidfd", median(floor), unit);
        tell(&group, "guardian", median(ours), unit);
    }
}

/// Whoever looks at the clock must not wait for its turn behind those it measures. Without the right to
/// it the figures are those of a queue.
fn look_first() {
    let first = libc::sched_param { sched_priority: 1 };
    // SAFETY: `first` is valid for reads; only this thread is meant.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &raw const first) };
}

/// The same victim without a guardian, and a process that only waits for its end.
fn bare(dir: &Path, file: &Path, how: &str) -> f64 {
    std::fs::write(file, "").expect("a file");
    let mut victim = self::start(dir, file, "nobody");
    let mut watcher = this(&["--watch", how, &victim.id().to_string(), &file.display().to_string()]);
    ready(&mut watcher);
    let took = killed(&mut victim, file);
    watcher.wait().expect("the watcher");
    took
}

fn guarded(dir: &Path, file: &Path, how: &str) -> f64 {
    std::fs::write(file, "").expect("a file");
    let mut victim = start(dir, file, how);
    killed(&mut victim, file)
}

fn start(dir: &Path, file: &Path, how: &str) -> Child {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--victim", how]).arg(file).env("EPILOGUE_STATE_DIR", dir.join("state"));
    let mut victim = command.stdout(Stdio::piped()).spawn().expect("a victim");
    ready(&mut victim);
    victim
}

fn this(arguments: &[&str]) -> Child {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(arguments).stdout(Stdio::piped()).spawn().expect("this program")
}

fn ready(child: &mut Child) {
    let mut line = String::new();
    let stdout = child.stdout.take().expect("a pipe");
    BufReader::new(stdout).read_line(&mut line).expect("a line");
    assert_eq!(line, "ready\n");
    // Whoever has said so goes to sleep; its last instructions are not what is measured.
    std::thread::sleep(Duration::from_millis(3));
}

/// Kills, and says in microseconds how long the file was there.
fn killed(victim: &mut Child, file: &Path) -> f64 {
    let gone = Deletion::of(file);
    let began = Instant::now();
    victim.kill().expect("killed");
    gone.wait();
    let took = began.elapsed().as_secs_f64() * 1e6;
    victim.wait().expect("the victim");
    took
}

/// A watch on a directory: the kernel tells when the name is gone.
struct Deletion(i32);

impl Deletion {
    fn of(file: &Path) -> Deletion {
        let path = CString::new(file.as_os_str().as_bytes()).expect("a path");
        // SAFETY: `path` ends in NUL.
        let fd = unsafe {
            let fd = libc::inotify_init1(libc::IN_CLOEXEC);
            assert!(
                fd >= 0
                    && libc::inotify_add_watch(fd, path.as_ptr(), libc::IN_ATTRIB | libc::IN_DELETE_SELF)
                        >= 0
            );
            fd
        };
        Deletion(fd)
    }

    fn wait(&self) {
        let mut buffer = [0_u8; 512];
        // SAFETY: `buffer` is valid for writes of its length.
        assert!(unsafe { libc::read(self.0, buffer.as_mut_ptr().cast(), buffer.len()) } > 0);
    }
}

impl Drop for Deletion {
    fn drop(&mut self) {
        // SAFETY: it is ours.
        unsafe { libc::close(self.0) };
    }
}

/// The least that a watcher can do.
pub(crate) fn watch(how: &str, pid: &str, file: &str) {
    let pid: i32 = pid.parse().expect("a pid");
    // SAFETY: no memory is passed.
    let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let mut polled =
        libc::pollfd { fd: i32::try_from(pidfd).expect("a pidfd"), events: libc::POLLIN, revents: 0 };
    println!("ready");
    // SAFETY: one valid pollfd.
    unsafe { libc::poll(&raw mut polled, 1, -1) };
    if how == "built-in" {
        std::fs::remove_file(file).expect("removed");
    } else {
        Command::new("/bin/rm").arg(file).status().expect("rm");
    }
}

/// Registers the removal, and waits to be killed.
pub(crate) fn victim(how: &str, file: &str) {
    let home = Home::find(None, Tier::Process).expect("a home");
    let run = Run::create(&home, NewRun::default()).expect("a run");
    let call = if how != "command" {
        Call::of(&RemoveFile::new(file).expect("a path")).expect("a call")
    } else {
        Call::of(&RunCommand::new(["/bin/rm", file]).expect("rm")).expect("a call")
    };
    run.journal.register(&record(&call.to_bytes().expect("bytes"), Tier::Process)).expect("registered");
    let guardian = (how != "nobody").then(|| Guardian::start(&run.dir).expect("a guardian"));
    assert!(guardian.is_none_or(|guardian| guardian.wait_armed(Duration::from_secs(5))));
    // One that has no guardian has as many threads all the same: each takes its time to die.
    let thread = (how == "nobody").then(|| std::thread::spawn(std::thread::park));
    println!("ready");
    loop {
        std::thread::park();
        std::hint::black_box(&thread);
    }
}

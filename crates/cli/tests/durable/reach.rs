//! How far a guardian reaches: frozen, traced and limited owners, groups that are killed whole, kernels
//! that refuse, clocks that jump.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command};

use crate::rig::{Rig, guardians, is_there, kill, skipped, spawn, wait_until};

/// A control group of the test's own.
struct Group(PathBuf);

impl Group {
    /// `None`, with the reason told, where none can be made.
    fn new(hierarchy: &str, name: &str, needs: &str) -> Option<Group> {
        let path =
            PathBuf::from(format!("/sys/fs/cgroup/{hierarchy}/epilogue-{}-{name}", std::process::id()));
        let made = std::fs::create_dir(&path);
        let group = made.is_ok().then(|| Group(path));
        if group.as_ref().is_none_or(|group| !group.0.join(needs).exists()) {
            skipped(&format!("no control group with {needs} can be made in {hierarchy} here"));
            return None;
        }
        group
    }

    fn set(&self, name: &str, value: &str) {
        std::fs::write(self.0.join(name), value).unwrap();
    }

    fn get(&self, name: &str) -> String {
        std::fs::read_to_string(self.0.join(name)).unwrap_or_default().trim().to_owned()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Busy until the last of its processes is collected.
        wait_until("the group is gone", || {
            std::fs::remove_dir(&self.0).is_ok() || !self.0.exists() || std::thread::panicking()
        });
    }
}

/// A shell that owes a file, and has a guardian. `more` is what it does before it says that it is ready.
fn owes(rig: &Rig, more: &str) -> (Child, u32) {
    let script = format!(
        "touch file; epilogue defer --owner $$ --rm file; {more}; echo $$ > note-pid; exec sleep 600"
    );
    let mut command = rig.command("bash");
    command.args(["-c", &script]);
    let shell = spawn(command);
    wait_until("it is ready", || rig.read("note-pid").ends_with('\n'));
    wait_until("it is guarded", || guardians(rig).len() == 1);
    (shell, rig.read("note-pid").trim().parse().unwrap())
}

fn paid(rig: &Rig) {
    wait_until("the guardian has paid", || rig.left().is_empty() && rig.runs() == 0);
}

#[test]
fn killed_while_frozen_by_cgroup_v2_it_is_paid_for_at_once() {
    let rig = Rig::new("frozen-v2");
    let Some(group) = Group::new("unified", "frozen", "cgroup.freeze") else { return };
    let (mut shell, owner) = owes(&rig, "true");
    group.set("cgroup.procs", &owner.to_string());
    group.set("cgroup.freeze", "1");
    wait_until("it is frozen", || group.get("cgroup.events").contains("frozen 1"));
    assert_eq!((rig.epilogue(&["recover"]).code(), rig.left().len()), (0, 1), "who is frozen lives");
    kill(owner, libc::SIGKILL);
    paid(&rig);
    assert_eq!(group.get("cgroup.freeze"), "1");
    shell.wait().unwrap();
}

#[test]
fn killed_while_frozen_by_cgroup_v1_it_is_paid_for_when_it_thaws() {
    let rig = Rig::new("frozen-v1");
    let Some(group) = Group::new("freezer", "frozen", "freezer.state") else { return };
    let (mut shell, owner) = owes(&rig, "true");
    group.set("cgroup.procs", &owner.to_string());
    group.set("freezer.state", "FROZEN");
    wait_until("it is frozen", || group.get("freezer.state") == "FROZEN");
    kill(owner, libc::SIGKILL);
    assert_eq!((rig.epilogue(&["recover"]).code(), rig.left().len()), (0, 1), "it is not dead yet");
    assert!(is_there(owner));
    group.set("freezer.state", "THAWED");
    paid(&rig);
    shell.wait().unwrap();
}

#[test]
fn a_group_that_is_killed_whole_takes_the_guardian_along_and_recover_pays() {
    let rig = Rig::new("group-kill");
    let Some(group) = Group::new("unified", "kill", "cgroup.kill") else { return };
    let mut command = rig.wrapped(&[], "epilogue tmp -d > note-dir; touch note-ready; exec sleep 600");
    let procs = group.0.join("cgroup.procs");
    // SAFETY: only a file is written, in a child that has just been forked by this thread.
    unsafe { command.pre_exec(move || std::fs::write(&procs, "0")) };
    let mut wrapper = spawn(command);
    rig.wait_for("note-ready");
    wait_until("it is guarded", || guardians(&rig).len() == 1);
    group.set("cgroup.kill", "1");
    wrapper.wait().unwrap();
    wait_until("all of them are gone", || group.get("cgroup.procs").is_empty());
    assert_eq!((guardians(&rig).len(), rig.left().len()), (0, 1));
    let recovered = rig.epilogue(&["recover"]);
    assert!(recovered.stderr().contains("ran 1 of 1"), "{}", recovered.stderr());
    assert_eq!((rig.left().len(), rig.runs()), (0, 0));
}

#[test]
fn out_of_memory_with_the_guardian_in_the_group_kills_the_big_one_alone() {
    let rig = Rig::new("memcg-in");
    let Some(group) = Group::new("memory", "in", "memory.limit_in_bytes") else { return };
    group.set("memory.limit_in_bytes", "100000000");
    let script = "epilogue tmp -d > note-dir; exec python3 -c 'x = b\"x\" * 400000000'";
    let mut command = rig.wrapped(&[], script);
    let procs = group.0.join("cgroup.procs");
    // SAFETY: as above.
    unsafe { command.pre_exec(move || std::fs::write(&procs, "0")) };
    let ran = crate::rig::Ran(command.output().unwrap());
    assert_eq!(ran.code(), 137, "{}", ran.stderr());
    assert!(ran.stderr().contains("ran 1 of 1"), "{}", ran.stderr());
    assert_eq!(rig.left(), [""; 0]);
}

#[test]
fn out_of_memory_of_a_whole_group_is_recovered_from_outside() {
    let rig = Rig::new("memcg-group");
    let Some(group) = Group::new("unified", "oom", "memory.oom.group") else { return };
    group.set("memory.oom.group", "1");
    group.set("memory.max", "100000000");
    let script = "epilogue tmp -d > note-dir; exec python3 -c 'x = b\"x\" * 400000000'";
    let mut command = rig.wrapped(&[], script);
    let procs = group.0.join("cgroup.procs");
    // SAFETY: as above.
    unsafe { command.pre_exec(move || std::fs::write(&procs, "0")) };
    spawn(command).wait().unwrap();
    wait_until("all of them are gone", || group.get("cgroup.procs").is_empty());
    assert_eq!(rig.epilogue(&["recover"]).code(), 0);
    assert_eq!((rig.left().len(), rig.runs()), (0, 0));
}

/// Lets a tracer seize a process and stop itself. `None`, with the reason told, where nobody may trace.
fn traced_by_a_stopped_tracer(rig: &Rig, owner: u32, options: u32) -> Option<Child> {
    let script = format!(
        "import ctypes, os, signal; libc = ctypes.CDLL(None, use_errno=True)
assert libc.ptrace(0x4206, {owner}, 0, ctypes.c_void_p({options})) == 0, ctypes.get_errno()
os.kill(os.getpid(), signal.SIGSTOP)
while True: os.waitpid(-1, 0x40000000); libc.ptrace(7, {owner}, 0, 0)"
    );
    let mut command = rig.command("python3");
    command.args(["-c", &script]);
    let mut tracer = spawn(command);
    wait_until("the tracer is stopped", || {
        state_of(tracer.id()) == 'T' || tracer.try_wait().unwrap().is_some()
    });
    if state_of(tracer.id()) != 'T' {
        skipped("nobody may trace here");
        return None;
    }
    Some(tracer)
}

#[test]
fn a_death_that_a_stopped_tracer_has_not_collected_is_seen_by_looking() {
    let rig = Rig::new("traced");
    let (mut shell, owner) = owes(&rig, "true");
    let Some(mut tracer) = traced_by_a_stopped_tracer(&rig, owner, 0) else {
        kill(owner, libc::SIGKILL);
        return drop(shell.wait());
    };
    kill(owner, libc::SIGKILL);
    // Nobody wakes the guardian, which looks by itself every ten seconds.
    paid(&rig);
    assert_eq!((state_of(owner), state_of(tracer.id())), ('Z', 'T'));
    tracer.kill().unwrap();
    tracer.wait().unwrap();
    shell.wait().unwrap();
}

#[test]
fn an_owner_that_a_stopped_tracer_keeps_from_dying_is_paid_for_when_it_is_dead() {
    const TRACE_EXIT: u32 = 0x40;
    let rig = Rig::new("kept");
    let (mut shell, owner) = owes(&rig, "true");
    let Some(mut tracer) = traced_by_a_stopped_tracer(&rig, owner, TRACE_EXIT) else {
        kill(owner, libc::SIGKILL);
        return drop(shell.wait());
    };
    kill(owner, libc::SIGKILL);
    wait_until("it is stopped on its way out", || state_of(owner) == 't');
    // It has its memory, its files and its locks still.
    assert_eq!((rig.epilogue(&["recover"]).code(), rig.left().len()), (0, 1));
    kill(tracer.id(), libc::SIGCONT);
    paid(&rig);
    tracer.kill().unwrap();
    tracer.wait().unwrap();
    shell.wait().unwrap();
}

fn state_of(pid: u32) -> char {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()).unwrap_or('-')
}

/// Lets a command, and everything it starts, meet a kernel that refuses system calls.
fn refuse(command: &mut Command, calls: &'static [i64]) {
    let statement = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter {
        // All of them are small.
        code: code as u16,
        jt,
        jf,
        k,
    };
    let errno = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
    let mut filter = vec![statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0)];
    for call in calls {
        filter.push(statement(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            0,
            1,
            u32::try_from(*call).unwrap(),
        ));
        filter.push(statement(libc::BPF_RET | libc::BPF_K, 0, 0, errno));
    }
    filter.push(statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW));
    let install = move || {
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
        // SAFETY: the program is valid for its length; both may be called between fork and exec.
        let refused = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
                || libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) != 0
        };
        if refused { Err(std::io::Error::last_os_error()) } else { Ok(()) }
    };
    // SAFETY: see above; nothing is allocated.
    unsafe { command.pre_exec(install) };
}

const PIDFDS: &[i64] = &[libc::SYS_pidfd_open, libc::SYS_pidfd_send_signal];

#[test]
fn where_pidfds_are_refused_wrapper_and_guardian_pay_all_the_same() {
    let rig = Rig::new("no-pidfd");
    let mut command = rig.wrapped(&[], "epilogue tmp -d > note-dir; kill -9 $$");
    refuse(&mut command, PIDFDS);
    let ran = crate::rig::Ran(command.output().unwrap());
    assert_eq!(ran.code(), 137, "{}", ran.stderr());
    assert_eq!(rig.left(), [""; 0]);

    // The wrapper is killed: its command is told to end, then paid for.
    let script = r#"trap 'echo told > note-told; exit' TERM; epilogue tmp > note-file; echo $$ > note-pid
                    while :; do sleep 0.01; done"#;
    let mut command = rig.wrapped(&[], script);
    refuse(&mut command, PIDFDS);
    let mut wrapper = spawn(command);
    rig.wait_for("note-pid");
    wait_until("it is guarded", || guardians(&rig).len() == 1);
    kill(wrapper.id(), libc::SIGKILL);
    wrapper.wait().unwrap();
    wait_until("it was told", || rig.read("note-told").trim() == "told");
    paid(&rig);
}

#[test]
fn where_pidfds_are_refused_a_stop_still_reaches_the_command_and_its_grace_ends() {
    let rig = Rig::new("no-pidfd-stop");
    let script = r#"trap 'echo told > note-told' TERM; epilogue tmp > note-file; echo > note-ready
                    while :; do sleep 0.01; done"#;
    let mut command = rig.wrapped(&["--grace", "300ms"], script);
    refuse(&mut command, PIDFDS);
    // Without a terminal, or the grace is the user's.
    // SAFETY: no preconditions.
    unsafe {
        command.pre_exec(|| if libc::setsid() < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) })
    };
    let mut wrapper = spawn(command);
    rig.wait_for("note-ready");
    kill(wrapper.id(), libc::SIGTERM);
    assert_eq!(wrapper.wait().unwrap().code(), Some(124), "it had to be killed");
    assert_eq!(rig.read("note-told").trim(), "told");
    assert_eq!(rig.left(), [""; 0]);
}

/// A cleanup whose first attempt has lost its payer, and goes on: its pid. The next attempt notes in
/// `note-end` whether it is alone.
fn begun_and_left(rig: &Rig) -> u32 {
    let cleanup = r#"if [ "$EPILOGUE_ATTEMPT" = 1 ]; then sleep 600 & echo $! > note-sleep; wait; fi
                     if tr '\0' ' ' < "/proc/$(cat note-sleep)/cmdline" | grep -q sleep; then echo both > note-end; else echo alone > note-end; fi"#;
    std::fs::write(rig.path("note-cleanup"), cleanup).unwrap();
    let mut shell = spawn({
        let mut command = rig.command("bash");
        command.args(["-c", "epilogue defer --owner $$ -- bash note-cleanup; touch note-ready; sleep 600"]);
        command
    });
    rig.wait_for("note-ready");
    shell.kill().unwrap();
    shell.wait().unwrap();
    wait_until("the guardian is at it", || rig.read("note-sleep").ends_with('\n'));
    let left_over: u32 = rig.read("note-sleep").trim().parse().unwrap();
    wait_until("it is killed", || {
        guardians(rig).into_iter().for_each(|pid| kill(pid, libc::SIGKILL));
        guardians(rig).is_empty()
    });
    assert!(is_there(left_over), "it outlives who has started it");
    left_over
}

#[test]
fn what_a_dead_payer_had_started_is_ended_before_its_cleanup_begins_again() {
    for pidfds in [true, false] {
        let rig = Rig::new("twice");
        let left_over = begun_and_left(&rig);
        let mut command = rig.command(env!("CARGO_BIN_EXE_epilogue"));
        command.arg("recover");
        if !pidfds {
            refuse(&mut command, PIDFDS);
        }
        assert!(command.status().unwrap().success());
        assert_eq!(rig.read("note-end"), "alone\n");
        assert!(!is_there(left_over));
    }
}

#[test]
fn while_it_cannot_be_ended_no_attempt_begins_however_often_it_is_tried() {
    let rig = Rig::new("unkillable");
    let Some(group) = Group::new("freezer", "unkillable", "freezer.state") else { return };
    let left_over = begun_and_left(&rig);
    group.set("cgroup.procs", &left_over.to_string());
    group.set("freezer.state", "FROZEN");
    wait_until("it is frozen", || group.get("freezer.state") == "FROZEN");
    for _ in 0..2 {
        let tried = rig.epilogue(&["recover", "--pay", "300ms"]);
        assert_eq!(tried.code(), 1);
        assert!(tried.stderr().contains("does not end"), "{}", tried.stderr());
        assert_eq!(rig.read("note-end"), "");
    }
    group.set("freezer.state", "THAWED");
    assert_eq!(rig.epilogue(&["recover"]).code(), 0);
    assert_eq!(rig.read("note-end"), "alone\n");
}

#[test]
fn a_run_that_a_cleanup_has_begun_is_still_guarded_when_that_attempt_is_ended() {
    let rig = Rig::new("guarded-inside");
    let cleanup = r#"if [ "$EPILOGUE_ATTEMPT" = 1 ]; then
                        exec epilogue run -- bash -c 'epilogue tmp > note-file; echo $$ > note-inner; exec sleep 600'
                     fi"#;
    std::fs::write(rig.path("note-cleanup"), cleanup).unwrap();
    let mut command = rig.command("bash");
    command.args(["-c", "epilogue defer --owner $$ -- bash note-cleanup; touch note-ready; sleep 600"]);
    let mut shell = spawn(command);
    rig.wait_for("note-ready");
    wait_until("it is guarded", || guardians(&rig).len() == 1);
    let outer = guardians(&rig)[0];
    shell.kill().unwrap();
    shell.wait().unwrap();
    wait_until("the cleanup is under way", || rig.read("note-inner").ends_with('\n'));
    wait_until("and guarded itself", || guardians(&rig).len() == 2);
    kill(outer, libc::SIGKILL);
    wait_until("its payer is gone", || guardians(&rig).len() == 1);
    assert_eq!(rig.epilogue(&["recover"]).code(), 0);
    paid(&rig);
}

#[test]
fn an_owner_of_one_gibibyte_is_paid_for_once_the_kernel_has_taken_it_down() {
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap();
    let free = memory.lines().find_map(|line| line.strip_prefix("MemAvailable:")).unwrap_or_default();
    if free.split_whitespace().next().and_then(|kib| kib.parse().ok()).unwrap_or(0) < 2_u64 << 20 {
        return skipped("less than 2 GiB of memory is free");
    }
    let rig = Rig::new("gibibyte");
    let script =
        r#"d=$(epilogue tmp -d); exec python3 -c 'import os; x = b"x" * (1 << 30); os.kill(os.getpid(), 9)'"#;
    let ran = rig.run(&[], script);
    assert_eq!(ran.code(), 137, "{}", ran.stderr());
    assert_eq!(rig.left(), [""; 0]);
}

/// A library that sets the wall clock of a program off by so many seconds.
const CLOCK: &str = r#"
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = syscall(SYS_clock_gettime, clock, now);
    const char *offset = getenv("CLOCK_OFFSET");
    if (!failed && clock == CLOCK_REALTIME && offset) now->tv_sec += atol(offset);
    return failed;
}
"#;

#[test]
fn a_clock_that_jumps_by_decades_changes_nothing() {
    let rig = Rig::new("clock");
    std::fs::write(rig.path("note-clock.c"), CLOCK).unwrap();
    let built = rig.command("cc").args(["-shared", "-fPIC", "-o", "note-clock.so", "note-clock.c"]).status();
    if !built.is_ok_and(|status| status.success()) {
        return skipped("there is no C compiler");
    }
    const YEAR: i64 = 365 * 24 * 3600;
    let at = |years: i64, arguments: &[&str]| {
        let mut command = rig.command(env!("CARGO_BIN_EXE_epilogue"));
        command.args(arguments).env("LD_PRELOAD", rig.path("note-clock.so"));
        command.env("CLOCK_OFFSET", (years * YEAR).to_string());
        crate::rig::Ran(command.output().unwrap())
    };
    // Each step in another decade: owed in the future, listed in the past, paid before 1970.
    for (owed, listed, recovered) in [(30, -30, -80), (-80, 30, 0), (0, 100, -30)] {
        let offset = owed * YEAR;
        let script = format!(
            "export LD_PRELOAD=$PWD/note-clock.so CLOCK_OFFSET={offset}
             for n in 1 2; do epilogue defer --owner $$ -- bash -c \"echo $n >> note-ran\"; done
             echo $$ > note-pid; exec sleep 600"
        );
        let mut command = rig.command("bash");
        command.args(["-c", &script]);
        let mut shell = spawn(command);
        wait_until("it is ready", || rig.read("note-pid").ends_with('\n'));
        wait_until("it is guarded", || guardians(&rig).len() == 1);
        kill(guardians(&rig)[0], libc::SIGKILL);
        wait_until("it is not guarded any more", || guardians(&rig).is_empty());
        let list = at(listed, &["pending", "list"]);
        assert_eq!(list.code(), 0, "{}", list.stderr());
        assert_eq!(at(recovered, &["recover"]).code(), 0);
        assert!(!rig.path("note-ran").exists(), "its owner lives, whatever the clock says");
        shell.kill().unwrap();
        shell.wait().unwrap();
        let ran = at(recovered, &["recover"]);
        assert_eq!(ran.code(), 0, "{}", ran.stderr());
        assert_eq!(rig.read("note-ran"), "2\n1\n");
        assert_eq!(at(listed, &["pending", "log"]).code(), 0);
        for note in ["note-ran", "note-pid"] {
            std::fs::remove_file(rig.path(note)).unwrap();
        }
    }
}

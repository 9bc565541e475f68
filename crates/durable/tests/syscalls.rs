//! Killed at every system call: of registration, amendment and disarm; of payment; and of a second
//! payment after that.

mod rig;

use std::collections::BTreeMap;
use std::process::Command;

use rig::{Rig, wait_until};

/// What strace is not told to stop at: those that end a process or a thread anyhow.
const LEFT_OUT: [&str; 3] = ["exit", "exit_group", "execve"];

fn strace(rig: &Rig, options: &[&str], way: &str) -> Command {
    let mut command = Command::new("strace");
    command.args(["-qq", "-o"]).arg(rig.dir.join("trace")).args(options).arg(Rig::program());
    command.arg(way).arg(&rig.dir).env("EPILOGUE_STATE_DIR", rig.dir.join("state"));
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    command
}

/// How often a program makes each system call.
fn calls(rig: &Rig, way: &str) -> Option<BTreeMap<String, u32>> {
    if !strace(rig, &[], way).status().is_ok_and(|status| status.success()) {
        return None;
    }
    let mut counts = BTreeMap::new();
    for line in std::fs::read_to_string(rig.dir.join("trace")).ok()?.lines() {
        let Some((name, _)) = line.split_once('(') else { continue };
        if name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
            && !LEFT_OUT.contains(&name)
        {
            *counts.entry(name.to_owned()).or_insert(0) += 1;
        }
    }
    Some(counts)
}

fn points(counts: &BTreeMap<String, u32>) -> Vec<String> {
    counts
        .iter()
        .flat_map(|(name, count)| {
            (1..=*count).map(move |when| format!("inject={name}:signal=SIGKILL:when={when}"))
        })
        .collect()
}

fn check(rig: &Rig, point: &str) {
    let notes = std::fs::read_to_string(rig.dir.join("notes")).unwrap_or_default();
    let (ran, noted) = (rig.ran(), |word: &str, name: &str| notes.contains(&format!("{word} {name}\n")));
    for turn in 0..3 {
        let (kept, gone) = (format!("kept-{turn}"), format!("gone-{turn}"));
        let times = |name: &str| ran.iter().filter(|line| line.starts_with(&format!("{name} "))).count();
        if noted("owed", &kept) {
            // Twice if it was killed between the doing and the noting.
            assert!(
                (1..=2).contains(&times(&kept)),
                "{point}: {kept} ran {} times\n{notes}{ran:?}",
                times(&kept)
            );
        }
        if noted("known", &kept) {
            assert!(ran.contains(&format!("{kept} known")), "{point}: {ran:?}");
        }
        if noted("disarmed", &gone) {
            assert_eq!(times(&gone), 0, "{point}: {gone} ran after its disarm");
        } else if noted("owed", &gone) && !noted("asked", &gone) {
            assert!(times(&gone) >= 1, "{point}: {gone} was owed");
        }
    }
}

#[test]
fn an_owner_killed_at_every_system_call_is_paid_for() {
    let rig = Rig::new("trace");
    let Some(counts) = calls(&rig, "acks") else { return eprintln!("skipped(strace cannot trace here)") };
    let points = points(&counts);
    let total = points.len();
    for point in points {
        let rig = Rig::new("syscall");
        let _ = strace(&rig, &["-e", &point], "acks").status().unwrap();
        // By its guardian; where none was started yet, by the next start.
        wait_until(&point, || {
            let _ = rig.command("recover").output().unwrap();
            rig.runs().is_empty()
        });
        check(&rig, &point);
    }
    eprintln!("killed at each of {total} system calls of an owner");
}

/// What an owner, its wrapper and its guardian leave that were killed together.
fn left(name: &str) -> Rig {
    let rig = Rig::new(name);
    let mut child = rig.start("waits", "ready");
    wait_until("it is guarded", || rig.guardians().len() == 1);
    // Stopped first: it would start another guardian.
    rig::kill(child.id(), libc::SIGSTOP);
    rig::kill(rig.guardians()[0], libc::SIGKILL);
    rig::kill(child.id(), libc::SIGKILL);
    child.wait().unwrap();
    wait_until("the guardian is gone", || rig.guardians().is_empty());
    rig
}

/// One of two payers is stopped at a system call, the other comes, then the first goes on.
#[test]
fn of_two_payers_one_stopped_anywhere_each_cleanup_is_run_by_one() {
    let Some(counts) = calls(&left("stopped"), "recover-now") else {
        return eprintln!("skipped(strace cannot trace here)");
    };
    let points: Vec<String> =
        points(&counts).into_iter().map(|point| point.replace("SIGKILL", "SIGSTOP")).step_by(5).collect();
    let total = points.len();
    for point in points {
        let rig = left("stopped");
        let mut first = strace(&rig, &["-e", &point], "recover-now").spawn().unwrap();
        let payer = |first: u32| -> Option<u32> {
            let children = std::fs::read_to_string(format!("/proc/{first}/task/{first}/children")).ok()?;
            children.split_whitespace().next()?.parse().ok()
        };
        let state = |pid: u32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next())
        };
        // Stopped for good, and not only for strace to look at it; or through already.
        let (mut stopped, mut looks) = (None, 0);
        wait_until(&point, || {
            stopped = payer(first.id()).filter(|pid| matches!(state(*pid), Some('T' | 't')));
            looks = if stopped.is_some() { looks + 1 } else { 0 };
            looks > 10 || first.try_wait().unwrap().is_some()
        });
        let _ = rig.command("recover-now").output().unwrap();
        if let Some(pid) = stopped {
            rig::kill(pid, libc::SIGCONT);
        }
        first.wait().unwrap();
        wait_until(&point, || {
            let _ = rig.command("recover-now").output().unwrap();
            rig.runs().is_empty()
        });
        assert_eq!(rig.ran(), ["four -", "two known", "one -"], "{point}");
    }
    eprintln!("one of two payers was stopped at each of {total} system calls");
}

#[test]
fn a_device_that_refuses_a_flush_or_room_is_told_of_and_nothing_is_registered() {
    let rig = Rig::new("power");
    let plain = rig.command("power").output().unwrap();
    let told = String::from_utf8_lossy(&plain.stdout).into_owned();
    if told.contains("where a power cut reaches it") {
        return eprintln!("skipped(the temporary directory is in memory)");
    }
    assert_eq!(told, "kept, and disarmed: true\n");
    for (inject, words) in [
        ("inject=fdatasync:error=EIO", "Input/output error"),
        ("inject=fdatasync:error=EIO:when=2", "the device did not keep it"),
        ("inject=fallocate:error=ENOSPC", "No space left on device"),
    ] {
        let rig = Rig::new("refused");
        let mut command = strace(&rig, &["-e", inject], "power");
        let output = command.stdout(std::process::Stdio::piped()).output().unwrap();
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        if !rig.dir.join("trace").metadata().is_ok_and(|found| found.len() > 0) {
            return eprintln!("skipped(strace cannot trace here)");
        }
        assert!(told.contains(words), "{inject}: {told}");
        wait_until(inject, || {
            let _ = rig.command("recover-now").output().unwrap();
            rig.runs().is_empty()
        });
        assert_eq!(rig.ran(), [""; 0], "{inject}");
    }
}

#[test]
fn a_payer_killed_at_every_system_call_and_its_successor_too_leave_nothing_unpaid() {
    let rig = left("killed");
    let Some(counts) = calls(&rig, "recover") else { return eprintln!("skipped(strace cannot trace here)") };
    let points = points(&counts);
    let total = points.len();
    for (index, point) in points.iter().enumerate() {
        let rig = left("killed");
        let _ = strace(&rig, &["-e", point], "recover").status().unwrap();
        let second = &points[(index * 7 + 3) % total];
        let _ = strace(&rig, &["-e", second], "recover").status().unwrap();
        wait_until(point, || {
            let _ = rig.command("recover").output().unwrap();
            rig.runs().is_empty()
        });
        let ran = rig.ran();
        for name in ["four -", "two known", "one -"] {
            let times = ran.iter().filter(|line| *line == name).count();
            assert!((1..=3).contains(&times), "{point}, then {second}: {ran:?}");
        }
        assert!(!ran.iter().any(|line| line.starts_with("three")), "{point}: {ran:?}");
        // Newest first, also over three payers.
        assert!(
            ran.iter().rposition(|l| l == "four -") < ran.iter().position(|l| l == "one -"),
            "{point}: {ran:?}"
        );
    }
    eprintln!(
        "killed at {total} of {} system calls of a payer, each time twice",
        counts.values().sum::<u32>()
    );
}

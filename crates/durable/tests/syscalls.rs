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

#[test]
fn a_payer_killed_at_every_system_call_and_its_successor_too_leave_nothing_unpaid() {
    let left = || {
        let rig = Rig::new("payer");
        let mut child = rig.start("waits", "ready");
        wait_until("it is guarded", || rig.guardians().len() == 1);
        rig::kill(child.id(), libc::SIGSTOP);
        rig::kill(rig.guardians()[0], libc::SIGKILL);
        rig::kill(child.id(), libc::SIGKILL);
        child.wait().unwrap();
        wait_until("the guardian is gone", || rig.guardians().is_empty());
        rig
    };
    let rig = left();
    let Some(counts) = calls(&rig, "recover") else { return eprintln!("skipped(strace cannot trace here)") };
    let points = points(&counts);
    let total = points.len();
    for (index, point) in points.iter().enumerate() {
        let rig = left();
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

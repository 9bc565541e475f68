//! Owners and payers that do not see each other as they are: other pids, other clocks, another `/proc`.

use std::process::{Child, Command};

use crate::rig::{Ran, Rig, guardians, kill, root, skipped, spawn, wait_until};

/// The init of a PID namespace, in which `script` runs; it lives on until the child is killed.
fn in_namespace(rig: &Rig, script: &str) -> Child {
    let mut command = rig.command("unshare");
    command.args(["--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c"]);
    command.arg(format!("{script}\nsleep 600"));
    spawn(command)
}

/// `epilogue recover` in a PID namespace of its own, from where nobody else is seen.
fn recover_beside(rig: &Rig) -> Ran {
    let mut command = rig.command("unshare");
    command.args(["--pid", "--fork", "--mount-proc", env!("CARGO_BIN_EXE_epilogue"), "recover"]);
    Ran(command.output().unwrap())
}

fn may_unshare() -> bool {
    if !root() {
        skipped("making a namespace needs root");
    }
    root()
}

#[test]
fn a_command_of_another_pid_namespace_is_not_paid_for_while_it_lives() {
    if !may_unshare() {
        return;
    }
    // Wrapper and guardian are killed at one blow, so that neither can begin anything. The second time
    // with no room for the number of a descriptor that is kept from scripts.
    for limit in ["1024", "100"] {
        let rig = Rig::new(&format!("namespace-{limit}"));
        let mut init = in_namespace(
            &rig,
            &format!(
                r#"ulimit -n {limit}
                epilogue run --on-wrapper-death wait -- bash -c 'epilogue tmp -d > note-dir; exec sleep 600' &
                wrapper=$!
                until [ -s note-dir ]; do sleep 0.01; done
                guardian=$(grep -lz '^EPILOGUE_GUARDIAN=' /proc/[0-9]*/environ | cut -d/ -f3)
                kill -STOP $wrapper; kill -KILL $guardian $wrapper; wait
                touch note-killed"#
            ),
        );
        rig.wait_for("note-killed");
        wait_until("nobody watches", || guardians(&rig).is_empty());
        // From above it is seen, under another pid; from beside, by the lock that it holds.
        let above = rig.epilogue(&["recover"]);
        assert_eq!((above.code(), rig.left().len()), (0, 1), "{}", above.stderr());
        assert_eq!((recover_beside(&rig).code(), rig.left().len()), (0, 1), "{limit}");
        init.kill().unwrap();
        init.wait().unwrap();
        wait_until("the namespace is gone, and its command: then it is paid for", || {
            assert_eq!(recover_beside(&rig).code(), 0);
            rig.left().is_empty()
        });
    }
}

#[test]
fn what_a_payer_of_another_namespace_had_begun_is_nobodys_when_it_is_dead_and_can_be_dropped() {
    if !may_unshare() {
        return;
    }
    let rig = Rig::new("payer-elsewhere");
    let cleanup = "epilogue defer -- sh -c 'touch note-began; exec sleep 600'; kill -9 $$";
    let mut init = in_namespace(&rig, &format!("epilogue run -- bash -c {cleanup:?}"));
    rig.wait_for("note-began");
    let list = rig.epilogue(&["pending", "list"]);
    assert_eq!(list.code(), 0, "somebody is at it: {}{}", list.stdout(), list.stderr());
    let name = list.stdout().split_whitespace().next().unwrap().to_owned();
    assert_eq!(rig.epilogue(&["pending", "drop", &name]).code(), 75, "not while it runs");
    init.kill().unwrap();
    init.wait().unwrap();
    wait_until("nobody is at it", || rig.epilogue(&["pending", "list"]).code() == 1);
    let shown = rig.epilogue(&["pending", "list"]);
    assert!(shown.stdout().contains("running"), "{}", shown.stdout());
    let dropped = rig.epilogue(&["pending", "drop", &name]);
    assert_eq!(dropped.code(), 0, "{}", dropped.stderr());
    assert_eq!(rig.runs(), 0);
}

/// A shell that owes a file, has named itself as the owner, and has lost its guardian.
fn unguarded(rig: &Rig) -> Child {
    let mut command = rig.command("bash");
    command.args(["-c", "touch file; epilogue defer --owner $$ --rm file; touch note-ready; exec sleep 600"]);
    let shell = spawn(command);
    rig.wait_for("note-ready");
    wait_until("it is guarded no more", || {
        let found = guardians(rig);
        found.iter().for_each(|pid| kill(*pid, libc::SIGKILL));
        found.is_empty()
    });
    shell
}

#[test]
fn an_owner_that_holds_no_lock_is_not_taken_for_dead_by_who_cannot_see_it() {
    if !may_unshare() {
        return;
    }
    let rig = Rig::new("no-lock");
    let mut shell = unguarded(&rig);
    let beside = recover_beside(&rig);
    assert_eq!((beside.code(), rig.left().len()), (1, 1), "{}", beside.stderr());
    assert!(beside.stderr().contains("may live; not touched"), "{}", beside.stderr());
    shell.kill().unwrap();
    shell.wait().unwrap();
    assert_eq!(recover_beside(&rig).code(), 1, "nor afterwards: from there nobody can tell");
    assert_eq!((rig.epilogue(&["recover"]).code(), rig.left().len()), (0, 0));
}

#[test]
fn where_proc_is_that_of_a_namespace_above_pids_are_not_taken_for_its_numbers() {
    if !may_unshare() {
        return;
    }
    let rig = Rig::new("proc-above");
    let script = r#"for n in $(seq 300); do /bin/true; done
        epilogue run -- bash -c '
            epilogue tmp -d > note-dir; epilogue recover; ls -d "$(cat note-dir)" > note-alive
            env -i PATH="$PATH" EPILOGUE_STATE_DIR="$EPILOGUE_STATE_DIR" epilogue defer -- touch note-found
            kill -9 $$' 2> note-told; echo $? > note-status"#;
    let mut command = rig.command("unshare");
    command.args(["--pid", "--fork", "--kill-child", "bash", "-c", script]);
    assert!(command.status().unwrap().success());
    let told = rig.read("note-told");
    assert_eq!(rig.read("note-alive"), rig.read("note-dir"), "it lived, and was not paid for: {told}");
    assert_eq!(rig.read("note-status").trim(), "137");
    assert!(rig.path("note-found").exists() && told.contains("ran 2 of 2"), "{told}");
    assert_eq!((rig.left().len(), rig.runs()), (0, 0));
    // Beside one that died there too, and not seen under its own number.
    let script = r#"for n in $(seq 300); do /bin/true; done
        bash -c 'touch file; epilogue defer --owner $$ --rm file; exec sleep 600' & owner=$!
        until [ -e file ] && epilogue pending list | grep -q file; do sleep 0.01; done
        epilogue recover; ls file > note-lived; kill -9 $owner; wait $owner
        until [ ! -e file ]; do sleep 0.01; done"#;
    let mut command = rig.command("unshare");
    command.args(["--pid", "--fork", "--kill-child", "bash", "-c", script]);
    assert!(command.status().unwrap().success());
    assert_eq!(rig.read("note-lived"), "file\n");
}

/// A command in a time namespace whose clock since boot is off by so much.
fn at_offset(rig: &Rig, offset: &str, command: &str) -> Command {
    let script = format!(
        "import ctypes, os, sys
if ctypes.CDLL(None, use_errno=True).unshare(0x80) != 0: sys.exit(200)
open('/proc/self/timens_offsets', 'w').write('boottime {offset}')
if os.fork() == 0: os.execvp('bash', ['bash', '-c', {command:?}])
sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))"
    );
    let mut python = rig.command("python3");
    python.args(["-c", &script]);
    python
}

#[test]
fn in_another_time_namespace_the_living_are_known_as_alive_and_the_dead_as_dead() {
    if !may_unshare() {
        return;
    }
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
    let uptime: u64 = uptime.split('.').next().unwrap().parse().unwrap();
    // Later; before it came up by all of its life but a second; by half a tick.
    for offset in ["1000000 0", &format!("-{} 0", uptime - 1), "5 5000000"] {
        let rig = Rig::new("time");
        let mut shell = unguarded(&rig);
        let there = Ran(at_offset(&rig, offset, "epilogue recover").output().unwrap());
        if there.0.status.code() == Some(200) {
            shell.kill().unwrap();
            shell.wait().unwrap();
            return skipped("no time namespace can be made here");
        }
        assert_eq!((there.code(), rig.left().len()), (0, 1), "{offset}: it lives. {}", there.stderr());
        shell.kill().unwrap();
        shell.wait().unwrap();
        assert_eq!(at_offset(&rig, offset, "epilogue recover").status().unwrap().code(), Some(0));
        assert_eq!((rig.left().len(), rig.runs()), (0, 0), "{offset}: it is dead");

        // And the other way round: one that began there, seen from here.
        let script = "touch file; epilogue defer --owner $$ --rm file; touch note-there; exec sleep 600";
        let mut inside = spawn(at_offset(&rig, offset, script));
        rig.wait_for("note-there");
        wait_until("it is guarded", || guardians(&rig).len() == 1);
        let here = rig.epilogue(&["recover"]);
        assert_eq!((here.code(), rig.left().len()), (0, 1), "{offset}: {}", here.stderr());
        let owner = rig.epilogue(&["pending", "list"]);
        assert!(owner.stdout().contains("alive"), "{offset}: {}", owner.stdout());
        let children = format!("/proc/{0}/task/{0}/children", inside.id());
        let sleep = std::fs::read_to_string(children).unwrap();
        kill(sleep.split_whitespace().next().unwrap().parse().unwrap(), libc::SIGKILL);
        inside.wait().unwrap();
        wait_until("its guardian has paid", || rig.left().is_empty() && rig.runs() == 0);
    }
}

/// A script under a `/proc` that shows nobody who is hidden: 1 shows that there is somebody, 2 not even that.
/// As a user from whom there is something to hide.
fn under_hidepid(rig: &Rig, hidepid: u8, script: &str) -> Child {
    std::fs::write(rig.path("note-script.sh"), script).unwrap();
    let mut command = rig.command("unshare");
    command.args(["--mount", "bash", "-c"]).arg(format!(
        "mount -t proc -o hidepid={hidepid} proc /proc &&
         exec setpriv --reuid=65534 --regid=65534 --clear-groups \
         epilogue run --on-wrapper-death wait -- sh note-script.sh"
    ));
    spawn(command)
}

/// A command there that hides from its own user.
fn hidden(rig: &Rig, hidepid: u8) -> Child {
    let hides = "import ctypes, os, time
ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
print(os.getpid(), file=open('note-pid', 'w'), flush=True)
time.sleep(600)";
    std::fs::write(rig.path("note-hides.py"), hides).unwrap();
    under_hidepid(rig, hidepid, "epilogue tmp > note-file; exec python3 note-hides.py")
}

#[test]
fn who_hides_from_its_own_user_lives() {
    if !may_unshare() {
        return;
    }
    for hidepid in [1, 2] {
        let rig = Rig::new(&format!("hidden-{hidepid}"));
        rig.give_to(65534);
        let mut wrapper = hidden(&rig, hidepid);
        wait_until("it hides", || {
            rig.read("note-pid").ends_with('\n') || !crate::rig::is_there(wrapper.id())
        });
        let Ok(owner) = rig.read("note-pid").trim().parse() else {
            wrapper.wait().unwrap();
            return skipped("another user may not run what was built here, or /proc not be mounted");
        };
        wait_until("it is guarded", || guardians(&rig).len() == 1);
        // Its guardian has to see for itself now.
        wrapper.kill().unwrap();
        wrapper.wait().unwrap();
        let guardian = guardians(&rig);
        let before = rests(guardian[0]);
        wait_until("the guardian has looked", || {
            rests(guardian[0]) > before + 3 || guardians(&rig).is_empty()
        });
        assert_eq!((guardians(&rig), rig.left().len()), (guardian, 1), "hidepid={hidepid}: it lives");
        kill(owner, libc::SIGKILL);
        wait_until("it is paid for", || rig.left().is_empty() && rig.runs() == 0);
    }
}

#[test]
fn who_hides_when_it_began_is_not_signalled_by_its_number_alone() {
    if !may_unshare() {
        return;
    }
    let rig = Rig::new("hidden-victim");
    rig.give_to(65534);
    let hides_later = "import ctypes, os, time
print(os.getpid(), file=open('note-pid', 'w'), flush=True)
while not os.path.exists('note-go'): time.sleep(0.01)
ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
print('hidden', file=open('note-hidden', 'w'), flush=True)
time.sleep(600)";
    std::fs::write(rig.path("note-hides.py"), hides_later).unwrap();
    let script = "python3 note-hides.py & until [ -s note-pid ]; do sleep 0.01; done
        epilogue defer --kill $!; touch note-go; until [ -s note-hidden ]; do sleep 0.01; done
        epilogue defer --kill $! 2> note-refused; echo $? > note-code";
    let mut wrapper = under_hidepid(&rig, 2, script);
    wait_until("the wrapper has tried", || !crate::rig::is_there(wrapper.id()));
    wrapper.wait().unwrap();
    let Ok(victim) = rig.read("note-pid").trim().parse() else {
        return skipped("another user may not run what was built here, or /proc not be mounted");
    };
    assert_eq!(rig.read("note-code"), "66\n", "{}", rig.read("note-refused"));
    assert!(rig.read("note-refused").contains("is hidden here"), "{}", rig.read("note-refused"));
    assert!(crate::rig::is_there(victim), "it cannot be told to be the one that was meant");
    kill(victim, libc::SIGKILL);
    wait_until("nothing is owed any more", || rig.runs() == 0);
}

/// How often a process has gone to sleep.
fn rests(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let rests = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    rests.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
}

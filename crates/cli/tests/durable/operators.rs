//! What cannot be paid is parked, never guessed; and what an operator does about it.

use crate::rig::{Rig, wait_until};

fn parked(rig: &Rig, why: &str) -> String {
    let list = rig.epilogue(&["pending", "list"]);
    assert_eq!(list.code(), 1, "something is parked: {}{}", list.stdout(), list.stderr());
    let id = list.stdout().split_whitespace().next().unwrap().to_owned();
    let shown = rig.epilogue(&["pending", "show", &id]);
    assert!(shown.stdout().contains("parked") && shown.stdout().contains(why), "{}", shown.stdout());
    id
}

#[test]
fn a_command_whose_directory_is_gone_or_another_is_parked_retried_and_dropped() {
    let rig = Rig::new("cwd");
    let ran = rig.run(&[], "mkdir sub; cd sub; epilogue defer -- touch ../note-ran; cd ..; rmdir sub");
    assert_eq!(ran.code(), 123);
    assert!(
        ran.stderr().contains("parked: ")
            && ran.stderr().contains("/1 touch")
            && ran.stderr().contains("is gone"),
        "{}",
        ran.stderr()
    );
    let id = parked(&rig, "is gone");
    std::fs::create_dir(rig.path("sub")).unwrap();
    let again = rig.epilogue(&["pending", "retry", &id]);
    assert_eq!(again.code(), 1, "another directory of that name is not the one that was meant");
    assert!(again.stderr().contains("is another one now"), "{}", again.stderr());
    assert!(!rig.path("note-ran").exists());
    let dropped = rig.epilogue(&["pending", "drop", &id]);
    assert_eq!(dropped.code(), 0);
    assert!(dropped.stderr().contains("this will never run: touch ../note-ran"), "{}", dropped.stderr());
    assert_eq!(rig.epilogue(&["pending", "list"]).code(), 0);
    assert_eq!(rig.runs(), 0, "nothing keeps the run any more");
}

/// The files with the values are taken away, as a reboot does.
#[test]
fn a_command_whose_environment_went_with_a_reboot_is_parked_unless_it_does_not_matter() {
    let rig = Rig::new("environment");
    let script = |options: &str| {
        format!(
            "export KUBECONFIG=/the/right/one; epilogue defer {options} -- sh -c 'echo ${{KUBECONFIG-none}} >> note-config'"
        )
    };
    let kept = rig.run(&[], &script(""));
    assert_eq!((kept.code(), rig.read("note-config").trim()), (0, "/the/right/one"));
    std::fs::remove_file(rig.path("note-config")).unwrap();

    // By one command: no other test's values may go meanwhile.
    let only_mine = r#"id=$(epilogue pending export | grep -m1 '"run"' | cut -d'"' -f4)
                       rm -rf /dev/shm/epilogue-env-*/"$id" /run/user/*/epilogue-env/"$id""#;
    let gone = rig.run(&[], &format!("{}\n{only_mine}", script("")));
    assert_eq!(gone.code(), 123, "{}", gone.stderr());
    assert!(
        gone.stderr().contains("its environment is gone") && gone.stderr().contains("KUBECONFIG"),
        "{}",
        gone.stderr()
    );
    assert_eq!(rig.read("note-config"), "", "it did not run with another");
    let id = parked(&rig, "its environment is gone");
    assert_eq!(rig.epilogue(&["pending", "drop", &id]).code(), 0);

    let any = rig.run(&[], &format!("{}\n{only_mine}", script("--no-env")));
    assert_eq!(any.code(), 0, "{}", any.stderr());
    assert_eq!(rig.read("note-config").trim(), "none");
}

#[test]
fn what_fails_can_be_tried_again_when_the_cause_is_gone() {
    let rig = Rig::new("retry");
    let ran = rig.run(&[], "epilogue defer --retries 0 -- test -e note-cure");
    assert_eq!(ran.code(), 123);
    // The guardian goes on trying what the wrapper left; both may have it.
    std::fs::write(rig.path("note-cure"), "").unwrap();
    wait_until("it is paid in the end", || {
        let _ = rig.epilogue(&["recover"]);
        rig.runs() == 0
    });
    let log = rig.epilogue(&["pending", "log", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&log.stdout()).unwrap();
    let ran: u64 = json["paid"].as_array().unwrap().iter().map(|run| run["ran"].as_u64().unwrap()).sum();
    assert_eq!(ran, 1, "{json:#}");
}

#[test]
fn lists_are_json_on_request_and_a_name_that_is_not_there_is_66() {
    let rig = Rig::new("lists");
    let ran = rig.run(&[], "epilogue defer --name a -- true; epilogue pending list --json > note-list; epilogue pending export > note-export");
    assert_eq!(ran.code(), 0);
    for file in ["note-list", "note-export"] {
        let json: serde_json::Value = serde_json::from_str(&rig.read(file)).unwrap();
        assert_eq!(
            (&json["pending"][0]["state"], &json["pending"][0]["owner"]),
            (&"pending".into(), &"alive".into())
        );
        assert_eq!(json["pending"][0]["call"]["n"], "a");
    }
    for verb in ["show", "retry", "drop"] {
        let missing = rig.epilogue(&["pending", verb, "abc/7"]);
        assert_eq!(missing.code(), 66, "{}", missing.stderr());
    }
    let nowhere = rig.epilogue(&["pending", "list", "--dir", "/nonexistent"]);
    assert_eq!(nowhere.code(), 2);
    assert!(nowhere.stderr().contains("/nonexistent"), "{}", nowhere.stderr());
}

#[test]
fn two_recovers_at_once_run_nothing_twice() {
    let rig = Rig::new("two");
    let script = r#"for i in 1 2 3 4 5; do epilogue defer -- sh -c "sleep 0.1; echo $i >> note-ran"; done
                    epilogue defer -- sh -c 'echo $PPID > note-payer'; kill -9 $PPID; kill -9 $$"#;
    let mut command = rig.wrapped(&["--on-wrapper-death", "wait"], script);
    assert!(!command.output().unwrap().status.success());
    let (one, two) = std::thread::scope(|s| {
        let one = s.spawn(|| rig.epilogue(&["recover", "--wait", "15s"]).code());
        let two = s.spawn(|| rig.epilogue(&["recover"]).code());
        (one.join().unwrap(), two.join().unwrap())
    });
    assert_eq!(one, 0);
    assert!([0, 75].contains(&two), "{two}");
    wait_until("all of it is paid", || rig.read("note-ran").lines().count() == 5);
    assert_eq!(rig.read("note-ran"), "5\n4\n3\n2\n1\n");
}

/// A run whose owner and guardian are dead, and that owes these.
fn abandoned(rig: &Rig, cleanups: &[&str]) {
    let defers: String = cleanups
        .iter()
        .map(|cleanup| format!("epilogue defer --owner $$ --name same -- {cleanup}; "))
        .collect();
    let mut command = rig.command("bash");
    command.args(["-c", &format!("{defers} touch note-ready; exec sleep 600")]);
    let mut shell = crate::rig::spawn(command);
    rig.wait_for("note-ready");
    crate::rig::wait_until("it is guarded", || !crate::rig::guardians(rig).is_empty());
    for guardian in crate::rig::guardians(rig) {
        crate::rig::kill(guardian, libc::SIGKILL);
    }
    crate::rig::wait_until("nobody watches", || crate::rig::guardians(rig).is_empty());
    shell.kill().unwrap();
    shell.wait().unwrap();
    std::fs::remove_file(rig.path("note-ready")).unwrap();
}

#[test]
fn what_nobody_pays_is_an_alert_and_recover_ends_it() {
    let rig = Rig::new("alert");
    abandoned(&rig, &["touch note-paid"]);
    let list = rig.epilogue(&["pending", "list"]);
    assert_eq!(list.code(), 1);
    assert!(list.stderr().contains("run 'epilogue recover'"), "{}", list.stderr());
    assert_eq!(rig.epilogue(&["recover"]).code(), 0);
    let list = rig.epilogue(&["pending", "list"]);
    assert_eq!((list.code(), list.stdout().as_str(), list.stderr().as_str()), (0, "", ""));
}

#[test]
fn a_name_that_several_runs_have_is_not_guessed() {
    let rig = Rig::new("ambiguous");
    abandoned(&rig, &["touch note-one"]);
    abandoned(&rig, &["touch note-two"]);
    for name in ["same", "1"] {
        let dropped = rig.epilogue(&["pending", "drop", name]);
        assert_eq!(dropped.code(), 2, "{}", dropped.stderr());
        assert!(dropped.stderr().contains("say which, as RUN/ID"), "{}", dropped.stderr());
    }
    let id = rig.epilogue(&["pending", "list"]).stdout().split_whitespace().next().unwrap().to_owned();
    assert_eq!(rig.epilogue(&["pending", "drop", &id]).code(), 0);
    assert_eq!(rig.epilogue(&["pending", "drop", "same"]).code(), 0, "now there is one");
}

#[test]
fn a_byte_that_somebody_has_changed_is_said_and_the_run_is_kept() {
    use std::os::unix::fs::FileExt;
    let rig = Rig::new("damaged");
    abandoned(&rig, &["touch note-one", "touch note-two"]);
    let run = std::fs::read_dir(rig.state()).unwrap().flatten().find(|entry| entry.path().is_dir()).unwrap();
    let journal = std::fs::File::options().write(true).open(run.path().join("journal")).unwrap();
    // In the body of the first record.
    journal.write_all_at(b"Z", 4096 * 8 + 128 + 60).unwrap();
    let list = rig.epilogue(&["pending", "list"]);
    assert_eq!(list.code(), 1);
    assert!(list.stderr().contains("1 slots of its journal cannot be read"), "{}", list.stderr());
    let recovered = rig.epilogue(&["recover"]);
    assert_eq!(recovered.code(), 1, "{}", recovered.stderr());
    assert!(recovered.stderr().contains("somebody has changed the file"), "{}", recovered.stderr());
    assert!(rig.path("note-two").exists() && !rig.path("note-one").exists());
    assert_eq!(rig.runs(), 1);
}

#[test]
fn failures_are_not_counted_as_deaths_of_payers() {
    let rig = Rig::new("deaths");
    // Fails four times; then its payer dies; then it succeeds.
    let cleanup = r#"n=$(cat note-n 2>/dev/null || echo 0); echo $((n+1)) > note-n
                     [ $n = 4 ] && { kill -9 $PPID; sleep 600; }; [ $n -gt 4 ]"#;
    std::fs::write(rig.path("note-script"), cleanup).unwrap();
    abandoned(&rig, &["bash note-script"]);
    crate::rig::wait_until("it is done", || {
        let _ = rig.command(env!("CARGO_BIN_EXE_epilogue")).arg("recover").output().unwrap();
        rig.read("note-n").trim().parse::<u32>().is_ok_and(|n| n > 5) || rig.runs() == 0
    });
    assert_eq!(
        (rig.read("note-n").trim(), rig.runs()),
        ("6", 0),
        "{}",
        rig.epilogue(&["pending", "log"]).stdout()
    );
}

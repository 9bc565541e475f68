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
    assert!(ran.stderr().contains("parked: #1") && ran.stderr().contains("is gone"), "{}", ran.stderr());
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

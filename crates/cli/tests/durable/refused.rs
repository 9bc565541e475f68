//! What is refused: with a status that means it, in words, and with nothing registered.

use std::os::unix::fs::PermissionsExt;

use crate::rig::{Rig, root, skipped};

#[test]
fn outside_of_any_scope_nothing_is_registered_and_the_words_say_what_to_do() {
    let rig = Rig::new("noscope");
    for arguments in [&["defer", "--", "true"][..], &["tmp"], &["id"], &["disarm", "x"]] {
        let ran = rig.epilogue(arguments);
        assert_eq!(ran.code(), 69, "{arguments:?}: {}", ran.stderr());
        assert!(ran.stderr().contains("epilogue run -- ./script"), "{}", ran.stderr());
    }
    assert_eq!((rig.runs(), rig.left().len()), (0, 0));
}

#[test]
fn bad_input_names_the_option_and_the_value() {
    let rig = Rig::new("bad");
    for (arguments, words) in [
        (&["defer", "--scope", "nowhere", "--", "true"][..], "\"nowhere\" is no scope"),
        (&["defer", "--timeout", "soon", "--", "true"], "--timeout"),
        (&["defer"], "COMMAND"),
        (&["run", "--tier", "diamond", "--", "true"], "diamond"),
        (&["recover", "--wait", "x"], "--wait"),
        (&["tmp", "--suffix", "a/b", "--scope", "/x/journal:1"], "a/b"),
    ] {
        let ran = rig.epilogue(arguments);
        assert_eq!(ran.code(), 2, "{arguments:?}: {}", ran.stderr());
        assert!(ran.stderr().contains(words), "{arguments:?}: {}", ran.stderr());
    }
}

#[test]
fn a_missing_command_a_missing_process_and_a_secret_are_refused_before_anything_is_on_record() {
    let rig = Rig::new("before");
    let script = r#"epilogue defer -- no-such-command; echo $? >> note-codes
        epilogue defer --kill 999999999; echo $? >> note-codes
        epilogue defer --rm /no/such/dir/x; echo $? >> note-codes
        epilogue defer -- curl --password=hunter2 x; echo $? >> note-codes
        epilogue defer -- true https://me:hunter2@host/; echo $? >> note-codes
        epilogue defer --rm /; echo $? >> note-codes
        epilogue pending list > note-list"#;
    let ran = rig.run(&[], script);
    assert_eq!(rig.read("note-codes"), "66\n66\n66\n2\n2\n66\n", "{}", ran.stderr());
    assert!(!ran.stderr().contains("hunter2"), "{}", ran.stderr());
    assert_eq!(rig.read("note-list"), "");
}

#[test]
fn a_scope_that_is_being_paid_takes_nothing_more() {
    let rig = Rig::new("late");
    let script = r#"scope=$EPILOGUE_SCOPE
        epilogue defer -- sh -c 'epilogue defer --scope "'"$scope"'" -- touch note-late; echo $? > note-code'"#;
    let ran = rig.run(&[], script);
    assert_eq!(ran.code(), 0, "{}", ran.stderr());
    assert_eq!(rig.read("note-code").trim(), "75");
    assert!(!rig.path("note-late").exists());
    let after = rig.epilogue(&["defer", "--scope", "/nonexistent/run/journal:1", "--", "true"]);
    assert_eq!(after.code(), 75, "a run that is gone was paid: {}", after.stderr());
}

#[test]
fn another_users_scope_is_refused_root_or_not() {
    if !root() {
        return skipped("two users need root");
    }
    let rig = Rig::new("user");
    // Reachable for the other user, as a scope in the environment would be.
    for dir in [&rig.dir, &rig.work()] {
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let script = r#"chmod 755 "$EPILOGUE_STATE_DIR"
        setpriv --reuid=65534 --clear-groups epilogue defer -- true; echo $? > note-code"#;
    let ran = rig.run(&[], script);
    let code = rig.read("note-code");
    assert_eq!(code.trim(), "77", "{}", ran.stderr());
    assert!(ran.stderr().contains("belongs to uid 0"), "{}", ran.stderr());
}

#[test]
fn a_state_directory_that_others_can_write_to_is_refused_unless_its_parent_is_sticky() {
    let rig = Rig::new("writable");
    std::fs::create_dir(rig.state()).unwrap();
    std::fs::set_permissions(rig.state(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let ran = rig.run(&[], "true");
    assert_eq!(ran.code(), 125);
    assert!(ran.stderr().contains("others can write to it (mode 777)"), "{}", ran.stderr());
    std::fs::set_permissions(rig.state(), std::fs::Permissions::from_mode(0o700)).unwrap();
    std::fs::set_permissions(&rig.dir, std::fs::Permissions::from_mode(0o777)).unwrap();
    let ran = rig.run(&[], "true");
    assert!(ran.stderr().contains("others can write to its parent"), "{}", ran.stderr());
    std::fs::set_permissions(&rig.dir, std::fs::Permissions::from_mode(0o1777)).unwrap();
    assert_eq!(rig.run(&[], "true").code(), 0);
}

#[test]
fn a_promise_over_a_power_cut_is_refused_where_the_journal_is_in_memory() {
    let rig = Rig::new("memory");
    let dir = format!("/dev/shm/epilogue-test-{}", std::process::id());
    let ran = rig.run(&["--tier", "power", "--dir", &dir], "true");
    let _ = std::fs::remove_dir_all(&dir);
    assert_eq!(ran.code(), 125);
    assert!(ran.stderr().contains("it is gone when the machine goes down"), "{}", ran.stderr());
}

#[test]
fn a_full_disk_registers_nothing_says_so_and_loses_nothing() {
    if !root() {
        return skipped("a small file system needs root");
    }
    let rig = Rig::new("full");
    std::fs::create_dir(rig.state()).unwrap();
    let mounted = rig
        .command("mount")
        .args(["-t", "tmpfs", "-o", "size=400k,mode=700", "none"])
        .arg(rig.state())
        .status()
        .is_ok_and(|status| status.success());
    if !mounted {
        return skipped("nothing can be mounted here");
    }
    let script = r#"epilogue defer -- sh -c 'echo paid > note-paid' && echo on >> note-codes
        head -c 500000 /dev/zero > "$EPILOGUE_STATE_DIR/filler" 2>/dev/null
        for i in $(seq 1 60); do
            epilogue defer --env BIG -- true 2> note-error || { echo $? >> note-codes; break; }
        done"#;
    let big = "x".repeat(60_000);
    let mut command = rig.wrapped(&[], script);
    let output = command.env("BIG", big).output().unwrap();
    let codes = rig.read("note-codes");
    let error = rig.read("note-error");
    rig.command("umount").arg(rig.state()).status().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(codes, "on\n74\n", "{error}");
    assert!(error.contains("nothing was registered") && error.contains("No space left"), "{error}");
    assert_eq!(rig.read("note-paid").trim(), "paid", "what was on record is paid");
}

#[test]
fn many_mebibytes_of_journals_are_warned_of_and_too_many_refused() {
    let rig = Rig::new("many");
    assert_eq!(rig.run(&[], "true").code(), 0);
    let other = rig.state().join("another");
    std::fs::create_dir(&other).unwrap();
    let journal = std::fs::File::create(other.join("journal")).unwrap();
    let ran_at = |mib: u64| {
        journal.set_len(mib << 20).unwrap();
        rig.run(&[], "touch note-ran")
    };
    assert_eq!(ran_at(63).stderr(), "");
    let warned = ran_at(70);
    assert_eq!(warned.code(), 0);
    assert!(warned.stderr().contains("holds 70 MiB of journals, and at 256 MiB"), "{}", warned.stderr());
    assert!(rig.epilogue(&["capabilities"]).stdout().contains("note: "), "also there");
    std::fs::remove_file(rig.path("note-ran")).unwrap();
    let refused = ran_at(256);
    assert_eq!(refused.code(), 125, "{}", refused.stderr());
    assert!(refused.stderr().contains("256 MiB is the limit"), "{}", refused.stderr());
    assert!(!rig.path("note-ran").exists());
    let mut shell = rig.command("bash");
    let ran = crate::rig::Ran(shell.args(["-c", "epilogue defer --owner $$ -- true"]).output().unwrap());
    assert_eq!(ran.code(), 74, "{}", ran.stderr());
}

#[test]
fn another_users_scope_that_cannot_even_be_looked_into_is_refused_as_such() {
    if !root() {
        return skipped("another user needs root");
    }
    let rig = Rig::new("closed-scope");
    // A private directory of root's, in which nobody may look.
    let script = r#"chmod 711 ..; cp "$(command -v epilogue)" /tmp/epilogue-of-$$; chmod 755 /tmp/epilogue-of-$$
                    su nobody -s /bin/bash -c "/tmp/epilogue-of-$$ defer -- true; echo \$?" > note-code 2> note-error
                    rm /tmp/epilogue-of-$$"#;
    assert_eq!(rig.run(&[], script).code(), 0);
    assert_eq!(rig.read("note-code"), "77\n", "{}", rig.read("note-error"));
    assert!(rig.read("note-error").contains("another user's"), "{}", rig.read("note-error"));
}

#[test]
fn what_could_only_be_a_mistake_is_refused() {
    let rig = Rig::new("mistakes");
    for (arguments, word) in [
        ("defer --kill 1", "--kill 1"),
        ("defer --name '' -- true", "--name"),
        ("defer --timeout 0s -- true", "--timeout 0s"),
        ("defer -- curl --password hunter2", "--password"),
        ("defer -- env PGPASSWORD=hunter2 psql", "PGPASSWORD"),
    ] {
        let ran = rig.run(&[], &format!("epilogue {arguments}; echo $? > note-code"));
        assert_eq!(rig.read("note-code"), "2\n", "{arguments}: {}", ran.stderr());
        assert!(ran.stderr().contains(word), "{arguments}: {}", ran.stderr());
        assert!(!ran.stderr().contains("hunter2"), "{}", ran.stderr());
    }
    let ran = rig.run(&[], "epilogue defer --rm nowhere/file; echo $? > note-code");
    assert!(ran.stderr().contains("--rm nowhere/file"), "{}", ran.stderr());
    assert_eq!(rig.read("note-code"), "66\n");
}

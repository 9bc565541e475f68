//! The built-in comparison.

use crate::support::{Scratch, lost, turn};

const EPILOGUE: &str = "epilogue style";

#[test]
fn asked_to_stop_the_epilogue_style_loses_nothing_and_the_plain_style_shows_what_it_loses() {
    let _turn = turn();
    let scratch = Scratch::new("asked");
    let proved = scratch.prove(&["-t", "INT,TERM,return"]);
    for trigger in ["INT", "TERM", "return"] {
        let row = proved.row(EPILOGUE, trigger);
        assert_eq!(row["verdict"], "pass", "{row:#}");
        assert_eq!(
            row["in_flight"]["ok"].as_u64().unwrap_or(0) + row["in_flight"]["ok_close"].as_u64().unwrap_or(0),
            30,
            "{row:#}"
        );
        for cohort in ["in_flight", "arrivals", "pool", "idle"] {
            assert_eq!(lost(&row[cohort]), 0, "{trigger} {cohort}: {row:#}");
        }
        assert!(
            row["arrivals"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum::<u64>() >= 95
        );
        assert_eq!((&row["ledger"]["lost"], &row["leaks"]), (&0.into(), &serde_json::json!([])));
        assert!(row["ledger"]["acked"].as_u64().unwrap() > 30);
        assert_eq!(row["cleanups"]["registered"], row["cleanups"]["run"]);
        assert_eq!(row["cleanups"]["registered"], 7);
        assert_eq!(row["exit"]["code"], 0);
        assert!(row["restart_ms"].is_u64());

        let plain = proved.row("plain style", trigger);
        assert_eq!(plain["verdict"], "fail");
        assert!(lost(&plain["arrivals"]) > 50, "{plain:#}");
        assert_eq!(lost(&plain["in_flight"]), 0, "it is careful: {plain:#}");
        assert!(plain["cleanups"].is_null());
    }
    assert_eq!(proved.code(), Some(0));
}

#[test]
fn exit_and_panic_run_what_is_owed_and_a_kill_leaves_nothing_behind() {
    let _turn = turn();
    let scratch = Scratch::new("unasked");
    let proved = scratch.prove(&["-t", "exit,panic-main,panic-handler,KILL"]);
    for (trigger, code) in [("exit", 3), ("panic-main", 101)] {
        let row = proved.row(EPILOGUE, trigger);
        assert_eq!(row["verdict"], "pass", "{row:#}");
        assert_eq!(row["exit"]["code"], code);
        assert_eq!(row["cleanups"]["registered"], row["cleanups"]["run"]);
        assert_eq!(proved.row("plain style", trigger)["verdict"], "fail");
    }
    let survived = proved.row(EPILOGUE, "panic-handler");
    assert_eq!((&survived["verdict"], &survived["exit"]["ms"]), (&"pass".into(), &().into()));

    // What the process itself owed went with it; what it owed durably was paid.
    let killed = proved.row(EPILOGUE, "KILL");
    assert_eq!(killed["verdict"], "pass", "{killed:#}");
    let of = |cell: &str| killed["cleanups"][cell].as_u64().unwrap();
    // Ten unfinished uploads are held in flight, and what the program owes as a whole.
    assert!(of("run_later") >= 12, "{killed:#}");
    // The list of what was owed at that moment is counted apart from what had been registered and had run.
    let owed = killed["cleanups"]["owed"].as_array().unwrap().len() as u64;
    assert_eq!(of("run_later") + of("pending"), owed, "{killed:#}");
    assert!(killed["cleanups"]["owed"].to_string().contains("guard @"), "{killed:#}");
    assert_eq!(killed["leaks"].as_array().unwrap().len(), 0, "{killed:#}");
    let plain = proved.row("plain style", "KILL");
    let kinds: Vec<_> = plain["leaks"].as_array().unwrap().iter().map(|leak| &leak["kind"]).collect();
    for kind in ["child", "socket", "file"] {
        assert!(kinds.iter().any(|found| *found == kind), "{kind} in {kinds:?}");
    }
    assert_eq!(proved.code(), Some(0));
}

#[test]
fn crashes_leave_nothing_that_was_owed_durably() {
    let _turn = turn();
    let scratch = Scratch::new("crashes");
    let proved = scratch.prove(&["--style", "epilogue", "-t", "abort,SEGV"]);
    for (trigger, signal) in [("abort", 6), ("SEGV", 11)] {
        let row = proved.row(EPILOGUE, trigger);
        assert_eq!(row["verdict"], "pass", "{row:#}");
        assert_eq!(row["exit"]["signal"], signal);
        assert_eq!(row["leaks"].as_array().unwrap().len(), 0, "{row:#}");
    }
}

#[test]
fn a_repeated_signal_loses_nothing_more_and_a_hurry_still_runs_every_cleanup() {
    let _turn = turn();
    let scratch = Scratch::new("twice");
    let proved = scratch.prove(&["--style", "epilogue", "-t", "TERM-twice,INT-twice,QUIT,HUP"]);
    for row in proved.rows(EPILOGUE) {
        assert_eq!(row["verdict"], "pass", "{row:#}");
        assert_eq!(row["cleanups"]["pending"], 0);
    }
    assert_eq!(lost(&proved.row(EPILOGUE, "TERM-twice")["arrivals"]), 0);
    let hurried = proved.row(EPILOGUE, "INT-twice")["exit"]["ms"].as_u64().unwrap();
    assert!((1500..4500).contains(&hurried), "{hurried}");
}

#[test]
fn ten_term_rows_say_the_same_ten_times() {
    let _turn = turn();
    let scratch = Scratch::new("ten");
    let proved = scratch.prove(&["--style", "epilogue", "-t", "TERM", "--repeat", "10"]);
    let rows = proved.rows(EPILOGUE);
    assert_eq!(rows.len(), 10);
    for row in rows {
        assert_eq!(row["verdict"], "pass", "{row:#}");
        let lost: u64 = ["in_flight", "idle", "arrivals", "pool"].iter().map(|c| lost(&row[c])).sum();
        assert_eq!((lost, &row["ledger"]["lost"], &row["cleanups"]["pending"]), (0, &0.into(), &0.into()));
    }
    let stdout = proved.stdout();
    assert!(stdout.contains("10 of 10 ways out as expected"), "{stdout}");
}

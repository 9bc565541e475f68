//! One journal, real files, no accidents.

use std::path::PathBuf;

use super::rig::record;
use crate::*;

struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let path = std::env::temp_dir().join(format!("epilogue-journal-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Dir(path)
    }

    fn journal(&self, tier: Tier, mapping: bool) -> Journal {
        Journal::create(&self.0.join("journal"), NewMeta { tier, ..NewMeta::default() }, mapping).unwrap()
    }

    fn reopened(&self) -> Journal {
        Journal::open(&self.0.join("journal")).unwrap()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn bodies(journal: &Journal) -> Vec<String> {
    let scan = journal.scan().unwrap();
    scan.open().map(|entry| String::from_utf8_lossy(&entry.body).into_owned()).collect()
}

fn each_way(law: impl Fn(&Dir, Journal)) {
    for (name, mapping) in [("mapped", true), ("positioned", false)] {
        let thread = std::thread::current().name().unwrap_or("law").replace("::", "-");
        let dir = Dir::new(&format!("{thread}-{name}"));
        let journal = dir.journal(Tier::Process, mapping);
        assert_eq!(journal.is_mapped(), mapping);
        law(&dir, journal);
    }
}

#[test]
fn what_is_registered_is_found_by_the_next_who_opens_newest_first() {
    each_way(|dir, journal| {
        for body in ["a", "b", "c"] {
            journal.register(&record(body.as_bytes(), Tier::Process)).unwrap();
        }
        std::mem::drop(journal);
        assert_eq!(bodies(&dir.reopened()), ["c", "b", "a"]);
    });
}

#[test]
fn a_disarm_holds_and_is_told_apart_from_one_that_is_too_late() {
    each_way(|dir, journal| {
        let a = journal.register(&record(b"a", Tier::Process)).unwrap();
        let b = journal.register(&record(b"b", Tier::Process)).unwrap();
        assert_eq!(journal.disarm(a).unwrap(), Disarm::Disarmed);
        assert_eq!(journal.disarm(a).unwrap(), Disarm::Already);
        assert_eq!(bodies(&dir.reopened()), ["b"]);
        let other = dir.reopened();
        let generation = other.take_over(ProcessId::default()).unwrap();
        assert_eq!(other.begin(generation, b.id()).unwrap(), Some(1));
        assert_eq!(journal.disarm(b).unwrap(), Disarm::TooLate(State::Running));
        other.finish(generation, b.id(), Paid::Done).unwrap();
        assert_eq!(journal.disarm(b).unwrap(), Disarm::TooLate(State::Done));
        assert!(other.close(generation).unwrap());
        assert_eq!(bodies(&journal), [""; 0]);
    });
}

#[test]
fn the_newest_amendment_counts_and_long_arguments_come_back_whole() {
    each_way(|dir, journal| {
        let long: Vec<u8> = (0..BODY_MAX).map(|at| at as u8).collect();
        let entry = journal.register(&record(&long, Tier::Process)).unwrap();
        journal.amend(entry.id(), 6, b"first").unwrap();
        journal.amend(entry.id(), 7, b"second").unwrap();
        let read = dir.reopened().entry(entry.id()).unwrap();
        assert_eq!((read.body, read.amendment), (long.clone(), Some(b"second".to_vec())));
        let too_long = vec![0; BODY_MAX + 1];
        let error = journal.register(&record(&too_long, Tier::Process)).unwrap_err();
        assert!(matches!(error, JournalError::TooLong { len } if len == BODY_MAX + 1), "{error}");
        assert!(matches!(journal.amend(999_999, 0, b"x"), Err(JournalError::NoSuchRecord { id: 999_999 })));
    });
}

#[test]
fn what_comes_while_the_run_is_paid_is_refused_and_not_on_record() {
    each_way(|_, journal| {
        let generation = journal.take_over(ProcessId::default()).unwrap();
        let late = journal.register(&record(b"late", Tier::Process));
        assert!(matches!(late, Err(JournalError::TooLate)));
        assert_eq!(bodies(&journal), [""; 0]);
        assert!(journal.close(generation).unwrap());
        assert_eq!(journal.phase().unwrap(), Phase::Closed);
        assert!(matches!(journal.register(&record(b"later", Tier::Process)), Err(JournalError::TooLate)));
    });
}

#[test]
fn a_payer_that_was_replaced_can_note_nothing() {
    each_way(|dir, journal| {
        let a = journal.register(&record(b"a", Tier::Process)).unwrap();
        let first = journal.take_over(ProcessId { pid: 1, start: 2 }).unwrap();
        assert_eq!(journal.begin(first, a.id()).unwrap(), Some(1));
        let other = dir.reopened();
        let second = other.take_over(ProcessId { pid: 3, start: 4 }).unwrap();
        assert!(second > first);
        assert!(matches!(journal.finish(first, a.id(), Paid::Done), Err(JournalError::Fenced { .. })));
        assert!(matches!(journal.begin(first, a.id()), Err(JournalError::Fenced { .. })));
        assert!(!journal.close(first).unwrap());
        // What the first had begun may have run: it is run again, and counted.
        assert_eq!(other.begin(second, a.id()).unwrap(), Some(2));
        other.finish(second, a.id(), Paid::Done).unwrap();
        assert_eq!(other.payer().unwrap(), ProcessId { pid: 3, start: 4 });
    });
}

#[test]
fn an_operator_can_retry_and_drop_what_is_parked() {
    each_way(|_, journal| {
        let a = journal.register(&record(b"a", Tier::Process)).unwrap();
        let b = journal.register(&record(b"b", Tier::Process)).unwrap();
        let generation = journal.take_over(ProcessId::default()).unwrap();
        for id in [b.id(), a.id()] {
            journal.begin(generation, id).unwrap();
            journal.finish(generation, id, Paid::Parked).unwrap();
        }
        assert_eq!(journal.entry(a.id()).unwrap().state, State::Parked);
        assert!(journal.retry(a.id()).unwrap());
        assert_eq!(journal.entry(a.id()).unwrap().attempts, 0);
        assert!(journal.drop_record(b.id()).unwrap());
        assert!(!journal.drop_record(b.id()).unwrap());
        assert_eq!(bodies(&journal), ["a"]);
    });
}

#[test]
fn any_number_of_short_lives_take_the_room_of_a_few_and_the_long_ones_stay() {
    let dir = Dir::new("recycling");
    let journal = dir.journal(Tier::Process, true);
    let mut kept = Vec::new();
    let turns: u64 = if cfg!(debug_assertions) { 200_000 } else { 2_000_000 };
    for turn in 0..turns {
        let body = turn.to_le_bytes();
        let registered = journal.register(&record(&body, Tier::Process)).unwrap();
        if turn % 1000 == 0 {
            journal.amend(registered.id(), 0, b"amended").unwrap();
            kept.push((registered, turn));
        } else {
            journal.disarm(registered).unwrap();
        }
    }
    let mib = std::fs::metadata(journal.path()).unwrap().len() >> 20;
    eprintln!("{mib} MiB after {turns} records, of which {} stay", kept.len());
    assert!(mib <= 24, "{mib} MiB for {} records", kept.len());
    let scan = dir.reopened().scan().unwrap();
    let open: Vec<_> = scan.open().collect();
    assert_eq!(open.len(), kept.len());
    for (entry, (registered, turn)) in open.iter().rev().zip(&kept) {
        assert_eq!((entry.id, entry.body.as_slice()), (registered.id(), turn.to_le_bytes().as_slice()));
        assert_eq!(entry.amendment.as_deref(), Some(b"amended".as_slice()));
    }
    // The owner's handle finds what was moved meanwhile.
    for (registered, _) in &kept {
        assert_eq!(journal.disarm(*registered).unwrap(), Disarm::Disarmed);
        assert_eq!(journal.disarm(*registered).unwrap(), Disarm::Already);
    }
    assert_eq!(journal.scan().unwrap().open().count(), 0);
}

#[test]
fn long_records_that_stay_take_their_own_room_and_no_more() {
    let dir = Dir::new("long");
    let journal = dir.journal(Tier::Process, true);
    let body = vec![b'.'; 1600];
    let kept = if cfg!(debug_assertions) { 3000 } else { 30_000 };
    for _ in 0..kept {
        journal.register(&record(&body, Tier::Process)).unwrap();
    }
    let (bytes, owed) = (std::fs::metadata(journal.path()).unwrap().len(), kept * body.len() as u64);
    assert!(bytes < 2 * owed + (2 << 20), "{bytes} bytes for {owed} that are owed");
    assert_eq!(dir.reopened().scan().unwrap().open().count() as u64, kept);
}

#[test]
fn what_is_amended_while_it_is_moved_has_its_newest_amendment_afterwards() {
    each_way(|dir, journal| {
        let first = journal.register(&record(b"a", Tier::Process)).unwrap();
        journal.amend(first.id(), 0, b"one").unwrap();
        let other = dir.reopened();
        assert!(journal.move_after_for_test(|| other.amend(first.id(), 0, b"two").unwrap()));
        let entry = journal.entry(first.id()).unwrap();
        assert_eq!(entry.amendment.as_deref(), Some(b"two".as_slice()));
        assert_ne!(entry.lsn, first.id(), "it lies elsewhere");
        // One that had none when it was read is not moved without the one it has now.
        journal.disarm(first).unwrap();
        let second = journal.register(&record(b"b", Tier::Process)).unwrap();
        let moved = journal.move_after_for_test(|| other.amend(second.id(), 0, b"three").unwrap());
        let entry = dir.reopened().entry(second.id()).unwrap();
        assert_eq!((moved, entry.amendment.as_deref()), (false, Some(b"three".as_slice())));
        // Nor one that was disarmed, or begun.
        assert!(
            !journal.move_after_for_test(|| assert_eq!(journal.disarm(second).unwrap(), Disarm::Disarmed))
        );
        assert_eq!(journal.scan().unwrap().open().count(), 0);
    });
}

#[test]
fn writers_on_many_threads_and_openings_lose_nothing_and_share_one_order() {
    each_way(|dir, journal| {
        let turns = if journal.is_mapped() { 5_000_u64 } else { 60 };
        let journals = [journal, dir.reopened(), dir.reopened()];
        std::thread::scope(|s| {
            for (who, journal) in journals.iter().enumerate() {
                for thread in 0..2 {
                    s.spawn(move || {
                        let mut last = 0;
                        for turn in 0..turns {
                            let body = format!("{who} {thread} {turn} {}", "x".repeat((turn % 300) as usize));
                            let registered =
                                journal.register(&record(body.as_bytes(), Tier::Process)).unwrap();
                            assert!(registered.id() > last, "an id is above every earlier one");
                            last = registered.id();
                            if turn % 10 != 0 {
                                assert_eq!(journal.disarm(registered).unwrap(), Disarm::Disarmed);
                            }
                        }
                    });
                }
            }
        });
        let scan = dir.reopened().scan().unwrap();
        assert_eq!((scan.open().count() as u64, scan.damaged), (6 * turns / 10, 0));
    });
}

#[test]
fn a_power_promise_is_kept_by_a_flush_and_refused_where_it_cannot_be() {
    let dir = Dir::new("power");
    let journal = dir.journal(Tier::Power, true);
    let a = journal.register(&record(b"a", Tier::Power)).unwrap();
    assert_eq!(journal.disarm(a).unwrap(), Disarm::Disarmed);
    std::fs::remove_file(dir.0.join("journal")).unwrap();
    let plain = dir.journal(Tier::Process, true);
    let error = plain.register(&record(b"a", Tier::Power)).unwrap_err().to_string();
    assert!(error.contains("promising more than it can"), "{error}");
}

#[test]
fn a_journal_that_somebody_else_could_have_written_is_not_obeyed() {
    use std::os::unix::fs::PermissionsExt;
    let dir = Dir::new("trust");
    let path = dir.0.join("journal");
    std::mem::drop(dir.journal(Tier::Process, true));
    let refused = |why: &str| {
        let error = Journal::open(&path).unwrap_err();
        assert!(
            matches!(error, JournalError::NotTrusted { .. }) && error.to_string().contains(why),
            "{error}"
        );
    };
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o660)).unwrap();
    refused("its mode is 660");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::hard_link(&path, dir.0.join("second")).unwrap();
    refused("it has 2 names");
    std::fs::remove_file(dir.0.join("second")).unwrap();
    std::os::unix::fs::symlink(&path, dir.0.join("link")).unwrap();
    let link = Journal::open(&dir.0.join("link")).unwrap_err();
    assert!(matches!(link, JournalError::Io { .. }), "{link}");
    assert!(Journal::open(&path).is_ok());
}

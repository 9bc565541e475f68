//! The writer is killed at every step of registration, disarm, amendment, payment and recovery.

use super::rig::{found, fresh, meta, record};
use crate::medium::Medium;
use crate::*;

/// What the program was told before it died.
#[derive(Default)]
struct Told {
    registered: Vec<(u64, Vec<u8>)>,
    disarmed: Vec<u64>,
    /// A disarm was asked for, and not answered.
    in_doubt: Option<u64>,
}

/// A program that uses everything, in segments of eight slots: long arguments, amendments, room that
/// is used again, records that are moved.
fn program(journal: &Journal, tier: Tier, told: &mut Told) -> Result<(), JournalError> {
    for turn in 0_u8..24 {
        let body = vec![turn; if turn % 5 == 0 { 300 } else { 20 }];
        let registered = journal.register(&record(&body, tier))?;
        told.registered.push((registered.id(), body));
        if turn % 4 == 1 {
            journal.amend(registered.id(), 0, b"known now")?;
        }
        if turn % 6 != 0 {
            told.in_doubt = Some(registered.id());
            journal.disarm(registered)?;
            told.in_doubt = None;
            told.disarmed.push(registered.id());
        }
        if turn % 7 == 6 {
            journal.move_for_test()?;
        }
    }
    Ok(())
}

/// Pays everything; notes what ran. `Err`: the payer was killed.
fn pay(journal: &Journal, ran: &mut Vec<u64>) -> Result<(), JournalError> {
    let generation = journal.take_over(ProcessId::default())?;
    loop {
        let scan = journal.scan()?;
        let Some(entry) = scan.open().next() else { break };
        if journal.begin_entry(generation, entry)?.is_some() {
            ran.push(entry.id);
            journal.finish_entry(generation, entry, Paid::Done)?;
        }
    }
    journal.close(generation)?;
    Ok(())
}

fn check(told: &Told, ran: &[u64], at: &str) {
    for (id, _) in &told.registered {
        let over = told.disarmed.contains(id);
        if over {
            assert!(!ran.contains(id), "{at}: {id} ran after its disarm");
        } else if told.in_doubt != Some(*id) {
            assert!(ran.contains(id), "{at}: {id} is on record and did not run");
        }
    }
    let mut newest_first = ran.to_vec();
    newest_first.dedup();
    assert!(newest_first.is_sorted_by(|a, b| a > b), "{at}: {ran:?}");
}

#[test]
fn a_kill_at_every_store_loses_nothing_that_was_told_and_runs_nothing_twice_without_need() {
    let mut points = 0;
    for tier in [Tier::Process, Tier::Power] {
        let meta = meta(tier);
        let (whole, medium) = fresh(&meta);
        let before = medium.steps();
        program(&whole, tier, &mut Told::default()).unwrap();
        let steps = medium.steps() - before;
        for step in 0..steps {
            let (journal, medium) = fresh(&meta);
            medium.die_after(step);
            let mut told = Told::default();
            assert!(program(&journal, tier, &mut told).is_err());
            let mut ran = Vec::new();
            let later = found(&meta, medium.after_kill());
            let scan = later.scan().unwrap();
            for (id, body) in told.registered.iter().filter(|(id, _)| !told.disarmed.contains(id)) {
                if let Some(entry) = scan.find(*id) {
                    assert_eq!(&entry.body, body, "at step {step}: {id} is not what was registered");
                }
            }
            pay(&later, &mut ran).unwrap();
            check(&told, &ran, &format!("{tier:?}, killed at step {step} of {steps}"));
            points += 1;
        }
    }
    eprintln!("killed at {points} stores of registration");
    assert!(points > 900, "{points}");
}

/// A copy that is half made must not come back once its original is over and forgotten.
#[test]
fn a_mover_killed_at_every_store_leaves_nothing_that_runs_after_its_disarm() {
    let meta = meta(Tier::Process);
    for step in 0..400 {
        let (journal, medium) = fresh(&meta);
        let long = journal.register(&record(b"long", Tier::Process)).unwrap();
        for _ in 0..20 {
            let short = journal.register(&record(b"short", Tier::Process)).unwrap();
            journal.disarm(short).unwrap();
        }
        medium.die_after(step);
        let moved = journal.move_for_test();
        let (later, _) = opened(&meta, medium.after_kill());
        assert_eq!(later.scan().unwrap().open().count(), 1, "step {step}: it is owed, once");
        assert_eq!(later.disarm_id(long.id()).unwrap(), Disarm::Disarmed, "step {step}");
        for _ in 0..300 {
            let short = later.register(&record(b"short", Tier::Process)).unwrap();
            later.disarm(short).unwrap();
        }
        assert_eq!(later.scan().unwrap().open().count(), 0, "step {step}: it is back");
        if moved.is_ok() {
            assert!(step > 20, "{step}");
            return;
        }
    }
    panic!("it was never moved");
}

#[test]
fn a_payer_killed_at_every_store_and_its_successor_too_leave_nothing_unpaid() {
    let meta = meta(Tier::Process);
    let (journal, medium) = fresh(&meta);
    let mut told = Told::default();
    program(&journal, Tier::Process, &mut told).unwrap();
    let words = medium.after_kill();
    let steps_of = |words: Vec<u64>| {
        let (journal, medium) = opened(&meta, words);
        pay(&journal, &mut Vec::new()).unwrap();
        medium.steps()
    };
    let (steps, mut points) = (steps_of(words.clone()), 0);
    for first in 0..steps {
        let (journal, medium) = opened(&meta, words.clone());
        medium.die_after(first);
        let mut ran = Vec::new();
        assert!(pay(&journal, &mut ran).is_err());
        let left = medium.after_kill();
        for second in 0..steps_of(left.clone()) {
            let (journal, medium) = opened(&meta, left.clone());
            medium.die_after(second);
            let mut all = ran.clone();
            assert!(pay(&journal, &mut all).is_err());
            pay(&found(&meta, medium.after_kill()), &mut all).unwrap();
            check(&told, &all, &format!("payers killed at {first} and {second}"));
            // Each death may repeat what was running, and nothing else.
            all.sort_unstable();
            let repeated = all.windows(2).filter(|pair| pair[0] == pair[1]).count();
            assert!(repeated <= 2, "{first} {second}: {all:?}");
            points += 1;
        }
    }
    eprintln!("payers killed at {points} pairs of stores");
    assert!(points > 100, "{points}");
}

fn opened(meta: &Meta, words: Vec<u64>) -> (Journal, std::sync::Arc<crate::medium::faulty::Faulty>) {
    let medium = std::sync::Arc::new(crate::medium::faulty::Faulty::new(words));
    assert!(medium.words().unwrap() > 0);
    let over = crate::medium::FileMedium::Faulty(std::sync::Arc::clone(&medium));
    (Journal::over(std::path::Path::new("test"), meta.clone(), over), medium)
}

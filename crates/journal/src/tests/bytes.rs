//! Arbitrary bytes: nothing panics, and no action is invented.

use super::rig::{Dice, found, fresh, meta, record, rounds};
use crate::layout::CONTROL_WORDS;
use crate::medium::Medium;
use crate::*;

#[test]
fn a_journal_with_any_bytes_changed_never_panics_and_never_invents_a_body() {
    let (mut dice, seed) = Dice::seeded("bytes");
    let meta = meta(Tier::Process);
    let (journal, medium) = fresh(&meta);
    let bodies: Vec<Vec<u8>> = (0..6).map(|n| vec![n; 10 + 60 * n as usize]).collect();
    for body in &bodies {
        let registered = journal.register(&record(body, Tier::Process)).unwrap();
        journal.amend(registered.id(), 0, b"amended").unwrap();
    }
    let words = medium.after_kill();
    for round in 0..rounds(5_000) {
        let mut changed = words.clone();
        for _ in 0..1 + dice.roll(40) {
            let at = match dice.roll(3) {
                0 => 1024 + dice.roll(1600),
                _ => CONTROL_WORDS as u64 + dice.roll((words.len() - CONTROL_WORDS) as u64),
            } as usize;
            match dice.roll(4) {
                0 => changed[at] = dice.roll(u64::MAX),
                1 => changed[at] ^= 1 << dice.roll(64),
                // Bytes of the journal itself, elsewhere.
                2 => changed[at] = changed[dice.roll(changed.len() as u64) as usize],
                _ => changed[at] = 0,
            }
        }
        if dice.roll(4) == 0 {
            changed.truncate(CONTROL_WORDS + dice.roll((words.len() - CONTROL_WORDS) as u64) as usize);
        }
        let later = found(&meta, changed);
        let scan = later.scan().unwrap();
        for entry in &scan.entries {
            assert!(bodies.contains(&entry.body), "round {round}, EPILOGUE_SEED={seed}: {entry:?}");
        }
        // Paying it does not panic either, whatever the words that change say.
        let generation = later.take_over(ProcessId::default()).unwrap();
        for entry in scan.open() {
            if matches!(later.begin_entry(generation, entry), Ok(Some(_))) {
                let _ = later.finish_entry(generation, entry, Paid::Done);
            }
        }
    }
}

#[test]
fn a_file_of_rubbish_is_refused_in_words() {
    let dir = std::env::temp_dir().join(format!("epilogue-journal-rubbish-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("journal");
    let (mut dice, _) = Dice::seeded("rubbish");
    std::mem::drop(Journal::create(&path, NewMeta::default(), true).unwrap());
    let good = std::fs::read(&path).unwrap();
    let mut cases: Vec<Vec<u8>> =
        vec![Vec::new(), vec![0; 40_000], vec![0xff; 300_000], good[..5000].to_vec()];
    for _ in 0..200 {
        let mut bytes = good.clone();
        for _ in 0..1 + dice.roll(300) {
            let at = dice.roll(8192) as usize;
            bytes[at] = dice.roll(256) as u8;
        }
        cases.push(bytes);
    }
    for bytes in cases {
        std::fs::write(&path, &bytes).unwrap();
        match Journal::open(&path) {
            Ok(journal) => drop(journal.scan().unwrap()),
            Err(error) => assert!(matches!(error, JournalError::NotAJournal { .. }), "{error}"),
        }
    }
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn beyond_the_last_position_a_journal_is_full() {
    let meta = meta(Tier::Process);
    let (journal, medium) = fresh(&meta);
    let owed = journal.register(&record(b"owed", Tier::Process)).unwrap();
    let last = meta.geometry().positions();
    for tail in [last - 1, last, u64::MAX - 1, u64::MAX] {
        let mut words = medium.after_kill();
        words[crate::layout::control::TAIL] = tail;
        let later = found(&meta, words);
        // It takes three slots.
        let error = later.register(&record(&[0; 300], Tier::Process)).unwrap_err();
        assert!(matches!(error, JournalError::Full { .. }), "{tail}: {error}");
        assert!(matches!(later.amend(owed.id(), 0, &[0; 300]), Err(JournalError::Full { .. })));
        assert_eq!(later.scan().unwrap().open().count(), 1);
        assert_eq!(later.disarm_id(owed.id()).unwrap(), Disarm::Disarmed);
    }
}

#[test]
fn the_medium_for_tests_keeps_what_a_file_would() {
    let meta = meta(Tier::Power);
    let (journal, medium) = fresh(&meta);
    journal.register(&record(b"a", Tier::Power)).unwrap();
    assert_eq!(medium.after_power_cut(|_| 0).len(), medium.words().unwrap());
}

//! The same operations on a journal and on SQLite, with the same answers.

use std::collections::HashMap;

use super::rig::{Dice, fresh, meta, record, rounds};
use crate::sqlite::SqliteStore;
use crate::*;

#[test]
fn a_journal_answers_as_sqlite_does() {
    let (mut dice, seed) = Dice::seeded("oracle");
    let mut compared = 0;
    for round in 0..rounds(60) {
        let meta = meta(Tier::Process);
        let (journal, _) = fresh(&meta);
        let sqlite = SqliteStore::open(":memory:".as_ref(), false).unwrap();
        compared += both(&mut dice, &journal, &sqlite, &format!("round {round}, EPILOGUE_SEED={seed}"));
    }
    eprintln!("{compared} operations compared");
}

fn both(dice: &mut Dice, journal: &dyn Store, sqlite: &dyn Store, at: &str) -> u64 {
    // Ids differ; what was registered with which does not.
    let (mut ids, mut theirs) = (Vec::<(u64, u64)>::new(), HashMap::new());
    let mut generations: Vec<(Generation, Generation)> = Vec::new();
    let operations = 60;
    for _ in 0..operations {
        let pick = ids.get(dice.roll(ids.len() as u64) as usize).copied();
        let generation = generations.get(dice.roll(generations.len() as u64) as usize).copied();
        match (dice.roll(12), pick, generation) {
            (0..=3, _, _) => {
                let body = vec![dice.roll(256) as u8; dice.roll(150) as usize];
                let (one, two) = (
                    journal.register(&record(&body, Tier::Process)),
                    sqlite.register(&record(&body, Tier::Process)),
                );
                match (one, two) {
                    (Ok(one), Ok(two)) => {
                        ids.push((one, two));
                        theirs.insert(one, two);
                    }
                    (one, two) => assert_eq!(told(&one), told(&two), "{at}"),
                }
            }
            (4..=5, Some((one, two)), _) => {
                let (one, two) = (journal.disarm(one).unwrap(), sqlite.disarm(two).unwrap());
                // A journal forgets what was settled once its room is used again.
                let forgot = one == Disarm::Already && matches!(two, Disarm::TooLate(State::Done));
                assert!(one == two || forgot, "{at}: {one:?}, {two:?}");
            }
            (6, Some((one, two)), _) => {
                let body = vec![dice.roll(256) as u8; 9];
                assert_eq!(told(&journal.amend(one, 0, &body)), told(&sqlite.amend(two, 0, &body)), "{at}");
            }
            (7, _, _) if dice.roll(3) == 0 => {
                let payer = ProcessId::default();
                generations.push((journal.take_over(payer).unwrap(), sqlite.take_over(payer).unwrap()));
            }
            (8..=10, Some((one, two)), Some(generation)) => {
                let entries = (entry(journal, one), entry(sqlite, two));
                let (Some(one), Some(two)) = entries else {
                    assert_eq!(entries.0.is_some(), entries.1.is_some(), "{at}");
                    continue;
                };
                let begun = (journal.begin(generation.0, &one), sqlite.begin(generation.1, &two));
                assert_eq!(told(&begun.0), told(&begun.1), "{at}");
                assert_eq!(begun.0.ok(), begun.1.ok(), "{at}");
                if dice.roll(3) > 0 {
                    let paid = [Paid::Done, Paid::Failed, Paid::Parked][dice.roll(3) as usize];
                    let finished =
                        (journal.finish(generation.0, &one, paid), sqlite.finish(generation.1, &two, paid));
                    assert_eq!(told(&finished.0), told(&finished.1), "{at}");
                }
            }
            (11, _, Some(generation)) if dice.roll(5) == 0 => {
                assert_eq!(journal.close(generation.0).unwrap(), sqlite.close(generation.1).unwrap(), "{at}");
            }
            _ => {}
        }
        let seen = |store: &dyn Store, translate: &dyn Fn(u64) -> u64| -> Vec<_> {
            let entries = store.open_entries().unwrap();
            entries
                .into_iter()
                .map(|e| (translate(e.id), e.state.name(), e.attempts, e.body, e.amendment))
                .collect()
        };
        assert_eq!(seen(journal, &|id| theirs[&id]), seen(sqlite, &|id| id), "{at}");
    }
    operations
}

fn entry(store: &dyn Store, id: u64) -> Option<Entry> {
    store.open_entries().unwrap().into_iter().find(|entry| entry.id == id)
}

fn told<T>(result: &Result<T, JournalError>) -> &'static str {
    match result {
        Ok(_) => "ok",
        Err(JournalError::TooLate) => "too late",
        Err(JournalError::Fenced { .. }) => "fenced",
        Err(JournalError::NoSuchRecord { .. }) => "no such record",
        Err(_) => "other",
    }
}

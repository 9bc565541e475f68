//! Finding out what is owed, among a million records.

use std::path::Path;
use std::time::Instant;

use epilogue_journal::{Journal, NewMeta, SqliteStore, Store, Tier};

use crate::register::record;
use crate::{median, tell};

const RECORDS: u64 = 1_000_000;
const ROUNDS: usize = 5;

pub(crate) fn measure(dir: &Path) {
    let path = dir.join("million");
    let journal = Journal::create(&path, NewMeta::default(), true).expect("a journal");
    let sqlite = SqliteStore::open(":memory:".as_ref(), false).expect("a database");
    for _ in 0..RECORDS {
        journal.register(&record(&[7; 48], Tier::Process)).expect("registered");
        Store::register(&sqlite, &record(&[7; 48], Tier::Process)).expect("registered");
    }
    drop(journal);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let began = Instant::now();
        let found = Journal::open(&path).expect("a journal").scan().expect("readable").open().count();
        ours.push(began.elapsed().as_secs_f64() * 1e3);
        assert_eq!(found as u64, RECORDS);
        let began = Instant::now();
        assert_eq!(sqlite.open_entries().expect("readable").len() as u64, RECORDS);
        theirs.push(began.elapsed().as_secs_f64() * 1e3);
    }
    tell("what is owed, of a million records", "SQLite in memory", median(theirs), "ms");
    tell("what is owed, of a million records", "journal", median(ours), "ms");
}

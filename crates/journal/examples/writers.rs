//! Registers on every core until it is killed, and notes what it was told: for the test that kills it.
//!
//! `writers JOURNAL NOTES` prints `ready`, then writes to NOTES-0, NOTES-1, … the ids of what is on record,
//! eight bytes each; every third is disarmed, and noted again with its highest bit set.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use epilogue_journal::{Journal, NewMeta, Record, Tier};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(journal), Some(notes)) = (arguments.next(), arguments.next()) else {
        return Err("usage: writers JOURNAL NOTES".into());
    };
    let journal = Journal::create(Path::new(&journal), NewMeta::default(), true)?;
    println!("ready");
    let threads = std::thread::available_parallelism()?.get().max(2);
    std::thread::scope(|s| {
        for thread in 0..threads {
            let (journal, notes) = (&journal, format!("{notes}-{thread}"));
            s.spawn(move || write(journal, &notes, thread as u64));
        }
    });
    Ok(())
}

fn write(journal: &Journal, notes: &str, thread: u64) {
    let mut notes = File::create(notes).expect("a file for notes");
    for turn in 0_u64.. {
        let body = vec![thread as u8; 1 + (turn % 150) as usize];
        let record = Record { scope: thread, time_ms: turn, body: &body, tier: Tier::Process };
        let registered = journal.register(&record).expect("registered");
        notes.write_all(&registered.id().to_le_bytes()).expect("noted");
        if turn % 3 != 0 {
            journal.disarm(registered).expect("disarmed");
            notes.write_all(&(registered.id() | 1 << 63).to_le_bytes()).expect("noted");
        }
    }
}

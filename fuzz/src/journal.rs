//! A journal with any of its bytes changed: it opens or is refused, nothing panics, no body is invented, and
//! what is registered in it afterwards is there.
//!
//! The input is a list of patches: two bytes of place, one of length, then the bytes.

#![no_main]

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use epilogue_journal::{Journal, JournalError, NewMeta, Paid, ProcessId, Record, State, Tier};
use libfuzzer_sys::fuzz_target;

/// Bytes of the header, the control words and the directory; then so many slots are within reach.
const SEGMENTS_AT: usize = 4096 * 8;
const REACH: usize = SEGMENTS_AT + 128 * 128;

struct Base {
    path: PathBuf,
    bytes: Vec<u8>,
    bodies: Vec<Vec<u8>>,
}

fn record(body: &[u8]) -> Record<'_> {
    Record { scope: 1, time_ms: 7, body, tier: Tier::Process }
}

/// A journal that has a record in every state.
fn base() -> &'static Base {
    static BASE: OnceLock<Base> = OnceLock::new();
    BASE.get_or_init(|| {
        let dir = Path::new("/dev/shm").join(format!("epilogue-fuzz-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir(&dir).expect("a directory in memory");
        let path = dir.join("journal");
        let journal = Journal::create(&path, NewMeta::default(), true).expect("a journal");
        let bodies: Vec<Vec<u8>> = (0..12_u8).map(|n| vec![b'a' + n; 5 + 40 * usize::from(n)]).collect();
        let ids: Vec<_> = bodies.iter().map(|body| journal.register(&record(body)).expect("registered")).collect();
        journal.amend(ids[1].id(), 8, b"what became known").expect("amended");
        journal.disarm(ids[2]).expect("disarmed");
        let generation = journal.take_over(ProcessId { pid: 9, start: 9 }).expect("taken over");
        for (at, paid) in [(3, Paid::Done), (4, Paid::Failed), (5, Paid::Parked)] {
            journal.begin(generation, ids[at].id()).expect("begun");
            journal.finish(generation, ids[at].id(), paid).expect("finished");
        }
        journal.begin(generation, ids[6].id()).expect("begun");
        journal.drop_record(ids[7].id()).expect("dropped");
        drop(journal);
        let bytes = std::fs::read(&path).expect("read");
        Base { path, bytes, bodies }
    })
}

fn patched(base: &Base, mut patches: &[u8]) -> Vec<u8> {
    let mut bytes = base.bytes.clone();
    while let [high, low, len, rest @ ..] = patches {
        let at = (usize::from(*high) << 8 | usize::from(*low)) % REACH;
        let take = usize::from(*len % 64).min(rest.len());
        bytes[at..at + take].copy_from_slice(&rest[..take]);
        patches = &rest[take..];
        if *len >= 250 {
            bytes.truncate(at);
            bytes.resize(base.bytes.len() - 128 * usize::from(*low), 0);
            return bytes;
        }
    }
    bytes
}

fuzz_target!(|patches: &[u8]| {
    let base = base();
    let bytes = patched(base, patches);
    std::fs::write(&base.path, &bytes).expect("written");
    let journal = match Journal::open(&base.path) {
        Ok(journal) => journal,
        Err(JournalError::NotAJournal { .. }) => return,
        Err(error) => panic!("refused in other words: {error}"),
    };
    if bytes[..4096 * 2] == base.bytes[..4096 * 2] {
        // With the header goes the salt, by which slots are known as this journal's.
        for entry in &journal.scan().expect("a file in memory can be read").entries {
            assert!(base.bodies.contains(&entry.body), "invented: {entry:?}");
        }
    }
    use_it(&journal);
});

/// Everything that can be done with it fails in words or succeeds.
fn use_it(journal: &Journal) {
    let _ = (journal.owner(), journal.wrapper(), journal.payer(), journal.ended(), journal.phase());
    if let Ok(new) = journal.register(&record(b"new")) {
        let entry = journal.entry(new.id()).expect("what was acknowledged is there");
        assert_eq!((entry.body.as_slice(), entry.state), (b"new".as_slice(), State::Live));
        let _ = journal.amend(new.id(), 1, b"known");
    }
    let Ok(generation) = journal.take_over(ProcessId { pid: 1, start: 1 }) else { return };
    let Ok(scan) = journal.scan() else { return };
    for (index, entry) in scan.open().enumerate() {
        match index % 3 {
            0 => drop(journal.disarm_id(entry.id)),
            1 => drop(journal.park(generation, entry)),
            _ => {
                if matches!(journal.begin_entry(generation, entry), Ok(Some(_))) {
                    let _ = journal.finish_entry(generation, entry, Paid::Done);
                }
            }
        }
    }
    let _ = journal.close(generation);
}

//! Registering a cleanup and disarming it: what a program pays on its good path.

use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use epilogue_journal::{Journal, NewMeta, Record, SqliteStore, Store, Tier};

use crate::{median, tell};

const ROUNDS: usize = 31;
const ROUND: Duration = Duration::from_millis(4);

type Case<'a> = (&'static str, Box<dyn FnMut(u64) + 'a>);

pub(crate) fn measure(dir: &Path) {
    let journal = Journal::create(&dir.join("journal"), NewMeta::default(), true).expect("a journal");
    let positioned = Journal::create(&dir.join("positioned"), NewMeta::default(), false).expect("a journal");
    let sqlite = SqliteStore::open(&dir.join("sqlite"), false).expect("a database");
    let keyspace = fjall::Config::new(dir.join("fjall")).open().expect("a keyspace");
    let partition = keyspace.open_partition("owed", Default::default()).expect("a partition");
    let raw = File::create(dir.join("raw")).expect("a file");
    raw.set_len(1 << 20).expect("room");
    let (short, long) = ([7_u8; 48], [7_u8; 200]);
    let mut key = 0_u64;
    let cases: Vec<Case<'_>> = vec![
        ("journal, 48 bytes", Box::new(|times| each(&journal, &short, times))),
        ("journal, 200 bytes", Box::new(|times| each(&journal, &long, times))),
        ("journal without a mapping, 48 bytes", Box::new(|times| each(&positioned, &short, times))),
        (
            "pwrite of 128 bytes, then of 8",
            Box::new(|times| {
                for turn in 0..times {
                    let at = turn % 8000 * 128;
                    raw.write_all_at(black_box(&[1; 128]), at).expect("written");
                    raw.write_all_at(black_box(&[2; 8]), at + 8).expect("written");
                }
            }),
        ),
        (
            "fjall, insert and remove",
            Box::new(move |times| {
                for _ in 0..times {
                    key += 1;
                    partition.insert(key.to_be_bytes(), short).expect("inserted");
                    partition.remove(key.to_be_bytes()).expect("removed");
                }
            }),
        ),
        (
            "SQLite NORMAL, two transactions",
            Box::new(|times| {
                for _ in 0..times {
                    let id = Store::register(&sqlite, &record(&short, Tier::Process)).expect("registered");
                    sqlite.disarm(id).expect("disarmed");
                }
            }),
        ),
    ];
    in_turns("register and disarm, one thread", cases);
    let cases: Vec<Case<'_>> = vec![
        ("journal", Box::new(|times| on_two_threads(|| each(&journal, &short, times)))),
        (
            "SQLite NORMAL",
            Box::new(|times| {
                on_two_threads(|| {
                    for _ in 0..times {
                        let id =
                            Store::register(&sqlite, &record(&short, Tier::Process)).expect("registered");
                        sqlite.disarm(id).expect("disarmed");
                    }
                });
            }),
        ),
    ];
    in_turns("register and disarm, two threads, each", cases);
}

pub(crate) fn record(body: &[u8], tier: Tier) -> Record<'_> {
    Record { scope: 1, time_ms: 0, body, tier }
}

fn each(journal: &Journal, body: &[u8], times: u64) {
    for _ in 0..times {
        let registered = journal.register(&record(black_box(body), Tier::Process)).expect("registered");
        black_box(journal.disarm(registered).expect("disarmed"));
    }
}

fn on_two_threads(work: impl Fn() + Sync) {
    std::thread::scope(|s| {
        s.spawn(&work);
        work();
    });
}

fn in_turns(group: &str, mut cases: Vec<Case<'_>>) {
    let times: Vec<u64> = cases.iter_mut().map(|(_, case)| times_in_a_round(case)).collect();
    let mut samples = vec![Vec::with_capacity(ROUNDS); cases.len()];
    for _ in 0..ROUNDS {
        for (((_, case), times), samples) in cases.iter_mut().zip(&times).zip(&mut samples) {
            samples.push(time(case, *times).as_nanos() as f64 / *times as f64);
        }
    }
    for ((who, _), samples) in cases.iter().zip(samples) {
        tell(group, who, median(samples), "ns");
    }
}

fn times_in_a_round(case: &mut dyn FnMut(u64)) -> u64 {
    let mut times = 1;
    loop {
        let took = time(case, times);
        if took >= ROUND / 4 {
            return ((times as f64 * ROUND.as_secs_f64() / took.as_secs_f64()).ceil() as u64).max(1);
        }
        times *= 4;
    }
}

fn time(case: &mut dyn FnMut(u64), times: u64) -> Duration {
    let began = Instant::now();
    case(times);
    began.elapsed()
}

//! Reserve, commit, disarm, pay: in every order of two threads that loom can find.

use loom::sync::Arc;
use loom::thread;

use crate::layout::{Geometry, control};
use crate::log::{Log, New};
use crate::medium::{Medium, memory::Memory};
use crate::slot::{Kind, Seed};
use crate::word::{Phase, PhaseWord, State, StateWord};

const TINY: Geometry = Geometry { slots_log2: 2, segments_max: 3 };

fn log() -> Log<Memory> {
    let log = Log::new(Memory::new(TINY), Seed::new(1), TINY);
    log.format().unwrap();
    log
}

fn record(body: &[u8]) -> New<'_> {
    New { kind: Kind::Action, flags: 0, scope: 1, id: None, time_ms: 0, state: State::Live, body }
}

fn model(body: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.max_branches = 100_000;
    builder.check(body);
}

#[test]
fn two_writers_never_share_a_slot_and_both_are_read() {
    model(|| {
        let log = Arc::new(log());
        let other = Arc::clone(&log);
        let writer = thread::spawn(move || other.append(&record(b"other")).unwrap().lsn);
        let mine = log.append(&record(b"mine")).unwrap().lsn;
        let theirs = writer.join().unwrap();
        assert_ne!(mine, theirs);
        assert_eq!(log.scan().unwrap().open().count(), 2);
    });
}

/// A registration that was told "on record" is seen by the payer, or the payer is seen by it.
#[test]
fn a_record_is_paid_or_refused_and_never_both_nor_neither() {
    model(|| {
        let log = Arc::new(log());
        let other = Arc::clone(&log);
        let payer = thread::spawn(move || {
            let paying = PhaseWord { phase: Phase::Paying, generation: 1 };
            other.medium().exchange(control::PHASE, 0, paying.encode()).unwrap().unwrap();
            let scan = other.scan().unwrap();
            let Some(entry) = scan.open().next() else { return false };
            let running = StateWord { state: State::Running, attempts: 1, generation: 1 };
            other.change(entry.placed(), entry.word, running).unwrap().is_ok()
        });
        let placed = log.append(&record(b"mine")).unwrap();
        let phase = PhaseWord::decode(log.medium().load(control::PHASE).unwrap()).phase;
        let refused = phase != Phase::Open
            && log
                .change(placed, log.live_word(placed.lsn), StateWord::new(State::Disarmed))
                .unwrap()
                .is_ok();
        let paid = payer.join().unwrap();
        assert!(paid != refused, "paid {paid}, refused {refused}");
    });
}

/// A record that is moved while its owner disarms it is disarmed, wherever it is.
#[test]
fn a_disarm_and_a_move_never_leave_it_owed() {
    model(|| {
        let log = Arc::new(log());
        let placed = log.append(&record(b"long")).unwrap();
        let other = Arc::clone(&log);
        let mover = thread::spawn(move || {
            let scan = other.scan().unwrap();
            match scan.open().next() {
                Some(entry) => other.relocate(entry, 0).unwrap(),
                None => false,
            }
        });
        let gone = StateWord::new(State::Disarmed);
        let live = log.live_word(placed.lsn);
        let disarmed = log.change(placed, live, gone).unwrap().is_ok();
        if !disarmed {
            // It was moved: the copy is found, and disarmed.
            let scan = log.scan().unwrap();
            let entry = scan.find(placed.lsn).unwrap();
            if log.change(entry.placed(), entry.word, gone).unwrap().is_err() {
                let (_, word) = log.state(entry.placed()).unwrap().unwrap();
                log.change(entry.placed(), word, gone).unwrap().unwrap();
            }
        }
        let moved = mover.join().unwrap();
        assert_ne!(moved, disarmed);
        assert_eq!(log.scan().unwrap().open().count(), 0);
    });
}

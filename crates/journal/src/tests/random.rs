//! Random sequences of everything a journal can do, beside a model that is a list.

use std::collections::BTreeMap;

use super::rig::{Dice, found, fresh, meta, record, rounds};
use crate::*;

#[derive(Clone, Debug, PartialEq)]
struct Owed {
    state: State,
    body: Vec<u8>,
    amendment: Option<Vec<u8>>,
    attempts: u8,
    generation: u64,
}

#[test]
fn any_sequence_of_operations_does_what_the_model_says() {
    let (mut dice, seed) = Dice::seeded("sequences");
    let mut done = 0_u64;
    for round in 0..rounds(4_000) {
        done += sequence(&mut dice, &format!("round {round}, EPILOGUE_SEED={seed}"));
    }
    eprintln!("{done} operations");
}

fn sequence(dice: &mut Dice, at: &str) -> u64 {
    let meta = meta(Tier::Process);
    let (mut journal, mut medium) = fresh(&meta);
    let mut model: BTreeMap<u64, Owed> = BTreeMap::new();
    let mut handles = Vec::new();
    let mut generations = vec![journal.generation().unwrap()];
    let mut phase = Phase::Open;
    let operations = 20 + dice.roll(60);
    for _ in 0..operations {
        let known: Vec<u64> = model.keys().copied().collect();
        let pick = |dice: &mut Dice| known.get(dice.roll(known.len() as u64) as usize).copied();
        match dice.roll(15) {
            0..=4 => {
                let body: Vec<u8> = vec![dice.roll(256) as u8; dice.roll(250) as usize];
                match journal.register(&record(&body, Tier::Process)) {
                    Ok(registered) => {
                        assert_eq!(phase, Phase::Open, "{at}");
                        handles.push(registered);
                        let owed =
                            Owed { state: State::Live, body, amendment: None, attempts: 0, generation: 0 };
                        assert_eq!(model.insert(registered.id(), owed), None, "{at}");
                    }
                    Err(JournalError::TooLate) => assert_ne!(phase, Phase::Open, "{at}"),
                    Err(JournalError::Full { .. }) => {
                        let open = model.values().filter(|owed| owed.state.is_open()).count();
                        assert!(open > 0, "{at}: full of nothing");
                    }
                    Err(error) => panic!("{at}: {error}"),
                }
            }
            5..=7 => {
                let Some(handle) = handles.get(dice.roll(handles.len() as u64) as usize) else { continue };
                let owed = model.get_mut(&handle.id()).unwrap();
                let expected = match owed.state {
                    State::Live => Disarm::Disarmed,
                    State::Disarmed | State::Dropped => Disarm::Already,
                    state => Disarm::TooLate(state),
                };
                let told = journal.disarm(*handle).unwrap();
                // A place that is used again says only that it is over.
                let forgotten = told == Disarm::Already && !owed.state.is_open();
                assert!(told == expected || forgotten, "{at}: {told:?}, not {expected:?}");
                if told == Disarm::Disarmed {
                    owed.state = State::Disarmed;
                }
            }
            8 => {
                let Some(id) = pick(dice) else { continue };
                let owed = model.get_mut(&id).unwrap();
                let body = vec![dice.roll(256) as u8; dice.roll(120) as usize];
                match journal.amend(id, 0, &body) {
                    Ok(()) => {
                        assert!(owed.state.is_open(), "{at}");
                        owed.amendment = Some(body);
                    }
                    Err(JournalError::NoSuchRecord { .. }) => assert!(!owed.state.is_open(), "{at}"),
                    Err(JournalError::Full { .. }) => {}
                    Err(error) => panic!("{at}: {error}"),
                }
            }
            9 => {
                // Another payer, perhaps after the machine was up again.
                if dice.roll(2) == 0 {
                    medium = std::sync::Arc::new(crate::medium::faulty::Faulty::new(medium.after_kill()));
                    let over = crate::medium::FileMedium::Faulty(std::sync::Arc::clone(&medium));
                    journal = Journal::over(std::path::Path::new("test"), meta.clone(), over);
                }
                if dice.roll(3) == 0 {
                    generations.push(journal.take_over(ProcessId::default()).unwrap());
                    phase = Phase::Paying;
                }
            }
            10..=11 => {
                let Some(id) = pick(dice) else { continue };
                let generation = generations[dice.roll(generations.len() as u64) as usize];
                let current = generation == *generations.last().unwrap();
                let owed = model.get_mut(&id).unwrap();
                match journal.begin(generation, id) {
                    Ok(Some(attempts)) => {
                        let mine = owed.state == State::Running && owed.generation == generation.number();
                        let startable = matches!(owed.state, State::Live | State::Failed | State::Running);
                        assert!(current && startable && !mine, "{at}: {owed:?}");
                        owed.attempts += 1;
                        assert_eq!(attempts, owed.attempts, "{at}");
                        owed.state = State::Running;
                        owed.generation = generation.number();
                    }
                    Ok(None) => assert!(current, "{at}"),
                    Err(JournalError::Fenced { .. }) => assert!(!current, "{at}"),
                    Err(JournalError::NoSuchRecord { .. }) => assert!(!owed.state.is_open(), "{at}"),
                    Err(error) => panic!("{at}: {error}"),
                }
            }
            12 => {
                let Some(id) = pick(dice) else { continue };
                let generation = generations[dice.roll(generations.len() as u64) as usize];
                let owed = model.get_mut(&id).unwrap();
                let paid = [Paid::Done, Paid::Failed, Paid::Parked][dice.roll(3) as usize];
                let current = generation == *generations.last().unwrap();
                let ours = owed.state == State::Running && owed.generation == generation.number();
                match journal.finish(generation, id, paid) {
                    Ok(()) => {
                        assert!(current && ours, "{at}: {owed:?}");
                        owed.state = match paid {
                            Paid::Done => State::Done,
                            Paid::Failed => State::Failed,
                            Paid::Parked => State::Parked,
                        };
                    }
                    Err(_) => assert!(!(current && ours), "{at}: {owed:?}"),
                }
            }
            13 => {
                let Some(id) = pick(dice) else { continue };
                let owed = model.get_mut(&id).unwrap();
                if dice.roll(2) == 0 {
                    let retried = journal.retry(id).unwrap_or(false);
                    assert_eq!(retried, matches!(owed.state, State::Parked | State::Failed), "{at}");
                    if retried {
                        (owed.state, owed.attempts) = (State::Live, 0);
                    }
                } else {
                    let dropped = journal.drop_record(id).unwrap_or(false);
                    let expected = matches!(owed.state, State::Live | State::Parked | State::Failed);
                    assert_eq!(dropped, expected, "{at}");
                    if dropped {
                        owed.state = State::Dropped;
                    }
                }
            }
            _ => match journal.move_for_test() {
                Ok(()) | Err(JournalError::Full { .. }) => {}
                Err(error) => panic!("{at}: {error}"),
            },
        }
        compare(&found(&meta, medium.after_kill()), &model, at);
    }
    if phase == Phase::Open {
        all_room_comes_back(&journal, at);
    }
    operations
}

fn all_room_comes_back(journal: &Journal, at: &str) {
    for entry in journal.scan().unwrap().open() {
        if journal.disarm_id(entry.id).unwrap() != Disarm::Disarmed {
            journal.begin(journal.generation().unwrap(), entry.id).unwrap();
            journal.drop_record(entry.id).unwrap();
        }
    }
    let left = journal.scan().unwrap().open().count();
    for turn in 0..200 {
        let registered = journal.register(&record(b"short", Tier::Process));
        let Ok(registered) = registered else { panic!("{at}: turn {turn}, {left} left: {registered:?}") };
        journal.disarm(registered).unwrap();
    }
}

/// To the model an amendment changes no state.
fn plain(state: State) -> State {
    if state == State::Amended { State::Live } else { state }
}

fn compare(journal: &Journal, model: &BTreeMap<u64, Owed>, at: &str) {
    let scan = journal.scan().unwrap();
    let found: Vec<_> = scan
        .open()
        .map(|entry| {
            (entry.id, plain(entry.state), entry.attempts, entry.body.clone(), entry.amendment.clone())
        })
        .collect();
    let expected: Vec<_> = model
        .iter()
        .rev()
        .filter(|(_, owed)| owed.state.is_open())
        .map(|(id, owed)| (*id, owed.state, owed.attempts, owed.body.clone(), owed.amendment.clone()))
        .collect();
    assert_eq!(found, expected, "{at}");
}

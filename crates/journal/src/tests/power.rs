//! The power is cut: any subset of what was not flushed is on the device, in any of the values it had,
//! torn down to the byte; the size with it or without.

use super::rig::{Dice, found, fresh, meta, record, rounds};
use crate::*;

#[test]
fn a_power_cut_at_any_moment_keeps_what_was_promised_and_invents_nothing() {
    let (mut dice, seed) = Dice::seeded("power cut");
    let (mut accepted_falsely, mut cuts) = (0, 0);
    for round in 0..rounds(3_000) {
        let meta = meta(Tier::Power);
        let (journal, medium) = fresh(&meta);
        medium.die_after(dice.roll(900));
        let (mut told, mut disarmed, mut tried) = (Vec::new(), Vec::new(), Vec::new());
        let mut in_doubt = None;
        let mut program = || -> Result<(), JournalError> {
            for turn in 0_u64..30 {
                let tier = if dice.roll(4) == 0 { Tier::Process } else { Tier::Power };
                let body = vec![turn as u8; 1 + dice.roll(200) as usize];
                tried.push(body.clone());
                let registered = journal.register(&record(&body, tier))?;
                let power = tier == Tier::Power;
                if dice.roll(5) != 0 {
                    in_doubt = Some(registered.id());
                    journal.disarm(registered)?;
                    in_doubt = None;
                    if power {
                        disarmed.push(registered.id());
                    }
                } else if power {
                    told.push((registered.id(), body));
                }
                if dice.roll(9) == 0 {
                    journal.move_for_test()?;
                }
            }
            Ok(())
        };
        let _ = program();
        for _ in 0..8 {
            let later = found(&meta, medium.after_power_cut(|below| dice.roll(below)));
            let scan = later.scan().unwrap();
            cuts += 1;
            let at = format!("round {round}, EPILOGUE_SEED={seed}");
            for (id, body) in told.iter().filter(|(id, _)| in_doubt != Some(*id)) {
                let entry = scan.find(*id).unwrap_or_else(|| panic!("{at}: {id} is lost"));
                assert!(entry.state.is_open() && entry.body == *body, "{at}: {entry:?}");
            }
            for entry in scan.open() {
                assert!(!disarmed.contains(&entry.id), "{at}: {} runs after its disarm", entry.id);
                accepted_falsely += u32::from(!tried.contains(&entry.body));
            }
        }
    }
    eprintln!("{cuts} power cuts, {accepted_falsely} records that nobody wrote");
    assert_eq!(accepted_falsely, 0);
}

#[test]
fn a_flush_that_is_refused_is_told_and_what_was_promised_before_stays() {
    let (mut dice, seed) = Dice::seeded("refused flush");
    let mut refusals = 0;
    for round in 0..rounds(1_000) {
        let meta = meta(Tier::Power);
        let (journal, medium) = fresh(&meta);
        let mut told = Vec::new();
        for turn in 0..12_u8 {
            if dice.roll(4) == 0 {
                medium.refuse_flush(dice.roll(3));
            }
            match journal.register(&record(&[turn; 40], Tier::Power)) {
                Ok(registered) => told.push((registered.id(), turn)),
                Err(JournalError::NotKept { source, .. }) => {
                    assert_eq!(source.raw_os_error(), Some(libc::EIO));
                    refusals += 1;
                }
                // The directory could not be flushed.
                Err(JournalError::Io { .. } | JournalError::Full { .. }) => refusals += 1,
                Err(error) => panic!("{error}"),
            }
        }
        for _ in 0..4 {
            let later = found(&meta, medium.after_power_cut(|below| dice.roll(below)));
            let scan = later.scan().unwrap();
            for (id, turn) in &told {
                let entry = scan.find(*id);
                let there = entry.is_some_and(|entry| entry.state.is_open() && entry.body == [*turn; 40]);
                assert!(there, "round {round}, EPILOGUE_SEED={seed}: {id} is lost: {entry:?}");
            }
        }
    }
    assert!(refusals >= rounds(1_000), "{refusals}");
}

//! Records that survive a power cut: how many a second, beside a bare group commit on the same disk.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use epilogue_journal::{Journal, NewMeta, Tier};

use crate::register::record;
use crate::{median, tell};

const ROUNDS: usize = 7;
const ROUND: Duration = Duration::from_millis(400);

pub(crate) fn measure(dir: &Path) {
    let meta = NewMeta { tier: Tier::Power, ..NewMeta::default() };
    let journal = Journal::create(&dir.join("power"), meta, true).expect("a journal");
    let raw = Raw::new(&dir.join("raw-power"));
    for committers in [1, 8, 64] {
        let (mut ours, mut bare) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            bare.push(rate(committers, |_| raw.commit()));
            ours.push(rate(committers, |_| {
                // Disarmed without a flush of its own: a registration is what is measured.
                let registered = journal.register(&record(&[7; 48], Tier::Power)).expect("registered");
                let _ = journal.drop_record(registered.id());
            }));
        }
        let group = format!("records a second that survive a power cut, {committers} at once");
        tell(&group, "bare group commit", median(bare), "1/s");
        tell(&group, "journal", median(ours), "1/s");
    }
}

fn rate(committers: usize, commit: impl Fn(usize) + Sync) -> f64 {
    let done = AtomicU64::new(0);
    let began = Instant::now();
    std::thread::scope(|s| {
        for who in 0..committers {
            let (done, commit) = (&done, &commit);
            s.spawn(move || {
                while began.elapsed() < ROUND {
                    commit(who);
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    done.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64()
}

/// The least that a group commit can be: a write of 128 bytes into room that is there, one flush for
/// all who wait.
struct Raw {
    file: File,
    next: AtomicU64,
    state: Mutex<(u64, u64, bool)>,
    turn: Condvar,
}

impl Raw {
    fn new(path: &Path) -> Raw {
        let file = File::create(path).expect("a file");
        file.write_all_at(&vec![0; 1 << 22], 0).expect("room");
        file.sync_all().expect("flushed");
        Raw { file, next: AtomicU64::new(0), state: Mutex::new((0, 0, false)), turn: Condvar::new() }
    }

    fn commit(&self) {
        let at = self.next.fetch_add(1, Ordering::Relaxed) % 32_768 * 128;
        self.file.write_all_at(&[7; 128], at).expect("written");
        let mut state = self.state.lock().expect("no panic");
        state.0 += 1;
        let mine = state.0;
        loop {
            let (asked, answered, flushing) = *state;
            if answered >= mine {
                return;
            }
            if flushing {
                state = self.turn.wait(state).expect("no panic");
                continue;
            }
            state.2 = true;
            drop(state);
            self.file.sync_data().expect("flushed");
            state = self.state.lock().expect("no panic");
            (state.1, state.2) = (asked, false);
            self.turn.notify_all();
        }
    }
}

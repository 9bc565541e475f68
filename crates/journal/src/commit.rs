//! Group commit: one flush of the device for everyone who waits for one.
//!
//! Who waits has written its record before it asks, so a flush that begins after the question covers
//! it: the leader need not wait for writers that are still at their records. Those ask later, and are
//! answered by the next flush.

use std::io;
use std::sync::PoisonError;

use crate::sync::{Condvar, Mutex, MutexGuard};

pub(crate) struct GroupCommit {
    state: Mutex<State>,
    /// Who waits for an even flush, and who for an odd one: a flush wakes only its own.
    turns: [Condvar; 2],
}

#[derive(Default)]
struct State {
    /// Questions so far.
    asked: u64,
    /// Questions that were answered, one way or the other.
    answered: u64,
    /// The answers that were no, as ranges of questions.
    refused: Vec<(u64, u64, i32)>,
    /// Flushes that have begun.
    begun: u64,
    /// While one runs: the last question that it answers.
    running: Option<u64>,
}

impl Default for GroupCommit {
    fn default() -> GroupCommit {
        GroupCommit { state: Mutex::new(State::default()), turns: [Condvar::new(), Condvar::new()] }
    }
}

impl GroupCommit {
    /// Returns when a flush that began after this call has ended.
    pub(crate) fn wait(&self, flush: impl Fn() -> io::Result<()>) -> io::Result<()> {
        let mut state = self.lock();
        state.asked += 1;
        let mine = state.asked;
        loop {
            if state.answered >= mine {
                return state.verdict(mine);
            }
            if let Some(last) = state.running {
                // The one that runs, or the next: it may have begun before our record was written.
                let turn = if mine <= last { state.begun } else { state.begun + 1 };
                let turn = &self.turns[(turn % 2) as usize];
                state = turn.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.begun += 1;
            let (from, to, turn) = (state.answered, state.asked, state.begun);
            state.running = Some(to);
            drop(state);
            let flushed = flush();
            state = self.lock();
            state.running = None;
            state.answered = to;
            if let Err(error) = flushed {
                state.refused.push((from, to, error.raw_os_error().unwrap_or(libc::EIO)));
            }
            self.turns[(turn % 2) as usize].notify_all();
            self.turns[((turn + 1) % 2) as usize].notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn verdict(&self, question: u64) -> io::Result<()> {
        let refused = self.refused.iter().find(|(from, to, _)| *from < question && question <= *to);
        refused.map_or(Ok(()), |(_, _, error)| Err(io::Error::from_raw_os_error(*error)))
    }
}

#[cfg(all(test, epilogue_loom))]
mod models {
    use loom::sync::Arc;

    use super::*;

    /// Nobody is left waiting, and nobody is answered early.
    #[test]
    fn whoever_asks_is_answered_by_a_flush_that_began_later() {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(2);
        builder.check(|| {
            let commit = Arc::new(GroupCommit::default());
            // Written before the question, and seen by the flush that answers it.
            let written = Arc::new(loom::sync::atomic::AtomicU64::new(0));
            let ask = |commit: &GroupCommit, written: &loom::sync::atomic::AtomicU64| {
                let mine = written.fetch_add(1, crate::sync::Ordering::SeqCst) + 1;
                let flushed = std::sync::atomic::AtomicU64::new(0);
                let flush = || {
                    flushed.store(
                        written.load(crate::sync::Ordering::SeqCst),
                        std::sync::atomic::Ordering::SeqCst,
                    );
                    Ok(())
                };
                commit.wait(flush).unwrap();
                let led = flushed.load(std::sync::atomic::Ordering::SeqCst);
                assert!(led == 0 || led >= mine);
            };
            let threads: Vec<_> = (0..2)
                .map(|_| {
                    let (commit, written) = (Arc::clone(&commit), Arc::clone(&written));
                    loom::thread::spawn(move || ask(&commit, &written))
                })
                .collect();
            ask(&commit, &written);
            for thread in threads {
                thread.join().unwrap();
            }
        });
    }
}

#[cfg(all(test, not(epilogue_loom)))]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn nobody_is_answered_by_a_flush_that_began_before_the_question() {
        let (commit, clock) = (GroupCommit::default(), AtomicU64::new(0));
        let flushes = std::sync::Mutex::new(Vec::new());
        std::thread::scope(|s| {
            for _ in 0..8 {
                s.spawn(|| {
                    for _ in 0..500 {
                        let asked = clock.fetch_add(1, Ordering::SeqCst);
                        commit
                            .wait(|| {
                                let began = clock.fetch_add(1, Ordering::SeqCst);
                                std::thread::yield_now();
                                flushes.lock().unwrap().push((began, clock.fetch_add(1, Ordering::SeqCst)));
                                Ok(())
                            })
                            .unwrap();
                        let answered = clock.fetch_add(1, Ordering::SeqCst);
                        let covered =
                            flushes.lock().unwrap().iter().any(|(from, to)| asked < *from && *to < answered);
                        assert!(covered);
                    }
                });
            }
        });
        let flushes = flushes.into_inner().unwrap().len();
        assert!(flushes < 4000, "{flushes} flushes for 4000 questions: nobody shared one");
    }

    #[test]
    fn a_refusal_reaches_everyone_it_concerns_and_nobody_else() {
        let commit = GroupCommit::default();
        commit.wait(|| Ok(())).unwrap();
        let refused = commit.wait(|| Err(io::Error::from_raw_os_error(libc::EIO)));
        assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::EIO));
        commit.wait(|| Ok(())).unwrap();
    }
}

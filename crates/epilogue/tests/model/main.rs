//! Random programs of defer, panic, recover, task exit, nested scopes and cancellation, run for real
//! and by a reference that knows Go's rules and nothing of Rust's unwinding. Their events must be
//! the same.
//!
//! `EPILOGUE_MODEL_PROGRAMS` sets how many (10,000 each kind, unless set), `EPILOGUE_MODEL_SEED` where to
//! begin; what a failure prints runs that one program again.

mod asynchronous;
mod dice;
mod program;
mod real;
mod reference;

use dice::Dice;

/// What both sides tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Emit(u32),
    Saw(epilogue::How),
    Recovered(Option<u32>),
    /// What left the whole program, oldest first; a task exit is `None`.
    Ended(Vec<Option<u32>>),
}

#[test]
fn synchronous_programs_do_what_the_reference_does() {
    dice::for_each_seed("sync", |seed| {
        let program = program::random(&mut Dice::new(seed));
        let (real, reference) = (real::run(&program), reference::run(&program));
        assert_eq!(real, reference, "seed {seed}: real, then reference\n{program:#?}");
    });
}

#[test]
fn programs_without_rules_run_each_cleanup_once_and_lose_no_panic() {
    dice::for_each_seed("wild", |seed| {
        let program = program::wild(&mut Dice::new(seed));
        real::run_wild(&program, seed);
    });
}

#[test]
fn asynchronous_programs_do_what_the_reference_does_wherever_they_are_cancelled() {
    asynchronous::check();
}

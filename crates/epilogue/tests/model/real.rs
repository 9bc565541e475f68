//! The same programs, run for real.

use std::cell::{Cell, RefCell};
use std::panic::resume_unwind;

use epilogue::__private::Attempt;
use epilogue::{Caught, Ending, Pile, Scope, catch, defer, scope, task};

use crate::Event;
use crate::program::Op;

#[derive(Default)]
struct World {
    events: RefCell<Vec<Event>>,
    owed: Cell<u64>,
    paid: Cell<u64>,
    raised: Cell<u64>,
    recovered: Cell<u64>,
    aborted: Cell<u64>,
}

impl World {
    fn tell(&self, event: Event) {
        self.events.borrow_mut().push(event);
    }
}

pub(crate) fn run(program: &[Op]) -> Vec<Event> {
    let world = World::default();
    let ended = catch(|| exec(program, &world, None, None));
    let links = ended.err().map(numbers).unwrap_or_default();
    world.tell(Event::Ended(links));
    world.events.into_inner()
}

fn numbers(caught: Caught) -> Vec<Option<u32>> {
    let number = |link: &epilogue::Link| link.downcast_ref::<u32>().copied();
    caught.chain().links().iter().map(number).collect()
}

fn raise(world: &World, number: u32) {
    world.raised.set(world.raised.get() + 1);
    resume_unwind(Box::new(number));
}

fn exec<'e>(
    ops: &'e [Op],
    world: &'e World,
    scope_here: Option<&Scope<'e, ()>>,
    mut ending: Option<&mut Ending<'e, ()>>,
) {
    let Some((first, rest)) = ops.split_first() else { return };
    match first {
        Op::Emit(number) => world.tell(Event::Emit(*number)),
        Op::Guard(ops) => {
            owe(world);
            defer!(pay(ops, world));
            // What follows runs while the guard is held, as the rest of a block does.
            return exec(rest, world, scope_here, ending);
        }
        Op::Pile(entries) => {
            let pile = Pile::new();
            for ops in entries {
                owe(world);
                pile.defer(move || pay(ops, world));
            }
            return exec(rest, world, scope_here, ending);
        }
        Op::Defer(ops) => {
            if let Some(s) = scope_here {
                owe(world);
                s.defer(move || pay(ops, world));
            }
        }
        Op::Aware(ops) => {
            if let Some(s) = scope_here {
                owe(world);
                s.defer_with(move |end| pay_aware(ops, world, end));
            }
        }
        Op::Block(ops) => exec(ops, world, scope_here, None),
        Op::Scope(ops) => scope(|s| exec(ops, world, Some(s), None)),
        Op::Split(cleanup) => {
            let mut attempt = Attempt::new();
            attempt.run(|| exec(rest, world, scope_here, ending));
            owe(world);
            attempt.pay("split", |end| pay_aware(cleanup, world, end));
            return attempt.finish();
        }
        Op::Recover => {
            let before = ending.as_ref().map_or(0, |end| panics(end));
            let number =
                ending.as_mut().and_then(|end| end.recover()).and_then(|payload| payload.downcast().ok());
            let after = ending.as_ref().map_or(0, |end| panics(end));
            if number.is_some() {
                world.recovered.set(world.recovered.get() + 1);
                world.aborted.set(world.aborted.get() + before - after - 1);
            }
            world.tell(Event::Recovered(number.map(|number| *number)));
        }
        Op::Register(ops) => {
            if let Some(end) = &mut ending {
                owe(world);
                end.defer(move || pay(ops, world));
            }
        }
        Op::Panic(number) => raise(world, *number),
        Op::Exit => task::exit_task(),
    }
    exec(rest, world, scope_here, ending)
}

fn panics(end: &Ending<'_, ()>) -> u64 {
    end.chain().links().iter().filter(|link| !link.exits_task()).count() as u64
}

fn owe(world: &World) {
    world.owed.set(world.owed.get() + 1);
}

fn pay<'e>(ops: &'e [Op], world: &'e World) {
    world.paid.set(world.paid.get() + 1);
    exec(ops, world, None, None);
}

fn pay_aware<'e>(ops: &'e [Op], world: &'e World, end: &mut Ending<'e, ()>) {
    world.paid.set(world.paid.get() + 1);
    world.tell(Event::Saw(end.how()));
    exec(ops, world, None, Some(end));
}

/// Guards within guards: Go's order of panics is not promised there, but each cleanup runs once, and
/// each panic is recovered, aborted by one that was, in the final chain, or reported.
pub(crate) fn run_wild(program: &[Op], seed: u64) {
    let world = World::default();
    let reported = reported();
    let ended = catch(|| exec(program, &world, None, None));
    let left = ended.err().map(numbers).unwrap_or_default().iter().flatten().count() as u64;
    assert_eq!(world.paid.get(), world.owed.get(), "seed {seed}: owed and paid\n{program:#?}");
    let accounted = world.recovered.get() + world.aborted.get() + left + self::reported() - reported;
    // A task exit that is recovered above takes what was below it along: that much may be missing.
    let exits = format!("{program:?}").contains("Exit");
    assert!(
        accounted == world.raised.get() || exits && accounted < world.raised.get(),
        "seed {seed}: {accounted} of {} panics are accounted for\n{program:#?}",
        world.raised.get()
    );
}

thread_local!(static REPORTED: Cell<u64> = const { Cell::new(0) });

/// How much was reported on this thread.
fn reported() -> u64 {
    static SET: std::sync::Once = std::sync::Once::new();
    SET.call_once(|| {
        let sink = epilogue::report::set_sink(Box::new(|_| REPORTED.set(REPORTED.get() + 1)));
        assert!(sink.is_ok());
    });
    REPORTED.get()
}

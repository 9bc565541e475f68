//! The reference: Go's rules, as an interpreter without any unwinding.

use epilogue::How;

use crate::Event;
use crate::program::Op;

/// What is in flight, oldest first; a task exit is `None`. Empty: nothing.
type Flight = Vec<Option<u32>>;

pub(crate) fn run(program: &[Op]) -> Vec<Event> {
    let mut events = Vec::new();
    let flight = block(program, &mut events, None, None);
    events.push(Event::Ended(flight));
    events
}

/// What a scope owes.
struct Owed<'p> {
    ops: &'p [Op],
    aware: bool,
}

struct Ending<'p> {
    flight: Flight,
    more: Vec<&'p [Op]>,
}

impl Ending<'_> {
    fn how(&self) -> How {
        match self.flight.last() {
            None => How::Returned,
            Some(None) => How::TaskExited,
            Some(Some(_)) => How::Panicked,
        }
    }

    /// The newest panic goes, with all it had overtaken; a task exit beneath stays, with nothing below it.
    fn recover(&mut self) -> Option<u32> {
        let recovered = (*self.flight.last()?)?;
        let exits = self.flight.iter().any(Option::is_none);
        self.flight = if exits { vec![None] } else { Vec::new() };
        Some(recovered)
    }
}

/// Runs statements as a function of their own: its guards are paid at its end.
fn block<'p>(
    ops: &'p [Op],
    events: &mut Vec<Event>,
    mut scope: Option<&mut Vec<Owed<'p>>>,
    mut ending: Option<&mut Ending<'p>>,
) -> Flight {
    let mut guards: Vec<&'p [Op]> = Vec::new();
    let mut flight = Flight::new();
    for (at, op) in ops.iter().enumerate() {
        match op {
            Op::Emit(number) => events.push(Event::Emit(*number)),
            Op::Guard(ops) => guards.push(ops),
            Op::Pile(entries) => guards.extend(entries.iter().map(Vec::as_slice)),
            Op::Defer(ops) | Op::Aware(ops) => {
                let aware = matches!(op, Op::Aware(_));
                if let Some(scope) = &mut scope {
                    scope.push(Owed { ops, aware });
                }
            }
            Op::Block(ops) => flight = block(ops, events, scope.as_deref_mut(), None),
            Op::Scope(ops) => {
                let mut owed = Vec::new();
                let outcome = block(ops, events, Some(&mut owed), None);
                flight = pay(owed, outcome, events);
            }
            Op::Split(cleanup) => {
                let outcome = block(&ops[at + 1..], events, scope.as_deref_mut(), ending.as_deref_mut());
                flight = pay(vec![Owed { ops: cleanup, aware: true }], outcome, events);
                break;
            }
            Op::Recover => {
                let recovered = ending.as_mut().and_then(|ending| ending.recover());
                events.push(Event::Recovered(recovered));
            }
            Op::Register(ops) => {
                if let Some(ending) = &mut ending {
                    ending.more.push(ops);
                }
            }
            Op::Panic(number) => flight.push(Some(*number)),
            Op::Exit => flight.push(None),
        }
        if !flight.is_empty() {
            break;
        }
    }
    for guard in guards.into_iter().rev() {
        // What a cleanup raises overtakes what is in flight.
        flight.extend(block(guard, events, None, None));
    }
    flight
}

fn pay<'p>(mut owed: Vec<Owed<'p>>, flight: Flight, events: &mut Vec<Event>) -> Flight {
    let mut ending = Ending { flight, more: Vec::new() };
    while let Some(next) = owed.pop() {
        let raised = if next.aware {
            events.push(Event::Saw(ending.how()));
            block(next.ops, events, None, Some(&mut ending))
        } else {
            block(next.ops, events, None, None)
        };
        ending.flight.extend(raised);
        // What it registered is newest.
        owed.extend(ending.more.drain(..).map(|ops| Owed { ops, aware: false }));
    }
    ending.flight
}

//! Programs, and how to make them at random.

use crate::dice::Dice;

pub(crate) type Ops = Vec<Op>;

/// One statement.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Emit(u32),
    /// `defer!` in this block.
    Guard(Ops),
    /// A pile in this block, with its entries.
    Pile(Vec<Ops>),
    /// `s.defer` on the innermost scope.
    Defer(Ops),
    /// `s.defer_with` on the innermost scope.
    Aware(Ops),
    /// A call of a plain function.
    Block(Ops),
    /// A nested scope.
    Scope(Ops),
    /// What `#[scoped]` makes of a cleanup that looks at the ending: the rest of this block is attempted.
    Split(Ops),
    /// In a cleanup that looks at the ending.
    Recover,
    /// The same: registers a further one.
    Register(Ops),
    Panic(u32),
    Exit,
}

/// Where a statement stands.
#[derive(Clone, Copy)]
struct At {
    depth: usize,
    /// There is a scope to register on.
    scope: bool,
    /// There is an ending to look at.
    ending: bool,
    /// Guards are allowed: not inside of what a guard runs, where a thread that unwinds cannot tell the
    /// end of a block from the unwinding.
    guards: bool,
    /// Guards are allowed everywhere.
    wild: bool,
}

/// A program that keeps to what Go's rules say something of.
pub(crate) fn random(dice: &mut Dice) -> Ops {
    make(dice, At { depth: 0, scope: false, ending: false, guards: true, wild: false }, &mut 0)
}

/// Any program.
pub(crate) fn wild(dice: &mut Dice) -> Ops {
    make(dice, At { depth: 0, scope: false, ending: false, guards: true, wild: true }, &mut 0)
}

fn make(dice: &mut Dice, at: At, next: &mut u32) -> Ops {
    let length = 1 + dice.roll(if at.depth < 3 { 6 } else { 3 });
    let mut ops = Vec::new();
    for _ in 0..length {
        ops.push(statement(dice, at, next));
    }
    ops
}

fn statement(dice: &mut Dice, at: At, next: &mut u32) -> Op {
    let mut number = || {
        *next += 1;
        *next
    };
    if at.depth >= 5 {
        return match dice.roll(8) {
            0 => Op::Panic(number()),
            1 if at.ending => Op::Recover,
            _ => Op::Emit(number()),
        };
    }
    let inner = At { depth: at.depth + 1, ending: false, ..at };
    let guarded = At { guards: at.wild, scope: false, ..inner };
    match dice.roll(22) {
        0..4 => Op::Emit(number()),
        4..6 if at.guards => Op::Guard(make(dice, guarded, next)),
        6 if at.guards => Op::Pile((0..dice.roll(4)).map(|_| make(dice, guarded, next)).collect()),
        7..9 if at.scope => Op::Defer(make(dice, At { scope: false, ..inner }, next)),
        9..12 if at.scope => Op::Aware(make(dice, At { scope: false, ending: true, ..inner }, next)),
        12 => Op::Block(make(dice, inner, next)),
        13..16 => Op::Scope(make(dice, At { scope: true, ..inner }, next)),
        16 => Op::Split(make(dice, At { scope: false, ending: true, ..inner }, next)),
        17 | 18 if at.ending => Op::Recover,
        19 if at.ending => Op::Register(make(dice, At { scope: false, ..inner }, next)),
        20 if dice.roll(4) == 0 => Op::Exit,
        _ => Op::Panic(number()),
    }
}

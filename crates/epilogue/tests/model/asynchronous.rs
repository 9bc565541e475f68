//! The same with futures: scopes whose cleanups await, dropped at every one of their awaits.
//!
//! Scopes that were cut are paid on the lane, each in its own order and all at the same time, so what
//! is compared is the order within each scope, and within what is not on any.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use epilogue::{AsyncScope, How, async_scope, defer, lane};

use crate::dice::{Dice, for_each_seed};

/// One statement of an `async` block.
#[derive(Clone, Debug)]
enum Op {
    Emit(u32),
    Await,
    /// A guard that only says something.
    Guard(u32),
    /// An async cleanup on the innermost scope.
    Defer(Arc<Cleanup>),
    Call(Arc<Vec<Op>>),
    Scope(Arc<Nested>),
    Panic(u32),
    Exit,
}

#[derive(Debug)]
struct Cleanup {
    scope: u32,
    ops: Vec<Op>,
}

#[derive(Debug)]
struct Nested {
    ops: Vec<Op>,
}

/// What was said, by scope; 0 for what is on none.
type Told = BTreeMap<u32, Vec<String>>;

pub(crate) fn check() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let adopted = lane::adopt(runtime.handle().clone());
    for_each_seed("async", |seed| {
        let dice = &mut Dice::new(seed);
        let program = Arc::new(statements(dice, 0, None, &mut 0));
        // Zero is never reached: the program runs to its end.
        let cut = dice.roll(12);
        let (real, reference) = (runtime.block_on(real(&program, cut)), reference(&program, cut));
        assert_eq!(real, reference, "seed {seed}, cut at await {cut}: real, then reference\n{program:#?}");
    });
    drop(adopted);
}

fn statements(dice: &mut Dice, depth: usize, scope: Option<u32>, next: &mut u32) -> Vec<Op> {
    let length = 1 + dice.roll(if depth < 3 { 6 } else { 2 });
    (0..length).map(|_| statement(dice, depth, scope, next)).collect()
}

fn statement(dice: &mut Dice, depth: usize, scope: Option<u32>, next: &mut u32) -> Op {
    *next += 1;
    let number = *next;
    match dice.roll(20) {
        0..4 => Op::Emit(number),
        4..8 => Op::Await,
        8 => Op::Guard(number),
        9..14 if scope.is_some() && depth < 5 => {
            let ops = statements(dice, depth + 1, None, next);
            Op::Defer(Arc::new(Cleanup { scope: scope.unwrap_or(0), ops }))
        }
        14 if depth < 5 => Op::Call(Arc::new(statements(dice, depth + 1, scope, next))),
        15..18 if depth < 5 => {
            let ops = statements(dice, depth + 1, Some(number), next);
            Op::Scope(Arc::new(Nested { ops }))
        }
        18 => Op::Panic(number),
        19 if dice.roll(3) == 0 => Op::Exit,
        _ => Op::Emit(number),
    }
}

// The real side.

type World = Arc<Mutex<Told>>;

fn tell(world: &World, on: u32, what: String) {
    world.lock().unwrap().entry(on).or_default().push(what);
}

async fn real(program: &Arc<Vec<Op>>, cut: usize) -> Told {
    let world = World::default();
    let mut future = Box::pin(exec(program.clone(), 0, world.clone(), 0, None));
    let mut cx = Context::from_waker(Waker::noop());
    let mut polls = 0;
    let ended = loop {
        match epilogue::catch(|| future.as_mut().poll(&mut cx)) {
            Ok(Poll::Ready(())) => break "returned".to_owned(),
            Ok(Poll::Pending) => polls += 1,
            Err(caught) => {
                break chain(caught.chain().links().iter().map(|link| link.downcast_ref().copied()));
            }
        }
        if polls == cut {
            break "cancelled".to_owned();
        }
    };
    tell(&world, 0, ended);
    drop(future);
    lane::drained().await;
    std::mem::take(&mut *world.lock().unwrap())
}

fn chain(links: impl Iterator<Item = Option<u32>>) -> String {
    let links = links.map(|link| link.map_or("exit".to_owned(), |number| number.to_string()));
    links.collect::<Vec<_>>().join(" > ")
}

type Running<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

fn exec(ops: Arc<Vec<Op>>, at: usize, world: World, on: u32, scope: Option<&AsyncScope>) -> Running<'_> {
    Box::pin(async move {
        for (index, op) in ops.iter().enumerate().skip(at) {
            match op {
                Op::Emit(number) => tell(&world, on, number.to_string()),
                Op::Await => pause().await,
                Op::Guard(number) => {
                    defer!(tell(&world, on, format!("guard {number}")));
                    return exec(ops.clone(), index + 1, world.clone(), on, scope).await;
                }
                Op::Defer(cleanup) => owe(scope, cleanup.clone(), world.clone()),
                Op::Call(ops) => exec(ops.clone(), 0, world.clone(), on, scope).await,
                Op::Scope(nested) => {
                    let ops = Arc::new(nested.ops.clone());
                    async_scope(async |s: &AsyncScope| exec(ops, 0, world.clone(), on, Some(s)).await).await;
                }
                Op::Panic(number) => std::panic::resume_unwind(Box::new(*number)),
                Op::Exit => epilogue::task::exit_task(),
            }
        }
    })
}

fn owe(scope: Option<&AsyncScope>, cleanup: Arc<Cleanup>, world: World) {
    let Some(scope) = scope else { return };
    scope.defer(move |how| {
        let ops = Arc::new(cleanup.ops.clone());
        let on = cleanup.scope;
        async move {
            tell(&world, on, format!("{how:?}"));
            exec(ops, 0, world, on, None).await;
        }
    });
}

/// Comes back at the second poll.
async fn pause() {
    let mut paused = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut paused, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

// The reference.

/// How statements end; a flight is as in the other reference.
enum End {
    Normal,
    Flight(Vec<Option<u32>>),
    Cut,
}

struct Reference {
    told: Told,
    /// Awaits until the future is dropped; `None` for never.
    left: Option<usize>,
    /// In a cleanup: cut there, it goes on on the lane as if it had not been.
    in_cleanup: bool,
}

fn reference(program: &[Op], cut: usize) -> Told {
    let left = (cut > 0).then_some(cut);
    let mut reference = Reference { told: Told::new(), left, in_cleanup: false };
    let end = reference.block(program, 0, None);
    let told = reference.told.entry(0).or_default();
    match end {
        End::Normal => told.push("returned".to_owned()),
        End::Flight(flight) => told.push(chain(flight.into_iter())),
        // Was told when it happened: what comes after is the drop of the guards.
        End::Cut => {}
    }
    reference.told
}

impl Reference {
    fn tell(&mut self, on: u32, what: String) {
        self.told.entry(on).or_default().push(what);
    }

    fn block(&mut self, ops: &[Op], on: u32, mut scope: Option<&mut Vec<Arc<Cleanup>>>) -> End {
        let mut guards = Vec::new();
        let mut end = End::Normal;
        for op in ops {
            match op {
                Op::Emit(number) => self.tell(on, number.to_string()),
                Op::Await => end = self.pause(),
                Op::Guard(number) => guards.push(*number),
                Op::Defer(cleanup) => {
                    if let Some(scope) = &mut scope {
                        scope.push(cleanup.clone());
                    }
                }
                Op::Call(ops) => end = self.block(ops, on, scope.as_deref_mut()),
                Op::Scope(nested) => end = self.scope(nested, on),
                Op::Panic(number) => end = End::Flight(vec![Some(*number)]),
                Op::Exit => end = End::Flight(vec![None]),
            }
            if !matches!(end, End::Normal) {
                break;
            }
        }
        guards.into_iter().rev().for_each(|guard| self.tell(on, format!("guard {guard}")));
        end
    }

    fn pause(&mut self) -> End {
        let Some(left) = &mut self.left else { return End::Normal };
        *left -= 1;
        if *left > 0 {
            return End::Normal;
        }
        self.left = None;
        self.tell(0, "cancelled".to_owned());
        if self.in_cleanup { End::Normal } else { End::Cut }
    }

    fn scope(&mut self, nested: &Nested, on: u32) -> End {
        let mut owed = Vec::new();
        let mut end = self.block(&nested.ops, on, Some(&mut owed));
        while let Some(cleanup) = owed.pop() {
            self.tell(cleanup.scope, format!("{:?}", end.how()));
            let (was_left, was_in_cleanup) = (self.left, std::mem::replace(&mut self.in_cleanup, true));
            let raised = self.block(&cleanup.ops, cleanup.scope, None);
            self.in_cleanup = was_in_cleanup;
            let cut_here = was_left.is_some() && self.left.is_none() && !was_in_cleanup;
            if cut_here {
                // It has gone on on the lane, and the rest goes there too. The ending is what it was.
                return self.rest_on_the_lane(owed, end.how());
            }
            if let (End::Flight(newer), true) = (raised, !matches!(end, End::Cut)) {
                end = end.overtaken_by(newer);
            }
        }
        end
    }

    fn rest_on_the_lane(&mut self, mut owed: Vec<Arc<Cleanup>>, how: How) -> End {
        while let Some(cleanup) = owed.pop() {
            self.tell(cleanup.scope, format!("{how:?}"));
            self.in_cleanup = true;
            // Reported, if it raises: nobody waits for it.
            let _ = self.block(&cleanup.ops, cleanup.scope, None);
            self.in_cleanup = false;
        }
        End::Cut
    }
}

impl End {
    fn how(&self) -> How {
        match self {
            End::Normal => How::Returned,
            End::Cut => How::Cancelled,
            End::Flight(flight) if flight.last() == Some(&None) => How::TaskExited,
            End::Flight(_) => How::Panicked,
        }
    }

    fn overtaken_by(self, newer: Vec<Option<u32>>) -> End {
        match self {
            End::Flight(flight) => End::Flight([flight, newer].concat()),
            _ => End::Flight(newer),
        }
    }
}

//! The cases. Names are `group/who`; the table's first column is the group.

use std::hint::black_box;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use epilogue::{Pile, async_scope, catch, defer, record, scope, scoped, task::exit_task};

use crate::frames::{Bare, by_defer, by_drop, by_hand, callee};
use crate::harness::Case;

macro_rules! cases {
    ($($name:literal $(per $operations:literal)? => $body:expr;)*) => {
        vec![$(Case {
            name: $name,
            run: |times| {
                let body = $body;
                for turn in 0..times {
                    body(black_box(turn));
                }
            },
            operations: 1 $( * $operations)?,
        }),*]
    };
}

pub(crate) fn all() -> Vec<Case> {
    let mut all = guards();
    all.extend(loops());
    all.extend(endings());
    all.extend(panics());
    all.extend(asynchronous());
    all.extend(recorded());
    all
}

fn guards() -> Vec<Case> {
    cases! {
        "one/by hand" => by_hand;
        "one/bare Drop" => by_drop;
        "one/defer!" => by_defer;
        "one/scopeguard" => |n| {
            scopeguard::defer!(callee(n + 1));
            callee(n);
        };
        "one/defer crate" => |n| {
            let _guard = ::defer::defer(|| callee(n + 1));
            callee(n);
        };
        "one/#[scoped]" => scoped_one;
        "one/#[scoped(unrecorded)]" => unrecorded_one;
        "eight/by hand" => |n| (0..9).for_each(|at| callee(n + at));
        "eight/bare Drop" => |n| {
            let _a = Bare(|| callee(n + 8));
            let _b = Bare(|| callee(n + 7));
            let _c = Bare(|| callee(n + 6));
            let _d = Bare(|| callee(n + 5));
            let _e = Bare(|| callee(n + 4));
            let _f = Bare(|| callee(n + 3));
            let _g = Bare(|| callee(n + 2));
            let _h = Bare(|| callee(n + 1));
            callee(n);
        };
        "eight/defer!" => |n| {
            defer!(callee(n + 8));
            defer!(callee(n + 7));
            defer!(callee(n + 6));
            defer!(callee(n + 5));
            defer!(callee(n + 4));
            defer!(callee(n + 3));
            defer!(callee(n + 2));
            defer!(callee(n + 1));
            callee(n);
        };
        "eight/scopeguard" => |n| {
            scopeguard::defer!(callee(n + 8));
            scopeguard::defer!(callee(n + 7));
            scopeguard::defer!(callee(n + 6));
            scopeguard::defer!(callee(n + 5));
            scopeguard::defer!(callee(n + 4));
            scopeguard::defer!(callee(n + 3));
            scopeguard::defer!(callee(n + 2));
            scopeguard::defer!(callee(n + 1));
            callee(n);
        };
    }
}

#[scoped]
fn scoped_one(n: u64) {
    defer!(callee(n + 1));
    callee(n);
}

#[scoped(unrecorded)]
fn unrecorded_one(n: u64) {
    defer!(callee(n + 1));
    callee(n);
}

fn loops() -> Vec<Case> {
    cases! {
        "loop of 1000, each/boxed closures, isolated" per 1000 => |n| {
            let mut owed: Vec<Box<dyn FnOnce()>> = Vec::new();
            for turn in 0..1000 {
                owed.push(Box::new(move || callee(n + turn)));
            }
            while let Some(cleanup) = owed.pop() {
                let _ = catch_unwind(AssertUnwindSafe(cleanup));
            }
        };
        "loop of 1000, each/#[scoped]" per 1000 => scoped_loop;
        "loop of 1000, each/Pile" per 1000 => |n| {
            let pile = Pile::new();
            for turn in 0..1000 {
                pile.defer(move || callee(n + turn));
            }
        };
        "loop of 1000, each/scope" per 1000 => |n| scope(|s| {
            for turn in 0..1000 {
                s.defer(move || callee(n + turn));
            }
        });
        "loop of 4, each/#[scoped]" per 4 => scoped_loop_of_four;
    }
}

#[scoped]
fn scoped_loop(n: u64) {
    for turn in 0..1000 {
        defer!(move || callee(n + turn));
    }
}

#[scoped]
fn scoped_loop_of_four(n: u64) {
    for turn in 0..4 {
        defer!(move || callee(n + turn));
    }
}

fn endings() -> Vec<Case> {
    cases! {
        "looks at the ending, returns/by hand" => by_hand;
        "looks at the ending, returns/#[scoped]" => aware;
        "looks at the ending, returns/scope, one cleanup" => |n| {
            scope(|s| {
                s.defer_with(move |end| {
                    if end.panic().is_none() {
                        callee(n + 1);
                    }
                });
                callee(n);
            });
        };
        "looks at the ending, returns/scope, three cleanups" => |n| {
            scope(|s| {
                s.defer(move || callee(n + 3));
                s.defer(move || callee(n + 2));
                s.defer(move || callee(n + 1));
                callee(n);
            });
        };
    }
}

#[scoped]
#[inline(never)]
fn aware(n: u64) {
    defer!(|end| if end.panic().is_none() {
        callee(n + 1);
    });
    callee(n);
}

fn panics() -> Vec<Case> {
    cases! {
        "panic and recover, one frame/catch_unwind" => |n| {
            let _ = black_box(catch_unwind(|| resume_unwind(Box::new(n))));
        };
        "panic and recover, one frame/#[scoped]" => |n| {
            black_box(recovers(n, 0, |n, _| resume_unwind(Box::new(n))));
        };
        "panic, 10 frames/plain frames" => |n| caught(n, 10, plain);
        "panic, 10 frames/bare Drop, isolated" => |n| caught(n, 10, isolated);
        "panic, 10 frames/defer!" => |n| {
            black_box(recovers(n, 10, deferring));
        };
        "panic, 10 frames/catch and raise in each" => |n| caught(n, 10, catching);
        "panic, 100 frames/plain frames" => |n| caught(n, 100, plain);
        "panic, 100 frames/bare Drop, isolated" => |n| caught(n, 100, isolated);
        "panic, 100 frames/defer!" => |n| {
            black_box(recovers(n, 100, deferring));
        };
        "panic, 100 frames/catch and raise in each" => |n| caught(n, 100, catching);
        "panic, 100 frames/#[scoped], each looks at the ending" => |n| caught(n, 100, looking);
        "task exit, 3 defers/resume_unwind alone" => |_| {
            let _ = black_box(catch_unwind(|| resume_unwind(Box::new(1_u8))));
        };
        "task exit, 3 defers/exit_task" => |n| {
            let caught: Result<(), _> = catch(|| {
                defer!(callee(n + 3));
                defer!(callee(n + 2));
                defer!(callee(n + 1));
                exit_task()
            });
            let _ = black_box(caught);
        };
    }
}

#[scoped]
#[inline(never)]
fn recovers(n: u64, depth: u32, body: fn(u64, u32)) -> u64 {
    defer!(|end| {
        end.recover();
    });
    body(n, depth);
    1
}

fn caught(n: u64, depth: u32, body: fn(u64, u32)) {
    let _ = black_box(catch_unwind(|| body(n, depth)));
}

#[inline(never)]
fn plain(n: u64, depth: u32) {
    if depth == 0 {
        resume_unwind(Box::new(n));
    }
    plain(n, depth - 1);
    black_box(depth);
}

#[inline(never)]
fn isolated(n: u64, depth: u32) {
    let _guard = Bare(|| {
        let _ = catch_unwind(|| callee(n));
    });
    if depth == 0 {
        resume_unwind(Box::new(n));
    }
    isolated(n, depth - 1);
}

#[inline(never)]
fn deferring(n: u64, depth: u32) {
    defer!(callee(n));
    if depth == 0 {
        resume_unwind(Box::new(n));
    }
    deferring(n, depth - 1);
}

#[inline(never)]
fn catching(n: u64, depth: u32) {
    if depth == 0 {
        resume_unwind(Box::new(n));
    }
    if let Err(payload) = catch_unwind(|| catching(n, depth - 1)) {
        callee(n);
        resume_unwind(payload);
    }
}

#[scoped]
#[inline(never)]
fn looking(n: u64, depth: u32) {
    defer!(|_| callee(n));
    if depth == 0 {
        resume_unwind(Box::new(n));
    }
    looking(n, depth - 1);
}

fn asynchronous() -> Vec<Case> {
    cases! {
        "async, 3 cleanups/boxed futures by hand" => |n| ready(async {
            let mut owed: Vec<std::pin::Pin<Box<dyn Future<Output = ()> + Send>>> = Vec::new();
            for at in 0..3 {
                owed.push(Box::pin(async move { callee(n + at) }));
            }
            callee(n);
            while let Some(cleanup) = owed.pop() {
                cleanup.await;
            }
        });
        "async, 3 cleanups/async_scope" => |n| ready(async_scope(async |s| {
            for at in 0..3 {
                s.defer(async move |_| callee(n + at));
            }
            callee(n);
        }));
        "async, 3 cleanups/#[scoped]" => |n| ready(scoped_async(n));
    }
}

#[scoped]
async fn scoped_async(n: u64) {
    for at in 0..3 {
        defer!(async { callee(n + at) });
    }
    callee(n);
}

fn ready<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => unreachable!("nothing in it waits"),
    }
}

fn recorded() -> Vec<Case> {
    fn one(n: u64) {
        scope(|s| {
            s.defer(move || callee(n + 1));
            callee(n);
        });
    }
    cases! {
        "live list/scope, off" => one;
        "live list/scope, on" => |n| {
            record::list_live_scopes(true);
            one(n);
            record::list_live_scopes(false);
        };
        "live list/#[scoped], off" => scoped_one;
        "live list/#[scoped], on" => |n| {
            record::list_live_scopes(true);
            scoped_one(n);
            record::list_live_scopes(false);
        };
    }
}

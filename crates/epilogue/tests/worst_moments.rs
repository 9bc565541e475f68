//! What a cleanup may do to us, and when: none aborts the process, none runs twice. What needs a
//! process of its own is in `crates/process/tests/leaving.rs`.

use std::cell::{Cell, RefCell};
use std::panic::resume_unwind;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use epilogue::{Pile, SendPile, catch, defer, describe, guard, keep, report, scope, scoped};

fn raise(text: &'static str) {
    resume_unwind(Box::new(text));
}

/// Panics when it is dropped.
struct Grenade(&'static str);

impl Drop for Grenade {
    fn drop(&mut self) {
        raise(self.0);
    }
}

#[test]
fn a_result_that_panics_when_it_is_dropped_joins_the_chain() {
    let caught = catch(|| {
        scope(|s| {
            s.defer(|| raise("the cleanup"));
            Grenade("the result")
        })
    });
    let caught = caught.map(std::mem::ManuallyDrop::new).err().unwrap();
    assert_eq!(caught.chain().to_string(), "panic: the cleanup\n\tpanic: the result");
}

#[test]
fn what_a_cleanup_holds_may_panic_when_it_is_dropped() {
    let ran = Cell::new(0);
    let caught = catch(|| {
        scope(|s| {
            s.defer(|| ran.set(ran.get() + 1));
            let grenade = Grenade("held");
            s.defer(move || drop(grenade));
        });
    });
    assert_eq!((caught.err().unwrap().chain().to_string().as_str(), ran.get()), ("panic: held", 1));
}

#[test]
fn a_disarmed_cleanup_that_panics_when_it_is_dropped_panics_there_and_the_rest_run() {
    let ran = Cell::new(0);
    let caught = catch(|| {
        scope(|s| {
            s.defer(|| ran.set(ran.get() + 1));
            let grenade = Grenade("disarmed");
            let undo = s.defer(move || drop(grenade));
            s.disarm(undo);
        });
    });
    assert_eq!((caught.err().unwrap().chain().to_string().as_str(), ran.get()), ("panic: disarmed", 1));
}

#[test]
fn a_scope_dropped_while_the_thread_unwinds_pays_and_recovers_its_own() {
    struct Late<'a>(&'a RefCell<Vec<String>>);
    impl Drop for Late<'_> {
        fn drop(&mut self) {
            assert!(std::thread::panicking());
            scope(|s| {
                s.defer_with(|end| {
                    let inner = end.recover().map(|panic| describe(&*panic));
                    self.0.borrow_mut().push(format!("recovered {inner:?}"));
                });
                defer!(self.0.borrow_mut().push("guard".into()));
                raise("inner");
            });
        }
    }
    let log = RefCell::new(Vec::new());
    let caught = catch(|| {
        let _late = Late(&log);
        raise("outer");
    });
    assert_eq!(caught.err().unwrap().chain().to_string(), "panic: outer");
    assert_eq!(*log.borrow(), ["guard", "recovered Some(\"inner\")"]);
}

#[test]
fn a_cleanup_may_enter_its_own_scope_through_what_it_shares() {
    // Re-entry: a cleanup runs another scope, which runs the same function again.
    fn descend(depth: u32, log: &RefCell<Vec<u32>>) {
        scope(|s| {
            s.defer(move || {
                log.borrow_mut().push(depth);
                if depth > 0 {
                    descend(depth - 1, log);
                }
            });
        });
    }
    let log = RefCell::new(Vec::new());
    descend(3, &log);
    assert_eq!(*log.borrow(), [3, 2, 1, 0]);
}

#[test]
fn a_cleanup_may_register_the_next_one_a_hundred_thousand_times_over() {
    fn again<'e>(end: &mut epilogue::Ending<'e, ()>, left: &'e Cell<u32>) {
        left.set(left.get() - 1);
        // Registered by a cleanup, a cleanup is given no ending: the chain goes on by the first.
        end.defer(|| ());
    }
    let left = Cell::new(100_000);
    scope(|s| {
        for _ in 0..100_000 {
            s.defer_with(|end| again(end, &left));
        }
    });
    assert_eq!(left.get(), 0);
}

#[test]
#[expect(clippy::disallowed_methods, reason = "leaking is what is tested")]
fn what_is_leaked_does_not_run_and_breaks_nothing() {
    let token = Rc::new(());
    let pile = Pile::new();
    let held = token.clone();
    pile.defer(move || drop(held));
    std::mem::forget(pile);
    let held = token.clone();
    std::mem::forget(guard(held, drop));
    assert_eq!(Rc::strong_count(&token), 3);
}

#[test]
fn a_pile_moved_to_another_thread_runs_there_once() {
    let ran = Arc::new(AtomicU32::new(0));
    let pile = SendPile::new();
    for _ in 0..100 {
        let ran = ran.clone();
        pile.defer(move || {
            ran.fetch_add(1, Ordering::Relaxed);
        });
    }
    let kept = pile.keep(5, {
        let ran = ran.clone();
        move |value| {
            ran.fetch_add(value, Ordering::Relaxed);
        }
    });
    *kept += 1;
    std::thread::spawn(move || drop(pile)).join().unwrap();
    assert_eq!(ran.load(Ordering::Relaxed), 106);
}

#[test]
fn a_pile_that_is_moved_while_it_holds_cleanups_keeps_them() {
    let log = RefCell::new(Vec::new());
    let mut piles = Vec::new();
    for pile in 0..20 {
        let owed = Pile::new();
        for entry in 0..pile {
            let log = &log;
            owed.defer(move || log.borrow_mut().push((pile, entry)));
        }
        piles.push(owed);
    }
    drop(piles);
    let expected: Vec<_> = (0..20).flat_map(|pile| (0..pile).rev().map(move |entry| (pile, entry))).collect();
    assert_eq!(*log.borrow(), expected);
}

#[test]
fn cleanups_of_every_size_and_alignment_are_stored_and_run() {
    #[repr(align(64))]
    struct Aligned([u8; 64]);
    let seen = Cell::new(0_u64);
    scope(|s| {
        for round in 0..50_u64 {
            let seen = &seen;
            let (small, large, aligned) = (round as u8, [round; 300], Aligned([round as u8; 64]));
            s.defer(move || seen.set(seen.get() + u64::from(small)));
            s.defer(move || seen.set(seen.get() + large[299]));
            s.defer(move || {
                assert!(std::ptr::from_ref(&aligned).addr().is_multiple_of(64));
                seen.set(seen.get() + u64::from(aligned.0[63]));
            });
            s.defer(|| ());
        }
    });
    assert_eq!(seen.get(), 3 * (0..50).sum::<u64>());
}

#[test]
fn what_is_disarmed_in_the_middle_is_dropped_at_once_and_the_rest_keep_their_order() {
    let log = RefCell::new(Vec::new());
    let token = Rc::new(());
    scope(|s| {
        let deferred: Vec<_> = (0..10)
            .map(|number| {
                let (log, held) = (&log, token.clone());
                s.defer(move || {
                    let _held = held;
                    log.borrow_mut().push(number);
                })
            })
            .collect();
        for number in [0, 9, 4, 5] {
            assert!(s.disarm(deferred[number]));
        }
        assert_eq!((s.pending(), Rc::strong_count(&token)), (6, 7));
        assert!(s.run_now(deferred[2]));
        assert!(!s.run_now(deferred[2]));
    });
    assert_eq!(*log.borrow(), [2, 8, 7, 6, 3, 1]);
    assert_eq!(Rc::strong_count(&token), 1);
}

#[test]
fn a_ticket_of_one_scope_is_nothing_to_another() {
    scope(|outer| {
        let ticket = outer.defer(|| ());
        scope(|inner: &epilogue::Scope<'_, ()>| {
            inner.defer(|| ());
            assert!(!inner.disarm(ticket));
            assert_eq!(inner.pending(), 1);
        });
        assert!(outer.disarm(ticket));
    });
}

#[test]
fn a_pile_adopted_by_a_scope_runs_in_its_place_and_its_errors_are_joined() {
    let log = RefCell::new(Vec::new());
    let result: Result<(), epilogue::CleanupErrors> = epilogue::try_scope(|s| {
        let log = &log;
        s.defer(move || log.borrow_mut().push("below".to_owned()));
        let pile = Pile::new();
        pile.defer(|| Err::<(), _>("of the pile"));
        pile.defer_with(move |how| log.borrow_mut().push(format!("{how:?}")));
        s.adopt(pile);
        s.defer(move || log.borrow_mut().push("above".to_owned()));
        Ok(())
    });
    assert!(result.unwrap_err().to_string().ends_with("of the pile"));
    assert_eq!(*log.borrow(), ["above", "Returned", "below"]);
}

#[test]
fn what_was_popped_off_a_scope_does_not_run_with_it() {
    let log = RefCell::new(Vec::new());
    let held = scope(|s| {
        let log = &log;
        s.defer(move || log.borrow_mut().push("plain".to_owned()));
        s.defer_with(move |end| log.borrow_mut().push(format!("{:?} {}", end.how(), end.result().is_none())));
        let held = s.pop_all();
        s.defer(move || log.borrow_mut().push("later".to_owned()));
        held
    });
    assert_eq!(*log.borrow(), ["later"]);
    held.run_now().unwrap();
    assert_eq!(*log.borrow(), ["later", "Dropped true", "plain"]);
}

#[test]
fn a_kept_value_is_given_to_its_cleanup_also_on_a_panic() {
    #[scoped]
    fn work(seen: &RefCell<Vec<String>>) {
        for turn in 0..3 {
            let name = keep!(format!("{turn}"), |name| seen.borrow_mut().push(name));
            name.push('!');
            if turn == 1 {
                raise("stop");
            }
        }
    }
    let seen = RefCell::new(Vec::new());
    assert!(catch(|| work(&seen)).is_err());
    assert_eq!(*seen.borrow(), ["1!", "0!"]);
}

#[test]
fn a_foreign_destructor_that_panics_on_the_good_path_is_one_of_the_chain() {
    let ran = Cell::new(0);
    let caught = catch(|| {
        defer!(ran.set(ran.get() + 1));
        defer!(raise("ours"));
        let _grenade = Grenade("theirs");
    });
    // Theirs unwinds; ours is kept beside it, so it does not abort.
    assert_eq!(caught.err().unwrap().chain().to_string(), "panic: theirs\n\tpanic: ours");
    assert_eq!(ran.get(), 1);
}

#[test]
fn cleanups_that_recover_and_raise_again_a_hundred_thousand_times_are_one_line() {
    let caught = catch(|| {
        scope(|s: &epilogue::Scope<'_, ()>| {
            for _ in 0..100_000 {
                s.defer_with(|end| {
                    if let Some(panic) = end.recover() {
                        resume_unwind(panic);
                    }
                });
            }
            raise("again");
        });
    });
    assert_eq!(caught.err().unwrap().chain().to_string(), "panic: again [recovered, repanicked]");
}

#[test]
fn what_a_foreign_catch_leaves_behind_is_reported_and_does_not_pile_up() {
    // As in every task of a foreign executor: the outermost boundary is not ours.
    let before = report::count();
    for _ in 0..100 {
        let caught = std::panic::catch_unwind(|| {
            scope(|s| {
                s.defer(|| raise("newer"));
                raise("older");
            });
        });
        assert_eq!(describe(&*caught.unwrap_err()), "newer");
        let caught = std::panic::catch_unwind(|| {
            defer!(raise("overtakes"));
            raise("first");
        });
        assert_eq!(describe(&*caught.unwrap_err()), "first");
    }
    scope(|s| assert_eq!(s.pending(), 0));
    assert!(report::count() >= before + 200, "{} of 200", report::count() - before);
}

#[test]
fn a_ticket_of_a_scope_that_is_gone_is_nothing_to_the_next_one_at_its_address() {
    let mut last = None;
    let ran = Cell::new(0);
    for _ in 0..10 {
        scope(|s| {
            let ticket = s.defer(|| ran.set(ran.get() + 1));
            if let Some(last) = last.replace(ticket) {
                assert!(!s.disarm(last));
            }
        });
    }
    assert_eq!(ran.get(), 10);
}

#[test]
fn a_disarmed_pile_runs_nothing_though_what_it_holds_panics() {
    let dropped = Rc::new(());
    let caught = catch(|| {
        let pile = Pile::new();
        let held = dropped.clone();
        pile.defer(move || {
            let _held = held;
            panic!("must not run")
        });
        let grenade = Grenade("held");
        pile.defer(move || drop(grenade));
        pile.disarm();
    });
    assert_eq!(caught.err().unwrap().chain().to_string(), "panic: held");
    assert_eq!(Rc::strong_count(&dropped), 1, "and everything is dropped");
}

#[test]
fn an_error_beside_a_panic_is_reported() {
    let before = report::count();
    let caught = catch(|| {
        let pile = Pile::new();
        pile.defer(|| Err::<(), _>("not lost"));
        pile.defer(|| raise("raised"));
        pile.run_now()
    });
    assert!(caught.is_err());
    assert!(report::count() > before);
}

#[test]
fn a_guard_that_panics_in_a_cancelled_function_is_seen_at_once() {
    #[scoped]
    async fn work() {
        defer!(|_| ());
        defer!(raise("late"));
        std::future::pending::<()>().await;
    }
    let mut future = Box::pin(work());
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(future.as_mut().poll(&mut cx).is_pending());
    assert_eq!(catch(|| drop(future)).err().unwrap().chain().to_string(), "panic: late");
}

//! Section C: panic and recover.

use std::panic::resume_unwind;

use epilogue::{Ending, catch, defer, describe, scope, scoped};

use crate::{Log, raise, recovered, text};

#[test]
fn a_panic_runs_the_defers_of_each_frame_on_its_way() {
    #[scoped]
    fn a(log: &Log) {
        defer!(log.add("a1"));
        defer!(log.add("a2"));
        raise("boom");
    }
    #[scoped]
    fn b(log: &Log) {
        defer!(log.add("b1"));
        defer!(log.add("b2"));
        a(log);
        log.add("not reached");
    }
    #[scoped]
    fn c(log: &Log) {
        defer!(|end| log.add(format!("recovered {}", recovered(end))));
        defer!(log.add("c2"));
        b(log);
    }
    let log = Log::default();
    c(&log);
    assert_eq!(log.told(), "a2 | a1 | b2 | b1 | c2 | recovered boom");
}

#[test]
fn recover_without_a_panic_does_nothing_and_a_later_panic_still_goes() {
    #[scoped]
    fn work(log: &Log) {
        defer!(|end| log.add(recovered(end)));
    }
    let log = Log::default();
    work(&log);
    assert_eq!(log.told(), "nil");
    let caught = catch(|| {
        work(&log);
        raise("later");
    });
    assert_eq!(text(caught.err().unwrap()), "panic: later");
}

#[test]
fn a_helper_recovers_because_it_is_given_the_ending() {
    fn helper(end: &mut Ending<'_, u32>) {
        assert_eq!(recovered(end), "boom");
    }
    #[scoped]
    fn work() -> u32 {
        defer!(|end| helper(end));
        raise("boom");
        1
    }
    assert_eq!(work(), 0);
}

#[test]
fn a_scope_inside_a_cleanup_cannot_recover_the_panic_around_it() {
    #[scoped]
    fn work(log: &Log) {
        defer!(|end| log.add(format!("outer {}", recovered(end))));
        defer!(scope(|s| {
            s.defer_with(|end| log.add(format!("inner {}", recovered(end))));
        }));
        raise("boom");
    }
    let log = Log::default();
    work(&log);
    assert_eq!(log.told(), "inner nil | outer boom");
}

#[test]
fn after_a_recovery_the_cleanup_and_the_rest_and_the_caller_go_on() {
    #[scoped]
    fn work(log: &Log) {
        defer!(|end| log.add(format!("later {}", recovered(end))));
        defer!(|end| {
            log.add(recovered(end));
            log.add("goes on");
        });
        raise("boom");
        log.add("never");
    }
    let log = Log::default();
    work(&log);
    log.add("caller");
    assert_eq!(log.told(), "boom | goes on | later nil | caller");
}

#[test]
fn a_second_recovery_finds_nothing() {
    #[scoped]
    fn work(log: &Log) {
        defer!(|end| log.add(recovered(end)));
        defer!(|end| {
            log.add(recovered(end));
            log.add(recovered(end));
        });
        raise("boom");
    }
    let log = Log::default();
    work(&log);
    assert_eq!(log.told(), "boom | nil | nil");
}

#[test]
fn a_parent_is_told_of_the_panic_of_its_task_and_goes_on() {
    let joined = std::thread::spawn(|| {
        defer!(());
        raise("child");
    })
    .join();
    assert_eq!(describe(&*joined.unwrap_err()), "child");
}

#[test]
fn recovery_works_from_five_thousand_frames_and_a_hundred_thousand_run_their_defers() {
    fn descend(depth: u32, ran: &std::cell::Cell<u32>) {
        defer!(ran.set(ran.get() + 1));
        if depth == 0 {
            return raise("bottom");
        }
        descend(depth - 1, ran);
    }
    let deep = || {
        for depth in [5_000, 100_000] {
            let ran = std::cell::Cell::new(0);
            scope(|s| {
                s.defer_with(|end| assert_eq!(recovered(end), "bottom"));
                descend(depth, &ran);
            });
            assert_eq!(ran.get(), depth + 1);
        }
    };
    // Frames of a debug build are large.
    std::thread::Builder::new().stack_size(1 << 30).spawn(deep).unwrap().join().unwrap();
}

#[test]
fn a_panic_without_a_value_is_recovered_like_any_other() {
    let value = scope(|s| {
        s.defer_with(|end| end.recover_with(|payload| payload.is::<()>()));
        raise(());
        false
    });
    assert!(value);
}

#[test]
fn the_very_value_that_was_raised_is_recovered() {
    let value = Box::new(7_u64);
    let address = std::ptr::from_ref(&*value).addr();
    let recovered_at = scope(|s| {
        s.defer_with(|end| {
            end.recover_with(|payload| std::ptr::from_ref(payload.downcast_ref::<u64>().unwrap()).addr())
        });
        resume_unwind(value);
    });
    assert_eq!(address, recovered_at);
}

#[test]
fn what_the_language_itself_raises_is_recovered_with_its_text() {
    #[scoped]
    fn work(fault: &dyn Fn() -> usize) -> String {
        defer!(|end| end.recover_with(|panic| describe(&*panic)));
        fault().to_string()
    }
    let (zero, none) = (std::hint::black_box(0_usize), std::hint::black_box(None::<usize>));
    let list: Vec<usize> = Vec::new();
    assert_eq!(work(&|| 1 / zero), "attempt to divide by zero");
    assert!(work(&|| list[zero]).contains("index out of bounds"));
    assert!(work(&|| none.unwrap()).contains("on a `None` value"));
    assert!(work(&|| list.len() - 1 - zero).contains("overflow") || !cfg!(debug_assertions));
}

#[test]
fn an_impossible_size_is_a_panic_and_can_be_recovered() {
    #[scoped]
    fn work() -> bool {
        defer!(|end| end.recover_with(|_| true));
        Vec::<u64>::with_capacity(std::hint::black_box(usize::MAX)).is_empty()
    }
    assert!(work());
}

#[test]
fn a_panic_in_a_cleanup_on_normal_return_propagates_after_the_rest_have_run() {
    let log = Log::default();
    scope(|s| {
        s.defer_with(|end| log.add(format!("recovered {}", recovered(end))));
        s.defer(|| log.add("still runs"));
        s.defer(|| raise("late"));
        log.add("body");
    });
    assert_eq!(log.told(), "body | still runs | recovered late");
}

#[test]
fn a_panic_recovered_inside_a_cleanup_leaves_the_outer_one_alone() {
    #[scoped]
    fn cleanup(log: &Log) {
        defer!(|end| log.add(format!("inner {}", recovered(end))));
        raise("second");
    }
    #[scoped]
    fn work(log: &Log) {
        defer!(|end| log.add(format!("outer {}", recovered(end))));
        defer!(cleanup(log));
        raise("first");
    }
    let log = Log::default();
    work(&log);
    assert_eq!(log.told(), "inner second | outer first");
}

#[test]
fn a_panic_that_escapes_a_cleanup_replaces_the_one_in_flight() {
    #[scoped]
    fn work(log: &Log) {
        defer!(|end| log.add(format!("a {}", recovered(end))));
        defer!(|end| log.add(format!("b {}", recovered(end))));
        defer!(log.add("runs once"));
        defer!(raise(2));
        raise(1);
    }
    let log = Log::default();
    work(&log);
    assert_eq!(log.told(), "runs once | b 2 | a nil");
}

#[test]
fn recovered_then_raised_again_the_next_sees_only_the_new_one() {
    #[scoped]
    fn work(log: &Log) {
        defer!(|end| log.add(format!("3 {}", recovered(end))));
        defer!(|end| {
            log.add(format!("2 {}", recovered(end)));
            raise("C");
        });
        defer!(|end| {
            log.add(format!("1 {}", recovered(end)));
            raise("B");
        });
        raise("A");
    }
    let log = Log::default();
    work(&log);
    assert_eq!(log.told(), "1 A | 2 B | 3 C");
}

#[test]
fn of_three_that_cleanups_raise_the_newest_is_recovered() {
    #[scoped]
    fn work() -> String {
        defer!(|end| end.recover_with(|panic| describe(&*panic)));
        defer!(raise(1));
        defer!(raise(2));
        defer!(raise(3));
        String::new()
    }
    assert_eq!(work(), "1");
}

// The nesting shapes of four compiler issues: a panic that is recovered below the frame whose cleanup
// an older panic is running.

#[test]
fn nested_shape_one() {
    #[scoped]
    fn innermost(log: &Log) {
        defer!(|end| log.add(format!("c {}", recovered(end))));
        defer!(raise(5));
        raise(4);
    }
    #[scoped]
    fn middle(log: &Log) {
        defer!(innermost(log));
        defer!(|end| log.add(format!("b {}", recovered(end))));
        defer!(raise(3));
        raise(2);
    }
    #[scoped]
    fn inner(log: &Log) {
        defer!(log.add("a"));
        raise(1);
    }
    #[scoped]
    fn work(log: &Log) {
        defer!(|end| log.add(format!("final {}", recovered(end))));
        defer!(middle(log));
        inner(log);
    }
    let log = Log::default();
    work(&log);
    assert_eq!(log.told(), "a | b 3 | c 5 | final 1");
}

#[test]
fn nested_shape_two() {
    #[scoped]
    fn nested(log: &Log) {
        defer!(|end| log.add(format!("in {}", recovered(end))));
        raise(4);
    }
    #[scoped]
    fn inner(log: &Log) {
        for _ in 0..1 {
            defer!(log.add("loopdefer"));
        }
        defer!(nested(log));
        raise(1);
    }
    #[scoped]
    fn work(log: &Log) {
        defer!(|end| log.add(format!("final {}", recovered(end))));
        inner(log);
    }
    let log = Log::default();
    work(&log);
    assert_eq!(log.told(), "in 4 | loopdefer | final 1");
}

#[test]
fn nested_shape_three() {
    #[scoped]
    fn third(log: &Log) {
        defer!(|end| log.add(format!("x {}", recovered(end))));
        defer!(raise(3));
        raise(2);
    }
    #[scoped]
    fn first(log: &Log) {
        defer!(third(log));
        defer!(|end| log.add(format!("y {}", recovered(end))));
        defer!(raise(1));
    }
    #[scoped]
    fn fifth() {
        defer!(raise(5));
        raise(4);
    }
    #[scoped]
    fn work(log: &Log) {
        defer!(|end| log.add(format!("final {}", recovered(end))));
        first(log);
        fifth();
    }
    let log = Log::default();
    work(&log);
    assert_eq!(log.told(), "y 1 | x 3 | final 5");
}

#[test]
fn nested_shape_four() {
    #[scoped]
    fn third(log: &Log) {
        defer!(|end| log.add(format!("p {}", recovered(end))));
        defer!(raise(3));
        raise(2);
    }
    #[scoped]
    fn first(log: &Log) {
        defer!(third(log));
        defer!(|end| log.add(format!("q {}", recovered(end))));
        defer!(raise(1));
    }
    #[scoped]
    fn steps(log: &Log) {
        first(log);
        defer!(log.add("s10"));
        defer!(log.add("s9"));
        log.add("s8");
    }
    #[scoped]
    fn fails(log: &Log) {
        defer!(log.add("s13"));
        defer!(log.add("s12"));
        defer!(log.add("s11"));
        raise(4);
    }
    #[scoped]
    fn work(log: &Log) {
        defer!(|end| log.add(format!("final {}", recovered(end))));
        steps(log);
        fails(log);
    }
    let log = Log::default();
    work(&log);
    assert_eq!(log.told(), "q 1 | p 3 | s8 | s9 | s10 | s11 | s12 | s13 | final 4");
}

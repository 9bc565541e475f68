//! Section A: registration and order.

use std::cell::RefCell;
use std::rc::Rc;

use epilogue::{catch, defer, keep, scope, scoped};

use crate::{Log, raise, recovered};

#[test]
fn three_defers_run_newest_first() {
    #[scoped]
    fn work(log: &Log) {
        defer!(log.add(1));
        defer!(log.add(2));
        defer!(log.add(3));
    }
    let log = Log::default();
    work(&log);
    assert_eq!(log.told(), "3 | 2 | 1");
}

#[test]
fn what_was_computed_before_the_defer_is_a_snapshot() {
    #[scoped]
    fn work(log: &Log) {
        let mut x = 1;
        let then = x;
        defer!(log.add(then));
        x += 1;
        log.add(format!("body {x}"));
    }
    let log = Log::default();
    work(&log);
    assert_eq!(log.told(), "body 2 | 1");
}

#[test]
fn a_cleanup_that_looks_at_the_ending_sees_later_changes() {
    #[scoped]
    fn work(log: &Log) {
        let mut x = 1;
        defer!(|_| log.add(x));
        x += 1;
    }
    let log = Log::default();
    work(&log);
    assert_eq!(log.told(), "2");
}

#[test]
fn arguments_are_evaluated_in_statement_order_and_calls_run_in_reverse() {
    #[scoped]
    fn work(log: &Log) {
        let eval = |name: &'static str| {
            log.add(format!("eval {name}"));
            name
        };
        let a = eval("a");
        defer!(log.add(format!("run {a}")));
        let b = eval("b");
        defer!(log.add(format!("run {b}")));
        log.add("body");
    }
    let log = Log::default();
    work(&log);
    assert_eq!(log.told(), "eval a | eval b | body | run b | run a");
}

#[test]
fn a_call_now_may_return_the_call_for_later() {
    fn enter(log: &Log) -> impl FnOnce() + '_ {
        log.add("enter x");
        || log.add("exit x")
    }
    #[scoped]
    fn work(log: &Log) {
        let exit = enter(log);
        defer!(move || exit());
        log.add("body x");
    }
    let log = Log::default();
    work(&log);
    assert_eq!(log.told(), "enter x | body x | exit x");
}

#[test]
fn a_copy_keeps_its_contents_and_what_is_shared_shows_later_changes() {
    #[scoped]
    fn work(log: &Log) {
        let mut array = [1, 2];
        let shared = Rc::new(RefCell::new(vec![1, 2]));
        let (copy, same) = (array, shared.clone());
        defer!(log.add(format!("array {copy:?}, shared {:?}", same.borrow())));
        array[0] = 9;
        shared.borrow_mut()[0] = 9;
        log.add(format!("{array:?}"));
    }
    let log = Log::default();
    work(&log);
    assert_eq!(log.told(), "[9, 2] | array [1, 2], shared [9, 2]");
}

#[test]
fn a_function_variable_may_be_reassigned_after_the_defer() {
    fn old(log: &Log) {
        log.add("old");
    }
    fn new(log: &Log) {
        log.add("new");
    }
    let log = Log::default();
    {
        let mut function: fn(&Log) = old;
        let then = function;
        defer!(then(&log));
        function = new;
        function(&log);
    }
    assert_eq!(log.told(), "new | old");
}

#[test]
fn a_copied_receiver_is_a_snapshot_and_a_shared_one_is_not() {
    #[derive(Clone, Copy)]
    struct Receiver(u8);
    impl Receiver {
        fn value(self) -> u8 {
            self.0
        }
    }
    let log = Log::default();
    {
        let receiver = std::cell::Cell::new(Receiver(1));
        let copy = receiver.get();
        defer!(log.add(format!("val {}", copy.value())));
        defer!(log.add(format!("ptr {}", receiver.get().value())));
        receiver.set(Receiver(3));
    }
    assert_eq!(log.told(), "ptr 3 | val 1");
}

#[test]
fn a_defer_in_an_inner_block_runs_after_what_follows_the_block() {
    #[scoped]
    fn work(log: &Log) {
        {
            defer!(log.add("deferred"));
            log.add("in the block");
        }
        log.add("after the block");
    }
    let log = Log::default();
    work(&log);
    assert_eq!(log.told(), "in the block | after the block | deferred");
}

#[test]
fn a_defer_in_a_loop_registers_each_time_and_runs_when_the_function_ends() {
    #[scoped]
    fn work(log: &Log) {
        for i in 0..3 {
            log.add(format!("iter {i}"));
            defer!(move || log.add(format!("i {i}")));
        }
        log.add("after");
    }
    let log = Log::default();
    work(&log);
    assert_eq!(log.told(), "iter 0 | iter 1 | iter 2 | after | i 2 | i 1 | i 0");
}

#[test]
fn a_loop_that_is_left_early_closes_what_it_opened() {
    #[scoped]
    fn work(log: &Log) {
        for i in 0..5 {
            let file = keep!(i, |i| log.add(format!("close {i}")));
            log.add(format!("open {file}"));
            if i == 2 {
                return;
            }
        }
    }
    let log = Log::default();
    work(&log);
    assert_eq!(log.told(), "open 0 | open 1 | open 2 | close 2 | close 1 | close 0");
}

#[test]
fn each_turn_of_a_loop_has_its_own_variable() {
    #[scoped]
    fn work(log: &Log) {
        for i in 0..3 {
            defer!(move || log.add(i));
        }
    }
    let log = Log::default();
    work(&log);
    assert_eq!(log.told(), "2 | 1 | 0");
}

#[test]
fn a_closure_around_the_loop_body_cleans_up_each_turn() {
    #[scoped]
    fn work(log: &Log) {
        for i in 0..2 {
            let turn = || {
                log.add(format!("open {i}"));
                defer!(log.add(format!("close {i}")));
            };
            turn();
        }
    }
    let log = Log::default();
    work(&log);
    assert_eq!(log.told(), "open 0 | close 0 | open 1 | close 1");
}

#[test]
fn going_back_over_a_defer_registers_again() {
    #[scoped]
    fn work(log: &Log) {
        let mut turn = 0;
        defer!(log.add("first"));
        loop {
            defer!(move || log.add(turn));
            turn += 1;
            if turn < 3 {
                continue;
            }
            break;
        }
        defer!(log.add("last"));
    }
    let log = Log::default();
    work(&log);
    assert_eq!(log.told(), "last | 2 | 1 | 0 | first");
}

#[test]
fn only_defers_that_were_reached_count() {
    #[scoped]
    fn work(log: &Log, reached: bool) {
        defer!(log.add("a"));
        if reached {
            defer!(log.add("b"));
        }
        defer!(log.add("c"));
    }
    let (both, without) = (Log::default(), Log::default());
    work(&both, true);
    work(&without, false);
    assert_eq!((both.told().as_str(), without.told().as_str()), ("c | b | a", "c | a"));
}

#[test]
fn one_order_over_every_storage_class() {
    #[scoped]
    fn work(log: &Log) {
        defer!(log.add("A"));
        for i in 0..2 {
            defer!(move || log.add(format!("L{i}")));
        }
        defer!(|_| log.add("B"));
        if true {
            defer!(log.add("C"));
        }
        log.add("inner");
    }
    let log = Log::default();
    work(&log);
    assert_eq!(log.told(), "inner | C | B | L1 | L0 | A");
}

#[test]
fn a_panic_at_any_point_runs_exactly_what_was_registered() {
    #[scoped]
    fn work(log: &Log, at: u32) {
        for i in 0..4 {
            if i == at {
                raise("stop");
            }
            defer!(move || log.add(i));
        }
    }
    for (at, told) in [(0, ""), (1, "0"), (2, "1 | 0"), (3, "2 | 1 | 0")] {
        let log = Log::default();
        assert!(catch(|| work(&log, at)).is_err());
        assert_eq!(log.told(), told);
    }
}

#[test]
fn a_hundred_thousand_in_one_frame_all_run_though_every_second_panics() {
    let ran = std::cell::Cell::new(0);
    let caught = catch(|| {
        scope(|s| {
            for number in 0..100_000_u32 {
                let ran = &ran;
                s.defer(move || {
                    assert_eq!(ran.get(), 99_999 - number);
                    ran.set(ran.get() + 1);
                    if number % 2 == 0 {
                        raise(number);
                    }
                });
            }
        });
    });
    assert_eq!(ran.get(), 100_000);
    assert_eq!(caught.err().unwrap().chain().links().len(), 50_000);
}

#[test]
fn defers_of_a_cleanup_belong_to_it() {
    #[scoped]
    fn cleanup(log: &Log) {
        defer!(log.add("inner1"));
        defer!(log.add("inner2"));
        log.add("in deferred");
    }
    #[scoped]
    fn work(log: &Log) {
        defer!(log.add("outer1"));
        defer!(cleanup(log));
        log.add("body");
    }
    let log = Log::default();
    work(&log);
    assert_eq!(log.told(), "body | in deferred | inner2 | inner1 | outer1");
}

#[test]
fn what_panics_before_it_is_registered_is_not_registered() {
    #[scoped]
    fn work(log: &Log) {
        defer!(log.add("earlier"));
        let argument = None::<u8>;
        let argument = match argument {
            Some(argument) => argument,
            None => std::panic::resume_unwind(Box::new("no argument")),
        };
        defer!(log.add(argument));
    }
    let log = Log::default();
    assert!(catch(|| work(&log)).is_err());
    assert_eq!(log.told(), "earlier");
}

#[test]
fn a_cleanup_that_is_none_panics_in_its_turn_and_the_others_run() {
    #[scoped]
    fn work(log: &Log, cleanup: Option<fn()>) {
        defer!(|end| log.add(format!("recovered {}", recovered(end))));
        defer!(match cleanup {
            Some(cleanup) => cleanup(),
            None => raise("none"),
        });
        defer!(log.add("other"));
        log.add("body");
    }
    let log = Log::default();
    work(&log, None);
    assert_eq!(log.told(), "body | other | recovered none");
}

#[test]
fn the_error_of_a_cleanup_is_not_discarded() {
    #[scoped]
    fn work() -> Result<u8, Box<dyn std::error::Error>> {
        defer!(Err::<(), _>("the disk is full"));
        Ok(1)
    }
    assert!(work().unwrap_err().to_string().ends_with("failed: the disk is full"));
}

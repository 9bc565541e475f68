//! Section B: results.

use epilogue::{defer, scoped};

use crate::{Log, raise, recovered};

#[test]
fn a_cleanup_may_change_what_the_function_returns() {
    #[scoped]
    fn work(log: &Log) -> u32 {
        defer!(|end| if let Some(result) = end.result_mut() {
            *result *= 2;
        });
        log.add("evaluated first");
        21
    }
    assert_eq!(work(&Log::default()), 42);
}

#[test]
fn a_local_that_was_returned_can_be_changed_no_more() {
    #[scoped]
    fn work() -> u32 {
        let mut local = 21;
        defer!(|_| local *= 2);
        local
    }
    assert_eq!(work(), 21);
}

#[test]
fn recover_without_a_value_gives_the_default() {
    #[scoped]
    fn work() -> (u32, Option<String>) {
        defer!(|end| assert_eq!(recovered(end), "no"));
        raise("no");
        (5, Some("not reached".into()))
    }
    assert_eq!(work(), (0, None));
}

#[test]
fn recover_may_give_any_value() {
    #[scoped]
    fn work() -> u32 {
        let stored = 5;
        defer!(|end| end.recover_with(|_| stored));
        raise("no");
        7
    }
    assert_eq!(work(), 5);
}

#[test]
fn a_panic_in_the_returned_expression_leaves_no_result() {
    fn fails() -> u32 {
        std::panic::resume_unwind(Box::new("no"))
    }
    #[scoped]
    fn work(log: &Log) -> (u32, u32) {
        defer!(|end| {
            log.add(format!("{:?}", end.result()));
            end.recover();
        });
        (1, fails())
    }
    let log = Log::default();
    assert_eq!(work(&log), (0, 0));
    assert_eq!(log.told(), "None");
}

#[test]
fn a_panic_of_a_cleanup_that_an_older_one_recovers_leaves_the_result_that_was_returned() {
    #[scoped]
    fn work() -> (u32, u32) {
        defer!(|end| assert_eq!(recovered(end), "late"));
        defer!(raise("late"));
        (1, 2)
    }
    assert_eq!(work(), (1, 2));
}

#[test]
fn successive_cleanups_each_edit_the_result() {
    #[scoped]
    fn work() -> String {
        defer!(|end| {
            recovered(end);
            end.result_mut().unwrap().push_str("+rec");
        });
        defer!(|end| end.result_mut().unwrap().push_str("+d2"));
        defer!(|end| end.result_mut().unwrap().push_str("+d3"));
        String::from("base")
    }
    assert_eq!(work(), "base+d3+d2+rec");
}

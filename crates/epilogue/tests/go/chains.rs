//! Section C, continued: how a chain of panics reads.

use std::error::Error;
use std::fmt;
use std::panic::resume_unwind;

use epilogue::{catch, defer, describe, scope, scoped};

use crate::{Log, raise, recovered, text};

#[test]
fn a_chain_is_printed_oldest_first_with_tabs() {
    let caught = catch(|| {
        defer!(raise("c"));
        defer!(raise("b"));
        raise("a");
    });
    assert_eq!(text(caught.err().unwrap()), "panic: a\n\tpanic: b\n\tpanic: c");
}

#[test]
fn recovered_then_another_panic_says_so() {
    #[scoped]
    fn work() {
        defer!(|end| {
            recovered(end);
            raise("b");
        });
        raise("a");
    }
    assert_eq!(text(catch(work).err().unwrap()), "panic: a [recovered]\n\tpanic: b");
}

#[test]
fn the_same_value_raised_again_is_one_line() {
    #[scoped]
    fn again() {
        defer!(|end| end.recover_with(|payload| resume_unwind(payload)));
        raise("a");
    }
    #[scoped]
    fn twice() {
        defer!(|end| end.recover_with(|payload| resume_unwind(payload)));
        again();
    }
    assert_eq!(text(catch(again).err().unwrap()), "panic: a [recovered, repanicked]");
    assert_eq!(text(catch(twice).err().unwrap()), "panic: a [recovered, repanicked]");
}

#[test]
fn an_equal_value_that_is_not_the_same_is_two_lines() {
    #[scoped]
    fn work() {
        defer!(|end| {
            end.recover_with(|payload| {
                let text = *payload.downcast_ref::<&'static str>().unwrap();
                resume_unwind(Box::new(text))
            });
        });
        raise("a");
    }
    assert_eq!(text(catch(work).err().unwrap()), "panic: a [recovered]\n\tpanic: a");
}

#[test]
fn recovered_raised_again_and_replaced_shows_every_step() {
    #[scoped]
    fn work() {
        defer!(raise("outer"));
        defer!(|end| end.recover_with(|payload| resume_unwind(payload)));
        defer!(|end| {
            recovered(end);
            raise("middle");
        });
        raise("inner");
    }
    assert_eq!(
        text(catch(work).err().unwrap()),
        "panic: inner [recovered]\n\tpanic: middle [recovered, repanicked]\n\tpanic: outer"
    );
}

#[test]
fn a_value_that_comes_back_after_another_is_three_lines() {
    let kept = std::cell::RefCell::new(None);
    let caught = catch(|| {
        scope(|s| {
            s.defer_with(|end| {
                recovered(end);
                if let Some(payload) = kept.take() {
                    resume_unwind(payload);
                }
            });
            s.defer_with(|end| {
                kept.replace(end.recover());
                raise("b");
            });
            raise("a");
        });
    });
    assert_eq!(text(caught.err().unwrap()), "panic: a [recovered]\n\tpanic: b [recovered]\n\tpanic: a");
}

#[test]
fn a_value_that_foreign_code_raises_again_is_one_line() {
    let caught = catch(|| {
        let payload = std::panic::catch_unwind(|| raise("a")).unwrap_err();
        resume_unwind(payload)
    });
    assert_eq!(text(caught.err().unwrap()), "panic: a");
}

#[test]
fn what_was_aborted_and_recovered_is_not_printed() {
    #[scoped]
    fn recovers_inside() {
        defer!(scope(|s| {
            s.defer_with(|end| drop(end.recover()));
            raise("inside");
        }));
        raise("first");
    }
    assert_eq!(text(catch(recovers_inside).err().unwrap()), "panic: first");
    #[scoped]
    fn recovers_the_newest() {
        defer!(raise("third"));
        defer!(|end| drop(end.recover()));
        defer!(raise("second"));
        raise("first");
    }
    assert_eq!(text(catch(recovers_the_newest).err().unwrap()), "panic: third");
}

#[test]
fn values_are_printed_by_their_kind() {
    let caught = |value: Box<dyn std::any::Any + Send>| text(catch(|| resume_unwind(value)).err().unwrap());
    assert_eq!(caught(Box::new("two\nlines")), "panic: two\n\tlines");
    assert_eq!(caught(Box::new(String::from("owned"))), "panic: owned");
    assert_eq!(caught(Box::new(-7_i64)), "panic: -7");
    assert_eq!(caught(Box::new(true)), "panic: true");
    let error: Box<dyn Error + Send + Sync> = "an error".into();
    assert_eq!(caught(Box::new(error)), "panic: an error");
    struct Other;
    assert_eq!(caught(Box::new(Other)), "panic: a panic whose payload is not text");
}

#[test]
fn a_value_that_panics_while_it_is_printed_does_no_harm_and_says_so() {
    #[derive(Debug)]
    struct Sulks;
    impl fmt::Display for Sulks {
        fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
            resume_unwind(Box::new("I will not be printed"))
        }
    }
    impl Error for Sulks {}
    let log = Log::default();
    let caught = catch(|| {
        defer!(log.add("the defers have run"));
        let error: Box<dyn Error + Send + Sync> = Box::new(Sulks);
        raise(error);
    })
    .err()
    .unwrap();
    assert_eq!(log.told(), "the defers have run");
    assert_eq!(
        describe(&**caught.chain().current().unwrap()),
        "(its Display panicked: I will not be printed)"
    );
}

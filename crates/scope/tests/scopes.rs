//! Scopes: the ending, recovery, joined errors. Numbers are rows of the Go study.

use std::cell::RefCell;
use std::panic::resume_unwind;

use epilogue_scope::{CleanupErrors, How, catch, describe, scope, task, try_scope};

fn raise(text: &'static str) {
    resume_unwind(Box::new(text));
}

#[test]
fn cleanups_run_newest_first_and_see_the_result() {
    let log = RefCell::new(Vec::new());
    let result = scope(|s| {
        s.defer_with(|end| log.borrow_mut().push(format!("outer {:?}", end.result())));
        s.defer_with(|end| end.replace(2));
        s.defer_with(|end| log.borrow_mut().push(format!("inner {:?}", end.result())));
        1
    });
    assert_eq!(result, 2);
    assert_eq!(*log.borrow(), ["inner Some(1)", "outer Some(2)"]);
}

#[test]
fn recovered_then_panicking_again_shows_only_the_new_one() {
    // Row 47: `1 A | 2 B | 3 C`.
    let log = RefCell::new(Vec::new());
    let result = scope(|s| {
        let note = |number: u32| {
            let log = &log;
            move |end: &mut epilogue_scope::Ending<'_, &'static str>| {
                end.recover_with(|panic| {
                    log.borrow_mut().push(format!("{number} {}", describe(&*panic)));
                    "recovered"
                });
            }
        };
        s.defer_with(note(3));
        s.defer(|| raise("C"));
        s.defer_with(note(2));
        s.defer(|| raise("B"));
        s.defer_with(note(1));
        raise("A");
        "not reached"
    });
    assert_eq!(result, "recovered");
    assert_eq!(*log.borrow(), ["1 A", "2 B", "3 C"]);
}

#[test]
fn recovering_the_newest_removes_what_it_overtook() {
    // Row 46.
    let seen = RefCell::new(Vec::new());
    scope(|s| {
        s.defer_with(|end| seen.borrow_mut().push(end.panic().is_some()));
        s.defer_with(|end| end.recover_with(|panic| seen.borrow_mut().push(describe(&*panic) == "second")));
        s.defer(|| raise("second"));
        raise("first");
    });
    assert_eq!(*seen.borrow(), [true, false]);
}

#[test]
fn three_raised_by_cleanups_the_newest_is_recovered() {
    // Row 50.
    let result = scope(|s| {
        s.defer_with(|end| end.recover_with(|panic| describe(&*panic)));
        for text in ["3", "2", "1"] {
            s.defer(move || raise(text));
        }
        String::new()
    });
    assert_eq!(result, "3");
}

#[test]
fn a_panic_above_a_task_exit_is_recovered_and_the_task_still_exits() {
    // Rows 62 and 65.
    let log = RefCell::new(Vec::new());
    let caught = catch(|| {
        scope(|s: &epilogue_scope::Scope<'_, ()>| {
            s.defer_with(|end| log.borrow_mut().push(format!("d0 {:?}", end.how())));
            s.defer_with(|end| {
                let recovered = end.recover().is_some();
                log.borrow_mut().push(format!("d1 {recovered}"));
            });
            s.defer(|| raise("above the exit"));
            s.defer_with(|end| {
                assert_eq!(end.how(), How::TaskExited);
                log.borrow_mut().push(format!("d3 {}", end.recover().is_some()));
            });
            task::exit_task()
        })
    });
    assert!(caught.err().unwrap().chain().exits_task());
    assert_eq!(*log.borrow(), ["d3 false", "d1 true", "d0 TaskExited"]);
}

#[test]
fn nested_scopes_pass_the_whole_chain_outwards() {
    let caught = catch(|| {
        scope(|outer| {
            outer.defer(|| raise("3"));
            scope(|inner| {
                inner.defer(|| raise("2"));
                raise("1");
            });
        })
    });
    let caught = caught.err().unwrap();
    let chain: Vec<_> = caught.chain().links().iter().map(|link| link.describe()).collect();
    assert_eq!(chain, ["1", "2", "3"]);
}

#[test]
fn cleanups_run_with_the_thread_not_panicking() {
    let caught = catch(|| {
        scope(|s| {
            s.defer(|| assert!(!std::thread::panicking()));
            raise("in flight");
        })
    });
    assert_eq!(caught.err().unwrap().chain().links().len(), 1);
}

#[test]
fn an_error_of_a_cleanup_turns_ok_into_err_with_its_place() {
    let result: Result<u8, CleanupErrors> = try_scope(|s| {
        s.defer(|| Err::<(), _>("disk full"));
        s.defer(|| Err::<(), _>("pool stuck"));
        Ok(1)
    });
    let errors = result.unwrap_err();
    let told: Vec<_> = errors.errors().iter().map(|e| e.error.to_string()).collect();
    assert_eq!(told, ["pool stuck", "disk full"]);
    assert!(errors.errors()[0].place.contains("scopes.rs:"));
}

#[test]
fn the_bodys_own_error_stays_untouched_and_the_cleanups_is_counted() {
    #[derive(Debug, PartialEq)]
    struct NotFound;
    impl From<CleanupErrors> for NotFound {
        fn from(_: CleanupErrors) -> NotFound {
            panic!("must not replace the primary error")
        }
    }
    let before = epilogue_scope::report::count();
    let result: Result<(), NotFound> = try_scope(|s| {
        s.defer(|| Err::<(), _>("reported, not lost"));
        Err(NotFound)
    });
    assert_eq!(result, Err(NotFound));
    assert!(epilogue_scope::report::count() > before);
}

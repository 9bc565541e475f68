//! Guards: order, isolation, exactly once, errors kept.

use std::cell::RefCell;
use std::panic::resume_unwind;

use epilogue_scope::{catch, defer, describe, guard};

fn raise(text: &'static str) {
    resume_unwind(Box::new(text));
}

fn resume<T>(payload: Box<dyn std::any::Any + Send>) -> T {
    resume_unwind(payload)
}

fn links(caught: &epilogue_scope::Caught) -> Vec<String> {
    caught.chain().links().iter().map(|link| link.describe()).collect()
}

#[test]
fn guards_run_newest_first_after_the_body() {
    let log = RefCell::new(Vec::new());
    {
        defer!(log.borrow_mut().push("first"));
        defer!(log.borrow_mut().push("second"));
        log.borrow_mut().push("body");
    }
    assert_eq!(*log.borrow(), ["body", "second", "first"]);
}

#[test]
fn an_early_return_runs_only_what_was_registered() {
    fn work(log: &RefCell<Vec<&'static str>>, fail: bool) -> Result<(), ()> {
        defer!(log.borrow_mut().push("a"));
        if fail {
            Err(())?;
        }
        defer!(log.borrow_mut().push("b"));
        Ok(())
    }
    let log = RefCell::new(Vec::new());
    work(&log, true).unwrap_err();
    assert_eq!(*log.borrow(), ["a"]);
    log.borrow_mut().clear();
    work(&log, false).unwrap();
    assert_eq!(*log.borrow(), ["b", "a"]);
}

#[test]
fn a_panic_in_a_cleanup_on_normal_return_propagates_and_the_rest_still_run() {
    let log = RefCell::new(Vec::new());
    let caught = catch(|| {
        defer!(log.borrow_mut().push("still runs"));
        defer!(raise("from the cleanup"));
        log.borrow_mut().push("body");
    })
    .err()
    .unwrap();
    assert_eq!(*log.borrow(), ["body", "still runs"]);
    assert_eq!(links(&caught), ["from the cleanup"]);
}

#[test]
fn panics_of_cleanups_during_a_panic_form_one_chain_and_nothing_aborts() {
    let log = RefCell::new(Vec::new());
    let caught = catch(|| {
        defer!(log.borrow_mut().push("last"));
        defer!(raise("third"));
        defer!(raise("second"));
        raise("first");
    })
    .err()
    .unwrap();
    assert_eq!(*log.borrow(), ["last"]);
    assert_eq!(links(&caught), ["first", "second", "third"]);
}

#[test]
fn a_boundary_inside_a_cleanup_does_not_see_the_outer_panic() {
    let inner = RefCell::new(Vec::new());
    let caught = catch(|| {
        defer!({
            let nested = catch(|| {
                defer!(raise("inner cleanup"));
                raise("inner");
            });
            inner.borrow_mut().extend(links(&nested.err().unwrap()));
        });
        defer!(raise("outer cleanup"));
        raise("outer");
    })
    .err()
    .unwrap();
    assert_eq!(*inner.borrow(), ["inner", "inner cleanup"]);
    assert_eq!(links(&caught), ["outer", "outer cleanup"]);
}

#[test]
fn a_raised_chain_is_found_again_by_the_next_boundary_even_after_a_foreign_catch() {
    let caught = catch(|| {
        let payload = std::panic::catch_unwind(|| {
            catch(|| {
                defer!(raise("two"));
                raise("one");
            })
            .err()
            .unwrap()
            .raise()
        })
        .unwrap_err();
        assert_eq!(describe(&*payload), "two", "a foreign catch sees the newest payload, raw");
        resume_unwind(payload);
    });
    assert_eq!(links(&caught.err().unwrap()), ["one", "two"]);
}

#[test]
fn a_zero_sized_payload_keeps_its_history() {
    struct Nothing;
    let caught = catch(|| {
        catch(|| {
            defer!({
                let nothing: Box<dyn std::any::Any + Send> = Box::new(Nothing);
                resume::<()>(nothing)
            });
            raise("one");
        })
        .err()
        .unwrap()
        .raise()
    })
    .err()
    .unwrap();
    let chain = caught.chain().links();
    assert_eq!(chain[0].describe(), "one");
    assert!(chain[1].is::<Nothing>());
}

#[test]
fn ten_thousand_frames_with_overtaking_cleanups_unwind_without_abort() {
    fn descend(depth: usize) {
        if depth == 0 {
            return raise("bottom");
        }
        defer!(if depth.is_multiple_of(2) {
            raise("overtakes")
        });
        descend(depth - 1);
    }
    // Debug frames are large; the default 2 MiB of a test thread is not the subject here.
    std::thread::Builder::new()
        .stack_size(64 << 20)
        .spawn(|| {
            let caught = catch(|| descend(10_000)).err().unwrap();
            assert_eq!(caught.chain().links().len(), 5_001);
        })
        .unwrap()
        .join()
        .unwrap();
}

#[test]
fn a_value_stays_usable_and_reaches_its_cleanup_changed() {
    let seen = RefCell::new(None);
    {
        let mut value = guard(vec![1], |value| *seen.borrow_mut() = Some(value));
        value.push(2);
        assert_eq!(*value, [1, 2]);
    }
    assert_eq!(*seen.borrow(), Some(vec![1, 2]));
}

#[test]
fn a_disarmed_guard_gives_its_value_back_and_runs_nothing() {
    let value = guard(5, |_| raise("must not run"));
    assert_eq!(value.disarm(), 5);
}

#[test]
#[expect(clippy::disallowed_methods, reason = "leaking is what is tested")]
fn a_leaked_guard_runs_nothing_and_breaks_nothing() {
    std::mem::forget(guard((), |()| raise("must not run")));
}

#[test]
fn a_guard_moved_to_another_thread_runs_there() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let owed = guard(sender, |sender| {
        let _ = sender.send(std::thread::current().id());
    });
    let there = std::thread::spawn(move || {
        drop(owed);
        std::thread::current().id()
    })
    .join()
    .unwrap();
    assert_eq!(receiver.recv().unwrap(), there);
}

#[test]
fn a_future_that_is_dropped_half_way_runs_its_guards() {
    let log = RefCell::new(Vec::new());
    let mut half_way = Box::pin(async {
        defer!(log.borrow_mut().push("first"));
        let _spool = guard("second", |name| log.borrow_mut().push(name));
        std::future::pending::<()>().await;
        log.borrow_mut().push("never");
    });
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(half_way.as_mut().poll(&mut cx).is_pending());
    drop(half_way);
    assert_eq!(*log.borrow(), ["second", "first"]);
}

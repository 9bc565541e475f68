//! Section D: task exit, Go's Goexit.

use epilogue::{Caught, How, catch, defer, scope, scoped, task::exit_task};

use crate::{Log, raise, recovered, text};

fn exits(body: impl FnOnce()) -> Caught {
    let caught = catch(body).err().unwrap();
    assert!(caught.chain().exits_task(), "{}", caught.chain());
    caught
}

#[test]
fn it_runs_the_defers_of_every_frame_and_cannot_be_recovered() {
    #[scoped]
    fn inner(log: &Log) {
        defer!(log.add("inner"));
        exit_task();
    }
    #[scoped]
    fn outer(log: &Log) {
        defer!(log.add("d1"));
        defer!(|end| log.add(format!("recover {}", recovered(end))));
        inner(log);
        log.add("never");
    }
    let log = Log::default();
    exits(|| outer(&log));
    log.add("main continues");
    assert_eq!(log.told(), "inner | recover nil | d1 | main continues");
}

#[test]
fn in_a_cleanup_of_a_normal_return_the_rest_run_and_the_function_does_not_return() {
    let log = Log::default();
    exits(|| {
        scope(|s| {
            s.defer(|| log.add("d1"));
            s.defer(|| exit_task());
            s.defer(|| log.add("d3"));
            log.add("body");
        });
        log.add("never");
    });
    assert_eq!(log.told(), "body | d3 | d1");
}

#[test]
fn twice_is_fine() {
    let log = Log::default();
    exits(|| {
        scope(|s| {
            s.defer(|| log.add("d1"));
            s.defer(|| exit_task());
            exit_task()
        })
    });
    assert_eq!(log.told(), "d1");
}

#[test]
fn a_panic_above_it_is_recovered_and_the_task_still_exits() {
    let log = Log::default();
    exits(|| {
        scope(|s| {
            s.defer(|| log.add("d1"));
            s.defer_with(|end| log.add(format!("r {}", recovered(end))));
            s.defer(|| raise("x"));
            exit_task()
        })
    });
    assert_eq!(log.told(), "r x | d1");
}

#[test]
fn it_survives_repeated_panics_and_recoveries() {
    let log = Log::default();
    exits(|| {
        scope(|s| {
            s.defer_with(|end| log.add(format!("d0 {}", recovered(end))));
            s.defer(|| raise(1));
            s.defer_with(|end| log.add(format!("d1 {}", recovered(end))));
            s.defer_with(|end| log.add(format!("d2 {}", recovered(end))));
            s.defer(|| raise(3));
            s.defer_with(|end| log.add(format!("d3 {}", recovered(end))));
            exit_task()
        })
    });
    assert_eq!(log.told(), "d3 nil | d2 3 | d1 nil | d0 1");
}

#[test]
fn a_panic_above_it_that_nobody_recovers_is_what_is_seen() {
    let caught: Result<(), _> = catch(|| {
        defer!(raise("in the exit"));
        exit_task()
    });
    let caught: Caught = caught.err().unwrap();
    assert!(!caught.chain().exits_task());
    assert_eq!(caught.chain().current().unwrap().describe(), "in the exit");
}

#[test]
fn in_a_cleanup_that_a_panic_runs_it_wins() {
    let log = Log::default();
    exits(|| {
        scope(|s| {
            s.defer_with(|end| log.add(format!("{:?} {}", end.how(), recovered(end))));
            s.defer(|| exit_task());
            raise("aborted");
        })
    });
    assert_eq!(log.told(), "TaskExited nil");
}

#[test]
fn panic_then_exit_then_panic_is_one_chain_and_recovering_the_last_leaves_the_exit() {
    let caught = catch(|| {
        defer!(raise(2));
        defer!(exit_task());
        raise(1);
    });
    assert_eq!(text(caught.err().unwrap()), "panic: 1\n\tpanic: task exit\n\tpanic: 2");
    let log = Log::default();
    exits(|| {
        scope(|s| {
            s.defer_with(|end| log.add(format!("{} {:?}", recovered(end), end.how())));
            s.defer(|| raise(2));
            s.defer(|| exit_task());
            raise(1);
        });
    });
    assert_eq!(log.told(), "2 TaskExited");
}

#[test]
fn after_a_recovery_in_the_same_cleanup_it_exits_and_the_rest_run() {
    let log = Log::default();
    exits(|| {
        scope(|s| {
            s.defer(|| log.add("rest"));
            s.defer_with(|end| {
                log.add(recovered(end));
                exit_task();
            });
            raise("first");
        });
    });
    assert_eq!(log.told(), "first | rest");
}

#[test]
fn a_scope_sees_it_as_an_ending_of_its_own() {
    let seen = std::cell::Cell::new(None);
    exits(|| {
        scope(|s| {
            s.defer_with(|end| seen.set(Some(end.how())));
            exit_task()
        })
    });
    assert_eq!(seen.get(), Some(How::TaskExited));
}

#[test]
fn a_callback_in_place_of_a_loop_body_keeps_the_order() {
    // Go's range over a function: the iterator's own defers run before those of the function around it.
    #[scoped]
    fn each(log: &Log, mut body: impl FnMut(u32)) {
        defer!(log.add("iter defer"));
        (0..2).for_each(&mut body);
    }
    #[scoped]
    fn work(log: &Log) {
        defer!(log.add("fn"));
        let pile = epilogue::Pile::new();
        each(log, |i| pile.defer(move || log.add(format!("body {i}"))));
        log.add("after loop");
    }
    let log = Log::default();
    work(&log);
    assert_eq!(log.told(), "iter defer | after loop | body 1 | body 0 | fn");
}

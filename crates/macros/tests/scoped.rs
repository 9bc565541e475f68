//! `#[scoped]` on a `fn`: order over all storage classes, the ending, errors, borrows.

use std::cell::RefCell;
use std::collections::HashMap;
use std::panic::resume_unwind;

use epilogue::{CleanupErrors, How, catch, defer, defer_err, defer_ok, describe, keep, scoped};

type Log = RefCell<Vec<String>>;

fn note(log: &Log, what: impl Into<String>) {
    log.borrow_mut().push(what.into());
}

fn nothing() {}

fn raise(text: &'static str) {
    resume_unwind(Box::new(text));
}

#[test]
fn one_order_over_guards_loops_and_nested_blocks() {
    // Row 15: `inner | C | B | L1 | L0 | A`.
    #[scoped]
    fn work(log: &Log) {
        defer!(note(log, "A"));
        for turn in 0..2 {
            defer!(move || note(log, format!("L{turn}")));
        }
        defer!(note(log, "B"));
        {
            defer!(note(log, "C"));
            note(log, "inner");
        }
    }
    let log = Log::default();
    work(&log);
    assert_eq!(*log.borrow(), ["inner", "C", "B", "L1", "L0", "A"]);
}

#[test]
fn an_ending_aware_cleanup_keeps_its_place_in_the_order() {
    #[scoped]
    fn work(log: &Log) -> i32 {
        defer!(note(log, "first"));
        defer!(|end| note(log, format!("aware {:?}", end.result())));
        for turn in 0..2 {
            defer!(move || note(log, format!("loop {turn}")));
        }
        defer!(note(log, "last"));
        7
    }
    let log = Log::default();
    assert_eq!(work(&log), 7);
    assert_eq!(*log.borrow(), ["last", "loop 1", "loop 0", "aware Some(7)", "first"]);
}

#[test]
fn an_ending_aware_cleanup_borrows_nothing_until_it_runs() {
    #[scoped]
    fn work() -> u32 {
        let mut count = 0;
        defer!(|end| end.replace(count));
        count += 1;
        count += 1;
        100
    }
    assert_eq!(work(), 2);
}

#[test]
fn a_panic_is_recovered_into_a_value() {
    #[scoped]
    fn divide(by: u32) -> Result<u32, String> {
        defer!(|end| end.recover_with(|panic| Err(describe(&*panic))));
        if by > 100 {
            return Ok(0);
        }
        Ok(100 / by)
    }
    assert_eq!(divide(5), Ok(20));
    assert_eq!(divide(200), Ok(0));
    assert_eq!(divide(0), Err("attempt to divide by zero".into()));
}

#[test]
fn defer_err_and_defer_ok_tell_error_and_panic_from_ok() {
    #[scoped]
    fn work(log: &Log, how: u8) -> Result<(), String> {
        defer_err!(note(log, "undone"));
        defer_ok!(note(log, "done"));
        match how {
            0 => Ok(()),
            1 => Err("no".into()),
            _ => {
                raise("boom");
                Ok(())
            }
        }
    }
    let log = Log::default();
    work(&log, 0).unwrap();
    work(&log, 1).unwrap_err();
    assert!(catch(|| work(&log, 2)).is_err());
    assert_eq!(*log.borrow(), ["done", "undone", "undone"]);
}

#[test]
fn ending_aware_cleanups_of_a_loop_run_in_their_place() {
    #[scoped]
    fn work(log: &Log, fail: bool) -> Result<i32, String> {
        defer!(note(log, "outer"));
        for name in ["a", "b"] {
            let own = format!("{name}!");
            defer_err!(move || note(log, format!("undo {own}")));
            defer!(move || note(log, format!("close {name}")));
        }
        defer!(note(log, "last"));
        if fail {
            Err("no")?
        }
        Ok(1)
    }
    let log = Log::default();
    work(&log, true).unwrap_err();
    assert_eq!(*log.borrow(), ["last", "close b", "undo b!", "close a", "undo a!", "outer"]);
    log.borrow_mut().clear();
    work(&log, false).unwrap();
    assert_eq!(*log.borrow(), ["last", "close b", "close a", "outer"]);
}

#[test]
fn what_is_kept_in_a_loop_stays_usable_and_is_closed_in_reverse() {
    #[scoped]
    fn work(log: &Log) -> usize {
        let mut total = 0;
        for turn in 0..3 {
            let name = keep!(format!("file {turn}"), |name| note(log, format!("close {name}")));
            name.push('!');
            total += name.len();
        }
        note(log, "after");
        total
    }
    let log = Log::default();
    assert_eq!(work(&log), 21);
    assert_eq!(*log.borrow(), ["after", "close file 2!", "close file 1!", "close file 0!"]);
}

#[test]
fn errors_of_every_cleanup_are_joined_to_a_result_that_can_hold_them() {
    #[scoped]
    fn work(own: bool) -> Result<u8, Box<dyn std::error::Error>> {
        defer!(Err::<(), _>("first"));
        defer!(|_| Err::<(), _>("aware"));
        for _ in 0..1 {
            defer!(Err::<(), _>("in the loop"));
            let _ = keep!(1, |_| Err::<(), _>("kept"));
        }
        if own {
            Err("own")?
        }
        Ok(1)
    }
    let error = work(false).unwrap_err();
    let joined = error.downcast_ref::<CleanupErrors>().unwrap();
    let told: Vec<_> = joined.errors().iter().map(|error| error.error.to_string()).collect();
    assert_eq!(told, ["kept", "in the loop", "aware", "first"]);
    assert!(joined.errors()[0].place.contains("scoped.rs:"), "{}", joined.errors()[0].place);

    let before = epilogue::report::count();
    assert_eq!(work(true).unwrap_err().to_string(), "own");
    assert_eq!(epilogue::report::count(), before + 4);
}

#[test]
fn errors_go_to_the_sink_where_the_type_cannot_hold_them() {
    #[scoped]
    fn work() -> std::io::Result<u8> {
        defer!(Err::<(), _>("reported"));
        defer_ok!(Err::<(), _>("reported too"));
        Ok(1)
    }
    let before = epilogue::report::count();
    assert_eq!(work().unwrap(), 1);
    assert_eq!(epilogue::report::count(), before + 2);
}

#[test]
fn the_place_of_an_error_is_the_users_line() {
    #[scoped]
    fn work() -> Result<(), CleanupErrors> {
        defer!(Err::<(), _>("here")); // LINE
        Ok(())
    }
    let line = include_str!("scoped.rs").lines().position(|line| line.ends_with("// LINE")).unwrap() + 1;
    assert!(work().unwrap_err().errors()[0].place.ends_with(&format!("scoped.rs:{line}")));
}

struct Cache {
    map: HashMap<String, String>,
    log: Vec<&'static str>,
}

impl Cache {
    #[scoped]
    fn longest<'a>(&'a self, other: &'a str) -> &'a str {
        let longest = self.map.values().max_by_key(|value| value.len());
        defer!(|end| if end.how() == How::Panicked {
            end.recover_with(|_| "recovered");
        });
        match longest {
            Some(longest) if longest.len() > other.len() => longest,
            _ => other,
        }
    }

    #[scoped]
    fn entry(&mut self, key: &str) -> &mut String {
        defer!(nothing());
        self.log.push("entry");
        self.map.entry(key.to_owned()).or_default()
    }

    #[scoped]
    fn fallible(&mut self, key: &str) -> Result<&mut String, Box<dyn std::error::Error>> {
        defer!(Ok::<(), std::io::Error>(()));
        defer_err!(eprintln!("no {key}"));
        Ok(self.map.get_mut(key).ok_or("none")?)
    }

    #[scoped]
    fn into_values(self) -> impl Iterator<Item = String> {
        defer!(|_| ());
        self.map.into_values()
    }
}

#[test]
fn methods_lifetimes_and_impl_trait() {
    let mut cache = Cache { map: HashMap::new(), log: Vec::new() };
    cache.entry("k").push_str("a long value");
    assert_eq!(cache.longest("short"), "a long value");
    assert!(cache.fallible("x").is_err());
    cache.fallible("k").unwrap().push('!');
    assert_eq!(cache.into_values().collect::<Vec<_>>(), ["a long value!"]);
}

#[test]
fn generics_and_boxed_closures() {
    #[scoped]
    fn sum<T>(all: &[T], log: &Log) -> Box<dyn Fn() -> T + 'static>
    where
        T: Copy + std::iter::Sum<T> + 'static,
    {
        defer!(|end| note(log, format!("{:?}", end.how())));
        let total: T = all.iter().copied().sum();
        Box::new(move || total)
    }
    let log = Log::default();
    assert_eq!(sum(&[1, 2, 3], &log)(), 6);
    assert_eq!(*log.borrow(), ["Returned"]);
}

#[test]
fn early_return_runs_only_what_was_registered() {
    #[scoped]
    fn work(log: &Log, stop: u32) -> u32 {
        for at in 0..5 {
            if at == stop {
                return at;
            }
            defer!(move || note(log, format!("close {at}")));
        }
        defer!(note(log, "whole"));
        9
    }
    let log = Log::default();
    assert_eq!(work(&log, 2), 2);
    assert_eq!(*log.borrow(), ["close 1", "close 0"]);
    log.borrow_mut().clear();
    assert_eq!(work(&log, 7), 9);
    assert_eq!(*log.borrow(), ["whole", "close 4", "close 3", "close 2", "close 1", "close 0"]);
}

#[test]
fn a_cleanup_may_register_a_further_one() {
    #[scoped]
    fn work(log: &Log) {
        defer!(note(log, "outer"));
        defer!(|end| {
            note(log, "first");
            end.defer(|| note(log, "registered meanwhile"));
        });
    }
    let log = Log::default();
    work(&log);
    assert_eq!(*log.borrow(), ["first", "registered meanwhile", "outer"]);
}

#[test]
fn a_scoped_function_is_on_the_list_of_live_scopes() {
    #[scoped]
    fn listed() -> Vec<epilogue::record::LiveScope> {
        defer!(nothing());
        defer!(nothing());
        std::thread::spawn(epilogue::record::live_scopes).join().unwrap()
    }
    epilogue::record::list_live_scopes(true);
    let seen = listed();
    epilogue::record::list_live_scopes(false);
    let seen: Vec<_> = seen.iter().filter(|scope| scope.function.ends_with("::listed")).collect();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].pending.len(), 2);
    assert!(seen[0].task.contains("a_scoped_function_is_on_the_list"), "{}", seen[0].task);
    assert!(epilogue::record::live_scopes().iter().all(|scope| !scope.function.ends_with("::listed")));
}

type Aliased<T> = Result<T, Box<dyn std::error::Error>>;

#[test]
fn a_result_by_another_name_holds_errors_too() {
    #[scoped]
    fn work() -> Aliased<u8> {
        defer!(Err::<(), _>("joined"));
        Ok(1)
    }
    assert!(work().unwrap_err().to_string().ends_with("joined"));
}

#[test]
fn the_error_of_a_newer_cleanup_is_a_failure_to_the_older_ones() {
    #[scoped]
    fn work(log: &Log) -> Result<(), Box<dyn std::error::Error>> {
        defer!(|end| note(log, format!("{:?}", end.how())));
        defer_ok!(note(log, "must not run"));
        defer_err!(note(log, "rolled back"));
        defer!(Err::<(), _>("commit"));
        defer!(|end| note(log, format!("{:?}", end.how())));
        Ok(())
    }
    let log = Log::default();
    assert!(work(&log).unwrap_err().to_string().ends_with("commit"));
    assert_eq!(*log.borrow(), ["Returned", "rolled back", "Failed"]);

    // A type that cannot hold it does not fail by it.
    #[scoped]
    fn cannot(log: &Log) -> std::io::Result<()> {
        defer_ok!(note(log, "kept"));
        defer!(Err::<(), _>("reported"));
        Ok(())
    }
    log.borrow_mut().clear();
    cannot(&log).unwrap();
    assert_eq!(*log.borrow(), ["kept"]);
}

#[test]
fn a_cleanup_of_several_steps_may_use_the_question_mark() {
    fn step(fail: bool) -> std::io::Result<()> {
        if fail { Err(std::io::Error::other("no")) } else { Ok(()) }
    }
    #[scoped]
    fn work(log: &Log) -> Result<(), CleanupErrors> {
        defer!({
            step(false)?;
            note(log, "first step");
            step(true)?;
            note(log, "must not run");
            step(false)
        });
        defer!(|| -> std::io::Result<()> {
            step(false)?;
            Ok(())
        });
        Ok(())
    }
    let log = Log::default();
    assert!(work(&log).unwrap_err().to_string().ends_with("no"));
    assert_eq!(*log.borrow(), ["first step"]);
    {
        defer!({
            step(false)?;
            step(false)
        });
        defer!(move || -> std::io::Result<()> { step(false) });
    }
}

#[test]
fn a_closure_in_a_macro_is_a_function_of_its_own() {
    #[scoped]
    fn work(log: &Log) {
        assert!([1, 2].iter().all(|turn| {
            defer!(note(log, format!("{turn}")));
            true
        }));
        note(log, "after");
    }
    let log = Log::default();
    work(&log);
    assert_eq!(*log.borrow(), ["1", "2", "after"]);
}

#[test]
fn a_function_that_never_returns_may_have_plain_defers() {
    #[scoped]
    fn work(log: &Log) -> ! {
        defer!(note(log, "ran"));
        resume_unwind(Box::new("leaves"))
    }
    let log = Log::default();
    assert!(catch(|| -> () { work(&log) }).is_err());
    assert_eq!(*log.borrow(), ["ran"]);
}

#[test]
fn a_defer_may_be_the_whole_of_a_match_arm() {
    #[scoped]
    fn work(log: &Log, which: u8) -> u8 {
        match which {
            0 => defer!(note(log, "zero")),
            _ => {
                defer_err_like(log);
                defer!(move || note(log, format!("{which}")));
            }
        }
        which
    }
    fn defer_err_like(log: &Log) {
        note(log, "body");
    }
    let log = Log::default();
    work(&log, 0);
    work(&log, 7);
    assert_eq!(*log.borrow(), ["zero", "body", "7"]);
}

#[test]
fn attributes_of_a_defer_are_kept() {
    #[scoped]
    fn work(log: &Log) {
        #[cfg(any())]
        defer!(note(log, "cut out"));
        #[cfg(any())]
        defer!(|_| note(log, "cut out"));
        #[cfg(not(any()))]
        defer!(|_| note(log, "aware"));
        for _ in 0..1 {
            #[cfg(any())]
            defer!(note(log, "cut out"));
            #[cfg(not(any()))]
            defer!(note(log, "nested"));
        }
        #[allow(unused_must_use)]
        defer!(note(log, "plain"));
    }
    let log = Log::default();
    work(&log);
    assert_eq!(*log.borrow(), ["plain", "nested", "aware"]);
}

#[test]
fn items_are_known_in_the_whole_function() {
    fn helper() -> &'static str {
        "outer"
    }
    #[scoped]
    fn work(log: &Log) {
        note(log, helper());
        defer!(|_| note(log, helper()));
        fn helper() -> &'static str {
            "inner"
        }
    }
    let log = Log::default();
    work(&log);
    assert_eq!(*log.borrow(), ["inner", "inner"]);
    assert_eq!(helper(), "outer");
}

#[test]
fn names_of_the_users_are_not_touched() {
    #[scoped]
    fn work(__depth: u32, __result: u32, keep: u32) -> Result<u32, CleanupErrors> {
        defer!(|_| ());
        defer!(nothing());
        assert!(keep != 3);
        Ok(__depth + __result + keep)
    }
    assert_eq!(work(1, 2, 4).unwrap(), 7);
}

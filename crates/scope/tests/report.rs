//! The sink: nothing a cleanup says is lost. One process, one sink, so one test.

use std::sync::Mutex;

use epilogue_scope::{defer, guard, report};

static SEEN: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn overtake() {
    std::panic::resume_unwind(Box::new("overtook"))
}

#[test]
fn what_no_result_can_hold_reaches_the_sink() {
    let set = report::set_sink(Box::new(|failure| {
        SEEN.lock().unwrap().push(format!("{} {}", failure.panicked, failure.message));
    }));
    assert!(set.is_ok());
    assert!(report::set_sink(Box::new(|_| ())).is_err(), "the first sink stays");

    drop(guard((), |()| Err::<(), _>("error of a guard")));
    {
        defer!(Err::<(), _>(std::io::Error::other("error of a defer")));
    }
    // Only guards below a foreign catch: the overtaking panic has no boundary to go to.
    std::thread::spawn(|| {
        let original = std::panic::catch_unwind(|| {
            defer!(overtake());
            std::panic::resume_unwind(Box::new("original"));
        })
        .unwrap_err();
        assert_eq!(epilogue_scope::describe(&*original), "original");
    })
    .join()
    .unwrap();

    assert_eq!(*SEEN.lock().unwrap(), ["false error of a guard", "false error of a defer", "true overtook"]);
    assert_eq!(report::count(), 3);
}

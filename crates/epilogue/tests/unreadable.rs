//! An error that will not be read. A process of its own: what is reported is counted for all of it.

use std::panic::resume_unwind;

use epilogue::{catch, defer, report};

#[test]
fn an_error_whose_text_panics_is_reported_all_the_same() {
    #[derive(Debug)]
    struct Sulks;
    impl std::fmt::Display for Sulks {
        fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            resume_unwind(Box::new("I will not be read"))
        }
    }
    impl std::error::Error for Sulks {}
    let caught = catch(|| {
        defer!(Err::<(), _>(Sulks));
    });
    assert!(caught.is_ok());
    assert_eq!(report::count(), 1);
}

//! What does not compile, and how the user is told. The expected text is that of the compiler that CI
//! has; after an update of it, `TRYBUILD=overwrite cargo test -p epilogue-macros --test refused`, and read
//! the difference.

#[test]
fn what_is_refused_is_refused_in_words() {
    trybuild::TestCases::new().compile_fail("tests/refused/*.rs");
}

/// Explained in `docs/scoped.md`.
#[test]
fn what_the_compiler_says_points_at_the_users_line() {
    trybuild::TestCases::new().compile_fail("tests/borrowed/*.rs");
}

//! The page that says which test is for which row.

use std::collections::BTreeSet;
use std::path::Path;

const PAGE: &str = include_str!("../../../../docs/go-parity.md");

/// The cells of each row of the page's tables whose first cell is a number, or a span of numbers.
fn rows() -> Vec<(Vec<u32>, Vec<&'static str>)> {
    let cells = |line: &'static str| -> Vec<&'static str> {
        // A bar inside of a cell is escaped, so no blank stands before it.
        line.trim_matches('|').split(" | ").map(str::trim).collect()
    };
    let numbers = |cell: &str| -> Option<Vec<u32>> {
        let mut ends = cell.split('–').map(str::parse);
        let first = ends.next()?.ok()?;
        let last = ends.next().map_or(Some(first), Result::ok)?;
        Some((first..=last).collect())
    };
    let lines = PAGE.lines().filter(|line| line.starts_with('|'));
    lines.filter_map(|line| Some((numbers(cells(line)[0])?, cells(line)))).collect()
}

#[test]
fn every_row_of_sections_a_to_e_is_on_the_page_with_a_test_or_a_reason() {
    let listed: Vec<u32> = rows().into_iter().flat_map(|(numbers, _)| numbers).collect();
    assert_eq!(listed, (1..=80).collect::<Vec<_>>());
    for (numbers, cells) in rows() {
        assert_eq!(cells.len(), 5, "row {numbers:?} has a cell too many or too few: {cells:?}");
        let (epilogue, test) = (cells[3], cells[4]);
        assert!(!epilogue.is_empty(), "row {numbers:?} does not say what Epilogue does");
        assert!(test == "–" || test.contains('`'), "row {numbers:?}: {test}");
        assert!(test != "–" || epilogue.len() > 20, "row {numbers:?} has neither a test nor a reason");
    }
}

#[test]
fn every_test_that_the_page_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut sources = String::new();
    for directory in [
        "crates/epilogue/tests/go",
        "crates/epilogue/tests/model",
        "crates/process/tests",
        "crates/scope/tests",
        "crates/task/tests",
        "crates/macros/tests",
        "crates/cli/tests/e2e",
    ] {
        for file in std::fs::read_dir(root.join(directory)).unwrap().flatten() {
            sources.push_str(&std::fs::read_to_string(file.path()).unwrap_or_default());
        }
    }
    let named: BTreeSet<_> = rows()
        .into_iter()
        .flat_map(|(_, cells)| cells[4].split('`').skip(1).step_by(2).collect::<Vec<_>>())
        .filter(|name| !name.contains('/') && !name.contains('.'))
        .collect();
    assert!(named.len() > 50, "{}", named.len());
    for name in named {
        assert!(sources.contains(&format!("fn {name}(")), "no test is called {name}");
    }
}

//! What things cost: each bench is a program of its own; here its figures become a table.

mod peers;
mod scope;

pub(crate) use peers::peers;
pub(crate) use scope::scope;

use std::process::Command;

const PAGE: &str = "BENCHMARKS.md";

fn target() -> String {
    std::env::var("CARGO_TARGET_DIR").unwrap_or_else(|_| "target".into())
}

fn figure(value: f64) -> String {
    if value < 100.0 { format!("{value:.1}") } else { format!("{value:.0}") }
}

/// Puts the table between the marks of this name on the page.
fn update(name: &str, table: &str) -> Result<(), String> {
    let (first, last) = (format!("<!-- {name}: begin -->\n"), format!("<!-- {name}: end -->"));
    let text = std::fs::read_to_string(PAGE).map_err(|error| format!("{PAGE}: {error}"))?;
    let (Some(begin), Some(end)) = (text.find(&first), text.find(&last)) else {
        return Err(format!("{PAGE}: no place for the table between `{}` and `{last}`", first.trim()));
    };
    let updated = format!("{}{table}{}", &text[..begin + first.len()], &text[end..]);
    std::fs::write(PAGE, updated).map_err(|error| format!("{PAGE}: {error}"))
}

fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if !output.status.success() {
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(format!("{command:?} failed ({}):\n{told}", output.status));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

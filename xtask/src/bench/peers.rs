//! `cargo xtask bench journal`, `cargo xtask bench process`: medians beside those of peers.

use std::fmt::Write;
use std::process::Command;

use super::{figure, run, target, update};

/// Runs `bench-NAME`, which takes so many seconds, and shows its table.
pub(crate) fn peers(name: &str, seconds: u32, write: bool) -> Result<(), String> {
    let package = format!("bench-{name}");
    println!("xtask: building");
    run(Command::new(crate::steps::cargo_path()).args(["build", "--release", "-q", "-p", &package]))?;
    println!("xtask: measuring: some {seconds} s; nothing else should run meanwhile");
    let told = run(&mut Command::new(format!("{}/release/{package}", target())))?;
    let table = table(&told);
    println!("{table}");
    if write {
        update(name, &table)?;
        println!("xtask: BENCHMARKS.md updated");
    }
    Ok(())
}

fn table(told: &str) -> String {
    let mut table = String::from("| what | who | median | | × the first |\n|---|---|---:|---|---:|\n");
    let (mut group_of_last, mut first) = ("", 0.0);
    for line in told.lines() {
        let cells: Vec<&str> = line.split('\t').collect();
        let [name, value, unit] = cells.as_slice() else { continue };
        let Ok(value) = value.parse::<f64>() else { continue };
        let (group, who) = name.split_once('/').unwrap_or((name, ""));
        let shown = if group == group_of_last { "" } else { group };
        if group != group_of_last {
            (group_of_last, first) = (group, value);
        }
        // A string takes everything.
        let _ = writeln!(table, "| {shown} | {who} | {} | {unit} | {:.2} |", figure(value), value / first);
    }
    table
}

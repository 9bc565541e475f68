//! `cargo xtask bench process`: what the stop of a process costs, beside its peers, in one run.
//!
//! Cases of a group take turns in short rounds, so that a slow spell of the machine falls on all of them; the
//! figures are medians over the rounds, and what counts is their ratio. Prints `GROUP/WHO`, value and unit, with
//! tabs between them.

mod components;
mod requests;
mod signals;
mod tasks;

use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    let parts: [(&str, fn()); 4] = [
        ("tasks", tasks::measure),
        ("components", components::measure),
        ("requests", requests::measure),
        // The last: whatever a program does after its run it does within the budget.
        ("signals", signals::measure),
    ];
    let only = std::env::args().nth(1);
    if only.as_ref().is_some_and(|only| parts.iter().all(|(name, _)| name != only)) {
        eprintln!("usage: bench-process [tasks|components|signals|requests]");
        return ExitCode::from(2);
    }
    for (name, part) in parts {
        if only.as_deref().is_none_or(|only| only == name) {
            part();
        }
    }
    ExitCode::SUCCESS
}

/// One way to do it, and how long it took.
type Case<'a> = (&'a str, &'a dyn Fn() -> Duration);

/// Runs the cases in turns, and tells the median of each in microseconds.
fn compare(group: &str, rounds: usize, cases: &[Case<'_>]) {
    let mut samples = vec![Vec::new(); cases.len()];
    for round in 0..=rounds {
        for (at, (_, case)) in cases.iter().enumerate() {
            let took = case();
            // The first one warms up.
            if round > 0 {
                samples[at].push(took.as_secs_f64() * 1e6);
            }
        }
    }
    for ((who, _), samples) in cases.iter().zip(samples) {
        tell(group, who, median(samples), "us");
    }
}

/// A figure, as it is read by whoever puts the table together.
fn tell(group: &str, who: &str, value: f64, unit: &str) {
    println!("{group}/{who}\t{value:.3}\t{unit}");
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

/// A runtime as a program of two cores would have it.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

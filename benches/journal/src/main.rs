//! `cargo xtask bench journal`: what a durable cleanup costs, beside its peers, in one run.
//!
//! Cases of a group take turns in short rounds, so that a slow spell of the machine falls on all of them;
//! the figures are medians over the rounds, and what counts is their ratio. Prints `GROUP/WHO`, value and
//! unit, with tabs between them.

mod commit;
mod death;
mod guardian;
mod recovery;
mod register;

use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["--watch", how, pid, file] => death::watch(how, pid, file),
        ["--victim", how, file] => death::victim(how, file),
        [] => measure(""),
        [part] if !part.starts_with('-') => measure(part),
        _ => {
            eprintln!("usage: bench-journal [register|commit|death|guardian|recovery]");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

type Part = fn(&std::path::Path);

/// One part, or all of them.
fn measure(only: &str) {
    let dir = Scratch::new();
    let parts: [(&str, Part); 5] = [
        ("register", register::measure),
        ("commit", commit::measure),
        ("death", death::measure),
        ("guardian", guardian::measure),
        ("recovery", recovery::measure),
    ];
    for (name, part) in parts {
        if only.is_empty() || only == name {
            // On a thread of its own: one of them changes when it has its turn.
            std::thread::scope(|s| s.spawn(|| part(&dir.0)).join().expect("no panic"));
        }
    }
}

/// A directory on the disk that is to be measured, not in memory.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Scratch {
        let base =
            std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
        let dir = std::path::absolute(base).expect("a current directory");
        let dir = dir.join(format!("bench-journal-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory to measure in");
        Scratch(dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
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

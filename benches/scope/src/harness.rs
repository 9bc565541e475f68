//! Times cases in turns.

use std::time::{Duration, Instant};

/// Something to time: runs itself so many times.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) run: fn(u64),
    /// How many operations one time is.
    pub(crate) operations: u64,
}

pub(crate) struct Measured {
    pub(crate) name: &'static str,
    pub(crate) median_ns: f64,
    pub(crate) best_ns: f64,
}

const ROUNDS: usize = 61;
const ROUND: Duration = Duration::from_millis(2);

pub(crate) fn measure(cases: &[Case]) -> Vec<Measured> {
    let times: Vec<u64> = cases.iter().map(times_in_a_round).collect();
    let mut samples = vec![Vec::with_capacity(ROUNDS); cases.len()];
    for _ in 0..ROUNDS {
        for ((case, times), samples) in cases.iter().zip(&times).zip(&mut samples) {
            let operations = times * case.operations;
            samples.push(time(case, *times).as_nanos() as f64 / operations as f64);
        }
    }
    let measured = cases.iter().zip(samples).map(|(case, mut samples)| {
        samples.sort_by(f64::total_cmp);
        Measured { name: case.name, median_ns: samples[ROUNDS / 2], best_ns: samples[0] }
    });
    measured.collect()
}

fn times_in_a_round(case: &Case) -> u64 {
    let mut times = 1;
    loop {
        let took = time(case, times);
        if took >= ROUND / 4 {
            return (times as f64 * ROUND.as_secs_f64() / took.as_secs_f64()).ceil() as u64;
        }
        times *= 4;
    }
}

fn time(case: &Case, times: u64) -> Duration {
    let began = Instant::now();
    (case.run)(times);
    began.elapsed()
}

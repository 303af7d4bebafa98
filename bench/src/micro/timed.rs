//! The same small piece of work, again and again, for some time.

use std::time::{Duration, Instant};

use crate::measure::median;

/// Into how many turns the time is cut; the median of their rates counts, so that one disturbance does not.
const TURNS: u32 = 9;

/// How many units per second, where `work` does one piece and says how many units it was: the median of the turns.
pub(super) fn rate(length: Duration, mut work: impl FnMut() -> u64) -> f64 {
    let rates: Vec<f64> = (0..TURNS)
        .map(|_| {
            let (start, mut units) = (Instant::now(), 0);
            while start.elapsed() < length / TURNS {
                units += work();
            }
            units as f64 / start.elapsed().as_secs_f64()
        })
        .collect();
    median(&rates)
}

/// A line of the table: units per second, and nanoseconds for each.
pub(super) fn line(what: &str, unit: &str, rate: f64) -> String {
    format!("{what:<58} {rate:>13.0} {unit}/s {:>10.0} ns each", 1e9 / rate)
}

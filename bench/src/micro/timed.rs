//! The same small piece of work, again and again, for some time.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use madkv_testkit::measure::median;

/// Into how many turns the time is cut; the median of their rates counts, so that one disturbance does not.
const TURNS: u32 = 9;

/// How long to work between two looks at the clock, so that looking costs nothing beside the work.
const LOOK_EVERY: Duration = Duration::from_micros(200);

/// How many units per second of this thread's processor time, where `work` does one piece and says how many units it
/// was: the median of the turns. What other programs take of the processor meanwhile is not counted.
pub(super) fn rate(length: Duration, mut work: impl FnMut() -> u64) -> f64 {
    let mut pieces = 1;
    let rates: Vec<f64> = (0..TURNS)
        .map(|_| {
            let (start, cpu, mut units) = (Instant::now(), processor_time(), 0);
            while start.elapsed() < length / TURNS {
                let begun = Instant::now();
                for _ in 0..pieces {
                    units += work();
                }
                if begun.elapsed() < LOOK_EVERY {
                    pieces *= 2;
                }
            }
            units as f64 / (processor_time() - cpu).as_secs_f64()
        })
        .collect();
    median(&rates)
}

/// What this thread has used so far.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    // Neither is ever negative.
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

/// A line of the table: units per second, and nanoseconds for each.
pub(super) fn line(what: &str, unit: &str, rate: f64) -> String {
    format!("{what:<58} {rate:>13.0} {unit}/s {:>10.0} ns each", 1e9 / rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_does_not_count_time_that_others_have() {
        // A piece works for 2 ms of its own time, and then lets others work for as long.
        let piece = || {
            let start = processor_time();
            while processor_time() - start < Duration::from_millis(2) {}
            std::thread::sleep(Duration::from_millis(2));
            1
        };
        let found = rate(Duration::from_millis(180), piece);
        // By the clock on the wall it would be 250 at most.
        assert!((275.0..=500.0).contains(&found), "{found}");
    }
}

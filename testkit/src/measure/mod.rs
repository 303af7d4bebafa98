//! What every benchmark measures: latencies, and what processes cost.

mod latencies;
mod usage;

use std::error::Error;
use std::process::Command;
use std::time::Duration;

pub use latencies::{Figures, Latencies};
pub use usage::{Usage, total};

/// Why something could not be measured.
pub type Trouble = Box<dyn Error + Send + Sync>;

/// The smallest and the greatest that [`positive`] takes: what a clock can be moved by, and what divides by it.
const POSITIVE: (f64, f64) = (1e-6, 1e9);

/// A number of a command line that seconds or operations per second are made of.
///
/// # Errors
/// If it is none, or none that anything can last or be as fast as.
pub fn positive(text: &str) -> Result<f64, String> {
    let (least, most) = POSITIVE;
    let number = text.parse().ok().filter(|number| (least..=most).contains(number));
    number.ok_or(format!("a number from {least} to {most}"))
}

/// The commit that is checked out where we run, `+` after it if files differ from it; `unknown` outside of a
/// repository.
pub fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else { return "unknown".to_owned() };
    let is_clean = git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|text| text.is_empty());
    if is_clean { commit } else { commit + "+" }
}

/// The middle one of some numbers, the mean of the two middle ones if there is none; NaN of none.
pub fn median(numbers: &[f64]) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (lower, upper) = (sorted.len().saturating_sub(1) / 2, sorted.len() / 2);
    match (sorted.get(lower), sorted.get(upper)) {
        (Some(lower), Some(upper)) => lower.midpoint(*upper),
        _ => f64::NAN,
    }
}

/// The smallest and the greatest of some numbers; NaN of none.
pub fn spread(numbers: &[f64]) -> (f64, f64) {
    (numbers.iter().copied().fold(f64::NAN, f64::min), numbers.iter().copied().fold(f64::NAN, f64::max))
}

/// The value below which the given share of `sorted` lies.
pub fn percentile(sorted: &[Duration], share: f64) -> Duration {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * share).round() as usize).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_of_even_and_odd_counts() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn positive_numbers_that_nothing_can_last_are_refused() {
        assert_eq!(positive("0.5"), Ok(0.5));
        for wrong in ["", "x", "0", "-1", "nan", "inf", "1e-300", "1e300"] {
            assert!(positive(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn spread_is_smallest_and_greatest() {
        assert_eq!(spread(&[3.0, 1.0, 2.0]), (1.0, 3.0));
    }

    #[test]
    fn percentile_of_few_values_is_one_of_them() {
        let sorted: Vec<Duration> = (1..=5).map(Duration::from_millis).collect();
        assert_eq!(percentile(&sorted, 0.5), Duration::from_millis(3));
        assert_eq!(percentile(&sorted, 0.99), Duration::from_millis(5));
        assert_eq!(percentile(&[], 0.5), Duration::ZERO);
    }
}

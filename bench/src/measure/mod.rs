//! What every benchmark measures: latencies, and what processes cost.

mod latencies;
mod usage;

use std::error::Error;
use std::process::Command;

pub use latencies::{Figures, Latencies};
pub(crate) use usage::memory_bytes;
pub use usage::{Usage, total};

/// Why something could not be measured.
pub type Trouble = Box<dyn Error + Send + Sync>;

/// The commit that is checked out where we run, `+` behind it if files differ from it; `unknown` outside of a repository.
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
    fn spread_is_smallest_and_greatest() {
        assert_eq!(spread(&[3.0, 1.0, 2.0]), (1.0, 3.0));
    }
}

//! Latencies in a high dynamic range histogram (Gil Tene): any percentile, each value within a thousandth.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Decimal digits of a value that are kept.
const DIGITS: u8 = 3;
/// The longest latency that is told from longer ones, in nanoseconds: an hour.
const MAX_NANOSECONDS: u64 = 3_600_000_000_000;

/// Latencies of any number of operations, in nanoseconds.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

/// The usual figures of some latencies, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, serde::Deserialize)]
pub struct Figures {
    /// How many operations there were.
    pub count: u64,
    /// Their mean.
    pub mean_ms: f64,
    /// The fastest.
    #[serde(default)]
    pub min_ms: f64,
    /// Half of them were not slower.
    pub p50_ms: f64,
    /// 95 of 100 were not slower.
    pub p95_ms: f64,
    /// 99 of 100 were not slower.
    pub p99_ms: f64,
    /// 999 of 1000 were not slower.
    pub p999_ms: f64,
    /// The slowest.
    pub max_ms: f64,
}

impl Default for Latencies {
    fn default() -> Latencies {
        // Fails for a precision above five digits only.
        let histogram = Histogram::new_with_max(MAX_NANOSECONDS, DIGITS);
        Latencies(histogram.unwrap_or_else(|error| panic!("{DIGITS} digits: {error}")))
    }
}

impl Latencies {
    /// Adds one.
    pub fn record(&mut self, latency: Duration) {
        let nanoseconds = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        // What is beyond the longest counts as the longest.
        self.0.saturating_record(nanoseconds.max(1));
    }

    /// Adds all of another.
    pub fn add(&mut self, other: &Latencies) {
        // Fails for different bounds only.
        self.0.add(&other.0).unwrap_or_else(|error| panic!("histograms of one kind: {error}"));
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The value that the given share of them does not exceed, in milliseconds; 0 if there are none.
    pub fn quantile_ms(&self, share: f64) -> f64 {
        self.0.value_at_quantile(share) as f64 / 1e6
    }

    /// The usual figures.
    pub fn figures(&self) -> Figures {
        Figures {
            count: self.count(),
            mean_ms: self.0.mean() / 1e6,
            min_ms: self.0.min() as f64 / 1e6,
            p50_ms: self.quantile_ms(0.5),
            p95_ms: self.quantile_ms(0.95),
            p99_ms: self.quantile_ms(0.99),
            p999_ms: self.quantile_ms(0.999),
            max_ms: self.0.max() as f64 / 1e6,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_a_thousand_known_latencies_are_within_a_thousandth() {
        let (mut even, mut odd) = (Latencies::default(), Latencies::default());
        for microseconds in 1..=1_000 {
            let half = if microseconds % 2 == 0 { &mut even } else { &mut odd };
            half.record(Duration::from_micros(microseconds));
        }
        even.add(&odd);
        let figures = even.figures();
        let near = |found: f64, expected: f64| (found - expected).abs() <= expected / 500.0;
        assert_eq!(figures.count, 1_000);
        assert!(near(figures.mean_ms, 0.5005), "{figures:?}");
        assert!(near(figures.p50_ms, 0.5) && near(figures.p95_ms, 0.95), "{figures:?}");
        assert!(near(figures.p99_ms, 0.99) && near(figures.p999_ms, 0.999) && near(figures.max_ms, 1.0), "{figures:?}");
    }

    #[test]
    fn figures_of_nothing_are_zero() {
        assert_eq!(Latencies::default().figures(), Figures::default());
    }
}

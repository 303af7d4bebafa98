//! How long things take, counted while they happen: a histogram that any thread may add to without a lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The upper bounds of the buckets, in microseconds; one more bucket has what is longer.
pub const BOUNDS_US: [u64; 16] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    10_000_000,
];

/// Durations, counted in buckets. Adding one costs two additions to memory that threads share.
#[derive(Debug, Default)]
pub struct Durations {
    counts: [AtomicU64; BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

/// What was counted until some moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DurationCounts {
    /// How many durations each bucket has, none of those in the buckets before it; the last one has those beyond the
    /// last of [`BOUNDS_US`].
    pub counts: [u64; BOUNDS_US.len() + 1],
    /// All durations together, in microseconds.
    pub sum_us: u64,
}

impl Durations {
    /// Counts one duration in its bucket. Takes no lock.
    pub fn record(&self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_US.partition_point(|bound| *bound < us);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    /// What was counted so far. What is added meanwhile may be in the buckets and not in the sum.
    pub fn read(&self) -> DurationCounts {
        let mut read = DurationCounts { sum_us: self.sum_us.load(Ordering::Relaxed), ..DurationCounts::default() };
        for (count, counted) in read.counts.iter_mut().zip(&self.counts) {
            *count = counted.load(Ordering::Relaxed);
        }
        read
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_bounds_belong_to_their_bucket_and_what_is_longer_to_the_last() {
        let durations = Durations::default();
        for us in [0, 50, 51, 10_000_000, 10_000_001] {
            durations.record(Duration::from_micros(us));
        }
        let read = durations.read();
        assert_eq!((read.counts[0], read.counts[1]), (2, 1));
        assert_eq!((read.counts[15], read.counts[16]), (1, 1));
        assert_eq!(read.counts.iter().sum::<u64>(), 5);
        assert_eq!(read.sum_us, 20_000_102);
    }

    #[test]
    fn bounds_grow() {
        assert!(BOUNDS_US.is_sorted_by(|one, next| one < next));
    }
}

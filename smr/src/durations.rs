//! How long things take, counted while they happen: a histogram, and what was since someone last looked. Any thread may
//! add to either without a lock.

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
        let us = whole_us(duration);
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

/// Durations since they were last taken: how many, how long together, the shortest and the longest. Adding one costs
/// four additions to memory that threads share.
#[derive(Debug)]
pub struct Recent {
    count: AtomicU64,
    sum_us: AtomicU64,
    min_us: AtomicU64,
    max_us: AtomicU64,
}

impl Default for Recent {
    fn default() -> Recent {
        Recent {
            count: AtomicU64::new(0),
            sum_us: AtomicU64::new(0),
            min_us: AtomicU64::new(u64::MAX),
            max_us: AtomicU64::new(0),
        }
    }
}

/// What [`Recent`] had when it was taken. All of it in microseconds, and zero if there was nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecentCounts {
    /// How many durations.
    pub count: u64,
    /// All of them together.
    pub sum_us: u64,
    /// The shortest.
    pub min_us: u64,
    /// The longest.
    pub max_us: u64,
}

impl RecentCounts {
    /// This and one more.
    #[must_use]
    pub fn with(self, duration: Duration) -> RecentCounts {
        let us = whole_us(duration);
        RecentCounts {
            count: self.count + 1,
            sum_us: self.sum_us.saturating_add(us),
            min_us: if self.count == 0 { us } else { self.min_us.min(us) },
            max_us: self.max_us.max(us),
        }
    }

    /// The mean, if there is anything.
    pub fn average_us(&self) -> Option<u64> {
        self.sum_us.checked_div(self.count)
    }
}

impl Recent {
    /// Counts one duration. Takes no lock.
    pub fn record(&self, duration: Duration) {
        let us = whole_us(duration);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
        self.min_us.fetch_min(us, Ordering::Relaxed);
        self.max_us.fetch_max(us, Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    /// What was counted since the last call, which is forgotten. For one who looks: two would each get a part. What is
    /// added meanwhile may be split between this call and the next.
    pub fn take(&self) -> RecentCounts {
        let count = self.count.swap(0, Ordering::Relaxed);
        let sum_us = self.sum_us.swap(0, Ordering::Relaxed);
        let min_us = self.min_us.swap(u64::MAX, Ordering::Relaxed);
        let max_us = self.max_us.swap(0, Ordering::Relaxed);
        if count == 0 {
            return RecentCounts::default();
        }
        RecentCounts { count, sum_us, min_us: min_us.min(max_us), max_us }
    }
}

fn whole_us(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
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
    fn recent_is_what_was_since_it_was_taken() {
        let recent = Recent::default();
        assert_eq!(recent.take(), RecentCounts::default());
        for us in [30, 10, 20] {
            recent.record(Duration::from_micros(us));
        }
        let taken = recent.take();
        assert_eq!(taken, RecentCounts { count: 3, sum_us: 60, min_us: 10, max_us: 30 });
        assert_eq!((taken.average_us(), RecentCounts::default().average_us()), (Some(20), None));
        assert_eq!(recent.take(), RecentCounts::default());
        let one = RecentCounts::default().with(Duration::from_micros(7));
        assert_eq!(one, RecentCounts { count: 1, sum_us: 7, min_us: 7, max_us: 7 });
        assert_eq!(one.with(Duration::from_micros(3)).min_us, 3);
    }

    #[test]
    fn bounds_grow() {
        assert!(BOUNDS_US.is_sorted_by(|one, next| one < next));
    }
}

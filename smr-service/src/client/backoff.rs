//! Pauses of random length, so that many clients do not come back at once.

use std::sync::Mutex;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::client::lock;

/// A source of random pauses.
pub struct Jitter(Mutex<StdRng>);

impl Jitter {
    /// Decided by `seed`, or by no one.
    pub fn new(seed: Option<u64>) -> Jitter {
        Jitter(Mutex::new(seed.map_or_else(rand::make_rng, StdRng::seed_from_u64)))
    }

    /// A pause between `low` and `high`.
    pub fn between(&self, low: Duration, high: Duration) -> Duration {
        low + high.saturating_sub(low).mul_f64(lock(&self.0).random_range(0.0..1.0))
    }

    /// The pause before attempt `attempt` (from 0): grows from `range.0` by half each time, up to `range.1`, give or
    /// take half of it; never above `range.1`.
    pub fn growing(&self, attempt: u32, range: (Duration, Duration)) -> Duration {
        let (low, high) = range;
        let middle = low.mul_f64(1.5f64.powi(attempt.min(32) as i32)).min(high); // 1.5^32 is beyond every ratio here
        self.between(middle / 2, middle + middle / 2).min(high)
    }

    /// A place in `0..count`, to start a round from.
    pub fn pick(&self, count: usize) -> usize {
        if count == 0 { 0 } else { lock(&self.0).random_range(0..count) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growing_any_attempt_stays_within_range() {
        let jitter = Jitter::new(None);
        let range = (Duration::from_millis(10), Duration::from_millis(50));
        for attempt in [0, 1, 5, 100, u32::MAX] {
            let pause = jitter.growing(attempt, range);
            assert!(pause >= range.0 / 2 && pause <= range.1, "{pause:?} at attempt {attempt}");
        }
    }
}

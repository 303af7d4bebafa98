//! The clock of a machine: monotonic, with an origin and a rate of its own (fault catalogue R7).
//!
//! Cores only ever see their machine's clock. The world keeps the true time, which no node knows.

use smr::internals::protocol::Time;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// What it shows at the beginning of the world, in microseconds.
    pub origin_us: u64,
    /// What it counts while 1000 microseconds go by. Not 0.
    pub rate_permille: u64,
}

impl Clock {
    /// One that shows the true time.
    pub const TRUE: Clock = Clock { origin_us: 0, rate_permille: 1000 };

    /// What it shows at a moment.
    pub fn at(self, moment: Time) -> Time {
        let counted = u128::from(moment.0) * u128::from(self.rate_permille) / 1000;
        Time(u64::try_from(counted).unwrap_or(u64::MAX).saturating_add(self.origin_us))
    }

    /// The first moment at which it shows this.
    pub fn moment(self, shown: Time) -> Time {
        let counted = u128::from(shown.since_us(Time(self.origin_us)));
        Time(u64::try_from((counted * 1000).div_ceil(u128::from(self.rate_permille))).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moment_is_the_first_at_which_the_clock_shows_it() {
        for rate_permille in [500, 999, 1000, 1001, 1333] {
            let clock = Clock { origin_us: 5_000_000, rate_permille };
            for shown in [5_000_000, 5_000_001, 7_123_457].map(Time) {
                let moment = clock.moment(shown);
                assert!(clock.at(moment) >= shown);
                assert!(moment == Time(0) || clock.at(Time(moment.0 - 1)) < shown);
            }
        }
        assert_eq!(Clock::TRUE.moment(Time(u64::MAX)), Time(u64::MAX));
        assert_eq!(Clock::TRUE.at(Time(42)), Time(42));
    }
}

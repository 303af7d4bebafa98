//! Intervals of an arbiter, and how they must relate.

use crate::configured::LEASE_MAX_US;
use crate::raft::{CLOCK_DRIFT_MAX_PERMILLE, CLOCK_DRIFT_PERMILLE};

/// Intervals of an arbiter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArbiterSettings {
    /// By how much the rates of two clocks may differ, per thousand. A lease is waited out for longer by that.
    pub clock_drift_permille: u64,
    /// How long it collects who is in whose way before it decides, in microseconds. Longer than members take to
    /// report once.
    pub collect_us: u64,
    /// Who reported within this time is there, in microseconds.
    pub alive_us: u64,
    /// How long someone who was removed once waits before it may join again, in microseconds.
    pub pause_us: u64,
    /// It waits twice as long after each further time within ten minutes, but never longer than this, in microseconds.
    pub pause_max_us: u64,
}

impl Default for ArbiterSettings {
    fn default() -> ArbiterSettings {
        ArbiterSettings {
            clock_drift_permille: CLOCK_DRIFT_PERMILLE,
            collect_us: 200_000,
            alive_us: 300_000,
            pause_us: 1_000_000,
            pause_max_us: 64_000_000,
        }
    }
}

/// Settings that contradict each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bad settings: {0}")]
pub struct BadArbiterSettings(&'static str);

impl ArbiterSettings {
    /// Checks what they must have to do with each other.
    ///
    /// # Errors
    /// Which relation is broken.
    pub fn validate(&self) -> Result<(), BadArbiterSettings> {
        let rules = [
            (self.clock_drift_permille <= CLOCK_DRIFT_MAX_PERMILLE, "clocks that drift by more than half are none"),
            (self.collect_us <= self.alive_us, "who reported while it was collected must count as there"),
        ];
        match rules.iter().find(|(holds, _)| !holds) {
            Some((_, broken)) => Err(BadArbiterSettings(broken)),
            None => Ok(()),
        }
    }

    /// After this long a lease that was granted is over by every clock.
    pub(super) fn lease_over_us(&self) -> u64 {
        LEASE_MAX_US + LEASE_MAX_US * self.clock_drift_permille / 1000
    }
}

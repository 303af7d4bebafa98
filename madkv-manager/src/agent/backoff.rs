//! How long to wait before a replica that has ended is launched again: not at all the first time, then longer and
//! longer, up to a bound, until it has served quietly for a while.

use std::time::Duration;

use tokio::time::Instant;

/// The pause before the second launch in a row, in milliseconds; it doubles from one to the next.
pub const PAUSE_MIN_MS: u64 = 500;
/// The longest pause, in milliseconds.
pub const PAUSE_MAX_MS: u64 = 30_000;
/// The longest pause of one that came into service after its last launch, in milliseconds: it is no use to wait for
/// what can serve, and its group survives one failure less meanwhile.
pub const PAUSE_SERVED_MAX_MS: u64 = 1_000;
/// Who has answered heartbeats for this long does not crash in a loop, in milliseconds.
pub const QUIET_MS: u64 = 10_000;

/// The ends of one replica.
#[derive(Clone, Debug, Default)]
pub(super) struct Backoff {
    /// Ends in a row, each soon after the launch before.
    in_a_row: u32,
    /// Since when it has answered heartbeats.
    well_since: Option<Instant>,
    /// It has been in service since its last launch.
    has_served: bool,
}

impl Backoff {
    /// It answers heartbeats.
    pub(super) fn is_well(&mut self, now: Instant) {
        self.well_since.get_or_insert(now);
    }

    /// It is in service.
    pub(super) fn serves(&mut self) {
        self.has_served = true;
    }

    /// It has ended, or does not answer any more. Returns the pause before it is launched again.
    pub(super) fn ended(&mut self, now: Instant) -> Duration {
        let quiet = Duration::from_millis(QUIET_MS);
        if self.well_since.take().is_some_and(|since| now.duration_since(since) >= quiet) {
            self.in_a_row = 0;
        }
        let doublings = self.in_a_row.checked_sub(1);
        self.in_a_row = self.in_a_row.saturating_add(1);
        let longest = if std::mem::take(&mut self.has_served) { PAUSE_SERVED_MAX_MS } else { PAUSE_MAX_MS };
        let pause = |doublings: u32| PAUSE_MIN_MS.saturating_mul(1 << doublings.min(16)).min(longest);
        Duration::from_millis(doublings.map_or(0, pause))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pause_of_one_that_came_into_service_has_a_lower_bound() {
        let mut backoff = Backoff::default();
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        for _ in 0..6 {
            backoff.is_well(now);
            backoff.serves();
            now += Duration::from_millis(QUIET_MS - 1);
            pauses.push(backoff.ended(now).as_millis() as u64);
        }
        assert_eq!(pauses, [0, 500, 1_000, 1_000, 1_000, 1_000], "killed again and again, say");
        assert_eq!(backoff.ended(now).as_millis(), 16_000, "the next time it does not even come up");
    }

    // covers B42
    #[test]
    fn pause_doubles_up_to_its_bound_and_ends_with_quiet_service() {
        let mut backoff = Backoff::default();
        let mut now = Instant::now();
        let mut pauses: Vec<u64> = Vec::new();
        for _ in 0..10 {
            backoff.is_well(now);
            now += Duration::from_millis(QUIET_MS - 1);
            pauses.push(backoff.ended(now).as_millis() as u64);
        }
        assert_eq!(pauses, [0, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000]);
        assert_eq!(backoff.ended(now).as_millis(), 30_000, "it never answered");
        backoff.is_well(now);
        now += Duration::from_millis(QUIET_MS);
        backoff.is_well(now);
        assert_eq!(backoff.ended(now), Duration::ZERO);
        assert_eq!(backoff.ended(now), Duration::from_millis(PAUSE_MIN_MS), "the old ends are forgotten, not this one");
    }
}

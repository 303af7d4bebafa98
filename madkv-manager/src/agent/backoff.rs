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
/// For this many ends in a row at most; whoever ends still more often crashes of its own, and is launched later and
/// later like any other.
pub const PAUSES_SERVED_MAX: u32 = 8;
/// Who has answered heartbeats for this long does not crash in a loop, in milliseconds.
pub const QUIET_MS: u64 = 10_000;

/// The ends of one replica.
#[derive(Clone, Debug, Default)]
pub(super) struct Backoff {
    /// Ends in a row, each soon after the launch before, without those whose pause was held at
    /// [`PAUSE_SERVED_MAX_MS`].
    in_a_row: u32,
    /// Those.
    held: u32,
    /// Since when it has answered heartbeats.
    well_since: Option<Instant>,
    /// It has been in service since its last launch.
    has_served: bool,
}

impl Backoff {
    /// It is launched: what the one before it did says nothing of it.
    pub(super) fn launched(&mut self) {
        (self.well_since, self.has_served) = (None, false);
    }

    /// It answers heartbeats.
    pub(super) fn is_well(&mut self, now: Instant) {
        self.well_since.get_or_insert(now);
        self.forget_if_quiet(now);
    }

    /// It is in service.
    pub(super) fn serves(&mut self) {
        self.has_served = true;
    }

    /// It has ended, or does not answer any more. Returns the pause before it is launched again.
    pub(super) fn ended(&mut self, now: Instant) -> Duration {
        self.forget_if_quiet(now);
        let has_served = self.has_served;
        self.launched();
        let doubled = |doublings: u32| PAUSE_MIN_MS.saturating_mul(1 << doublings.min(16)).min(PAUSE_MAX_MS);
        let mut pause = self.in_a_row.checked_sub(1).map_or(0, doubled);
        if has_served && pause > PAUSE_SERVED_MAX_MS && self.held < PAUSES_SERVED_MAX {
            self.held += 1;
            pause = PAUSE_SERVED_MAX_MS;
        } else {
            self.in_a_row = self.in_a_row.saturating_add(1);
        }
        Duration::from_millis(pause)
    }

    fn forget_if_quiet(&mut self, now: Instant) {
        let quiet = Duration::from_millis(QUIET_MS);
        if self.well_since.is_some_and(|since| now.duration_since(since) >= quiet) {
            (self.in_a_row, self.held) = (0, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_came_into_service_waits_1_s_at_most_for_a_number_of_ends_in_a_row() {
        let mut backoff = Backoff::default();
        let mut now = Instant::now();
        let mut pause_after_service = |backoff: &mut Backoff| {
            backoff.launched();
            backoff.is_well(now);
            backoff.serves();
            now += Duration::from_millis(QUIET_MS - 1);
            backoff.ended(now).as_millis() as u64
        };
        assert_eq!([(); 3].map(|()| pause_after_service(&mut backoff)), [0, 500, 1_000]);
        for _ in 0..PAUSES_SERVED_MAX {
            assert_eq!(pause_after_service(&mut backoff), PAUSE_SERVED_MAX_MS, "killed again and again, say");
        }
        let later = [(); 5].map(|()| pause_after_service(&mut backoff));
        assert_eq!(later, [2_000, 4_000, 8_000, 16_000, 30_000], "that is a crash loop");
    }

    #[test]
    fn what_one_did_before_its_launch_does_not_count_for_the_next() {
        let mut backoff = Backoff::default();
        let start = Instant::now();
        for _ in 0..3 {
            backoff.ended(start);
        }
        backoff.is_well(start);
        backoff.serves();
        // Launched by an order, say, that no end was counted for.
        backoff.launched();
        let later = start + Duration::from_millis(QUIET_MS);
        assert_eq!(backoff.ended(later).as_millis(), 2_000, "it neither served nor was it well");
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

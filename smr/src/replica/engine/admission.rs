//! How much may be written: a log that gets long slows the writers down, before it is full.
//!
//! The log in memory is bounded. It gets long when a snapshot takes longer to write than the log to grow, and when it
//! is kept for a member that is coming back. Both end the sooner, the less is written meanwhile; and both end too late
//! if everything is accepted until the log is full and nothing after that. So what is accepted per second falls with
//! the room that is left:
//! - In the upper half of the log, what is left of it may be filled in [`LogLimits::drain_us`], at the speed of each
//!   moment. So it is never full, and never shut.
//! - A member that comes back and works off what it lacks must be faster than those who write, or it lacks as much for
//!   ever. After [`LogLimits::grace_us`] half of what it takes in per second is accepted.
//!
//! Whoever is refused is told when to come back, by how much was refused before: so those who wait come back one after
//! the other.

use std::ops::RangeInclusive;

use super::limits::BUSY_RETRY_MS;
use crate::entry::ENTRY_OVERHEAD_BYTES;
use crate::protocol::{LogLoad, Time};

/// The longest that a client is asked to wait before it tries again, in milliseconds. It may wait twice as long.
const RETRY_MAX_MS: u64 = 400;
/// What is accepted at once after a pause, as a part of a second.
const BURST_PER_SECOND: u64 = 10;
/// How often the speed of a member that comes back is measured, in microseconds.
const MEASURE_US: u64 = 100_000;
/// At this rate a snapshot is expected to reach a member, in bytes per second.
const TRANSFER_BYTES_PER_S: u64 = 40 << 20;

/// A snapshot is taken when the log after the last one holds at least this many bytes ...
pub const SNAPSHOT_LOG_MIN_BYTES: usize = 16 << 20;
/// ... and at the latest with this many, whatever the size of the state.
pub const SNAPSHOT_LOG_MAX_BYTES: usize = 256 << 20;
/// With half of this many bytes in the log that cannot be cut, writes are slowed down, and beyond it `Busy`, until a
/// snapshot has made room, or a member that comes back has taken them in. Four times as much as a snapshot is taken
/// after, where the state is so large.
pub const LOG_MAX_BYTES: usize = 256 << 20;
/// A log that gets full is filled up as if that took this long, in microseconds.
const LOG_DRAIN_US: u64 = 2_000_000;
/// A member that comes back does not slow the writers down for this long, in microseconds.
const RETURN_GRACE_US: u64 = 2_000_000;
/// And never slows them down to less than this, in bytes per second.
const SLOWED_MIN_BYTES_PER_S: u64 = 512 << 10;
/// The bounds of the log in service.
pub const LOG_LIMITS: LogLimits = LogLimits {
    snapshot_bytes: SNAPSHOT_LOG_MIN_BYTES..=SNAPSHOT_LOG_MAX_BYTES,
    max_bytes: LOG_MAX_BYTES,
    drain_us: LOG_DRAIN_US,
    grace_us: RETURN_GRACE_US,
    slowed_min_bytes_per_s: SLOWED_MIN_BYTES_PER_S,
};

/// Bounds of the log in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLimits {
    /// A snapshot is taken when the log after the last one holds as many bytes as that, or a quarter if that is large
    /// ([`SNAPSHOT_LOG_SMALL_BYTES`]), but within these bounds.
    pub snapshot_bytes: RangeInclusive<usize>,
    /// The log that cannot be cut holds this many bytes at most, or four times what a snapshot is taken after.
    pub max_bytes: usize,
    /// A log that gets full is filled up as if that took this long, in microseconds, or as long as a snapshot is
    /// expected to travel.
    pub drain_us: u64,
    /// A member that comes back does not slow the writers down in its first microseconds.
    pub grace_us: u64,
    /// Nor ever to less than this many bytes per second: one that is as slow as this is no use, and everyone would be
    /// as slow.
    pub slowed_min_bytes_per_s: u64,
}

/// Up to this size of the state, a snapshot is taken for as many bytes of log. Beyond, for a quarter, but no fewer
/// bytes.
pub const SNAPSHOT_LOG_SMALL_BYTES: usize = 64 << 20;

impl LogLimits {
    /// [`LogLimits::snapshot_bytes`] in service, with another upper bound if that is not 0.
    pub(super) fn snapshot_bytes_up_to(max_bytes: u64) -> RangeInclusive<usize> {
        let max_bytes = usize::try_from(max_bytes).unwrap_or(usize::MAX);
        match max_bytes {
            0 => LOG_LIMITS.snapshot_bytes,
            max => SNAPSHOT_LOG_MIN_BYTES.min(max)..=SNAPSHOT_LOG_MAX_BYTES.min(max),
        }
    }

    /// After how many bytes of log a snapshot is taken if the last one was that long. What is written to snapshots is
    /// proportional to what is written, however large the state, as long as the upper bound allows it.
    pub(super) fn snapshot_after(&self, snapshot_len_bytes: u64) -> usize {
        let len = snapshot_len_bytes as usize;
        let (min, max) = (*self.snapshot_bytes.start(), *self.snapshot_bytes.end());
        len.min(SNAPSHOT_LOG_SMALL_BYTES).max(len / 4).clamp(min, max)
    }

    /// What the log that cannot be cut may hold.
    pub(super) fn max_for(&self, snapshot_len_bytes: u64) -> usize {
        self.max_bytes.max(4 * self.snapshot_after(snapshot_len_bytes).min(usize::MAX / 8))
    }

    fn drain_us_for(&self, snapshot_len_bytes: u64) -> u64 {
        self.drain_us.max(snapshot_len_bytes.saturating_mul(1_000_000) / TRANSFER_BYTES_PER_S)
    }
}

/// What is accepted at the moment.
#[derive(Debug, Default)]
pub(super) struct Admission {
    at: Time,
    /// Bytes per second; everything if there is no limit.
    rate: Option<u64>,
    /// Bytes that may be accepted now; below zero after something large.
    budget: i64,
    /// Bytes that were refused and are expected again.
    refused: u64,
    /// When a returning member was looked at, and how far it was.
    measured: Option<(Time, u64)>,
    /// How many bytes per second it takes in.
    speed: Option<u64>,
    fullness_permille: u32,
}

impl Admission {
    /// Looks at the log, before requests are judged.
    pub(super) fn look(&mut self, now: Time, load: &LogLoad, limits: &LogLimits, snapshot_len_bytes: u64) {
        let passed_us = now.since_us(self.at).min(1_000_000);
        self.at = now;
        let max = limits.max_for(snapshot_len_bytes);
        let drain_us = limits.drain_us_for(snapshot_len_bytes).max(1);
        self.fullness_permille = (load.needed_bytes.min(max) as u64 * 1000 / max.max(1) as u64) as u32;
        let room = max.saturating_sub(load.needed_bytes) as u64;
        let by_room = (load.needed_bytes > max / 2).then(|| room.saturating_mul(1_000_000) / drain_us);
        let by_return = self.by_return(now, load, limits);
        self.rate = by_room.into_iter().chain(by_return).min();
        match self.rate {
            None => (self.budget, self.refused) = (0, 0),
            Some(rate) => {
                let earned = rate.saturating_mul(passed_us) / 1_000_000;
                self.budget = self.budget.saturating_add(earned as i64).min((rate / BURST_PER_SECOND) as i64 + 1);
                self.refused = self.refused.saturating_sub(earned);
            }
        }
    }

    fn by_return(&mut self, now: Time, load: &LogLoad, limits: &LogLimits) -> Option<u64> {
        let Some(returning) = load.returning else {
            (self.measured, self.speed) = (None, None);
            return None;
        };
        match self.measured {
            None => self.measured = Some((now, returning.position_bytes)),
            Some((at, before)) if now.since_us(at) >= MEASURE_US => {
                let gained = returning.position_bytes.saturating_sub(before);
                let speed = gained.saturating_mul(1_000_000) / now.since_us(at);
                // Entries come in batches; one look in between says little.
                self.speed = Some(self.speed.map_or(speed, |before| (3 * before + speed) / 4));
                self.measured = Some((now, returning.position_bytes));
            }
            Some(_) => {}
        }
        let speed = self.speed.filter(|_| now.since_us(returning.since) >= limits.grace_us)?;
        Some((speed / 2).max(limits.slowed_min_bytes_per_s))
    }

    /// How full the log is, in thousandths.
    pub(super) fn fullness_permille(&self) -> u32 {
        self.fullness_permille
    }

    /// Whether a command of this many bytes may be written now; else, after how many milliseconds to ask again.
    pub(super) fn admit(&mut self, command_bytes: usize) -> Result<(), u32> {
        let Some(rate) = self.rate else { return Ok(()) };
        // As the log counts it: or small commands came in at twice the rate, and a member that comes back would never
        // be level.
        let bytes = command_bytes + ENTRY_OVERHEAD_BYTES;
        if self.budget > 0 {
            self.budget -= bytes as i64;
            return Ok(());
        }
        self.refused = self.refused.saturating_add(bytes as u64);
        let expected = self.refused.saturating_add(self.budget.unsigned_abs());
        let wait_ms = expected.saturating_mul(1000) / rate.max(1);
        Err(wait_ms.clamp(u64::from(BUSY_RETRY_MS), RETRY_MAX_MS) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Returning;

    const MIB: usize = 1 << 20;

    fn limits() -> LogLimits {
        LogLimits {
            snapshot_bytes: 16 * MIB..=256 * MIB,
            max_bytes: 256 * MIB,
            drain_us: 2_000_000,
            grace_us: 2_000_000,
            slowed_min_bytes_per_s: 512 << 10,
        }
    }

    fn load(needed: usize) -> LogLoad {
        LogLoad { new_bytes: 0, needed_bytes: needed, returning: None }
    }

    /// What gets in of a flood in that time, of commands of that many bytes, if it all stays in the log.
    fn accepted(admission: &mut Admission, from: Time, us: u64, bytes: usize, needed: &mut usize) -> usize {
        let before = *needed;
        for passed in (0..us).step_by(1000) {
            admission.look(from.plus_us(passed), &load(*needed), &limits(), 0);
            for _ in 0..100 {
                if admission.admit(bytes).is_ok() {
                    *needed += bytes + ENTRY_OVERHEAD_BYTES;
                }
            }
        }
        *needed - before
    }

    // covers S18
    #[test]
    fn snapshots_are_proportional_to_what_is_written_within_the_bounds() {
        let limits = limits();
        let after = |mib: usize| limits.snapshot_after((mib * MIB) as u64) / MIB;
        assert_eq!([after(1), after(40), after(64), after(200), after(512), after(2048)], [16, 40, 64, 64, 128, 256]);
        assert_eq!(
            [1, 256, 512, 4096].map(|mib: usize| limits.max_for((mib * MIB) as u64) / MIB),
            [256, 256, 512, 1024]
        );
    }

    // covers S18
    #[test]
    fn log_that_fills_up_takes_less_and_less_and_is_never_shut() {
        let mut admission = Admission::default();
        let mut needed = 100 * MIB;
        let free = accepted(&mut admission, Time(1_000_000), 100_000, 1000, &mut needed);
        assert_eq!(free, 100 * 100 * (1000 + ENTRY_OVERHEAD_BYTES), "no limit in the lower half");
        needed = 128 * MIB + 1;
        let mut before = usize::MAX;
        for second in 2..12 {
            let accepted = accepted(&mut admission, Time(second * 1_000_000), 1_000_000, 1000, &mut needed);
            assert!(0 < accepted && accepted < before, "{accepted} bytes after {before}");
            before = accepted;
        }
        assert!(needed < 256 * MIB);
    }

    #[test]
    fn refused_ones_are_told_to_come_one_after_the_other_and_large_ones_get_in() {
        let mut admission = Admission::default();
        let full = load(255 * MIB);
        admission.look(Time(1), &full, &limits(), 0);
        admission.look(Time(1_000_001), &full, &limits(), 0);
        assert_eq!(admission.admit(MIB), Ok(()), "one gets in, whatever its size");
        let first = admission.admit(MIB / 8).unwrap_err();
        let second = admission.admit(MIB / 8).unwrap_err();
        assert!(first <= second && second <= RETRY_MAX_MS as u32, "{first} {second}");
        admission.look(Time(5_000_001), &full, &limits(), 0);
        admission.look(Time(9_000_001), &full, &limits(), 0);
        assert_eq!(admission.admit(1), Ok(()));
    }

    // covers S17
    #[test]
    fn member_that_comes_back_is_faster_than_those_who_write() {
        let mut admission = Admission::default();
        let since = Time(10_000_000);
        let mut seen = Vec::new();
        for tenth in 0..30 {
            let now = since.plus_us(tenth * 100_000);
            let returning = Some(Returning { position_bytes: tenth * MIB as u64, since });
            admission.look(now, &LogLoad { returning, ..load(50 * MIB) }, &limits(), 0);
            seen.push(admission.rate);
        }
        assert_eq!(seen[..20], [None; 20], "the grace");
        assert_eq!(seen[20..], [Some(5 * MIB as u64); 10], "half of 10 MiB/s");
        // In the next second, of commands that are smaller than what the log adds to each.
        let mut bytes = 0;
        for ms in 3000..4000 {
            let returning = Some(Returning { position_bytes: ms * (MIB / 100) as u64, since });
            admission.look(since.plus_us(ms * 1000), &LogLoad { returning, ..load(50 * MIB) }, &limits(), 0);
            while admission.admit(20).is_ok() {
                bytes += ENTRY_OVERHEAD_BYTES + 20;
            }
        }
        assert!((4 * MIB..6 * MIB).contains(&bytes), "{bytes}");
        admission.look(since.plus_us(4_000_000), &load(50 * MIB), &limits(), 0);
        assert_eq!(admission.rate, None, "it is level");
    }
}

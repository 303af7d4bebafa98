//! The core's limits and intervals, each with its unit in its name.

use super::message::LEASE_MAX_US;
use crate::codec::FRAME_PAYLOAD_MAX_BYTES;
use crate::status::ReadMode;

/// Limits and intervals of a core. All members of a group should use the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How often a leader says that it is there, in microseconds. Several fit into an election timeout.
    pub heartbeat_us: u64,
    /// `T`, in microseconds: timeouts are drawn from [T, 2T). A leader without a quorum steps down within 2 T, and a
    /// voter that heard its leader within T refuses to elect another (E12).
    pub election_timeout_us: u64,
    /// A follower that sees its leader's connection close asks for pre-votes after a delay in [0, this), in
    /// microseconds.
    pub failover_delay_max_us: u64,
    /// Who granted such a pre-vote waits this long before it asks for its own, in microseconds. Longer than
    /// `failover_delay_max_us`.
    pub failover_backoff_us: u64,
    /// A leader whose oldest write has been on its way to the disk for longer gives up its role (E19), in microseconds.
    pub disk_stall_us: u64,
    /// A leader's disk lags if it does not have what was committed this long ago, in microseconds ...
    pub disk_lag_us: u64,
    /// ... and a leader whose disk has lagged for this long hands over to a voter that has more (E21), in microseconds.
    pub disk_lag_timeout_us: u64,
    /// Entries in one append at most.
    pub append_entries_max: usize,
    /// Bytes of entries in one append at most; one larger entry still goes alone.
    pub append_bytes_max: usize,
    /// Appends on their way to one follower at most.
    pub inflight_appends_max: usize,
    /// Bytes of entries on their way to one follower at most; the append that crosses the line still goes.
    pub inflight_bytes_max: usize,
    /// Reads (tokens) that wait for a confirmation at most; more of them fail at once.
    pub reads_waiting_max: usize,
    /// Bytes of entries kept under a snapshot at most, for followers that were away for a moment. Of those, what was
    /// written since the snapshot before is kept: so whoever misses something finds a whole period between two
    /// snapshots in the log.
    pub log_retain_bytes: usize,
    /// Bytes of entries kept under a snapshot although every member is known to have them: they can only be asked for
    /// by accident. At [`Settings::log_retain_bytes`] or above nothing is cut for that reason, and no one is told.
    pub log_retain_held_bytes: usize,
    /// Bytes of entries kept while a snapshot is on its way to a follower, so that it finds the entries after that
    /// snapshot when it has it (S15). Beyond this it needs another one. For one that is coming back
    /// ([`Settings::return_us`]) there is no such limit.
    pub log_retain_sending_bytes: usize,
    /// A member is level if it has all that was in the log this long ago, in microseconds. Only then a learner is
    /// promoted.
    pub level_us: u64,
    /// The log is kept for a member that comes back after a silence until it is level, but for this long at most, in
    /// microseconds. Whoever proposes must slow down when that makes the log long.
    pub return_us: u64,
    /// And only as long as it has got further within this time, in microseconds.
    pub return_stall_us: u64,
    /// How long a follower may take from the end of a snapshot's transfer to its installation before the snapshot is
    /// sent again, in microseconds.
    pub snapshot_install_us: u64,
    /// How a leader confirms reads. Members of a group may differ in this.
    pub reads: ReadMode,
    /// The lease that a leader asks for, in microseconds: this many heartbeats may be lost before it has to ask for
    /// each read, and so long a group waits after its death at most. Not above `election_timeout_us`, which a group
    /// waits anyway if it falls silent.
    pub lease_us: u64,
    /// By how much the rates of two members' clocks may differ, per thousand. A lease counts for less by that.
    pub clock_drift_permille: u64,
}

/// By how much the rates of two members' clocks may differ unless said otherwise, per thousand. Crystals are off by a
/// tenth of this, and who disciplines a clock slews it by half of it.
pub const CLOCK_DRIFT_PERMILLE: u64 = 10;
/// Two clocks that differ by more than this, per thousand, are no clocks.
pub const CLOCK_DRIFT_MAX_PERMILLE: u64 = 500;

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            heartbeat_us: 100_000,
            election_timeout_us: 600_000,
            failover_delay_max_us: 30_000,
            failover_backoff_us: 60_000,
            disk_stall_us: 1_200_000,
            disk_lag_us: 200_000,
            disk_lag_timeout_us: 3_000_000,
            append_entries_max: 4096,
            append_bytes_max: 1 << 20,
            inflight_appends_max: 256,
            inflight_bytes_max: 8 << 20,
            reads_waiting_max: 65_536,
            log_retain_bytes: 256 << 20,
            log_retain_held_bytes: 4 << 20,
            log_retain_sending_bytes: 32 << 20,
            level_us: 600_000,
            return_us: 300_000_000,
            return_stall_us: 1_500_000,
            snapshot_install_us: 10_000_000,
            reads: ReadMode::Index,
            lease_us: 300_000,
            clock_drift_permille: CLOCK_DRIFT_PERMILLE,
        }
    }
}

/// Members of a group at most, learners included: a bound for what one input may cause (I17).
pub const MEMBERS_MAX: usize = 32;

/// Settings that contradict each other, with the reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bad settings: {0}")]
pub struct BadSettings(&'static str);

impl Settings {
    /// The same with another election timeout, and with what follows from it in [`Settings::default`]: no more than a
    /// sixth of it between two heartbeats, a disk stall twice as long, and no lease that is longer.
    #[must_use]
    pub fn with_election_timeout_us(self, us: u64) -> Settings {
        let base = Settings::default();
        Settings {
            heartbeat_us: base.heartbeat_us.min(us / 6),
            election_timeout_us: us,
            disk_stall_us: us.saturating_mul(2),
            lease_us: base.lease_us.min(us),
            ..self
        }
    }

    /// Checks what the settings must have to do with each other.
    ///
    /// # Errors
    /// [`BadSettings`] says which relation is broken.
    pub fn validate(&self) -> Result<(), BadSettings> {
        let rules = [
            (self.heartbeat_us > 0, "the heartbeat interval is zero"),
            (self.election_timeout_us >= 2 * self.heartbeat_us, "two heartbeats must fit into an election timeout"),
            (self.failover_delay_max_us > 0, "the failover delay is zero"),
            (self.failover_backoff_us > self.failover_delay_max_us, "the put-off must exceed the failover delay"),
            (self.failover_backoff_us < self.election_timeout_us, "the put-off must stay below the election timeout"),
            (
                self.disk_stall_us >= self.election_timeout_us,
                "a disk stall must not be shorter than an election timeout",
            ),
            (self.disk_lag_us >= self.heartbeat_us, "a disk's lag is looked at once for each heartbeat"),
            (self.append_entries_max > 0, "an append must hold an entry"),
            (self.append_bytes_max <= FRAME_PAYLOAD_MAX_BYTES / 2, "an append must fit into a frame"),
            (self.inflight_appends_max > 0, "one append must be allowed in flight"),
            (self.inflight_bytes_max > 0, "one append must be allowed in flight"),
            (self.reads_waiting_max > 0, "one read must be allowed to wait"),
            (self.snapshot_install_us > 0, "a snapshot needs time to be installed"),
            (self.level_us > self.heartbeat_us, "a member that answers each heartbeat must be able to be level"),
            (self.lease_us > self.heartbeat_us, "a lease must outlast a heartbeat"),
            (
                self.lease_us <= self.election_timeout_us.min(LEASE_MAX_US),
                "a lease must not outlast an election timeout, nor what voters grant",
            ),
            (self.clock_drift_permille <= CLOCK_DRIFT_MAX_PERMILLE, "clocks that drift by more than half are none"),
        ];
        match rules.iter().find(|(holds, _)| !holds) {
            Some((_, broken)) => Err(BadSettings(broken)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_default_is_valid() {
        assert_eq!(Settings::default().validate(), Ok(()));
    }

    #[test]
    fn settings_with_another_election_timeout_are_valid_and_the_default_with_its_own() {
        let default = Settings::default();
        assert_eq!(default.clone().with_election_timeout_us(default.election_timeout_us), default);
        for ms in [300, 600, 1_000, 30_000] {
            let other = default.clone().with_election_timeout_us(ms * 1000);
            assert_eq!(other.validate(), Ok(()), "{ms} ms");
            assert_eq!(other.with_election_timeout_us(default.election_timeout_us), default, "{ms} ms and back");
        }
        assert!(default.with_election_timeout_us(1_000).validate().is_err());
    }

    #[test]
    fn settings_heartbeat_longer_than_timeout_refused() {
        let settings = Settings { heartbeat_us: 600_000, ..Settings::default() };
        assert!(settings.validate().is_err());
    }
}

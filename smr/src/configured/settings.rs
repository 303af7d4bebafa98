//! The core's limits and intervals, each with its unit in its name.

use crate::codec::FRAME_PAYLOAD_MAX_BYTES;
use crate::epoch::EpochKind;
use crate::raft::{CLOCK_DRIFT_MAX_PERMILLE, CLOCK_DRIFT_PERMILLE};
use crate::status::ReadMode;

/// The longest lease that counts, in microseconds: so long the removal of a member may take that does not answer.
pub const LEASE_MAX_US: u64 = 300_000;

/// Limits and intervals of a core. All members of a group should use the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The kind of the group. A configuration of another kind is none of this group's.
    pub kind: EpochKind,
    /// How often a member says that it is there, in microseconds. Several fit into `detection_us`.
    pub heartbeat_us: u64,
    /// A member that does not answer, or acknowledges nothing of what it was sent, or whose disk does not write, for
    /// this long blocks its group, in microseconds.
    pub detection_us: u64,
    /// Entries in one append at most.
    pub append_entries_max: usize,
    /// Bytes of entries in one append at most; one larger entry still goes alone.
    pub append_bytes_max: usize,
    /// Appends on their way to one member at most.
    pub inflight_appends_max: usize,
    /// Bytes of entries on their way to one member at most; the append that crosses the line still goes.
    pub inflight_bytes_max: usize,
    /// Reads (tokens) that wait at most; more of them fail at once.
    pub reads_waiting_max: usize,
    /// Bytes of entries kept under a snapshot at most, for a newcomer that is being caught up.
    pub log_retain_bytes: usize,
    /// A newcomer is caught up if it has all that was in the log this long ago, in microseconds.
    pub level_us: u64,
    /// How a member makes sure that it still is one before it answers a read: with a lease of the service, or by asking
    /// every other member.
    pub reads: ReadMode,
    /// By how much the rates of two clocks may differ, per thousand. A lease counts for less by that.
    pub clock_drift_permille: u64,
    /// How often the primary of a `passive` group brings its backups up to date, in microseconds.
    pub checkpoint_us: u64,
    /// After this many committed entries it does so before that time has passed.
    pub checkpoint_entries_max: u64,
    /// After this many bytes of them, too: about what is replayed in 200 ms.
    pub checkpoint_bytes_max: usize,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            kind: EpochKind::Active,
            heartbeat_us: 100_000,
            detection_us: 600_000,
            append_entries_max: 4096,
            append_bytes_max: 1 << 20,
            inflight_appends_max: 256,
            inflight_bytes_max: 8 << 20,
            reads_waiting_max: 65_536,
            log_retain_bytes: 256 << 20,
            level_us: 100_000,
            reads: ReadMode::Lease,
            clock_drift_permille: CLOCK_DRIFT_PERMILLE,
            checkpoint_us: 1_000_000,
            checkpoint_entries_max: 20_000,
            checkpoint_bytes_max: 16 << 20,
        }
    }
}

/// Settings that contradict each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bad settings: {0}")]
pub struct BadSettings(&'static str);

impl Settings {
    /// Checks what the settings must have to do with each other.
    ///
    /// # Errors
    /// [`BadSettings`] says which relation is broken.
    pub fn validate(&self) -> Result<(), BadSettings> {
        let rules = [
            (self.heartbeat_us > 0, "the heartbeat interval is zero"),
            (self.detection_us >= 2 * self.heartbeat_us, "two heartbeats must fit into the detection"),
            (self.heartbeat_us < LEASE_MAX_US, "a lease must outlast a heartbeat, with which it is asked for again"),
            (self.append_entries_max > 0, "an append must hold an entry"),
            (self.append_bytes_max <= FRAME_PAYLOAD_MAX_BYTES / 2, "an append must fit into a frame"),
            (self.inflight_appends_max > 0 && self.inflight_bytes_max > 0, "one append must be allowed in flight"),
            (self.reads_waiting_max > 0, "one read must be allowed to wait"),
            (self.clock_drift_permille <= CLOCK_DRIFT_MAX_PERMILLE, "clocks that drift by more than half are none"),
            (self.checkpoint_us > 0 && self.checkpoint_entries_max > 0, "checkpoints need time between them"),
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
    fn settings_detection_shorter_than_heartbeats_refused() {
        let settings = Settings { detection_us: 100_000, ..Settings::default() };
        assert!(settings.validate().is_err());
    }
}

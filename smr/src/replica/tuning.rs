//! What can be changed while a replica runs.

/// What a host can change while its replica runs. The members of a group may differ in it for a while: nothing that
/// they granted each other rests on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// After this much silence of their leader, up to twice as much, the others elect another one; in milliseconds.
    pub election_timeout_ms: u64,
    /// A snapshot is taken at the latest after this many bytes of log; 0: only by the size of the state.
    pub snapshot_log_max_bytes: u64,
    /// How often the primary of a `passive` group brings its backups up to date, in milliseconds; at least 1.
    pub checkpoint_ms: u64,
    /// After this many entries it does so before that time has passed; at least 1.
    pub checkpoint_requests: u64,
    /// A member of a group under a configuration service that is silent, or whose disk is, for this long is in the way
    /// of the others; in milliseconds, at least two heartbeats.
    pub detection_ms: u64,
}

impl Default for Tuning {
    fn default() -> Tuning {
        Tuning {
            election_timeout_ms: 600,
            snapshot_log_max_bytes: 0,
            checkpoint_ms: 1_000,
            checkpoint_requests: 20_000,
            detection_ms: 600,
        }
    }
}

//! What can be changed while a replica runs.

/// What a host can change while its replica runs. The members of a group may differ in it for a while: nothing that
/// they promised each other rests on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// After this much silence of their leader, up to twice as much, the others elect another one; in milliseconds.
    pub election_timeout_ms: u64,
    /// A snapshot is taken at the latest after this many bytes of log; 0: only by the size of the state.
    pub snapshot_log_max_bytes: u64,
}

impl Default for Tuning {
    fn default() -> Tuning {
        Tuning { election_timeout_ms: 600, snapshot_log_max_bytes: 0 }
    }
}

//! What a call can fail with. Sorted by what the caller must know: did the write happen?

use std::time::Duration;

/// Why a call did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The time given to the call is over.
    #[error("timeout after {} ms: {}", after.as_millis(), fate(*may_have_happened))]
    Timeout {
        /// The time given.
        after: Duration,
        /// Whether a copy of the write may have been, or may yet be, applied. Always false for reads.
        may_have_happened: bool,
    },
    /// The session, or the answer stored in it, was evicted while the outcome of a write was unknown: it may have
    /// happened, once at most.
    #[error("{what}: the write may have happened")]
    Evicted {
        /// What was evicted.
        what: &'static str,
    },
    /// A key or value is too large; nothing happened.
    #[error("{what} too large: {size_bytes} bytes, limit {limit_bytes}")]
    TooLarge {
        /// Which of them.
        what: &'static str,
        /// Its size in bytes.
        size_bytes: usize,
        /// The limit in bytes.
        limit_bytes: usize,
    },
    /// The service refused, and says why.
    #[error("refused: {reason}{}", if *may_have_happened { "; an earlier copy may have happened" } else { "" })]
    Refused {
        /// For a person to read.
        reason: String,
        /// Whether an earlier copy of the write may have been applied.
        may_have_happened: bool,
    },
    /// The disk of the partition's leader is full. A DELETE is taken, and makes room.
    #[error("disk full: deletes are taken{}", after_disk_full(*may_have_happened))]
    DiskFull {
        /// Whether an earlier copy of the write may have been applied.
        may_have_happened: bool,
    },
    /// The service gave an answer that makes no sense.
    #[error("senseless answer: {what}; a write may have happened")]
    BadAnswer {
        /// What is wrong with it.
        what: String,
    },
}

impl Error {
    /// Whether the write may have been, or may yet be, applied.
    pub fn may_have_happened(&self) -> bool {
        match self {
            Error::Timeout { may_have_happened, .. }
            | Error::Refused { may_have_happened, .. }
            | Error::DiskFull { may_have_happened } => *may_have_happened,
            Error::Evicted { .. } | Error::BadAnswer { .. } => true,
            Error::TooLarge { .. } => false,
        }
    }
}

fn after_disk_full(may_have_happened: bool) -> &'static str {
    if may_have_happened { "; an earlier copy may have happened" } else { ", nothing was changed" }
}

fn fate(may_have_happened: bool) -> &'static str {
    if may_have_happened { "the write may have happened" } else { "nothing was changed" }
}

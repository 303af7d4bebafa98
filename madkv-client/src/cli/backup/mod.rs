//! `backup` and `restore`: all keys of a cluster in a file, and back, also into a cluster of another shape.
//!
//! Each partition is as of one moment, as in a SCAN; no moment is common to all of them. Nothing of a file is written
//! to a cluster before all of the file has been verified. Memory is bounded: a backup holds a part of a partition's
//! answer, a restore a block of the file and the requests under way.

mod format;
mod load;
mod save;
mod scan;

use std::io;
use std::time::Duration;

pub use format::Header;
pub use load::{Loaded, load};
pub use save::{Saved, save};

use crate::Error;

/// Why there is no backup, or nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A call of the client library failed.
    #[error(transparent)]
    Cluster(#[from] Error),
    /// Nothing went on for as long as a call of the client may take.
    #[error("timeout after {} ms without progress: {why}", after.as_millis())]
    Late {
        /// The time given.
        after: Duration,
        /// Why the last attempt failed.
        why: String,
    },
    /// The file does not verify.
    #[error("the file is refused: {0}")]
    Damaged(String),
    /// The file cannot be read.
    #[error("the file cannot be read: {0}")]
    Read(io::Error),
    /// The file cannot be written.
    #[error("the file cannot be written: {0}")]
    Write(io::Error),
    /// The file is there and complete, but after a power cut its name may not be.
    #[error("the backup is there, but its directory cannot be synced: {0}")]
    NotSynced(io::Error),
    /// There is a file already.
    #[error("there is such a file already; a backup replaces none")]
    Exists,
    /// Keys would be overwritten.
    #[error("the cluster has keys; nothing was written (--into_nonempty restores all the same, over what is there)")]
    NotEmpty,
    /// Some of the keys were written.
    #[error("{written} of {keys} keys were written, then: {error}; run it again with --into_nonempty")]
    Partly {
        /// How many are certain.
        written: u64,
        /// How many the file has.
        keys: u64,
        /// What stopped it.
        error: Box<BackupError>,
    },
}

//! Snapshots on connections of their own, so that messages never wait behind them.

use std::io;

use serde::{Deserialize, Serialize};

use crate::entry::EntryId;
use crate::id::NodeId;

/// What the sender of a snapshot says before it sends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Opaque to the transport: what the receiving store needs to know.
    pub header: Vec<u8>,
    /// The last entry that the snapshot includes.
    pub last: EntryId,
    /// Length of the snapshot in bytes.
    pub len_bytes: u64,
    /// Tells this very file from another one with the same `last`: whoever resumes must not mix two.
    pub fingerprint: u64,
}

/// A snapshot to send. Called from threads that may block.
pub trait SnapshotSource: Send {
    /// What is sent.
    fn offer(&self) -> Offer;

    /// At most `len` bytes from `offset` on, at least one while `offset` is below [`Offer::len_bytes`].
    ///
    /// # Errors
    /// Those of the disk; the transfer fails.
    fn read_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>>;
}

/// Where received snapshots go. Called from threads that may block, never by two at once.
pub trait SnapshotSink: Send + Sync {
    /// A peer offers a snapshot. Returns the offset from which to send: what an earlier, broken transfer of the very same
    /// snapshot (fingerprint) has left; [`Offer::len_bytes`] if it is already here in whole, and then
    /// [`SnapshotSink::finish`] is called again. An unfinished transfer of another snapshot is forgotten.
    ///
    /// # Errors
    /// The reason why it is not wanted.
    fn begin(&self, from: NodeId, offer: &Offer) -> Result<u64, String>;

    /// The next bytes of the snapshot begun last; without gaps.
    ///
    /// # Errors
    /// Those of the disk; the transfer fails.
    fn append(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// All bytes are here: verify, make durable, tell the replica.
    ///
    /// # Errors
    /// The snapshot is damaged, or the disk failed; the transfer fails.
    fn finish(&self) -> io::Result<()>;
}

/// A sink for replicas that take no snapshots.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoSnapshots;

impl SnapshotSink for NoSnapshots {
    fn begin(&self, _: NodeId, _: &Offer) -> Result<u64, String> {
        Err("this replica takes no snapshots".to_owned())
    }

    fn append(&self, _: u64, _: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn finish(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

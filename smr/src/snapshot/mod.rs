//! Snapshot files: the replicated state as of one entry, on disk and on its way to another node.
//!
//! # Guarantees
//! - A snapshot has its final name only when it is whole, read back and on the device: what a log may be cut under
//!   (S6).
//! - No byte of a damaged, mixed or foreign snapshot gets into a state: every chunk is checked when it is read, for
//!   whatever purpose, and a whole file before it replaces anything (S8). Sending is reading, too, so damage does not
//!   travel.
//! - The file depends on nothing but the state, the entry and the group: equal states give equal files, whoever wrote
//!   them, so a transfer that one leader began can be resumed by another.
//! - Memory stays within some chunks, whatever the size of the state.
//!
//! # The file
//! ```text
//! header   magic "SMRSNAP\n" | version u32 | length of payload u32 | checksum u64 | payload
//!          payload: group, genesis hash (which covers the cluster), SnapshotMeta
//!          checksum over all that stands before it, and the payload; it is the snapshot's *id*
//! chunk    tag u32 | length u32 | number u64, from 0 | checksum u64 | payload
//!          checksum over the id, all that stands before it, and the payload
//! ...      every chunk is full (256 KiB), except perhaps the last one, which is not empty
//! footer   tag u32 | zero u32 | number of chunks u64 | length of all their payloads u64 | whole u64 | checksum u64
//!          whole: over every byte before the footer, the snapshot's *fingerprint*
//!          checksum over the id and all that stands before it
//! ```
//! Little endian; checksums are XXH3. The payloads, one after the other, are one stream: the session table, then the
//! state machine; this module does not look into it. The first 24 bytes keep their shape in all later versions, so
//! that an older build can tell a newer file from a damaged one. Given a file's length, the place of each chunk
//! follows, so nothing in the file is believed before it is checked.
//!
//! # The directory
//! | name | what it is | at the next open |
//! |---|---|---|
//! | `<index>-<term>.snap` | a snapshot | verified; the newest sound one counts, others go or are set aside |
//! | `<index>-<term>.<n>.writing` | one being written | removed |
//! | `<index>-<term>-<length>-<fingerprint>.incoming` | one being received | the newest is kept, to be resumed |
//! | `<index>-<term>-<length>-<fingerprint>.<n>.received` | received and verified | to be resumed |
//! | `*.bad` | one that was damaged | kept for whoever wants to know, at most [`BAD_FILES_MAX`] |
//!
//! # What a crash leaves behind
//! - *While writing*: the old snapshot, and a `.writing` file, whole or torn; it is removed.
//! - *Between rename and sync of the directory*: the old snapshot, or old and new; both whole.
//! - *Before the old one is removed*: both; the newest counts.
//! - *While receiving*: the old snapshot, and a part. Resuming checks the part's chunks and goes on after the last
//!   sound one; nothing of it was ever relied on.
//! - *While adopting*: as for writing. The log is changed only after [`ReceivedSnapshot::adopt`] returned, so its start
//!   never lies after the newest snapshot (S5).
//!
//! What is *not* decided here: a snapshot that is damaged or missing although the log was cut under it. `open` then
//! gives an older one, or none, with a note; the comparison with log and watermark finds the gap, and the node heals.

mod directory;
mod format;
mod incoming;
mod names;
mod reader;
#[cfg(feature = "node")]
mod salvage;
mod writer;

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::entry::{EntryId, GenesisHash, SnapshotMeta};

pub use directory::SnapshotDir;
pub use incoming::{Incoming, ReceivedSnapshot};
#[cfg(feature = "node")]
pub(crate) use names::is_ours;
pub use reader::{SendingFile, SnapshotReader};
#[cfg(feature = "node")]
pub(crate) use salvage::{Salvaged, salvage};

/// Version of the file's format. Files of another version are refused, and left untouched.
pub const SNAPSHOT_VERSION: u32 = 1;
/// Payload of a chunk, in bytes: small enough to check and to send as one message, large enough to cost little.
pub const CHUNK_PAYLOAD_MAX_BYTES: usize = 256 << 10;
/// Payload of the header, in bytes: room for a configuration of thousands of members.
pub const HEADER_PAYLOAD_MAX_BYTES: usize = 64 << 10;
/// The longest file that is accepted from another node, in bytes.
pub const SNAPSHOT_MAX_BYTES: u64 = 1 << 40;
/// While a snapshot is written or received, it is synced after this many bytes, so that no sync of the log has to wait
/// for more than this much of it.
pub const SYNC_EVERY_BYTES: u64 = 1 << 20;
/// How many damaged files are kept.
pub const BAD_FILES_MAX: usize = 2;

/// A whole snapshot on the own disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// What it stands for.
    pub meta: SnapshotMeta,
    /// The group's genesis.
    pub genesis: GenesisHash,
    /// Length of the file, in bytes.
    pub len_bytes: u64,
    /// Checksum of the whole file.
    pub fingerprint: u64,
}

impl SnapshotInfo {
    /// What another node is told before it is sent there.
    pub fn offer(&self) -> SnapshotOffer {
        SnapshotOffer {
            meta: self.meta.clone(),
            genesis: self.genesis,
            len_bytes: self.len_bytes,
            fingerprint: self.fingerprint,
        }
    }
}

/// What precedes a transfer: which snapshot, and how to know that it arrived whole. Equal offers mean equal files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotOffer {
    /// What it stands for.
    pub meta: SnapshotMeta,
    /// The group's genesis.
    pub genesis: GenesisHash,
    /// Length of the file, in bytes.
    pub len_bytes: u64,
    /// Checksum of the whole file.
    pub fingerprint: u64,
}

/// What can go wrong with snapshots, by what must happen next.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The disk failed: the replica stops (D6 - D8). No half snapshot counts.
    #[error("{}: {source}", path.display())]
    Disk {
        /// The file or directory.
        path: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
    /// The file is damaged, or not what it should be: it is fetched or made again.
    #[error("{}: {what}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The file is sound, and of another version of the format: the replica must not start (D16).
    #[error("{}: snapshot format version {found}, expected {SNAPSHOT_VERSION}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// The state could not be written, though the disk did not fail.
    #[error("the state cannot be written: {0}")]
    State(io::Error),
    /// Not needed: a snapshot that reaches at least as far is here, or on its way.
    #[error("the snapshot at {have} makes it obsolete")]
    Obsolete {
        /// What is here.
        have: EntryId,
    },
    /// Another transfer took the place of this one (S4).
    #[error("another transfer took its place")]
    Superseded,
    /// The other side sent what makes no sense: a gap, bytes beyond the end, a foreign group. The transfer ends.
    #[error("{0}")]
    Senseless(String),
}

impl SnapshotError {
    /// Whether nothing is wrong but that the disk is full.
    pub fn is_lack_of_room(&self) -> bool {
        match self {
            SnapshotError::Disk { source, .. } | SnapshotError::State(source) => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            _ => false,
        }
    }

    /// Whether sound bytes are of a form that this build does not read: a newer one has written them (D16).
    pub(crate) fn is_of_another_format(&self) -> bool {
        let SnapshotError::State(source) = self else { return false };
        // What failed below the state is none of its words.
        let is_its_own = source.get_ref().is_none_or(|inner| !inner.is::<SnapshotError>());
        source.kind() == io::ErrorKind::InvalidData && is_its_own
    }
}

impl From<SnapshotError> for io::Error {
    fn from(error: SnapshotError) -> io::Error {
        let kind = match &error {
            SnapshotError::Disk { source, .. } | SnapshotError::State(source) => source.kind(),
            _ => io::ErrorKind::InvalidData,
        };
        io::Error::new(kind, error)
    }
}

/// Names the file in an error of the disk.
fn at(path: &Path) -> impl FnOnce(io::Error) -> SnapshotError + '_ {
    |source| SnapshotError::Disk { path: path.to_owned(), source }
}

fn corrupt(path: &Path, what: impl Into<String>) -> SnapshotError {
    SnapshotError::Corrupt { path: path.to_owned(), what: what.into() }
}

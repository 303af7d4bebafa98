//! What `smr-sim` and our own tests need of the insides. **Outside the guarantee of compatibility**: whatever is here
//! changes or goes without notice.

/// What operators ask for.
#[cfg(feature = "core")]
pub mod admin {
    pub use crate::replica::admin::*;
}

/// Before there is a group.
#[cfg(feature = "node")]
pub mod bootstrap {
    pub use crate::replica::bootstrap::*;
}

/// The file system, as storage and snapshots see it.
#[cfg(feature = "core")]
pub mod disk {
    pub use crate::disk::*;
}

/// The disk thread's work.
#[cfg(feature = "node")]
pub mod disk_jobs {
    pub use crate::replica::disk::*;
}

/// Core, sessions and state machine as one value.
#[cfg(feature = "core")]
pub mod engine {
    pub use crate::replica::engine::*;
}

/// What replicas of a group send each other.
#[cfg(feature = "node")]
pub mod message {
    pub use crate::replica::message::*;
}

/// Connections between replicas.
#[cfg(feature = "node")]
pub mod transport {
    pub use crate::transport::*;
}

/// What is decided in a turn.
#[cfg(feature = "node")]
pub mod turn {
    pub use crate::replica::turn::*;
}

/// The core under a configuration service.
#[cfg(feature = "core")]
pub mod configured {
    pub use crate::configured::*;

    pub use crate::configured::canonical::{NOW, end_lease, entries, forget_time, join_latest_write};
}

/// The Raft core.
#[cfg(feature = "core")]
pub mod raft {
    pub use crate::raft::*;

    pub use crate::raft::canonical::{Canonical, LATER, NOW, renamed_hard_state};
}

/// The seam: what a protocol core takes and gives, and its driver's duties.
#[cfg(feature = "core")]
pub mod protocol {
    pub use crate::protocol::*;
}

/// The replicated table that makes writes exactly-once.
#[cfg(feature = "core")]
pub mod session {
    pub use crate::session::*;
}

/// Snapshot files and their transfer in pieces.
#[cfg(feature = "core")]
pub mod snapshot {
    pub use crate::snapshot::*;
}

/// Connections of which no one knows yet who is there.
#[cfg(feature = "wire")]
pub mod lobby {
    pub use crate::lobby::*;
}

/// From `host:port` to a connection.
#[cfg(feature = "wire")]
pub mod reach {
    pub use crate::reach::*;
}

/// Hard state, watermark and log on disk; quarantine.
#[cfg(feature = "node")]
pub mod storage {
    pub use crate::storage::*;

    use std::io;
    use std::path::Path;
    use std::sync::Arc;

    use crate::disk::Disk;
    use crate::entry::EntryId;
    use crate::storage::open_error::Trouble;
    use crate::storage::record_log::Recovered;
    use crate::storage::segments::SegmentLog;
    use crate::storage::sled;
    use crate::storage::slots::{self, Found, Slots};
    use crate::storage::watermark::WatermarkFile;

    pub use crate::storage::record::{RECORD_MAX_BYTES, fingerprint, key};
    pub use crate::storage::slots::{SLOT_BYTES, SLOT_STRIDE_BYTES};
    pub use crate::storage::starts::STARTS_MAX;

    /// What the watermark of a directory names, whoever wrote it.
    pub fn peek_watermark(disk: &dyn Disk, directory: &Path) -> Option<EntryId> {
        WatermarkFile::peek(disk, directory)
    }

    /// The file `starts` in a directory.
    ///
    /// # Errors
    /// Those of the device, or a newer format.
    pub fn open_seen_starts(disk: &Arc<dyn Disk>, directory: &Path) -> Result<SeenStarts, OpenError> {
        SeenStarts::open(disk, directory, &mut Vec::new())
    }

    /// The map of sled's in a directory, which is made if need be, on any file system.
    ///
    /// # Errors
    /// In words.
    pub fn open_sled(directory: &Path) -> Result<Box<dyn ByteMap>, String> {
        match sled::open(directory, true) {
            Ok(opened) => Ok(opened.map),
            Err(Trouble::Quarantine(damage)) => Err(damage.to_string()),
            Err(Trouble::Refuse(error)) => Err(error.to_string()),
        }
    }

    /// The log in segments in a directory, after this snapshot, and without a watermark.
    ///
    /// # Errors
    /// Damage, or those of the device.
    pub fn open_segments(
        disk: Arc<dyn Disk>,
        directory: &Path,
        identity: u64,
        snapshot: EntryId,
    ) -> Result<Recovered<Box<dyn LogStore>>, LoadError> {
        let Recovered { log, entries, fits, notes } = SegmentLog::recover(disk, directory, identity, snapshot, None)?;
        Ok(Recovered { log: Box::new(log), entries, fits, notes })
    }

    /// A file of two slots.
    pub struct SlotFile(Slots);

    impl SlotFile {
        /// Makes the file, in the place of an earlier one.
        ///
        /// # Errors
        /// Those of the device.
        pub fn create(disk: &dyn Disk, path: &Path, magic: [u8; 8], content: &[u8]) -> Result<SlotFile, StorageError> {
            Slots::create(disk, path, magic, content).map(SlotFile)
        }

        /// The file and the content that counts, or `None` if it is not sound.
        ///
        /// # Errors
        /// Those of the device.
        pub fn read(disk: &dyn Disk, path: &Path, magic: [u8; 8]) -> io::Result<Option<(SlotFile, Vec<u8>)>> {
            Ok(match slots::read(disk, path, magic)? {
                Found::Sound { slots, content, .. } => Some((SlotFile(slots), content)),
                Found::Missing | Found::Newer { .. } | Found::Broken(_) => None,
            })
        }

        /// Writes to both slots, each synced.
        ///
        /// # Errors
        /// Those of the device.
        pub fn write_both(&mut self, content: &[u8]) -> Result<(), StorageError> {
            self.0.write_both(content)
        }
    }
}

//! Durable state of a replica: its log, its term and vote, and proof that neither was lost.
//!
//! # Files
//! ```text
//! <directory>/lock         held (flock) by the process for its whole life
//!             promise      identity, bootstrap, term, vote, latest start   two slots, synced one after the other
//!             mark         the highest entry known to be synced  two slots, written after each log sync
//!             starts       the newest start of each other node that was seen from here: two slots
//!             log/         the log engine's own files: sled's, each inode with the attribute S, or [`segments`]
//!             snapshots/   see `crate::snapshot`
//!             quarantine   the replica was found damaged; present until a readmission is complete
//!             next/        the incarnation after a quarantine: the same layout (and `ready`, then `moving`)
//!             damaged-*/   what a readmission, or healing, has put aside; only [`recovery`] reads it again
//!             recovered    this directory was recovered from that of another group, which it is to replace: two slots
//! ```
//!
//! # What a crash leaves behind, and what the next start does with it
//! - *In the first start*: no `promise` (it appears complete, by a rename), so nothing else but `lock` and
//!   `promise.new`: a new directory. Or a hard state that says *uninitialized*: everything beside it is thrown away and
//!   made again.
//! - *In a change of the hard state*: one slot is new, the other old or torn. Nothing has left the node unless both are
//!   written; the start takes the newer one and repairs the other.
//! - *In an append*: a prefix of the records written since the last flush, because all engines recover a prefix of
//!   their writes. The last record may lack parts: it is cut, if the watermark does not cover it.
//! - *In a conflict truncation*: the watermark was lowered and synced before, records go from the end backwards, so a
//!   prefix is left; or, in segments, a record of the removal is there or not.
//! - *In a prefix truncation*: records go from the front, so the rest is whole, and what is missing lies under the
//!   snapshot.
//! - *In an install*: the snapshot was durable before. If the log does not fit it, the next start empties the log as
//!   the install would have done.
//! - *After a log sync, before the watermark*: a watermark that is too low, which proves less but nothing wrong.
//!
//! # Damage
//! An engine may open a damaged directory without complaint, shorter or empty. So nothing is believed that the chain
//! of checksums through all records, the watermark and the hard state do not confirm together; what does not fit, read
//! twice, is [`Damage`]. If the hard state is sound the node *heals* by itself, silent until that is done
//! ([`healing`]). If the hard state is lost, or if something here was written by another node, that leads to
//! *quarantine*: written down in a file before anything in `log/` is touched again, and final for this incarnation. An
//! error of the device is no damage: the replica ends and may be started again ([`StorageError`]).
//!
//! Damage *after* the synced watermark cannot be told from a torn write (fault catalogue D2): a record there that does
//! not verify is cut. The watermark follows each sync at once, but unsynced, so after a power cut it may be behind by
//! as many syncs as [`watermark::SYNC_EVERY_WRITES_MAX`]. So in a map only the very last record is cut, and in segments
//! each write says what was synced before it: in both, only damage to the very last write can be taken for a torn one.
//!
//! # Layers
//! [`Store`] (what the replica's storage thread drives) over [`LogStore`] (append, truncate, flush). That is either
//! [`segments`], on any [`disk::Disk`], a virtual one included; or [`record_log::RecordLog`] (records, chain,
//! recovery) over [`ByteMap`] (an ordered map of bytes): sled, and for tests and simulations whatever a [`MapEngine`]
//! brings.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::disk::Disk;
use crate::entry::{Entry, EntryId, Index, Term};

mod directory;
mod extent;
mod hard_state;
mod healing;
mod identity;
mod log_aside;
mod log_engine;
mod names;
pub(crate) mod open;
pub(crate) mod open_error;
mod quarantine;
mod quarantine_note;
mod readmission;
pub(crate) mod record;
pub mod record_log;
pub(crate) mod recovery;
pub mod segments;
#[cfg(feature = "sled")]
pub(crate) mod sled;
#[cfg(not(feature = "sled"))]
#[path = "no_sled.rs"]
pub(crate) mod sled;
pub(crate) mod slots;
pub(crate) mod starts;
pub(crate) mod store;
pub mod watermark;

use crate::disk;
pub(crate) use crate::disk::room;
pub use crate::disk::sync_mode::{SyncMode, probe_sync};
pub use directory::ReplicaDirectory;
pub use hard_state::{BootstrapState, HardStateRecord, Witness};
pub use healing::Healing;
pub use identity::{ExpectedIdentity, Identity};
pub use log_engine::LogEngine;
pub use open::{OpenOutcome, OpenedStore, StoreOptions};
pub use open_error::OpenError;
pub use quarantine::Quarantined;
pub use recovery::Succession;
pub use starts::SeenStarts;
pub use store::Store;

/// A durable log of entries without holes. What a caller must not do (a hole, a falling term, an index that is not
/// there) is a bug and panics, with the values.
///
/// After an error the log is in an unknown state: the replica has to end and read it back from the device (D6).
pub trait LogStore: Send {
    /// Tells whose log it is. Only while it is empty and nothing was ever appended.
    fn adopt(&mut self, identity: u64);

    /// Appends entries, the first right after [`LogStore::last`]. Durable after [`LogStore::flush`].
    ///
    /// # Errors
    /// Fatal ones of the engine.
    fn append(&mut self, entries: &[Entry]) -> Result<(), StorageError>;

    /// Removes this entry and all after it, from the end backwards.
    ///
    /// # Errors
    /// Fatal ones of the engine.
    fn remove_from(&mut self, index: Index) -> Result<(), StorageError>;

    /// Removes all entries up to and including this one: they are gone at once for the caller, and from the device in
    /// slices.
    fn remove_through(&mut self, index: Index);

    /// Does a bounded part of what [`LogStore::remove_through`] has left; returns whether some is still left.
    ///
    /// # Errors
    /// Fatal ones of the engine.
    fn compact_slice(&mut self) -> Result<bool, StorageError>;

    /// Empties the log; the next entry is the one after `start`.
    ///
    /// # Errors
    /// Fatal ones of the engine.
    fn reset_to(&mut self, start: EntryId) -> Result<(), StorageError>;

    /// Makes everything up to here durable.
    ///
    /// # Errors
    /// Fatal ones of the engine.
    fn flush(&mut self) -> Result<(), StorageError>;

    /// Does, or begins, what will be needed soon, while no one waits. As it stands here, nothing.
    ///
    /// # Errors
    /// Fatal ones of the engine.
    fn tidy(&mut self) -> Result<(), StorageError> {
        Ok(())
    }

    /// The entry that the log starts after: [`EntryId::ZERO`], or the last one removed from the front.
    fn start(&self) -> EntryId;

    /// The last entry, or [`LogStore::start`] if there is none.
    fn last(&self) -> EntryId;

    /// The term at an index from the start's to the last's, or `None` outside.
    fn term_at(&self, index: Index) -> Option<Term>;

    /// A checksum of the entry at an index after the start, for the synced watermark.
    ///
    /// # Errors
    /// Fatal ones of the engine.
    fn fingerprint_at(&mut self, index: Index) -> Result<u64, StorageError>;

    /// Reads all entries back, in order, verified.
    ///
    /// # Errors
    /// Damage, or fatal ones of the engine.
    fn load(&self) -> Result<Vec<Entry>, LoadError>;
}

/// The key of a value in a [`ByteMap`].
pub type Key = [u8; KEY_LEN_BYTES];

/// Length of a [`Key`] in bytes.
pub const KEY_LEN_BYTES: usize = 12;

/// An ordered map of bytes on the device. After a crash it holds what a *prefix* of the writes made of it, at least all
/// those before the last flush.
pub trait ByteMap: Send {
    /// Puts a value in.
    ///
    /// # Errors
    /// Fatal ones of the engine.
    fn insert(&mut self, key: &Key, value: &[u8]) -> Result<(), StorageError>;

    /// Takes a value out; an absent key is fine.
    ///
    /// # Errors
    /// Fatal ones of the engine.
    fn remove(&mut self, key: &Key) -> Result<(), StorageError>;

    /// Reads the values from `from` on, in order, until `visit` returns false. A key of another length than
    /// [`KEY_LEN_BYTES`] is damage.
    ///
    /// # Errors
    /// Damage, or fatal ones of the engine.
    fn scan(&self, from: &Key, visit: &mut dyn FnMut(&Key, &[u8]) -> bool) -> Result<(), LoadError>;

    /// Makes all writes durable.
    ///
    /// # Errors
    /// Fatal ones of the engine.
    fn flush(&mut self) -> Result<(), StorageError>;

    /// The file or directory that it lives in, for messages.
    fn place(&self) -> &Path;
}

/// What keeps a [`ByteMap`] in a directory, where neither sled nor segments are to: for tests and simulations.
pub trait MapEngine: Sync {
    /// Its name, for an operator. Two engines of one name are the same.
    fn name(&self) -> &'static str;

    /// Whether there is a map in this directory. Only looks.
    ///
    /// # Errors
    /// Those of the device.
    fn present(&self, disk: &dyn Disk, directory: &Path) -> io::Result<Result<(), Damage>>;

    /// Opens the map in this directory, which is made if need be. What it reports as durable is.
    ///
    /// # Errors
    /// Damage, or fatal ones of the engine.
    fn open(&self, disk: Arc<dyn Disk>, directory: &Path) -> Result<Box<dyn ByteMap>, LoadError>;
}

impl PartialEq for dyn MapEngine {
    fn eq(&self, other: &dyn MapEngine) -> bool {
        self.name() == other.name()
    }
}

impl Eq for dyn MapEngine {}

impl fmt::Debug for dyn MapEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The device or the engine failed. Fatal: what was written and not yet confirmed may or may not be there, and trying
/// again would hide that (D6). The replica ends; the next start reads what is really on the device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {doing}: {why}", .file.display())]
pub struct StorageError {
    /// The file or directory.
    pub file: PathBuf,
    /// What was being done.
    pub doing: &'static str,
    /// What went wrong.
    pub why: String,
}

impl StorageError {
    /// An error while `doing` something with `file`.
    pub fn new(file: &Path, doing: &'static str, why: impl fmt::Display) -> StorageError {
        StorageError { file: file.to_owned(), doing, why: why.to_string() }
    }
}

/// What is on the device is not what was written there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {what}", .file.display())]
pub struct Damage {
    /// The file or directory.
    pub file: PathBuf,
    /// What is wrong with it.
    pub what: String,
    /// Whether it is sound, and another node's: then it is not clear whose directory this is.
    pub is_foreign: bool,
}

impl Damage {
    /// Damage in `file`.
    pub fn new(file: &Path, what: impl fmt::Display) -> Damage {
        Damage { file: file.to_owned(), what: what.to_string(), is_foreign: false }
    }

    /// `file` is someone else's.
    pub fn foreign(file: &Path) -> Damage {
        let what = "written by another node, or in another incarnation of this one";
        Damage { is_foreign: true, ..Damage::new(file, what) }
    }
}

/// Why a log cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The device failed; trying again later may help.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// It is damaged: the replica heals, or goes into quarantine.
    #[error(transparent)]
    Damage(#[from] Damage),
    /// A newer build wrote it; this one leaves it alone (D16).
    #[error("{}: format version {found} is newer than this build's {supported}", .file.display())]
    Newer {
        /// The file or directory.
        file: PathBuf,
        /// The version found there.
        found: u16,
        /// The newest version this build reads.
        supported: u16,
    },
}

impl LoadError {
    /// The same as a fatal error, for reads while running: what was read before can no longer be read.
    pub(crate) fn into_fatal(self, file: &Path) -> StorageError {
        match self {
            LoadError::Storage(error) => error,
            other => StorageError::new(file, "reading back", other),
        }
    }
}

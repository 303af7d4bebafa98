//! The file `mark`: the highest entry that is known to be synced.
//!
//! An engine may open a damaged directory shorter or empty, without a word. The mark is what it is compared with: an entry at or
//! under the snapshot is vouched for by that, any other must be in the log, this very one. It is written after each sync of the
//! log, by itself unsynced and so almost free, and synced now and then; so it never runs ahead of the log. Before anything at or
//! under it is removed, it is lowered, in both slots, each synced.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::disk::Disk;
use super::slots::{self, Amiss, Found, Slots};
use super::{Damage, StorageError};
use crate::codec;
use crate::entry::EntryId;

pub(crate) const MARK: &str = "mark";
const MAGIC: [u8; 8] = *b"SMRMARK\0";

/// After how many unsynced writes the mark is synced: how far a power cut may set it back.
pub const SYNC_EVERY_WRITES_MAX: u32 = 256;

/// An entry that is known to be synced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The entry, or the last one under a snapshot.
    pub last: EntryId,
    /// Its fingerprint; 0 for one under a snapshot.
    pub fingerprint: u64,
}

#[derive(Serialize, Deserialize)]
struct Content {
    identity: u64,
    mark: Mark,
}

/// The open file.
pub(crate) struct MarkFile {
    slots: Slots,
    identity: u64,
    mark: Mark,
    unsynced: u32,
}

pub(crate) enum FoundMark {
    Newer { file: PathBuf, found: u16 },
    Broken(Damage),
    Sound { file: MarkFile, repair: Option<String> },
}

impl MarkFile {
    /// Looks at the file without changing it.
    pub(crate) fn read(disk: &dyn Disk, directory: &Path, identity: u64) -> std::io::Result<FoundMark> {
        let path = directory.join(MARK);
        let (slots, content, amiss) = match slots::read(disk, &path, MAGIC)? {
            Found::Missing => return Ok(FoundMark::Broken(Damage::new(&path, "missing"))),
            Found::Newer { found } => return Ok(FoundMark::Newer { file: path, found }),
            Found::Broken(damage) => return Ok(FoundMark::Broken(damage)),
            Found::Sound { slots, content, amiss } => (slots, content, amiss),
        };
        Ok(match codec::decode::<Content>(&content) {
            Ok(content) if content.identity == identity => FoundMark::Sound {
                file: MarkFile { slots, identity, mark: content.mark, unsynced: 0 },
                // One that is behind is how it always looks: writes take turns.
                repair: amiss
                    .filter(|amiss| matches!(amiss, Amiss::Broken(_)))
                    .map(|what| format!("{}: {what}, repaired", path.display())),
            },
            Ok(_) => FoundMark::Broken(Damage::new(&path, "written by another node, or in another life of this one")),
            Err(error) => FoundMark::Broken(Damage::new(&path, error)),
        })
    }

    /// What the mark of a directory names, whoever wrote it, for observers.
    #[cfg(feature = "sim")]
    pub(crate) fn peek(disk: &dyn Disk, directory: &Path) -> Option<EntryId> {
        let Found::Sound { content, .. } = slots::read(disk, &directory.join(MARK), MAGIC).ok()? else { return None };
        codec::decode::<Content>(&content).ok().map(|content| content.mark.last)
    }

    pub(crate) fn create(
        disk: &dyn Disk,
        directory: &Path,
        identity: u64,
        mark: Mark,
    ) -> Result<MarkFile, StorageError> {
        let slots = Slots::create(disk, &directory.join(MARK), MAGIC, &codec::encode(&Content { identity, mark }))?;
        Ok(MarkFile { slots, identity, mark, unsynced: 0 })
    }

    pub(crate) fn mark(&self) -> Mark {
        self.mark
    }

    /// Notes what was just synced. Costs a sync of its own only now and then.
    pub(crate) fn follow(&mut self, mark: Mark) -> Result<(), StorageError> {
        if mark == self.mark {
            return Ok(());
        }
        self.slots.write_one(&self.encode(mark))?;
        self.mark = mark;
        self.unsynced += 1;
        if self.unsynced >= SYNC_EVERY_WRITES_MAX {
            self.slots.sync()?;
            self.unsynced = 0;
        }
        Ok(())
    }

    /// Lowers the mark durably, before what is above it may be removed.
    pub(crate) fn lower(&mut self, mark: Mark) -> Result<(), StorageError> {
        // Into both slots: otherwise damage to the newer one would bring back a mark that the log can no longer satisfy.
        self.slots.write_both(&self.encode(mark))?;
        self.mark = mark;
        self.unsynced = 0;
        Ok(())
    }

    /// Writes what counts to both slots again.
    pub(crate) fn repair(&mut self) -> Result<(), StorageError> {
        self.lower(self.mark)
    }

    fn encode(&self, mark: Mark) -> Vec<u8> {
        codec::encode(&Content { identity: self.identity, mark })
    }
}

//! The file `mark`: the highest entry that is known to be synced.
//!
//! An engine may open a damaged directory shorter or empty, without a word. The mark is what it is compared with: an
//! entry at or under the snapshot is vouched for by that, any other must be in the log, this very one. It is written
//! after each sync of the log, by itself unsynced and so almost free, and synced now and then; so it never runs ahead
//! of the log. Before anything at or under it is removed, it is lowered, in both slots, each synced.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::disk::Disk;
use super::healing::Healing;
use super::slots::{self, Amiss, Found, Slots};
use super::{Damage, StorageError};
use crate::codec::{self, CodecError};
use crate::entry::{EntryId, Index};

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

/// The content while the node heals: longer, so that neither is taken for the other. It stands here, and not in a file
/// of its own, because a mark that is missing or damaged is noticed.
#[derive(Serialize, Deserialize)]
struct HealingContent {
    identity: u64,
    mark: Mark,
    healing: Healing,
}

fn decode(content: &[u8]) -> Result<(u64, Mark, Option<Healing>), CodecError> {
    match codec::decode(content) {
        Ok(Content { identity, mark }) => Ok((identity, mark, None)),
        Err(error) => {
            let HealingContent { identity, mark, healing } = codec::decode(content).map_err(|_| error)?;
            Ok((identity, mark, Some(healing)))
        }
    }
}

fn encode(identity: u64, mark: Mark, healing: Option<&Healing>) -> Vec<u8> {
    match healing {
        None => codec::encode(&Content { identity, mark }),
        Some(healing) => codec::encode(&HealingContent { identity, mark, healing: healing.clone() }),
    }
}

/// The open file.
pub(crate) struct MarkFile {
    slots: Slots,
    identity: u64,
    mark: Mark,
    healing: Option<Healing>,
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
        Ok(match decode(&content) {
            Ok((owner, mark, healing)) if owner == identity => FoundMark::Sound {
                file: MarkFile { slots, identity, mark, healing, unsynced: 0 },
                // One that is behind is how it always looks: writes take turns.
                repair: amiss
                    .filter(|amiss| matches!(amiss, Amiss::Broken(_)))
                    .map(|what| format!("{}: {what}, repaired", path.display())),
            },
            Ok(_) => FoundMark::Broken(Damage::foreign(&path)),
            Err(error) => FoundMark::Broken(Damage::new(&path, error)),
        })
    }

    /// How far the log had got at least, as the mark of a directory says, whoever wrote it.
    pub(crate) fn reach(disk: &dyn Disk, directory: &Path) -> std::io::Result<Option<Index>> {
        let Found::Sound { content, .. } = slots::read(disk, &directory.join(MARK), MAGIC)? else { return Ok(None) };
        let Ok((_, mark, healing)) = decode(&content) else { return Ok(None) };
        Ok(Some(mark.last.index.max(healing.map_or(Index::ZERO, |healing| healing.past))))
    }

    /// What the mark of a directory names, whoever wrote it, for observers.
    pub(crate) fn peek(disk: &dyn Disk, directory: &Path) -> Option<EntryId> {
        let Found::Sound { content, .. } = slots::read(disk, &directory.join(MARK), MAGIC).ok()? else { return None };
        decode(&content).ok().map(|(_, mark, _)| mark.last)
    }

    pub(crate) fn create(
        disk: &dyn Disk,
        directory: &Path,
        identity: u64,
        mark: Mark,
        healing: Option<Healing>,
    ) -> Result<MarkFile, StorageError> {
        let content = encode(identity, mark, healing.as_ref());
        let slots = Slots::create(disk, &directory.join(MARK), MAGIC, &content)?;
        Ok(MarkFile { slots, identity, mark, healing, unsynced: 0 })
    }

    pub(crate) fn mark(&self) -> Mark {
        self.mark
    }

    /// Whether the log lacks entries that the node may have acknowledged.
    pub(crate) fn healing(&self) -> Option<&Healing> {
        self.healing.as_ref()
    }

    /// The log lacks nothing any more, and is durable.
    pub(crate) fn end_healing(&mut self) -> Result<(), StorageError> {
        self.healing = None;
        self.lower(self.mark)
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
        // Into both slots: otherwise damage to the newer one would bring back a mark that the log can no longer
        // satisfy.
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
        encode(self.identity, mark, self.healing.as_ref())
    }
}

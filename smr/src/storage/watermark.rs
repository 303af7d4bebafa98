//! The file `mark`: the highest entry that is known to be synced.
//!
//! An engine may open a damaged directory shorter or empty, without a word. The watermark is what it is compared with:
//! an entry at or under the snapshot is vouched for by that, any other must be in the log, this very one. It is written
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

/// The file's name, as every version has called it.
pub(crate) const WATERMARK: &str = "mark";
const MAGIC: [u8; 8] = *b"SMRMARK\0";

/// After how many unsynced writes the watermark is synced: how far a power cut may set it back.
pub const SYNC_EVERY_WRITES_MAX: u32 = 256;

/// An entry that is known to be synced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncedWatermark {
    /// The entry, or the last one under a snapshot.
    pub last: EntryId,
    /// Its fingerprint; 0 for one under a snapshot.
    pub fingerprint: u64,
}

#[derive(Serialize, Deserialize)]
struct Content {
    identity: u64,
    watermark: SyncedWatermark,
}

/// The content while the node heals: longer, so that neither is taken for the other. It stands here, and not in a file
/// of its own, because a watermark that is missing or damaged is noticed.
#[derive(Serialize, Deserialize)]
struct HealingContent {
    identity: u64,
    watermark: SyncedWatermark,
    healing: Healing,
}

fn decode(content: &[u8]) -> Result<(u64, SyncedWatermark, Option<Healing>), CodecError> {
    match codec::decode(content) {
        Ok(Content { identity, watermark }) => Ok((identity, watermark, None)),
        Err(error) => {
            let HealingContent { identity, watermark, healing } = codec::decode(content).map_err(|_| error)?;
            Ok((identity, watermark, Some(healing)))
        }
    }
}

fn encode(identity: u64, watermark: SyncedWatermark, healing: Option<&Healing>) -> Vec<u8> {
    match healing {
        None => codec::encode(&Content { identity, watermark }),
        Some(healing) => codec::encode(&HealingContent { identity, watermark, healing: healing.clone() }),
    }
}

/// The open file.
pub(crate) struct WatermarkFile {
    slots: Slots,
    identity: u64,
    watermark: SyncedWatermark,
    healing: Option<Healing>,
    unsynced: u32,
}

pub(crate) enum FoundWatermark {
    Newer { file: PathBuf, found: u16 },
    Broken(Damage),
    Sound { file: WatermarkFile, repair: Option<String> },
}

impl WatermarkFile {
    /// Looks at the file without changing it.
    pub(crate) fn read(disk: &dyn Disk, directory: &Path, identity: u64) -> std::io::Result<FoundWatermark> {
        let path = directory.join(WATERMARK);
        let (slots, content, amiss) = match slots::read(disk, &path, MAGIC)? {
            Found::Missing => return Ok(FoundWatermark::Broken(Damage::new(&path, "missing"))),
            Found::Newer { found } => return Ok(FoundWatermark::Newer { file: path, found }),
            Found::Broken(damage) => return Ok(FoundWatermark::Broken(damage)),
            Found::Sound { slots, content, amiss } => (slots, content, amiss),
        };
        Ok(match decode(&content) {
            Ok((owner, watermark, healing)) if owner == identity => FoundWatermark::Sound {
                file: WatermarkFile { slots, identity, watermark, healing, unsynced: 0 },
                // One that is behind is how it always looks: writes take turns.
                repair: amiss
                    .filter(|amiss| matches!(amiss, Amiss::Broken(_)))
                    .map(|what| format!("{}: {what}, repaired", path.display())),
            },
            Ok(_) => FoundWatermark::Broken(Damage::foreign(&path)),
            Err(error) => FoundWatermark::Broken(Damage::new(&path, error)),
        })
    }

    /// How far the log had got at least, as the watermark of a directory says, whoever wrote it.
    pub(crate) fn reach(disk: &dyn Disk, directory: &Path) -> std::io::Result<Option<Index>> {
        let Found::Sound { content, .. } = slots::read(disk, &directory.join(WATERMARK), MAGIC)? else {
            return Ok(None);
        };
        let Ok((_, watermark, healing)) = decode(&content) else { return Ok(None) };
        Ok(Some(watermark.last.index.max(healing.map_or(Index::ZERO, |healing| healing.past))))
    }

    /// What the watermark of a directory names, whoever wrote it, for observers.
    pub(crate) fn peek(disk: &dyn Disk, directory: &Path) -> Option<EntryId> {
        let Found::Sound { content, .. } = slots::read(disk, &directory.join(WATERMARK), MAGIC).ok()? else {
            return None;
        };
        decode(&content).ok().map(|(_, watermark, _)| watermark.last)
    }

    pub(crate) fn create(
        disk: &dyn Disk,
        directory: &Path,
        identity: u64,
        watermark: SyncedWatermark,
        healing: Option<Healing>,
    ) -> Result<WatermarkFile, StorageError> {
        let content = encode(identity, watermark, healing.as_ref());
        let slots = Slots::create(disk, &directory.join(WATERMARK), MAGIC, &content)?;
        Ok(WatermarkFile { slots, identity, watermark, healing, unsynced: 0 })
    }

    pub(crate) fn watermark(&self) -> SyncedWatermark {
        self.watermark
    }

    /// Whether the log lacks entries that the node may have acknowledged.
    pub(crate) fn healing(&self) -> Option<&Healing> {
        self.healing.as_ref()
    }

    /// The log lacks nothing any more, and is durable.
    pub(crate) fn end_healing(&mut self) -> Result<(), StorageError> {
        self.healing = None;
        self.lower(self.watermark)
    }

    /// Notes what was just synced. Costs a sync of its own only now and then.
    pub(crate) fn follow(&mut self, watermark: SyncedWatermark) -> Result<(), StorageError> {
        if watermark == self.watermark {
            return Ok(());
        }
        self.slots.write_one(&self.encode(watermark))?;
        self.watermark = watermark;
        self.unsynced += 1;
        if self.unsynced >= SYNC_EVERY_WRITES_MAX {
            self.slots.sync()?;
            self.unsynced = 0;
        }
        Ok(())
    }

    /// Lowers the watermark durably, before what is above it may be removed.
    pub(crate) fn lower(&mut self, watermark: SyncedWatermark) -> Result<(), StorageError> {
        // Into both slots: otherwise damage to the newer one would bring back a watermark that the log can no longer
        // satisfy.
        self.slots.write_both(&self.encode(watermark))?;
        self.watermark = watermark;
        self.unsynced = 0;
        Ok(())
    }

    /// Writes what counts to both slots again.
    pub(crate) fn repair(&mut self) -> Result<(), StorageError> {
        self.lower(self.watermark)
    }

    fn encode(&self, watermark: SyncedWatermark) -> Vec<u8> {
        encode(self.identity, watermark, self.healing.as_ref())
    }
}

//! What can still be read of segments that are damaged.

use std::collections::BTreeSet;
use std::path::Path;

use super::Segment;
use super::format::SyncedClaim;
use super::pool::{self, segment_path};
use super::reading::read_segment;
use super::replay::Replay;
use crate::disk::Disk;
use crate::entry::EntryId;
use crate::storage::healing::{Salvage, behind_snapshot};
use crate::storage::{LoadError, StorageError};

/// Whose segments these are. The directory is there.
pub(crate) fn owners(disk: &dyn Disk, directory: &Path) -> Result<BTreeSet<u64>, LoadError> {
    Ok(pool::find(disk, directory)?.begun.values().map(|(header, _)| header.identity).collect())
}

/// Reads what verifies, and changes nothing. Of the segments that follow each other from the snapshot on, the records
/// up to the first that does not fit into the chain: what they leave is a log that there was at some time. Of the
/// others, only how far they reach.
///
/// # Errors
/// Those of the device, and `Newer`.
pub(crate) fn salvage(
    disk: &dyn Disk,
    directory: &Path,
    identity: u64,
    snapshot: EntryId,
) -> Result<Salvage, LoadError> {
    let found = pool::find(disk, directory)?;
    let mut salvage = Salvage::default();
    let own = || found.begun.values().map(|(header, _)| *header).filter(|header| header.identity == identity);
    // The last one that everything needed stands behind, as in an orderly start; what a later one continues is in the
    // same chain.
    let first = own().filter(|header| header.is_readable_from(snapshot.index)).map(|header| header.number).max();
    let mut chained: Option<Replay> = None;
    let mut next = first;
    for header in own() {
        salvage.saw(header.base);
        let path = segment_path(directory, header.number);
        let failed = |error| StorageError::new(&path, "reading", error);
        let segment = Segment { header, file: disk.open(&path, false).map_err(failed)? };
        let bytes = read_segment(&segment, None).map_err(failed)?;
        let mut alone = Replay::new(header.base, false);
        // What does not fit ends it; it says what came before.
        let _ = alone.play(&path, &header, &bytes);
        salvage.saw(alone.last());
        if let Some(claim) = SyncedClaim::furthest(&bytes, alone.end as usize, &header) {
            salvage.saw(claim.last);
        }
        if next != Some(header.number) {
            continue;
        }
        let replay = chained.get_or_insert_with(|| Replay::new(header.base, true));
        let follows = Some(header.number) == first || replay.is_followed_by(&header);
        let whole = follows && replay.play(&path, &header, &bytes).is_ok();
        next = whole.then_some(header.number + 1);
    }
    if let Some(replay) = chained {
        salvage.saw(replay.last());
        if replay.is_base_term_known {
            salvage.entries = behind_snapshot(snapshot, replay.base, replay.entries);
        }
    }
    Ok(salvage)
}

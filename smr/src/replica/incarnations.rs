//! Opens a directory for a process: the first of its incarnations that is not damaged.

use std::sync::Arc;
use std::time::SystemTime;

use crate::disk::{Disk, RealDisk};
use crate::entry::SnapshotMeta;
use crate::fatal::Lifeline;
use crate::id::Incarnation;
use crate::replica::options::{ReplicaOptions, StartError};
use crate::replica::snapshots::aside;
use crate::report::Reporter;
use crate::snapshot::SnapshotDir;
use crate::storage::{self, OpenedStore, ReplicaDirectory, Store, StoreOptions, SyncMode};

/// Incarnations of a directory that are looked at in one start: the damaged one, its damaged next one, and a fresh one.
const INCARNATIONS_MAX: usize = 3;

/// Opens the incarnation of a directory that may count: the first one that is not damaged. Says why an earlier one
/// ended, if it did.
pub(super) fn open_incarnations(
    directory: ReplicaDirectory,
    options: &ReplicaOptions,
    reporter: &Reporter,
    lifeline: &Lifeline,
) -> Result<(Box<OpenedStore>, SnapshotDir, Option<String>), StartError> {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let mut incarnation = directory;
    let mut quarantine = None;
    for _ in 0..INCARNATIONS_MAX {
        let quarantined = match open_incarnation(&disk, incarnation, options, reporter, lifeline)? {
            (storage::OpenOutcome::Store(store), snapshots) => {
                let snapshots = snapshots.ok_or_else(|| {
                    StartError::new("snapshots were not looked for in a directory that was opened".to_owned())
                })?;
                if store.sync_mode != SyncMode::Synced {
                    reporter.line(&format!("writes are not proved to reach the device: {}", store.sync_mode));
                }
                return Ok((store, snapshots, quarantine));
            }
            (storage::OpenOutcome::Quarantined(quarantined), _) => quarantined,
        };
        reporter.line(&format!("quarantined: {}", quarantined.reason));
        quarantine.get_or_insert(quarantined.reason.clone());
        // Should the next incarnation be damaged, too, yet another one takes its place.
        incarnation = quarantined.into_next_incarnation().map_err(StartError::of)?;
    }
    Err(StartError::new(format!(
        "{}: each incarnation that is begun here is damaged at once",
        options.directory.display()
    )))
}

pub(super) fn now_unix_s() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Opens one incarnation of a directory: snapshots first, because they say where the log must begin. A quarantined
/// incarnation is left alone.
fn open_incarnation(
    disk: &Arc<dyn Disk>,
    directory: ReplicaDirectory,
    options: &ReplicaOptions,
    reporter: &Reporter,
    lifeline: &Lifeline,
) -> Result<(storage::OpenOutcome, Option<SnapshotDir>), StartError> {
    let mut snapshot = SnapshotMeta::default();
    let mut snapshots = None;
    if directory.quarantined().is_none() {
        // Reads the newest one whole, on processors that others in service may share.
        let (disk, path, group) = (disk.clone(), directory.snapshots(), options.group.clone());
        let genesis = directory.genesis();
        let (found, newest) = aside(lifeline, move || SnapshotDir::open(disk, path, group, genesis))
            .map_err(|error| StartError::new(format!("{}: {error}", directory.snapshots().display())))?;
        found.notes().iter().for_each(|note| reporter.line(note));
        snapshot = newest.map(|info| info.meta).unwrap_or_default();
        snapshots = Some(found);
    }
    let opened = Store::open(
        directory,
        &StoreOptions {
            snapshot,
            kind: options.kind,
            incarnation_if_new: Incarnation(rand::random::<u64>().max(1)),
            engine: options.log_engine,
            allow_unsynced: options.allow_unsynced,
            now_unix_s: now_unix_s(),
            start_nonce: rand::random(),
        },
    )
    .map_err(StartError::from)?;
    if let storage::OpenOutcome::Store(store) = &opened {
        store.notes.iter().for_each(|note| reporter.line(note));
    }
    Ok((opened, snapshots))
}

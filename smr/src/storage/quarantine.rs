//! Quarantine: a damaged replica stays out of everything until another incarnation took its place.
//!
//! The file `quarantine` is written before anything damaged is touched again, and while it exists every start ends
//! here. The damaged incarnation never comes back, because its term and vote are unknown. The replica lives on in
//! `next/`: a directory of the same layout, with a new incarnation, that joins its group as anyone new does. Once the
//! group has taken it in, the next start swaps the incarnations ([`super::readmission`]).

use std::io;
use std::sync::Arc;

use super::directory::{DirectoryIncarnation, ReplicaDirectory};
use super::hard_state::{FoundHardState, HardStateFile};
use super::names::{NEXT, free_name};
use super::open_error::OpenError;
use super::quarantine_note::{Note, read, write};
use super::{Identity, StorageError};

/// A replica in quarantine. Holds the directory's lock.
pub struct Quarantined {
    /// Why, with the name of the damaged file.
    pub reason: String,
    /// Since when, in seconds of Unix time, if that is readable.
    pub since_unix_s: Option<u64>,
    /// Who it was, if that is readable.
    pub identity: Option<Identity>,
    /// Whether its next incarnation has begun in an earlier run.
    pub next_incarnation_begun: bool,
    directory: ReplicaDirectory,
}

impl Quarantined {
    pub(crate) fn of(directory: ReplicaDirectory, note: Note) -> Result<Quarantined, OpenError> {
        let disk = directory.disk.as_ref();
        let root = &directory.root;
        let found = HardStateFile::read(disk, root)
            .map_err(|error| StorageError::new(root, "reading the hard state", error))?;
        let identity = match found {
            FoundHardState::Sound { file, .. } => Some(file.record().identity.clone()),
            _ => None,
        };
        let begun = disk.exists(&root.join(NEXT)).map_err(|error| StorageError::new(root, "looking", error))?;
        let Note { reason, since_unix_s } = note;
        Ok(Quarantined { reason, since_unix_s, identity, next_incarnation_begun: begun, directory })
    }

    /// Goes to the replica's next incarnation, which is begun if need be: an uninitialized replica to be opened with
    /// [`super::Store::open`]. Should that incarnation have been damaged too, it is put aside and another one is begun.
    ///
    /// # Errors
    /// Those of the file system, and those of [`ReplicaDirectory::open`]. A next incarnation within a next incarnation
    /// is refused.
    pub fn into_next_incarnation(self) -> Result<ReplicaDirectory, OpenError> {
        let ReplicaDirectory { disk, root, expected, incarnation, lock, .. } = self.directory;
        // A next incarnation that was found damaged just now: its successor has the same place.
        let top = match incarnation {
            DirectoryIncarnation::Present => root,
            DirectoryIncarnation::Next { of } => of,
        };
        let next = top.join(NEXT);
        let mut notes = Vec::new();
        let doing = |error: io::Error| StorageError::new(&next, "beginning the next incarnation", error);
        if read(disk.as_ref(), &next)?.is_some() {
            let aside = free_name(disk.as_ref(), &top, "damaged-next").map_err(doing)?;
            disk.rename(&next, &top.join(&aside)).map_err(doing)?;
            disk.sync_dir(&top).map_err(doing)?;
            notes.push(format!("{}: damaged, moved to {aside}", next.display()));
        }
        disk.create_dir_all(&next).map_err(doing)?;
        disk.sync_dir(&top).map_err(doing)?;
        ReplicaDirectory::inspect(disk, &next, expected, DirectoryIncarnation::Next { of: top }, lock, notes)
    }
}

/// A store that turned out not to belong to its group goes into quarantine while it runs.
pub(crate) fn enter(directory: ReplicaDirectory, reason: &str, now_unix_s: u64) -> Result<Quarantined, OpenError> {
    let disk = Arc::clone(&directory.disk);
    let note = write(disk.as_ref(), &directory.root, reason, now_unix_s)?;
    Quarantined::of(directory, note)
}

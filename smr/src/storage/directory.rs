//! A replica's directory: claimed by one process, checked for its owner, not opened yet.
//!
//! It may be the root of a file system, and tools may leave files of their own in it and below it (`lost+found`,
//! `.DS_Store`, `.nfs...`): names that are not ours are neither read nor counted anywhere.
//!
//! The steps are separate because snapshots are read between them: [`ReplicaDirectory::open`] locks, finishes an
//! interrupted readmission and refuses strangers; then the newest snapshot is looked for in
//! [`ReplicaDirectory::snapshots`]; then [`super::Store::open`] reads the log after it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::StorageError;
use super::disk::{Disk, DiskLock};
use super::hard_state::{BootstrapState, FoundHardState, HARD_STATE, HardStateFile};
use super::identity::ExpectedIdentity;
use super::names::{LOCK, LOG, SNAPSHOTS};
use super::open_error::OpenError;
use super::quarantine_note::{self, Note};
use super::readmission;
use super::slots::SLOT_VERSION;
use super::watermark::WATERMARK;
use crate::entry::GenesisHash;

/// How often, and with which pauses, a lock is tried: for half a second.
const LOCK_TRIES: usize = 50;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Which of its incarnations a directory is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DirectoryIncarnation {
    /// The directory itself.
    Present,
    /// The one after a quarantine, inside the quarantined directory `of`.
    Next {
        /// The quarantined directory.
        of: PathBuf,
    },
}

/// A directory that this process has claimed: no one else can open it until this, or the store made of it, is dropped.
pub struct ReplicaDirectory {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) root: PathBuf,
    pub(crate) expected: ExpectedIdentity,
    pub(crate) incarnation: DirectoryIncarnation,
    /// The genesis of the group that it belongs to, if it was initialized.
    pub(crate) genesis: Option<GenesisHash>,
    pub(crate) note: Option<Note>,
    pub(crate) notes: Vec<String>,
    pub(crate) lock: Arc<DiskLock>,
}

impl ReplicaDirectory {
    /// Claims a directory, which is made if need be.
    ///
    /// # Errors
    /// If another process has it, if it belongs to another replica, if a newer build wrote it, or if the file system
    /// fails. It is then as it was.
    pub fn open(disk: Arc<dyn Disk>, path: &Path, expected: ExpectedIdentity) -> Result<ReplicaDirectory, OpenError> {
        make_directory(disk.as_ref(), path).map_err(|error| StorageError::new(path, "creating", error))?;
        let mut notes = Vec::new();
        let lock = Arc::new(lock(disk.as_ref(), path, &mut notes)?);
        // Before the owner is looked at: in the middle of a readmission the hard state may be in either place.
        readmission::finish_readmission(disk.as_ref(), path, &mut notes)?;
        readmission::note_former_lives(disk.as_ref(), path, &mut notes)?;
        ReplicaDirectory::inspect(disk, path, expected, DirectoryIncarnation::Present, lock, notes)
    }

    pub(crate) fn inspect(
        disk: Arc<dyn Disk>,
        root: &Path,
        expected: ExpectedIdentity,
        incarnation: DirectoryIncarnation,
        lock: Arc<DiskLock>,
        mut notes: Vec<String>,
    ) -> Result<ReplicaDirectory, OpenError> {
        let doing = |what: &'static str| move |error: io::Error| StorageError::new(root, what, error);
        let note = quarantine_note::read(disk.as_ref(), root)?;
        let mut genesis = None;
        match HardStateFile::read(disk.as_ref(), root).map_err(doing("reading the hard state"))? {
            FoundHardState::Newer { file, found } => {
                return Err(OpenError::Newer { file, found, supported: SLOT_VERSION });
            }
            FoundHardState::Sound { file, .. } => {
                let identity = &file.record().identity;
                if let BootstrapState::Initialized { genesis: own, .. } = &file.record().bootstrap {
                    genesis = Some(*own);
                }
                let stranger = identity.group != expected.group
                    || identity.node.name != expected.name
                    || identity.cluster.zip(expected.cluster).is_some_and(|(found, expected)| found != expected);
                if stranger {
                    let expected = Box::new(expected);
                    return Err(OpenError::Foreign { directory: root.to_owned(), found: identity.clone(), expected });
                }
                if note.is_none() && !file.record().bootstrap.is_initialized() {
                    throw_away(disk.as_ref(), root, &mut notes)
                        .map_err(doing("removing what an uninitialized node left"))?;
                }
            }
            FoundHardState::Missing | FoundHardState::Broken(_) => {}
        }
        Ok(ReplicaDirectory { disk, root: root.to_owned(), expected, incarnation, genesis, note, notes, lock })
    }

    /// Where the snapshots of this directory's present incarnation are.
    pub fn snapshots(&self) -> PathBuf {
        self.root.join(SNAPSHOTS)
    }

    /// The genesis of the group that it belongs to, if it was initialized: snapshots of another one are not its own.
    pub fn genesis(&self) -> Option<GenesisHash> {
        self.genesis
    }

    /// Why it is in quarantine, if it is. Then nothing in it should be touched, snapshots included.
    pub fn quarantined(&self) -> Option<&str> {
        self.note.as_ref().map(|note| note.reason.as_str())
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.root
    }
}

/// A process that has just ended may hold the lock for a moment, and so may a child that one is just starting; whoever
/// really has the directory keeps it.
///
/// There are two locks. The file is empty and never written, so it looks like rubbish to whoever cleans up, and once it
/// is gone a second process could lock another one; the directory itself stays. Builds before this one know only the
/// file.
fn lock(disk: &dyn Disk, path: &Path, notes: &mut Vec<String>) -> Result<DiskLock, OpenError> {
    lock_both(disk, path, true, notes)
}

/// The same, without making the file that is locked.
pub(crate) fn lock_what_is_there(disk: &dyn Disk, path: &Path, has_file: bool) -> Result<DiskLock, OpenError> {
    lock_both(disk, path, has_file, &mut Vec::new())
}

fn lock_both(disk: &dyn Disk, path: &Path, with_file: bool, notes: &mut Vec<String>) -> Result<DiskLock, OpenError> {
    let file = path.join(LOCK);
    let by_file = match with_file {
        true => Some(take(path, || disk.lock(&file)).map_err(|error| refusal(path, &file, error))?),
        false => None,
    };
    let by_directory = match take(path, || disk.lock_dir(path)) {
        Ok(lock) => lock,
        Err(error) if is_not_lockable(&error) => {
            // Over a network, some file systems lock only what is open for writing, which no directory can be.
            let what = format!("cannot be locked itself ({error}): nothing may remove the file {LOCK} in it");
            notes.push(format!("{}: {what}", path.display()));
            Box::new(())
        }
        Err(error) => return Err(refusal(path, path, error)),
    };
    Ok(Box::new((by_directory, by_file)))
}

fn take(path: &Path, mut attempt: impl FnMut() -> io::Result<DiskLock>) -> io::Result<DiskLock> {
    for _ in 0..LOCK_TRIES {
        match attempt() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(LOCK_PAUSE),
            other => return other,
        }
    }
    Err(io::Error::new(io::ErrorKind::WouldBlock, format!("{} is locked", path.display())))
}

fn refusal(path: &Path, locked: &Path, error: io::Error) -> OpenError {
    if error.kind() == io::ErrorKind::WouldBlock {
        return OpenError::Locked { directory: path.to_owned() };
    }
    StorageError::new(locked, "locking", error).into()
}

fn is_not_lockable(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let codes = [Errno::BADF, Errno::OPNOTSUPP, Errno::NOLCK, Errno::INVAL, Errno::NOSYS];
    codes.iter().any(|code| error.raw_os_error() == Some(code.raw_os_error()))
}

/// Removes what an uninitialized node has beside its hard state: it is bound by nothing, so nothing of it counts.
fn throw_away(disk: &dyn Disk, root: &Path, notes: &mut Vec<String>) -> io::Result<()> {
    let mut any = false;
    for name in [LOG, SNAPSHOTS] {
        if disk.exists(&root.join(name))? {
            disk.remove_dir_all(&root.join(name))?;
            any = true;
        }
    }
    if disk.exists(&root.join(WATERMARK))? {
        disk.remove_file(&root.join(WATERMARK))?;
        any = true;
    }
    if any {
        disk.sync_dir(root)?;
        notes.push(format!("{}: not initialized yet, its empty log was made again", root.display()));
    }
    Ok(())
}

/// Makes a directory and those above it, durably.
fn make_directory(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    let mut parents = Vec::new();
    for ancestor in path.ancestors().filter(|ancestor| !ancestor.as_os_str().is_empty()) {
        parents.push(parent_of(ancestor));
        if disk.exists(ancestor)? && ancestor != path {
            break;
        }
    }
    disk.create_dir_all(path)?;
    if disk.exists(&path.join(HARD_STATE))? {
        return Ok(()); // it was synced before the hard state was made
    }
    // Also if the directory was there: an earlier start may have ended right after it was made.
    for parent in parents {
        match disk.sync_dir(parent) {
            // Those further up may be closed to us; they were not made by us.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && parent != parent_of(path) => {}
            other => other?,
        }
    }
    Ok(())
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    }
}

//! Quarantine: a damaged replica stays out of everything until another incarnation took its place.
//!
//! The file `quarantine` is written before anything damaged is touched again, and while it exists every start ends
//! here. The damaged incarnation never comes back, because what it promised is unknown. The replica lives on in
//! `next/`: a directory of the same layout, with a new incarnation, that joins its group as anyone new does. Once the
//! group has taken it in, `next/ready` is written, and the next start swaps the incarnations:
//! 1. `promise`, `mark`, `starts`, `log`, `snapshots` and `quarantine` move to `damaged-<incarnation>/`;
//! 2. `next/ready` becomes `next/moving`;
//! 3. everything else in `next/` moves up;
//! 4. `moving` goes, and `next/`.
//!
//! `ready` carries the name of the damaged directory; it and `moving` tell which step is under way, and each step only
//! moves what is still there, so a crash anywhere only means that the next start goes on.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::directory::{DirectoryIncarnation, LOG, ReplicaDirectory, SNAPSHOTS};
use super::disk::{Disk, read_file};
use super::hard_state::{FoundHardState, HARD_STATE, HardStateFile};
use super::open::OpenError;
use super::starts::STARTS;
use super::watermark::WATERMARK;
use super::{Identity, StorageError};

pub(crate) const QUARANTINE: &str = "quarantine";
pub(crate) const NEXT: &str = "next";
const READY: &str = "ready";
const MOVING: &str = "moving";
const DAMAGED: &str = "damaged-";
const NOTE_MAX_BYTES: u64 = 64 << 10;
/// How many damaged directories with the same name may lie around before a readmission is refused.
const DAMAGED_NAMES_MAX: u32 = 10_000;

/// What the file `quarantine` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Note {
    pub(crate) reason: String,
    pub(crate) since_unix_s: Option<u64>,
}

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

/// Reads the file `quarantine`. A file that cannot be understood counts as well.
pub(crate) fn read(disk: &dyn Disk, root: &Path) -> Result<Option<Note>, StorageError> {
    let path = root.join(QUARANTINE);
    let bytes = match read_file(disk, &path, NOTE_MAX_BYTES) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Vec::new(),
        Err(error) => return Err(StorageError::new(&path, "reading", error)),
    };
    let text = String::from_utf8_lossy(&bytes);
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let reason = field("reason:").filter(|reason| !reason.is_empty()).unwrap_or("the reason is unreadable").to_owned();
    let since_unix_s = field("since_unix_s:").and_then(|seconds| seconds.parse().ok());
    Ok(Some(Note { reason, since_unix_s }))
}

/// Puts a directory into quarantine, durably.
pub(crate) fn write(disk: &dyn Disk, root: &Path, reason: &str, now_unix_s: u64) -> Result<Note, StorageError> {
    let reason = reason.replace(['\n', '\r'], " ");
    let text = format!("reason: {reason}\nsince_unix_s: {now_unix_s}\n");
    write_whole(disk, &root.join(QUARANTINE), text.as_bytes())?;
    Ok(Note { reason, since_unix_s: Some(now_unix_s) })
}

/// Writes a file that is absent or complete after a crash.
fn write_whole(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> Result<(), StorageError> {
    let doing = |error: io::Error| StorageError::new(path, "writing", error);
    let new = path.with_extension("new");
    let file = disk.open(&new, true).map_err(doing)?;
    file.set_len(bytes.len() as u64).map_err(doing)?;
    file.write_at(bytes, 0).map_err(doing)?;
    file.sync().map_err(doing)?;
    disk.rename(&new, path).map_err(doing)?;
    let parent = path.parent().unwrap_or_else(|| panic!("{} has no parent", path.display()));
    disk.sync_dir(parent).map_err(doing)
}

pub(crate) fn free_name(disk: &dyn Disk, root: &Path, stem: &str) -> io::Result<String> {
    for number in 0..DAMAGED_NAMES_MAX {
        let name = if number == 0 { stem.to_owned() } else { format!("{stem}-{number}") };
        if !disk.exists(&root.join(&name))? {
            return Ok(name);
        }
    }
    Err(io::Error::other(format!("too many directories named {stem}-*")))
}

/// Says that the next incarnation, in `top`/next, was taken in: the next start swaps the incarnations.
pub(crate) fn mark_ready(disk: &dyn Disk, top: &Path) -> Result<(), StorageError> {
    let ready = top.join(NEXT).join(READY);
    let doing = |error: io::Error| StorageError::new(&ready, "writing", error);
    if disk.exists(&ready).map_err(doing)? {
        return Ok(());
    }
    let stem = match HardStateFile::read(disk, top).map_err(doing)? {
        FoundHardState::Sound { file, .. } => format!("{DAMAGED}{}", file.record().identity.node.incarnation),
        _ => format!("{DAMAGED}unknown"),
    };
    let name = free_name(disk, top, &stem).map_err(doing)?;
    write_whole(disk, &ready, name.as_bytes())
}

/// Swaps the incarnations, if the next one was declared ready, from wherever an earlier try was interrupted.
pub(crate) fn finish_readmission(disk: &dyn Disk, top: &Path, notes: &mut Vec<String>) -> Result<(), StorageError> {
    let next = top.join(NEXT);
    let ready = next.join(READY);
    let doing = |error: io::Error| StorageError::new(&next, "moving the next incarnation up", error);
    if disk.exists(&next.join(MOVING)).map_err(doing)? {
        return move_up(disk, top).map_err(doing);
    }
    let name = match read_file(disk, &ready, NOTE_MAX_BYTES) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return remove_leftover(disk, top).map_err(doing),
        Err(error) => return Err(StorageError::new(&ready, "reading", error)),
    };
    if !name.starts_with(DAMAGED) || name.contains(['/', '\0']) {
        return Err(StorageError::new(&ready, "reading", format!("{name:?} is no name for a damaged directory")));
    }
    put_aside(disk, top, &top.join(&name)).map_err(doing)?;
    disk.rename(&ready, &next.join(MOVING)).map_err(doing)?;
    disk.sync_dir(&next).map_err(doing)?;
    notes.push(format!("{}: readmitted; the damaged incarnation lies in {name}", top.display()));
    move_up(disk, top).map_err(doing)
}

/// Says that previous incarnations lie around. Nothing ever removes them: should a majority have been damaged, they
/// hold all that is left of what it had acknowledged. So whoever operates the replica decides, and is told at each
/// start.
pub(crate) fn note_former_lives(disk: &dyn Disk, top: &Path, notes: &mut Vec<String>) -> Result<(), StorageError> {
    let names = disk.list(top).map_err(|error| StorageError::new(top, "looking for previous incarnations", error))?;
    let former: Vec<String> = names.into_iter().filter(|name| name.starts_with(DAMAGED)).collect();
    if !former.is_empty() {
        let what = format!("what was damaged in former starts lies in {}", former.join(", "));
        notes.push(format!("{}: {what}; nothing reads them again, remove them when no one needs them", top.display()));
    }
    Ok(())
}

fn put_aside(disk: &dyn Disk, top: &Path, aside: &Path) -> io::Result<()> {
    disk.create_dir_all(aside)?;
    disk.sync_dir(top)?;
    for item in [HARD_STATE, WATERMARK, LOG, SNAPSHOTS, STARTS, QUARANTINE] {
        if disk.exists(&top.join(item))? {
            disk.rename(&top.join(item), &aside.join(item))?;
        }
    }
    sync_both(disk, aside, top)
}

/// What is in `next/` by now is all that there is of the present incarnation, so it may replace nothing.
fn move_up(disk: &dyn Disk, top: &Path) -> io::Result<()> {
    let next = top.join(NEXT);
    for item in disk.list(&next)? {
        // What is in both places is not ours: some tool left it in each.
        if item != MOVING && !disk.exists(&top.join(&item))? {
            disk.rename(&next.join(&item), &top.join(&item))?;
        }
    }
    // Durable before the file that says that this step is still to be done.
    sync_both(disk, &next, top)?;
    disk.remove_file(&next.join(MOVING))?;
    disk.sync_dir(&next)?;
    disk.remove_dir_all(&next)?;
    disk.sync_dir(top)
}

fn sync_both(disk: &dyn Disk, first: &Path, second: &Path) -> io::Result<()> {
    disk.sync_dir(first)?;
    disk.sync_dir(second)
}

/// The last step may have been interrupted between `ready` and its directory.
fn remove_leftover(disk: &dyn Disk, top: &Path) -> io::Result<()> {
    let next = top.join(NEXT);
    if disk.exists(&next)? && !disk.exists(&top.join(QUARANTINE))? && disk.list(&next)?.is_empty() {
        disk.remove_dir_all(&next)?;
        disk.sync_dir(top)?;
    }
    Ok(())
}

/// A store that turned out not to belong to its group goes into quarantine while it runs.
pub(crate) fn enter(directory: ReplicaDirectory, reason: &str, now_unix_s: u64) -> Result<Quarantined, OpenError> {
    let disk = Arc::clone(&directory.disk);
    let note = write(disk.as_ref(), &directory.root, reason, now_unix_s)?;
    Quarantined::of(directory, note)
}

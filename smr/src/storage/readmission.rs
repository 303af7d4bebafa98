//! Readmission: how the next incarnation of a replica in quarantine takes the place of the damaged one.
//!
//! Once the group has taken it in, `next/ready` is written, and the next start swaps the incarnations:
//! 1. `promise`, `mark`, `starts`, `log`, `snapshots` and `quarantine` move to `damaged-<incarnation>/`;
//! 2. `next/ready` becomes `next/moving`;
//! 3. everything else in `next/` moves up;
//! 4. `moving` goes, and `next/`.
//!
//! `ready` carries the name of the damaged directory; it and `moving` tell which step is under way, and each step only
//! moves what is still there, so a crash anywhere only means that the next start goes on.

use std::io;
use std::path::Path;

use super::StorageError;
use super::disk::{Disk, read_file};
use super::hard_state::{FoundHardState, HARD_STATE, HardStateFile};
use super::names::{LOG, NEXT, QUARANTINE, SNAPSHOTS, free_name};
use super::quarantine_note::{NOTE_MAX_BYTES, write_whole};
use super::starts::STARTS;
use super::watermark::WATERMARK;

const READY: &str = "ready";
const MOVING: &str = "moving";
const DAMAGED: &str = "damaged-";

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

//! What lies in a replica's directory under which name, and free names for what is put aside there.

use std::io;
use std::path::Path;

use super::disk::Disk;

/// What is locked while a process has the directory, where a directory itself cannot be.
pub(crate) const LOCK: &str = "lock";
/// The log.
pub(crate) const LOG: &str = "log";
/// The snapshots.
pub(crate) const SNAPSHOTS: &str = "snapshots";
/// In a quarantined directory: the replica's next incarnation.
pub(crate) const NEXT: &str = "next";
/// In a quarantined directory: why it is.
pub(crate) const QUARANTINE: &str = "quarantine";
/// How many damaged directories with the same name may lie around before a readmission is refused.
const DAMAGED_NAMES_MAX: u32 = 10_000;

/// A name that begins with `stem` and that nothing in `root` has.
pub(crate) fn free_name(disk: &dyn Disk, root: &Path, stem: &str) -> io::Result<String> {
    for number in 0..DAMAGED_NAMES_MAX {
        let name = if number == 0 { stem.to_owned() } else { format!("{stem}-{number}") };
        if !disk.exists(&root.join(&name))? {
            return Ok(name);
        }
    }
    Err(io::Error::other(format!("too many directories named {stem}-*")))
}

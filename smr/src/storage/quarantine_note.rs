//! The file `quarantine`: that a directory is in quarantine, why, and since when.

use std::io;
use std::path::Path;

use super::StorageError;
use super::disk::{Disk, read_file};
use super::names::QUARANTINE;

/// The most of a small text file that is read, in bytes.
pub(super) const NOTE_MAX_BYTES: u64 = 64 << 10;

/// What the file `quarantine` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Note {
    pub(crate) reason: String,
    pub(crate) since_unix_s: Option<u64>,
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
pub(super) fn write_whole(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> Result<(), StorageError> {
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

//! Puts a damaged log aside, where nothing ever removes it.

use std::io;
use std::path::Path;

use super::StorageError;
use super::directory::{DirectoryIncarnation, ReplicaDirectory};
use super::names::{LOG, free_name};

/// What a damaged log is called once it is set aside.
pub(crate) const DAMAGED_LOG: &str = "damaged-log";

/// Puts the log aside; its new name. `None` if there is none.
pub(crate) fn set_log_aside(directory: &ReplicaDirectory) -> Result<Option<String>, StorageError> {
    let (disk, root) = (directory.disk.as_ref(), directory.root.as_path());
    let log = root.join(LOG);
    let doing = |error: io::Error| StorageError::new(&log, "setting aside", error);
    if !disk.exists(&log).map_err(doing)? {
        return Ok(None);
    }
    // A next incarnation's moves up one day, and whatever it holds with it.
    let top: &Path = match &directory.incarnation {
        DirectoryIncarnation::Present => root,
        DirectoryIncarnation::Next { of } => of,
    };
    let name = free_name(disk, top, DAMAGED_LOG).map_err(doing)?;
    disk.rename(&log, &top.join(&name)).map_err(doing)?;
    disk.sync_dir(root).map_err(doing)?;
    disk.sync_dir(top).map_err(doing)?;
    Ok(Some(name))
}

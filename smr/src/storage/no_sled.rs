//! In the place of sled, in a build without the feature `sled`: opens nothing.

use std::path::Path;

use super::open_error::Trouble;
use super::{ByteMap, StorageError};
use crate::disk::sync_mode::SyncMode;

const WHY: &str = "this build has no sled; its log engine is segments";

/// Never made.
pub(crate) struct OpenedMap {
    pub(crate) map: Box<dyn ByteMap>,
    pub(crate) sync_mode: SyncMode,
    pub(crate) notes: Vec<String>,
}

/// Refuses.
pub(crate) fn open(directory: &Path, _allow_unsynced: bool) -> Result<OpenedMap, Trouble> {
    Err(StorageError::new(directory, "opening", WHY).into())
}

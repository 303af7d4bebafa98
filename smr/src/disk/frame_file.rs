//! Files that are one frame: small things that are remembered for the next start, and of which a crash leaves the old
//! or the new.

use std::io;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Disk, read_file};
use crate::codec::{self, FrameHeader, HEADER_LEN_BYTES};

/// A kind of such files.
#[derive(Clone, Copy, Debug)]
pub struct FrameFile {
    /// The file's name. It is written under this name and `.new`.
    pub name: &'static str,
    /// Kind of its frame.
    pub kind: u16,
    /// The longest file, in bytes.
    pub max_bytes: u64,
}

impl FrameFile {
    /// What the file in `directory` holds; `None` if there is none.
    ///
    /// # Errors
    /// If it cannot be read, or is damaged; the text names it.
    pub fn load<T: DeserializeOwned>(&self, disk: &dyn Disk, directory: &Path) -> Result<Option<T>, String> {
        let path = directory.join(self.name);
        let damaged = |what: &dyn std::fmt::Display| format!("{}: {what}", path.display());
        let bytes = match read_file(disk, &path, self.max_bytes) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(damaged(&error)),
        };
        let Some((header, payload)) = bytes.split_first_chunk::<HEADER_LEN_BYTES>() else {
            return Err(damaged(&"too short"));
        };
        let limit = usize::try_from(self.max_bytes).unwrap_or(usize::MAX);
        let header = FrameHeader::parse(header, limit).map_err(|error| damaged(&error))?;
        if header.kind != self.kind || header.payload_len_bytes != payload.len() {
            return Err(damaged(&"of another kind or length"));
        }
        header.verify(payload).map_err(|error| damaged(&error))?;
        codec::decode(payload).map(Some).map_err(|error| damaged(&error))
    }

    /// Lets the file in `directory` hold `value`, durably: it is written beside, synced and renamed.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn save<T: Serialize>(&self, disk: &dyn Disk, directory: &Path, value: &T) -> io::Result<()> {
        let mut bytes = Vec::new();
        codec::frame(&mut bytes, self.kind, value).map_err(io::Error::other)?;
        let new = directory.join(format!("{}.new", self.name));
        let file = disk.open(&new, true)?;
        file.set_len(0)?;
        file.write_at(&bytes, 0)?;
        file.sync()?;
        drop(file);
        disk.rename(&new, &directory.join(self.name))?;
        disk.sync_dir(directory)
    }
}

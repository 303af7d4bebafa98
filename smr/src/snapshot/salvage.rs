//! Reading the snapshots of a directory that no one uses, without changing anything.

use std::io;
use std::path::{Path, PathBuf};

use super::format::Pieces;
use super::names::{self, Name};
use super::reader::SnapshotReader;
use super::{SnapshotError, SnapshotInfo, at};
use crate::disk::Disk;
use crate::id::GroupName;

/// A sound snapshot, wherever it lies.
#[derive(Clone, Debug)]
pub(crate) struct Salvaged {
    pub(crate) group: GroupName,
    pub(crate) info: SnapshotInfo,
    path: PathBuf,
}

impl Salvaged {
    /// Its payload.
    pub(crate) fn read(&self, disk: &dyn Disk) -> Result<SnapshotReader, SnapshotError> {
        Ok(SnapshotReader::new(pieces(disk, &self.path)?, Some(self.info.fingerprint)))
    }
}

/// All snapshots in `directory` that verify, also those set aside, for a device may have misread them; and a line for
/// each that does not. A directory that is not there has none.
pub(crate) fn salvage(disk: &dyn Disk, directory: &Path) -> Result<(Vec<Salvaged>, Vec<String>), SnapshotError> {
    let names = match disk.list(directory) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((Vec::new(), Vec::new())),
        Err(error) => return Err(at(directory)(error)),
    };
    let (mut sound, mut notes) = (Vec::new(), Vec::new());
    for name in names {
        if !matches!(names::parse(&name), Name::Snapshot(_) | Name::Bad) {
            continue;
        }
        let path = directory.join(&name);
        match verify(disk, &path) {
            Ok(salvaged) => sound.push(salvaged),
            Err(error @ SnapshotError::Corrupt { .. }) => notes.push(error.to_string()),
            Err(error) => return Err(error),
        }
    }
    Ok((sound, notes))
}

fn verify(disk: &dyn Disk, path: &Path) -> Result<Salvaged, SnapshotError> {
    let pieces = pieces(disk, path)?;
    let group = pieces.header.group.clone();
    let info = SnapshotReader::new(pieces, None).verify()?;
    Ok(Salvaged { group, info, path: path.to_owned() })
}

fn pieces(disk: &dyn Disk, path: &Path) -> Result<Pieces, SnapshotError> {
    let file = disk.open(path, false).map_err(at(path))?;
    let len_bytes = file.len().map_err(at(path))?;
    Pieces::open(file, path, len_bytes)
}

//! What the manager said about this replica, remembered, so that a restart needs no manager.
//!
//! The file `assignment` in the replica's directory is one frame of [`smr::codec`] with the cluster map. It is written
//! beside, synced and renamed, so a crash leaves the old one or the new one. Nothing rests on it: if it is damaged the
//! server asks again.

use std::io;
use std::path::Path;

use madkv_proto::map::ClusterMap;
use smr::codec::{self, FrameHeader, HEADER_LEN_BYTES};
use smr::internals::disk::{Disk, read_file};

/// The file's name.
const FILE: &str = "assignment";
/// The name under which it is written.
const FILE_NEW: &str = "assignment.new";
/// Kind of its frame.
const KIND_ASSIGNMENT: u16 = 0x4d10;
/// The longest file, in bytes: the largest map, twenty times over.
const FILE_MAX_BYTES: u64 = 1 << 20;

/// Reads the map that was remembered in `directory`; `None` if there is none.
///
/// # Errors
/// If the file cannot be read, or is damaged; the text names it.
pub fn load(disk: &dyn Disk, directory: &Path) -> Result<Option<ClusterMap>, String> {
    let path = directory.join(FILE);
    let damaged = |what: &dyn std::fmt::Display| format!("{}: {what}", path.display());
    let bytes = match read_file(disk, &path, FILE_MAX_BYTES) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(damaged(&error)),
    };
    let Some((header, payload)) = bytes.split_first_chunk::<HEADER_LEN_BYTES>() else {
        return Err(damaged(&"too short"));
    };
    let header = FrameHeader::parse(header, FILE_MAX_BYTES as usize).map_err(|error| damaged(&error))?;
    if header.kind != KIND_ASSIGNMENT || header.payload_len_bytes != payload.len() {
        return Err(damaged(&"of another kind or length"));
    }
    header.verify(payload).map_err(|error| damaged(&error))?;
    codec::decode(payload).map(Some).map_err(|error| damaged(&error))
}

/// Remembers `map` in `directory`, durably.
///
/// # Errors
/// Those of the file system.
pub fn save(disk: &dyn Disk, directory: &Path, map: &ClusterMap) -> io::Result<()> {
    let mut bytes = Vec::new();
    codec::frame(&mut bytes, KIND_ASSIGNMENT, map).map_err(io::Error::other)?;
    let new = directory.join(FILE_NEW);
    let file = disk.open(&new, true)?;
    file.set_len(0)?;
    file.write_at(&bytes, 0)?;
    file.sync()?;
    drop(file);
    disk.rename(&new, &directory.join(FILE))?;
    disk.sync_dir(directory)
}

#[cfg(test)]
mod tests {
    use smr::id::ClusterId;
    use smr::internals::disk::RealDisk;

    use super::*;

    fn map(count: usize) -> ClusterMap {
        let servers: Vec<String> = (0..count).map(|number| format!("127.0.0.1:{}", 3777 + number)).collect();
        ClusterMap::deal(ClusterId(7), 1, &servers).unwrap()
    }

    #[test]
    fn load_after_save_gives_the_newest() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(load(&RealDisk, directory.path()), Ok(None));
        for count in [50, 3] {
            save(&RealDisk, directory.path(), &map(count)).unwrap();
            assert_eq!(load(&RealDisk, directory.path()), Ok(Some(map(count))));
        }
    }

    // covers D4
    #[test]
    fn load_any_cut_or_flipped_bit_is_reported_with_the_files_name() {
        let directory = tempfile::tempdir().unwrap();
        save(&RealDisk, directory.path(), &map(1)).unwrap();
        let path = directory.path().join(FILE);
        let whole = std::fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            assert!(load(&RealDisk, directory.path()).unwrap_err().contains(FILE), "cut at {cut}");
        }
        for bit in 0..whole.len() * 8 {
            let mut bent = whole.clone();
            bent[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &bent).unwrap();
            assert!(load(&RealDisk, directory.path()).is_err(), "bit {bit}");
        }
    }
}

//! What the manager said about this replica, remembered, so that a restart needs no manager.
//!
//! The file `assignment` in the replica's directory is one frame of [`smr::codec`] with the cluster map. It is written
//! beside, synced and renamed, so a crash leaves the old one or the new one. Nothing rests on it: if it is damaged the
//! server asks again.

use std::io;
use std::path::Path;

use madkv_proto::map::ClusterMap;
use smr::internals::disk::{Disk, FrameFile};

/// The file: at most the largest map, twenty times over.
const FILE: FrameFile = FrameFile { name: "assignment", kind: 0x4d10, max_bytes: 1 << 20 };

/// Reads the map that was remembered in `directory`; `None` if there is none.
///
/// # Errors
/// If the file cannot be read, or is damaged; the text names it.
pub fn load(disk: &dyn Disk, directory: &Path) -> Result<Option<ClusterMap>, String> {
    FILE.load(disk, directory)
}

/// Remembers `map` in `directory`, durably.
///
/// # Errors
/// Those of the file system.
pub fn save(disk: &dyn Disk, directory: &Path, map: &ClusterMap) -> io::Result<()> {
    FILE.save(disk, directory, map)
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
        let path = directory.path().join(FILE.name);
        let whole = std::fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            assert!(load(&RealDisk, directory.path()).unwrap_err().contains(FILE.name), "cut at {cut}");
        }
        for bit in 0..whole.len() * 8 {
            let mut bent = whole.clone();
            bent[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &bent).unwrap();
            assert!(load(&RealDisk, directory.path()).is_err(), "bit {bit}");
        }
    }
}

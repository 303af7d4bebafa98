//! A small ext4 in a file, mounted through a loop device, that can be filled up and given room again. Needs root.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use super::Skipped;
use madkv_testkit::mount::Mount;

/// Writes this much at a time while filling up, in bytes: halved when it no longer fits, down to the block size.
const FILL_STEP_BYTES: usize = 1 << 20;
const BLOCK_BYTES: usize = 4096;
const BALLAST: &str = "ballast";

/// A mounted image. Whoever uses it has to end before this is dropped.
#[derive(Debug)]
pub struct SmallDisk {
    mount: Mount,
}

impl SmallDisk {
    /// Makes the image `<directory>/<name>.ext4`, `size_bytes` large, and mounts it at `<directory>/<name>`.
    ///
    /// # Errors
    /// [`Skipped`] where mounting is not possible.
    pub fn mount(directory: &Path, name: &str, size_bytes: u64) -> Result<SmallDisk, Skipped> {
        if !rustix::process::geteuid().is_root() {
            return Err(Skipped("a full disk needs a loop mount, and that needs root".to_owned()));
        }
        let image = directory.join(format!("{name}.ext4"));
        let mounted = Mount::make_image(&image, size_bytes).and_then(|()| Mount::new(&image, directory.join(name)));
        mounted.map(|mount| SmallDisk { mount }).map_err(|error| Skipped(error.to_string()))
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.mount.path()
    }

    /// Takes all its room but `spare_bytes`.
    ///
    /// # Errors
    /// Those of the file system, except that there is no room.
    pub fn fill(&self, spare_bytes: u64) -> io::Result<()> {
        let mut ballast = File::options().create(true).append(true).open(self.path().join(BALLAST))?;
        let mut step = FILL_STEP_BYTES;
        while step >= BLOCK_BYTES {
            match ballast.write_all(&vec![7; step]) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::StorageFull => step /= 2,
                Err(error) => return Err(error),
            }
        }
        let len = ballast.metadata()?.len();
        ballast.set_len(len.saturating_sub(spare_bytes))?;
        // ext4 hands out blocks late: until it has, it believes to have more room than there is.
        ballast.sync_all()
    }

    /// Gives the room back.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn make_room(&self) -> io::Result<()> {
        fs::remove_file(self.path().join(BALLAST))
    }
}

//! The file system as storage and snapshots see it: a few operations, so that tests and the simulator can put a
//! virtual disk in the place of the real one, and crash, tear, lie and fail there.

mod frame_file;
#[cfg(feature = "node")]
mod real;
pub(crate) mod room;
#[cfg(feature = "node")]
pub(crate) mod sync_mode;

use std::any::Any;
use std::io;
use std::path::Path;

pub use self::frame_file::FrameFile;
#[cfg(feature = "node")]
pub use self::real::RealDisk;
pub use self::room::Room;

/// Length of a segment of the log in bytes: at full speed one is begun a few times in a second, and two of them, the
/// one in use and the one prepared, are what the smallest log occupies.
pub const SEGMENT_BYTES: u64 = 16 << 20;

/// Operations on files and directories. Nothing is durable before the matching sync has returned.
pub trait Disk: Any + Send + Sync {
    /// Makes a directory, and those above it; an existing one is fine.
    ///
    /// # Errors
    /// Those of the file system.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Makes the entries of a directory durable: creations, renames, removals.
    ///
    /// # Errors
    /// Those of the file system.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Opens a file for reading and writing.
    ///
    /// # Errors
    /// Those of the file system; `NotFound` if it does not exist and `create` is false.
    fn open(&self, path: &Path, create: bool) -> io::Result<Box<dyn DiskFile>>;
    /// Renames a file or directory, replacing a file at `to`.
    ///
    /// # Errors
    /// Those of the file system.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    ///
    /// # Errors
    /// Those of the file system.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory with everything in it.
    ///
    /// # Errors
    /// Those of the file system.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;
    /// The names in a directory, sorted.
    ///
    /// # Errors
    /// Those of the file system.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;
    /// Whether something exists there.
    ///
    /// # Errors
    /// Those of the file system, except "not found".
    fn exists(&self, path: &Path) -> io::Result<bool>;
    /// Creates the file if need be, and locks it against every other process, and every other caller in this one, until
    /// the lock is dropped or the process ends. Does not wait. As it stands here it locks nothing: enough for a disk
    /// that no one else can reach.
    ///
    /// # Errors
    /// `WouldBlock` if someone else holds the lock; those of the file system.
    fn lock(&self, _path: &Path) -> io::Result<DiskLock> {
        Ok(Box::new(()))
    }
    /// Locks a directory in the same way, by itself: a file in it may be removed, by whoever cleans up.
    ///
    /// # Errors
    /// As [`Disk::lock`].
    fn lock_dir(&self, _path: &Path) -> io::Result<DiskLock> {
        Ok(Box::new(()))
    }
    /// How much room the disk of this directory has.
    ///
    /// # Errors
    /// Those of the device.
    fn room(&self, _directory: &Path) -> io::Result<Room> {
        Ok(Room::ENDLESS)
    }
    /// How long segments of the log are on this disk, in bytes; a multiple of 4096. One in memory, that is copied a
    /// thousand times, has short ones.
    fn segment_bytes(&self) -> u64 {
        SEGMENT_BYTES
    }
    /// Does something beside the caller's work. As it stands here, at once: for a disk where the same happens each
    /// time.
    fn aside(&self, work: Box<dyn FnOnce() + Send>) {
        work();
    }
    /// Whether what lies there ends with the machine's power, synced or not.
    ///
    /// # Errors
    /// Those of the file system.
    fn is_in_memory(&self, _path: &Path) -> io::Result<bool> {
        Ok(false)
    }
    /// Lets the next read of this file, or of those in this directory, come from the device, as far as that can be
    /// asked for. Advice: whether it was taken makes no difference but to what a second look is worth.
    fn forget_cached(&self, _path: &Path) {}
    /// Whether its paths are none of the operating system's, so that nothing of sled's can be there.
    fn is_simulated(&self) -> bool {
        false
    }
}

/// Keeps a file or directory locked until it is dropped.
pub type DiskLock = Box<dyn Any + Send + Sync>;

/// An open file.
pub trait DiskFile: Send + Sync {
    /// Reads up to `buffer.len()` bytes at `offset`; 0 at the end.
    ///
    /// # Errors
    /// Those of the file system.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// Those of the file system.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Cuts or extends (with zeros) the file.
    ///
    /// # Errors
    /// Those of the file system.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// The file's length in bytes.
    ///
    /// # Errors
    /// Those of the file system.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file has no bytes.
    ///
    /// # Errors
    /// Those of the file system.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Makes content and size durable. After an error what was written counts as lost (D6).
    ///
    /// # Errors
    /// Those of the file system.
    fn sync(&self) -> io::Result<()>;
}

/// Reads a whole file, refusing one longer than `limit_bytes`.
///
/// # Errors
/// Those of the file system; `InvalidData` beyond the limit.
pub fn read_file(disk: &dyn Disk, path: &Path, limit_bytes: u64) -> io::Result<Vec<u8>> {
    let file = disk.open(path, false)?;
    let len = file.len()?;
    if len > limit_bytes {
        let what = format!("{}: {len} bytes, limit {limit_bytes}", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    let mut bytes = vec![0; len as usize];
    let filled = read_fully(file.as_ref(), &mut bytes, 0)?;
    bytes.truncate(filled);
    Ok(bytes)
}

/// Fills `buffer` from `offset` on, as far as the file reaches; returns how far.
///
/// # Errors
/// Those of the file system.
pub fn read_fully(file: &dyn DiskFile, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64)? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}

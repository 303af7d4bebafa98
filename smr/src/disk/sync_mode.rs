//! Whether writes of the log engine really reach the device.
//!
//! sled's own flush does not: it asks the kernel to start writing and waits for neither the file's size nor the device.
//! On an inode with the attribute S (`chattr +S`, `FS_SYNC_FL`) each write returns only once it is on the device,
//! metadata included. Measured with power cuts on ext4, xfs and btrfs, and on overlay over those. A file system of
//! another kind may store the attribute and ignore it, so only these count as verified.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use rustix::fs::IFlags;

/// How writes reach the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncMode {
    /// Before they are confirmed.
    Synced,
    /// There is no device: the file system lives in memory and ends with the machine's power.
    Tmpfs,
    /// At some later time: a power cut may lose what was confirmed. Only if the operator allowed it.
    Unsynced,
}

impl fmt::Display for SyncMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SyncMode::Synced => "synced",
            SyncMode::Tmpfs => "tmpfs (power loss is not covered)",
            SyncMode::Unsynced => "UNSYNCED (power loss is not covered)",
        })
    }
}

// From linux/magic.h.
const EXT_MAGIC: u64 = 0xEF53;
const XFS_MAGIC: u64 = 0x5846_5342;
const BTRFS_MAGIC: u64 = 0x9123_683E;
const OVERLAY_MAGIC: u64 = 0x794C_7630;
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// What kind of file system something lies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileSystem {
    /// Known to honour the attribute.
    Proven,
    /// Lies in memory: nothing on it outlives the machine.
    Tmpfs,
    /// Anything else.
    Unknown,
}

/// The kind of file system that `path` lies on.
pub(crate) fn file_system(path: &Path) -> io::Result<FileSystem> {
    // The type of f_type differs between platforms; all these numbers have 32 bits.
    let magic = (rustix::fs::statfs(path)?.f_type as u64) & 0xFFFF_FFFF;
    Ok(match magic {
        EXT_MAGIC | XFS_MAGIC | BTRFS_MAGIC | OVERLAY_MAGIC => FileSystem::Proven,
        TMPFS_MAGIC => FileSystem::Tmpfs,
        _ => FileSystem::Unknown,
    })
}

/// Sets the attribute S on a file or directory, reads it back, and says whether it is there.
pub(crate) fn set_and_verify(path: &Path) -> io::Result<bool> {
    let file = File::open(path)?;
    let Ok(flags) = rustix::fs::ioctl_getflags(&file) else { return Ok(false) };
    if flags.contains(IFlags::SYNC) {
        return Ok(true);
    }
    if rustix::fs::ioctl_setflags(&file, flags | IFlags::SYNC).is_err() {
        return Ok(false);
    }
    Ok(rustix::fs::ioctl_getflags(&file).is_ok_and(|flags| flags.contains(IFlags::SYNC)))
}

/// Tries out, in a directory of its own inside `directory` that is removed again, whether a replica's log could be
/// durable there.
///
/// # Errors
/// Those of the file system, for example if `directory` is missing or read-only.
pub fn probe_sync(directory: &Path) -> io::Result<SyncMode> {
    let probe = directory.join(format!(".sync-probe-{}", std::process::id()));
    fs::create_dir_all(&probe)?;
    let verified = probe_in(&probe);
    fs::remove_dir_all(&probe)?;
    verified
}

fn probe_in(probe: &Path) -> io::Result<SyncMode> {
    match file_system(probe)? {
        FileSystem::Tmpfs => return Ok(SyncMode::Tmpfs),
        FileSystem::Unknown => return Ok(SyncMode::Unsynced),
        FileSystem::Proven => {}
    }
    let directory_verified = set_and_verify(probe)?;
    let file = probe.join("file");
    File::create(&file)?;
    Ok(if directory_verified && set_and_verify(&file)? { SyncMode::Synced } else { SyncMode::Unsynced })
}

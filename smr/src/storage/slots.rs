//! A small file of two slots, each checksummed and numbered: the newer sound one counts.
//!
//! A slot has [`SLOT_BYTES`], the unit in which disks tear. The slots begin [`SLOT_STRIDE_BYTES`] apart, because what a
//! device loses or misreads is at least a block of 4 KiB: in one block a single fault would take both. A slot:
//! ```text
//!   0 magic [u8; 8] | 8 version u16 | 10 length of the content u16 | 12 reserved u32 | 16 number u64
//!  24 content, then zeros
//! 504 checksum u64 over the 504 bytes before it
//! ```
//! little endian; place and coverage of the checksum stay as they are in all versions. The file appears under its name
//! with both slots written and synced, so a file that lacks one was damaged.
//!
//! What does not fit is written to *wide* slots, of [`WIDE_SLOT_BYTES`]: the first 512 bytes are as above, but for the
//! version, and what follows is
//! ```text
//!  512 the rest of the content, then zeros
//! 2040 checksum u64 over the 2040 bytes before it
//! ```
//! So a torn one is found out, and a build that does not know wide slots sees a newer version, and no damage.
//!
//! Files of earlier builds have their second slot right after the first, and are no longer than both. They are read as
//! they are; the next write to the second slot puts it into its own block and blanks the old place. That slot does not
//! count at the time, whatever becomes of the write.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::disk::{Disk, DiskFile, read_file};
use super::{Damage, StorageError};
use crate::codec;

/// Size of a slot in bytes.
pub const SLOT_BYTES: usize = 512;
/// From the beginning of one slot to that of the other, in bytes.
pub const SLOT_STRIDE_BYTES: usize = 4096;
/// The same in files of earlier builds, which have no more than this twice.
const OLD_STRIDE_BYTES: usize = SLOT_BYTES;
/// Size of a wide slot in bytes.
const WIDE_SLOT_BYTES: usize = 2048;
/// The longest content, in bytes.
pub(crate) const CONTENT_MAX_BYTES: usize = CHECKSUM_OFFSET - CONTENT_OFFSET;
/// The longest content of a wide slot, in bytes.
pub(crate) const WIDE_CONTENT_MAX_BYTES: usize = CONTENT_MAX_BYTES + WIDE_CHECKSUM_OFFSET - SLOT_BYTES;
/// The version of what is in the slots. 2: the hard state speaks of leases. 3: it counts starts. Older ones are still
/// read.
const NARROW_SLOT_VERSION: u16 = 3;
/// The version of wide slots: a hard state names its kind of group.
const WIDE_SLOT_VERSION: u16 = 4;
/// The newest version that is read.
pub(crate) const SLOT_VERSION: u16 = WIDE_SLOT_VERSION;

const CONTENT_OFFSET: usize = 24;
const CHECKSUM_OFFSET: usize = 504;
const WIDE_CHECKSUM_OFFSET: usize = WIDE_SLOT_BYTES - 8;
/// Longer than the file ever is; a foreign file of any size is not read into memory.
const FILE_MAX_BYTES: u64 = 1 << 20;

/// How much a slot of a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Width {
    /// [`CONTENT_MAX_BYTES`].
    Narrow,
    /// [`WIDE_CONTENT_MAX_BYTES`].
    Wide,
}

/// An open file of two slots.
pub(crate) struct Slots {
    path: PathBuf,
    magic: [u8; 8],
    file: Box<dyn DiskFile>,
    width: Width,
    /// The number of the slot that counts.
    number: u64,
    /// Where the next content goes: the slot that does not count, or either if both say the same.
    next: usize,
    /// The second slot is where earlier builds had it.
    is_old: bool,
}

/// What was found under the file's name.
pub(crate) enum Found {
    Missing,
    Newer { found: u16 },
    Broken(Damage),
    Sound { slots: Slots, content: Vec<u8>, amiss: Option<Amiss> },
}

/// What is amiss with the slot that does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Amiss {
    /// It is older: what an interrupted change of both leaves, and what every change of one leaves.
    Behind(usize),
    /// It is damaged, or torn.
    Broken(usize),
}

impl fmt::Display for Amiss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Amiss::Behind(slot) => write!(f, "slot {slot} was behind"),
            Amiss::Broken(slot) => write!(f, "slot {slot} was damaged"),
        }
    }
}

enum Slot {
    Broken,
    Newer(u16),
    Sound { number: u64, width: Width, content: Vec<u8> },
}

/// Looks at the file without changing it.
pub(crate) fn read(disk: &dyn Disk, path: &Path, magic: [u8; 8]) -> io::Result<Found> {
    let bytes = match read_file(disk, path, FILE_MAX_BYTES) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Missing),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return Ok(Found::Broken(Damage::new(path, "far too long")));
        }
        Err(error) => return Err(error),
    };
    let is_old = bytes.len() <= 2 * OLD_STRIDE_BYTES;
    let stride = if is_old { OLD_STRIDE_BYTES } else { SLOT_STRIDE_BYTES };
    let slots = [0, stride].map(|offset| parse(&bytes, offset, magic));
    let (number, width, content, next, amiss) = match slots {
        [Slot::Newer(found), _] | [_, Slot::Newer(found)] => return Ok(Found::Newer { found }),
        [Slot::Broken, Slot::Broken] => {
            return Ok(Found::Broken(Damage::new(path, format!("both slots are damaged ({} bytes)", bytes.len()))));
        }
        [Slot::Sound { number, width, content }, Slot::Broken] => (number, width, content, 1, Some(Amiss::Broken(1))),
        [Slot::Broken, Slot::Sound { number, width, content }] => (number, width, content, 0, Some(Amiss::Broken(0))),
        [
            Slot::Sound { number: a, width, content: first },
            Slot::Sound { number: b, width: width_of_second, content: second },
        ] => {
            if a == b && first != second {
                return Ok(Found::Broken(Damage::new(path, format!("two slots with number {a} differ"))));
            }
            match (a, b) {
                _ if a > b => (a, width, first, 1, Some(Amiss::Behind(1))),
                _ if b > a => (b, width_of_second, second, 0, Some(Amiss::Behind(0))),
                _ => (a, width, first, 0, None),
            }
        }
    };
    let file = disk.open(path, false)?;
    let slots = Slots { path: path.to_owned(), magic, file, width, number, next, is_old };
    Ok(Found::Sound { slots, content, amiss })
}

fn parse(bytes: &[u8], offset: usize, magic: [u8; 8]) -> Slot {
    let wide = bytes.get(offset..offset + WIDE_SLOT_BYTES);
    let Some(bytes) = bytes.get(offset..offset + SLOT_BYTES) else { return Slot::Broken };
    if bytes[..8] != magic || !ends_with_its_checksum(bytes) {
        return Slot::Broken;
    }
    let version = u16::from_le_bytes([bytes[8], bytes[9]]);
    if version > SLOT_VERSION {
        return Slot::Newer(version);
    }
    let length = u16::from_le_bytes([bytes[10], bytes[11]]) as usize;
    let mut content = bytes[CONTENT_OFFSET..CHECKSUM_OFFSET].to_vec();
    let width = if version == WIDE_SLOT_VERSION {
        let Some(wide) = wide.filter(|wide| ends_with_its_checksum(wide)) else { return Slot::Broken };
        content.extend_from_slice(&wide[SLOT_BYTES..WIDE_CHECKSUM_OFFSET]);
        Width::Wide
    } else {
        Width::Narrow
    };
    if version == 0 || length > content.len() {
        return Slot::Broken;
    }
    content.truncate(length);
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[16..24]);
    Slot::Sound { number: u64::from_le_bytes(number), width, content }
}

/// Whether the last eight bytes are the checksum of those before them.
fn ends_with_its_checksum(bytes: &[u8]) -> bool {
    bytes.split_last_chunk::<8>().is_some_and(|(rest, stored)| codec::checksum(&[rest]) == u64::from_le_bytes(*stored))
}

impl Slots {
    /// Makes the file, in a way that it is either absent or complete after a crash. A leftover of an earlier try, or an
    /// earlier file, is replaced.
    pub(crate) fn create(disk: &dyn Disk, path: &Path, magic: [u8; 8], content: &[u8]) -> Result<Slots, StorageError> {
        Slots::create_of(Width::Narrow, disk, path, magic, content)
    }

    /// The same, with slots of this width.
    pub(crate) fn create_of(
        width: Width,
        disk: &dyn Disk,
        path: &Path,
        magic: [u8; 8],
        content: &[u8],
    ) -> Result<Slots, StorageError> {
        let doing = |error: io::Error| StorageError::new(path, "creating", error);
        let new = path.with_extension("new");
        let file = disk.open(&new, true).map_err(doing)?;
        let mut slots = Slots { path: path.to_owned(), magic, file, width, number: 1, next: 0, is_old: false };
        let slot = slots.encode(content);
        slots.file.write_at(&slot, 0).map_err(doing)?;
        slots.file.write_at(&slot, SLOT_STRIDE_BYTES as u64).map_err(doing)?;
        slots.file.sync().map_err(doing)?;
        disk.rename(&new, path).map_err(doing)?;
        let parent = path.parent().unwrap_or_else(|| panic!("{} has no parent", path.display()));
        disk.sync_dir(parent).map_err(doing)?;
        // The handle follows the renamed file.
        slots.number = 1;
        Ok(slots)
    }

    /// How much its slots hold.
    pub(crate) fn width(&self) -> Width {
        self.width
    }

    /// Writes to both slots, and syncs after each: afterwards damage to either cannot bring back what was before.
    pub(crate) fn write_both(&mut self, content: &[u8]) -> Result<(), StorageError> {
        self.number += 1;
        self.put(content)?;
        self.sync()?;
        self.put(content)?;
        self.sync()
    }

    /// Writes to the slot that does not count yet, without a sync.
    pub(crate) fn write_one(&mut self, content: &[u8]) -> Result<(), StorageError> {
        self.number += 1;
        self.put(content)
    }

    /// Makes what was written durable.
    pub(crate) fn sync(&self) -> Result<(), StorageError> {
        self.file.sync().map_err(|error| StorageError::new(&self.path, "syncing", error))
    }

    fn put(&mut self, content: &[u8]) -> Result<(), StorageError> {
        let slot = self.encode(content);
        let written = if self.next == 1 && self.is_old {
            // One write, so that the file never has both an old and a new second slot for a reader to choose from.
            let mut moved = vec![0; SLOT_STRIDE_BYTES - OLD_STRIDE_BYTES];
            moved.extend_from_slice(&slot);
            self.is_old = false;
            self.file.write_at(&moved, OLD_STRIDE_BYTES as u64)
        } else {
            self.file.write_at(&slot, (self.next * SLOT_STRIDE_BYTES) as u64)
        };
        written.map_err(|error| StorageError::new(&self.path, "writing", error))?;
        self.next = 1 - self.next;
        Ok(())
    }

    fn encode(&self, content: &[u8]) -> Vec<u8> {
        let (bytes, version, most) = match self.width {
            Width::Narrow => (SLOT_BYTES, NARROW_SLOT_VERSION, CONTENT_MAX_BYTES),
            Width::Wide => (WIDE_SLOT_BYTES, WIDE_SLOT_VERSION, WIDE_CONTENT_MAX_BYTES),
        };
        assert!(content.len() <= most, "{} bytes for a slot of {most}", content.len());
        let (head, rest) = content.split_at(content.len().min(CONTENT_MAX_BYTES));
        let mut slot = vec![0; bytes];
        slot[..8].copy_from_slice(&self.magic);
        slot[8..10].copy_from_slice(&version.to_le_bytes());
        slot[10..12].copy_from_slice(&(content.len() as u16).to_le_bytes());
        slot[16..24].copy_from_slice(&self.number.to_le_bytes());
        slot[CONTENT_OFFSET..CONTENT_OFFSET + head.len()].copy_from_slice(head);
        let checksum = codec::checksum(&[&slot[..CHECKSUM_OFFSET]]);
        slot[CHECKSUM_OFFSET..SLOT_BYTES].copy_from_slice(&checksum.to_le_bytes());
        if self.width == Width::Wide {
            slot[SLOT_BYTES..SLOT_BYTES + rest.len()].copy_from_slice(rest);
            let checksum = codec::checksum(&[&slot[..WIDE_CHECKSUM_OFFSET]]);
            slot[WIDE_CHECKSUM_OFFSET..].copy_from_slice(&checksum.to_le_bytes());
        }
        slot
    }
}

//! A simulated ordered map with sled's manners, on the virtual disk: what stands in for sled where sled cannot run.
//!
//! It lives in a directory of a [`VirtualDisk`], is renamed and copied with it, and outlives the process that wrote it.
//!
//! # What survives
//! - *A power cut*: a prefix of the writes, at least all those before the last flush. The seed of
//!   [`crate::virtual_disk::Loss`] decides how many more; [`VirtualDisk::after_crash_keeping`] lets a test enumerate
//!   them.
//! - *A kill of the process*: also a prefix. Other than with a file, what was not flushed may still be in the process.
//! - *An error* of a write or a flush is final for the open map, which repeats it for ever; the next start finds a
//!   prefix.
//!
//! # Damage
//! [`MapDamage`] is what was measured on damaged copies of sled's directory. Only some of it is reported; the rest the
//! record log, the watermark and the hard state have to find out.

use std::any::Any;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use smr::internals::disk::Disk;
use smr::internals::storage::RECORD_MAX_BYTES;
use smr::internals::storage::{ByteMap, Damage, Key, LoadError, LogEngine, MapEngine, StorageError};

use crate::virtual_disk::map_state::{MapState, flipped};
use crate::virtual_disk::{Inode, MapDamage, ReadFault, VirtualDisk};

impl VirtualDisk {
    /// How many writes of the ordered map in this directory a crash could lose; 0 without one.
    pub fn unflushed_map_writes(&self, directory: &Path) -> usize {
        self.with_map(directory, |map| map.unflushed()).unwrap_or(0)
    }

    /// Lets the device itself go wrong: damages the ordered map in this directory.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn damage_map(&self, directory: &Path, damage: MapDamage) -> io::Result<()> {
        self.with_map(directory, |map| map.damage(damage))?;
        if damage == MapDamage::Missing {
            self.forget_map(directory)?;
        }
        Ok(())
    }
}

/// The engine. Runs on the virtual disk alone.
pub const SIMULATED: LogEngine = LogEngine::Map(&Simulated);

struct Simulated;

impl Simulated {
    fn host(disk: &dyn Disk) -> io::Result<&VirtualDisk> {
        let disk: &dyn Any = disk;
        disk.downcast_ref().ok_or_else(|| io::Error::other("no simulated disk"))
    }
}

impl MapEngine for Simulated {
    fn name(&self) -> &'static str {
        "simulated"
    }

    fn present(&self, disk: &dyn Disk, directory: &Path) -> io::Result<Result<(), Damage>> {
        Simulated::host(disk)?.present(directory)
    }

    fn open(&self, disk: Arc<dyn Disk>, directory: &Path) -> Result<Box<dyn ByteMap>, LoadError> {
        let host = Simulated::host(disk.as_ref()).map_err(|error| StorageError::new(directory, "opening", error))?;
        host.open_map(directory)
    }
}

impl VirtualDisk {
    /// Whether there is an ordered map in this directory. Only looks.
    ///
    /// # Errors
    /// Those of the device.
    pub fn present(&self, directory: &Path) -> io::Result<Result<(), Damage>> {
        match self.with_map(directory, |_| ()) {
            Ok(()) => Ok(Ok(())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Err(Damage::new(directory, "missing"))),
            Err(error) => Err(error),
        }
    }

    /// Opens the ordered map in this directory, which is made if need be.
    ///
    /// # Errors
    /// Damage, or those of the device.
    pub fn open_map(&self, directory: &Path) -> Result<Box<dyn ByteMap>, LoadError> {
        let inode = self.make_map(directory).map_err(|error| StorageError::new(directory, "opening", error))?;
        let mut map = VirtualMap { disk: self.clone(), inode, path: directory.to_owned(), failed: None };
        if self.map(inode, |map| map.unopenable) {
            return Err(Damage::new(directory, "the map's file is corrupt").into());
        }
        // What was read may only have been written by a process that was killed.
        map.flush()?;
        Ok(Box::new(map))
    }
}

/// An open map.
struct VirtualMap {
    disk: VirtualDisk,
    inode: Inode,
    path: PathBuf,
    /// The first error. There is no way back from it.
    failed: Option<StorageError>,
}

impl VirtualMap {
    fn change(&mut self, doing: &'static str, work: impl FnOnce(&mut MapState)) -> Result<(), StorageError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        match self.disk.change_map(self.inode, work) {
            Ok(()) => Ok(()),
            Err(error) => {
                let error = StorageError::new(&self.path, doing, error);
                self.failed = Some(error.clone());
                Err(error)
            }
        }
    }
}

impl ByteMap for VirtualMap {
    fn insert(&mut self, key: &Key, value: &[u8]) -> Result<(), StorageError> {
        assert!(value.len() <= RECORD_MAX_BYTES, "a value of {} bytes, limit {RECORD_MAX_BYTES}", value.len());
        self.change("writing", |map| map.write(key, Some(value.into())))
    }

    fn remove(&mut self, key: &Key) -> Result<(), StorageError> {
        self.change("removing", |map| {
            if map.values.contains_key(key) {
                map.write(key, None);
            }
        })
    }

    fn scan(&self, from: &Key, visit: &mut dyn FnMut(&Key, &[u8]) -> bool) -> Result<(), LoadError> {
        if let Some(error) = &self.failed {
            return Err(error.clone().into());
        }
        let failed = |error: io::Error| StorageError::new(&self.path, "reading the log", error);
        let fault = self.disk.read().map_err(failed)?;
        if let Some(ReadFault::Error(kind)) = fault {
            return Err(failed(io::Error::new(kind, "ordered by the test")).into());
        }
        self.disk.map(self.inode, |map| {
            let mut flip = None;
            if let Some(ReadFault::FlippedBit(bit)) = fault {
                let bits: usize = map.values.range(*from..).map(|(_, value)| value.len() * 8).sum();
                flip = bit.checked_rem(bits);
            }
            for (key, value) in map.values.range(*from..) {
                if map.unreadable.contains(key) {
                    return Err(Damage::new(&self.path, "corruption was encountered in the map's file").into());
                }
                let bits = value.len() * 8;
                let go_on = match flip {
                    Some(bit) if bit < bits => visit(key, &flipped(value, bit)),
                    _ => visit(key, value),
                };
                if !go_on {
                    break;
                }
                flip = flip.and_then(|bit| bit.checked_sub(bits));
            }
            Ok(())
        })
    }

    fn flush(&mut self) -> Result<(), StorageError> {
        self.change("flushing", MapState::flush)
    }

    fn place(&self) -> &Path {
        &self.path
    }
}

//! The disk as the storage layer uses it.

use std::io;
use std::path::Path;

use smr::internals::disk::{Disk, DiskFile, DiskLock, Room};

use super::file::{File, VirtualFile};
use super::names::names;
use super::{Inode, ROOT, VirtualDisk};

/// Length of a segment of the log here, in bytes: three blocks of records, so that one ends all the time.
const SEGMENT_BYTES: u64 = 16 << 10;

struct HeldLock {
    disk: VirtualDisk,
    inode: Inode,
}

impl Drop for HeldLock {
    fn drop(&mut self) {
        self.disk.lock_state().locks.remove(&self.inode);
    }
}

impl Disk for VirtualDisk {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.operate()?;
        let mut inode = ROOT;
        for name in names(path) {
            let found = state.current.get(&inode).ok_or(io::ErrorKind::NotADirectory)?.get(&name).copied();
            inode = match found {
                Some(found) => found,
                None => {
                    let made = state.make_directory();
                    state.change(vec![(inode, name, Some(made))]);
                    made
                }
            };
        }
        if state.current.contains_key(&inode) { Ok(()) } else { Err(io::ErrorKind::AlreadyExists.into()) }
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock_state();
        let lies = state.lies();
        state.operate()?;
        let inode = state.find(path)?;
        if !state.current.contains_key(&inode) {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        if !lies {
            state.sync_dir(inode);
        }
        Ok(())
    }

    fn open(&self, path: &Path, create: bool) -> io::Result<Box<dyn DiskFile>> {
        let found = self.look()?.find(path);
        let inode = match found {
            Ok(inode) => inode,
            Err(error) if create && error.kind() == io::ErrorKind::NotFound => {
                let mut state = self.operate()?;
                let (parent, name) = state.find_parent(path)?;
                let inode = state.next_inode;
                state.next_inode += 1;
                state.files.insert(inode, File::default());
                state.change(vec![(parent, name, Some(inode))]);
                inode
            }
            Err(error) => return Err(error),
        };
        if !self.lock_state().files.contains_key(&inode) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        Ok(Box::new(VirtualFile { disk: self.clone(), inode }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.operate()?;
        let inode = state.find(from)?;
        let (from_parent, from_name) = state.find_parent(from)?;
        let (to_parent, to_name) = state.find_parent(to)?;
        let replaced = state.current.get(&to_parent).and_then(|names| names.get(&to_name)).copied();
        if let Some(replaced) = replaced {
            let from_is_directory = state.current.contains_key(&inode);
            match state.current.get(&replaced) {
                Some(names) if from_is_directory && !names.is_empty() => {
                    return Err(io::ErrorKind::DirectoryNotEmpty.into());
                }
                Some(_) if !from_is_directory => return Err(io::ErrorKind::IsADirectory.into()),
                None if from_is_directory => return Err(io::ErrorKind::NotADirectory.into()),
                _ => {}
            }
        }
        state.change(vec![(from_parent, from_name, None), (to_parent, to_name, Some(inode))]);
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.operate()?;
        let inode = state.find(path)?;
        if !state.files.contains_key(&inode) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let (parent, name) = state.find_parent(path)?;
        state.change(vec![(parent, name, None)]);
        Ok(())
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        // Each name goes by itself: a crash in between leaves some.
        let children = self.list(path)?;
        for child in children {
            let child = path.join(child);
            let inode = self.look()?.find(&child)?;
            let is_directory = self.look()?.current.contains_key(&inode);
            if is_directory {
                self.remove_dir_all(&child)?;
            } else {
                self.remove_file(&child)?;
            }
        }
        let mut state = self.operate()?;
        let (parent, name) = state.find_parent(path)?;
        state.change(vec![(parent, name, None)]);
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let state = self.look()?;
        let inode = state.find(path)?;
        let names = state.current.get(&inode).ok_or(io::ErrorKind::NotADirectory)?;
        Ok(names.keys().cloned().collect())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        match self.look()?.find(path) {
            Ok(_) => Ok(true),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn room(&self, _directory: &Path) -> io::Result<Room> {
        let is_full = self.lock_state().is_full;
        Ok(Room { free: if is_full { 0 } else { u64::MAX }, total: u64::MAX })
    }

    fn segment_bytes(&self) -> u64 {
        SEGMENT_BYTES
    }

    fn is_simulated(&self) -> bool {
        true
    }

    fn lock(&self, path: &Path) -> io::Result<DiskLock> {
        self.open(path, true)?;
        let mut state = self.look()?;
        let inode = state.find(path)?;
        if !state.locks.insert(inode) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(HeldLock { disk: self.clone(), inode }))
    }
}

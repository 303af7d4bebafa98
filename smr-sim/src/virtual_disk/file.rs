//! A file: what programs see, what is durable, and what is on its way there.

use std::io;

use parking_lot::MutexGuard;

use smr::internals::disk::DiskFile;

use super::{Inode, ReadFault, State, VirtualDisk};

#[derive(Clone, Default)]
pub(super) struct File {
    pub(super) current: Vec<u8>,
    pub(super) durable: Vec<u8>,
    pub(super) pending: Vec<FileChange>,
}

#[derive(Clone)]
pub(super) enum FileChange {
    Write { offset: usize, bytes: Vec<u8> },
    Size(usize),
}

impl File {
    /// Exactly what is pending reaches the device: not what an earlier sync has failed with, and no more work than
    /// that.
    fn sync(&mut self) {
        for change in self.pending.drain(..) {
            match change {
                FileChange::Size(size) => self.durable.resize(size, 0),
                FileChange::Write { offset, bytes } => {
                    let end = offset + bytes.len();
                    if self.durable.len() < end {
                        self.durable.resize(end, 0);
                    }
                    self.durable[offset..end].copy_from_slice(&bytes);
                }
            }
        }
    }
}

pub(super) struct VirtualFile {
    pub(super) disk: VirtualDisk,
    pub(super) inode: Inode,
}

impl VirtualFile {
    fn with<T>(&self, mut state: MutexGuard<'_, State>, work: impl FnOnce(&mut File) -> T) -> io::Result<T> {
        // An inode stays, also without a name, as long as it may be open.
        state.files.get_mut(&self.inode).map(work).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl DiskFile for VirtualFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let fault = self.disk.read()?;
        if let Some(ReadFault::Error(kind)) = fault {
            return Err(io::Error::new(kind, "ordered by the test"));
        }
        let count = self.with(self.disk.look()?, |file| {
            let start = (offset as usize).min(file.current.len());
            let count = buffer.len().min(file.current.len() - start);
            buffer[..count].copy_from_slice(&file.current[start..start + count]);
            count
        })?;
        if let Some(ReadFault::FlippedBit(bit)) = fault
            && let Some(bit) = bit.checked_rem(count * 8)
        {
            buffer[bit / 8] ^= 1 << (bit % 8);
        }
        Ok(count)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.with(self.disk.operate()?, |file| {
            let offset = offset as usize;
            let end = offset + bytes.len();
            if file.current.len() < end {
                file.current.resize(end, 0);
            }
            file.current[offset..end].copy_from_slice(bytes);
            file.pending.push(FileChange::Write { offset, bytes: bytes.to_vec() });
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.with(self.disk.operate()?, |file| {
            file.current.resize(len as usize, 0);
            file.pending.push(FileChange::Size(len as usize));
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.with(self.disk.look()?, |file| file.current.len() as u64)
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.lock_state();
        let lies = state.lies();
        let ordered = state.operate();
        let power_is_off = state.power_is_off;
        self.with(state, |file| match &ordered {
            Ok(()) if lies => {}
            Ok(()) => file.sync(),
            Err(_) if power_is_off => {}
            Err(_) => file.pending.clear(),
        })?;
        ordered
    }
}

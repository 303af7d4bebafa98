//! A disk in memory that crashes, tears, loses and fails on demand, the same way each time.
//!
//! # What survives a crash
//! - A write to a file is volatile until a later sync of that file. At a crash each volatile write is kept, lost, or
//!   torn at borders of [`SECTOR_BYTES`], independently; so is each change of the file's size.
//! - A name in a directory (made, renamed, removed) is volatile until a later sync of that directory; a rename between
//!   two, of both. At a crash each is kept or lost independently, except that one is lost with an earlier one of the
//!   same name. A rename is never half done.
//!
//! - An ordered map in a directory ([`crate::virtual_map`]) keeps a prefix of its unflushed writes.
//!
//! # What can be ordered
//! [`VirtualDisk::fault_at`] makes one operation fail, or cuts the power there; [`VirtualDisk::operations`] counts
//! them, so that a test can enumerate all. [`VirtualDisk::read_fault_at`] does the same with reads.
//! [`VirtualDisk::after_crash`] gives the disk that a machine finds after the power came back, for a seed or an
//! extreme; the old one stays usable, so one run can be crashed in many ways.

mod crash;
mod device;
mod file;
pub(crate) mod map_state;
mod names;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;

use smr::internals::disk::Disk as _;

pub use crash::{Loss, SECTOR_BYTES};
use file::File;
pub use map_state::MapDamage;
use map_state::MapState;
use names::NameChange;
use parking_lot::{Mutex, MutexGuard};

/// What goes wrong in an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The power goes before it has an effect; it and all later ones fail. (What it might have done in part is what a
    /// cut at the next one may leave, because then it is volatile.)
    PowerOff,
    /// It fails without an effect. A failing sync makes the data count as clean although it is not (D6): the next sync
    /// succeeds without it.
    Error(io::ErrorKind),
}

/// What goes wrong in a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadFault {
    /// It fails with this error, and gives nothing.
    Error(io::ErrorKind),
    /// One bit comes back flipped: this one, modulo what is read.
    FlippedBit(usize),
}

/// The disk. Clones share it.
#[derive(Clone)]
pub struct VirtualDisk {
    state: Arc<Mutex<State>>,
}

pub(super) type Inode = u64;
const ROOT: Inode = 0;

#[derive(Clone, Default)]
struct State {
    files: BTreeMap<Inode, File>,
    /// Directories as programs see them.
    current: BTreeMap<Inode, BTreeMap<String, Inode>>,
    /// Directories as the device has them.
    durable: BTreeMap<Inode, BTreeMap<String, Inode>>,
    pending: Vec<NameChange>,
    next_inode: Inode,
    operations: u64,
    faults: BTreeMap<u64, Fault>,
    lies: BTreeSet<u64>,
    lies_told: u64,
    reads: u64,
    read_faults: BTreeMap<u64, ReadFault>,
    /// Ordered maps, by the directory they are in.
    maps: BTreeMap<Inode, MapState>,
    power_is_off: bool,
    is_full: bool,
    locks: BTreeSet<Inode>,
}

impl Default for VirtualDisk {
    fn default() -> VirtualDisk {
        VirtualDisk::new()
    }
}

impl VirtualDisk {
    /// An empty disk.
    pub fn new() -> VirtualDisk {
        let mut state = State { next_inode: ROOT + 1, ..State::default() };
        state.current.insert(ROOT, BTreeMap::new());
        state.durable.insert(ROOT, BTreeMap::new());
        VirtualDisk { state: Arc::new(Mutex::new(state)) }
    }

    /// How many operations that change or sync something were asked for so far.
    pub fn operations(&self) -> u64 {
        self.lock_state().operations
    }

    /// Orders a fault for the operation with this number, counted from 0 by [`VirtualDisk::operations`].
    pub fn fault_at(&self, operation: u64, fault: Fault) {
        self.lock_state().faults.insert(operation, fault);
    }

    /// Takes back all faults that were ordered and have not happened.
    pub fn clear_faults(&self) {
        let mut state = self.lock_state();
        state.faults.clear();
        state.read_faults.clear();
    }

    /// Lets the disk say that it has no room left, or has again. Nothing fails by itself; whoever asks is told.
    pub fn set_full(&self, is_full: bool) {
        self.lock_state().is_full = is_full;
    }

    /// How many reads of files and ordered maps were asked for so far.
    pub fn reads(&self) -> u64 {
        self.lock_state().reads
    }

    /// Orders a fault for the read with this number, counted from 0 by [`VirtualDisk::reads`].
    pub fn read_fault_at(&self, read: u64, fault: ReadFault) {
        self.lock_state().read_faults.insert(read, fault);
    }

    /// Whether an ordered [`Fault::PowerOff`] has happened.
    pub fn power_is_off(&self) -> bool {
        self.lock_state().power_is_off
    }

    /// Lets the operation with this number, if it is the sync of a file or directory, report success without any
    /// effect: what it should have made durable stays volatile until a later sync of the same file or directory.
    pub fn lie_at(&self, operation: u64) {
        self.lock_state().lies.insert(operation);
    }

    /// How many of the lies that were ordered have been told.
    pub fn lies_told(&self) -> u64 {
        self.lock_state().lies_told
    }

    /// Lets the device itself go wrong: changes what is durable of a file, behind everyone's back.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn damage(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        let mut state = self.lock_state();
        let inode = state.find(path)?;
        let file = state.files.get_mut(&inode).ok_or(io::ErrorKind::NotFound)?;
        change(&mut file.durable);
        file.current = file.durable.clone();
        file.pending.clear();
        Ok(())
    }

    fn lock_state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Counts an operation, and fails it if that was ordered.
    fn operate(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.lock_state();
        state.operate()?;
        Ok(state)
    }

    /// Counts a read, and fails it if the power is off; gives the fault that was ordered for it.
    pub(super) fn read(&self) -> io::Result<Option<ReadFault>> {
        let mut state = self.look()?;
        let number = state.reads;
        state.reads += 1;
        Ok(state.read_faults.get(&number).copied())
    }

    /// Makes the ordered map in a directory, and that, if need be.
    pub(super) fn make_map(&self, directory: &Path) -> io::Result<Inode> {
        self.create_dir_all(directory)?;
        if let Some(parent) = directory.parent() {
            self.sync_dir(parent)?;
        }
        let mut state = self.operate()?;
        let inode = state.find(directory)?;
        state.maps.entry(inode).or_default();
        Ok(inode)
    }

    pub(super) fn forget_map(&self, directory: &Path) -> io::Result<()> {
        let mut state = self.lock_state();
        let inode = state.find(directory)?;
        state.maps.remove(&inode);
        Ok(())
    }

    pub(super) fn with_map<T>(&self, directory: &Path, work: impl FnOnce(&mut MapState) -> T) -> io::Result<T> {
        let mut state = self.look()?;
        let inode = state.find(directory)?;
        state.maps.get_mut(&inode).map(work).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Looks at an open map.
    pub(super) fn map<T>(&self, map: Inode, work: impl FnOnce(&MapState) -> T) -> T {
        work(self.lock_state().maps.entry(map).or_default())
    }

    /// Changes an open map, as an operation of its own.
    pub(super) fn change_map(&self, map: Inode, work: impl FnOnce(&mut MapState)) -> io::Result<()> {
        work(self.operate()?.maps.entry(map).or_default());
        Ok(())
    }

    /// For operations that only look.
    fn look(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.lock_state();
        if state.power_is_off { Err(power_is_off()) } else { Ok(state) }
    }
}

fn power_is_off() -> io::Error {
    io::Error::other("the power is off")
}

impl State {
    /// Whether the sync that comes next is to be a lie.
    fn lies(&mut self) -> bool {
        let lies = !self.power_is_off && self.lies.contains(&self.operations);
        self.lies_told += u64::from(lies);
        lies
    }

    fn operate(&mut self) -> io::Result<()> {
        if self.power_is_off {
            return Err(power_is_off());
        }
        let number = self.operations;
        self.operations += 1;
        match self.faults.get(&number) {
            None => Ok(()),
            Some(Fault::PowerOff) => {
                self.power_is_off = true;
                Err(power_is_off())
            }
            Some(Fault::Error(kind)) => Err(io::Error::new(*kind, "ordered by the test")),
        }
    }
}

/// Flips a bit: this one, modulo their length. None in nothing.
pub(crate) fn flip(bytes: &mut [u8], lot: u64) {
    let Some(bit) = lot.checked_rem(bytes.len() as u64 * 8) else { return };
    if let Some(byte) = bytes.get_mut((bit / 8) as usize) {
        *byte ^= 1 << (bit % 8);
    }
}

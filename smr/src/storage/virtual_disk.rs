//! A disk in memory that crashes, tears, loses and fails on demand, the same way each time.
//!
//! # What survives a crash
//! - A write to a file is volatile until a later sync of that file. At a crash each volatile write is kept, lost, or torn at borders of
//!   [`SECTOR_BYTES`], independently; so is each change of the file's size.
//! - A name in a directory (made, renamed, removed) is volatile until a later sync of that directory; a rename between two, of both.
//!   At a crash each is kept or lost independently, except that one is lost with an earlier one of the same name.
//!   A rename is never half done.
//!
//! - An ordered map in a directory ([`super::virtual_map`]) keeps a prefix of its unflushed writes.
//!
//! # What can be ordered
//! [`VirtualDisk::fault_at`] makes one operation fail, or cuts the power there; [`VirtualDisk::operations`] counts them, so
//! that a test can enumerate all. [`VirtualDisk::read_fault_at`] does the same with reads. [`VirtualDisk::after_crash`] gives the disk that a machine finds after the power came
//! back, for a seed or an extreme; the old one stays usable, so one run can be crashed in many ways.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::disk::{Disk, DiskFile, DiskLock, MapHost};
use super::virtual_map::MapState;

/// The unit in which writes tear, in bytes.
pub const SECTOR_BYTES: usize = 512;

/// Length of a segment of the log here, in bytes: three blocks of records, so that one ends all the time.
const SEGMENT_BYTES: u64 = 16 << 10;

/// What a crash makes of volatile writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// They all happened to reach the device.
    Nothing,
    /// They are all gone.
    Everything,
    /// Only the process was killed: files keep everything, ordered maps a prefix of what was not flushed, decided by this seed.
    Killed(u64),
    /// Each has its own fate, decided by this seed.
    Seeded(u64),
    /// Of those that [`VirtualDisk::volatile_changes`] counts, the ones whose bit is set are kept: to go through every subset.
    Chosen(u64),
    /// The same, and a sector may also come back as neither the old nor the new one. Worse than what disks promise: for files
    /// that have to survive a spoiled sector anyway.
    Spoiled(u64),
}

/// What a crash makes of one volatile change.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Kept,
    Lost,
    Spoiled,
}

/// What goes wrong in an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The power goes before it has an effect; it and all later ones fail. (What it might have done in part is what a cut
    /// at the next one may leave, because then it is volatile.)
    PowerOff,
    /// It fails without an effect. A failing sync makes the data count as clean although it is not (D6): the next sync
    /// succeeds without it.
    Error(io::ErrorKind),
}

/// What goes wrong in a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadFault {
    /// It fails.
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
    locks: BTreeSet<Inode>,
}

#[derive(Clone, Default)]
struct File {
    current: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<FileChange>,
}

#[derive(Clone)]
enum FileChange {
    Write { offset: usize, bytes: Vec<u8> },
    Size(usize),
}

/// One atomic change of names.
#[derive(Clone)]
struct NameChange {
    /// What each name stands for from then on.
    names: Vec<(Inode, String, Option<Inode>)>,
    /// The directories whose sync it still waits for.
    unsynced: BTreeSet<Inode>,
}

impl NameChange {
    fn touches(&self, other: &NameChange) -> bool {
        self.names.iter().any(|(directory, name, _)| {
            other
                .names
                .iter()
                .any(|(other_directory, other_name, _)| directory == other_directory && name == other_name)
        })
    }

    fn apply(&self, directories: &mut BTreeMap<Inode, BTreeMap<String, Inode>>) {
        for (directory, name, inode) in &self.names {
            let names = directories.entry(*directory).or_default();
            match inode {
                Some(inode) => names.insert(name.clone(), *inode),
                None => names.remove(name),
            };
        }
    }
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

    /// The disk after a crash of the machine at this moment. Open files and locks of this one do not reach it.
    #[must_use]
    pub fn after_crash(&self, loss: Loss) -> VirtualDisk {
        let mut dice = match loss {
            Loss::Seeded(seed) | Loss::Spoiled(seed) | Loss::Killed(seed) => Some(ChaCha8Rng::seed_from_u64(seed)),
            Loss::Nothing | Loss::Everything | Loss::Chosen(_) => None,
        };
        let kept_of = |unflushed| match &mut dice {
            None if loss == Loss::Nothing => unflushed,
            None => 0,
            Some(dice) => dice.random_range(0..=unflushed),
        };
        self.crash(loss, kept_of).0
    }

    /// How many fates a crash at this moment would decide if each change were kept: one for each sector, size and name that is
    /// not synced yet.
    pub fn volatile_changes(&self) -> u32 {
        self.crash(Loss::Nothing, |unflushed| unflushed).1
    }

    /// Lets the operation with this number, if it is the sync of a file or directory, report success without any effect: what it
    /// should have made durable stays volatile until a later sync of the same file or directory.
    pub fn lie_at(&self, operation: u64) {
        self.lock_state().lies.insert(operation);
    }

    /// How many of the lies that were ordered have been told.
    pub fn lies_told(&self) -> u64 {
        self.lock_state().lies_told
    }

    /// The same, except that ordered maps keep the first `kept` of their unflushed writes.
    #[must_use]
    pub fn after_crash_keeping(&self, loss: Loss, kept: usize) -> VirtualDisk {
        self.crash(loss, |_| kept).0
    }

    /// What a crash leaves, and how many fates it decided.
    fn crash(&self, loss: Loss, mut kept_of: impl FnMut(usize) -> usize) -> (VirtualDisk, u32) {
        let state = self.lock_state();
        let mut dice = match loss {
            Loss::Seeded(seed) | Loss::Spoiled(seed) => Some(ChaCha8Rng::seed_from_u64(seed)),
            Loss::Nothing | Loss::Everything | Loss::Killed(_) | Loss::Chosen(_) => None,
        };
        let mut decided = 0;
        let mut fate = || {
            let number = decided;
            decided += 1;
            match (&mut dice, loss) {
                (None, Loss::Everything) => Fate::Lost,
                (None, Loss::Chosen(kept)) if kept.checked_shr(number).unwrap_or(0) & 1 == 0 => Fate::Lost,
                (None, _) => Fate::Kept,
                (Some(dice), _) => {
                    let (spoiled, kept) = (dice.random_bool(0.5), dice.random_bool(0.5));
                    match (spoiled && matches!(loss, Loss::Spoiled(_)), kept) {
                        (true, _) => Fate::Spoiled,
                        (false, true) => Fate::Kept,
                        (false, false) => Fate::Lost,
                    }
                }
            }
        };
        let mut after = State { durable: state.durable.clone(), next_inode: state.next_inode, ..State::default() };
        let mut lost: Vec<&NameChange> = Vec::new();
        for change in &state.pending {
            if !lost.iter().any(|earlier| earlier.touches(change)) && fate() != Fate::Lost {
                change.apply(&mut after.durable);
            } else {
                lost.push(change);
            }
        }
        after.current = after.durable.clone();
        for (inode, file) in &state.files {
            let bytes = file.after_crash(&mut fate);
            after.files.insert(*inode, File { current: bytes.clone(), durable: bytes, pending: Vec::new() });
        }
        for (inode, map) in &state.maps {
            after.maps.insert(*inode, map.after_crash(kept_of(map.unflushed())));
        }
        (VirtualDisk { state: Arc::new(Mutex::new(after)) }, decided)
    }

    /// Lets the device itself go wrong: changes what is durable of a file, behind everybody's back.
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
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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

impl File {
    /// Exactly what is pending reaches the device: not what an earlier sync has failed with, and no more work than that.
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

    fn after_crash(&self, fate: &mut dyn FnMut() -> Fate) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        let mut size = self.durable.len();
        let mut current_size = size;
        for change in &self.pending {
            match change {
                FileChange::Size(new) => {
                    current_size = *new;
                    if fate() != Fate::Lost {
                        size = *new;
                        bytes.truncate(size);
                    }
                }
                FileChange::Write { offset, bytes: written } => {
                    let end = offset + written.len();
                    if end > current_size {
                        current_size = end;
                        // The size has a fate of its own: without it what was written behind the end is not seen.
                        if fate() != Fate::Lost {
                            size = size.max(end);
                        }
                    }
                    let mut from = *offset;
                    while from < end {
                        let to = ((from / SECTOR_BYTES + 1) * SECTOR_BYTES).min(end);
                        let fate = fate();
                        if fate != Fate::Lost && bytes.len() < to {
                            bytes.resize(to, 0);
                        }
                        match fate {
                            Fate::Lost => {}
                            Fate::Kept => bytes[from..to].copy_from_slice(&written[from - offset..to - offset]),
                            Fate::Spoiled => bytes[from..to].iter_mut().for_each(|byte| *byte = !*byte),
                        }
                        from = to;
                    }
                }
            }
        }
        bytes.resize(size, 0);
        bytes
    }
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

    fn find(&self, path: &Path) -> io::Result<Inode> {
        let mut inode = ROOT;
        for name in names(path) {
            let names = self.current.get(&inode).ok_or(io::ErrorKind::NotADirectory)?;
            inode = *names.get(&name).ok_or(io::ErrorKind::NotFound)?;
        }
        Ok(inode)
    }

    /// The directory that a path lies in, and its name there.
    fn find_parent(&self, path: &Path) -> io::Result<(Inode, String)> {
        let name = names(path).pop().ok_or(io::ErrorKind::InvalidInput)?;
        let parent = self.find(path.parent().unwrap_or(Path::new("")))?;
        if self.current.contains_key(&parent) { Ok((parent, name)) } else { Err(io::ErrorKind::NotADirectory.into()) }
    }

    fn change(&mut self, names: Vec<(Inode, String, Option<Inode>)>) {
        let unsynced = names.iter().map(|(directory, _, _)| *directory).collect();
        let change = NameChange { names, unsynced };
        change.apply(&mut self.current);
        self.pending.push(change);
    }

    fn make_directory(&mut self) -> Inode {
        let inode = self.next_inode;
        self.next_inode += 1;
        self.current.insert(inode, BTreeMap::new());
        self.durable.insert(inode, BTreeMap::new());
        inode
    }

    fn sync_dir(&mut self, directory: Inode) {
        for change in &mut self.pending {
            change.unsynced.remove(&directory);
        }
        // In order, and never one without the earlier ones of the same name.
        let mut waiting: Vec<NameChange> = Vec::new();
        let durable: Vec<usize> = (0..self.pending.len()).filter(|at| self.pending[*at].unsynced.is_empty()).collect();
        let mut needed: BTreeSet<usize> = durable.into_iter().collect();
        for at in (0..self.pending.len()).rev() {
            let change = &self.pending[at];
            if needed.iter().any(|later| *later > at && self.pending[*later].touches(change)) {
                needed.insert(at);
            }
        }
        for (at, change) in std::mem::take(&mut self.pending).into_iter().enumerate() {
            if needed.contains(&at) {
                change.apply(&mut self.durable);
            } else {
                waiting.push(change);
            }
        }
        self.pending = waiting;
    }
}

fn names(path: &Path) -> Vec<String> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
            _ => None,
        })
        .collect()
}

struct VirtualFile {
    disk: VirtualDisk,
    inode: Inode,
}

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

    fn segment_bytes(&self) -> u64 {
        SEGMENT_BYTES
    }

    fn maps(&self) -> Option<&dyn MapHost> {
        Some(self)
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

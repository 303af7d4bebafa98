//! What the snapshot tests share: a group, states to write, transfers, and a disk in memory that can crash.

#![allow(dead_code)] // each test file uses its part

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use smr::entry::{Configuration, EntryId, GenesisHash, Index, SnapshotMeta};
use smr::id::{GroupName, NodeId};
use smr::internals::disk::{Disk, DiskFile};
use smr::internals::snapshot::{Incoming, SendingFile, SnapshotDir, SnapshotError, SnapshotInfo};

pub(crate) const GENESIS: GenesisHash = GenesisHash(0xfeed);

pub(crate) fn group() -> GroupName {
    "s0".parse().unwrap()
}

pub(crate) fn meta(index: u64, term: u64) -> SnapshotMeta {
    SnapshotMeta {
        last: EntryId::new(index, term),
        configuration: Configuration::of([NodeId::new(0, 10), NodeId::new(1, 11), NodeId::new(2, 12)]),
        configuration_index: Index(1),
    }
}

pub(crate) fn open(disk: &Arc<dyn Disk>, directory: &Path) -> (SnapshotDir, Option<SnapshotInfo>) {
    try_open(disk, directory).unwrap()
}

pub(crate) fn try_open(
    disk: &Arc<dyn Disk>,
    directory: &Path,
) -> Result<(SnapshotDir, Option<SnapshotInfo>), SnapshotError> {
    SnapshotDir::open(Arc::clone(disk), directory.to_owned(), group(), Some(GENESIS))
}

/// A state of `len` bytes that do not repeat.
pub(crate) fn state(seed: u64, len: usize) -> Vec<u8> {
    let mut word = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

pub(crate) fn write(dir: &SnapshotDir, meta: &SnapshotMeta, state: &[u8]) -> Result<SnapshotInfo, SnapshotError> {
    dir.write(meta, GENESIS, |output| output.write_all(state))
}

pub(crate) fn read(dir: &SnapshotDir, info: &SnapshotInfo) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    dir.read(info)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Sends `file` from where `incoming` stands up to `end`, or to the file's end.
pub(crate) fn send(file: &mut SendingFile, incoming: &mut Incoming, end: u64) -> Result<(), SnapshotError> {
    let end = end.min(file.info().len_bytes);
    while incoming.offset() < end {
        let offset = incoming.offset();
        let bytes = file.read_at(offset, (end - offset).min(100_000) as usize)?;
        assert!(!bytes.is_empty(), "nothing at {offset}");
        incoming.append(offset, &bytes)?;
    }
    Ok(())
}

/// A disk in memory. What is not synced is volatile: a crash may keep it or lose it. From a chosen operation on, all
/// operations fail, as if the process had been killed there.
#[derive(Clone, Default)]
pub(crate) struct CrashDisk(Arc<Mutex<Contents>>);

#[derive(Default)]
struct Contents {
    files: Vec<FileContents>,
    entries: BTreeMap<PathBuf, usize>,
    synced_entries: BTreeMap<PathBuf, usize>,
    operations: u64,
    fails_from: Option<u64>,
    damages: Option<u64>,
}

#[derive(Clone, Default)]
struct FileContents {
    bytes: Vec<u8>,
    synced: Vec<u8>,
}

/// What a crash does to that which was not synced.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Crash {
    /// All of it is lost.
    Loses,
    /// All of it is kept, as after the end of a process.
    Keeps,
    /// Directory entries are kept, content is lost: the classic of the missing fsync.
    KeepsNamesOnly,
    /// Content is kept up to the middle of what is new, names are kept.
    Tears,
}

impl CrashDisk {
    pub(crate) fn shared(&self) -> Arc<dyn Disk> {
        Arc::new(self.clone())
    }

    /// Operations that change something, so far.
    pub(crate) fn operations(&self) -> u64 {
        self.0.lock().unwrap().operations
    }

    /// The operation with this number (the first has 1) and all after it fail.
    pub(crate) fn fail_from(&self, operation: u64) {
        self.0.lock().unwrap().fails_from = Some(operation);
    }

    /// The operation with this number, if it is a write, flips a bit and says nothing.
    pub(crate) fn damage_at(&self, operation: u64) {
        self.0.lock().unwrap().damages = Some(operation);
    }

    /// The disk as the next process finds it.
    pub(crate) fn crash(&self, crash: Crash) -> CrashDisk {
        let contents = self.0.lock().unwrap();
        let names = match crash {
            Crash::Loses => &contents.synced_entries,
            Crash::Keeps | Crash::KeepsNamesOnly | Crash::Tears => &contents.entries,
        };
        let files = contents.files.iter().map(|file| {
            let bytes = match crash {
                Crash::Loses | Crash::KeepsNamesOnly => file.synced.clone(),
                Crash::Keeps => file.bytes.clone(),
                Crash::Tears if file.bytes.len() > file.synced.len() => {
                    file.bytes[..(file.synced.len() + file.bytes.len()) / 2].to_vec()
                }
                Crash::Tears => file.synced.clone(),
            };
            FileContents { synced: bytes.clone(), bytes }
        });
        CrashDisk(Arc::new(Mutex::new(Contents {
            files: files.collect(),
            entries: names.clone(),
            synced_entries: names.clone(),
            operations: 0,
            fails_from: None,
            damages: None,
        })))
    }

    /// The names in `directory`, whatever fails.
    pub(crate) fn names(&self, directory: &Path) -> Vec<String> {
        self.0.lock().unwrap().names(directory)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Contents) -> io::Result<T>) -> io::Result<T> {
        let mut contents = self.0.lock().unwrap();
        contents.operations += 1;
        if contents.fails_from.is_some_and(|from| contents.operations >= from) {
            return Err(io::Error::other("planned failure"));
        }
        change(&mut contents)
    }

    fn look<T>(&self, look: impl FnOnce(&Contents) -> io::Result<T>) -> io::Result<T> {
        let contents = self.0.lock().unwrap();
        if contents.fails_from.is_some_and(|from| contents.operations >= from) {
            return Err(io::Error::other("planned failure"));
        }
        look(&contents)
    }
}

impl Contents {
    fn names(&self, directory: &Path) -> Vec<String> {
        let inside = self.entries.keys().filter(|path| path.parent() == Some(directory));
        inside.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
    }
}

/// Stands for a directory among the entries.
const DIRECTORY: usize = usize::MAX;

impl Disk for CrashDisk {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.change(|contents| {
            contents.entries.entry(path.to_owned()).or_insert(DIRECTORY);
            Ok(())
        })
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.change(|contents| {
            contents.synced_entries.retain(|entry, _| entry.parent() != Some(path));
            let inside = contents.entries.iter().filter(|(entry, _)| entry.parent() == Some(path));
            contents.synced_entries.extend(inside.map(|(entry, file)| (entry.clone(), *file)));
            Ok(())
        })
    }

    fn open(&self, path: &Path, create: bool) -> io::Result<Box<dyn DiskFile>> {
        if !self.exists(path)? {
            if !create {
                return Err(io::ErrorKind::NotFound.into());
            }
            self.change(|contents| {
                contents.files.push(FileContents::default());
                contents.entries.insert(path.to_owned(), contents.files.len() - 1);
                Ok(())
            })?;
        }
        let number = self.look(|contents| Ok(contents.entries[path]))?;
        Ok(Box::new(CrashFile { disk: self.clone(), number }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change(|contents| {
            let file = contents.entries.remove(from).ok_or(io::ErrorKind::NotFound)?;
            contents.entries.insert(to.to_owned(), file);
            Ok(())
        })
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.change(|contents| {
            contents.entries.remove(path).ok_or(io::ErrorKind::NotFound)?;
            Ok(())
        })
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.change(|contents| {
            contents.entries.retain(|entry, _| !entry.starts_with(path));
            Ok(())
        })
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.look(|contents| Ok(contents.names(path)))
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.look(|contents| Ok(contents.entries.contains_key(path)))
    }
}

struct CrashFile {
    disk: CrashDisk,
    number: usize,
}

impl DiskFile for CrashFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.disk.look(|contents| {
            let bytes = &contents.files[self.number].bytes;
            let from = bytes.len().min(offset as usize);
            let count = buffer.len().min(bytes.len() - from);
            buffer[..count].copy_from_slice(&bytes[from..from + count]);
            Ok(count)
        })
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.disk.change(|contents| {
            let damaged = contents.damages == Some(contents.operations);
            let file = &mut contents.files[self.number].bytes;
            let end = offset as usize + bytes.len();
            if file.len() < end {
                file.resize(end, 0);
            }
            file[offset as usize..end].copy_from_slice(bytes);
            if damaged {
                file[offset as usize + bytes.len() / 2] ^= 4;
            }
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.change(|contents| {
            contents.files[self.number].bytes.resize(len as usize, 0);
            Ok(())
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.disk.look(|contents| Ok(contents.files[self.number].bytes.len() as u64))
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.change(|contents| {
            let file = &mut contents.files[self.number];
            file.synced.clone_from(&file.bytes);
            Ok(())
        })
    }
}

/// Writes `count` entries of 20 bytes, in three small writes each.
pub(crate) fn write_entries(output: &mut dyn Write, count: u64) -> io::Result<()> {
    for entry in 0..count {
        output.write_all(&entry.to_le_bytes())?;
        output.write_all(&12u32.to_le_bytes())?;
        output.write_all(&entry.wrapping_mul(7).to_be_bytes())?;
    }
    Ok(())
}

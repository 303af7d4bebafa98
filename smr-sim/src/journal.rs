//! An ordered map of bytes as one file of operations, on any [`Disk`].
//!
//! The smallest engine that behaves as the record log needs it: after a crash it holds what a prefix of its writes
//! made, at least those before the last flush. It exists for tests and the simulator, where sled cannot run: the whole
//! map is in memory.
//!
//! # The file `journal`
//! A header of [`HEADER_BYTES`] (magic, then a checksum over it), then operations:
//! ```text
//! length of value u32, with the top bit set for a removal | checksum u64 | key | value
//! ```
//! little endian. The checksum covers the one before it, so operations of an earlier generation cannot follow newer
//! ones. Reading stops at the first operation that does not fit: it was not flushed. What is after is cut off, synced,
//! before anything is appended. When most of the file is garbage, it is written again beside itself and renamed.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use smr::codec;
use smr::internals::disk::{Disk, DiskFile, read_file};
use smr::internals::storage::{ByteMap, Damage, KEY_LEN_BYTES, Key, LoadError, LogEngine, MapEngine, StorageError};

const FILE: &str = "journal";
const MAGIC: [u8; 8] = *b"SMRJRNL1";
const HEADER_BYTES: usize = 16;
const OPERATION_HEADER_BYTES: usize = 12 + KEY_LEN_BYTES;
const REMOVAL: u32 = 1 << 31;
/// Garbage below this is not worth a rewrite, in bytes.
const GARBAGE_MIN_BYTES: u64 = 1 << 20;
/// It is all held in memory, so there is a limit, in bytes.
const FILE_MAX_BYTES: u64 = 1 << 30;

/// A log engine for the simulator: the record log over a journal file on any disk.
pub const JOURNAL: LogEngine = LogEngine::Map(&Journal);

struct Journal;

/// The open file, and the map that it stands for.
pub struct JournalMap {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    file: Box<dyn DiskFile>,
    map: BTreeMap<Key, Vec<u8>>,
    /// Length of what is written, in bytes.
    written: u64,
    /// Of that, what still counts, in bytes.
    live: u64,
    checksum: u64,
}

impl MapEngine for Journal {
    fn name(&self) -> &'static str {
        "journal"
    }

    fn present(&self, disk: &dyn Disk, directory: &Path) -> io::Result<Result<(), Damage>> {
        let path = directory.join(FILE);
        match disk.open(&path, false) {
            Ok(file) if file.len()? >= HEADER_BYTES as u64 => Ok(Ok(())),
            Ok(_) => Ok(Err(Damage::new(&path, "empty"))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Err(Damage::new(&path, "missing"))),
            Err(error) => Err(error),
        }
    }

    fn open(&self, disk: Arc<dyn Disk>, directory: &Path) -> Result<Box<dyn ByteMap>, LoadError> {
        Ok(Box::new(JournalMap::open(disk, directory)?))
    }
}

impl JournalMap {
    /// Opens the file in `directory`; both are made if need be.
    ///
    /// # Errors
    /// Damage, or those of the device.
    pub fn open(disk: Arc<dyn Disk>, directory: &Path) -> Result<JournalMap, LoadError> {
        let path = directory.join(FILE);
        let failed = |error: io::Error| StorageError::new(&path, "opening", error);
        disk.create_dir_all(directory).map_err(failed)?;
        if let Some(parent) = directory.parent() {
            disk.sync_dir(parent).map_err(failed)?;
        }
        let bytes = match read_file(disk.as_ref(), &path, FILE_MAX_BYTES) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let map = BTreeMap::new();
                return Ok(JournalMap::create(disk, &path, map)?);
            }
            Err(error) => return Err(failed(error).into()),
        };
        let header = header();
        if bytes.get(..HEADER_BYTES) != Some(header.as_slice()) {
            return Err(Damage::new(&path, "a damaged header").into());
        }
        let mut map = BTreeMap::new();
        let mut live = HEADER_BYTES as u64;
        let mut checksum = codec::checksum(&[&header]);
        let mut offset = HEADER_BYTES;
        while let Some((operation, length)) = parse(&bytes[offset..], checksum) {
            live += length as u64;
            let before = match operation.value {
                Some(value) => map.insert(operation.key, value),
                None => {
                    live -= length as u64;
                    map.remove(&operation.key)
                }
            };
            live -= before.map_or(0, |before| (OPERATION_HEADER_BYTES + before.len()) as u64);
            checksum = operation.checksum;
            offset += length;
        }
        let file = disk.open(&path, false).map_err(failed)?;
        if offset < bytes.len() {
            file.set_len(offset as u64).map_err(failed)?;
        }
        // What was read may still be on its way to the device, if only the process has crashed; or nowhere but in the
        // cache, and clean there, if a sync has failed.
        file.write_at(&bytes[..offset], 0).map_err(failed)?;
        file.sync().map_err(failed)?;
        Ok(JournalMap { disk, path, file, map, written: offset as u64, live, checksum })
    }

    /// Writes a file with this content, in a way that the old one or the new one is there after a crash.
    fn create(disk: Arc<dyn Disk>, path: &Path, map: BTreeMap<Key, Vec<u8>>) -> Result<JournalMap, StorageError> {
        let failed = |error: io::Error| StorageError::new(path, "writing again", error);
        let new = path.with_extension("new");
        let header = header();
        let mut bytes = header.to_vec();
        let mut checksum = codec::checksum(&[&header]);
        for (key, value) in &map {
            checksum = write(&mut bytes, checksum, key, Some(value));
        }
        let file = disk.open(&new, true).map_err(failed)?;
        file.set_len(0).map_err(failed)?;
        file.write_at(&bytes, 0).map_err(failed)?;
        file.sync().map_err(failed)?;
        disk.rename(&new, path).map_err(failed)?;
        let parent = path.parent().unwrap_or_else(|| panic!("{} has no parent", path.display()));
        disk.sync_dir(parent).map_err(failed)?;
        let written = bytes.len() as u64;
        let path = path.to_owned();
        Ok(JournalMap { disk, path, file, map, written, live: written, checksum })
    }

    /// Each operation goes to the file at once, unsynced: any of them may survive a crash without those after it.
    fn put(&mut self, key: &Key, value: Option<&[u8]>) -> Result<(), StorageError> {
        let mut operation = Vec::new();
        self.checksum = write(&mut operation, self.checksum, key, value);
        self.file
            .write_at(&operation, self.written)
            .map_err(|error| StorageError::new(&self.path, "writing", error))?;
        self.written += operation.len() as u64;
        let before = match value {
            Some(value) => {
                self.live += (OPERATION_HEADER_BYTES + value.len()) as u64;
                self.map.insert(*key, value.to_vec())
            }
            None => self.map.remove(key),
        };
        self.live -= before.map_or(0, |before| (OPERATION_HEADER_BYTES + before.len()) as u64);
        Ok(())
    }
}

fn header() -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(&MAGIC);
    header[8..].copy_from_slice(&codec::checksum(&[&MAGIC]).to_le_bytes());
    header
}

struct Operation {
    key: Key,
    value: Option<Vec<u8>>,
    checksum: u64,
}

fn write(buffer: &mut Vec<u8>, before: u64, key: &Key, value: Option<&[u8]>) -> u64 {
    let length = match value {
        Some(value) => value.len() as u32, // a record, at most RECORD_MAX_BYTES
        None => REMOVAL,
    };
    let value = value.unwrap_or_default();
    let checksum = codec::checksum(&[&before.to_le_bytes(), &length.to_le_bytes(), key, value]);
    buffer.extend_from_slice(&length.to_le_bytes());
    buffer.extend_from_slice(&checksum.to_le_bytes());
    buffer.extend_from_slice(key);
    buffer.extend_from_slice(value);
    checksum
}

fn parse(bytes: &[u8], before: u64) -> Option<(Operation, usize)> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (checksum, rest) = rest.split_first_chunk::<8>()?;
    let (key, rest) = rest.split_first_chunk::<KEY_LEN_BYTES>()?;
    let (length, checksum) = (u32::from_le_bytes(*length), u64::from_le_bytes(*checksum));
    let value = rest.get(..(length & !REMOVAL) as usize)?;
    if codec::checksum(&[&before.to_le_bytes(), &length.to_le_bytes(), key, value]) != checksum {
        return None;
    }
    let value_bytes = (length & REMOVAL == 0).then(|| value.to_vec());
    Some((Operation { key: *key, value: value_bytes, checksum }, OPERATION_HEADER_BYTES + value.len()))
}

impl ByteMap for JournalMap {
    fn insert(&mut self, key: &Key, value: &[u8]) -> Result<(), StorageError> {
        self.put(key, Some(value))
    }

    fn remove(&mut self, key: &Key) -> Result<(), StorageError> {
        if self.map.contains_key(key) { self.put(key, None) } else { Ok(()) }
    }

    fn scan(&self, from: &Key, visit: &mut dyn FnMut(&Key, &[u8]) -> bool) -> Result<(), LoadError> {
        for (key, value) in self.map.range(*from..) {
            if !visit(key, value) {
                break;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), StorageError> {
        let failed = |error: io::Error| StorageError::new(&self.path, "flushing", error);
        self.file.sync().map_err(failed)?;
        if self.written > self.live.saturating_mul(2).saturating_add(GARBAGE_MIN_BYTES) {
            let map = std::mem::take(&mut self.map);
            *self = JournalMap::create(Arc::clone(&self.disk), &self.path, map)?;
        }
        Ok(())
    }

    fn place(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtual_disk::{Loss, VirtualDisk};
    use smr::internals::storage::key;

    /// What a crash left behind a lost operation must not come back once an equal one is written in its place.
    #[test]
    fn operation_behind_a_lost_one_never_comes_back() {
        let directory = Path::new("/log");
        let value = vec![7; 2000];
        let open = |disk: &VirtualDisk| JournalMap::open(Arc::new(disk.clone()), directory).unwrap();
        let mut seen = 0;
        for seed in 0..200 {
            let disk = VirtualDisk::new();
            let mut journal = open(&disk);
            journal.insert(&key(1, 0), &value).unwrap();
            journal.insert(&key(2, 0), &value).unwrap();
            let disk = disk.after_crash(Loss::Seeded(seed));
            let long = disk.open(&directory.join(FILE), false).unwrap().len().unwrap() > 4000;
            let mut journal = open(&disk);
            if !journal.map.is_empty() || !long {
                continue;
            }
            seen += 1;
            journal.insert(&key(1, 0), &value).unwrap();
            journal.flush().unwrap();
            let journal = open(&disk.after_crash(Loss::Everything));
            assert_eq!(journal.map.keys().collect::<Vec<_>>(), [&key(1, 0)], "seed {seed}");
        }
        assert!(seen > 10, "only {seen} cases");
    }

    #[test]
    fn file_of_mostly_garbage_is_written_anew_and_holds_the_same() {
        let disk = VirtualDisk::new();
        let path = Path::new("/log");
        let mut journal = JournalMap::open(Arc::new(disk.clone()), path).unwrap();
        for round in 0..200u8 {
            journal.insert(&key(u64::from(round % 3), 0), &vec![round; 20_000]).unwrap();
            journal.flush().unwrap();
        }
        assert!(journal.written < 2 * GARBAGE_MIN_BYTES, "{} bytes", journal.written);
        let again = JournalMap::open(Arc::new(disk.after_crash(Loss::Everything)), path).unwrap();
        assert_eq!((again.map, again.live), (journal.map, journal.live));
    }
}

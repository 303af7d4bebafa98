//! The log's twin in memory, against which the engines are tested, and an ordered map in memory for the record log.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use smr::codec;
use smr::entry::{Entry, EntryId, Index, Term};
use smr::internals::storage::fingerprint;
use smr::internals::storage::{ByteMap, Key, LoadError, LogStore, StorageError};

/// A log that forgets everything with the process.
#[derive(Debug, Default)]
pub struct MemoryLog {
    start: EntryId,
    entries: VecDeque<Entry>,
}

impl MemoryLog {
    /// An empty log that starts after `start`.
    pub fn new(start: EntryId) -> MemoryLog {
        MemoryLog { start, entries: VecDeque::new() }
    }

    fn at(&self, index: Index) -> Option<&Entry> {
        let offset = index.0.checked_sub(self.start.index.0 + 1)?;
        self.entries.get(usize::try_from(offset).ok()?)
    }
}

impl LogStore for MemoryLog {
    fn adopt(&mut self, _identity: u64) {
        assert!(self.entries.is_empty(), "a log with {} entries changes its owner", self.entries.len());
    }

    fn append(&mut self, entries: &[Entry]) -> Result<(), StorageError> {
        for entry in entries {
            let before = self.last();
            let follows = entry.id.index == before.index.next() && entry.id.term >= before.term;
            assert!(follows, "entry {} appended after {before}", entry.id);
            self.entries.push_back(entry.clone());
        }
        Ok(())
    }

    fn remove_from(&mut self, index: Index) -> Result<(), StorageError> {
        let inside = index > self.start.index && index <= self.last().index;
        assert!(inside, "removal from {index} on, of a log from {} to {}", self.start, self.last());
        self.entries.truncate((index.0 - self.start.index.0 - 1) as usize);
        Ok(())
    }

    fn remove_through(&mut self, index: Index) {
        assert!(index <= self.last().index, "removal through {index}, of a log up to {}", self.last());
        while self.entries.front().is_some_and(|entry| entry.id.index <= index) {
            if let Some(entry) = self.entries.pop_front() {
                self.start = entry.id;
            }
        }
    }

    fn compact_slice(&mut self) -> Result<bool, StorageError> {
        Ok(false)
    }

    fn reset_to(&mut self, start: EntryId) -> Result<(), StorageError> {
        *self = MemoryLog::new(start);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), StorageError> {
        Ok(())
    }

    fn start(&self) -> EntryId {
        self.start
    }

    fn last(&self) -> EntryId {
        self.entries.back().map_or(self.start, |entry| entry.id)
    }

    fn term_at(&self, index: Index) -> Option<Term> {
        if index == self.start.index { Some(self.start.term) } else { self.at(index).map(|entry| entry.id.term) }
    }

    fn fingerprint_at(&mut self, index: Index) -> Result<u64, StorageError> {
        let entry = self.at(index).unwrap_or_else(|| panic!("entry {index} asked for, of a log after {}", self.start));
        Ok(fingerprint(&codec::encode(entry)))
    }

    fn load(&self) -> Result<Vec<Entry>, LoadError> {
        Ok(self.entries.iter().cloned().collect())
    }
}

/// An ordered map in memory that remembers the order of its writes, so that a test can go back to any crash between
/// two flushes. Clones share one map.
#[derive(Clone, Debug, Default)]
pub struct MemoryMap {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Clone, Debug, Default)]
struct Inner {
    flushed: BTreeMap<Key, Vec<u8>>,
    current: BTreeMap<Key, Vec<u8>>,
    /// The writes since the last flush.
    pending: Vec<(Key, Option<Vec<u8>>)>,
    flushes: u64,
    inserts: u64,
}

impl MemoryMap {
    /// How many writes would be lost by a crash.
    pub fn pending(&self) -> usize {
        self.lock().pending.len()
    }

    /// How often it was flushed.
    pub fn flushes(&self) -> u64 {
        self.lock().flushes
    }

    /// How many values were ever put in.
    pub fn inserts(&self) -> u64 {
        self.lock().inserts
    }

    /// The map after a crash that kept only the first `kept` writes since the last flush.
    #[must_use]
    pub fn after_crash(&self, kept: usize) -> MemoryMap {
        let inner = self.lock();
        let mut map = inner.flushed.clone();
        for (key, value) in inner.pending.iter().take(kept) {
            put(&mut map, key, value.clone());
        }
        let inner = Inner { flushed: map.clone(), current: map, ..Inner::default() };
        MemoryMap { inner: Arc::new(Mutex::new(inner)) }
    }

    /// All keys and values, for tests that damage them.
    pub fn contents(&self) -> BTreeMap<Key, Vec<u8>> {
        self.lock().current.clone()
    }

    /// A map with these contents, all durable.
    #[must_use]
    pub fn with_contents(contents: BTreeMap<Key, Vec<u8>>) -> MemoryMap {
        let inner = Inner { flushed: contents.clone(), current: contents, ..Inner::default() };
        MemoryMap { inner: Arc::new(Mutex::new(inner)) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }
}

fn put(map: &mut BTreeMap<Key, Vec<u8>>, key: &Key, value: Option<Vec<u8>>) {
    match value {
        Some(value) => map.insert(*key, value),
        None => map.remove(key),
    };
}

impl ByteMap for MemoryMap {
    fn insert(&mut self, key: &Key, value: &[u8]) -> Result<(), StorageError> {
        let mut inner = self.lock();
        inner.inserts += 1;
        inner.pending.push((*key, Some(value.to_vec())));
        inner.current.insert(*key, value.to_vec());
        Ok(())
    }

    fn remove(&mut self, key: &Key) -> Result<(), StorageError> {
        let mut inner = self.lock();
        inner.pending.push((*key, None));
        inner.current.remove(key);
        Ok(())
    }

    fn scan(&self, from: &Key, visit: &mut dyn FnMut(&Key, &[u8]) -> bool) -> Result<(), LoadError> {
        for (key, value) in self.lock().current.range(*from..) {
            if !visit(key, value) {
                break;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), StorageError> {
        let mut inner = self.lock();
        let pending = std::mem::take(&mut inner.pending);
        for (key, value) in pending {
            put(&mut inner.flushed, &key, value);
        }
        inner.flushes += 1;
        Ok(())
    }

    fn place(&self) -> &Path {
        Path::new("memory")
    }
}

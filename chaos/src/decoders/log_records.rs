//! Records of a log, in any order and with any bytes.

use std::collections::BTreeMap;
use std::path::Path;

use smr::entry::{EntryId, Index};
use smr::internals::storage::record_log::RecordLog;
use smr::internals::storage::{ByteMap, KEY_LEN_BYTES, Key, LoadError, LogStore, StorageError};

use super::directory::{entries, genesis};

/// A map of bytes that holds whatever it is given.
#[derive(Default)]
struct AnyMap(BTreeMap<Key, Vec<u8>>);

impl ByteMap for AnyMap {
    fn insert(&mut self, key: &Key, value: &[u8]) -> Result<(), StorageError> {
        self.0.insert(*key, value.to_vec());
        Ok(())
    }

    fn remove(&mut self, key: &Key) -> Result<(), StorageError> {
        self.0.remove(key);
        Ok(())
    }

    fn scan(&self, from: &Key, visit: &mut dyn FnMut(&Key, &[u8]) -> bool) -> Result<(), LoadError> {
        for (key, value) in self.0.range(*from..) {
            if !visit(key, value) {
                break;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), StorageError> {
        Ok(())
    }

    fn place(&self) -> &Path {
        Path::new("/log")
    }
}

/// The values of a log: key, length (u16), value, and so on. What a log is recovered from is without holes, and belongs
/// to the one who asks.
pub(super) fn log_records(mut bytes: &[u8]) {
    let mut map = AnyMap::default();
    while let Some((key, rest)) = bytes.split_first_chunk::<KEY_LEN_BYTES>() {
        let Some((length, rest)) = rest.split_first_chunk::<2>() else { break };
        let (value, rest) = rest.split_at(usize::from(u16::from_le_bytes(*length)).min(rest.len()));
        map.0.insert(*key, value.to_vec());
        bytes = rest;
    }
    if let Ok(recovered) = RecordLog::recover(Box::new(map), IDENTITY, EntryId::ZERO, None) {
        for (position, entry) in recovered.entries.iter().enumerate() {
            assert_eq!(entry.id.index, Index(position as u64 + 1), "a hole");
        }
    }
}

const IDENTITY: u64 = 0x1d;

pub(super) fn sound_log_records() -> Vec<Vec<u8>> {
    let recovered = RecordLog::recover(Box::new(Recorder::default()), IDENTITY, EntryId::ZERO, None);
    let mut log = recovered.unwrap_or_else(|error| panic!("{error}")).log;
    let mut all = vec![genesis().first_entry()];
    all.extend(entries());
    RECORDED.with_borrow_mut(Vec::clear);
    for batch in all.chunks(2) {
        log.append(batch).unwrap_or_else(|error| panic!("{error}"));
    }
    vec![RECORDED.take()]
}

thread_local! {
    static RECORDED: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// Writes down what a log puts into its map, in the form of [`log_records`].
#[derive(Default)]
struct Recorder(AnyMap);

impl ByteMap for Recorder {
    fn insert(&mut self, key: &Key, value: &[u8]) -> Result<(), StorageError> {
        RECORDED.with_borrow_mut(|bytes| {
            bytes.extend_from_slice(key);
            bytes.extend_from_slice(&(value.len() as u16).to_le_bytes());
            bytes.extend_from_slice(value);
        });
        self.0.insert(key, value)
    }

    fn remove(&mut self, key: &Key) -> Result<(), StorageError> {
        self.0.remove(key)
    }

    fn scan(&self, from: &Key, visit: &mut dyn FnMut(&Key, &[u8]) -> bool) -> Result<(), LoadError> {
        self.0.scan(from, visit)
    }

    fn flush(&mut self) -> Result<(), StorageError> {
        Ok(())
    }

    fn place(&self) -> &Path {
        self.0.place()
    }
}

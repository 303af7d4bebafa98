//! What every log engine must do ([`smr_sim::conformance`]), run for each of them: the twin in memory, the record log
//! over a map in memory, over a journal and a simulated map on the virtual disk, and over sled, and the segments on the
//! virtual disk and on the real one.

#![allow(clippy::unwrap_used, reason = "a helper of a test may panic like the test itself")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;
use smr::entry::{EntryId, Index};
use smr::internals::disk::{Disk, RealDisk};
use smr::internals::storage::record_log::{COMPACT_SLICE_RECORDS_MAX, RecordLog};
use smr::internals::storage::{ByteMap, LogStore};
use smr::internals::storage::{RECORD_MAX_BYTES, open_segments, open_sled};
use smr_sim::conformance::{CASES, LogUnderTest, Step, batch, play};
use smr_sim::journal::JournalMap;
use smr_sim::memory::{MemoryLog, MemoryMap};
use smr_sim::virtual_disk::VirtualDisk;

const IDENTITY: u64 = 77;

struct Twin(MemoryLog);

impl LogUnderTest for Twin {
    fn log(&mut self) -> &mut dyn LogStore {
        &mut self.0
    }

    fn reopen(&mut self, _start: EntryId) -> bool {
        false
    }
}

/// A record log over some map that can be opened again.
struct Records {
    open: Box<dyn FnMut() -> Box<dyn ByteMap>>,
    log: Option<RecordLog>,
}

impl Records {
    fn new(mut open: Box<dyn FnMut() -> Box<dyn ByteMap>>) -> Records {
        let log = RecordLog::recover(open(), IDENTITY, EntryId::ZERO, None).unwrap().log;
        Records { open, log: Some(log) }
    }
}

impl LogUnderTest for Records {
    fn log(&mut self) -> &mut dyn LogStore {
        self.log.as_mut().unwrap()
    }

    fn reopen(&mut self, start: EntryId) -> bool {
        self.log = None;
        let recovered = RecordLog::recover((self.open)(), IDENTITY, start, None).unwrap();
        assert!(recovered.fits && recovered.notes.is_empty(), "{:?}", recovered.notes);
        assert_eq!(recovered.entries, recovered.log.load().unwrap());
        self.log = Some(recovered.log);
        true
    }
}

/// The log in segments, on some disk.
struct Segments {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    log: Option<Box<dyn LogStore>>,
}

impl Segments {
    fn new(disk: Arc<dyn Disk>, path: &Path) -> Segments {
        let log = open_segments(disk.clone(), path, IDENTITY, EntryId::ZERO).unwrap().log;
        Segments { disk, path: path.to_owned(), log: Some(log) }
    }
}

impl LogUnderTest for Segments {
    fn log(&mut self) -> &mut dyn LogStore {
        self.log.as_mut().unwrap().as_mut()
    }

    fn reopen(&mut self, start: EntryId) -> bool {
        self.log().tidy().unwrap();
        self.log = None;
        let recovered = open_segments(self.disk.clone(), &self.path, IDENTITY, start).unwrap();
        assert!(recovered.fits && recovered.notes.is_empty(), "{:?}", recovered.notes);
        assert_eq!(recovered.entries, recovered.log.load().unwrap());
        self.log = Some(recovered.log);
        true
    }
}

fn over_virtual_segments() -> Box<dyn LogUnderTest> {
    Box::new(Segments::new(Arc::new(VirtualDisk::new()), Path::new("/d/log")))
}

fn over_segments(directory: &tempfile::TempDir) -> Box<dyn LogUnderTest> {
    Box::new(Segments::new(Arc::new(RealDisk), &directory.path().join("segments")))
}

fn over_memory() -> Box<dyn LogUnderTest> {
    let map = MemoryMap::default();
    Box::new(Records::new(Box::new(move || Box::new(map.clone()))))
}

fn over_journal() -> Box<dyn LogUnderTest> {
    let disk = Arc::new(VirtualDisk::new());
    Box::new(Records::new(Box::new(move || Box::new(JournalMap::open(disk.clone(), Path::new("/d/log")).unwrap()))))
}

fn over_virtual_map() -> Box<dyn LogUnderTest> {
    let disk = VirtualDisk::new();
    Box::new(Records::new(Box::new(move || disk.open_map(Path::new("/d/log")).unwrap())))
}

fn over_sled(directory: &tempfile::TempDir) -> Box<dyn LogUnderTest> {
    let path = directory.path().join("log");
    Box::new(Records::new(Box::new(move || open_sled(&path).unwrap())))
}

/// Runs all cases, each on a log of its own, which may use this directory.
fn conforms(open: impl Fn(&tempfile::TempDir) -> Box<dyn LogUnderTest>) {
    for (name, case) in CASES {
        println!("{name}");
        case(open(&tempfile::tempdir().unwrap()).as_mut());
    }
}

#[test]
fn twin_in_memory_does_what_every_log_must() {
    conforms(|_| Box::new(Twin(MemoryLog::default())));
}

#[test]
fn record_log_over_memory_does_what_every_log_must() {
    conforms(|_| over_memory());
}

#[test]
fn record_log_over_journal_does_what_every_log_must() {
    conforms(|_| over_journal());
}

#[test]
fn record_log_over_virtual_map_does_what_every_log_must() {
    conforms(|_| over_virtual_map());
}

#[test]
fn record_log_over_sled_does_what_every_log_must() {
    conforms(over_sled);
}

#[test]
fn segments_on_virtual_disk_do_what_every_log_must() {
    conforms(|_| over_virtual_segments());
}

#[test]
fn segments_do_what_every_log_must() {
    conforms(over_segments);
}

/// One batch is one write, or as few as its size needs: each costs a flush of the device.
#[test]
fn append_batch_of_64_takes_one_insert_and_one_flush() {
    let map = MemoryMap::default();
    let mut log = RecordLog::recover(Box::new(map.clone()), IDENTITY, EntryId::ZERO, None).unwrap().log;
    log.append(&batch(1, 64, 1, 200)).unwrap();
    log.flush().unwrap();
    log.flush().unwrap();
    assert_eq!((map.inserts(), map.flushes()), (1, 1));
}

#[test]
fn compact_slice_removes_no_more_than_its_bound() {
    let map = MemoryMap::default();
    let mut log = RecordLog::recover(Box::new(map.clone()), IDENTITY, EntryId::ZERO, None).unwrap().log;
    // More parts than a slice has.
    log.append(&batch(1, 2, 1, RECORD_MAX_BYTES * 200)).unwrap();
    let before = map.contents().len();
    log.remove_through(Index(2));
    assert!(log.compact_slice().unwrap());
    assert_eq!(before - map.contents().len(), COMPACT_SLICE_RECORDS_MAX);
    while log.compact_slice().unwrap() {}
    assert_eq!(map.contents().len(), 0);
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1u64..40, prop_oneof![0usize..300, 20_000usize..60_000], any::<bool>())
            .prop_map(|(count, len, newer_term)| {
                let count = if len > 300 { 1 + count % 3 } else { count };
                Step::Append { count, len, newer_term }
            }),
        2 => (0u64..60).prop_map(Step::RemoveFrom),
        2 => (0u64..60).prop_map(Step::RemoveThrough),
        2 => Just(Step::Compact),
        1 => (0u64..50, any::<bool>()).prop_map(|(ahead, newer_term)| Step::Reset { ahead, newer_term }),
        2 => Just(Step::Flush),
        2 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_steps_over_memory_agree_with_twin(steps in proptest::collection::vec(step(), 1..40)) {
        play(over_memory().as_mut(), &steps);
    }

    #[test]
    fn random_steps_over_journal_agree_with_twin(steps in proptest::collection::vec(step(), 1..40)) {
        play(over_journal().as_mut(), &steps);
    }

    #[test]
    fn random_steps_over_virtual_map_agree_with_twin(steps in proptest::collection::vec(step(), 1..40)) {
        play(over_virtual_map().as_mut(), &steps);
    }

    #[test]
    fn random_steps_over_virtual_segments_agree_with_twin(steps in proptest::collection::vec(step(), 1..40)) {
        play(over_virtual_segments().as_mut(), &steps);
    }
}

proptest! {
    // Each costs some hundred milliseconds of opening.
    #![proptest_config(ProptestConfig { cases: 4, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_steps_over_sled_agree_with_twin(steps in proptest::collection::vec(step(), 1..40)) {
        let directory = tempfile::tempdir().unwrap();
        play(over_sled(&directory).as_mut(), &steps);
    }
}

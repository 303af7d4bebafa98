//! What every engine must do, run for each of them: the twin in memory, the record log over a map in memory, over a
//! journal and a simulated map on the virtual disk, and over sled, and the segments on the virtual disk and on the real
//! one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use super::disk::{Disk, RealDisk};
use super::memory::{MemoryLog, MemoryMap};
use super::open::Trouble;
use super::record::RECORD_MAX_BYTES;
use super::record_log::{COMPACT_SLICE_RECORDS_MAX, RecordLog};
use super::segments::SegmentLog;
use super::virtual_disk::VirtualDisk;
use super::{ByteMap, LogStore, journal, sled};
use crate::entry::{Entry, EntryId, Index, Payload, Term};

const IDENTITY: u64 = 77;

fn command(index: u64, term: u64, len: usize) -> Entry {
    let byte = (index % 251) as u8;
    Entry { id: EntryId::new(index, term), payload: Payload::Command(Bytes::from(vec![byte; len])) }
}

fn batch(first: u64, count: u64, term: u64, len: usize) -> Vec<Entry> {
    (first..first + count).map(|index| command(index, term, len)).collect()
}

/// A log that can be closed and opened again.
trait Bench {
    fn log(&mut self) -> &mut dyn LogStore;
    /// Opens the log again behind `start`; false if the engine forgets everything.
    fn reopen(&mut self, start: EntryId) -> bool;
}

struct Twin(MemoryLog);

impl Bench for Twin {
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

impl Bench for Records {
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
    log: Option<SegmentLog>,
}

impl Segments {
    fn new(disk: Arc<dyn Disk>, path: &Path) -> Segments {
        let log = SegmentLog::recover(disk.clone(), path, IDENTITY, EntryId::ZERO, None).unwrap().log;
        Segments { disk, path: path.to_owned(), log: Some(log) }
    }
}

impl Bench for Segments {
    fn log(&mut self) -> &mut dyn LogStore {
        self.log.as_mut().unwrap()
    }

    fn reopen(&mut self, start: EntryId) -> bool {
        self.log().tidy().unwrap();
        self.log = None;
        let recovered = SegmentLog::recover(self.disk.clone(), &self.path, IDENTITY, start, None).unwrap();
        assert!(recovered.fits && recovered.notes.is_empty(), "{:?}", recovered.notes);
        assert_eq!(recovered.entries, recovered.log.load().unwrap());
        self.log = Some(recovered.log);
        true
    }
}

fn over_virtual_segments() -> Box<dyn Bench> {
    Box::new(Segments::new(Arc::new(VirtualDisk::new()), Path::new("/d/log")))
}

fn over_segments(directory: &tempfile::TempDir) -> Box<dyn Bench> {
    Box::new(Segments::new(Arc::new(RealDisk), &directory.path().join("segments")))
}

fn over_memory() -> Box<dyn Bench> {
    let map = MemoryMap::default();
    Box::new(Records::new(Box::new(move || Box::new(map.clone()))))
}

fn over_journal() -> Box<dyn Bench> {
    let disk = Arc::new(VirtualDisk::new());
    Box::new(Records::new(Box::new(move || {
        Box::new(journal::JournalMap::open(disk.clone(), std::path::Path::new("/d/log")).unwrap())
    })))
}

fn over_virtual_map() -> Box<dyn Bench> {
    let disk = VirtualDisk::new();
    Box::new(Records::new(Box::new(move || disk.open_map(std::path::Path::new("/d/log")).unwrap())))
}

fn over_sled(directory: &tempfile::TempDir) -> Box<dyn Bench> {
    let path = directory.path().join("log");
    Box::new(Records::new(Box::new(move || match sled::open(&path, true) {
        Ok(opened) => Box::new(opened.map),
        Err(Trouble::Quarantine(damage)) => panic!("{damage}"),
        Err(Trouble::Refuse(error)) => panic!("{error}"),
    })))
}

/// Runs a case for all engines.
fn each(case: impl Fn(&mut dyn Bench)) {
    case(&mut Twin(MemoryLog::default()));
    case(over_memory().as_mut());
    case(over_journal().as_mut());
    case(over_virtual_map().as_mut());
    let directory = tempfile::tempdir().unwrap();
    case(over_sled(&directory).as_mut());
    case(over_virtual_segments().as_mut());
    case(over_segments(&directory).as_mut());
}

fn check(bench: &mut dyn Bench, start: EntryId, expected: &[Entry]) {
    let compare = |log: &mut dyn LogStore| {
        let last = expected.last().map_or(start, |entry| entry.id);
        assert_eq!(log.start(), start);
        assert_eq!(log.last(), last);
        assert_eq!(log.load().unwrap(), expected);
        assert_eq!(log.term_at(start.index), Some(start.term));
        assert_eq!(log.term_at(last.index.next()), None);
        for entry in expected {
            assert_eq!(log.term_at(entry.id.index), Some(entry.id.term));
        }
        let mut twin = MemoryLog::new(start);
        twin.append(expected).unwrap();
        for entry in expected.iter().rev().take(3).chain(expected.iter().take(3)) {
            let index = entry.id.index;
            assert_eq!(log.fingerprint_at(index).unwrap(), twin.fingerprint_at(index).unwrap());
        }
    };
    compare(bench.log());
    bench.log().flush().unwrap();
    if bench.reopen(start) {
        compare(bench.log());
    }
}

#[test]
fn log_empty_starts_and_ends_at_zero() {
    each(|bench| check(bench, EntryId::ZERO, &[]));
}

#[test]
fn append_batches_of_all_sizes_read_back_in_order() {
    each(|bench| {
        let mut all = Vec::new();
        for (count, len) in [(1, 0), (64, 200), (1, 24 << 10), (3, 12_000), (200, 1), (1, 1_200_000), (2, 30_000)] {
            let entries = batch(all.len() as u64 + 1, count, 1 + all.len() as u64 / 100, len);
            bench.log().append(&entries).unwrap();
            all.extend(entries);
        }
        check(bench, EntryId::ZERO, &all);
    });
}

#[test]
fn append_entries_around_record_limit_read_back_in_order() {
    each(|bench| {
        let mut all = Vec::new();
        for len in RECORD_MAX_BYTES - 200..RECORD_MAX_BYTES + 20 {
            if len % 7 == 0 {
                all.push(command(all.len() as u64 + 1, 1, len));
            }
        }
        bench.log().append(&all).unwrap();
        check(bench, EntryId::ZERO, &all);
    });
}

#[test]
fn remove_from_inside_record_keeps_what_is_before() {
    each(|bench| {
        let first = batch(1, 64, 1, 100);
        bench.log().append(&first).unwrap();
        bench.log().append(&batch(65, 64, 2, 100)).unwrap();
        bench.log().remove_from(Index(31)).unwrap();
        check(bench, EntryId::ZERO, &first[..30]);
        let other = batch(31, 5, 3, 100);
        bench.log().append(&other).unwrap();
        check(bench, EntryId::ZERO, &[&first[..30], &other].concat());
    });
}

#[test]
fn remove_from_first_index_empties_log() {
    each(|bench| {
        bench.log().append(&batch(1, 10, 1, 50_000)).unwrap();
        bench.log().remove_from(Index(1)).unwrap();
        check(bench, EntryId::ZERO, &[]);
        let other = batch(1, 2, 4, 50_000);
        bench.log().append(&other).unwrap();
        check(bench, EntryId::ZERO, &other);
    });
}

#[test]
fn remove_through_inside_record_hides_entries_at_once() {
    each(|bench| {
        let all = [batch(1, 64, 1, 100), batch(65, 64, 2, 100)].concat();
        bench.log().append(&all).unwrap();
        bench.log().remove_through(Index(30));
        check(bench, EntryId::new(30, 1), &all[30..]);
        bench.log().remove_from(Index(31)).unwrap();
        check(bench, EntryId::new(30, 1), &[]);
        let other = batch(31, 3, 2, 100);
        bench.log().append(&other).unwrap();
        check(bench, EntryId::new(30, 1), &other);
    });
}

#[test]
fn remove_through_last_then_append_continues() {
    each(|bench| {
        bench.log().append(&batch(1, 10, 3, 60_000)).unwrap();
        bench.log().remove_through(Index(10));
        check(bench, EntryId::new(10, 3), &[]);
        let more = batch(11, 3, 3, 60_000);
        bench.log().append(&more).unwrap();
        while bench.log().compact_slice().unwrap() {}
        check(bench, EntryId::new(10, 3), &more);
    });
}

#[test]
fn compact_slices_between_appends_leave_the_rest_whole() {
    each(|bench| {
        let all = batch(1, 700, 1, 10);
        for entry in &all {
            bench.log().append(std::slice::from_ref(entry)).unwrap();
        }
        bench.log().remove_through(Index(650));
        bench.log().compact_slice().unwrap();
        check(bench, EntryId::new(650, 1), &all[650..]);
        while bench.log().compact_slice().unwrap() {}
        check(bench, EntryId::new(650, 1), &all[650..]);
    });
}

#[test]
fn reset_ahead_of_log_and_into_it_empties_it() {
    each(|bench| {
        bench.log().append(&batch(1, 20, 1, 2_000)).unwrap();
        bench.log().reset_to(EntryId::new(100, 5)).unwrap();
        check(bench, EntryId::new(100, 5), &[]);
        let more = batch(101, 20, 6, 2_000);
        bench.log().append(&more).unwrap();
        check(bench, EntryId::new(100, 5), &more);
        bench.log().reset_to(EntryId::new(110, 7)).unwrap();
        check(bench, EntryId::new(110, 7), &[]);
        let more = batch(111, 2, 7, 2_000);
        bench.log().append(&more).unwrap();
        check(bench, EntryId::new(110, 7), &more);
    });
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

#[derive(Clone, Debug)]
enum Step {
    Append { count: u64, len: usize, newer_term: bool },
    RemoveFrom(u64),
    RemoveThrough(u64),
    Compact,
    Reset { ahead: u64, newer_term: bool },
    Flush,
    Reopen,
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

/// Plays steps on an engine and on the twin, and compares after each.
fn play(bench: &mut dyn Bench, steps: &[Step]) {
    let mut twin = MemoryLog::default();
    for step in steps {
        let log = bench.log();
        let (start, last) = (twin.start(), twin.last());
        match step {
            Step::Append { count, len, newer_term } => {
                let term = last.term.0.max(1) + u64::from(*newer_term);
                let entries = batch(last.index.0 + 1, *count, term, *len);
                log.append(&entries).unwrap();
                twin.append(&entries).unwrap();
            }
            Step::RemoveFrom(back) if last.index > start.index => {
                let index = Index((last.index.0.saturating_sub(*back)).max(start.index.0 + 1));
                log.remove_from(index).unwrap();
                twin.remove_from(index).unwrap();
            }
            Step::RemoveThrough(forward) => {
                let index = Index((start.index.0 + forward).min(last.index.0));
                log.remove_through(index);
                twin.remove_through(index);
            }
            Step::Compact => {
                log.compact_slice().unwrap();
            }
            Step::Reset { ahead, newer_term } => {
                let id =
                    EntryId { index: Index(start.index.0 + ahead), term: Term(last.term.0 + u64::from(*newer_term)) };
                log.reset_to(id).unwrap();
                twin.reset_to(id).unwrap();
            }
            Step::Flush => {
                log.flush().unwrap();
                log.tidy().unwrap();
            }
            Step::Reopen => {
                log.flush().unwrap();
                bench.reopen(twin.start());
            }
            Step::RemoveFrom(_) => {}
        }
        let log = bench.log();
        assert_eq!((log.start(), log.last()), (twin.start(), twin.last()), "after {step:?}");
    }
    let (start, expected) = (twin.start(), twin.load().unwrap());
    check(bench, start, &expected);
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

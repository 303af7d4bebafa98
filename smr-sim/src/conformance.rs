//! What every log engine must do, whatever it keeps the log in: [`CASES`], one at a time, and [`play`] for steps of
//! your choice. Each is given an empty log, and panics with what is wrong.

#![allow(clippy::unwrap_used, reason = "a suite of tests")]

use bytes::Bytes;
use smr::entry::{Entry, EntryId, Index, Payload, Term};
use smr::internals::storage::LogStore;
use smr::internals::storage::RECORD_MAX_BYTES;

use crate::memory::MemoryLog;

/// A log that can be closed and opened again.
pub trait LogUnderTest {
    /// The open log.
    fn log(&mut self) -> &mut dyn LogStore;
    /// Opens the log again after `start`; false if the engine forgets everything.
    fn reopen(&mut self, start: EntryId) -> bool;
}

/// What one case does with an empty log.
pub type Case = fn(&mut dyn LogUnderTest);

/// All cases, by name.
pub const CASES: &[(&str, Case)] = &[
    ("log_empty_starts_and_ends_at_zero", log_empty_starts_and_ends_at_zero),
    ("append_batches_of_all_sizes_read_back_in_order", append_batches_of_all_sizes_read_back_in_order),
    ("append_entries_around_record_limit_read_back_in_order", append_entries_around_record_limit_read_back_in_order),
    ("remove_from_inside_record_keeps_what_is_before", remove_from_inside_record_keeps_what_is_before),
    ("remove_from_first_index_empties_log", remove_from_first_index_empties_log),
    ("remove_through_inside_record_hides_entries_at_once", remove_through_inside_record_hides_entries_at_once),
    ("remove_through_last_then_append_continues", remove_through_last_then_append_continues),
    ("compact_slices_between_appends_leave_the_rest_whole", compact_slices_between_appends_leave_the_rest_whole),
    ("reset_ahead_of_log_and_into_it_empties_it", reset_ahead_of_log_and_into_it_empties_it),
];

/// An entry with a command of `len` bytes.
pub fn command(index: u64, term: u64, len: usize) -> Entry {
    let byte = (index % 251) as u8;
    Entry { id: EntryId::new(index, term), payload: Payload::Command(Bytes::from(vec![byte; len])) }
}

/// This many of them, in one term.
pub fn batch(first: u64, count: u64, term: u64, len: usize) -> Vec<Entry> {
    (first..first + count).map(|index| command(index, term, len)).collect()
}

fn check(bench: &mut dyn LogUnderTest, start: EntryId, expected: &[Entry]) {
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

fn log_empty_starts_and_ends_at_zero(bench: &mut dyn LogUnderTest) {
    check(bench, EntryId::ZERO, &[]);
}

fn append_batches_of_all_sizes_read_back_in_order(bench: &mut dyn LogUnderTest) {
    let mut all = Vec::new();
    for (count, len) in [(1, 0), (64, 200), (1, 24 << 10), (3, 12_000), (200, 1), (1, 1_200_000), (2, 30_000)] {
        let entries = batch(all.len() as u64 + 1, count, 1 + all.len() as u64 / 100, len);
        bench.log().append(&entries).unwrap();
        all.extend(entries);
    }
    check(bench, EntryId::ZERO, &all);
}

fn append_entries_around_record_limit_read_back_in_order(bench: &mut dyn LogUnderTest) {
    let mut all = Vec::new();
    for len in RECORD_MAX_BYTES - 200..RECORD_MAX_BYTES + 20 {
        if len % 7 == 0 {
            all.push(command(all.len() as u64 + 1, 1, len));
        }
    }
    bench.log().append(&all).unwrap();
    check(bench, EntryId::ZERO, &all);
}

fn remove_from_inside_record_keeps_what_is_before(bench: &mut dyn LogUnderTest) {
    let first = batch(1, 64, 1, 100);
    bench.log().append(&first).unwrap();
    bench.log().append(&batch(65, 64, 2, 100)).unwrap();
    bench.log().remove_from(Index(31)).unwrap();
    check(bench, EntryId::ZERO, &first[..30]);
    let other = batch(31, 5, 3, 100);
    bench.log().append(&other).unwrap();
    check(bench, EntryId::ZERO, &[&first[..30], &other].concat());
}

fn remove_from_first_index_empties_log(bench: &mut dyn LogUnderTest) {
    bench.log().append(&batch(1, 10, 1, 50_000)).unwrap();
    bench.log().remove_from(Index(1)).unwrap();
    check(bench, EntryId::ZERO, &[]);
    let other = batch(1, 2, 4, 50_000);
    bench.log().append(&other).unwrap();
    check(bench, EntryId::ZERO, &other);
}

fn remove_through_inside_record_hides_entries_at_once(bench: &mut dyn LogUnderTest) {
    let all = [batch(1, 64, 1, 100), batch(65, 64, 2, 100)].concat();
    bench.log().append(&all).unwrap();
    bench.log().remove_through(Index(30));
    check(bench, EntryId::new(30, 1), &all[30..]);
    bench.log().remove_from(Index(31)).unwrap();
    check(bench, EntryId::new(30, 1), &[]);
    let other = batch(31, 3, 2, 100);
    bench.log().append(&other).unwrap();
    check(bench, EntryId::new(30, 1), &other);
}

fn remove_through_last_then_append_continues(bench: &mut dyn LogUnderTest) {
    bench.log().append(&batch(1, 10, 3, 60_000)).unwrap();
    bench.log().remove_through(Index(10));
    check(bench, EntryId::new(10, 3), &[]);
    let more = batch(11, 3, 3, 60_000);
    bench.log().append(&more).unwrap();
    while bench.log().compact_slice().unwrap() {}
    check(bench, EntryId::new(10, 3), &more);
}

fn compact_slices_between_appends_leave_the_rest_whole(bench: &mut dyn LogUnderTest) {
    let all = batch(1, 700, 1, 10);
    for entry in &all {
        bench.log().append(std::slice::from_ref(entry)).unwrap();
    }
    bench.log().remove_through(Index(650));
    bench.log().compact_slice().unwrap();
    check(bench, EntryId::new(650, 1), &all[650..]);
    while bench.log().compact_slice().unwrap() {}
    check(bench, EntryId::new(650, 1), &all[650..]);
}

fn reset_ahead_of_log_and_into_it_empties_it(bench: &mut dyn LogUnderTest) {
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
}

/// A step in a log's life. One that is not possible at the time does nothing.
#[derive(Clone, Debug)]
pub enum Step {
    /// Entries are appended.
    Append {
        /// How many of them.
        count: u64,
        /// How long each command is, in bytes.
        len: usize,
        /// Whether they are of a later term.
        newer_term: bool,
    },
    /// The end is removed, from this far before the last entry on.
    RemoveFrom(u64),
    /// The front is removed, through so far behind the start.
    RemoveThrough(u64),
    /// A slice of what was removed from the front goes from the device.
    Compact,
    /// The log is emptied.
    Reset {
        /// How far ahead of the start it goes on.
        ahead: u64,
        /// Whether in a later term.
        newer_term: bool,
    },
    /// Everything is made durable.
    Flush,
    /// The log is closed and opened again.
    Reopen,
}

/// Plays steps on an engine and on a twin in memory, and compares after each.
pub fn play(bench: &mut dyn LogUnderTest, steps: &[Step]) {
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

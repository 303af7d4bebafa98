//! What a flush costs, how a segment ends, and the engine on the real disk.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use smr::entry::Index;
use smr::internals::disk::Disk;
use smr::internals::protocol::LogChange;
use smr::internals::storage::{LogEngine, OpenError, OpenOutcome, StoreOptions, SyncMode};
use smr_sim::virtual_disk::Loss;

use super::{LOG, append, bench, content, filled, founded, segments};
use crate::support::*;

/// The point of it all: a flush is one write and one sync, whatever was appended since the last one.
#[test]
fn flush_of_many_appends_takes_one_write_and_one_sync() {
    let disk = founded();
    let mut store = bench(&disk).reopen().store().store;
    for first in [2, 34, 66] {
        store.apply(&LogChange::Append(batch(first, 32, 1, 10))).unwrap();
    }
    let before = disk.operations();
    store.flush().unwrap();
    assert_eq!(disk.operations() - before, 2);
    store.flush().unwrap();
    assert_eq!(disk.operations() - before, 2, "nothing to flush, and flushed");
}

/// When a segment ends, the next one is ready: the old one's last write and sync, and the new one's.
#[test]
fn flush_over_the_end_of_a_segment_makes_no_file() {
    let disk = founded();
    let mut store = bench(&disk).reopen().store().store;
    let mut costs = BTreeSet::new();
    for first in 0..40 {
        store.apply(&LogChange::Append(batch(2 + first, 1, 1, 1_000))).unwrap();
        let before = disk.operations();
        let names = disk.list(Path::new(LOG)).unwrap();
        store.flush().unwrap();
        costs.insert(disk.operations() - before);
        assert_eq!(disk.list(Path::new(LOG)).unwrap(), names);
        store.follow().unwrap();
    }
    assert_eq!(costs, [2].into(), "a segment that ends is synced by the append that no longer fits");
}

/// A record that begins a segment is read with and without the segment before it, by whichever snapshot there is.
#[test]
fn removal_emptying_or_start_at_the_end_of_a_segment_is_read_from_every_snapshot() {
    let mut begun = BTreeSet::new();
    for left in 0..=40 {
        for act in ["nothing", "removal", "removal below", "emptying ahead", "emptying for a conflict", "start"] {
            let (disk, mut store, mut entries) = filled(left);
            let change = match act {
                "removal" => Some(LogChange::RemoveFrom(Index(12))),
                "removal below" => Some(LogChange::RemoveFrom(Index(7))),
                "emptying ahead" => Some(LogChange::Install(snapshot(20, 2))),
                "emptying for a conflict" => Some(LogChange::Install(snapshot(8, 2))),
                _ => None,
            };
            let mut start = snapshot(0, 0).last;
            match &change {
                Some(LogChange::RemoveFrom(index)) => entries.retain(|entry| entry.id.index < *index),
                Some(LogChange::Install(meta)) => (start, entries) = (meta.last, Vec::new()),
                _ => {}
            }
            if act == "start" {
                drop(store);
                store = bench(&disk).reopen().store().store;
            }
            change.iter().for_each(|change| store.apply(change).unwrap());
            let first = entries.last().map_or(start, |entry| entry.id).index.0 + 1;
            let more = batch(first, 20, 2, 30);
            store.apply(&LogChange::Append(more.clone())).unwrap();
            store.sync().unwrap();
            drop(store);
            begun.extend(segments(&disk).iter().map(|file| (act, content(&disk, file)[4096 + 12])));
            entries.extend(more);
            let among = [first - 1, first, first + 5, first + 6, first + 19];
            let ends = entries.iter().map(|entry| entry.id).filter(|id| among.contains(&id.index.0));
            for end in [start].into_iter().chain(ends) {
                let at = format!("{left} bytes left, {act}, snapshot {end}");
                let copy = disk.after_crash(Loss::Everything);
                let options = StoreOptions { snapshot: snapshot(end.index.0, end.term.0), ..bench(&copy).options };
                let opened = match bench(&copy).open_with(&options).unwrap_or_else(|error| panic!("{at}: {error}")) {
                    OpenOutcome::Store(opened) => opened,
                    OpenOutcome::Quarantined(quarantined) => panic!("{at}: {}", quarantined.reason),
                };
                let expected = entries.iter().filter(|entry| entry.id.index > end.index).cloned().collect::<Vec<_>>();
                assert!(opened.entries == expected, "{at}: {:?}", ids(&opened.entries));
                // What the store says is where it goes on, also when the dead segments are given back.
                let mut store = opened.store;
                store.apply(&LogChange::Append(batch(first + 20, 1, 3, 10))).unwrap();
                store.sync().unwrap();
                drop(store);
                let again = bench(&copy.after_crash(Loss::Everything)).open_with(&options).unwrap();
                assert_eq!(again.store().entries.len(), expected.len() + 1, "{at}");
            }
        }
    }
    // Each of the records has been the first of a segment.
    for first in [("removal", 2), ("removal below", 2), ("emptying ahead", 3), ("start", 4)] {
        assert!(begun.contains(&first), "{first:?}, {begun:?}");
    }
}

/// On the real disk: it opens, grows over segments that are prepared by a thread, is cut, opens again, and says how it
/// syncs.
#[test]
fn store_over_segments_on_the_real_disk_returns_all_that_was_synced() {
    let mut bench = Bench::new();
    bench.options.engine = LogEngine::Segments;
    bench.options.allow_unsynced = false;
    let mut store = bench.founded();
    let mut next = 2;
    for _ in 0..24 {
        append(&mut store, next, 20, 100_000);
        next += 20;
        store.apply(&LogChange::RemoveThrough(Index(next - 10))).unwrap();
    }
    store.sync().unwrap();
    drop(store);
    let files = fs::read_dir(bench.path.join("log")).unwrap().count();
    assert!(files <= 5, "{files} files");
    let opened = bench.reopen_with(snapshot(next - 10, 1)).store();
    assert_eq!(opened.entries, batch(next - 9, 9, 1, 100_000));
    assert!(matches!(opened.sync_mode, SyncMode::Synced | SyncMode::Tmpfs));
    assert_eq!(opened.durability(), format!("{}, log in segments", opened.sync_mode));
}

/// Nothing is lost, and nothing is touched, when someone gets the flag wrong.
#[test]
fn directory_of_the_other_engine_is_refused_untouched_with_one_line() {
    for (made, asked) in [(LogEngine::Sled, LogEngine::Segments), (LogEngine::Segments, LogEngine::Sled)] {
        let mut bench = Bench::new();
        bench.options.engine = made;
        let mut store = bench.founded();
        append(&mut store, 2, 5, 10);
        drop(store);
        let before = contents(&bench.path);
        bench.options.engine = asked;
        let error = bench.open().err().unwrap();
        let directory = bench.path.clone();
        assert_eq!(error, OpenError::OtherEngine { directory, found: made, asked });
        assert_eq!(error.to_string().lines().count(), 1, "{error}");
        assert!(contents(&bench.path) == before, "{made} was touched by {asked}");
        bench.options.engine = made;
        assert_eq!(bench.reopen().store().entries.len(), 6);
    }
}

#[test]
fn engine_named_by_an_operator_is_sled_or_segments() {
    assert_eq!(("sled".parse(), "segments".parse()), (Ok(LogEngine::Sled), Ok(LogEngine::Segments)));
    assert_eq!("journal".parse::<LogEngine>().unwrap_err().to_string(), "sled and segments are possible");
}

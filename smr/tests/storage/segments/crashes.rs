//! Kills, power cuts and failed syncs, where segments are more than one file: what was confirmed stays, and what was
//! lost stays lost.

use std::collections::BTreeSet;
use std::io::ErrorKind;

use smr::entry::{Entry, Index};
use smr::internals::protocol::LogChange;
use smr::internals::storage::{OpenOutcome, StoreOptions};
use smr_sim::virtual_disk::{Fault, Loss, VirtualDisk};

use super::{FRAME_BYTES, LOG, append, bench, content, filled, founded, segments, used};
use crate::support::*;

/// What was written and never confirmed is gone once the log went on without it, also if the very same entries come
/// again.
// covers D1, D2
#[test]
fn entries_lost_in_a_crash_do_not_return_behind_the_same_entry_again() {
    let disk = founded();
    let mut store = bench(&disk).reopen().store().store;
    append(&mut store, 2, 1, 10);
    // A flush fills its last block up with zeros, which hides what was after: so the entry has to end with the block.
    let end = used(&content(&disk, &segments(&disk)[0]));
    let written = [batch(3, 1, 1, 8192 - end - FRAME_BYTES), batch(4, 1, 1, 700), batch(5, 1, 1, 700)];
    written.iter().for_each(|entries| store.apply(&LogChange::Append(entries.clone())).unwrap());
    // Written, but not synced: the write is the first operation of the flush, the sync the second.
    disk.fault_at(disk.operations() + 1, Fault::PowerOff);
    store.flush().unwrap_err();
    drop(store);
    let changes = disk.volatile_changes();
    assert!((10..64).contains(&changes), "{changes}");
    let alone = (0..changes).map(|lost| Loss::Chosen(!(1 << lost)));
    let mut shapes = BTreeSet::new();
    for loss in alone.chain((0..100).map(Loss::Seeded)) {
        let left = disk.after_crash(loss);
        let opened = bench(&left).reopen().store();
        let found = opened.entries.len();
        shapes.insert(found);
        let mut store = opened.store;
        // The next one, once more.
        let Some(again) = written.get(found - 2) else { continue };
        store.apply(&LogChange::Append(again.clone())).unwrap();
        store.sync().unwrap();
        drop(store);
        let last = bench(&left.after_crash(Loss::Everything)).reopen().store().entries.len();
        assert_eq!(last, found + 1, "{loss:?}: {found} entries were found, and one was appended");
    }
    assert!(shapes.contains(&2) && shapes.contains(&5), "{shapes:?}");
}

/// Killed between the write of a segment's last frames and their sync: the next start reads them, and has no room
/// after them for a record of its own.
// covers D1
#[test]
fn entries_read_after_a_kill_at_the_end_of_a_segment_outlive_a_power_cut() {
    for left in 0..=40 {
        let (disk, mut store, mut entries) = filled(FRAME_BYTES + 10 + left);
        entries.extend(batch(13, 1, 1, 10));
        store.apply(&LogChange::Append(batch(13, 1, 1, 10))).unwrap();
        // The sync after the write never happens.
        disk.lie_at(disk.operations() + 1);
        store.flush().unwrap();
        drop(store);
        assert_eq!((disk.lies_told(), disk.volatile_changes() > 0), (1, true));
        let opened = bench(&disk).reopen().store();
        assert!(opened.entries == entries, "{left} bytes left: {:?}", ids(&opened.entries));
        let mut store = opened.store;
        entries.extend(append(&mut store, 14, 1, 10));
        drop(store);
        match bench(&disk.after_crash(Loss::Everything)).reopen() {
            OpenOutcome::Store(opened) => assert!(opened.entries == entries, "{left}: {:?}", ids(&opened.entries)),
            OpenOutcome::Quarantined(quarantined) => panic!("{left} bytes left: {}", quarantined.reason),
        }
    }
}

/// What a failed sync leaves is in the cache, and clean: no sync would ever write it. The start that reads it there
/// does.
// covers D6
#[test]
fn entries_read_after_a_failed_sync_outlive_a_power_cut() {
    for left in (0..=40).chain([5_000, 10_000]) {
        // Some blocks, in this segment or, with its header, in the next one.
        for count in [1, 5] {
            let batch_bytes = count * (FRAME_BYTES + 700);
            let (disk, mut store, mut entries) = filled((batch_bytes + left).min(11_000));
            let written: Vec<Entry> = (0..count as u64).flat_map(|more| batch(13 + more, 1, 1, 700)).collect();
            written.iter().for_each(|entry| store.apply(&LogChange::Append(vec![entry.clone()])).unwrap());
            disk.fault_at(disk.operations() + 1, Fault::Error(ErrorKind::Other));
            store.flush().unwrap_err();
            drop(store);
            let at = format!("{left} bytes left, {count} entries");
            let opened = bench(&disk).reopen().store();
            entries.extend(written);
            assert!(opened.entries == entries, "{at}: {:?}", ids(&opened.entries));
            let mut store = opened.store;
            entries.extend(append(&mut store, 13 + count as u64, 1, 10));
            drop(store);
            match bench(&disk.after_crash(Loss::Everything)).reopen() {
                OpenOutcome::Store(opened) => assert!(opened.entries == entries, "{at}: {:?}", ids(&opened.entries)),
                OpenOutcome::Quarantined(quarantined) => panic!("{at}: {}", quarantined.reason),
            }
        }
    }
}

/// A log that is cut at its front while it grows goes round through the same few files, and what they held before never
/// returns, wherever the power is cut.
// covers D1, D10
#[test]
fn power_cut_while_segments_are_recycled_leaves_what_was_confirmed() {
    const ROUNDS: u64 = 24;
    // All entries look the same, so an old record could only be told from a new one by the chain.
    let work = |disk: &VirtualDisk| -> (u64, u64, u64) {
        let (mut confirmed, mut begun, mut start) = (1, 1, 0);
        let Ok(opened) = bench(disk).open() else { return (confirmed, begun, start) };
        let mut store = opened.store().store;
        for round in 0..ROUNDS {
            let first = 2 + round * 12;
            begun = first + 11;
            if store.apply(&LogChange::Append(batch(first, 12, 1, 200))).is_err() || store.sync().is_err() {
                break;
            }
            confirmed = begun;
            start = confirmed - 6;
            if store.apply(&LogChange::RemoveThrough(Index(start))).is_err() {
                break;
            }
        }
        (confirmed, begun, start)
    };
    let disk = founded().after_crash(Loss::Everything);
    let end = {
        let copy = disk.after_crash(Loss::Nothing);
        work(&copy);
        let files = segments(&copy);
        assert!(files.len() <= 5, "{files:?}");
        // They have come round at least twice.
        assert!(files.last().unwrap().display().to_string() > format!("{LOG}/00000006.segment"), "{files:?}");
        copy.operations()
    };
    for cut in 0..=end {
        let copy = disk.after_crash(Loss::Nothing);
        copy.fault_at(cut, Fault::PowerOff);
        let (confirmed, begun, start) = work(&copy);
        let snapshot = if start == 0 { snapshot(0, 0) } else { snapshot(start, 1) };
        for loss in [Loss::Nothing, Loss::Everything].into_iter().chain((0..12).map(Loss::Seeded)) {
            let at = format!("cut at {cut}, {loss:?}");
            let left = copy.after_crash(loss);
            let options = StoreOptions { snapshot: snapshot.clone(), ..bench(&left).options };
            let opened = match bench(&left).open_with(&options).unwrap_or_else(|error| panic!("{at}: {error}")) {
                OpenOutcome::Store(opened) => opened,
                OpenOutcome::Quarantined(quarantined) => panic!("{at}: {}", quarantined.reason),
            };
            let last = opened.store.last().index.0;
            assert!((confirmed..=begun).contains(&last), "{at}: ends with {last}, {confirmed} was confirmed");
            let whole =
                opened.entries.iter().all(|entry| entry.id.index.0 == 1 || *entry == command(entry.id.index.0, 1, 200));
            assert!(whole && opened.entries.len() as u64 == last - start, "{at}");
        }
    }
}

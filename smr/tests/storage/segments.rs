//! What only the log in segments has to hold: every byte of it damaged, its files recycled, rolled and taken for another engine's.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use smr::codec;
use smr::entry::{Entry, Index};
use smr::protocol::LogChange;
use smr::storage::disk::Disk;
use smr::storage::virtual_disk::{Fault, Loss, ReadFault, VirtualDisk};
use smr::storage::{Engine, OpenError, Opened, Store, StoreOptions, SyncMode};

use crate::support::*;

const LOG: &str = "/data/node/log";

fn bench(disk: &VirtualDisk) -> Bench {
    Bench::with(Engine::Segments, disk.clone())
}

fn founded() -> VirtualDisk {
    let disk = VirtualDisk::new();
    drop(bench(&disk).founded());
    disk
}

fn append(store: &mut Store, first: u64, count: u64, len: usize) -> Vec<Entry> {
    let entries = batch(first, count, 1, len);
    store.apply(&LogChange::Append(entries.clone())).unwrap();
    store.sync().unwrap();
    entries
}

fn segments(disk: &VirtualDisk) -> Vec<PathBuf> {
    let names = disk.list(Path::new(LOG)).unwrap();
    names.iter().filter(|name| name.ends_with(".segment")).map(|name| Path::new(LOG).join(name)).collect()
}

fn content(disk: &VirtualDisk, path: &Path) -> Vec<u8> {
    smr::storage::disk::read_file(disk, path, 1 << 20).unwrap()
}

/// A log over some segments, with a conflict, a record in pieces and a prefix that is gone, and one segment prepared.
fn sample() -> (VirtualDisk, Vec<Entry>) {
    let disk = founded();
    let mut store = bench(&disk).reopen().store().store;
    let mut entries = vec![genesis().first_entry()];
    for first in [2, 22, 42, 62] {
        entries.extend(append(&mut store, first, 20, 150));
    }
    store.apply(&LogChange::RemoveFrom(Index(70))).unwrap();
    entries.truncate(69);
    entries.extend(append(&mut store, 70, 1, 14_000));
    entries.extend(append(&mut store, 71, 3, 50));
    drop(store);
    // With the mark where the log ends, so that nothing behind it can be taken for a torn write.
    (disk.after_crash(Loss::Nothing), entries)
}

/// Opens a damaged disk: all entries, or a line that names `file`.
fn is_noticed(disk: VirtualDisk, entries: &[Entry], file: &Path, at: &str) -> bool {
    match bench(&disk).open() {
        Ok(Opened::Store(opened)) => {
            assert!(opened.entries == entries, "{at}: {:?}", ids(&opened.entries));
            false
        }
        Ok(Opened::Quarantined(quarantined)) => {
            // Of what is gone the neighbour may be the one to tell.
            assert!(quarantined.reason.contains(LOG), "{at}: {}", quarantined.reason);
            let names_file = quarantined.reason.contains(&file.display().to_string());
            assert!(
                names_file || at.contains("deleted") || at.contains("flipped in header"),
                "{at}: {}",
                quarantined.reason
            );
            true
        }
        Err(error) => {
            assert!(error.to_string().contains(&file.display().to_string()), "{at}: {error}");
            true
        }
    }
}

/// Where the frames of a segment end: what is behind are zeros here, because nothing was recycled.
fn used(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}

/// Every byte of every segment, one bit each: the frames and the header are covered to the last byte, and only what is behind them, or
/// only prepared, does not matter.
// covers D1, D3, D4
#[test]
fn any_byte_flipped_in_any_segment_is_noticed_or_means_nothing() {
    let (disk, entries) = sample();
    let files = segments(&disk);
    assert!(files.len() >= 4, "{files:?}");
    for (number, file) in files.iter().enumerate() {
        let bytes = content(&disk, file);
        let end = used(&bytes);
        for byte in 0..bytes.len() {
            // Beyond what was written every place is like the other.
            if byte > end.max(512) && byte % 97 != 0 {
                continue;
            }
            let copy = disk.after_crash(Loss::Nothing);
            copy.damage(file, |bytes| bytes[byte] ^= 1 << (byte % 8)).unwrap();
            let part = if byte < 4096 { "header" } else { "frames" };
            let at = format!("{}: bit flipped in {part}, byte {byte}", file.display());
            let noticed = is_noticed(copy, &entries, file, &at);
            let counts = byte < end;
            // Zeros in a header that are none are noticed too, where they could have been one.
            let blank = end == 0 && byte < 512;
            let is_last_nonzero = byte + 8 >= end;
            assert!(noticed == (counts || blank) || is_last_nonzero, "{at}: noticed {noticed}, segment {number}");
        }
    }
}

// covers D1, D4
#[test]
fn any_segment_deleted_cut_or_zeroed_is_noticed_or_means_nothing() {
    let (disk, entries) = sample();
    let files = segments(&disk);
    let prepared = files.last().unwrap();
    for file in &files {
        let length = content(&disk, file).len();
        let cuts = (0..length).step_by(61).chain([1, 511, 512, 4095, 4096, length - 1]);
        for kept in cuts {
            let copy = disk.after_crash(Loss::Nothing);
            copy.damage(file, |bytes| bytes.truncate(kept)).unwrap();
            let at = format!("{} cut to {kept}", file.display());
            let noticed = is_noticed(copy, &entries, file, &at);
            assert!(noticed || file == prepared, "{at}: not noticed");
        }
        for from in (0..length).step_by(512) {
            let copy = disk.after_crash(Loss::Nothing);
            let before = content(&disk, file);
            copy.damage(file, |bytes| bytes[from..from + 512].fill(0)).unwrap();
            let at = format!("{} zeroed at {from}, deleted", file.display());
            let noticed = is_noticed(copy, &entries, file, &at);
            let changed = before[from..from + 512].iter().any(|byte| *byte != 0);
            assert_eq!(noticed, changed, "{at}");
        }
        let copy = disk.after_crash(Loss::Nothing);
        copy.remove_file(file).unwrap();
        copy.sync_dir(Path::new(LOG)).unwrap();
        let noticed = is_noticed(copy, &entries, file, &format!("{} deleted", file.display()));
        assert_eq!(noticed, file != prepared, "{} deleted", file.display());
    }
}

/// A device that cannot read, or reads wrongly, at any of the reads of a start.
// covers D8
#[test]
fn read_fault_at_open_of_segments_is_refused_or_found_out() {
    let (disk, entries) = sample();
    for read in 0.. {
        let copy = disk.after_crash(Loss::Nothing);
        copy.read_fault_at(read, ReadFault::Error(ErrorKind::Other));
        match bench(&copy).open() {
            Err(error) => assert!(matches!(error, OpenError::Io(_)), "read {read}: {error}"),
            Ok(opened) => {
                assert!(copy.reads() <= read, "read {read} failed and was passed over");
                assert!(opened.store().entries == entries && read > 6, "only {read} reads");
                break;
            }
        }
        assert!(bench(&copy).reopen().store().entries == entries, "read {read}: the fault stays");
        for bit in [3, 800, 33_000, 50_000] {
            let copy = disk.after_crash(Loss::Nothing);
            copy.read_fault_at(read, ReadFault::FlippedBit(bit));
            if let Ok(Opened::Store(opened)) = bench(&copy).open() {
                assert!(opened.entries == entries, "read {read}, bit {bit}: {:?}", ids(&opened.entries));
                drop(opened);
                // Nor does what the start writes again hold what was read wrongly.
                let again = bench(&copy.after_crash(Loss::Everything)).reopen().store();
                assert!(again.entries == entries, "read {read}, bit {bit}, again: {:?}", ids(&again.entries));
            }
        }
    }
}

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

/// What was written and never confirmed is gone once the log went on without it, also if the very same entries come again.
// covers D1, D2
#[test]
fn entries_lost_in_a_crash_do_not_return_behind_the_same_entry_again() {
    let disk = founded();
    let mut store = bench(&disk).reopen().store().store;
    append(&mut store, 2, 1, 10);
    // A flush fills its last block up with zeros, which hides what was behind: so the entry has to end with the block.
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

/// Length of an entry's frame, beside what its command has.
const FRAME_BYTES: usize = 16 + 20 + 4 + 28;

/// A log whose last segment has room for so many bytes more, and its entries.
fn filled(left: usize) -> (VirtualDisk, Store, Vec<Entry>) {
    let disk = founded();
    let mut store = bench(&disk).reopen().store().store;
    let mut entries = [vec![genesis().first_entry()], append(&mut store, 2, 10, 10)].concat();
    let top = segments(&disk)[0].clone();
    let bytes = content(&disk, &top);
    let len = bytes.len() - used(&bytes) - FRAME_BYTES - left;
    entries.extend(append(&mut store, 12, 1, len));
    assert_eq!(used(&content(&disk, &top)), bytes.len() - left);
    (disk, store, entries)
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
                    Opened::Store(opened) => opened,
                    Opened::Quarantined(quarantined) => panic!("{at}: {}", quarantined.reason),
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

/// Killed between the write of a segment's last frames and their sync: the next start reads them, and has no room behind them
/// for a record of its own.
// covers D1
#[test]
fn entries_read_after_a_kill_at_the_end_of_a_segment_outlive_a_power_cut() {
    for left in 0..=40 {
        let (disk, mut store, mut entries) = filled(FRAME_BYTES + 10 + left);
        entries.extend(batch(13, 1, 1, 10));
        store.apply(&LogChange::Append(batch(13, 1, 1, 10))).unwrap();
        // The sync behind the write never happens.
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
            Opened::Store(opened) => assert!(opened.entries == entries, "{left}: {:?}", ids(&opened.entries)),
            Opened::Quarantined(quarantined) => panic!("{left} bytes left: {}", quarantined.reason),
        }
    }
}

/// What a failed sync leaves is in the cache, and clean: no sync would ever write it. The start that reads it there does.
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
                Opened::Store(opened) => assert!(opened.entries == entries, "{at}: {:?}", ids(&opened.entries)),
                Opened::Quarantined(quarantined) => panic!("{at}: {}", quarantined.reason),
            }
        }
    }
}

/// The log was emptied for a snapshot that is damaged now, and the one before it is still there.
// covers D4
#[test]
fn log_that_starts_behind_the_newest_snapshot_is_quarantined() {
    for behind in [0, 3] {
        let disk = founded();
        let mut store = bench(&disk).reopen().store().store;
        append(&mut store, 2, 10, 10);
        store.apply(&LogChange::Install(snapshot(20, 2))).unwrap();
        store.apply(&LogChange::Append(batch(21, behind, 2, 10))).unwrap();
        store.sync().unwrap();
        drop(store);
        for older in [snapshot(19, 2), snapshot(8, 1), snapshot(0, 0)] {
            let reason = bench(&disk.after_crash(Loss::Nothing)).reopen_with(older.clone()).quarantined().reason;
            let file = segments(&disk)[0].display().to_string();
            let expected =
                format!("{file}: the log starts behind entry 20.t2, the newest snapshot ends with {}", older.last);
            assert!(reason.starts_with(&expected) && reason.contains("node/snapshots"), "{reason}");
        }
        let opened = bench(&disk.after_crash(Loss::Nothing)).reopen_with(snapshot(20, 2)).store();
        assert_eq!(opened.entries, batch(21, behind, 2, 10));
    }
}

/// A log that is cut at its front while it grows goes round through the same few files, and what they held before never returns,
/// wherever the power is cut.
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
                Opened::Store(opened) => opened,
                Opened::Quarantined(quarantined) => panic!("{at}: {}", quarantined.reason),
            };
            let last = opened.store.last().index.0;
            assert!((confirmed..=begun).contains(&last), "{at}: ends with {last}, {confirmed} was confirmed");
            let whole =
                opened.entries.iter().all(|entry| entry.id.index.0 == 1 || *entry == command(entry.id.index.0, 1, 200));
            assert!(whole && opened.entries.len() as u64 == last - start, "{at}");
        }
    }
}

/// A dead segment that was damaged is of no interest to anybody.
#[test]
fn dead_segment_damaged_does_not_matter() {
    let disk = founded();
    let mut store = bench(&disk).reopen().store().store;
    for first in 0..6 {
        append(&mut store, 2 + first * 10, 10, 400);
    }
    store.apply(&LogChange::RemoveThrough(Index(55))).unwrap();
    drop(store);
    let first = &segments(&disk)[0];
    disk.damage(first, |bytes| bytes[10] ^= 1).unwrap();
    let opened = bench(&disk).reopen_with(snapshot(55, 1)).store();
    assert_eq!(opened.entries.len(), 6);
    // It is made anew, and used again.
    let mut store = opened.store;
    append(&mut store, 62, 40, 400);
    drop(store);
    assert_eq!(bench(&disk).reopen_with(snapshot(55, 1)).store().entries.len(), 46);
}

// covers D16
#[test]
fn segment_of_a_newer_format_is_refused_untouched() {
    let disk = founded();
    let file = PathBuf::from(LOG).join("00000001.segment");
    disk.damage(&file, |bytes| {
        bytes[8..10].copy_from_slice(&2u16.to_le_bytes());
        let checksum = codec::checksum(&[&bytes[..64]]);
        bytes[64..72].copy_from_slice(&checksum.to_le_bytes());
    })
    .unwrap();
    let before = content(&disk, &file);
    let error = bench(&disk).open().err().unwrap();
    assert_eq!(error, OpenError::Newer { file: file.clone(), found: 2, supported: 1 });
    assert_eq!(content(&disk, &file), before);
}

// covers D11, M9
#[test]
fn segments_of_another_life_are_quarantined() {
    let (disk, _) = sample();
    let other = VirtualDisk::new();
    let mut stranger = bench(&other);
    stranger.options.incarnation_if_new = smr::id::Incarnation(0xb);
    let mut store = stranger.reopen().store().store;
    let genesis = smr::entry::Genesis { members: [smr::id::NodeId::new(0, 0xb)].into(), ..genesis() };
    let birth = smr::storage::Birth::Born { genesis: genesis.hash(), founders: Some(genesis.clone()) };
    store.be_born(birth, genesis.cluster_id()).unwrap();
    drop(store);
    let file = segments(&disk)[0].clone();
    let theirs = content(&other, &file);
    disk.damage(&file, |bytes| *bytes = theirs).unwrap();
    let reason = bench(&disk).reopen().quarantined().reason;
    assert!(reason.starts_with(&format!("{}: written by another node", file.display())), "{reason}");
}

/// On the real disk: it opens, grows over segments that are prepared by a thread, is cut, opens again, and says how it syncs.
#[test]
fn store_over_segments_on_the_real_disk_returns_all_that_was_synced() {
    let mut bench = Bench::new();
    bench.options.engine = Engine::Segments;
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

/// Nothing is lost, and nothing is touched, when somebody gets the flag wrong.
#[test]
fn directory_of_the_other_engine_is_refused_untouched_with_one_line() {
    for (made, asked) in [(Engine::Sled, Engine::Segments), (Engine::Segments, Engine::Sled)] {
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
    assert_eq!(("sled".parse(), "segments".parse()), (Ok(Engine::Sled), Ok(Engine::Segments)));
    assert_eq!("journal".parse::<Engine>().unwrap_err().to_string(), "sled and segments are possible");
}

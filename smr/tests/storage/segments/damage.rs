//! Segments that are damaged, cut, gone, of another incarnation or of another format, and devices that read wrongly.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use smr::codec;
use smr::entry::{Entry, Index};
use smr::internals::disk::Disk;
use smr::internals::protocol::LogChange;
use smr::internals::storage::{OpenError, OpenOutcome};
use smr_sim::virtual_disk::{Loss, ReadFault, VirtualDisk};

use super::{LOG, append, bench, content, founded, sample, segments, used};
use crate::support::*;

/// Opens a damaged disk: all entries, or a line that names `file`.
fn is_noticed(disk: VirtualDisk, entries: &[Entry], file: &Path, at: &str) -> bool {
    match bench(&disk).open() {
        Ok(OpenOutcome::Store(opened)) if opened.healing.is_none() => {
            assert!(opened.entries == entries, "{at}: {:?}", ids(&opened.entries));
            false
        }
        Ok(opened) => {
            let (opened, reason) = opened.heals();
            // A log that there was at some time: perhaps before entries were removed and others came.
            assert!(opened.entries.iter().zip(1..).all(|(entry, index)| entry.id.index.0 == index), "{at}");
            // Of what is gone the neighbour may be the one to tell.
            assert!(reason.contains(LOG), "{at}: {reason}");
            let names_file = reason.contains(&file.display().to_string());
            assert!(names_file || at.contains("deleted") || at.contains("flipped in header"), "{at}: {reason}");
            true
        }
        Err(error) => {
            assert!(error.to_string().contains(&file.display().to_string()), "{at}: {error}");
            true
        }
    }
}

/// Every byte of every segment, one bit each: the frames and the header are covered to the last byte, and only what is
/// after them, or only prepared, does not matter.
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
// covers D8, D20
#[test]
fn read_fault_at_open_of_segments_is_refused_or_costs_nothing() {
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
            // It is read a second time.
            let opened = bench(&copy).reopen().store();
            assert!(opened.entries == entries, "read {read}, bit {bit}: {:?}", ids(&opened.entries));
            drop(opened);
            // Nor does what the start writes again hold what was read wrongly.
            let again = bench(&copy.after_crash(Loss::Everything)).reopen().store();
            assert!(again.entries == entries, "read {read}, bit {bit}, again: {:?}", ids(&again.entries));
        }
    }
}

/// The log was emptied for a snapshot that is damaged now, and the one before it is still there.
// covers D4
#[test]
fn log_that_starts_behind_the_newest_snapshot_heals() {
    for behind in [0, 3] {
        let disk = founded();
        let mut store = bench(&disk).reopen().store().store;
        append(&mut store, 2, 10, 10);
        store.apply(&LogChange::Install(snapshot(20, 2))).unwrap();
        store.apply(&LogChange::Append(batch(21, behind, 2, 10))).unwrap();
        store.sync().unwrap();
        drop(store);
        for older in [snapshot(19, 2), snapshot(8, 1), snapshot(0, 0)] {
            let reason = bench(&disk.after_crash(Loss::Nothing)).reopen_with(older.clone()).heals().1;
            let file = segments(&disk)[0].display().to_string();
            let expected =
                format!("{file}: the log starts after entry 20.t2, the newest snapshot ends with {}", older.last);
            assert!(reason.starts_with(&expected) && reason.contains("node/snapshots"), "{reason}");
        }
        let opened = bench(&disk.after_crash(Loss::Nothing)).reopen_with(snapshot(20, 2)).store();
        assert_eq!(opened.entries, batch(21, behind, 2, 10));
    }
}

/// A dead segment that was damaged is of no interest to anyone.
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
    // It is made again, and used again.
    let mut store = opened.store;
    append(&mut store, 62, 40, 400);
    drop(store);
    assert_eq!(bench(&disk).reopen_with(snapshot(55, 1)).store().entries.len(), 46);
}

/// The power went, and with it the watermark of the last writes, which is synced now and then. Each of them says what
/// was synced before it, so only in the very last one damage can still be taken for an interrupted write.
// covers D2, D3
#[test]
fn damage_to_synced_entries_behind_a_watermark_that_fell_back_is_noticed() {
    let disk = founded();
    let mut store = bench(&disk).reopen().store().store;
    append(&mut store, 2, 10, 30);
    let file = segments(&disk)[0].clone();
    let (watermark_file, begin) = (PathBuf::from("/data/node/mark"), used(&content(&disk, &file)));
    let watermark = content(&disk, &watermark_file);
    let mut last_write = begin;
    for first in [12, 15, 18] {
        last_write = used(&content(&disk, &file));
        append(&mut store, first, 3, 30);
    }
    let end = used(&content(&disk, &file));
    drop(store);
    disk.damage(&watermark_file, |bytes| *bytes = watermark).unwrap();
    for byte in begin..end {
        let copy = disk.after_crash(Loss::Nothing);
        copy.damage(&file, |bytes| bytes[byte] ^= 0x10).unwrap();
        if byte >= last_write {
            assert!(bench(&copy).reopen().store().entries.len() >= 16, "byte {byte} of the last write");
            continue;
        }
        let OpenOutcome::Store(opened) = bench(&copy).reopen() else { panic!("byte {byte}: quarantined") };
        let healing = opened.healing.unwrap_or_else(|| panic!("byte {byte}: not noticed"));
        assert!(healing.reason.contains("though it was synced up to byte"), "byte {byte}: {}", healing.reason);
        // It is silent past what was known to be synced there, though it cannot be read.
        assert!(healing.past >= Index(14), "byte {byte}: {}", healing.past);
    }
    // Nothing that a crash leaves of the last write is taken for damage.
    for kept in (0..end - last_write).step_by(7) {
        let copy = disk.after_crash(Loss::Nothing);
        copy.damage(&file, |bytes| bytes[last_write + kept..end].fill(0)).unwrap();
        assert!(bench(&copy).reopen().store().entries.len() >= 16, "{kept} bytes of the last write");
    }
}

/// A segment that a former version began is read, and written on without what that version does not know.
#[test]
fn segment_of_the_former_format_is_gone_on_with() {
    let disk = founded();
    let file = PathBuf::from(LOG).join("00000001.segment");
    drop(bench(&disk).reopen());
    let former = {
        let bytes = content(&disk, &file);
        former_format(&bytes)
    };
    disk.damage(&file, |bytes| *bytes = former).unwrap();
    let mut store = bench(&disk).reopen().store().store;
    for first in [2, 12, 22] {
        append(&mut store, first, 10, 30);
    }
    let bytes = content(&disk, &file);
    assert_eq!(bytes[8..10], 1u16.to_le_bytes());
    assert!(!bytes.windows(7).any(|window| window == b"SMRSYNC"));
    for first in [32, 62, 92, 122] {
        append(&mut store, first, 30, 200);
    }
    drop(store);
    assert_eq!(content(&disk, segments(&disk).iter().rev().nth(1).unwrap())[8..10], 2u16.to_le_bytes());
    assert_eq!(bench(&disk).reopen().store().entries.len(), 151);
}

/// The same segment with a header of version 1, and its frames chained to that.
fn former_format(bytes: &[u8]) -> Vec<u8> {
    let mut former = bytes.to_vec();
    former[8..10].copy_from_slice(&1u16.to_le_bytes());
    let mut previous = codec::checksum(&[&former[..64]]);
    former[64..72].copy_from_slice(&previous.to_le_bytes());
    let mut at = 4096;
    while former[at + 12] != 0 {
        let length = u32::from_le_bytes(former[at + 8..at + 12].try_into().unwrap()) as usize;
        previous = codec::checksum(&[&previous.to_le_bytes(), &former[at + 8..at + 16 + length]]);
        former[at..at + 8].copy_from_slice(&previous.to_le_bytes());
        at += 16 + length;
    }
    former
}

// covers D16
#[test]
fn segment_of_a_newer_format_is_refused_untouched() {
    let disk = founded();
    let file = PathBuf::from(LOG).join("00000001.segment");
    disk.damage(&file, |bytes| {
        bytes[8..10].copy_from_slice(&3u16.to_le_bytes());
        let checksum = codec::checksum(&[&bytes[..64]]);
        bytes[64..72].copy_from_slice(&checksum.to_le_bytes());
    })
    .unwrap();
    let before = content(&disk, &file);
    let error = bench(&disk).open().err().unwrap();
    assert_eq!(error, OpenError::Newer { file: file.clone(), found: 3, supported: 2 });
    assert_eq!(content(&disk, &file), before);
}

// covers D11, M9
#[test]
fn segments_of_another_incarnation_are_quarantined() {
    let (disk, _) = sample();
    let other = VirtualDisk::new();
    let mut stranger = bench(&other);
    stranger.options.incarnation_if_new = smr::id::Incarnation(0xb);
    let mut store = stranger.reopen().store().store;
    let genesis = smr::entry::Genesis { members: [smr::id::NodeId::new(0, 0xb)].into(), ..genesis() };
    let bootstrap = smr::internals::storage::BootstrapState::Initialized {
        genesis: genesis.hash(),
        founders: Some(genesis.clone()),
    };
    store.initialize(bootstrap, genesis.cluster_id()).unwrap();
    drop(store);
    let file = segments(&disk)[0].clone();
    let theirs = content(&other, &file);
    disk.damage(&file, |bytes| *bytes = theirs).unwrap();
    let reason = bench(&disk).reopen().quarantined().reason;
    assert!(reason.starts_with(&format!("{}: written by another node", file.display())), "{reason}");
}

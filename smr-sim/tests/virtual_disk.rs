//! The virtual disk keeps its word: a harness that forgives is none.

#![allow(clippy::unwrap_used, reason = "a helper of a test may panic like the test itself")]

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;

use smr::internals::disk::{Disk, read_file};
use smr_sim::virtual_disk::{Fault, Loss, SECTOR_BYTES, VirtualDisk};

const FILE: &str = "/d/file";

fn text(disk: &VirtualDisk, path: &str) -> Option<Vec<u8>> {
    read_file(disk, Path::new(path), 1 << 20).ok()
}

/// A file of three sectors of `a`, durable.
fn prepared() -> VirtualDisk {
    let disk = VirtualDisk::new();
    disk.create_dir_all(Path::new("/d")).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    let file = disk.open(Path::new(FILE), true).unwrap();
    file.write_at(&[b'a'; 3 * SECTOR_BYTES], 0).unwrap();
    file.sync().unwrap();
    disk.sync_dir(Path::new("/d")).unwrap();
    disk
}

#[test]
fn write_unsynced_is_kept_lost_or_torn_by_sector() {
    let disk = prepared();
    disk.open(Path::new(FILE), false).unwrap().write_at(&[b'b'; 2 * SECTOR_BYTES], 100).unwrap();
    let sectors = |loss| {
        let bytes = text(&disk.after_crash(loss), FILE).unwrap();
        assert_eq!(bytes.len(), 3 * SECTOR_BYTES);
        // Each sector is wholly the old or wholly the new one, where it was written.
        let at = [(100, SECTOR_BYTES), (SECTOR_BYTES, 2 * SECTOR_BYTES), (2 * SECTOR_BYTES, 2 * SECTOR_BYTES + 100)];
        at.map(|(from, to)| {
            assert!(bytes[from..to].iter().all(|byte| *byte == bytes[from]), "torn inside a sector");
            bytes[from]
        })
    };
    assert_eq!(sectors(Loss::Nothing), *b"bbb");
    assert_eq!(sectors(Loss::Everything), *b"aaa");
    let seen: BTreeSet<[u8; 3]> = (0..64).map(|seed| sectors(Loss::Seeded(seed))).collect();
    assert_eq!(seen.len(), 8, "all combinations occur: {seen:?}");
    assert_eq!(sectors(Loss::Seeded(5)), sectors(Loss::Seeded(5)));
}

#[test]
fn size_unsynced_has_its_own_fate() {
    let disk = prepared();
    let file = disk.open(Path::new(FILE), false).unwrap();
    file.write_at(&[b'b'; SECTOR_BYTES], 3 * SECTOR_BYTES as u64).unwrap();
    let seen: BTreeSet<(usize, Option<u8>)> = (0..64)
        .map(|seed| text(&disk.after_crash(Loss::Seeded(seed)), FILE).unwrap())
        .map(|bytes| (bytes.len() / SECTOR_BYTES, bytes.get(3 * SECTOR_BYTES).copied()))
        .collect();
    assert_eq!(seen, [(3, None), (4, Some(0)), (4, Some(b'b'))].into());
}

#[test]
fn write_synced_survives_everything() {
    let disk = prepared();
    let file = disk.open(Path::new(FILE), false).unwrap();
    file.write_at(b"new", 0).unwrap();
    file.sync().unwrap();
    assert_eq!(&text(&disk.after_crash(Loss::Everything), FILE).unwrap()[..4], b"newa");
}

#[test]
fn file_synced_without_its_directory_may_vanish() {
    let disk = prepared();
    let file = disk.open(Path::new("/d/new"), true).unwrap();
    file.write_at(b"x", 0).unwrap();
    file.sync().unwrap();
    assert_eq!(text(&disk.after_crash(Loss::Everything), "/d/new"), None);
    disk.sync_dir(Path::new("/d")).unwrap();
    assert_eq!(text(&disk.after_crash(Loss::Everything), "/d/new"), Some(b"x".to_vec()));
}

/// Whatever is lost, the file is in one of the two places; for sure in the new one only after both were synced.
#[test]
fn rename_between_directories_is_whole_and_waits_for_both() {
    let disk = prepared();
    disk.create_dir_all(Path::new("/e")).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    disk.rename(Path::new(FILE), Path::new("/e/file")).unwrap();
    let places = |disk: &VirtualDisk| {
        let seen: BTreeSet<(bool, bool)> = (0..32)
            .map(|seed| disk.after_crash(Loss::Seeded(seed)))
            .map(|disk| (text(&disk, FILE).is_some(), text(&disk, "/e/file").is_some()))
            .collect();
        seen
    };
    assert_eq!(places(&disk), [(true, false), (false, true)].into());
    disk.sync_dir(Path::new("/d")).unwrap();
    assert_eq!(places(&disk), [(true, false), (false, true)].into());
    disk.sync_dir(Path::new("/e")).unwrap();
    assert_eq!(places(&disk), [(false, true)].into());
}

// covers D6
#[test]
fn sync_that_failed_loses_the_data_though_the_next_one_succeeds() {
    let disk = prepared();
    let file = disk.open(Path::new(FILE), false).unwrap();
    file.write_at(b"new", 0).unwrap();
    disk.fault_at(disk.operations(), Fault::Error(ErrorKind::Other));
    assert!(file.sync().is_err());
    assert_eq!(&text(&disk, FILE).unwrap()[..3], b"new", "the cache still has it");
    assert_eq!(&text(&disk.after_crash(Loss::Nothing), FILE).unwrap()[..3], b"aaa");
    file.write_at(b"z", 2).unwrap();
    file.sync().unwrap();
    assert_eq!(&text(&disk.after_crash(Loss::Nothing), FILE).unwrap()[..3], b"aaz");
}

#[test]
fn power_off_fails_everything_from_then_on() {
    let disk = prepared();
    let file = disk.open(Path::new(FILE), false).unwrap();
    disk.fault_at(disk.operations(), Fault::PowerOff);
    assert!(file.write_at(b"new", 0).is_err());
    assert!(disk.power_is_off());
    assert!(file.sync().is_err() && disk.list(Path::new("/")).is_err() && disk.open(Path::new(FILE), false).is_err());
    assert_eq!(&text(&disk.after_crash(Loss::Nothing), FILE).unwrap()[..3], b"aaa");
}

#[test]
fn lock_held_is_refused_until_dropped() {
    let disk = prepared();
    let lock = disk.lock(Path::new("/d/lock")).unwrap();
    assert_eq!(disk.lock(Path::new("/d/lock")).err().unwrap().kind(), ErrorKind::WouldBlock);
    drop(lock);
    assert!(disk.lock(Path::new("/d/lock")).is_ok());
}

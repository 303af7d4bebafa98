//! The simulated ordered map keeps its word.

#![allow(clippy::unwrap_used, reason = "a helper of a test may panic like the test itself")]

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;

use smr::internals::disk::Disk;
use smr::internals::storage::{ByteMap, Key, LoadError};
use smr_sim::virtual_disk::{Fault, Loss, VirtualDisk};

const MAP: &str = "/d/map";

fn key(number: u8) -> Key {
    [number; 12]
}

fn open(disk: &VirtualDisk) -> Box<dyn ByteMap> {
    disk.open_map(Path::new(MAP)).unwrap()
}

fn keys(disk: &VirtualDisk) -> Vec<u8> {
    let mut keys = Vec::new();
    open(disk)
        .scan(&key(0), &mut |key, _| {
            keys.push(key[0]);
            true
        })
        .unwrap();
    keys
}

/// Keys 1 and 2 flushed, then 3 put in, 1 taken out, 4 put in.
fn prepared() -> (VirtualDisk, Box<dyn ByteMap>) {
    let disk = VirtualDisk::new();
    let mut map = open(&disk);
    disk.sync_dir(Path::new("/")).unwrap();
    map.insert(&key(1), b"one").unwrap();
    map.insert(&key(2), b"two").unwrap();
    map.flush().unwrap();
    map.insert(&key(3), b"three").unwrap();
    map.remove(&key(1)).unwrap();
    map.insert(&key(4), b"four").unwrap();
    (disk, map)
}

// covers D1
#[test]
fn writes_unflushed_survive_as_a_prefix_in_a_power_cut_and_in_a_kill() {
    let (disk, _map) = prepared();
    assert_eq!(disk.unflushed_map_writes(Path::new(MAP)), 3);
    let prefixes = [vec![1, 2], vec![1, 2, 3], vec![2, 3], vec![2, 3, 4]];
    for (kept, expected) in prefixes.iter().enumerate() {
        assert_eq!(&keys(&disk.after_crash_keeping(Loss::Nothing, kept)), expected);
    }
    assert_eq!(keys(&disk.after_crash(Loss::Nothing)), prefixes[3]);
    assert_eq!(keys(&disk.after_crash(Loss::Everything)), prefixes[0]);
    let seeded: [fn(u64) -> Loss; 2] = [Loss::Seeded, Loss::Killed];
    for loss in seeded {
        let seen: BTreeSet<Vec<u8>> = (0..64).map(|seed| keys(&disk.after_crash(loss(seed)))).collect();
        assert_eq!(seen, prefixes.clone().into(), "every prefix and nothing else");
        let twice = [keys(&disk.after_crash(loss(9))), keys(&disk.after_crash(loss(9)))];
        assert_eq!(twice[0], twice[1]);
    }
}

/// A kill leaves files alone: they are the kernel's.
#[test]
fn kill_keeps_files_whole() {
    let (disk, _map) = prepared();
    let file = disk.open(Path::new("/d/file"), true).unwrap();
    file.write_at(b"unsynced", 0).unwrap();
    for seed in 0..20 {
        let after = disk.after_crash(Loss::Killed(seed));
        assert_eq!(smr::internals::disk::read_file(&after, Path::new("/d/file"), 100).unwrap(), b"unsynced");
    }
}

#[test]
fn what_a_killed_process_left_is_durable_once_it_was_opened_again() {
    let (disk, _map) = prepared();
    let disk = disk.after_crash_keeping(Loss::Nothing, 1);
    assert_eq!(keys(&disk), [1, 2, 3]);
    assert_eq!(keys(&disk.after_crash(Loss::Everything)), [1, 2, 3]);
}

/// An error is final for the open map; what it left is a prefix.
// covers D6, D7
#[test]
fn map_that_failed_repeats_its_error_and_leaves_a_prefix() {
    let (disk, mut map) = prepared();
    disk.fault_at(disk.operations(), Fault::Error(ErrorKind::StorageFull));
    let error = map.flush().unwrap_err();
    let operations = disk.operations();
    assert_eq!(map.flush().unwrap_err(), error);
    assert_eq!(map.insert(&key(9), b"").unwrap_err(), error);
    assert!(matches!(map.scan(&key(0), &mut |_, _| true), Err(LoadError::Storage(again)) if again == error));
    assert_eq!(disk.operations(), operations, "the disk was asked again");
    assert_eq!(keys(&disk.after_crash(Loss::Everything)), [1, 2]);
}

#[test]
fn map_moves_with_its_directory() {
    let (disk, _map) = prepared();
    disk.rename(Path::new(MAP), Path::new("/d/aside")).unwrap();
    disk.sync_dir(Path::new("/d")).unwrap();
    assert!(disk.present(Path::new(MAP)).unwrap().is_err());
    assert!(disk.present(Path::new("/d/aside")).unwrap().is_ok());
    assert_eq!(keys(&disk.after_crash(Loss::Everything)), Vec::<u8>::new(), "a new one");
}

//! The simulated ordered map keeps its word, and the store over it finds every kind of damage that sled keeps quiet
//! about.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;

use smr::entry::Index;
use smr::protocol::LogChange;
use smr::storage::disk::Disk;
use smr::storage::virtual_disk::{Fault, Loss, ReadFault, VirtualDisk};
use smr::storage::virtual_map::{MapDamage, SIMULATED};
use smr::storage::{ByteMap, Key, LoadError, OpenError, Opened, Store};

use crate::support::*;

const MAP: &str = "/d/map";
const LOG: &str = "/data/node/log";

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
        assert_eq!(smr::storage::disk::read_file(&after, Path::new("/d/file"), 100).unwrap(), b"unsynced");
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

/// A founder with some records, of which the mark knows all but what is said.
fn written() -> (VirtualDisk, Store) {
    let disk = VirtualDisk::new();
    let mut store = Bench::with(SIMULATED, disk.clone()).founded();
    for index in 2..=12 {
        store.apply(&LogChange::Append(batch(index, 1, 1, 100))).unwrap();
        store.sync().unwrap();
    }
    (disk, store)
}

fn reopen(disk: &VirtualDisk) -> Result<Opened, OpenError> {
    Bench::with(SIMULATED, disk.clone()).open()
}

/// What sled opens without a word, and what it reports, is found out; nothing acknowledged is passed over.
// covers D3, D4, D5
#[test]
fn damage_of_every_kind_to_the_map_is_found_out() {
    let (disk, store) = written();
    drop(store);
    let kinds = [
        (MapDamage::Shorter(1), "is marked as synced"),
        (MapDamage::Shorter(6), "is marked as synced"),
        (MapDamage::Emptied, "is marked as synced"),
        (MapDamage::Missing, "missing"),
        (MapDamage::Unopenable, "corrupt"),
        (MapDamage::Unreadable(0), "corruption"),
        (MapDamage::Unreadable(5), "corruption"),
        (MapDamage::Unreadable(11), "corruption"),
    ];
    for (damage, reason) in kinds {
        let disk = disk.after_crash(Loss::Killed(1));
        disk.damage_map(Path::new(LOG), damage).unwrap();
        let (_, found) = reopen(&disk).unwrap().heals();
        assert!(found.contains(reason), "{damage:?}: {found}");
    }
}

/// The record log believes no engine's checksums but its own.
// covers D4
#[test]
fn bit_flipped_in_any_value_is_found_out() {
    let (disk, store) = written();
    drop(store);
    for value in 0..12 {
        for bit in (0..160 * 8).step_by(97) {
            let disk = disk.after_crash(Loss::Killed(1));
            disk.damage_map(Path::new(LOG), MapDamage::FlippedBit { value, bit }).unwrap();
            let _ = reopen(&disk).unwrap().heals();
        }
    }
}

/// A read that fails is no damage; one that brings other bytes is found out, wherever it is; and the next start may
/// read what this one could not.
// covers D8
#[test]
fn read_fault_at_open_is_refused_or_found_out() {
    let (disk, store) = written();
    drop(store);
    let begin = disk.after_crash(Loss::Nothing);
    drop(reopen(&begin).unwrap().store());
    for read in 0..begin.reads() {
        let copy = disk.after_crash(Loss::Nothing);
        copy.read_fault_at(read, ReadFault::Error(ErrorKind::Other));
        assert!(matches!(reopen(&copy), Err(OpenError::Io(_))), "read {read} failed and was passed over");
        assert_eq!(reopen(&copy).unwrap().store().entries.len(), 12);
        for bit in (0..16_000).step_by(331) {
            let copy = disk.after_crash(Loss::Nothing);
            copy.read_fault_at(read, ReadFault::FlippedBit(bit));
            match reopen(&copy) {
                Ok(Opened::Store(opened)) => assert_eq!(opened.entries.len(), 12, "read {read}, bit {bit}"),
                Ok(Opened::Quarantined(_)) | Err(OpenError::Foreign { .. } | OpenError::Newer { .. }) => {}
                Err(error) => panic!("read {read}, bit {bit}: {error}"),
            }
        }
    }
}

/// A read that fails while the node runs is fatal, and leaves what was confirmed.
// covers D8
#[test]
fn read_fault_in_a_conflict_truncation_is_fatal() {
    let (disk, mut store) = written();
    disk.read_fault_at(disk.reads(), ReadFault::Error(ErrorKind::Other));
    let error = store.apply(&LogChange::RemoveFrom(Index(8))).unwrap_err();
    assert!(error.why.contains("ordered by the test"), "{error}");
    assert_eq!(store.sync().unwrap_err(), error);
    drop(store);
    assert_eq!(reopen(&disk.after_crash(Loss::Everything)).unwrap().store().entries.len(), 12);
}

//! The store over a simulated ordered map finds every kind of damage that sled keeps quiet about.

use std::io::ErrorKind;
use std::path::Path;

use smr::entry::Index;
use smr::internals::protocol::LogChange;
use smr::internals::storage::{OpenError, OpenOutcome, Store};
use smr_sim::virtual_disk::MapDamage;
use smr_sim::virtual_disk::{Loss, ReadFault, VirtualDisk};
use smr_sim::virtual_map::SIMULATED;

use crate::support::*;

const LOG: &str = "/data/node/log";

/// A founder with some records, of which the watermark knows all but what is said.
fn written() -> (VirtualDisk, Store) {
    let disk = VirtualDisk::new();
    let mut store = Bench::with(SIMULATED, disk.clone()).founded();
    for index in 2..=12 {
        store.apply(&LogChange::Append(batch(index, 1, 1, 100))).unwrap();
        store.sync().unwrap();
    }
    (disk, store)
}

fn reopen(disk: &VirtualDisk) -> Result<OpenOutcome, OpenError> {
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
                Ok(OpenOutcome::Store(opened)) => assert_eq!(opened.entries.len(), 12, "read {read}, bit {bit}"),
                Ok(OpenOutcome::Quarantined(_)) | Err(OpenError::Foreign { .. } | OpenError::Newer { .. }) => {}
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

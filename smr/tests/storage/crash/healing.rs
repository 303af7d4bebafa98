//! A damaged log is replaced, and the node is silent until it has healed: whenever the power goes.

use std::cell::Cell;
use std::path::Path;

use smr::entry::{Entry, HardState, Index, Term};
use smr::internals::protocol::LogChange;
use smr::internals::storage::OpenedStore;
use smr_sim::virtual_disk::MapDamage;
use smr_sim::virtual_disk::{Loss, VirtualDisk};
use smr_sim::virtual_map::SIMULATED;

use super::super::{ENGINE, LOG};
use super::{cut_everywhere, founded, open};
use crate::support::*;

const HARD_STATE: HardState = HardState { term: Term(3), vote: None, lease_us: 0 };

/// A node with entries up to 31 after it, and all of them.
fn written() -> (VirtualDisk, Vec<Entry>) {
    let disk = founded();
    let mut store = Bench::with(ENGINE, disk.clone()).reopen().store().store;
    store.save(&HARD_STATE.into()).unwrap();
    for first in [2, 12, 22] {
        store.apply(&LogChange::Append(batch(first, 10, 1, 100))).unwrap();
        store.sync().unwrap();
    }
    drop(store);
    let entries = [vec![genesis().first_entry()], batch(2, 30, 1, 100)].concat();
    (disk.after_crash(Loss::Nothing), entries)
}

fn lose_the_log(disk: &VirtualDisk) {
    if ENGINE == SIMULATED {
        disk.damage_map(Path::new(LOG), MapDamage::Missing).unwrap();
    } else {
        disk.damage(Path::new(LOG), Vec::clear).unwrap();
    }
}

fn heals(disk: &VirtualDisk, at: &str) -> OpenedStore {
    let opened = Bench::with(ENGINE, disk.clone()).reopen();
    let (opened, reason) = opened.heals();
    assert!(reason.contains("/data/node/"), "{at}: {reason}");
    assert_eq!((opened.identity.node, opened.hard_state()), (ME, HARD_STATE), "{at}");
    opened
}

// covers D19
#[test]
fn power_cut_while_a_damaged_log_is_replaced_leaves_a_node_that_heals() {
    let (disk, entries) = written();
    for file in [LOG, "/data/node/mark"] {
        let disk = disk.after_crash(Loss::Nothing);
        if file == LOG {
            lose_the_log(&disk);
        } else {
            disk.damage(Path::new(file), Vec::clear).unwrap();
        }
        let cuts = cut_everywhere(
            &disk,
            |disk| Bench::with(ENGINE, disk.clone()).open().map(|opened| drop(opened.heals())),
            |_, disk, at| {
                let opened = heals(&disk, at);
                assert!(entries.starts_with(&opened.entries), "{at}: {:?}", ids(&opened.entries));
                // It goes on from there, and the next start knows all of it.
                let (mut store, last) = (opened.store, opened.entries.len());
                store.apply(&LogChange::Append(entries[last..].to_vec())).unwrap();
                store.sync().unwrap();
                drop(store);
                let opened = heals(&disk.after_crash(Loss::Everything), at);
                assert!(opened.entries == entries, "{at}: {:?}", ids(&opened.entries));
            },
        );
        assert!(cuts > 5, "only {cuts} operations");
    }
}

// covers D18
#[test]
fn watermark_alone_damaged_costs_no_entry_and_the_log_is_still_to_be_passed() {
    let (disk, entries) = written();
    disk.damage(Path::new("/data/node/mark"), Vec::clear).unwrap();
    let opened = Bench::with(ENGINE, disk.clone()).reopen();
    let smr::internals::storage::OpenOutcome::Store(opened) = opened else { panic!("quarantined") };
    assert_eq!(opened.entries, entries);
    assert_eq!(opened.healing.unwrap().past, Index(31));
}

// covers D18, D19
#[test]
fn damaged_again_while_healing_keeps_as_far_to_go() {
    let (disk, _) = written();
    lose_the_log(&disk);
    drop(heals(&disk, "first"));
    disk.damage(Path::new(LOG), Vec::clear).ok();
    let opened = Bench::with(ENGINE, disk.clone()).reopen();
    let smr::internals::storage::OpenOutcome::Store(opened) = opened else { panic!("quarantined") };
    assert_eq!(opened.healing.unwrap().past, Index(31));
}

// covers D19
#[test]
fn power_cut_while_healing_ends_leaves_it_silent_or_sound_and_whole() {
    let (disk, entries) = written();
    lose_the_log(&disk);
    drop(heals(&disk, "first"));
    let disk = disk.after_crash(Loss::Everything);
    let (silent, sound) = (Cell::new(0), Cell::new(0));
    cut_everywhere(
        &disk,
        |disk| {
            let mut store = Bench::with(ENGINE, disk.clone()).open()?.heals().0.store;
            store.apply(&LogChange::Append(entries[usize::try_from(store.last().index.0).unwrap()..].to_vec()))?;
            store.end_healing()?;
            Ok::<_, smr::internals::storage::OpenError>(())
        },
        |result, disk, at| match Bench::with(ENGINE, disk.clone()).reopen() {
            smr::internals::storage::OpenOutcome::Store(opened) if opened.healing.is_some() => {
                assert!(result.is_err(), "{at}");
                silent.set(silent.get() + 1);
            }
            opened => {
                drop(opened);
                assert_eq!(open(disk, &smr::entry::SnapshotMeta::default(), at).entries, entries, "{at}");
                sound.set(sound.get() + 1);
            }
        },
    );
    assert!(silent.get() > 0 && sound.get() > 0, "{silent:?} silent, {sound:?} sound");
}

//! Quarantine, the next incarnation, and the swap of the incarnations.

use std::cell::RefCell;
use std::path::Path;

use smr::entry::{HardState, SnapshotMeta, Term};
use smr::id::NodeId;
use smr::internals::disk::Disk;
use smr::internals::protocol::LogChange;
use smr::internals::storage::{BootstrapState, OpenError, OpenOutcome, Store};
use smr_sim::virtual_disk::{Fault, Loss, VirtualDisk};

use super::super::ENGINE;
use super::{cut_everywhere, founded, open};
use crate::support::*;

/// A damaged directory is opened, cut anywhere: whatever is left is quarantined at the next open, for the same reason.
#[test]
fn power_cut_while_entering_quarantine_leaves_it_to_the_next_open() {
    let disk = founded();
    disk.damage(Path::new("/data/node/promise"), Vec::clear).unwrap();
    cut_everywhere(
        &disk,
        |disk| Bench::with(ENGINE, disk.clone()).open().map(|opened| opened.quarantined().reason),
        |result, disk, at| {
            let reason = Bench::with(ENGINE, disk).reopen().quarantined().reason;
            assert!(reason.starts_with("/data/node/promise: "), "{at}: {reason}");
            assert!(result.as_ref().is_err() || result.as_ref() == Ok(&reason), "{at}");
        },
    );
}

/// A node in quarantine, with a past worth keeping.
fn damaged() -> VirtualDisk {
    let disk = founded();
    let mut store = Bench::with(ENGINE, disk.clone()).reopen().store().store;
    store.apply(&LogChange::Append(batch(2, 30, 1, 100))).unwrap();
    store.sync().unwrap();
    drop(store.into_quarantine("/data/node/mark: as a test has it", 7).unwrap());
    disk.after_crash(Loss::Everything)
}

fn latecomer() -> BootstrapState {
    BootstrapState::Initialized { genesis: genesis().hash(), founders: None }
}

/// The next incarnation, from its beginning until it is ready.
fn next_incarnation(bench: &Bench, operations: &RefCell<Option<u64>>) -> Result<(), OpenError> {
    let directory = bench.open()?.quarantined().into_next_incarnation()?;
    assert!(directory.is_next_incarnation());
    let opened = Store::open(directory, &other_incarnation(&bench.options))?.store();
    assert_eq!(opened.identity.node, NodeId::new(0, 0xe));
    let mut store = opened.store;
    if store.bootstrap() == &BootstrapState::Uninitialized {
        store.initialize(latecomer(), genesis().cluster_id())?;
    }
    let first = store.last().index.0 + 1;
    store.apply(&LogChange::Append(batch(first, 3, 2, 100)))?;
    store.sync()?;
    store.save(&HardState { term: Term(4), vote: Some(NodeId::new(0, 0xe)), lease_us: 0 }.into())?;
    store.complete_readmission()?;
    *operations.borrow_mut() = Some(1);
    store.complete_readmission()?;
    // It goes on where it is.
    store.apply(&LogChange::Append(batch(first + 3, 1, 4, 100)))?;
    store.sync()?;
    Ok(())
}

fn check_readmitted(disk: &VirtualDisk, at: &str) -> usize {
    let opened = open(disk.clone(), &SnapshotMeta::default(), at);
    assert_eq!(opened.identity.node, NodeId::new(0, 0xe), "{at}");
    assert_eq!((opened.hard_state().term, opened.bootstrap), (Term(4), latecomer()), "{at}");
    let root = Path::new("/data/node");
    assert!(opened.notes.iter().any(|note| note.contains("lies in damaged-a; nothing reads them again")), "{at}");
    let names: Vec<String> = disk.list(root).unwrap();
    assert_eq!(names, ["damaged-a", "lock", "log", "mark", "promise"], "{at}");
    assert_eq!(disk.list(&root.join("damaged-a")).unwrap(), ["log", "mark", "promise", "quarantine"], "{at}");
    opened.entries.len()
}

/// A readmission, cut anywhere up to the moment it is declared: the node is in quarantine until then, and readmitted
/// from then on.
#[test]
fn power_cut_in_next_incarnation_leaves_quarantine_until_it_is_ready() {
    let cuts = cut_everywhere(
        &damaged(),
        |disk| {
            let ready = RefCell::new(None);
            let result = next_incarnation(&Bench::with(ENGINE, disk.clone()), &ready);
            (result, ready.into_inner().is_some())
        },
        |(result, ready), disk, at| {
            let bench = Bench::with(ENGINE, disk.clone());
            match bench.reopen() {
                OpenOutcome::Quarantined(quarantined) => {
                    assert!(!ready, "{at}: quarantined after it was ready");
                    assert!(quarantined.reason.starts_with("/data/node/mark: "), "{at}: {}", quarantined.reason);
                    assert_eq!(quarantined.identity.as_ref().unwrap().node, ME, "{at}");
                    drop(quarantined);
                    // The next try goes on with the same next incarnation, or begins another one.
                    next_incarnation(&bench, &RefCell::new(None)).unwrap_or_else(|error| panic!("{at}: {error}"));
                    check_readmitted(&disk, at);
                }
                OpenOutcome::Store(opened) => {
                    drop(opened);
                    let entries = check_readmitted(&disk, at);
                    assert!(entries >= if result.is_ok() { 4 } else { 3 }, "{at}: {entries} entries");
                }
            }
        },
    );
    assert!(cuts > 30, "only {cuts} operations");
}

/// The swap of the incarnations, cut anywhere, and again in the try after that: it is always finished by a later start.
#[test]
fn power_cut_in_swap_of_incarnations_is_finished_at_the_next_open() {
    let disk = damaged();
    next_incarnation(&Bench::with(ENGINE, disk.clone()), &RefCell::new(None)).unwrap();
    let disk = disk.after_crash(Loss::Everything);
    let cuts = cut_everywhere(
        &disk,
        |disk| Bench::with(ENGINE, disk.clone()).open().map(|opened| drop(opened.store())),
        |_, disk, at| {
            for second in [1, 3, 6] {
                let disk = disk.after_crash(Loss::Nothing);
                disk.fault_at(second, Fault::PowerOff);
                let _ = Bench::with(ENGINE, disk.clone()).open();
                assert_eq!(check_readmitted(&disk.after_crash(Loss::Seeded(second)), at), 4, "{at}, then {second}");
            }
        },
    );
    assert!(cuts > 15, "only {cuts} operations");
}

/// The next incarnation is ready, and then found not to belong to its group: swapped all the same, and in quarantine
/// again.
#[test]
fn power_cut_in_swap_of_a_quarantined_next_incarnation_keeps_both_quarantines() {
    let disk = damaged();
    let bench = Bench::with(ENGINE, disk.clone());
    next_incarnation(&bench, &RefCell::new(None)).unwrap();
    // As if its group had been met in that run.
    let note = Path::new("/data/node/next/quarantine");
    let file = disk.open(note, true).unwrap();
    file.write_at(b"reason: its group knows another\n", 0).unwrap();
    file.sync().unwrap();
    disk.sync_dir(note.parent().unwrap()).unwrap();
    let disk = disk.after_crash(Loss::Everything);
    cut_everywhere(
        &disk,
        |disk| Bench::with(ENGINE, disk.clone()).open().map(|opened| opened.quarantined().reason),
        |_, disk, at| {
            let bench = Bench::with(ENGINE, disk.clone());
            let quarantined = bench.reopen().quarantined();
            assert_eq!(quarantined.reason, "its group knows another", "{at}");
            assert_eq!(quarantined.identity.as_ref().unwrap().node, NodeId::new(0, 0xe), "{at}");
            drop(quarantined);
            let aside = Path::new("/data/node/damaged-a");
            assert_eq!(bench.disk.list(aside).unwrap(), ["log", "mark", "promise", "quarantine"], "{at}");
        },
    );
}

/// A next incarnation that is damaged as well is put aside; the replica gets another one.
#[test]
fn next_incarnation_damaged_is_replaced_by_another() {
    let disk = damaged();
    let bench = Bench::with(ENGINE, disk.clone());
    let directory = bench.reopen().quarantined().into_next_incarnation().unwrap();
    let mut store = Store::open(directory, &other_incarnation(&bench.options)).unwrap().store().store;
    store.initialize(latecomer(), genesis().cluster_id()).unwrap();
    drop(store);
    disk.damage(Path::new("/data/node/next/promise"), Vec::clear).unwrap();

    let directory = bench.reopen().quarantined().into_next_incarnation().unwrap();
    let again = Store::open(directory, &other_incarnation(&bench.options)).unwrap().quarantined();
    assert!(again.reason.starts_with("/data/node/next/promise: "), "{}", again.reason);
    let directory = again.into_next_incarnation().unwrap();
    let opened = Store::open(directory, &other_incarnation(&bench.options)).unwrap().store();
    assert_eq!((opened.bootstrap, opened.entries.len()), (BootstrapState::Uninitialized, 0));
    drop(opened.store);
    assert!(bench.reopen().quarantined().reason.starts_with("/data/node/mark: "));
}

/// The member list of its group does not have this incarnation.
// covers M6
#[test]
fn node_put_into_quarantine_while_running_stays_there() {
    let disk = founded();
    let store = Bench::with(ENGINE, disk.clone()).reopen().store().store;
    let quarantined = store.into_quarantine("its group knows another\nincarnation", 77).unwrap();
    assert_eq!(quarantined.since_unix_s, Some(77));
    drop(quarantined);
    let quarantined = Bench::with(ENGINE, disk.after_crash(Loss::Everything)).reopen().quarantined();
    assert_eq!(quarantined.reason, "its group knows another incarnation");
}

//! The configuration of an epoch: the power is cut while one after the other is stored, whole.

use std::path::Path;

use smr::entry::Term;
use smr::epoch::{EpochConfiguration, EpochKind, GroupKind};
use smr::id::NodeId;
use smr::internals::protocol::StoredState;
use smr::internals::storage::{OpenError, OpenOutcome, OpenedStore};
use smr_sim::virtual_disk::{Loss, VirtualDisk};

use super::super::ENGINE;
use super::{cut_everywhere_with, losses};
use crate::support::*;

const KIND: GroupKind = GroupKind::Epochs(EpochKind::Chain);

fn bench(disk: VirtualDisk) -> Bench {
    let mut bench = Bench::with(ENGINE, disk);
    bench.options.kind = KIND;
    bench
}

fn open(disk: VirtualDisk, at: &str) -> Box<OpenedStore> {
    match bench(disk).open().unwrap_or_else(|error| panic!("{at}: {error}")) {
        OpenOutcome::Store(opened) => opened,
        OpenOutcome::Quarantined(quarantined) => panic!("{at}: quarantined: {}", quarantined.reason),
    }
}

/// Of as many members as there can be, so that the record is as long as it gets.
fn configuration(epoch: u64) -> StoredState {
    let members = (0..9).map(|name| NodeId::new(name, u64::MAX - epoch)).collect();
    StoredState::Configured(Some(EpochConfiguration {
        epoch: Term(epoch),
        kind: EpochKind::Chain,
        members,
        incomplete: Some(NodeId::new(8, u64::MAX - epoch)),
    }))
}

// covers D1 K9
#[test]
fn power_cut_in_epochs_keeps_what_was_confirmed_even_if_a_slot_goes_bad() {
    let disk = VirtualDisk::new();
    drop(bench(disk.clone()).founded());
    let disk = disk.after_crash(Loss::Everything);
    let founded = open(disk.after_crash(Loss::Nothing), "founded").stored;
    assert!(matches!(&founded, StoredState::Configured(Some(first)) if first.epoch == Term(1)), "{founded:?}");
    let cuts = cut_everywhere_with(
        &disk,
        losses,
        |disk| {
            let (mut confirmed, mut begun) = (founded.clone(), founded.clone());
            let Ok(opened) = bench(disk.clone()).open() else { return (confirmed, begun) };
            let mut store = opened.store().store;
            for epoch in [2, 5, 6] {
                begun = configuration(epoch);
                if store.save(&begun).is_err() {
                    break;
                }
                confirmed = begun.clone();
            }
            (confirmed, begun)
        },
        |(confirmed, begun), disk, at| {
            // In the first sector of a slot, in its later ones, or not at all.
            let copy = disk.after_crash(Loss::Nothing);
            // Several sectors may be torn. One more bad slot beside a torn one would be two.
            let is_torn = open(copy, at).notes.iter().any(|note| note.contains("damaged"));
            for bad in [None, Some(60), Some(700), Some(4096 + 60), Some(4096 + 700)] {
                if is_torn && bad.is_some() {
                    continue;
                }
                let disk = disk.after_crash(Loss::Nothing);
                if let Some(byte) = bad {
                    disk.damage(Path::new("/data/node/promise"), |bytes| bytes[byte] ^= 4).unwrap();
                }
                let found = open(disk, at).stored;
                assert!(found == *confirmed || found == *begun, "{at}, {bad:?}: {found:?}, confirmed {confirmed:?}");
            }
        },
    );
    assert!(cuts >= 12, "only {cuts} operations");
}

// covers B9 D16
#[test]
fn directory_of_another_kind_is_refused_as_it_is_and_one_of_no_group_begins_again() {
    let disk = VirtualDisk::new();
    drop(Bench::with(ENGINE, disk.clone()).reopen().store());
    // It has saved no hard state.
    drop(bench(disk.clone()).founded());
    let before = disk.after_crash(Loss::Nothing);
    let error = Bench::with(ENGINE, disk.clone()).open().err().unwrap();
    assert!(matches!(error, OpenError::OtherKind { found: KIND, asked: GroupKind::Raft, .. }), "{error}");
    let opened = open(before, "after it");
    assert_eq!(opened.entries.len(), 1);
    assert_eq!(opened.start.id.number, 3, "starts are counted on");
}

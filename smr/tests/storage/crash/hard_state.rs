//! Bootstrap and votes: the power is cut while a node is initialized, and while it votes.

use std::path::Path;

use smr::entry::{HardState, SnapshotMeta, Term};
use smr::id::NodeId;
use smr::internals::protocol::LogChange;
use smr::internals::storage::{BootstrapState, OpenError};
use smr_sim::virtual_disk::{Loss, VirtualDisk};

use super::super::ENGINE;
use super::{cut_everywhere, cut_everywhere_with, founded, losses, open};
use crate::support::*;

/// The first start, and bootstrap, cut anywhere: the node is new, uninitialized, or initialized with its first entry,
/// and then for good.
// covers D1, D7
#[test]
fn power_cut_in_first_start_and_bootstrap_leaves_a_state_between() {
    let cuts = cut_everywhere(
        &VirtualDisk::new(),
        |disk| {
            let opened = Bench::with(ENGINE, disk.clone()).open()?;
            let mut store = opened.store().store;
            store.initialize(initialized(), genesis().cluster_id())?;
            Ok::<(), OpenError>(())
        },
        |result, disk, at| {
            let opened = open(disk, &SnapshotMeta::default(), at);
            if result.is_ok() {
                assert_eq!(opened.bootstrap, initialized(), "{at}");
            }
            if opened.bootstrap == BootstrapState::Uninitialized {
                assert_eq!((opened.entries.len(), opened.hard_state()), (0, HardState::default()), "{at}");
            } else {
                assert_eq!(opened.entries, [genesis().first_entry()], "{at}");
                assert_eq!(opened.hard_state().term, Term(1), "{at}");
            }
            // And it goes on from there.
            let mut store = opened.store;
            if store.bootstrap() == &BootstrapState::Uninitialized {
                store.initialize(initialized(), genesis().cluster_id()).unwrap();
            }
            store.apply(&LogChange::Append(batch(2, 1, 1, 10))).unwrap();
            store.sync().unwrap();
        },
    );
    assert!(cuts > 15, "only {cuts} operations");
}

/// A vote, cut anywhere: what was confirmed stays, also when either slot goes bad later.
// covers D1, E4, E5, I2
#[test]
fn power_cut_in_hard_state_keeps_what_was_confirmed_even_if_a_slot_goes_bad() {
    let hard_states: Vec<HardState> = (2..6)
        .map(|term| HardState { term: Term(term), vote: (term % 2 == 0).then_some(NodeId::new(1, 0xb)), lease_us: 0 })
        .collect();
    let disk = founded();
    let opening = {
        let copy = disk.after_crash(Loss::Nothing);
        drop(Bench::with(ENGINE, copy.clone()).reopen().store());
        copy.operations()
    };
    let cuts = cut_everywhere_with(
        &disk,
        // A sector that the power was cut in may be spoiled: that is what the second slot and the sync between are for.
        // The log, which some engines write to when they open it, relies on sectors that are old or new.
        |disk| {
            let spoiled = (0..10).map(Loss::Spoiled).filter(|_| disk.operations() > opening);
            losses(disk).into_iter().chain(spoiled).collect()
        },
        |disk| {
            let mut confirmed = HardState { term: Term(1), vote: None, lease_us: 0 };
            let mut begun = confirmed;
            let Ok(opened) = Bench::with(ENGINE, disk.clone()).open() else { return (confirmed, begun) };
            let mut store = opened.store().store;
            for hard_state in &hard_states {
                begun = *hard_state;
                if store.save(&(*hard_state).into()).is_err() {
                    break;
                }
                confirmed = *hard_state;
            }
            (confirmed, begun)
        },
        |(confirmed, begun), disk, at| {
            for bad in [None, Some(0), Some(1)] {
                let disk = disk.after_crash(Loss::Nothing);
                // One more bad slot beside a spoiled one would be two.
                if let Some(slot) = bad {
                    if at.contains("Spoiled") {
                        continue;
                    }
                    disk.damage(Path::new("/data/node/promise"), |bytes| bytes[slot * 4096 + 60] ^= 4).unwrap();
                }
                let opened = open(disk.clone(), &SnapshotMeta::default(), at);
                let found = opened.hard_state();
                assert!(
                    found == *confirmed || found == *begun,
                    "{at}, slot {bad:?}: {found:?}, confirmed {confirmed:?}"
                );
                drop(opened);
                // What was read is what stays: the start wrote it to both slots.
                for again in [0, 1] {
                    let disk = disk.after_crash(Loss::Everything);
                    disk.damage(Path::new("/data/node/promise"), |bytes| bytes[again * 4096 + 60] ^= 4).unwrap();
                    assert_eq!(
                        open(disk, &SnapshotMeta::default(), at).hard_state(),
                        found,
                        "{at}, slot {bad:?}, {again}"
                    );
                }
            }
        },
    );
    assert!(cuts >= 16, "only {cuts} operations");
}

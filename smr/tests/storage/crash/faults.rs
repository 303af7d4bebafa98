//! Operations that fail, and syncs that lie.

use std::io::ErrorKind;

use smr::entry::{Entry, HardState, SnapshotMeta, Term};
use smr::id::NodeId;
use smr::internals::protocol::LogChange;
use smr::internals::storage::{LogEngine, OpenError, OpenOutcome};
use smr_sim::virtual_disk::{Fault, Loss, VirtualDisk};
use smr_sim::virtual_map::SIMULATED;

use super::super::{ENGINE, LOG};
use super::{founded, losses, open};
use crate::support::*;

/// A device that confirms a sync and loses it can cost what rests on that one sync, and no one can know. But term and
/// vote lie in two slots with a sync each, the second of which covers both: one lie about them costs nothing.
// covers D5, I2
#[test]
fn sync_that_lies_once_about_the_hard_state_forgets_no_vote() {
    let disk = founded();
    let hard_state = HardState { term: Term(7), vote: Some(NodeId::new(1, 0xb)), lease_us: 0 };
    let vote = |disk: &VirtualDisk| {
        let mut store = Bench::with(ENGINE, disk.clone()).reopen().store().store;
        let begin = disk.operations();
        store.save(&hard_state.into()).unwrap();
        begin..disk.operations()
    };
    let mut told = 0;
    for operation in vote(&disk.after_crash(Loss::Nothing)) {
        let copy = disk.after_crash(Loss::Nothing);
        copy.lie_at(operation);
        vote(&copy);
        told += copy.lies_told();
        for loss in losses(&copy) {
            let at = format!("operation {operation}, {loss:?}");
            assert_eq!(open(copy.after_crash(loss), &SnapshotMeta::default(), &at).hard_state(), hard_state, "{at}");
        }
    }
    assert!(told >= 2, "only {told} lies");
}

/// A lie about the log is found out where the watermark, or a later write, has reached the device. Where it has not,
/// the entries are gone as if they had never been written: never a hole, never another entry.
// covers D1, D3
#[test]
fn sync_that_lies_about_the_log_is_found_out_by_the_watermark_or_leaves_a_prefix() {
    let disk = founded();
    let entries: Vec<Entry> = [vec![genesis().first_entry()], batch(2, 12, 1, 30)].concat();
    let work = |disk: &VirtualDisk| {
        let mut store = Bench::with(ENGINE, disk.clone()).reopen().store().store;
        let begin = disk.operations();
        for entry in &entries[1..] {
            store.apply(&LogChange::Append(vec![entry.clone()])).unwrap();
            store.sync().unwrap();
        }
        begin..disk.operations()
    };
    let (mut whole, mut shorter, mut found_out) = (0, 0, 0);
    let range = work(&disk.after_crash(Loss::Nothing));
    for from in range.clone() {
        let copy = disk.after_crash(Loss::Nothing);
        // From here on the device confirms everything, and does nothing.
        (from..range.end).for_each(|operation| copy.lie_at(operation));
        work(&copy);
        for loss in [Loss::Nothing, Loss::Everything].into_iter().chain((0..20).map(Loss::Seeded)) {
            match Bench::with(ENGINE, copy.after_crash(loss)).reopen() {
                OpenOutcome::Store(opened) if opened.healing.is_none() && opened.entries == entries => whole += 1,
                OpenOutcome::Store(opened) if opened.healing.is_none() => {
                    assert!(entries.starts_with(&opened.entries), "from {from}, {loss:?}: {:?}", ids(&opened.entries));
                    shorter += 1;
                }
                OpenOutcome::Quarantined(quarantined) => panic!("from {from}, {loss:?}: {}", quarantined.reason),
                opened => {
                    let (opened, reason) = opened.heals();
                    assert!(entries.starts_with(&opened.entries), "from {from}, {loss:?}: {:?}", ids(&opened.entries));
                    // Segments also miss a prepared one whose name has outlived its content.
                    let nothing_behind = ENGINE == LogEngine::Segments && reason.contains("cut off: 0 bytes");
                    let marked = reason.contains("marked as synced") || reason.contains("though it was synced");
                    assert!(marked || nothing_behind, "{reason}");
                    found_out += 1;
                }
            }
        }
    }
    // The lies are told by files, so the virtual map's own flush is honest.
    let all = ENGINE == SIMULATED || (shorter > 0 && found_out > 0);
    assert!(whole > 0 && all, "{whole} whole, {shorter} shorter, {found_out} found out");
}

// covers D6
#[test]
fn sync_failed_once_is_not_tried_again() {
    let disk = founded();
    let mut store = Bench::with(ENGINE, disk.clone()).reopen().store().store;
    store.apply(&LogChange::Append(batch(2, 5, 1, 10))).unwrap();
    // Segments write when they are flushed, the others before.
    let sync = disk.operations() + u64::from(ENGINE == LogEngine::Segments);
    disk.fault_at(sync, Fault::Error(ErrorKind::Other));
    let first = store.sync().unwrap_err();
    assert!(first.to_string().contains(&format!("{LOG}: flushing")), "{first}");
    let before = disk.operations();
    assert_eq!(store.sync().unwrap_err(), first);
    assert_eq!(store.save(&HardState { term: Term(9), vote: None, lease_us: 0 }.into()).unwrap_err(), first);
    assert_eq!(store.apply(&LogChange::Append(batch(7, 1, 1, 10))).unwrap_err(), first);
    assert_eq!(disk.operations(), before, "the disk was asked again");
    drop(store);
    // Of a map the flush may have written a part.
    let loss = if ENGINE == SIMULATED { Loss::Everything } else { Loss::Nothing };
    let entries = open(disk.after_crash(loss), &SnapshotMeta::default(), "").entries;
    assert_eq!(entries, [genesis().first_entry()]);
}

/// An error of the device at the start is no damage, and never passed over: the next start may do better.
// covers D8
#[test]
fn error_at_open_refuses_without_quarantine() {
    for (disk, entries) in [(founded(), 1), (VirtualDisk::new(), 0)] {
        for operation in 0.. {
            let copy = disk.after_crash(Loss::Nothing);
            copy.fault_at(operation, Fault::Error(ErrorKind::Other));
            let result = Bench::with(ENGINE, copy.clone()).open();
            if copy.operations() <= operation {
                assert!(result.is_ok() && operation > 3, "only {operation} operations");
                break;
            }
            match result {
                Err(OpenError::Io(error)) => assert!(error.why.contains("ordered by the test"), "{error}"),
                Err(error) => panic!("operation {operation}: {error}"),
                Ok(_) => panic!("operation {operation} failed and was passed over"),
            }
            assert_eq!(open(copy, &SnapshotMeta::default(), "afterwards").entries.len(), entries);
        }
    }
}

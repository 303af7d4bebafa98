//! The store on the virtual disk: the power is cut at each operation, and what was volatile is lost in many ways. All
//! of it runs for each engine that the virtual disk can have.

mod epochs;
mod faults;
mod hard_state;
mod healing;
mod incarnations;
mod log;
mod watermark;

use std::path::Path;

use smr::entry::SnapshotMeta;
use smr::internals::storage::{OpenOutcome, StorageError};
use smr_sim::virtual_disk::{Fault, Loss, VirtualDisk};

use super::{ENGINE, LOG};
use crate::support::*;

/// Up to this many volatile changes every subset of them is tried; beyond, the extremes, each one alone, and mixtures.
const SUBSETS_OF_MAX: u32 = 8;

/// What a crash of this disk may lose.
fn losses(disk: &VirtualDisk) -> Vec<Loss> {
    let changes = disk.volatile_changes();
    if changes <= SUBSETS_OF_MAX {
        return (0..1 << changes).map(Loss::Chosen).collect();
    }
    let alone = (0..changes.min(64)).flat_map(|one| [1 << one, !(1 << one)]).map(Loss::Chosen);
    [Loss::Nothing, Loss::Everything].into_iter().chain(alone).chain((0..10).map(Loss::Seeded)).collect()
}

/// Runs `work` on a copy of `disk` again and again, each time with the power cut one operation later, until it gets
/// through; after each cut `check` sees what is left, for each kind of loss. Returns how many operations there are.
fn cut_everywhere<T>(
    disk: &VirtualDisk,
    work: impl Fn(&VirtualDisk) -> T,
    check: impl Fn(&T, VirtualDisk, &str),
) -> u64 {
    cut_everywhere_with(disk, losses, work, check)
}

fn cut_everywhere_with<T>(
    disk: &VirtualDisk,
    losses: impl Fn(&VirtualDisk) -> Vec<Loss>,
    work: impl Fn(&VirtualDisk) -> T,
    check: impl Fn(&T, VirtualDisk, &str),
) -> u64 {
    for cut in 0..10_000 {
        let copy = disk.after_crash(Loss::Nothing);
        copy.fault_at(cut, Fault::PowerOff);
        let result = work(&copy);
        // Of an ordered map every prefix of the unflushed writes may be left.
        let kept_max = copy.unflushed_map_writes(Path::new(LOG));
        for (kept, loss) in (0..=kept_max).flat_map(|kept| losses(&copy).into_iter().map(move |loss| (kept, loss))) {
            let at = format!("cut at operation {cut}, {loss:?}, {kept} of {kept_max} kept");
            check(&result, copy.after_crash_keeping(loss, kept), &at);
        }
        if !copy.power_is_off() {
            return cut;
        }
    }
    panic!("the work does not end");
}

fn open(disk: VirtualDisk, snapshot: &SnapshotMeta, at: &str) -> Box<smr::internals::storage::OpenedStore> {
    let bench = Bench::with(ENGINE, disk);
    let options = smr::internals::storage::StoreOptions { snapshot: snapshot.clone(), ..bench.options.clone() };
    match bench.open_with(&options).unwrap_or_else(|error| panic!("{at}: {error}")) {
        OpenOutcome::Store(opened) => {
            assert_eq!(opened.healing, None, "{at}");
            opened
        }
        OpenOutcome::Quarantined(quarantined) => panic!("{at}: quarantined: {}", quarantined.reason),
    }
}

/// A disk with a founder on it, all of it durable.
fn founded() -> VirtualDisk {
    let disk = VirtualDisk::new();
    drop(Bench::with(ENGINE, disk.clone()).founded());
    disk.after_crash(Loss::Everything)
}

#[test]
fn storage_error_names_file_and_work() {
    let error = StorageError::new(Path::new("/data/x"), "syncing", "no space");
    assert_eq!(error.to_string(), "/data/x: syncing: no space");
}

//! The store on the virtual disk: the power is cut at each operation, and what was volatile is lost in many ways.

use smr::entry::{Promise, Term};
use smr::protocol::LogChange;
use smr::storage::virtual_disk::{Fault, Loss, VirtualDisk};
use smr::storage::{Birth, OpenError, Opened};

use crate::support::*;

/// The two extremes and some mixtures.
fn losses() -> impl Iterator<Item = Loss> {
    [Loss::Nothing, Loss::Everything].into_iter().chain((0..12).map(Loss::Seeded))
}

/// Runs `work` on a copy of `disk` again and again, each time with the power cut one operation later, until it gets through;
/// after each cut `check` sees what is left, for each kind of loss. Returns how many cuts there were.
fn cut_everywhere<T>(
    disk: &VirtualDisk,
    work: impl Fn(&VirtualDisk) -> T,
    check: impl Fn(&T, VirtualDisk, &str),
) -> u64 {
    for cut in 0..10_000 {
        let copy = disk.after_crash(Loss::Nothing);
        copy.fault_at(cut, Fault::PowerOff);
        let result = work(&copy);
        let done = !copy.power_is_off();
        for loss in losses() {
            check(&result, copy.after_crash(loss), &format!("cut at operation {cut}, {loss:?}"));
        }
        if done {
            return cut;
        }
    }
    panic!("the work does not end");
}

/// The first start, and birth, cut anywhere: the node is new, unborn, or born with its first entry; once born, always born.
// covers D1, D7
#[test]
fn power_cut_in_first_start_and_birth_leaves_new_unborn_or_born() {
    let cuts = cut_everywhere(
        &VirtualDisk::new(),
        |disk| {
            let opened = Bench::on(disk.clone()).open()?;
            let mut store = opened.store().store;
            store.be_born(born(), genesis().cluster_id())?;
            Ok::<(), OpenError>(())
        },
        |result, disk, at| {
            let opened = Bench::on(disk).open().unwrap_or_else(|error| panic!("{at}: {error}"));
            let Opened::Store(opened) = opened else { panic!("{at}: quarantined") };
            if result.is_ok() {
                assert_eq!(opened.birth, born(), "{at}");
            }
            if opened.birth == Birth::Unborn {
                assert_eq!((opened.entries.len(), opened.promise), (0, Promise::default()), "{at}");
            } else {
                assert_eq!(opened.entries, [genesis().first_entry()], "{at}");
                assert_eq!(opened.promise.term, Term(1), "{at}");
            }
            // And it goes on from there.
            let mut store = opened.store;
            if store.birth() == &Birth::Unborn {
                store.be_born(born(), genesis().cluster_id()).unwrap();
            }
            store.apply(&LogChange::Append(batch(2, 1, 1, 10))).unwrap();
            store.sync().unwrap();
        },
    );
    assert!(cuts > 15, "only {cuts} operations");
}

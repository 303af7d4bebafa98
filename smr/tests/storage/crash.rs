//! The store on the virtual disk: the power is cut at each operation, and what was volatile is lost in many ways. All of it runs
//! for each engine that the virtual disk can have.

use std::cell::RefCell;
use std::io::ErrorKind;
use std::path::Path;

use smr::entry::{Entry, Index, Promise, SnapshotMeta, Term};
use smr::id::NodeId;
use smr::protocol::LogChange;
use smr::storage::disk::Disk;
use smr::storage::virtual_disk::{Fault, Loss, VirtualDisk};
use smr::storage::virtual_map::MapDamage;
use smr::storage::{Birth, Engine, OpenError, Opened, StorageError, Store};

use super::{ENGINE, LOG};
use crate::support::*;

/// Up to so many volatile changes every subset of them is tried; beyond, the extremes, each one alone, and mixtures.
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

/// Runs `work` on a copy of `disk` again and again, each time with the power cut one operation later, until it gets through; after
/// each cut `check` sees what is left, for each kind of loss. Returns how many operations there are.
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

fn open(disk: VirtualDisk, snapshot: &SnapshotMeta, at: &str) -> Box<smr::storage::OpenedStore> {
    let bench = Bench::with(ENGINE, disk);
    let options = smr::storage::StoreOptions { snapshot: snapshot.clone(), ..bench.options.clone() };
    match bench.open_with(&options).unwrap_or_else(|error| panic!("{at}: {error}")) {
        Opened::Store(opened) => opened,
        Opened::Quarantined(quarantined) => panic!("{at}: quarantined: {}", quarantined.reason),
    }
}

/// A disk with a founder on it, all of it durable.
fn founded() -> VirtualDisk {
    let disk = VirtualDisk::new();
    drop(Bench::with(ENGINE, disk.clone()).founded());
    disk.after_crash(Loss::Everything)
}

/// The first start, and birth, cut anywhere: the node is new, unborn, or born with its first entry; once born, always born.
// covers D1, D7
#[test]
fn power_cut_in_first_start_and_birth_leaves_new_unborn_or_born() {
    let cuts = cut_everywhere(
        &VirtualDisk::new(),
        |disk| {
            let opened = Bench::with(ENGINE, disk.clone()).open()?;
            let mut store = opened.store().store;
            store.be_born(born(), genesis().cluster_id())?;
            Ok::<(), OpenError>(())
        },
        |result, disk, at| {
            let opened = open(disk, &SnapshotMeta::default(), at);
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

/// A vote, cut anywhere: what was confirmed stays, also when either slot goes bad later.
// covers D1, E4, E5, I2
#[test]
fn power_cut_in_promise_keeps_what_was_confirmed_even_if_a_slot_goes_bad() {
    let promises: Vec<Promise> = (2..6)
        .map(|term| Promise { term: Term(term), vote: (term % 2 == 0).then_some(NodeId::new(1, 0xb)), lease_us: 0 })
        .collect();
    let disk = founded();
    let opening = {
        let copy = disk.after_crash(Loss::Nothing);
        drop(Bench::with(ENGINE, copy.clone()).reopen().store());
        copy.operations()
    };
    let cuts = cut_everywhere_with(
        &disk,
        // A sector that the power was cut in may be spoiled: that is what the second slot and the sync between are for. The log,
        // which some engines write to when they open it, relies on sectors that are old or new.
        |disk| {
            let spoiled = (0..10).map(Loss::Spoiled).filter(|_| disk.operations() > opening);
            losses(disk).into_iter().chain(spoiled).collect()
        },
        |disk| {
            let mut confirmed = Promise { term: Term(1), vote: None, lease_us: 0 };
            let mut begun = confirmed;
            let Ok(opened) = Bench::with(ENGINE, disk.clone()).open() else { return (confirmed, begun) };
            let mut store = opened.store().store;
            for promise in &promises {
                begun = *promise;
                if store.save_promise(*promise).is_err() {
                    break;
                }
                confirmed = *promise;
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
                    disk.damage(Path::new("/data/node/promise"), |bytes| bytes[slot * 512 + 60] ^= 4).unwrap();
                }
                let opened = open(disk.clone(), &SnapshotMeta::default(), at);
                let found = opened.promise;
                assert!(
                    found == *confirmed || found == *begun,
                    "{at}, slot {bad:?}: {found:?}, confirmed {confirmed:?}"
                );
                drop(opened);
                // What was read is what stays: the start wrote it to both slots.
                for again in [0, 1] {
                    let disk = disk.after_crash(Loss::Everything);
                    disk.damage(Path::new("/data/node/promise"), |bytes| bytes[again * 512 + 60] ^= 4).unwrap();
                    assert_eq!(open(disk, &SnapshotMeta::default(), at).promise, found, "{at}, slot {bad:?}, {again}");
                }
            }
        },
    );
    assert!(cuts >= 16, "only {cuts} operations");
}

/// What the log may hold after a crash.
#[derive(Clone, Default)]
struct Model {
    /// Its content after each change, from the last confirmed one on.
    states: Vec<Vec<Entry>>,
    /// The newest durable snapshot.
    snapshot: SnapshotMeta,
    /// One more change may be half done.
    begun: Option<LogChange>,
}

impl Model {
    /// What a log holds behind the snapshot, by Raft §7.
    fn view(&self, log: &[Entry]) -> Vec<Entry> {
        let end = self.snapshot.last;
        let known = end.index == Index::ZERO
            || log.iter().any(|entry| entry.id == end)
            || log.first().is_some_and(|first| first.id.index == end.index.next());
        if known { log.iter().filter(|entry| entry.id.index > end.index).cloned().collect() } else { Vec::new() }
    }

    fn changed(log: &[Entry], change: &LogChange) -> Vec<Entry> {
        let mut log = log.to_vec();
        match change {
            LogChange::Append(entries) => log.extend(entries.iter().cloned()),
            LogChange::RemoveFrom(index) => log.retain(|entry| entry.id.index < *index),
            LogChange::RemoveThrough(index) => log.retain(|entry| entry.id.index > *index),
            LogChange::Install(meta) => {
                let fits = log.iter().any(|entry| entry.id == meta.last);
                log.retain(|entry| fits && entry.id.index > meta.last.index);
            }
        }
        log
    }

    fn check(&self, found: &[Entry], at: &str) {
        let mut states: Vec<Vec<Entry>> = self.states.iter().map(|state| self.view(state)).collect();
        if let (Some(change), Some(last)) = (&self.begun, self.states.last()) {
            states.push(self.view(&Model::changed(last, change)));
        }
        let fits = |before: &[Entry], after: &[Entry]| {
            let common = before.iter().zip(after).take_while(|(one, other)| one == other).count();
            found.starts_with(&before[..common]) && (before.starts_with(found) || after.starts_with(found))
        };
        let any = states.windows(2).any(|pair| fits(&pair[0], &pair[1])) || states.iter().any(|state| state == found);
        let states: Vec<_> = states.iter().map(|state| ids(state)).collect();
        assert!(any, "{at}: found {:?}, expected one of {states:?}", ids(found));
    }
}

enum Act {
    Change(LogChange),
    Sync,
}

/// A life with everything in it: batches, parts, conflicts at and inside records, slices, and the three kinds of install.
fn life() -> Vec<Act> {
    let mut acts = Vec::new();
    let mut change = |change| acts.push(Act::Change(change));
    change(LogChange::Append(batch(2, 20, 1, 300)));
    change(LogChange::Append(batch(22, 1, 1, 60_000)));
    acts.push(Act::Sync);
    let more = [
        // Inside a record, and through one in parts.
        vec![LogChange::RemoveFrom(Index(12)), LogChange::Append(batch(12, 3, 2, 100))],
        vec![LogChange::Append(batch(15, 10, 2, 3_000)), LogChange::Append(batch(25, 2, 3, 40_000))],
        // Before anything of it was synced again.
        vec![
            LogChange::Append(batch(27, 5, 3, 100)),
            LogChange::RemoveFrom(Index(27)),
            LogChange::Append(batch(27, 2, 4, 30_000)),
        ],
        vec![LogChange::RemoveFrom(Index(25))],
        vec![LogChange::Append(batch(25, 30, 5, 10))],
        // An own snapshot, then one that fits, one that contradicts, one that is ahead.
        vec![LogChange::RemoveThrough(Index(20))],
        vec![LogChange::Append(batch(55, 3, 5, 10))],
        vec![LogChange::Install(snapshot(40, 5))],
        vec![LogChange::Append(batch(58, 2, 5, 50_000))],
        vec![LogChange::Install(snapshot(50, 6))],
        vec![LogChange::Append(batch(51, 4, 6, 10))],
        vec![LogChange::Install(snapshot(90, 7)), LogChange::Append(batch(91, 4, 7, 10))],
        vec![LogChange::RemoveFrom(Index(91)), LogChange::Append(batch(91, 1, 8, 10))],
    ];
    for step in more {
        acts.extend(step.into_iter().map(Act::Change));
        acts.push(Act::Sync);
    }
    acts
}

fn live(disk: &VirtualDisk) -> Model {
    let mut model = Model { states: vec![vec![genesis().first_entry()]], ..Model::default() };
    let Ok(opened) = Bench::with(ENGINE, disk.clone()).open() else { return model };
    let mut store = opened.store().store;
    for act in life() {
        let done = match &act {
            Act::Change(change) => {
                match change {
                    // What the replica has made durable before it tells the log.
                    LogChange::RemoveThrough(index) => {
                        let term = store.term_at(*index).unwrap();
                        model.snapshot = snapshot(index.0, term.0);
                    }
                    LogChange::Install(meta) => model.snapshot = meta.clone(),
                    _ => {}
                }
                model.begun = Some(change.clone());
                let done = store.apply(change);
                if done.is_ok() {
                    let next = Model::changed(model.states.last().unwrap(), change);
                    model.states.push(next);
                    model.begun = None;
                }
                done
            }
            Act::Sync => {
                let done = store.sync();
                if done.is_ok() {
                    model.states.drain(..model.states.len() - 1);
                }
                done
            }
        };
        if done.is_err() {
            break;
        }
    }
    model
}

/// Every change of the log, cut anywhere: what was confirmed is there, what was not is there in order or not at all, and it
/// never looks like damage.
// covers D1, D2, I10, S5, S6
#[test]
fn power_cut_in_any_change_of_the_log_leaves_a_state_on_the_way() {
    let cuts = cut_everywhere(&founded(), live, |model, disk, at| {
        let opened = open(disk.clone(), &model.snapshot, at);
        model.check(&opened.entries, at);
        let (entries, mut store) = (opened.entries, opened.store);
        assert_eq!(store.start(), model.snapshot.last, "{at}");
        // What the start has found stays, and it goes on from there.
        let next = store.last().index.0 + 1;
        store.apply(&LogChange::Append(batch(next, 2, 9, 100))).unwrap();
        store.sync().unwrap();
        drop(store);
        let again = open(disk.after_crash(Loss::Everything), &model.snapshot, at).entries;
        assert_eq!(ids(&again), ids(&[entries, batch(next, 2, 9, 100)].concat()), "{at}");
    });
    assert!(cuts > 60, "only {cuts} operations");
}

/// Each operation fails once, the power stays: the store refuses everything from then on, with the first error, and the next
/// start finds what was confirmed. A failed sync has lost its data although the disk calls it clean.
// covers D6, D7
#[test]
fn error_in_any_operation_is_final_and_loses_nothing_confirmed() {
    let mut operation = 0;
    loop {
        let disk = founded();
        let begin = disk.operations();
        disk.fault_at(begin + operation, Fault::Error(ErrorKind::StorageFull));
        let model = live(&disk);
        for loss in losses(&disk) {
            let at = format!("error in operation {operation}, {loss:?}");
            model.check(&open(disk.after_crash(loss), &model.snapshot, &at).entries, &at);
        }
        if disk.operations() - begin <= operation {
            break;
        }
        operation += 1;
    }
    assert!(operation > 60, "only {operation} operations");
}

/// How many images a run of the next test makes; as many as told for a long one.
fn power_cut_images() -> u64 {
    std::env::var("POWER_CUT_IMAGES").ok().and_then(|count| count.parse().ok()).unwrap_or(500)
}

/// Power cuts at random moments of a life, with random losses, and again while the next start recovers from the first.
// covers D10, D14, I12
#[test]
fn images_of_power_cuts_hold_what_was_confirmed() {
    let disk = founded();
    let end = {
        let copy = disk.after_crash(Loss::Nothing);
        live(&copy);
        copy.operations()
    };
    for image in 0..power_cut_images() {
        let at = format!("image {image}");
        let copy = disk.after_crash(Loss::Nothing);
        // Spread over the whole life, by a step that has no divisor in common with its length as a rule.
        copy.fault_at(image * 7919 % end, Fault::PowerOff);
        let model = live(&copy);
        let mut left = copy.after_crash(Loss::Seeded(image));
        for again in 0..image % 3 {
            left.fault_at(left.operations() + again * 2 + image % 5, Fault::PowerOff);
            let options = smr::storage::StoreOptions {
                snapshot: model.snapshot.clone(),
                ..Bench::with(ENGINE, left.clone()).options.clone()
            };
            let _ = Bench::with(ENGINE, left.clone()).open_with(&options);
            left = left.after_crash(Loss::Seeded(image ^ 0x5eed));
        }
        model.check(&open(left, &model.snapshot, &at).entries, &at);
    }
}

/// A device that confirms a sync and loses it can cost what rests on that one sync, and nobody can know. But term and vote lie in two
/// slots with a sync each, the second of which covers both: one lie about them costs nothing.
// covers D5, I2
#[test]
fn sync_that_lies_once_about_the_promise_forgets_no_vote() {
    let disk = founded();
    let promise = Promise { term: Term(7), vote: Some(NodeId::new(1, 0xb)), lease_us: 0 };
    let vote = |disk: &VirtualDisk| {
        let mut store = Bench::with(ENGINE, disk.clone()).reopen().store().store;
        let begin = disk.operations();
        store.save_promise(promise).unwrap();
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
            assert_eq!(open(copy.after_crash(loss), &SnapshotMeta::default(), &at).promise, promise, "{at}");
        }
    }
    assert!(told >= 2, "only {told} lies");
}

/// A lie about the log is found out where the mark has reached the device. Where it has not, the entries are gone as if they had
/// never been written: never a hole, never another entry.
// covers D1, D3
#[test]
fn sync_that_lies_about_the_log_is_found_out_by_the_mark_or_leaves_a_prefix() {
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
                Opened::Store(opened) if opened.entries == entries => whole += 1,
                Opened::Store(opened) => {
                    assert!(entries.starts_with(&opened.entries), "from {from}, {loss:?}: {:?}", ids(&opened.entries));
                    shorter += 1;
                }
                Opened::Quarantined(quarantined) => {
                    // Segments also miss a prepared one whose name has outlived its content.
                    let nothing_behind = ENGINE == Engine::Segments && quarantined.reason.contains("cut off: 0 bytes");
                    let marked = quarantined.reason.contains("marked as synced");
                    assert!(marked || nothing_behind, "{}", quarantined.reason);
                    found_out += 1;
                }
            }
        }
    }
    // The lies are told by files, so the virtual map's own flush is honest.
    let all = ENGINE == Engine::Simulated || (shorter > 0 && found_out > 0);
    assert!(whole > 0 && all, "{whole} whole, {shorter} shorter, {found_out} found out");
}

// covers D6
#[test]
fn sync_failed_once_is_not_tried_again() {
    let disk = founded();
    let mut store = Bench::with(ENGINE, disk.clone()).reopen().store().store;
    store.apply(&LogChange::Append(batch(2, 5, 1, 10))).unwrap();
    // Segments write when they are flushed, the others before.
    let sync = disk.operations() + u64::from(ENGINE == Engine::Segments);
    disk.fault_at(sync, Fault::Error(ErrorKind::Other));
    let first = store.sync().unwrap_err();
    assert!(first.to_string().contains(&format!("{LOG}: flushing")), "{first}");
    let before = disk.operations();
    assert_eq!(store.sync().unwrap_err(), first);
    assert_eq!(store.save_promise(Promise { term: Term(9), vote: None, lease_us: 0 }).unwrap_err(), first);
    assert_eq!(store.apply(&LogChange::Append(batch(7, 1, 1, 10))).unwrap_err(), first);
    assert_eq!(disk.operations(), before, "the disk was asked again");
    drop(store);
    // Of a map the flush may have written a part.
    let loss = if ENGINE == Engine::Simulated { Loss::Everything } else { Loss::Nothing };
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

/// A damaged directory is opened, cut anywhere: whatever is left is quarantined at the next open, for the same reason.
#[test]
fn power_cut_while_entering_quarantine_leaves_it_to_the_next_open() {
    let disk = founded();
    for file in ["/data/node/promise", "/data/node/mark", LOG] {
        let disk = disk.after_crash(Loss::Nothing);
        if file == LOG && ENGINE == Engine::Simulated {
            disk.damage_map(Path::new(LOG), MapDamage::Missing).unwrap();
        } else {
            disk.damage(Path::new(file), Vec::clear).unwrap();
        }
        cut_everywhere(
            &disk,
            |disk| Bench::with(ENGINE, disk.clone()).open().map(|opened| opened.quarantined().reason),
            |result, disk, at| {
                let reason = Bench::with(ENGINE, disk).reopen().quarantined().reason;
                assert!(reason.starts_with(&format!("{file}: ")), "{at}: {reason}");
                assert!(result.as_ref().is_err() || result.as_ref() == Ok(&reason), "{at}");
            },
        );
    }
}

/// A node whose promise is gone, with a past worth keeping.
fn damaged() -> VirtualDisk {
    let disk = founded();
    let mut store = Bench::with(ENGINE, disk.clone()).reopen().store().store;
    store.apply(&LogChange::Append(batch(2, 30, 1, 100))).unwrap();
    store.sync().unwrap();
    drop(store);
    disk.damage(Path::new("/data/node/mark"), Vec::clear).unwrap();
    drop(Bench::with(ENGINE, disk.clone()).reopen().quarantined());
    disk.after_crash(Loss::Everything)
}

fn latecomer() -> Birth {
    Birth::Born { genesis: genesis().hash(), founders: None }
}

/// The next life, from its beginning until it is ready.
fn next_life(bench: &Bench, operations: &RefCell<Option<u64>>) -> Result<(), OpenError> {
    let directory = bench.open()?.quarantined().into_next_life()?;
    assert!(directory.is_next_life());
    let opened = Store::open(directory, &other_incarnation(&bench.options))?.store();
    assert_eq!(opened.identity.node, NodeId::new(0, 0xe));
    let mut store = opened.store;
    if store.birth() == &Birth::Unborn {
        store.be_born(latecomer(), genesis().cluster_id())?;
    }
    let first = store.last().index.0 + 1;
    store.apply(&LogChange::Append(batch(first, 3, 2, 100)))?;
    store.sync()?;
    store.save_promise(Promise { term: Term(4), vote: Some(NodeId::new(0, 0xe)), lease_us: 0 })?;
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
    assert_eq!((opened.birth, opened.promise.term), (latecomer(), Term(4)), "{at}");
    let root = Path::new("/data/node");
    let names: Vec<String> = disk.list(root).unwrap();
    assert_eq!(names, ["damaged-a", "lock", "log", "mark", "promise"], "{at}");
    assert_eq!(disk.list(&root.join("damaged-a")).unwrap(), ["log", "mark", "promise", "quarantine"], "{at}");
    opened.entries.len()
}

/// A readmission, cut anywhere up to the moment it is declared: the node is in quarantine until then, and readmitted from then on.
#[test]
fn power_cut_in_next_life_leaves_quarantine_until_it_is_ready() {
    let cuts = cut_everywhere(
        &damaged(),
        |disk| {
            let ready = RefCell::new(None);
            let result = next_life(&Bench::with(ENGINE, disk.clone()), &ready);
            (result, ready.into_inner().is_some())
        },
        |(result, ready), disk, at| {
            let bench = Bench::with(ENGINE, disk.clone());
            match bench.reopen() {
                Opened::Quarantined(quarantined) => {
                    assert!(!ready, "{at}: quarantined after it was ready");
                    assert!(quarantined.reason.starts_with("/data/node/mark: "), "{at}: {}", quarantined.reason);
                    assert_eq!(quarantined.identity.as_ref().unwrap().node, ME, "{at}");
                    drop(quarantined);
                    // The next try goes on with the same next life, or begins another one.
                    next_life(&bench, &RefCell::new(None)).unwrap_or_else(|error| panic!("{at}: {error}"));
                    check_readmitted(&disk, at);
                }
                Opened::Store(opened) => {
                    drop(opened);
                    let entries = check_readmitted(&disk, at);
                    assert!(entries >= if result.is_ok() { 4 } else { 3 }, "{at}: {entries} entries");
                }
            }
        },
    );
    assert!(cuts > 30, "only {cuts} operations");
}

/// The swap of the lives, cut anywhere, and again in the try after that: it is always finished by a later start.
#[test]
fn power_cut_in_swap_of_lives_is_finished_at_the_next_open() {
    let disk = damaged();
    next_life(&Bench::with(ENGINE, disk.clone()), &RefCell::new(None)).unwrap();
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

/// The next life is ready, and then found not to belong to its group: swapped all the same, and in quarantine again.
#[test]
fn power_cut_in_swap_of_a_quarantined_next_life_keeps_both_quarantines() {
    let disk = damaged();
    let bench = Bench::with(ENGINE, disk.clone());
    next_life(&bench, &RefCell::new(None)).unwrap();
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

/// A next life that is damaged as well is put aside; the seat gets another one.
#[test]
fn next_life_damaged_is_replaced_by_another() {
    let disk = damaged();
    let bench = Bench::with(ENGINE, disk.clone());
    let directory = bench.reopen().quarantined().into_next_life().unwrap();
    let mut store = Store::open(directory, &other_incarnation(&bench.options)).unwrap().store().store;
    store.be_born(latecomer(), genesis().cluster_id()).unwrap();
    drop(store);
    disk.damage(Path::new("/data/node/next/promise"), Vec::clear).unwrap();

    let directory = bench.reopen().quarantined().into_next_life().unwrap();
    let again = Store::open(directory, &other_incarnation(&bench.options)).unwrap().quarantined();
    assert!(again.reason.starts_with("/data/node/next/promise: "), "{}", again.reason);
    let directory = again.into_next_life().unwrap();
    let opened = Store::open(directory, &other_incarnation(&bench.options)).unwrap().store();
    assert_eq!((opened.birth, opened.entries.len()), (Birth::Unborn, 0));
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

/// Zeros over the last frames of a log in segments, each with one entry of 10 bytes.
fn cut_segments(disk: &VirtualDisk, mut frames: usize) {
    const FRAME_BYTES: usize = 16 + 20 + 4 + 38;
    let log = Path::new(LOG).parent().unwrap();
    let names = disk.list(log).unwrap();
    for name in names.iter().filter(|name| name.ends_with(".segment")).rev() {
        disk.damage(&log.join(name), |bytes| {
            let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            let here = frames.min(end.saturating_sub(4096) / FRAME_BYTES);
            frames -= here;
            // With its last frame gone a segment looks as if it had never been begun.
            let from = if frames > 0 { 0 } else { end - here * FRAME_BYTES };
            bytes[from..].fill(0);
        })
        .unwrap();
        if frames == 0 {
            return;
        }
    }
}

/// The mark is synced now and then: a power cut sets it back by no more than that.
#[test]
fn mark_unsynced_falls_back_by_a_bounded_number_of_syncs() {
    let disk = founded();
    let mut store = Bench::with(ENGINE, disk.clone()).reopen().store().store;
    let count = u64::from(smr::storage::mark::SYNC_EVERY_WRITES_MAX) * 2 + 40;
    for index in 2..2 + count {
        store.apply(&LogChange::Append(batch(index, 1, 1, 10))).unwrap();
        store.sync().unwrap();
    }
    drop(store);
    let disk = disk.after_crash(Loss::Everything);
    // The log loses its end. Whether anybody notices says where the mark is.
    let cut = |entries: u64| {
        let disk = disk.after_crash(Loss::Everything);
        if ENGINE == Engine::Simulated {
            disk.damage_map(Path::new(LOG), MapDamage::Shorter(entries as usize)).unwrap();
        } else if ENGINE == Engine::Segments {
            cut_segments(&disk, entries as usize);
        } else {
            let one = |len: usize| (len - 16) / (count as usize + 1);
            disk.damage(Path::new(LOG), |bytes| bytes.truncate(bytes.len() - one(bytes.len()) * entries as usize))
                .unwrap();
        }
        Bench::with(ENGINE, disk).reopen()
    };
    cut(20).store();
    assert!(cut(60).quarantined().reason.contains("is marked as synced"));
}

#[test]
fn storage_error_names_file_and_work() {
    let error = StorageError::new(Path::new("/data/x"), "syncing", "no space");
    assert_eq!(error.to_string(), "/data/x: syncing: no space");
}

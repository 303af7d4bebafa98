//! The log, against a model of what a crash may leave of it.

use std::io::ErrorKind;

use smr::entry::{Entry, Index, SnapshotMeta};
use smr::internals::protocol::LogChange;
use smr_sim::virtual_disk::{Fault, Loss, VirtualDisk};

use super::super::ENGINE;
use super::{cut_everywhere, founded, losses, open};
use crate::support::*;

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
    /// What a log holds after the snapshot, by Raft §7.
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

/// A life with everything in it: batches, parts, conflicts at and inside records, slices, and the three kinds of
/// install.
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

/// Every change of the log, cut anywhere: what was confirmed is there, what was not is there in order or not at all,
/// and it never looks like damage.
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

/// Each operation fails once, the power stays: the store refuses everything from then on, with the first error, and the
/// next start finds what was confirmed. A failed sync has lost its data although the disk calls it clean.
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
            let options = smr::internals::storage::StoreOptions {
                snapshot: model.snapshot.clone(),
                ..Bench::with(ENGINE, left.clone()).options.clone()
            };
            let _ = Bench::with(ENGINE, left.clone()).open_with(&options);
            left = left.after_crash(Loss::Seeded(image ^ 0x5eed));
        }
        model.check(&open(left, &model.snapshot, &at).entries, &at);
    }
}

/// The same, and the process is started again on the machine that had the error, whose cache still has what a failed
/// sync has not brought to the device: whatever that start finds stays.
// covers D6
#[test]
fn start_after_an_error_in_any_operation_finds_only_what_a_power_cut_leaves() {
    for operation in 0.. {
        let disk = founded();
        let begin = disk.operations();
        disk.fault_at(begin + operation, Fault::Error(ErrorKind::Other));
        let model = live(&disk);
        if disk.operations() - begin <= operation {
            assert!(operation > 60, "only {operation} operations");
            break;
        }
        let at = format!("error in operation {operation}");
        let opened = open(disk.clone(), &model.snapshot, &at);
        model.check(&opened.entries, &at);
        let (entries, mut store) = (opened.entries, opened.store);
        let next = store.last().index.0 + 1;
        store.apply(&LogChange::Append(batch(next, 2, 9, 100))).unwrap();
        store.sync().unwrap();
        drop(store);
        let again = open(disk.after_crash(Loss::Everything), &model.snapshot, &at).entries;
        assert_eq!(ids(&again), ids(&[entries, batch(next, 2, 9, 100)].concat()), "{at}");
    }
}

//! What only the log in segments has to hold: every byte of it damaged, its files recycled, rolled and taken for
//! another engine's.

mod crashes;
mod damage;
mod writing;

use std::path::{Path, PathBuf};

use smr::entry::{Entry, Index};
use smr::internals::disk::Disk;
use smr::internals::protocol::LogChange;
use smr::internals::storage::{LogEngine, Store};
use smr_sim::virtual_disk::{Loss, VirtualDisk};

use crate::support::*;

const LOG: &str = "/data/node/log";

fn bench(disk: &VirtualDisk) -> Bench {
    Bench::with(LogEngine::Segments, disk.clone())
}

fn founded() -> VirtualDisk {
    let disk = VirtualDisk::new();
    drop(bench(&disk).founded());
    disk
}

fn append(store: &mut Store, first: u64, count: u64, len: usize) -> Vec<Entry> {
    let entries = batch(first, count, 1, len);
    store.apply(&LogChange::Append(entries.clone())).unwrap();
    store.sync().unwrap();
    entries
}

fn segments(disk: &VirtualDisk) -> Vec<PathBuf> {
    let names = disk.list(Path::new(LOG)).unwrap();
    names.iter().filter(|name| name.ends_with(".segment")).map(|name| Path::new(LOG).join(name)).collect()
}

fn content(disk: &VirtualDisk, path: &Path) -> Vec<u8> {
    smr::internals::disk::read_file(disk, path, 1 << 20).unwrap()
}

/// A log over some segments, with a conflict, a record in pieces and a prefix that is gone, and one segment prepared.
fn sample() -> (VirtualDisk, Vec<Entry>) {
    let disk = founded();
    let mut store = bench(&disk).reopen().store().store;
    let mut entries = vec![genesis().first_entry()];
    for first in [2, 22, 42, 62] {
        entries.extend(append(&mut store, first, 20, 150));
    }
    store.apply(&LogChange::RemoveFrom(Index(70))).unwrap();
    entries.truncate(69);
    entries.extend(append(&mut store, 70, 1, 14_000));
    entries.extend(append(&mut store, 71, 3, 50));
    drop(store);
    // With the watermark where the log ends, so that nothing after it can be taken for a torn write.
    (disk.after_crash(Loss::Nothing), entries)
}

/// Where the frames of a segment end: what is after are zeros here, because nothing was recycled.
fn used(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}

/// Length of an entry's frame, beside what its command has.
const FRAME_BYTES: usize = 16 + 20 + 4 + 28;
/// Length of the frame before it that says what was synced.
const SYNCED_FRAME_BYTES: usize = 16 + 48;

/// A log whose last segment has room for this many bytes more, and its entries.
fn filled(left: usize) -> (VirtualDisk, Store, Vec<Entry>) {
    let disk = founded();
    let mut store = bench(&disk).reopen().store().store;
    let mut entries = [vec![genesis().first_entry()], append(&mut store, 2, 10, 10)].concat();
    let top = segments(&disk)[0].clone();
    let bytes = content(&disk, &top);
    let len = bytes.len() - used(&bytes) - SYNCED_FRAME_BYTES - FRAME_BYTES - left;
    entries.extend(append(&mut store, 12, 1, len));
    assert_eq!(used(&content(&disk, &top)), bytes.len() - left);
    (disk, store, entries)
}

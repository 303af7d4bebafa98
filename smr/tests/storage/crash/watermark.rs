//! How far the watermark of what was synced may fall back.

use std::path::Path;

use smr::LogEngine;
use smr::internals::disk::Disk;
use smr::internals::protocol::LogChange;
use smr_sim::virtual_disk::MapDamage;
use smr_sim::virtual_disk::{Loss, VirtualDisk};
use smr_sim::virtual_map::SIMULATED;

use super::super::{ENGINE, LOG};
use super::founded;
use crate::support::*;

/// Zeros over the last writes of a log in segments, each with one entry of 44 bytes after what was synced before.
fn cut_segments(disk: &VirtualDisk, mut frames: usize) {
    const FRAME_BYTES: usize = (16 + 48) + (16 + 20 + 4 + 28 + 44);
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

/// The watermark is synced now and then: a power cut sets it back by no more than that.
#[test]
fn watermark_unsynced_falls_back_by_a_bounded_number_of_syncs() {
    let disk = founded();
    let mut store = Bench::with(ENGINE, disk.clone()).reopen().store().store;
    let count = u64::from(smr::internals::storage::watermark::SYNC_EVERY_WRITES_MAX) * 2 + 40;
    for index in 2..2 + count {
        store.apply(&LogChange::Append(batch(index, 1, 1, 44))).unwrap();
        store.sync().unwrap();
    }
    drop(store);
    let disk = disk.after_crash(Loss::Everything);
    // The log loses its end. Whether anyone notices says where the watermark is.
    let cut = |entries: u64| {
        let disk = disk.after_crash(Loss::Everything);
        if ENGINE == SIMULATED {
            disk.damage_map(Path::new(LOG), MapDamage::Shorter(entries as usize)).unwrap();
        } else if ENGINE == LogEngine::Segments {
            cut_segments(&disk, entries as usize);
        } else {
            let one = |len: usize| (len - 16) / (count as usize + 1);
            disk.damage(Path::new(LOG), |bytes| bytes.truncate(bytes.len() - one(bytes.len()) * entries as usize))
                .unwrap();
        }
        Bench::with(ENGINE, disk).reopen()
    };
    cut(20).store();
    let reason = cut(50).heals().1;
    assert!(reason.contains("is marked as synced"), "{reason}");
}

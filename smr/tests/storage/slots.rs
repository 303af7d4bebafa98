//! A file of two slots: one of them is enough, and files of earlier builds are read.

use std::path::Path;

use smr::codec;
use smr::internals::disk::{Disk, read_file};
use smr::internals::storage::{SLOT_BYTES, SLOT_STRIDE_BYTES, SlotFile};
use smr_sim::virtual_disk::{Fault, Loss, VirtualDisk};

const FILE: &str = "/slots";
const MAGIC: [u8; 8] = *b"SMRTESTS";
/// Where a slot has its number, and its checksum over all before that.
const NUMBER_OFFSET: usize = 16;
const CHECKSUM_OFFSET: usize = SLOT_BYTES - 8;

fn bytes_of(disk: &VirtualDisk) -> Vec<u8> {
    read_file(disk, Path::new(FILE), 1 << 20).unwrap()
}

/// A slot with this number and content.
fn slot(number: u64, content: &[u8]) -> Vec<u8> {
    let disk = VirtualDisk::new();
    SlotFile::create(&disk, Path::new(FILE), MAGIC, content).unwrap();
    let mut slot = bytes_of(&disk)[..SLOT_BYTES].to_vec();
    slot[NUMBER_OFFSET..NUMBER_OFFSET + 8].copy_from_slice(&number.to_le_bytes());
    let checksum = codec::checksum(&[&slot[..CHECKSUM_OFFSET]]);
    slot[CHECKSUM_OFFSET..].copy_from_slice(&checksum.to_le_bytes());
    slot
}

/// A file as earlier builds left it, with these numbers and contents in its slots.
fn old_file(disk: &VirtualDisk, slots: [(u64, &[u8]); 2]) {
    let file = disk.open(Path::new(FILE), true).unwrap();
    for (place, (number, content)) in slots.into_iter().enumerate() {
        file.write_at(&slot(number, content), (place * SLOT_BYTES) as u64).unwrap();
    }
    file.sync().unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
}

fn found(disk: &VirtualDisk) -> (SlotFile, Vec<u8>) {
    SlotFile::read(disk, Path::new(FILE), MAGIC).unwrap().expect("not sound")
}

// covers D25: a block that is lost takes one slot and not both.
#[test]
fn block_of_4_kib_lost_leaves_the_other_slot() {
    for block in 0..2 {
        let disk = VirtualDisk::new();
        SlotFile::create(&disk, Path::new(FILE), MAGIC, b"one").unwrap().write_both(b"two").unwrap();
        disk.damage(Path::new(FILE), |bytes| {
            let end = bytes.len().min((block + 1) * 4096);
            bytes[block * 4096..end].fill(0);
        })
        .unwrap();
        assert_eq!(found(&disk).1, b"two", "block {block}");
    }
}

// covers D16: whichever slot counts, and wherever the power goes, the content is the old or the new one.
#[test]
fn file_of_earlier_build_is_read_and_its_second_slot_moved() {
    for newer in 0..2 {
        let mut numbers = [(6, &b"old"[..]), (6, &b"old"[..])];
        numbers[newer] = (7, b"now");
        for cut_at in 0..40 {
            let disk = VirtualDisk::new();
            old_file(&disk, numbers);
            let (mut slots, content) = found(&disk);
            assert_eq!(content, b"now");
            disk.fault_at(disk.operations() + cut_at, Fault::PowerOff);
            let done = slots.write_both(b"next").is_ok();
            for seed in 0..8 {
                let after = disk.after_crash(Loss::Spoiled(seed));
                let (mut slots, content) = found(&after);
                assert!(content == b"next" || (!done && content == b"now"), "cut at {cut_at}: {content:?}");
                slots.write_both(b"later").unwrap();
                assert_eq!(found(&after).1, b"later");
            }
            if done {
                assert_eq!(bytes_of(&disk).len(), SLOT_STRIDE_BYTES + SLOT_BYTES);
                break;
            }
        }
    }
}

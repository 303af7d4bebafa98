//! Snapshot files in their directory: what is written is read back, damage is found, leftovers are cleared away.

#![allow(clippy::unwrap_used)] // the lint's exception for tests does not reach their helpers

mod snapshot_support;

use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use smr::entry::{EntryId, GenesisHash};
use smr::internals::disk::{Disk, RealDisk};
use smr::internals::snapshot::{CHUNK_PAYLOAD_MAX_BYTES, SnapshotDir, SnapshotError};
use smr_sim::virtual_disk::{Loss, ReadFault, VirtualDisk};
use snapshot_support::*;

fn real() -> (tempfile::TempDir, Arc<dyn Disk>) {
    (tempfile::tempdir().unwrap(), Arc::new(RealDisk))
}

fn names(directory: &Path) -> Vec<String> {
    RealDisk.list(directory).unwrap()
}

fn only_file(directory: &Path) -> std::path::PathBuf {
    let names = names(directory);
    assert_eq!(names.len(), 1, "{names:?}");
    directory.join(&names[0])
}

#[test]
fn snapshot_written_is_read_back_at_any_size() {
    let (temp, disk) = real();
    let directory = temp.path().join("replica").join("snapshots");
    let (dir, latest) = open(&disk, &directory);
    assert_eq!(latest, None);
    let chunk = CHUNK_PAYLOAD_MAX_BYTES;
    for (index, len) in (1..).zip([0, 1, chunk - 1, chunk, chunk + 1, 2 * chunk, 5 * chunk + 77]) {
        let bytes = state(index, len);
        let info = write(&dir, &meta(index, 1), &bytes).unwrap();
        assert_eq!(info.meta, meta(index, 1));
        assert_eq!(fs::metadata(only_file(&directory)).unwrap().len(), info.len_bytes);
        assert_eq!(read(&dir, &info).unwrap(), bytes);
        let (reopened, latest) = open(&disk, &directory);
        assert_eq!(latest.as_ref(), Some(&info), "{len} bytes");
        assert!(reopened.notes().is_empty());
        assert_eq!(read(&reopened, &info).unwrap(), bytes);
    }
}

#[test]
fn snapshot_of_the_same_state_is_the_same_file_however_it_was_written() {
    let (temp, disk) = real();
    let bytes = state(3, 600_000);
    let (one, _) = open(&disk, &temp.path().join("one"));
    let (two, _) = open(&disk, &temp.path().join("two"));
    let at_once = write(&one, &meta(9, 2), &bytes).unwrap();
    let in_pieces = two
        .write(&meta(9, 2), GENESIS, |output| bytes.chunks(777).try_for_each(|piece| output.write_all(piece)))
        .unwrap();
    assert_eq!(at_once, in_pieces);
    let file = |name: &str| fs::read(only_file(&temp.path().join(name))).unwrap();
    assert_eq!(file("one"), file("two"));
}

// covers S8
#[test]
fn snapshot_with_any_byte_changed_is_found_damaged() {
    let (temp, disk) = real();
    let directory = temp.path().join("snapshots");
    let (dir, _) = open(&disk, &directory);
    let info = write(&dir, &meta(5, 1), &state(1, CHUNK_PAYLOAD_MAX_BYTES + 5000)).unwrap();
    let path = only_file(&directory);
    let sound = fs::read(&path).unwrap();
    let header_and_chunk = 0..400;
    let around_border = CHUNK_PAYLOAD_MAX_BYTES..CHUNK_PAYLOAD_MAX_BYTES + 400;
    let footer = sound.len() - 100..sound.len();
    let sample = (0..sound.len()).step_by(6_151);
    for position in header_and_chunk.chain(around_border).chain(footer).chain(sample) {
        let mut damaged = sound.clone();
        damaged[position] ^= 1 << (position % 8);
        fs::write(&path, &damaged).unwrap();
        let error = read(&dir, &info).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "byte {position}: {error}");
    }
    for len in [0, 1, 23, 24, 100, sound.len() / 2, sound.len() - 4096, sound.len() - 1] {
        fs::write(&path, &sound[..len]).unwrap();
        let error = read(&dir, &info).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{len} bytes left: {error}");
    }
    let mut longer = sound.clone();
    longer.extend_from_slice(&sound[sound.len() - 40..]);
    fs::write(&path, &longer).unwrap();
    assert_eq!(read(&dir, &info).unwrap_err().kind(), io::ErrorKind::InvalidData);
    fs::write(&path, &sound).unwrap();
    read(&dir, &info).unwrap();
}

// covers S7, D11
#[test]
fn snapshot_with_sound_chunks_in_wrong_places_is_found_damaged() {
    let (temp, disk) = real();
    let directory = temp.path().join("snapshots");
    let (dir, _) = open(&disk, &directory);
    let chunk = CHUNK_PAYLOAD_MAX_BYTES;
    write(&dir, &meta(4, 1), &state(1, 3 * chunk)).unwrap();
    let other = fs::read(only_file(&directory)).unwrap();
    let bytes = state(2, 3 * chunk);
    let info = write(&dir, &meta(5, 1), &bytes).unwrap();
    let path = only_file(&directory);
    let sound = fs::read(&path).unwrap();
    let piece = chunk + 24;
    let start = sound.len() - 40 - 3 * piece;

    let mut swapped = sound.clone();
    swapped[start..start + piece].copy_from_slice(&sound[start + piece..start + 2 * piece]);
    swapped[start + piece..start + 2 * piece].copy_from_slice(&sound[start..start + piece]);
    let mut mixed = sound.clone();
    mixed[start..start + piece].copy_from_slice(&other[start..start + piece]);
    let mut shorter = sound[..sound.len() - 40 - piece].to_vec();
    shorter.extend_from_slice(&sound[sound.len() - 40..]);
    for damaged in [swapped, mixed, shorter] {
        fs::write(&path, &damaged).unwrap();
        // Not only is it found in the end: no byte comes out that does not belong there.
        let mut given = Vec::new();
        let end = dir.read(&info).map_err(io::Error::from).and_then(|mut reader| reader.read_to_end(&mut given));
        assert_eq!(end.unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert!(bytes.starts_with(&given), "{} bytes, not all of them right", given.len());
    }
}

// covers S8
#[test]
fn reader_of_a_damaged_chunk_gives_nothing_of_it() {
    let (temp, disk) = real();
    let directory = temp.path().join("snapshots");
    let (dir, _) = open(&disk, &directory);
    let bytes = state(1, 3 * CHUNK_PAYLOAD_MAX_BYTES);
    let info = write(&dir, &meta(5, 1), &bytes).unwrap();
    let path = only_file(&directory);
    let mut damaged = fs::read(&path).unwrap();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    fs::write(&path, &damaged).unwrap();

    let mut reader = dir.read(&info).unwrap();
    let mut given = Vec::new();
    for _ in 0..3 {
        let error = reader.read_to_end(&mut given).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert_eq!(given, bytes[..CHUNK_PAYLOAD_MAX_BYTES]);
    }
}

#[test]
fn reader_left_before_the_end_says_so() {
    let (temp, disk) = real();
    let (dir, _) = open(&disk, &temp.path().join("snapshots"));
    let info = write(&dir, &meta(5, 1), &state(1, 1000)).unwrap();
    let mut reader = dir.read(&info).unwrap();
    reader.read_exact(&mut [0; 999]).unwrap();
    assert!(matches!(reader.finish(), Err(SnapshotError::Corrupt { .. })));
    let mut reader = dir.read(&info).unwrap();
    reader.read_exact(&mut [0; 1000]).unwrap();
    reader.finish().unwrap();
}

// covers S8
#[test]
fn open_with_a_damaged_newest_sets_it_aside_and_takes_the_older() {
    let (temp, disk) = real();
    let directory = temp.path().join("snapshots");
    let (dir, _) = open(&disk, &directory);
    let older = write(&dir, &meta(4, 1), b"older").unwrap();
    let older_path = only_file(&directory);
    let kept = fs::read(&older_path).unwrap();
    write(&dir, &meta(5, 1), b"newer").unwrap();
    let newer_path = only_file(&directory);
    fs::write(&older_path, kept).unwrap();
    let mut damaged = fs::read(&newer_path).unwrap();
    *damaged.last_mut().unwrap() ^= 1;
    fs::write(&newer_path, &damaged).unwrap();

    let (dir, latest) = open(&disk, &directory);
    assert_eq!(latest, Some(older.clone()));
    assert_eq!(dir.latest(), Some(older.clone()));
    assert_eq!(dir.notes().len(), 1);
    assert!(dir.notes()[0].contains(newer_path.to_str().unwrap()), "{:?}", dir.notes());
    let bad = newer_path.with_extension("snap.bad");
    assert_eq!(fs::read(&bad).unwrap(), damaged, "the damaged file is kept as it was");
    assert_eq!(read(&dir, &older).unwrap(), b"older");

    // Without an older one there is none, and the damaged files do not pile up.
    for index in 10..15 {
        write(&dir, &meta(index, 1), b"state").unwrap();
        let newest = names(&directory).into_iter().find(|name| name.ends_with(".snap")).unwrap();
        fs::write(directory.join(newest), b"garbage").unwrap();
        let (reopened, latest) = open(&disk, &directory);
        assert_eq!(latest, None);
        assert_eq!(reopened.notes().len(), 1);
    }
    assert_eq!(names(&directory).len(), 2);
}

// covers M9, D11
#[test]
fn open_with_a_snapshot_of_another_group_does_not_take_it() {
    let (temp, disk) = real();
    let directory = temp.path().join("snapshots");
    let foreign = |group: &str, genesis| {
        let (dir, latest) =
            SnapshotDir::open(Arc::clone(&disk), directory.clone(), group.parse().unwrap(), genesis).unwrap();
        (dir.notes().to_vec(), latest)
    };
    let (dir, _) = open(&disk, &directory);
    write(&dir, &meta(5, 1), b"state").unwrap();
    let (notes, latest) = foreign("s1", Some(GENESIS));
    assert_eq!(latest, None);
    assert!(notes[0].contains("of group s0") && notes[0].contains("not of s1"), "{notes:?}");

    write(&dir, &meta(6, 1), b"state").unwrap();
    let (notes, latest) = foreign("s0", Some(GenesisHash(7)));
    assert_eq!(latest, None);
    assert_eq!(notes.len(), 1);

    // Who does not know its genesis yet takes any of the group.
    write(&dir, &meta(7, 1), b"state").unwrap();
    let (notes, latest) = foreign("s0", None);
    assert_eq!(latest.map(|latest| latest.genesis), Some(GENESIS));
    assert!(notes.is_empty());
}

// covers D16
#[test]
fn open_with_a_newer_format_refuses_and_leaves_the_file() {
    let (temp, disk) = real();
    let directory = temp.path().join("snapshots");
    let (dir, _) = open(&disk, &directory);
    write(&dir, &meta(5, 1), b"state").unwrap();
    let path = only_file(&directory);
    let mut newer = fs::read(&path).unwrap();
    newer[8..12].copy_from_slice(&2u32.to_le_bytes());
    let len = u32::from_le_bytes(newer[12..16].try_into().unwrap()) as usize;
    let sum = smr::codec::checksum(&[&newer[..16], &newer[24..24 + len]]);
    newer[16..24].copy_from_slice(&sum.to_le_bytes());
    fs::write(&path, &newer).unwrap();
    let error = try_open(&disk, &directory).map(|_| ()).unwrap_err();
    assert!(matches!(error, SnapshotError::Version { found: 2, .. }), "{error}");
    assert_eq!(fs::read(&path).unwrap(), newer);
}

#[test]
fn open_clears_leftovers_and_leaves_what_it_does_not_know() {
    let (temp, disk) = real();
    let directory = temp.path().join("snapshots");
    let (dir, _) = open(&disk, &directory);
    let info = write(&dir, &meta(5, 1), b"state").unwrap();
    let snapshot = names(&directory);
    let writing = "00000000000000000007-00000000000000000001.3.writing";
    let incoming = |index| format!("{index:020}-00000000000000000001-0000000000000123-00000000000000ff.incoming");
    let received = format!("{}.4.received", incoming(9).strip_suffix(".incoming").unwrap());
    for name in [writing, &incoming(4), &incoming(6), &incoming(7), &received, "README"] {
        fs::write(directory.join(name), b"x").unwrap();
    }
    let (dir, latest) = open(&disk, &directory);
    assert_eq!(latest, Some(info));
    assert_eq!(names(&directory), [snapshot[0].clone(), incoming(9), "README".to_owned()]);
    assert_eq!(dir.notes().len(), 1);
}

#[test]
fn write_failing_in_the_state_leaves_the_older_snapshot() {
    let (temp, disk) = real();
    let directory = temp.path().join("snapshots");
    let (dir, _) = open(&disk, &directory);
    let older = write(&dir, &meta(4, 1), b"older").unwrap();
    let error = dir
        .write(&meta(5, 1), GENESIS, |output| {
            output.write_all(&state(1, 1_000_000))?;
            Err(io::Error::other("the state is broken"))
        })
        .unwrap_err();
    assert!(matches!(error, SnapshotError::State(_)), "{error}");
    assert_eq!(names(&directory).len(), 1);
    assert_eq!(dir.latest(), Some(older.clone()));
    assert_eq!(read(&dir, &older).unwrap(), b"older");
}

// covers D20
#[test]
fn snapshot_misread_once_at_open_is_read_again_and_counts() {
    let disk = VirtualDisk::new();
    let directory = Path::new("/snapshots");
    let shared = |disk: &VirtualDisk| -> Arc<dyn Disk> { Arc::new(disk.clone()) };
    let (dir, _) = open(&shared(&disk), directory);
    let info = write(&dir, &meta(5, 1), &state(1, CHUNK_PAYLOAD_MAX_BYTES + 5000)).unwrap();
    drop(dir);
    let mut misread = 0;
    for read in 0.. {
        let copy = disk.after_crash(Loss::Nothing);
        copy.read_fault_at(read, ReadFault::FlippedBit(2400));
        let (dir, latest) = open(&shared(&copy), directory);
        assert_eq!(latest.as_ref(), Some(&info), "read {read}: {:?}", dir.notes());
        misread += dir.notes().len();
        if copy.reads() <= read {
            break;
        }
    }
    assert!(misread > 0, "no flip was noticed");
}

// covers D20
#[test]
fn doubt_puts_the_newest_out_of_service_until_the_next_start_or_snapshot() {
    let (temp, disk) = real();
    let directory = temp.path().join("snapshots");
    let (dir, _) = open(&disk, &directory);
    let first = write(&dir, &meta(4, 1), b"first").unwrap();
    let second = write(&dir, &meta(5, 1), b"second").unwrap();
    dir.doubt(&first);
    assert_eq!(dir.latest(), Some(second.clone()), "one that is gone anyway changes nothing");
    dir.doubt(&second);
    assert_eq!(dir.latest(), None);
    // The device misread it once: a start finds it sound, and the log was cut under it.
    let (dir, found) = open(&disk, &directory);
    assert_eq!(found.as_ref(), Some(&second));
    dir.doubt(&second);
    let third = write(&dir, &meta(5, 1), b"second").unwrap();
    assert_eq!(third, second, "the same can be taken again");
    assert_eq!(dir.latest().map(|latest| latest.meta.last), Some(EntryId::new(5, 1)));
}

#[test]
fn writer_and_reader_of_a_million_entries_stream_in_chunks() {
    let (temp, disk) = real();
    let (dir, _) = open(&disk, &temp.path().join("snapshots"));
    const COUNT: u64 = 1_000_000;
    let started = std::time::Instant::now();
    let info = dir.write(&meta(COUNT, 1), GENESIS, |output| write_entries(output, COUNT)).unwrap();
    let written = started.elapsed();
    let mut reader = dir.read(&info).unwrap();
    let input: &mut dyn Read = &mut reader;
    let mut entry = [0; 20];
    for number in 0..COUNT {
        input.read_exact(&mut entry).unwrap();
        assert_eq!(entry[..8], number.to_le_bytes());
        assert_eq!(entry[12..], number.wrapping_mul(7).to_be_bytes());
    }
    reader.finish().unwrap();
    println!("{COUNT} entries, {} bytes: written in {written:?}, all {:?}", info.len_bytes, started.elapsed());
}

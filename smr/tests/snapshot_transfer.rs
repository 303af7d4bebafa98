//! Snapshots on their way to another node: resumed, overtaken, mixed up, damaged.

#![allow(clippy::unwrap_used)] // the lint's exception for tests does not reach their helpers

mod snapshot_support;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use smr::entry::EntryId;
use smr::internals::disk::{Disk, RealDisk};
use smr::internals::snapshot::{
    CHUNK_PAYLOAD_MAX_BYTES, Incoming, SNAPSHOT_MAX_BYTES, SnapshotDir, SnapshotError, SnapshotInfo,
};
use snapshot_support::*;

/// A sender with one snapshot, and a receiver with none.
struct Pair {
    temp: tempfile::TempDir,
    sender: SnapshotDir,
    receiver: SnapshotDir,
    info: SnapshotInfo,
    bytes: Vec<u8>,
}

fn disk() -> Arc<dyn Disk> {
    Arc::new(RealDisk)
}

impl Pair {
    fn new() -> Pair {
        let temp = tempfile::tempdir().unwrap();
        let (sender, _) = open(&disk(), &temp.path().join("sender"));
        let (receiver, _) = open(&disk(), &temp.path().join("receiver"));
        let bytes = state(1, 4 * CHUNK_PAYLOAD_MAX_BYTES + 1234);
        let info = write(&sender, &meta(50, 3), &bytes).unwrap();
        Pair { temp, sender, receiver, info, bytes }
    }

    /// A transfer that has come up to `end`, in bytes of the file.
    fn begun(&self, end: u64) -> Incoming {
        let mut incoming = self.receiver.receive(self.info.offer()).unwrap();
        send(&mut self.sender.open_for_sending(&self.info).unwrap(), &mut incoming, end).unwrap();
        incoming
    }

    fn complete(&self, mut incoming: Incoming) -> SnapshotInfo {
        send(&mut self.sender.open_for_sending(&self.info).unwrap(), &mut incoming, u64::MAX).unwrap();
        incoming.finish().unwrap().adopt().unwrap()
    }

    fn files(&self, extension: &str) -> Vec<PathBuf> {
        let directory = self.temp.path().join("receiver");
        let names = RealDisk.list(&directory).unwrap();
        names.iter().filter(|name| name.ends_with(extension)).map(|name| directory.join(name)).collect()
    }

    fn incoming_path(&self) -> PathBuf {
        self.files(".incoming").pop().unwrap()
    }
}

fn flip(path: &Path, position: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[position] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

/// What the replica's threads hand to each other, and what its background threads use.
const _: () = {
    const fn may_change_threads<T: Send>() {}
    const fn may_be_shared<T: Send + Sync>() {}
    may_be_shared::<SnapshotDir>();
    may_change_threads::<Incoming>();
    may_change_threads::<smr::internals::snapshot::ReceivedSnapshot>();
    may_change_threads::<smr::internals::snapshot::SendingFile>();
    may_change_threads::<smr::internals::snapshot::SnapshotReader>();
    may_change_threads::<smr::internals::session::SessionImage>();
};

#[test]
fn transfer_brings_the_same_file() {
    let pair = Pair::new();
    let info = pair.complete(pair.begun(0));
    assert_eq!(info, pair.info);
    assert_eq!(pair.receiver.latest(), Some(info.clone()));
    assert_eq!(read(&pair.receiver, &info).unwrap(), pair.bytes);
    assert!(pair.files(".incoming").is_empty() && pair.files(".received").is_empty());
    // It is a snapshot like any other: it can be sent on.
    let (third, _) = open(&disk(), &pair.temp.path().join("third"));
    let mut incoming = third.receive(info.offer()).unwrap();
    send(&mut pair.receiver.open_for_sending(&info).unwrap(), &mut incoming, u64::MAX).unwrap();
    assert_eq!(incoming.finish().unwrap().adopt().unwrap(), pair.info);
}

#[test]
fn sending_file_gives_every_range_and_nothing_behind_the_end() {
    let pair = Pair::new();
    let whole =
        fs::read(pair.temp.path().join("sender").join(&RealDisk.list(&pair.temp.path().join("sender")).unwrap()[0]))
            .unwrap();
    let mut file = pair.sender.open_for_sending(&pair.info).unwrap();
    assert_eq!(file.info(), &pair.info);
    for offset in (0..whole.len()).step_by(9973).chain(whole.len() - 50..whole.len()) {
        for len in [1, 1000, usize::MAX] {
            let bytes = file.read_at(offset as u64, len).unwrap();
            assert!((1..=len).contains(&bytes.len()), "{} of {len} bytes at {offset}", bytes.len());
            assert_eq!(bytes, whole[offset..offset + bytes.len()]);
        }
    }
    for offset in [whole.len() as u64, u64::MAX] {
        assert!(file.read_at(offset, 10).unwrap().is_empty());
    }
}

#[test]
fn transfer_resumes_at_the_last_sound_chunk() {
    let pair = Pair::new();
    let chunk = (CHUNK_PAYLOAD_MAX_BYTES + 24) as u64;
    let header = pair.info.len_bytes - 40 - 4 * chunk - (1234 + 24);
    for (arrived, resumed) in [
        (0, 0),
        (header - 1, 0),
        (header, header),
        (header + chunk - 1, header),
        (header + chunk, header + chunk),
        (header + 3 * chunk + 1, header + 3 * chunk),
        (pair.info.len_bytes - 40, pair.info.len_bytes - 40),
        (pair.info.len_bytes - 1, pair.info.len_bytes - 40),
        (pair.info.len_bytes, pair.info.len_bytes),
    ] {
        drop(pair.begun(arrived));
        let again = pair.begun(0);
        assert_eq!(again.offset(), resumed, "{arrived} bytes had arrived");
        drop(again);
        // The same after a restart of the process.
        let (receiver, latest) = open(&disk(), &pair.temp.path().join("receiver"));
        assert_eq!(latest, None);
        let again = receiver.receive(pair.info.offer()).unwrap();
        assert_eq!(again.offset(), resumed, "{arrived} bytes had arrived");
        drop(again);
        fs::remove_file(pair.incoming_path()).unwrap();
    }

    drop(pair.begun(header + 3 * chunk));
    flip(&pair.incoming_path(), (header + chunk) as usize + 99);
    let again = pair.begun(0);
    assert_eq!(again.offset(), header + chunk, "the second chunk is damaged");
    assert_eq!(pair.complete(again), pair.info);
    assert_eq!(read(&pair.receiver, &pair.info).unwrap(), pair.bytes);
}

// covers S7
#[test]
fn transfer_resumes_from_another_leader_with_the_same_state() {
    let pair = Pair::new();
    let (other, _) = open(&disk(), &pair.temp.path().join("other"));
    let info = write(&other, &meta(50, 3), &pair.bytes).unwrap();
    assert_eq!(info.offer(), pair.info.offer());
    drop(pair.begun(500_000));
    let mut incoming = pair.receiver.receive(info.offer()).unwrap();
    assert!(incoming.offset() > 0);
    send(&mut other.open_for_sending(&info).unwrap(), &mut incoming, u64::MAX).unwrap();
    assert_eq!(incoming.finish().unwrap().adopt().unwrap(), pair.info);
}

#[test]
fn append_out_of_place_is_refused_without_effect() {
    let pair = Pair::new();
    let mut incoming = pair.begun(1000);
    for offset in [0, 999, 1001, u64::MAX] {
        let error = incoming.append(offset, b"x").unwrap_err();
        assert!(matches!(error, SnapshotError::Senseless(_)), "{error}");
    }
    let too_much = vec![0; pair.info.len_bytes as usize - 999];
    assert!(matches!(incoming.append(1000, &too_much), Err(SnapshotError::Senseless(_))));
    assert_eq!(incoming.offset(), 1000);
    assert_eq!(pair.complete(incoming), pair.info);
}

#[test]
fn finish_before_the_end_is_refused_and_the_part_stays() {
    let pair = Pair::new();
    assert!(matches!(pair.begun(300_000).finish(), Err(SnapshotError::Senseless(_))));
    assert!(pair.begun(0).offset() > 0);
}

// covers S7, S8
#[test]
fn transfer_of_mixed_or_damaged_bytes_is_dropped_and_starts_again() {
    let pair = Pair::new();
    let (diverged, _) = open(&disk(), &pair.temp.path().join("diverged"));
    // Another state at the same entry, such as a replica with a bug would have: each of its chunks fits by itself.
    let same_entry = write(&diverged, &meta(50, 3), &state(2, pair.bytes.len())).unwrap();
    assert_eq!(same_entry.len_bytes, pair.info.len_bytes);
    let mut same_entry = diverged.open_for_sending(&same_entry).unwrap();
    let next_entry = write(&diverged, &meta(51, 3), &pair.bytes).unwrap();
    let mut next_entry = diverged.open_for_sending(&next_entry).unwrap();

    for foreign in [&mut same_entry, &mut next_entry] {
        let mut incoming = pair.begun(400_000);
        send(foreign, &mut incoming, u64::MAX).unwrap();
        assert!(matches!(incoming.finish(), Err(SnapshotError::Corrupt { .. })));
        assert!(pair.files("").is_empty(), "{:?}", pair.files(""));
    }

    let mut incoming = pair.begun(400_000);
    incoming.append(400_000, b"flipped").unwrap();
    let rest = vec![7; (pair.info.len_bytes - incoming.offset()) as usize];
    incoming.append(incoming.offset(), &rest).unwrap();
    assert!(matches!(incoming.finish(), Err(SnapshotError::Corrupt { .. })));

    assert_eq!(pair.receiver.latest(), None, "nothing was replaced");
    let again = pair.begun(0);
    assert_eq!(again.offset(), 0);
    assert_eq!(pair.complete(again), pair.info);
}

// covers S8
#[test]
fn sending_a_damaged_snapshot_stops_before_the_damage() {
    let pair = Pair::new();
    let directory = pair.temp.path().join("sender");
    let path = directory.join(&RealDisk.list(&directory).unwrap()[0]);
    flip(&path, 2 * CHUNK_PAYLOAD_MAX_BYTES);
    let mut incoming = pair.begun(0);
    let mut file = pair.sender.open_for_sending(&pair.info).unwrap();
    let error = send(&mut file, &mut incoming, u64::MAX).unwrap_err();
    assert!(matches!(error, SnapshotError::Corrupt { .. }), "{error}");
    assert!(incoming.offset() <= 2 * CHUNK_PAYLOAD_MAX_BYTES as u64);
}

#[test]
fn sending_goes_on_after_a_newer_snapshot_took_the_place() {
    let pair = Pair::new();
    let mut file = pair.sender.open_for_sending(&pair.info).unwrap();
    let mut incoming = pair.begun(300_000);
    write(&pair.sender, &meta(60, 3), b"newer").unwrap();
    assert!(pair.sender.open_for_sending(&pair.info).is_err());
    send(&mut file, &mut incoming, u64::MAX).unwrap();
    assert_eq!(incoming.finish().unwrap().adopt().unwrap(), pair.info);
}

// covers S4
#[test]
fn newer_transfer_takes_the_place_of_the_one_under_way() {
    let pair = Pair::new();
    let mut first = pair.begun(300_000);
    let newer = write(&pair.sender, &meta(60, 3), &state(6, 400_000)).unwrap();
    let mut second = pair.receiver.receive(newer.offer()).unwrap();
    assert_eq!(second.offset(), 0);
    assert_eq!(pair.files(".incoming").len(), 1, "the part of the first is gone");
    assert!(matches!(first.append(300_000, b"late"), Err(SnapshotError::Superseded)));
    assert!(matches!(
        pair.receiver.receive(pair.info.offer()),
        Err(SnapshotError::Obsolete { have }) if have == EntryId::new(60, 3)
    ));
    drop(first);
    send(&mut pair.sender.open_for_sending(&newer).unwrap(), &mut second, u64::MAX).unwrap();
    assert_eq!(second.finish().unwrap().adopt().unwrap(), newer);
}

// covers S7
#[test]
fn older_transfer_begins_once_the_newer_one_has_died() {
    let pair = Pair::new();
    let newer = SnapshotInfo { meta: meta(60, 3), ..pair.info.clone() };
    let dead = pair.receiver.receive(newer.offer()).unwrap();
    assert!(matches!(pair.receiver.receive(pair.info.offer()), Err(SnapshotError::Obsolete { .. })));
    drop(dead);
    assert_eq!(pair.complete(pair.begun(0)), pair.info);
}

// covers S4
#[test]
fn repeated_transfer_takes_over_from_its_own_predecessor() {
    let pair = Pair::new();
    let mut stalled = pair.begun(600_000);
    let again = pair.begun(0);
    assert!(again.offset() > 0);
    assert!(matches!(stalled.append(600_000, b"late"), Err(SnapshotError::Superseded)));
    drop(stalled);
    assert_eq!(pair.complete(again), pair.info, "the end of the old one did not end the new one");
}

// covers S4
#[test]
fn received_snapshot_survives_the_next_transfer_and_is_adopted() {
    let pair = Pair::new();
    let received = |info: &SnapshotInfo| {
        let mut incoming = pair.receiver.receive(info.offer()).unwrap();
        send(&mut pair.sender.open_for_sending(info).unwrap(), &mut incoming, u64::MAX).unwrap();
        incoming.finish().unwrap()
    };
    let first = received(&pair.info);
    let twice = received(&pair.info);
    let newer = write(&pair.sender, &meta(60, 3), b"newer").unwrap();
    let second = received(&newer);
    assert_eq!(first.adopt().unwrap(), pair.info);
    assert_eq!(second.adopt().unwrap(), newer);
    let refused = twice.adopt();
    assert!(matches!(refused, Err(SnapshotError::Obsolete { have }) if have == newer.meta.last));
    assert_eq!(pair.receiver.latest(), Some(newer));
    assert_eq!(pair.files("").len(), 1, "{:?}", pair.files(""));
}

// covers S3
#[test]
fn transfer_of_what_is_here_already_is_refused() {
    let pair = Pair::new();
    write(&pair.receiver, &meta(50, 3), b"own").unwrap();
    let have = EntryId::new(50, 3);
    let obsolete = |error: &SnapshotError| matches!(error, SnapshotError::Obsolete { have: found } if *found == have);
    let refused = |info: SnapshotInfo| pair.receiver.receive(info.offer()).is_err_and(|error| obsolete(&error));
    assert!(refused(pair.info.clone()));
    assert!(refused(SnapshotInfo { meta: meta(49, 3), ..pair.info.clone() }));
    assert!(!refused(SnapshotInfo { meta: meta(51, 3), ..pair.info.clone() }));
}

#[test]
fn discarded_snapshot_leaves_nothing() {
    let pair = Pair::new();
    let incoming = pair.begun(u64::MAX);
    incoming.finish().unwrap().discard().unwrap();
    assert!(pair.files("").is_empty());
}

// covers B2
#[test]
fn offer_of_a_senseless_length_is_refused_and_allocates_nothing() {
    let pair = Pair::new();
    let mut offer = pair.info.offer();
    offer.len_bytes = SNAPSHOT_MAX_BYTES + 1;
    assert!(matches!(pair.receiver.receive(offer.clone()), Err(SnapshotError::Senseless(_))));
    // Possible lengths that are none of this file's.
    for len_bytes in [0, 10, 200, SNAPSHOT_MAX_BYTES] {
        offer.len_bytes = len_bytes;
        let mut incoming = pair.receiver.receive(offer.clone()).unwrap();
        let rest = vec![1; len_bytes.min(300) as usize];
        incoming.append(0, &rest).unwrap();
        let refused = incoming.finish();
        assert!(matches!(refused, Err(SnapshotError::Senseless(_) | SnapshotError::Corrupt { .. })));
    }
}

#[test]
fn offer_survives_the_wire() {
    let offer = Pair::new().info.offer();
    let bytes = smr::codec::encode(&offer);
    assert_eq!(smr::codec::decode::<smr::internals::snapshot::SnapshotOffer>(&bytes).unwrap(), offer);
}

//! A crash, or a failing disk, at each operation on a snapshot: afterwards the old one or the new one counts, whole.

#![allow(clippy::unwrap_used)] // the lint's exception for tests does not reach their helpers

mod snapshot_support;

use std::path::Path;

use smr::internals::snapshot::{ReceivedSnapshot, SnapshotDir, SnapshotError, SnapshotInfo};
use snapshot_support::*;

const DIRECTORY: &str = "/replica/snapshots";
const CRASHES: [Crash; 4] = [Crash::Loses, Crash::Keeps, Crash::KeepsNamesOnly, Crash::Tears];

fn directory() -> &'static Path {
    Path::new(DIRECTORY)
}

/// The index and the content of a snapshot.
type Content = (u64, Vec<u8>);

fn old() -> Content {
    (4, state(4, 300_000))
}

fn new() -> Content {
    (9, state(9, 600_000))
}

/// A disk with the directory, and a snapshot in it.
fn disk_with(content: Option<&Content>) -> (CrashDisk, SnapshotDir) {
    let disk = CrashDisk::default();
    let (dir, _) = open(&disk.shared(), directory());
    if let Some((index, bytes)) = content {
        write(&dir, &meta(*index, 1), bytes).unwrap();
    }
    (disk, dir)
}

fn content(dir: &SnapshotDir, info: Option<&SnapshotInfo>) -> Option<Content> {
    info.map(|info| (info.meta.last.index.0, read(dir, info).unwrap()))
}

/// Opens what a crash left: it must be one of `allowed`, nothing half done may lie around, and work goes on. Also if
/// the opening itself is cut short at any operation.
fn check_after(disk: &CrashDisk, crash: Crash, allowed: &[Option<Content>], what: &str) {
    let recovered = disk.crash(crash);
    let (dir, latest) = open(&recovered.shared(), directory());
    let found = content(&dir, latest.as_ref());
    let index = latest.as_ref().map(|latest| latest.meta.last.index);
    assert!(allowed.contains(&found), "{what}, {crash:?}: found {index:?}");
    assert!(dir.notes().is_empty(), "{what}, {crash:?}: {:?}", dir.notes());
    assert!(!recovered.names(directory()).iter().any(|name| name.ends_with(".writing")), "{what}, {crash:?}");
    let opening = recovered.operations();

    let next = (20, state(20, 1000));
    let info = write(&dir, &meta(next.0, 2), &next.1).unwrap();
    assert_eq!(content(&dir, Some(&info)), Some(next));

    for operation in 1..=opening {
        let again = disk.crash(crash);
        again.fail_from(operation);
        assert!(try_open(&again.shared(), directory()).is_err(), "{what}, {crash:?}: opened in spite of a failure");
        for second in CRASHES {
            let (dir, latest) = open(&again.crash(second).shared(), directory());
            let found = content(&dir, latest.as_ref());
            assert!(allowed.contains(&found), "{what}, {crash:?}, then {second:?} at {operation} of opening");
        }
    }
}

// covers S6, D6, D7
#[test]
fn write_cut_short_at_any_operation_leaves_the_old_or_the_new_snapshot() {
    for before in [None, Some(old())] {
        let (disk, dir) = disk_with(before.as_ref());
        let start = disk.operations();
        write(&dir, &meta(new().0, 1), &new().1).unwrap();
        let end = disk.operations();
        assert!(end - start > 6, "too few operations to be true: {}", end - start);

        for operation in start + 1..=end + 1 {
            let (disk, dir) = disk_with(before.as_ref());
            disk.fail_from(operation);
            let written = write(&dir, &meta(new().0, 1), &new().1);
            let what = format!("operation {operation} of {start}..{end}");
            let allowed = match &written {
                Ok(_) => vec![Some(new())],
                Err(SnapshotError::Disk { .. }) => vec![before.clone(), Some(new())],
                Err(other) => panic!("{what}: {other}"),
            };
            assert_eq!(written.is_ok(), operation > end, "{what}");
            for crash in CRASHES {
                check_after(&disk, crash, &allowed, &what);
            }
        }
    }
}

// covers D7
#[test]
fn write_that_failed_once_leaves_room_and_succeeds_later() {
    let (disk, dir) = disk_with(Some(&old()));
    let start = disk.operations();
    disk.fail_from(start + 4);
    assert!(matches!(write(&dir, &meta(9, 1), &new().1), Err(SnapshotError::Disk { .. })));
    let recovered = disk.crash(Crash::Keeps);
    let (dir, latest) = open(&recovered.shared(), directory());
    assert_eq!(content(&dir, latest.as_ref()), Some(old()));
    assert_eq!(recovered.names(directory()).len(), 1);
    write(&dir, &meta(9, 1), &new().1).unwrap();
    assert_eq!(recovered.names(directory()).len(), 1);
}

// covers S6, S8
#[test]
fn write_that_the_disk_silently_damaged_does_not_count() {
    let (disk, dir) = disk_with(Some(&old()));
    let start = disk.operations();
    write(&dir, &meta(9, 1), &new().1).unwrap();
    let mut damaged = 0;
    for operation in start + 1..=disk.operations() {
        let (disk, dir) = disk_with(Some(&old()));
        disk.damage_at(operation);
        match write(&dir, &meta(9, 1), &new().1) {
            Ok(info) => assert_eq!(content(&dir, Some(&info)), Some(new())),
            Err(SnapshotError::Corrupt { .. }) => {
                damaged += 1;
                assert_eq!(content(&dir, dir.latest().as_ref()), Some(old()));
                assert_eq!(disk.names(directory()).len(), 1);
            }
            Err(other) => panic!("operation {operation}: {other}"),
        }
    }
    assert_eq!(damaged, 5, "a header, three chunks and a footer are written");
}

/// Receives the new snapshot from `from`.
fn receive(dir: &SnapshotDir, from: &SnapshotDir) -> Result<ReceivedSnapshot, SnapshotError> {
    let info = from.latest().unwrap();
    let mut file = from.open_for_sending(&info).unwrap();
    let mut incoming = dir.receive(info.offer())?;
    send(&mut file, &mut incoming, u64::MAX)?;
    incoming.finish()
}

// covers S5
#[test]
fn receipt_cut_short_at_any_operation_leaves_the_old_or_the_new_snapshot() {
    let (_, sender) = disk_with(Some(&new()));
    for before in [None, Some(old())] {
        let (disk, dir) = disk_with(before.as_ref());
        let start = disk.operations();
        receive(&dir, &sender).unwrap().adopt().unwrap();
        let end = disk.operations();
        for operation in start + 1..=end + 1 {
            let (disk, dir) = disk_with(before.as_ref());
            disk.fail_from(operation);
            let adopted = receive(&dir, &sender).and_then(ReceivedSnapshot::adopt);
            let what = format!("operation {operation} of {start}..{end}");
            let allowed = match &adopted {
                Ok(_) => vec![Some(new())],
                Err(SnapshotError::Disk { .. }) => vec![before.clone(), Some(new())],
                Err(other) => panic!("{what}: {other}"),
            };
            assert_eq!(adopted.is_ok(), operation > end, "{what}");
            for crash in CRASHES {
                check_after(&disk, crash, &allowed, &what);
                if adopted.is_ok() {
                    continue;
                }
                // Whatever part is left is resumed or dropped, never believed.
                let (dir, latest) = open(&disk.crash(crash).shared(), directory());
                if content(&dir, latest.as_ref()) != Some(new()) {
                    let info = receive(&dir, &sender).unwrap().adopt().unwrap();
                    assert_eq!(content(&dir, Some(&info)), Some(new()), "{what}, {crash:?}");
                }
            }
        }
    }
}

// covers S5
#[test]
fn snapshot_received_and_not_adopted_does_not_count_after_a_restart() {
    let (_, sender) = disk_with(Some(&new()));
    let (disk, dir) = disk_with(Some(&old()));
    let received = receive(&dir, &sender).unwrap();
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut received.read().unwrap(), &mut bytes).unwrap();
    assert_eq!(bytes, new().1);

    let (dir, latest) = open(&disk.crash(Crash::Keeps).shared(), directory());
    assert_eq!(content(&dir, latest.as_ref()), Some(old()));
    let incoming = dir.receive(received.info().offer()).unwrap();
    assert_eq!(incoming.offset(), received.info().len_bytes, "nothing is sent twice");
    let info = incoming.finish().unwrap().adopt().unwrap();
    assert_eq!(content(&dir, Some(&info)), Some(new()));
}

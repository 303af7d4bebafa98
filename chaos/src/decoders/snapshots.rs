//! Snapshot files, and snapshots on their way.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use smr::internals::disk::{Disk, read_file};
use smr::internals::snapshot::{SnapshotDir, SnapshotInfo};
use smr_sim::virtual_disk::VirtualDisk;

use super::directory::{genesis, meta, put};

const SNAPSHOTS: &str = "/data/node/snapshots";
const STATE: &[u8] = b"the state, which is not looked into";

fn snapshots(disk: &VirtualDisk) -> Option<(SnapshotDir, Option<SnapshotInfo>)> {
    SnapshotDir::open(Arc::new(disk.clone()), PathBuf::from(SNAPSHOTS), genesis().group, None).ok()
}

fn with_snapshot() -> (VirtualDisk, SnapshotDir, SnapshotInfo) {
    let disk = VirtualDisk::new();
    let (dir, _) = snapshots(&disk).unwrap_or_else(|| panic!("an empty directory opens"));
    let info = dir.write(&meta(), genesis().hash(), |output| output.write_all(STATE));
    let info = info.unwrap_or_else(|error| panic!("{error}"));
    (disk, dir, info)
}

fn snapshot_name(disk: &VirtualDisk) -> PathBuf {
    let names = disk.list(Path::new(SNAPSHOTS)).unwrap_or_else(|error| panic!("{error}"));
    Path::new(SNAPSHOTS).join(&names[0])
}

/// A snapshot file counts only if it is the one that was written, byte for byte, or at least whole.
pub(super) fn snapshot_file(bytes: &[u8]) {
    let (disk, _, written) = with_snapshot();
    put(&disk, &snapshot_name(&disk), bytes).unwrap_or_else(|error| panic!("{error}"));
    if let Some((dir, Some(found))) = snapshots(&disk) {
        let mut state = Vec::new();
        let mut reader = dir.read(&found).unwrap_or_else(|error| panic!("a snapshot that counts: {error}"));
        reader.read_to_end(&mut state).unwrap_or_else(|error| panic!("a snapshot that counts cannot be read: {error}"));
        assert!(found != written || state == STATE, "another state");
    }
}

pub(super) fn sound_snapshot_file() -> Vec<Vec<u8>> {
    let (disk, _, _) = with_snapshot();
    vec![read_file(&disk, &snapshot_name(&disk), 1 << 20).unwrap_or_else(|error| panic!("{error}"))]
}

/// A receiver that was offered the snapshot gets these bytes, in pieces. They are adopted only if they are the
/// snapshot's.
pub(super) fn snapshot_transfer(bytes: &[u8]) {
    let (_, _, info) = with_snapshot();
    let disk = VirtualDisk::new();
    let (dir, _) = snapshots(&disk).unwrap_or_else(|| panic!("an empty directory opens"));
    let mut incoming = dir.receive(info.offer()).unwrap_or_else(|error| panic!("{error}"));
    let mut offset = 0;
    for piece in bytes.chunks(100) {
        if incoming.append(offset, piece).is_err() {
            return;
        }
        offset += piece.len() as u64;
    }
    if let Ok(adopted) = incoming.finish().and_then(smr::internals::snapshot::ReceivedSnapshot::adopt) {
        assert_eq!(adopted, info);
    }
}

pub(super) fn sound_snapshot_transfer() -> Vec<Vec<u8>> {
    sound_snapshot_file()
}

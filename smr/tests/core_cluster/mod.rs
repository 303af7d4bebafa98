//! What clusters of cores have in common, whichever the core: messages under way, what writes do to a log on a disk,
//! and the names of nodes.

#![allow(dead_code, unreachable_pub, reason = "shared by several test binaries, each of which uses a part")]

use smr::entry::{Entry, EntryId, SnapshotMeta};
use smr::id::NodeId;
use smr::internals::protocol::LogChange;

/// A message under way.
#[derive(Clone, Debug)]
pub struct Flying<M> {
    pub from: NodeId,
    pub to: NodeId,
    pub message: M,
}

/// Does to a log what a write says.
pub fn change_log(entries: &mut Vec<Entry>, change: &LogChange) {
    match change {
        LogChange::RemoveFrom(index) => entries.retain(|entry| entry.id.index < *index),
        LogChange::Append(new) => {
            if let (Some(last), Some(first)) = (entries.last(), new.first()) {
                // After a crash, a snapshot of one's own may reach further than the log did.
                if first.id.index != last.id.index.next() {
                    entries.clear();
                }
            }
            entries.extend(new.iter().cloned());
        }
        LogChange::RemoveThrough(index) => entries.retain(|entry| entry.id.index > *index),
        LogChange::Install(meta) => {
            let same = entries.iter().any(|entry| entry.id == meta.last);
            entries.retain(|entry| same && entry.id.index > meta.last.index);
        }
    }
}

/// Whether a disk with this snapshot and these entries holds that one, itself or under the snapshot.
pub fn holds(snapshot: &SnapshotMeta, entries: &[Entry], id: EntryId) -> bool {
    id.index <= snapshot.last.index || id == EntryId::ZERO || entries.iter().any(|entry| entry.id == id)
}

/// Those after the snapshot, which is what a core starts with.
pub fn entries_after(snapshot: &SnapshotMeta, entries: &[Entry]) -> Vec<Entry> {
    entries.iter().filter(|entry| entry.id.index > snapshot.last.index).cloned().collect()
}

/// `A` for replica 0 in its first incarnation, `A/2` in its second.
pub fn name(id: NodeId) -> String {
    let replica = char::from(b'A' + id.name.0 as u8);
    if id.incarnation.0 == 1 { replica.to_string() } else { format!("{replica}/{}", id.incarnation.0) }
}

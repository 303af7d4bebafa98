//! Snapshots and the log (§7): cutting it under our own ones, replacing it by another member's.

use super::join::Newcomer;
use super::{Configured, Pace};
use crate::entry::{EntryId, Index, SnapshotMeta};
use crate::id::NodeId;
use crate::protocol::{LogChange, Superseded};

impl Configured {
    /// A durable snapshot of our own state ends with `last`.
    ///
    /// # Panics
    /// If `last` is not committed here: then no one could have applied it.
    pub(super) fn snapshot_taken(&mut self, last: EntryId) {
        assert!(last.index <= self.commit, "snapshot {last} above the commit index {}", self.commit);
        // One was installed meanwhile that reaches further.
        if last.index <= self.log.snapshot().index {
            return;
        }
        self.log.set_snapshot(last);
        self.out.raise_durable(last.index);
        let cut = self.needed_after().min(self.log.cut_for(self.settings.log_retain_bytes));
        if cut > self.log.start().index {
            self.log.compact(cut);
            self.out.change(LogChange::RemoveThrough(cut));
        }
    }

    /// After which entry the log is needed: by this node itself, and by a newcomer that works it off.
    pub(super) fn needed_after(&self) -> Index {
        let own = self.log.snapshot().index;
        let progress = self.newcomer.and_then(|Newcomer { node }| self.peers.get(&node));
        let works_it_off = progress.filter(|progress| progress.pace == Pace::Replicate);
        works_it_off.map_or(own, |progress| progress.match_index.min(own))
    }

    /// The transfer of a snapshot ended.
    pub(super) fn snapshot_sent(&mut self, to: NodeId, last: Option<EntryId>) {
        let Some(progress) = self.peers.get_mut(&to) else { return };
        if !matches!(progress.pace, Pace::Snapshot { .. }) {
            return;
        }
        match last.filter(|last| last.index >= self.log.start().index && self.log.has(*last)) {
            Some(last) => {
                progress.probe_from(last.index.next());
                self.replicate_to_all();
            }
            None => progress.pace = Pace::Snapshot { asked: false },
        }
    }

    /// A snapshot from another member is stored durably and verified: is it to replace our state?
    ///
    /// It comes from a member that has an answer of ours from its epoch, so it contains nothing that its first, or a
    /// later one, could contradict.
    pub(super) fn snapshot_received(&mut self, meta: &SnapshotMeta) -> Result<(), Superseded> {
        let last = meta.last;
        // Late or doubled, or of an epoch that this node has not entered: whoever sent it sends another one.
        if last.index <= self.commit || last.term > self.epoch() || self.orders() {
            return Err(Superseded);
        }
        if !self.log.has(last) {
            // What of the old log is durable says nothing about the new one above what both have committed.
            self.out.cap_durable(self.commit.next());
            self.reads.cut(last.index);
        }
        self.log.install(last);
        self.commit = last.index;
        self.out.change(LogChange::Install(meta.clone()));
        Ok(())
    }
}

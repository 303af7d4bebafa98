//! Snapshots and the log (§7): cutting it under our own ones, replacing it by a leader's.

use super::message::Body;
use super::progress::{Pace, Progress, Transfer};
use super::{Raft, Role};
use crate::entry::{EntryId, Index, SnapshotMeta};
use crate::id::NodeId;
use crate::protocol::LogChange;

impl Raft {
    /// A durable snapshot of our own state ends with `last`.
    ///
    /// # Panics
    /// If `last` is not committed here: then nobody could have applied it.
    pub(super) fn snapshot_taken(&mut self, last: EntryId) {
        assert!(last.index <= self.commit, "snapshot {last} above the commit index {}", self.commit);
        // One was installed meanwhile that reaches further.
        if last.index <= self.log.snapshot().index {
            return;
        }
        self.log.set_snapshot(last);
        self.out.raise_durable(last.index);
        let mut cut = self.log.cut_for(self.settings.log_retain_bytes);
        if let Some(needed) = self.needed_behind_snapshots().filter(|needed| *needed < cut) {
            cut = needed.max(self.log.cut_for(self.settings.log_retain_sending_bytes)).min(cut);
        }
        if cut > self.log.start().index {
            self.log.compact(cut);
            self.configurations.compact(cut);
            self.out.change(LogChange::RemoveThrough(cut));
        }
    }

    /// Behind which entry followers will need the log when the snapshots on their way have arrived.
    fn needed_behind_snapshots(&self) -> Option<Index> {
        let Role::Leader(leader) = &self.role else { return None };
        leader.peers.values().filter_map(Progress::snapshot_under_way).min()
    }

    /// A snapshot from another node is stored durably and verified: is it to replace our state?
    ///
    /// It comes from a leader that has an answer of ours from its term (see [`super::replicate`]), so it contains
    /// nothing that the leader of our present term, or of a later one, could contradict.
    pub(super) fn snapshot_received(&mut self, meta: &SnapshotMeta) {
        let last = meta.last;
        let leads = matches!(self.role, Role::Leader(_));
        // Late or doubled: we have all of it, and more (S3). A leader has all that is committed anyway (§5.4).
        let install = last.index > self.commit && !leads;
        self.out.outputs.install = Some(install);
        if install {
            if last.term > self.promise.term {
                self.enter_term(last.term);
            }
            self.install(meta);
        }
        if let Some(leader) = self.leader.node.filter(|leader| *leader != self.node) {
            let last = self.committed_id();
            if !self.is_healing() {
                self.out.send_after_log(leader, self.promise.term, Body::SnapshotInstalled { last });
            } else if self.ask_leader_to_heal(leader) {
                self.acknowledge_healing(leader, last);
            }
        }
    }

    fn install(&mut self, meta: &SnapshotMeta) {
        let last = meta.last;
        let suffix_kept = self.log.has(last);
        if !suffix_kept {
            // What of the old log is durable says nothing about the new one above what both have committed.
            self.out.cap_durable(self.commit.next());
        }
        self.log.install(last);
        self.configurations.install(meta, suffix_kept);
        self.commit = last.index;
        self.out.change(LogChange::Install(meta.clone()));
    }

    /// The transfer of a snapshot ended.
    pub(super) fn snapshot_sent(&mut self, to: NodeId, last: Option<EntryId>) {
        let now = self.now;
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(progress) = leader.peers.get_mut(&to) else { return };
        if let Pace::Snapshot(transfer) = &mut progress.pace {
            *transfer = match last {
                Some(last) => Transfer::Sent { last, at: now },
                None => Transfer::Failed,
            };
        }
    }

    /// The configuration in force at `index` and the entry that carried it.
    pub(super) fn configuration_for_snapshot(&self, index: Index) -> (crate::entry::Configuration, Index) {
        assert!(
            index >= self.log.start().index && index <= self.log.last().index,
            "configuration at {index} of a log from {} to {}",
            self.log.start(),
            self.log.last()
        );
        self.configurations.at(index)
    }
}

//! Snapshots and the log (§7): cutting it under our own ones, replacing it by a leader's.

use super::message::Body;
use super::{Raft, Role};
use crate::entry::{EntryId, Index, SnapshotMeta};
use crate::id::NodeId;
use crate::protocol::{LogChange, LogLoad, Returning, Superseded};

impl Raft {
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
        self.cut_log();
    }

    /// Removes from the log what is under the newest snapshot and no one is likely to need.
    pub(super) fn cut_log(&mut self) {
        self.held_by_all = self.held_by_all();
        let spare = self.log.cut_for(self.settings.log_retain_bytes).max(self.log.snapshot_before());
        let held = self.log.cut_for(self.settings.log_retain_held_bytes).min(self.held_by_all);
        let cut = self.needed_after().min(spare.max(held));
        if cut > self.log.start().index {
            self.log.compact(cut);
            self.configurations.compact(cut);
            self.out.change(LogChange::RemoveThrough(cut));
        }
    }

    /// Up to where every member has the log durably, as far as is known here. 0 if no one is to act on it.
    ///
    /// A long log costs memory, and on some engines speed; kept is what someone lacks. That holds after the leader's
    /// death too: its successor was told, and kept as much.
    pub(super) fn held_by_all(&self) -> Index {
        if self.settings.log_retain_held_bytes >= self.settings.log_retain_bytes {
            return Index::ZERO;
        }
        let Role::Leader(leader) = &self.role else { return self.held_by_all };
        let members = leader.peers.values().map(|progress| progress.counted()).min();
        // What is committed may not be durable here yet, where the others were faster.
        let own = self.commit.min(self.out.durable());
        self.held_by_all.max(members.map_or(own, |all| all.min(own)))
    }

    /// After which entry the log is needed: by this node itself, and by members that are behind or will have a snapshot
    /// soon.
    fn needed_after(&self) -> Index {
        let own = self.log.snapshot().index;
        let Role::Leader(leader) = &self.role else { return own };
        let limit = self.log.cut_for(self.settings.log_retain_sending_bytes);
        let needed = leader.peers.values().filter_map(|progress| {
            let needed = progress.needs_after(self.log.start().index, self.now, &self.settings)?;
            Some(if progress.holds_log(self.now, &self.settings) { needed } else { needed.max(limit) })
        });
        needed.min().map_or(own, |needed| needed.min(own))
    }

    /// What the log holds, for those who decide when to take a snapshot, and how much may be proposed.
    pub(super) fn describe_log(&self) -> LogLoad {
        let last = self.log.last().index;
        let returning = match &self.role {
            Role::Leader(leader) => leader
                .peers
                .values()
                .filter_map(|progress| {
                    let since = progress.catching_up_since(last, self.now, &self.settings)?;
                    Some(Returning { position_bytes: self.log.position_bytes(progress.match_index), since })
                })
                .min_by_key(|returning| returning.position_bytes),
            _ => None,
        };
        LogLoad {
            new_bytes: self.log.bytes_after(self.log.snapshot().index),
            needed_bytes: self.log.bytes_after(self.needed_after()),
            returning,
        }
    }

    /// A snapshot from another node is stored durably and verified: is it to replace our state?
    ///
    /// It comes from a leader that has an answer of ours from its term (see [`super::replicate`]), so it contains
    /// nothing that the leader of our present term, or of a later one, could contradict.
    pub(super) fn snapshot_received(&mut self, meta: &SnapshotMeta) -> Result<(), Superseded> {
        let last = meta.last;
        let leads = matches!(self.role, Role::Leader(_));
        // Late or doubled: we have all of it, and more (S3). A leader has all that is committed anyway (§5.4).
        let install = last.index > self.commit && !leads;
        if install {
            if last.term > self.hard_state.term {
                self.enter_term(last.term);
            }
            self.install_in_log(meta);
        }
        if let Some(leader) = self.leader.node.filter(|leader| *leader != self.node) {
            let last = self.committed_id();
            if !self.is_healing() {
                self.out.send_after_log(leader, self.hard_state.term, Body::SnapshotInstalled { last });
            } else if self.ask_leader_to_heal(leader) {
                self.acknowledge_healing(leader, last);
            }
        }
        if install { Ok(()) } else { Err(Superseded) }
    }

    fn install_in_log(&mut self, meta: &SnapshotMeta) {
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
        if let Some(progress) = leader.peers.get_mut(&to) {
            progress.snapshot_sent(last, now);
        }
    }

    /// A snapshot on its way to a member, or being built there, got further.
    pub(super) fn snapshot_progress(&mut self, to: NodeId) {
        let now = self.now;
        let Role::Leader(leader) = &mut self.role else { return };
        if let Some(progress) = leader.peers.get_mut(&to) {
            progress.advance(now);
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

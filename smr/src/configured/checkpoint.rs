//! Checkpoints of `passive`: how far a primary has brought its backups' state.
//!
//! Backups store every entry, durably, and apply none. So nothing is lost with a primary, but its successor would have
//! to apply all that it stored. Now and then the primary sends what has changed in its state, and backups take that
//! over in memory. A checkpoint replaces no file and cuts no log: durability is the log's.
//!
//! What is in a checkpoint, and how it travels, is the engine's. This core says when one is due
//! ([`Event::CheckpointDue`]) and whether one that arrived fits ([`Configured::checkpoint_fit`]): each is named by the
//! entry that it starts from, the base, and the one that it ends with.

use super::Configured;
use crate::entry::{EntryId, Index, Term};
use crate::epoch::EpochKind;
use crate::protocol::{Event, Time};

pub use crate::protocol::CheckpointFit;

/// When the next checkpoint is due.
#[derive(Clone, Debug)]
pub(super) struct Checkpoints {
    due_at: Time,
    /// Where the last one ended, in this epoch; before it, if a member may not have had that one.
    ended_with: Index,
}

impl Checkpoints {
    pub(super) fn new(now: Time) -> Checkpoints {
        Checkpoints { due_at: now, ended_with: Index::ZERO }
    }

    pub(super) fn begin_epoch(&mut self, now: Time) {
        *self = Checkpoints::new(now);
    }
}

impl Configured {
    /// The primary looks whether its backups have too much to replay.
    pub(super) fn take_checkpoint_if_due(&mut self) {
        let behind = self.commit.0.saturating_sub(self.checkpoints.ended_with.0);
        // Before its first entry is committed, backups may not be in this epoch: they would drop a checkpoint.
        let has_backups = self.knows_commits() && !self.peers.is_empty();
        if self.settings.kind != EpochKind::Passive || !has_backups || behind == 0 {
            return;
        }
        let is_much = behind >= self.settings.checkpoint_entries_max
            || self.log.bytes_after(self.checkpoints.ended_with) - self.log.bytes_after(self.commit)
                >= self.settings.checkpoint_bytes_max;
        if self.now >= self.checkpoints.due_at || is_much {
            let end = self.committed_id();
            let due_at = self.now.plus_us(self.settings.checkpoint_us);
            self.checkpoints = Checkpoints { due_at, ended_with: end.index };
            self.out.effects.events.push(Event::CheckpointDue { epoch: self.epoch(), end });
        }
    }

    /// A member speaks that may have restarted, or lost a checkpoint with its connection: its state may be far behind,
    /// whether or not anyone writes. The next checkpoint is due with its time, also if it brings nothing new.
    pub(super) fn backup_is_back(&mut self) {
        self.checkpoints.ended_with = self.checkpoints.ended_with.min(self.commit.previous());
    }

    /// Goes by another interval and another number of entries from now on; neither is less than one.
    pub fn set_checkpoints(&mut self, every_us: u64, entries_max: u64) {
        (self.settings.checkpoint_us, self.settings.checkpoint_entries_max) = (every_us.max(1), entries_max.max(1));
        // A long interval that was running does not have to run out first.
        self.checkpoints.due_at = self.checkpoints.due_at.min(self.now.plus_us(self.settings.checkpoint_us));
    }

    /// What this node, whose state is at `applied`, does with a checkpoint of a primary of `epoch`.
    pub fn checkpoint_fit(&self, epoch: Term, base: EntryId, end: EntryId, applied: EntryId) -> CheckpointFit {
        let is_backup = self.settings.kind == EpochKind::Passive && self.membership().is_some() && !self.is_first();
        if epoch != self.epoch() || !is_backup || end.index <= applied.index || !self.log.has(end) {
            return CheckpointFit::Drop;
        }
        if base == applied {
            CheckpointFit::Apply
        } else if base.index > applied.index && self.log.has(base) && self.log.start().index <= applied.index {
            CheckpointFit::ReplayTo(base)
        } else {
            CheckpointFit::WholeWanted
        }
    }
}

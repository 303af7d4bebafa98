//! What is committed and not applied yet, and the reads that wait for it.
//!
//! The core only says how far the log is committed. The engine takes entries up to there a [`Portion`] at a time, so
//! that a turn ends after milliseconds however much there is to apply: a replica that starts with hundreds of megabytes
//! of log, or that gets as much from its leader, goes on sending heartbeats, voting and acknowledging while it applies.
//! So a read may be confirmed before its index is applied; it waits here.

use std::collections::VecDeque;

use crate::entry::Index;
use crate::protocol::Protocol;
use crate::replica::engine::Engine;
use crate::replica::engine::requests::PendingRead;
use crate::state_machine::StateMachine;

/// Entries that are applied before the replica looks at the clock: less than a millisecond of small ones.
pub const APPLY_ENTRIES_MAX: usize = 256;
/// Bytes of entries that are applied before the replica looks at the clock; one larger entry still goes alone.
pub const APPLY_MAX_BYTES: usize = 1 << 20;
/// Reads that are answered before the replica looks at the clock.
const READS_ANSWERED_MAX: usize = 256;
/// Bytes of answers that one turn gives at most; the one that crosses the line still leaves. They lie in memory until
/// the turn ends, and only then their connections say whether there is room for them.
pub const ANSWERS_PER_TURN_MAX_BYTES: usize = 4 << 20;
/// A turn that has spent this long applying and answering leaves the rest to the next one, in microseconds. Small
/// against a heartbeat interval: the next turn sends what is due.
pub const WORK_PER_TURN_MAX_US: u64 = 10_000;

/// What is applied at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Portion {
    /// Entries at most.
    pub entries_max: usize,
    /// Bytes of entries at most, unless the first alone is larger.
    pub max_bytes: usize,
}

impl Default for Portion {
    fn default() -> Portion {
        Portion { entries_max: APPLY_ENTRIES_MAX, max_bytes: APPLY_MAX_BYTES }
    }
}

/// What was just done, of what a turn does last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Worked {
    /// This many entries were applied.
    Applied(u64),
    /// Reads were answered, if any could be.
    Answered,
}

/// Reads that were confirmed and not answered yet, in the order of their confirmation.
#[derive(Default)]
pub(super) struct ConfirmedReads(VecDeque<(Index, PendingRead)>);

impl ConfirmedReads {
    /// These may be answered once `index` is applied. A read that was confirmed later waits at least as long: that is
    /// never wrong, and keeps them in order.
    pub(super) fn push(&mut self, index: Index, reads: Vec<PendingRead>) {
        let index = self.0.back().map_or(index, |(last, _)| index.max(*last));
        self.0.extend(reads.into_iter().map(|read| (index, read)));
    }

    /// The next one that may be answered when everything up to `applied` is applied.
    fn pop(&mut self, applied: Index) -> Option<PendingRead> {
        self.0.pop_front_if(|(index, _)| *index <= applied).map(|(_, read)| read)
    }

    /// All of them, answerable or not.
    pub(super) fn take(&mut self) -> impl Iterator<Item = PendingRead> + use<> {
        std::mem::take(&mut self.0).into_iter().map(|(_, read)| read)
    }

    fn is_answerable(&self, applied: Index) -> bool {
        self.0.front().is_some_and(|(index, _)| *index <= applied)
    }
}

impl<P: Protocol, S: StateMachine> Engine<P, S> {
    /// Applies what is committed, and answers the reads that waited for it: a portion, and another one as long as
    /// `in_time` says so, which is told of each step.
    pub fn work(&mut self, mut in_time: impl FnMut(Worked) -> bool) {
        while self.has_work() && self.has_answers_left() {
            let before = self.applied.index.0;
            self.apply_portion();
            let applied = self.applied.index.0.saturating_sub(before);
            let has_time = applied == 0 || in_time(Worked::Applied(applied));
            self.answer_confirmed_reads();
            if !in_time(Worked::Answered) || !has_time {
                break;
            }
        }
    }

    /// Whether the turn may give another answer.
    pub(super) fn has_answers_left(&self) -> bool {
        self.answers_bytes < ANSWERS_PER_TURN_MAX_BYTES
    }

    /// Whether [`Engine::work`] would do something, in this turn or the next.
    pub fn has_work(&self) -> bool {
        !self.silent && (self.backlog() > 0 || self.confirmed_reads.is_answerable(self.applied.index))
    }

    /// Whether reads wait that are confirmed: for their index to be applied, or for their turn.
    pub fn confirmed_reads_wait(&self) -> bool {
        !self.confirmed_reads.0.is_empty()
    }

    /// How many entries are to be applied here: those that are committed and not applied.
    pub(super) fn backlog(&self) -> u64 {
        let commit = self.core.commit();
        // A backup stores what is committed, and applies no more of it than a checkpoint wants.
        let end = if self.core.applies() { commit } else { commit.min(self.checkpoints.replay_to()) };
        end.0.saturating_sub(self.applied.index.0)
    }

    fn apply_portion(&mut self) {
        let Portion { entries_max, max_bytes } = self.portion;
        let entries_max = entries_max.min(usize::try_from(self.backlog()).unwrap_or(usize::MAX));
        let entries = self.core.committed_from(self.applied.index.next(), entries_max, max_bytes);
        if entries.is_empty() {
            return;
        }
        for entry in entries {
            if !self.has_answers_left() {
                break;
            }
            self.apply(entry);
            if self.silent {
                // The entry put this node into quarantine: its state stays as it is.
                return;
            }
        }
        self.take_snapshot_if_due();
        self.take_checkpoint_if_due();
        self.look_at_checkpoint();
    }

    fn answer_confirmed_reads(&mut self) {
        for _ in 0..READS_ANSWERED_MAX {
            if !self.has_answers_left() {
                break;
            }
            let Some(read) = self.confirmed_reads.pop(self.applied.index) else { break };
            self.reads_waiting -= 1;
            self.answer(read);
        }
    }
}

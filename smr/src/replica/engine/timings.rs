//! When an entry was appended, durable, committed and applied here, and when each other member had it: where the time
//! of a write goes.
//!
//! Kept for the latest entries only, in rings of marks: each says that from a time on everything up to an index had got
//! that far. A turn makes one mark at most for each step, however many entries it moves, so that keeping them costs
//! next to nothing. Times are those of turns: what a turn does within itself counts as one moment.

use std::collections::{BTreeMap, VecDeque};

use crate::entry::{EntryId, Index};
use crate::id::{ClientId, NodeId};
use crate::protocol::{LogChange, Time, Write, WriteId};
use crate::status::EntryTimings;

/// Marks of each step that are kept.
const MARKS_MAX: usize = 1024;
/// Writes whose place in the log is known by session and number.
const NAMES_MAX: usize = 4096;
/// Members whose marks are kept: more than a group has, with those that were replaced lately.
const MEMBERS_MAX: usize = 32;

/// From a time on everything up to an index had got so far.
#[derive(Default)]
struct Marks {
    marks: VecDeque<(Index, Time)>,
    /// Marks fell out of the ring: what lies before the first one that is left is unknown.
    has_dropped: bool,
}

impl Marks {
    fn add(&mut self, through: Index, at: Time) {
        if self.marks.back().is_some_and(|(last, _)| through <= *last) {
            return;
        }
        if self.marks.len() == MARKS_MAX {
            self.marks.pop_front();
            self.has_dropped = true;
        }
        self.marks.push_back((through, at));
    }

    /// Entries from `index` on were removed, and others come in their place.
    fn cut(&mut self, index: Index) {
        while self.marks.back().is_some_and(|(last, _)| *last >= index) {
            self.marks.pop_back();
        }
    }

    /// When `index` had got so far; `None` if it has not, or if that was too long ago to be known.
    fn of(&self, index: Index) -> Option<u64> {
        let at = self.marks.partition_point(|(through, _)| *through < index);
        let is_known = at > 0 || !self.has_dropped;
        self.marks.get(at).filter(|_| is_known).map(|(_, time)| time.0)
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct Timings {
    /// The time of what happens in this turn.
    now: Time,
    names: VecDeque<(ClientId, u64, EntryId)>,
    appended: Marks,
    /// Writes under way: the last entry of each.
    under_way: VecDeque<(WriteId, Index)>,
    durable: Marks,
    committed: Marks,
    applied: Marks,
    held_by: BTreeMap<NodeId, Marks>,
}

impl Timings {
    /// What is noted from now on happens at this time.
    pub(super) fn is_now(&mut self, now: Time) {
        self.now = self.now.max(now);
    }

    /// A write of a session was proposed as this entry.
    pub(super) fn name(&mut self, client: ClientId, number: u64, entry: EntryId) {
        if self.names.len() == NAMES_MAX {
            self.names.pop_front();
        }
        self.names.push_back((client, number, entry));
    }

    /// As which entry a write of a session was proposed here lately. Another leader may have removed that since.
    pub(super) fn entry_of(&self, client: ClientId, number: u64) -> Option<EntryId> {
        let named = self.names.iter().rev().find(|name| (name.0, name.1) == (client, number));
        named.map(|(_, _, entry)| *entry)
    }

    /// A write goes to the disk.
    pub(super) fn issued<M>(&mut self, write: &Write<M>) {
        for change in write.log() {
            match change {
                LogChange::Append(entries) => {
                    if let Some(last) = entries.last() {
                        self.appended.add(last.id.index, self.now);
                        self.under_way.push_back((write.id(), last.id.index));
                    }
                }
                LogChange::RemoveFrom(index) => {
                    for marks in [&mut self.appended, &mut self.durable] {
                        marks.cut(*index);
                    }
                    self.under_way.retain(|(_, last)| last < index);
                }
                LogChange::RemoveThrough(_) => {}
                LogChange::Install(_) => {
                    let now = self.now;
                    *self = Timings { now, ..Timings::default() };
                }
            }
        }
    }

    /// The writes up to this one have reached the device.
    pub(super) fn durable(&mut self, id: WriteId) {
        while let Some((_, last)) = self.under_way.pop_front_if(|(write, _)| *write <= id) {
            self.durable.add(last, self.now);
        }
    }

    /// Another member has everything up to here on its device.
    pub(super) fn held(&mut self, by: NodeId, through: Index) {
        if self.held_by.len() < MEMBERS_MAX || self.held_by.contains_key(&by) {
            self.held_by.entry(by).or_default().add(through, self.now);
        }
    }

    /// This node does not lead any more, or leads anew: what it knew of others is over.
    pub(super) fn forget_others(&mut self) {
        self.held_by.clear();
    }

    /// A turn ends, with this committed and this applied.
    pub(super) fn turn_ends(&mut self, committed: Index, applied: Index) {
        self.committed.add(committed, self.now);
        self.applied.add(applied, self.now);
    }

    /// What is known of an entry.
    pub(super) fn of(&self, node: NodeId, entry: EntryId, voters: Vec<NodeId>) -> EntryTimings {
        let index = entry.index;
        EntryTimings {
            node,
            entry,
            voters,
            appended_us: self.appended.of(index),
            durable_us: self.durable.of(index),
            committed_us: self.committed.of(index),
            applied_us: self.applied.of(index),
            held_by: self.held_by.iter().filter_map(|(member, marks)| Some((*member, marks.of(index)?))).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{Entry, Payload};

    const ME: NodeId = NodeId::new(0, 1);
    const OTHER: NodeId = NodeId::new(1, 1);

    fn write(id: u64, changes: Vec<LogChange>) -> Write<()> {
        Write::new(WriteId(id), None, changes, Vec::new())
    }

    fn append(first: u64, last: u64) -> LogChange {
        let entry = |index| Entry { id: EntryId::new(index, 1), payload: Payload::Noop };
        LogChange::Append((first..=last).map(entry).collect())
    }

    #[test]
    fn of_tells_each_step_of_an_entry_and_nothing_that_has_not_happened() {
        let mut timings = Timings::default();
        timings.is_now(Time(10));
        timings.issued(&write(1, vec![append(1, 3)]));
        timings.name(ClientId::at(7), 1, EntryId::new(2, 1));
        timings.is_now(Time(20));
        timings.issued(&write(2, vec![append(4, 4)]));
        timings.durable(WriteId(1));
        timings.held(OTHER, Index(2));
        timings.is_now(Time(30));
        timings.held(OTHER, Index(4));
        timings.turn_ends(Index(2), Index(1));
        timings.is_now(Time(40));
        timings.turn_ends(Index(3), Index(3));
        let of = |index| timings.of(ME, EntryId::new(index, 1), Vec::new());
        let second = of(2);
        assert_eq!((second.appended_us, second.durable_us), (Some(10), Some(20)));
        assert_eq!((second.committed_us, second.applied_us), (Some(30), Some(40)));
        assert_eq!(second.held_by, [(OTHER, 20)]);
        let fourth = of(4);
        assert_eq!((fourth.appended_us, fourth.durable_us, fourth.committed_us), (Some(20), None, None));
        assert_eq!(fourth.held_by, [(OTHER, 30)]);
        assert_eq!(timings.entry_of(ClientId::at(7), 1), Some(EntryId::new(2, 1)));
        assert_eq!(timings.entry_of(ClientId::at(7), 2), None);
    }

    #[test]
    fn issued_over_a_removed_suffix_forgets_the_former_entries() {
        let mut timings = Timings::default();
        timings.is_now(Time(10));
        timings.issued(&write(1, vec![append(1, 5)]));
        timings.durable(WriteId(1));
        timings.is_now(Time(50));
        timings.issued(&write(2, vec![LogChange::RemoveFrom(Index(4)), append(4, 4)]));
        let fourth = timings.of(ME, EntryId::new(4, 1), Vec::new());
        assert_eq!((fourth.appended_us, fourth.durable_us), (Some(50), None));
    }

    #[test]
    fn marks_that_fell_out_of_the_ring_are_unknown_and_not_early() {
        let mut marks = Marks::default();
        for index in 1..=MARKS_MAX as u64 + 10 {
            marks.add(Index(index), Time(index));
        }
        assert_eq!(marks.of(Index(5)), None);
        assert_eq!(marks.of(Index(500)), Some(500));
        assert_eq!(marks.marks.len(), MARKS_MAX);
        marks.cut(Index(600));
        assert_eq!((marks.of(Index(5)), marks.of(Index(599))), (None, Some(599)), "a shorter ring knows no more");
    }
}

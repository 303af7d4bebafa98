//! The log in memory: everything after its start, up to the last entry.
//!
//! The start lies at or below the last entry of the newest snapshot: some entries under the snapshot are kept for
//! followers that are a little behind. All entries behind the start are in memory, so the core never waits for a
//! disk read, and a failing one cannot tear a hole into an append (L15).
//!
//! Invariants: start ≤ snapshot; the entries follow the start without a gap; terms never fall along them.

use std::collections::VecDeque;

use crate::entry::{Entry, EntryId, Index, Term};

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    start: EntryId,
    snapshot: EntryId,
    /// The last index under the snapshot before the newest one.
    snapshot_before: Index,
    entries: VecDeque<Held>,
    /// The bytes of all entries up to the start, since this log was made.
    bytes_to_start: u64,
}

/// An entry, and the bytes of all entries up to it: so the size of any stretch is a difference.
#[derive(Clone, Debug)]
struct Held {
    entry: Entry,
    bytes_to_here: u64,
}

impl Log {
    /// A log that starts with a snapshot (or with nothing, at [`EntryId::ZERO`]).
    pub(crate) fn new(snapshot: EntryId) -> Log {
        let snapshot_before = snapshot.index;
        Log { start: snapshot, snapshot, snapshot_before, entries: VecDeque::new(), bytes_to_start: 0 }
    }

    /// The entry that the log starts after.
    pub(crate) fn start(&self) -> EntryId {
        self.start
    }

    /// The last entry under the newest snapshot.
    pub(crate) fn snapshot(&self) -> EntryId {
        self.snapshot
    }

    /// The last entry; the start if there is none after it.
    pub(crate) fn last(&self) -> EntryId {
        self.entries.back().map_or(self.start, |held| held.entry.id)
    }

    /// The last index under the snapshot before the newest one: what follows it was written in the newest one's period.
    pub(crate) fn snapshot_before(&self) -> Index {
        self.snapshot_before
    }

    /// The size of all entries after the start.
    pub(crate) fn size_bytes(&self) -> usize {
        self.bytes_after(self.start.index)
    }

    /// The size of all entries after `index`; of all there are if the log starts after that.
    pub(crate) fn bytes_after(&self, index: Index) -> usize {
        (self.position_bytes(self.last().index) - self.position_bytes(index)) as usize
    }

    /// How many bytes of entries had been appended up to `index`, counted since this log was made. Never falls along
    /// the log.
    pub(crate) fn position_bytes(&self, index: Index) -> u64 {
        let held = self.position(index).and_then(|position| self.entries.get(position).or(self.entries.back()));
        held.map_or(self.bytes_to_start, |held| held.bytes_to_here)
    }

    /// The entry at `index`, if it is behind the start and exists.
    pub(crate) fn get(&self, index: Index) -> Option<&Entry> {
        self.position(index).and_then(|position| self.entries.get(position)).map(|held| &held.entry)
    }

    /// What stands at `index`: an entry, or the start.
    pub(crate) fn id_at(&self, index: Index) -> Option<EntryId> {
        if index == self.start.index { Some(self.start) } else { self.get(index).map(|entry| entry.id) }
    }

    /// Whether the log has this very entry (or starts after it).
    pub(crate) fn has(&self, id: EntryId) -> bool {
        self.id_at(id.index) == Some(id)
    }

    /// The entries from one index to another, both included. Both must be in the log.
    pub(crate) fn range(&self, from: Index, to: Index) -> impl Iterator<Item = &Entry> {
        let stretch = if from > to {
            self.entries.range(0..0)
        } else {
            match (self.position(from), self.position(to)) {
                (Some(first), Some(last)) if last < self.entries.len() => self.entries.range(first..=last),
                _ => panic!("entries {from} to {to} are not in the log from {} to {}", self.start, self.last()),
            }
        };
        stretch.map(|held| &held.entry)
    }

    /// The entries from `from` on: at most `count_max`, and at most `bytes_max` bytes unless the first alone is larger.
    pub(crate) fn batch(&self, from: Index, count_max: usize, bytes_max: usize) -> (Vec<Entry>, usize) {
        let mut batch = Vec::new();
        let mut bytes = 0;
        if let Some(position) = self.position(from).filter(|position| *position < self.entries.len()) {
            for Held { entry, .. } in self.entries.range(position..).take(count_max) {
                let size = entry.size_bytes();
                if !batch.is_empty() && bytes + size > bytes_max {
                    break;
                }
                bytes += size;
                batch.push(entry.clone());
            }
        }
        (batch, bytes)
    }

    /// The committed entries from `from` on, with the limits of [`Log::batch`].
    ///
    /// # Panics
    /// If the log was cut at or above `from`.
    pub(crate) fn committed_from(&self, from: Index, commit: Index, count_max: usize, bytes_max: usize) -> Vec<Entry> {
        let count = (commit.0 + 1).saturating_sub(from.0);
        if count == 0 {
            return Vec::new();
        }
        assert!(from > self.start.index, "entries from {from} on are needed, the log starts at {}", self.start);
        self.batch(from, count_max.min(usize::try_from(count).unwrap_or(usize::MAX)), bytes_max).0
    }

    /// Adds an entry at the end.
    ///
    /// # Panics
    /// If it does not follow the last one, or its term falls.
    pub(crate) fn append(&mut self, entry: Entry) {
        let last = self.last();
        assert!(entry.id.index == last.index.next(), "entry {} appended after {last}", entry.id);
        assert!(entry.id.term >= last.term, "entry {} appended after {last}: terms fall", entry.id);
        let bytes_to_here = self.position_bytes(last.index) + entry.size_bytes() as u64;
        self.entries.push_back(Held { entry, bytes_to_here });
    }

    /// Removes the entry at `index` and all after it.
    ///
    /// # Panics
    /// If that reaches under the start.
    pub(crate) fn truncate_from(&mut self, index: Index) {
        let Some(position) = self.position(index) else {
            panic!("removing entries from {index}, but the log starts after {}", self.start);
        };
        self.entries.truncate(position);
    }

    /// A snapshot of our own ends with `last`, which the log has (or had).
    ///
    /// # Panics
    /// If the log has another entry there, or none.
    pub(crate) fn set_snapshot(&mut self, last: EntryId) {
        assert!(self.has(last), "snapshot {last} of a log from {} to {}", self.start, self.last());
        assert!(last.index >= self.snapshot.index, "snapshot {last} is older than {}", self.snapshot);
        self.snapshot_before = self.snapshot.index;
        self.snapshot = last;
    }

    /// Where to cut so that the entries between the cut and the snapshot have at most `retain_bytes`.
    pub(crate) fn cut_for(&self, retain_bytes: usize) -> Index {
        let snapshot_at = self.position_bytes(self.snapshot.index);
        if snapshot_at - self.bytes_to_start <= retain_bytes as u64 {
            return self.start.index;
        }
        let enough = snapshot_at - retain_bytes as u64;
        let too_far = self.entries.partition_point(|held| held.bytes_to_here < enough);
        Index(self.start.index.0 + 1 + too_far as u64)
    }

    /// Removes all entries up to and including `index`, which lies at or under the snapshot.
    pub(crate) fn compact(&mut self, index: Index) {
        assert!(index <= self.snapshot.index, "cutting the log at {index} above the snapshot {}", self.snapshot);
        while self.start.index < index {
            let Some(held) = self.entries.pop_front() else {
                panic!("cutting the log at {index}, but it ends at {}", self.start);
            };
            self.bytes_to_start = held.bytes_to_here;
            self.start = held.entry.id;
        }
    }

    /// The log becomes a foreign snapshot, and what stands after it if the log has the snapshot's last entry (§7).
    pub(crate) fn install(&mut self, last: EntryId) {
        assert!(last.index > self.snapshot.index, "snapshot {last} installed over {}", self.snapshot);
        if self.has(last) {
            (self.snapshot, self.snapshot_before) = (last, last.index);
            self.compact(last.index);
        } else {
            *self = Log::new(last);
        }
    }

    /// The last entry at or below `at_most` whose term is at most `term`: where another log that has `term` there may
    /// still agree with this one. `None` if that lies under the start.
    pub(crate) fn back_up(&self, at_most: Index, term: Term) -> Option<EntryId> {
        if at_most < self.start.index || self.start.term > term {
            return None;
        }
        // Terms never fall along the log, so the entries with a term of at most `term` are a prefix.
        let prefix = self.entries.partition_point(|held| held.entry.id.term <= term) as u64;
        self.id_at(at_most.min(Index(self.start.index.0 + prefix)))
    }

    /// Asserts the invariants of the whole log. Slow; for tests.
    pub(crate) fn assert_shape(&self) {
        assert!(self.start.index <= self.snapshot.index, "start {} above snapshot {}", self.start, self.snapshot);
        let mut before = self.start;
        let mut bytes = self.bytes_to_start;
        for Held { entry, bytes_to_here } in &self.entries {
            assert!(entry.id.index == before.index.next(), "hole between {before} and {}", entry.id);
            assert!(entry.id.term >= before.term, "terms fall between {before} and {}", entry.id);
            before = entry.id;
            bytes += entry.size_bytes() as u64;
            assert!(bytes == *bytes_to_here, "{bytes_to_here} bytes counted up to {before}, {bytes} there");
        }
        assert!(self.has(self.snapshot), "snapshot {} is not in the log", self.snapshot);
    }

    fn position(&self, index: Index) -> Option<usize> {
        (index > self.start.index).then(|| (index.0 - self.start.index.0 - 1) as usize)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::entry::{ENTRY_OVERHEAD_BYTES, Payload};

    fn log(terms: &[u64]) -> Log {
        let mut log = Log::new(EntryId::ZERO);
        for (position, term) in terms.iter().enumerate() {
            log.append(entry(position as u64 + 1, *term, 10));
        }
        log
    }

    fn entry(index: u64, term: u64, size: usize) -> Entry {
        Entry { id: EntryId::new(index, term), payload: Payload::Command(Bytes::from(vec![0; size])) }
    }

    fn lengths(log: &Log, count_max: usize, bytes_max: usize) -> Vec<usize> {
        let mut lengths = Vec::new();
        let mut next = log.start().index.next();
        loop {
            let (batch, _) = log.batch(next, count_max, bytes_max);
            let Some(last) = batch.last() else { return lengths };
            assert_eq!(batch[0].id.index, next);
            lengths.push(batch.len());
            next = last.id.index.next();
        }
    }

    // covers L14
    #[test]
    fn batch_limits_each_entry_once_in_order() {
        let log = log(&[1; 10]);
        let size = ENTRY_OVERHEAD_BYTES + 10;
        assert_eq!(lengths(&log, 4, usize::MAX), [4, 4, 2], "by count");
        assert_eq!(lengths(&log, 100, 3 * size), [3, 3, 3, 1], "exactly at the limit in bytes");
        assert_eq!(lengths(&log, 2, 3 * size), [2; 5], "count before bytes");
        assert_eq!(lengths(&log, 100, 3 * size - 1), [2; 5], "bytes before count");
        assert_eq!(lengths(&log, 100, 1), [1; 10], "each larger than the limit: alone");
        assert_eq!(lengths(&Log::new(EntryId::ZERO), 4, 4), Vec::<usize>::new(), "empty");
    }

    #[test]
    fn back_up_finds_last_entry_of_term_or_below() {
        let mut log = log(&[1, 1, 4, 4, 6]);
        assert_eq!(log.back_up(Index(5), Term(5)), Some(EntryId::new(4, 4)));
        assert_eq!(log.back_up(Index(3), Term(9)), Some(EntryId::new(3, 4)));
        assert_eq!(log.back_up(Index(5), Term(3)), Some(EntryId::new(2, 1)));
        assert_eq!(log.back_up(Index(5), Term(0)), Some(EntryId::ZERO));
        log.set_snapshot(EntryId::new(3, 4));
        log.compact(Index(3));
        assert_eq!(log.back_up(Index(5), Term(3)), None);
        assert_eq!(log.back_up(Index(2), Term(9)), None);
        assert_eq!(log.back_up(Index(3), Term(4)), Some(EntryId::new(3, 4)));
    }

    #[test]
    fn cut_for_keeps_what_fits_into_the_retained_bytes() {
        let size = ENTRY_OVERHEAD_BYTES + 10;
        let mut log = log(&[1; 10]);
        log.set_snapshot(EntryId::new(8, 1));
        assert_eq!(log.cut_for(0), Index(8));
        assert_eq!(log.cut_for(2 * size), Index(6));
        assert_eq!(log.cut_for(2 * size - 1), Index(7));
        assert_eq!(log.cut_for(usize::MAX), Index(0));
        log.compact(Index(6));
        log.assert_shape();
        assert_eq!(log.size_bytes(), 4 * size);
    }

    // covers S1 S2
    #[test]
    fn install_keeps_suffix_only_behind_same_entry() {
        let mut same = log(&[1, 1, 2, 2]);
        same.install(EntryId::new(3, 2));
        assert_eq!((same.start(), same.last()), (EntryId::new(3, 2), EntryId::new(4, 2)));
        let mut other = log(&[1, 1, 2, 2]);
        other.install(EntryId::new(3, 3));
        assert_eq!((other.start(), other.last()), (EntryId::new(3, 3), EntryId::new(3, 3)));
        same.assert_shape();
        other.assert_shape();
    }

    #[test]
    #[should_panic(expected = "appended after")]
    fn append_with_hole_panics() {
        log(&[1]).append(entry(3, 1, 0));
    }
}

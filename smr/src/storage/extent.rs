//! From where to where a log reaches, and where in it terms begin: what every engine keeps in memory, and what it
//! refuses.

use crate::entry::{Entry, EntryId, Index, Term};

/// The extent of a log. What a caller must not do is a bug and panics, with the values.
#[derive(Clone, Debug)]
pub(crate) struct Extent {
    /// The log starts after this entry.
    start: EntryId,
    last: EntryId,
    /// Where terms begin: (index, term), both rising; the first is at or before the start.
    terms: Vec<(u64, Term)>,
}

impl Extent {
    /// A log without entries.
    pub(crate) fn empty(start: EntryId) -> Extent {
        Extent { start, last: start, terms: vec![(start.index.0, start.term)] }
    }

    /// A log that was read back; `terms` as in the field, or beginning after the start.
    pub(crate) fn of(start: EntryId, last: EntryId, mut terms: Vec<(u64, Term)>) -> Extent {
        if terms.first().is_none_or(|(index, _)| *index > start.index.0) {
            terms.insert(0, (start.index.0, start.term));
        }
        Extent { start, last, terms }
    }

    pub(crate) fn start(&self) -> EntryId {
        self.start
    }

    pub(crate) fn last(&self) -> EntryId {
        self.last
    }

    /// The term at an index from the start's to the last's.
    pub(crate) fn term_at(&self, index: Index) -> Option<Term> {
        if index < self.start.index || index > self.last.index {
            return None;
        }
        let position = self.terms.partition_point(|(begin, _)| *begin <= index.0);
        position.checked_sub(1).map(|run| self.terms[run].1)
    }

    /// Panics unless there is an entry at this index.
    pub(crate) fn expect(&self, index: Index, doing: &str) {
        let inside = index > self.start.index && index <= self.last.index;
        assert!(inside, "{doing} {index}, of a log from {} to {}", self.start, self.last);
    }

    /// Entries come to the end.
    pub(crate) fn append(&mut self, entries: &[Entry]) {
        for entry in entries {
            let follows = entry.id.index == self.last.index.next() && entry.id.term >= self.last.term;
            assert!(follows, "entry {} appended after {}", entry.id, self.last);
            if self.terms.last().is_none_or(|(_, term)| *term != entry.id.term) {
                self.terms.push((entry.id.index.0, entry.id.term));
            }
            self.last = entry.id;
        }
    }

    /// This entry goes, and all after it.
    pub(crate) fn remove_from(&mut self, index: Index) {
        self.expect(index, "removal from");
        let end = index.previous();
        let term = self.term_at(end).unwrap_or_else(|| panic!("no term at {end}, log from {}", self.start));
        self.last = EntryId { index: end, term };
        self.terms.retain(|(begin, _)| *begin < index.0);
    }

    /// This entry goes, and all before it; nothing if they are gone already.
    pub(crate) fn remove_through(&mut self, index: Index) {
        if index <= self.start.index {
            return;
        }
        self.expect(index, "removal through");
        let term = self.term_at(index).unwrap_or_else(|| panic!("no term at {index}, log from {}", self.start));
        self.start = EntryId { index, term };
        // Only the run that the start lies in and those after it can still be asked for.
        let keep = self.terms.partition_point(|(begin, _)| *begin <= index.0);
        self.terms.drain(..keep.saturating_sub(1));
    }
}

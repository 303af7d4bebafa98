//! The state machine log in memory, and where two logs part.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::words::{Entry, Epoch};

/// The entries of one epoch: they follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// The takeover by whose primary they were ordered.
    pub epoch: Epoch,
    /// The index of its last entry.
    pub last: u64,
}

/// The log. Indexes begin at 1; 0 is before the first entry.
#[derive(Clone, Debug, Default)]
pub struct Log {
    entries: Vec<Entry>,
    runs: Vec<Run>,
}

impl Log {
    /// Index of the last entry; 0 for an empty log.
    pub fn last_index(&self) -> u64 {
        self.entries.len() as u64
    }

    /// The entry at `index`.
    pub fn entry(&self, index: u64) -> Option<&Entry> {
        self.entries.get(usize::try_from(index.checked_sub(1)?).ok()?)
    }

    /// Appends an entry.
    pub fn push(&mut self, entry: Entry) {
        self.entries.push(entry);
        let last = self.last_index();
        match self.runs.last_mut() {
            Some(run) if run.epoch == entry.epoch => run.last = last,
            _ => self.runs.push(Run { epoch: entry.epoch, last }),
        }
    }

    /// Keeps the first `keep` entries, and returns the others.
    pub fn cut(&mut self, keep: u64) -> Vec<Entry> {
        let keep = keep.min(self.last_index());
        let surplus = self.entries.split_off(keep as usize);
        while let Some(run) = self.runs.pop() {
            let begins_after = self.runs.last().map_or(0, |before| before.last);
            if begins_after < keep {
                self.runs.push(Run { epoch: run.epoch, last: run.last.min(keep) });
                break;
            }
        }
        surplus
    }

    /// Up to `max` entries from `from` on.
    pub fn slice(&self, from: u64, max: usize) -> &[Entry] {
        let start = usize::try_from(from.saturating_sub(1)).unwrap_or(usize::MAX).min(self.entries.len());
        &self.entries[start..self.entries.len().min(start.saturating_add(max))]
    }

    /// What the log is made of: its last `max` runs.
    pub fn runs(&self, max: usize) -> &[Run] {
        &self.runs[self.runs.len().saturating_sub(max)..]
    }

    /// How many entries this log has in common with one that is made of these runs. In an epoch there is one primary,
    /// which appends: so wherever two logs have entries of the same epoch, those and all before them are the same.
    pub fn common(&self, theirs: &[Run]) -> u64 {
        let theirs: BTreeMap<Epoch, u64> = theirs.iter().map(|run| (run.epoch, run.last)).collect();
        let shared = self.runs.iter().filter_map(|own| Some(own.last.min(*theirs.get(&own.epoch)?)));
        shared.max().unwrap_or(0).min(self.last_index())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::MapOp;

    fn log(epochs: &[u64]) -> Log {
        let mut log = Log::default();
        for (index, &counter) in epochs.iter().enumerate() {
            let epoch = Epoch { counter, ..Epoch::NONE };
            log.push(Entry { epoch, op: MapOp::update(1, index as i32) });
        }
        log
    }

    fn lasts(log: &Log) -> Vec<(u64, u64)> {
        log.runs(usize::MAX).iter().map(|run| (run.epoch.counter, run.last)).collect()
    }

    #[test]
    fn cut_anywhere_leaves_the_runs_of_what_is_left() {
        let whole = [1, 1, 2, 5, 5, 5, 9];
        for keep in 0..=whole.len() {
            let mut cut = log(&whole);
            let surplus = cut.cut(keep as u64);
            assert_eq!(surplus.len(), whole.len() - keep);
            assert_eq!(lasts(&cut), lasts(&log(&whole[..keep])), "{keep}");
        }
    }

    #[test]
    fn common_is_the_last_entry_of_an_epoch_that_both_have() {
        let own = log(&[1, 1, 2, 5, 5]);
        for (theirs, common) in [
            (&[1, 1, 2, 5, 5, 5][..], 5),
            (&[1, 1, 2, 5], 4),
            (&[1, 1, 2, 3, 3, 3], 3),
            (&[1, 1, 1, 7], 2),
            (&[3], 0),
            (&[], 0),
        ] {
            assert_eq!(own.common(log(theirs).runs(usize::MAX)), common, "{theirs:?}");
            assert_eq!(log(theirs).common(own.runs(usize::MAX)), common, "{theirs:?}, the other way");
        }
    }
}

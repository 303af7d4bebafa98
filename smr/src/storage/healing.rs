//! Healing: a log or a snapshot that was damaged is set aside, and a log begun that counts for nothing until it is
//! complete.
//!
//! Where the hard state is sound the node is still itself: it knows its term and vote, and only its log may lack
//! entries that it has acknowledged. So it starts, and the core keeps it silent until its leader has made that good
//! (the argument is in `crate::raft`, `healing`). Here is what makes that durable:
//! 1. The watermark is replaced by one that says so ([`Healing`]), in one step. Each start from then on is silent,
//!    whatever it finds.
//! 2. The log moves to `damaged-log`, or the next free name of that kind. Nothing ever removes it.
//! 3. A log is begun with what of the old one verifies, reaches back to the newest sound snapshot without a hole, and
//!    so is what a sound log was at some time.
//! 4. The watermark rises to its end.
//!
//! A crash anywhere finds a damaged, missing or short log under a watermark that says so, and begins again. The
//! watermark loses its word only when the core says that the node has healed.
//!
//! A device may misread once. So nothing is believed to be damaged that was not read twice.

use serde::{Deserialize, Serialize};

use super::Damage;
use crate::entry::{Entry, EntryId, Index};

/// A reason is cut to this length in bytes: it has to fit into a slot of the watermark.
const REASON_MAX_BYTES: usize = 256;

/// Entries are missing that the node may have acknowledged, and it is silent until it has them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Healing {
    /// It has to get further than this, at least.
    pub past: Index,
    /// What was damaged.
    pub reason: String,
    /// When that was found, in seconds of Unix time.
    pub since_unix_s: u64,
}

impl Healing {
    pub(crate) fn new(past: Index, damage: &Damage, since_unix_s: u64) -> Healing {
        let mut reason = damage.to_string().replace(['\n', '\r'], " ");
        let end = (0..=REASON_MAX_BYTES.min(reason.len())).rev().find(|end| reason.is_char_boundary(*end));
        reason.truncate(end.unwrap_or(0));
        Healing { past, reason, since_unix_s }
    }

    /// What status says.
    pub fn describe(&self) -> String {
        let Healing { past, reason, .. } = self;
        format!("{reason}; heals by itself: silent until it has everything up to entry {past} and what its leader had")
    }
}

/// What can still be read of a damaged log.
#[derive(Debug, Default)]
pub(crate) struct Salvage {
    /// The entries behind the snapshot, without a hole.
    pub(crate) entries: Vec<Entry>,
    /// The highest entry that was read anywhere in it.
    pub(crate) highest: EntryId,
}

impl Salvage {
    pub(crate) fn saw(&mut self, id: EntryId) {
        if id.index > self.highest.index {
            self.highest = id;
        }
    }
}

/// Of entries in a row, the first after one of `before`'s term: those after the snapshot, if they continue it.
pub(crate) fn behind_snapshot(snapshot: EntryId, before: EntryId, mut entries: Vec<Entry>) -> Vec<Entry> {
    let Some(under) = snapshot.index.0.checked_sub(before.index.0) else { return Vec::new() };
    let seam = match under.checked_sub(1) {
        None => Some(before),
        Some(place) => usize::try_from(place).ok().and_then(|place| entries.get(place)).map(|entry| entry.id),
    };
    if seam != Some(snapshot) {
        return Vec::new();
    }
    entries.drain(..under as usize); // at most their number
    entries
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::entry::Payload;

    fn entries(terms: &[u64], first: u64) -> Vec<Entry> {
        let ids = terms.iter().zip(first..).map(|(term, index)| EntryId::new(index, *term));
        ids.map(|id| Entry { id, payload: Payload::Noop }).collect()
    }

    #[test]
    fn entries_behind_snapshot_only_if_they_continue_it() {
        let kept = |snapshot, before, entries| behind_snapshot(snapshot, before, entries).len();
        let id = EntryId::new;
        assert_eq!(kept(EntryId::ZERO, EntryId::ZERO, entries(&[1, 1, 2], 1)), 3);
        assert_eq!(kept(id(5, 2), id(5, 2), entries(&[2, 3], 6)), 2);
        assert_eq!(kept(id(5, 2), id(5, 1), entries(&[2, 3], 6)), 0, "another entry is at the seam");
        assert_eq!(kept(id(5, 2), id(3, 1), entries(&[1, 2, 2, 3], 4)), 2);
        assert_eq!(kept(id(5, 2), id(3, 1), entries(&[1, 1, 2, 3], 4)), 0);
        assert_eq!(kept(id(5, 2), id(6, 2), entries(&[3], 7)), 0, "a hole");
        assert_eq!(kept(id(5, 2), id(1, 1), entries(&[1, 1], 2)), 0, "it ends below");
    }

    #[test]
    fn reason_of_any_length_fits_into_a_slot() {
        let damage = Damage::new(Path::new("/d/log"), "ä".repeat(1000));
        let healing = Healing::new(Index(7), &damage, 1);
        assert!(healing.reason.len() <= REASON_MAX_BYTES && healing.reason.starts_with("/d/log: ä"));
    }
}

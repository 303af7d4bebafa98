//! How the log of one member becomes that of another (§5.3): where they may agree, what is new, and what cannot be.

use super::log::Log;
use crate::entry::{Entry, EntryId, Index, Term};

impl Log {
    /// What of an append is new to this log, which is committed up to `commit`, and from where on the log has to give
    /// way to it. A late, shorter append contradicts nothing (L4); what is committed is the same.
    pub(crate) fn news(&self, entries: Vec<Entry>, commit: Index) -> (Option<Index>, Vec<Entry>) {
        let (mut differs_from, mut fresh) = (None, Vec::new());
        for entry in entries {
            if !fresh.is_empty() || entry.id.index > self.last().index {
                fresh.push(entry);
            } else if entry.id.index > commit && !self.has(entry.id) {
                differs_from = Some(entry.id.index);
                fresh.push(entry);
            }
        }
        (differs_from, fresh)
    }

    /// What in an append cannot be, if no directory has lost anything: who orders has all that is committed (§5.4), and
    /// an entry's id names one entry. Entries that were sent twice are compared; what is new costs nothing.
    pub(crate) fn contradiction(
        &self,
        from: &dyn std::fmt::Display,
        previous: EntryId,
        entries: &[Entry],
        commit: Index,
    ) -> Option<String> {
        let uncommitted = |id: EntryId| {
            let own = self.id_at(id.index).filter(|own| id.index <= commit && *own != id)?;
            Some(format!("{from} has entry {id} where {own} is committed"))
        };
        uncommitted(previous).or_else(|| {
            entries.iter().map_while(|entry| Some((entry, self.get(entry.id.index)?))).find_map(|(entry, own)| {
                uncommitted(entry.id).or_else(|| {
                    let differs = own.id == entry.id && own.payload != entry.payload;
                    differs.then(|| format!("entry {} of {from} is another one than that of this replica", own.id))
                })
            })
        })
    }

    /// The last entry at which another log may agree with this one if this one has no `previous`: the last one whose
    /// term is not above `previous`'s, or `committed`. Between them, the two sides skip a whole term with each question
    /// (L10).
    pub(crate) fn agreement_hint(&self, previous: EntryId, committed: EntryId) -> EntryId {
        match self.back_up(previous.index.previous().min(self.last().index), previous.term) {
            Some(hint) if hint.index > committed.index => hint,
            _ => committed,
        }
    }
}

/// Whether entries can follow `previous` in the log of someone in `term`; if not, why (B5).
pub(crate) fn validate_append(term: Term, previous: EntryId, entries: &[Entry]) -> Result<(), String> {
    let mut before = previous;
    for entry in entries {
        if before.index.0.checked_add(1) != Some(entry.id.index.0) {
            return Err(format!("entry {} does not follow {before}", entry.id));
        }
        if entry.id.term < before.term || entry.id.term > term || entry.id.term == Term::ZERO {
            return Err(format!("entry {} after {before} in {term:?}", entry.id));
        }
        before = entry.id;
    }
    Ok(())
}

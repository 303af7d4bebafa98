//! I9: what was committed at a place stays there: everyone commits the same.

use super::Property;
use crate::epochs::ledger::{Ledger, Seen, payload};

pub(super) struct HistoryIsImmutable;

impl Property for HistoryIsImmutable {
    fn name(&self) -> &'static str {
        "I9 what is committed stays"
    }

    fn on(&mut self, seen: &Seen<'_>, ledger: &Ledger) -> Result<(), String> {
        let Seen::Committed { node, entry, .. } = seen else { return Ok(()) };
        match ledger.committed.get(&entry.id.index) {
            Some(known) if known.id != entry.id || known.payload != payload(entry) => {
                Err(format!("{node} commits {} where {} was committed", entry.id, known.id))
            }
            _ => Ok(()),
        }
    }
}

//! I12: what a device was said to have is there after a start, and the epoch has not fallen. Entries of earlier epochs
//! may have been cut just before, unless they were committed.

use smr::entry::EntryId;

use super::Property;
use crate::epochs::ledger::{Ledger, Seen};

pub(super) struct AcknowledgedIsKept;

impl Property for AcknowledgedIsKept {
    fn name(&self) -> &'static str {
        "I12 what was acknowledged is there after a start"
    }

    fn on(&mut self, seen: &Seen<'_>, ledger: &Ledger) -> Result<(), String> {
        let Seen::Started { node, configuration, snapshot, entries, .. } = seen else { return Ok(()) };
        let Some(before) = ledger.devices.get(node) else { return Ok(()) };
        let epoch = configuration.map(|configuration| configuration.epoch).unwrap_or_default();
        if epoch < before.epoch() {
            return Err(format!("{node} begins in epoch {epoch}, and had stored {}", before.epoch()));
        }
        let first_index = entries.first().map_or(snapshot.index.next(), |entry| entry.id.index);
        let found = |index: u64| entries.get(usize::try_from(index.checked_sub(first_index.0)?).ok()?);
        let stays =
            |id: EntryId| id.term >= epoch || ledger.committed.get(&id.index).is_some_and(|commit| commit.id == id);
        let held = before.entries.iter().map(|(index, term)| EntryId { index: *index, term: *term });
        let mut lost = held.filter(|id| {
            id.index > snapshot.index && found(id.index.0).is_none_or(|entry| entry.id != *id) && stays(*id)
        });
        match lost.next() {
            Some(id) => Err(format!("{node} had entry {id}, and begins without it")),
            None => Ok(()),
        }
    }
}

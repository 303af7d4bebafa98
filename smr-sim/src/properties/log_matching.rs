//! I5, log matching: equal (index, term) in two logs means equal entries there and everywhere below (Raft §5.3). Judged
//! by chains, so a difference far below shows at the next entry that is appended.

use std::collections::BTreeMap;

use smr::entry::{EntryId, Index};

use super::Property;
use crate::ledger::{Chain, Ledger};
use crate::observation::Observation;

#[derive(Default)]
pub(super) struct LogMatching {
    chains: BTreeMap<EntryId, Chain>,
}

impl LogMatching {
    fn check(&mut self, id: EntryId, chain: Chain) -> Result<(), String> {
        let first = *self.chains.entry(id).or_insert(chain);
        if first == chain { Ok(()) } else { Err(format!("two logs have {id} and differ there or below")) }
    }
}

impl Property for LogMatching {
    fn name(&self) -> &'static str {
        "I5 log matching"
    }

    fn on(&mut self, observation: &Observation<'_>, ledger: &Ledger) -> Result<(), String> {
        match observation {
            Observation::WriteIssued { .. } => {
                ledger.appended().iter().try_for_each(|line| self.check(line.id, line.chain))
            }
            // What a disk brings back must be what was written to it.
            Observation::Started { node, recovered, .. } => {
                let Some(page) = ledger.page(*node) else { return Ok(()) };
                let ends = [recovered.snapshot.last.index.next(), page.log.last().index];
                let found = ends.iter().filter(|index| **index > Index::ZERO).filter_map(|index| page.log.at(*index));
                found
                    .filter(|(id, _)| id.index > page.log.start().index)
                    .try_for_each(|(id, chain)| self.check(id, chain))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::properties::testing::{A, B, Play, append, command, noop};

    // covers I5
    #[test]
    fn equal_ids_over_different_entries_below_are_rejected() {
        let mut play = Play::new(LogMatching::default());
        play.writes(A, None, vec![append(&[command(1, 1, b"x"), noop(2, 2)])]).unwrap();
        // The terms agree everywhere; the payload below does not.
        assert!(play.writes(B, None, vec![append(&[command(1, 1, b"y"), noop(2, 2)])]).is_err());
    }

    // covers I5
    #[test]
    fn entry_appended_behind_another_predecessor_is_rejected() {
        let mut play = Play::new(LogMatching::default());
        play.writes(A, None, vec![append(&[noop(1, 1), noop(2, 3)])]).unwrap();
        play.writes(B, None, vec![append(&[noop(1, 2)])]).unwrap();
        assert!(play.writes(B, None, vec![append(&[noop(2, 3)])]).is_err());
    }

    #[test]
    fn equal_logs_in_other_batches_are_fine() {
        let mut play = Play::new(LogMatching::default());
        play.writes(A, None, vec![append(&[noop(1, 1), noop(2, 1), noop(3, 2)])]).unwrap();
        play.writes(B, None, vec![append(&[noop(1, 1)])]).unwrap();
        play.writes(B, None, vec![append(&[noop(2, 1), noop(3, 2)])]).unwrap();
    }
}

//! I10, the shape of a node: snapshot ≤ applied ≤ commit ≤ last; the log starts right after the snapshot and has no
//! holes; terms never decrease along it. Each appended entry is checked when it is appended; now and then the core's
//! own checker walks the log.

use smr::entry::EntryId;
use smr::id::NodeId;
use smr::internals::raft::invariants;

use super::{Property, View};
use crate::ledger::Ledger;
use crate::observation::Observation;

/// The core's checker walks the whole log, so it runs after one in this many steps.
const EVERY_STEPS: u64 = 256;

#[derive(Default)]
pub(super) struct Shape;

fn in_order(node: NodeId, snapshot: EntryId, applied: EntryId, commit: u64, last: EntryId) -> Result<(), String> {
    if snapshot.index <= applied.index && applied.index.0 <= commit && commit <= last.index.0 {
        return Ok(());
    }
    Err(format!("{node}: snapshot {snapshot}, applied {applied}, commit {commit}, last {last}"))
}

impl Property for Shape {
    fn name(&self) -> &'static str {
        "I10 shape of a node"
    }

    fn on(&mut self, observation: &Observation<'_>, ledger: &Ledger) -> Result<(), String> {
        match observation {
            Observation::WriteIssued { node, .. } => {
                let wrong = ledger
                    .appended()
                    .iter()
                    .find(|line| line.id.index != line.previous.index.next() || line.id.term < line.previous.term);
                wrong.map_or(Ok(()), |line| Err(format!("{node} appends {} behind {}", line.id, line.previous)))
            }
            Observation::Started { node, recovered, .. } => {
                let mut before = recovered.snapshot.last;
                for entry in recovered.entries.iter().filter(|entry| entry.id.index > recovered.snapshot.last.index) {
                    if entry.id.index != before.index.next() || entry.id.term < before.term {
                        return Err(format!("{node} starts with {} behind {before}", entry.id));
                    }
                    before = entry.id;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn after_step(&mut self, view: &View<'_>, ledger: &Ledger) -> Result<(), String> {
        for node in view.touched_nodes() {
            let span = invariants::span(node.raft);
            in_order(node.node, span.snapshot, node.applied, span.commit.0, span.last)?;
            if let Some(page) = ledger.page(node.node)
                && page.log.last() != span.last
            {
                return Err(format!(
                    "{} has a log up to {}, by its writes up to {}",
                    node.node,
                    span.last,
                    page.log.last()
                ));
            }
            if view.step.is_multiple_of(EVERY_STEPS) {
                // Panics with the values, which ends the run as well.
                invariants::check(node.raft);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::properties::testing::{A, Play, append, noop};

    // covers I10
    #[test]
    fn hole_and_falling_term_are_rejected() {
        for wrong in [noop(4, 2), noop(2, 2), noop(3, 1)] {
            let mut play = Play::new(Shape);
            play.writes(A, None, vec![append(&[noop(1, 1), noop(2, 2)])]).unwrap();
            assert!(play.writes(A, None, vec![append(&[wrong])]).is_err());
        }
    }

    // covers I10
    #[test]
    fn indexes_out_of_order_are_rejected() {
        let id = |index| EntryId::new(index, 1);
        in_order(A, id(1), id(2), 3, id(4)).unwrap();
        in_order(A, id(1), id(1), 1, id(1)).unwrap();
        assert!(in_order(A, id(3), id(2), 3, id(4)).is_err());
        assert!(in_order(A, id(1), id(4), 3, id(4)).is_err());
        assert!(in_order(A, id(1), id(2), 5, id(4)).is_err());
    }
}

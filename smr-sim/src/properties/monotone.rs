//! I3: what only grows. The durable term never falls; commit and applied index never fall within a run; a restart
//! begins at or above the snapshot that was durable before, the durable part of what was applied.

use std::collections::BTreeMap;

use smr::entry::{Index, Term};
use smr::id::NodeId;
use smr::internals::raft::invariants;

use super::{Property, View};
use crate::ledger::Ledger;
use crate::observation::Observation;

#[derive(Clone, Copy, Debug, Default)]
struct Known {
    durable_term: Term,
    commit: Index,
    applied: Index,
    snapshot: Index,
}

#[derive(Default)]
pub(super) struct Monotone {
    known: BTreeMap<NodeId, Known>,
}

impl Monotone {
    fn look(&mut self, node: NodeId, commit: Index, applied: Index, snapshot: Index) -> Result<(), String> {
        let known = self.known.entry(node).or_default();
        if commit < known.commit || applied < known.applied || snapshot < known.snapshot {
            return Err(format!(
                "{node} falls to commit {commit}, applied {applied}, snapshot {snapshot} from {known:?}"
            ));
        }
        (known.commit, known.applied, known.snapshot) = (commit, applied, snapshot);
        Ok(())
    }
}

impl Property for Monotone {
    fn name(&self) -> &'static str {
        "I3 nothing falls"
    }

    fn on(&mut self, observation: &Observation<'_>, _ledger: &Ledger) -> Result<(), String> {
        match observation {
            Observation::Started { node, recovered, forgot } => {
                let (term, begin) = (recovered.hard_state().term, recovered.snapshot.last.index);
                let known = self.known.entry(*node).or_default();
                if !forgot && term < known.durable_term {
                    return Err(format!("{node} is back in {term:?}, and had {:?} on its device", known.durable_term));
                }
                *known = Known { durable_term: term, commit: begin, applied: begin, snapshot: begin };
                Ok(())
            }
            Observation::WriteDurable { node, write } => {
                let known = self.known.entry(*node).or_default();
                let Some(hard_state) = write.hard_state() else { return Ok(()) };
                if hard_state.term < known.durable_term {
                    return Err(format!("{node} writes {:?} over {:?}", hard_state.term, known.durable_term));
                }
                known.durable_term = hard_state.term;
                Ok(())
            }
            Observation::Applied { node, entry, .. } => {
                let known = self.known.entry(*node).or_default();
                if entry.id.index != known.applied.next() {
                    return Err(format!("{node} applies {} behind {}", entry.id, known.applied));
                }
                known.applied = entry.id.index;
                Ok(())
            }
            Observation::SnapshotInstalled { node, meta, accepted: true } => {
                let known = self.known.entry(*node).or_default();
                if meta.last.index <= known.applied {
                    return Err(format!("{node} installs {} over applied {}", meta.last, known.applied));
                }
                known.applied = meta.last.index;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn after_step(&mut self, view: &View<'_>, ledger: &Ledger) -> Result<(), String> {
        for node in view.touched_nodes() {
            let span = invariants::span(node.raft);
            self.look(node.node, span.commit, node.applied.index, span.snapshot.index)?;
            // What a restart will begin with at least.
            if ledger.page(node.node).is_some_and(|page| page.snapshot.index > node.applied.index) {
                return Err(format!("{} has a snapshot beyond what it applied, {}", node.node, node.applied));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::properties::testing::{A, Play, noop};

    // covers I3
    #[test]
    fn durable_term_that_falls_is_rejected() {
        let mut play = Play::new(Monotone::default());
        play.writes(A, Some((3, None)), vec![]).unwrap();
        assert!(play.writes(A, Some((2, None)), vec![]).is_err());
    }

    // covers I3
    #[test]
    fn restart_in_an_older_term_is_rejected() {
        let mut play = Play::new(Monotone::default());
        play.writes(A, Some((3, None)), vec![]).unwrap();
        assert!(play.restarts(A).is_err());
    }

    // covers I3
    #[test]
    fn entry_applied_twice_or_skipped_is_rejected() {
        for wrong in [2, 4] {
            let mut play = Play::new(Monotone::default());
            play.applies(A, noop(1, 1)).unwrap();
            play.applies(A, noop(2, 1)).unwrap();
            assert!(play.applies(A, noop(wrong, 1)).is_err());
        }
    }

    // covers I3
    #[test]
    fn commit_that_falls_within_a_run_is_rejected() {
        let mut monotone = Monotone::default();
        monotone.look(A, Index(5), Index(4), Index(2)).unwrap();
        assert!(monotone.look(A, Index(4), Index(4), Index(2)).is_err());
        assert!(monotone.look(A, Index(5), Index(3), Index(2)).is_err());
        assert!(monotone.look(A, Index(5), Index(4), Index(1)).is_err());
    }
}

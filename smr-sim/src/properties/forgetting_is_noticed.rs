//! M8: a leader names as committed only what the receiver has acknowledged to it in this term. A node that lacks such
//! an entry has forgotten it, and must not stay in service.

use std::collections::BTreeMap;

use smr::entry::{EntryId, Term};
use smr::id::NodeId;
use smr::internals::protocol::Protocol;
use smr::internals::raft::invariants;
use smr::internals::raft::message::Body;

use super::{Property, View};
use crate::ledger::Ledger;
use crate::observation::Observation;

#[derive(Default)]
pub(super) struct ForgettingIsNoticed {
    /// What each node was told in this step.
    told: BTreeMap<NodeId, (Term, EntryId)>,
}

impl ForgettingIsNoticed {
    fn judge(&self, node: NodeId, term: Term, ledger: &Ledger) -> Result<(), String> {
        let Some((told_in, entry)) = self.told.get(&node).filter(|(told_in, _)| *told_in == term) else {
            return Ok(());
        };
        let Some(page) = ledger.page(node) else { return Ok(()) };
        let has = entry.index < page.log.start().index || page.log.at(entry.index).is_some_and(|(id, _)| id == *entry);
        if has {
            return Ok(());
        }
        Err(format!(
            "{node} was told in {told_in:?} that {entry} is committed, its log ends at {}, and it goes on",
            page.log.last()
        ))
    }
}

impl Property for ForgettingIsNoticed {
    fn name(&self) -> &'static str {
        "M8 forgetting is noticed"
    }

    fn on(&mut self, observation: &Observation<'_>, _ledger: &Ledger) -> Result<(), String> {
        match observation {
            Observation::Received { to, message, .. } => {
                if let Body::Heartbeat { commit, .. } = message.body
                    && commit != EntryId::ZERO
                {
                    self.told.insert(*to, (message.term, commit));
                }
            }
            Observation::Ended { node, .. } => {
                self.told.remove(node);
            }
            _ => {}
        }
        Ok(())
    }

    fn after_step(&mut self, view: &View<'_>, ledger: &Ledger) -> Result<(), String> {
        for node in view.touched_nodes() {
            // Whoever heals knows that it has.
            if !invariants::is_healing(node.raft) && self.told.contains_key(&node.node) {
                self.judge(node.node, node.raft.status().term, ledger)?;
            }
        }
        self.told.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::properties::testing::{A, B, append, noop};
    use smr::internals::raft::Message;

    // covers M8
    #[test]
    fn node_in_service_without_an_entry_that_its_leader_calls_committed_is_rejected() {
        let mut ledger = Ledger::default();
        let changes = vec![append(&[noop(1, 1), noop(2, 2)])];
        let write =
            smr::internals::protocol::Write::new(smr::internals::protocol::WriteId(1), None, changes, Vec::new());
        ledger.note(&Observation::WriteIssued { node: A, write: &write });
        let mut property = ForgettingIsNoticed::default();
        let mut tell = |index: u64, term: u64| {
            let body = Body::Heartbeat {
                round: 1,
                commit: EntryId::new(index, term),
                held_by_all: smr::entry::Index::ZERO,
                lease: None,
            };
            let message = Message { term: Term(2), body };
            property.on(&Observation::Received { from: B, to: A, message: &message }, &ledger).unwrap();
            (property.judge(A, Term(2), &ledger), property.judge(A, Term(3), &ledger))
        };
        assert_eq!(tell(2, 2), (Ok(()), Ok(())));
        assert!(tell(2, 1).0.is_err(), "another one is there");
        let (lacks, later) = tell(3, 2);
        assert!(lacks.is_err());
        assert_eq!(later, Ok(()), "of an older term: no one listens");
    }
}

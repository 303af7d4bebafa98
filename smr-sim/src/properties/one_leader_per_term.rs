//! I1, election safety: over the whole history, not just at this instant, a term has at most one leader (Raft §5.2).
//!
//! Who leads is taken from what a node becomes, and from what it says: only a leader appends, beats and announces
//! commits.

use std::collections::BTreeMap;

use smr::entry::Term;
use smr::id::NodeId;
use smr::internals::raft::message::Body;
use smr::status::Role;

use super::Property;
use crate::ledger::Ledger;
use crate::observation::Observation;

#[derive(Default)]
pub(super) struct OneLeaderPerTerm {
    leaders: BTreeMap<Term, NodeId>,
}

impl Property for OneLeaderPerTerm {
    fn name(&self) -> &'static str {
        "I1 one leader per term"
    }

    fn on(&mut self, observation: &Observation<'_>, _ledger: &Ledger) -> Result<(), String> {
        let (node, term) = match observation {
            Observation::RoleChanged { node, role: Role::Leader, term, .. } => (*node, *term),
            Observation::Sent { from, message, .. } => match message.body {
                Body::Append { .. } | Body::Heartbeat { .. } | Body::Commit { .. } | Body::TimeoutNow => {
                    (*from, message.term)
                }
                _ => return Ok(()),
            },
            _ => return Ok(()),
        };
        let first = *self.leaders.entry(term).or_insert(node);
        if first == node { Ok(()) } else { Err(format!("{first} and {node} both lead {term:?}")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::properties::testing::{A, B, Play};

    // covers I1
    #[test]
    fn second_leader_of_a_term_is_rejected_however_late() {
        let mut play = Play::new(OneLeaderPerTerm::default());
        play.leads(A, 1).unwrap();
        play.leads(B, 2).unwrap();
        play.leads(A, 3).unwrap();
        assert!(play.leads(A, 2).unwrap_err().contains("both lead t2"));
    }

    // covers I1
    #[test]
    fn second_node_that_speaks_as_leader_is_rejected() {
        let mut play = Play::new(OneLeaderPerTerm::default());
        play.leads(A, 1).unwrap();
        let beat = |round| Body::Heartbeat {
            round,
            commit: smr::entry::EntryId::ZERO,
            held_by_all: smr::entry::Index::ZERO,
            lease: None,
        };
        play.sends(A, B, 1, beat(1)).unwrap();
        assert!(play.sends(B, A, 1, beat(1)).is_err());
    }
}

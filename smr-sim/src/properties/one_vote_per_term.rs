//! I2: one vote per term and node, across restarts: in what nodes say, and on their disks.

use std::collections::BTreeMap;

use smr::entry::Term;
use smr::id::NodeId;
use smr::internals::raft::message::Body;

use super::Property;
use crate::ledger::Ledger;
use crate::observation::Observation;

#[derive(Default)]
pub(super) struct OneVotePerTerm {
    votes: BTreeMap<(NodeId, Term), NodeId>,
}

impl OneVotePerTerm {
    fn vote(&mut self, voter: NodeId, term: Term, candidate: NodeId) -> Result<(), String> {
        let first = *self.votes.entry((voter, term)).or_insert(candidate);
        if first == candidate {
            Ok(())
        } else {
            Err(format!("{voter} votes for {first} and for {candidate} in {term:?}"))
        }
    }
}

impl Property for OneVotePerTerm {
    fn name(&self) -> &'static str {
        "I2 one vote per term and node"
    }

    fn on(&mut self, observation: &Observation<'_>, _ledger: &Ledger) -> Result<(), String> {
        match observation {
            Observation::Sent { from, to, message } => match message.body {
                Body::VoteGranted => self.vote(*from, message.term, *to),
                // A candidate's own vote.
                Body::Vote { .. } => self.vote(*from, message.term, *from),
                _ => Ok(()),
            },
            Observation::WriteDurable { node, write } => match write.hard_state() {
                Some(hard_state) => hard_state.vote.map_or(Ok(()), |vote| self.vote(*node, hard_state.term, vote)),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::properties::testing::{A, B, C, Play};

    // covers I2
    #[test]
    fn second_vote_in_a_term_is_rejected_also_after_a_restart() {
        let mut play = Play::new(OneVotePerTerm::default());
        play.sends(A, B, 2, Body::VoteGranted).unwrap();
        play.sends(A, B, 2, Body::VoteGranted).unwrap();
        play.sends(A, C, 3, Body::VoteGranted).unwrap();
        play.restarts(A).unwrap();
        assert!(play.sends(A, C, 2, Body::VoteGranted).is_err());
    }

    // covers I2
    #[test]
    fn own_candidacy_after_a_vote_for_another_is_rejected() {
        let mut play = Play::new(OneVotePerTerm::default());
        play.sends(A, B, 2, Body::VoteGranted).unwrap();
        let vote = Body::Vote { last: smr::entry::EntryId::ZERO, transfer: false };
        assert!(play.sends(A, C, 2, vote).is_err());
    }

    // covers I2
    #[test]
    fn second_vote_on_the_disk_is_rejected() {
        let mut play = Play::new(OneVotePerTerm::default());
        play.writes(A, Some((2, Some(B))), vec![]).unwrap();
        assert!(play.writes(A, Some((2, Some(C))), vec![]).is_err());
    }
}

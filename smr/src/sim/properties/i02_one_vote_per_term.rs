//! I2: one vote per term and node, across restarts, judged by what nodes say.

use std::collections::BTreeMap;

use super::{Happening, Property};
use crate::entry::Term;
use crate::id::NodeId;
use crate::raft::message::Body;

#[derive(Default)]
pub(super) struct OneVotePerTerm {
    votes: BTreeMap<(NodeId, Term), NodeId>,
}

impl Property for OneVotePerTerm {
    fn name(&self) -> &'static str {
        "I2 one vote per term and node"
    }

    fn on(&mut self, happening: &Happening<'_>) -> Result<(), String> {
        let Happening::Sent { from, to, message } = happening else { return Ok(()) };
        let candidate = match message.body {
            Body::VoteGranted => *to,
            // A candidate's own vote.
            Body::Vote { .. } => *from,
            _ => return Ok(()),
        };
        let first = *self.votes.entry((*from, message.term)).or_insert(candidate);
        if first == candidate {
            Ok(())
        } else {
            Err(format!("{from} votes for {first} and for {candidate} in {:?}", message.term))
        }
    }
}

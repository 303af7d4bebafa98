//! I6, leader completeness: whatever was committed in an earlier term is in each later leader's log or under its
//! snapshot (Raft §5.4).
//!
//! An election that took long may end after a later term has committed something; a leader of term T is held to
//! what leaders of terms before T have committed.

use std::collections::BTreeMap;

use smr::entry::{EntryId, Term};
use smr::id::NodeId;
use smr::status::Role;

use super::{Property, View};
use crate::ledger::{Chain, Ledger, Page};
use crate::observation::Observation;

#[derive(Default)]
pub(super) struct LeaderCompleteness {
    /// The last entry that was committed in each term.
    frontier: BTreeMap<Term, (EntryId, Chain)>,
    /// Who leads now.
    leaders: BTreeMap<NodeId, Term>,
    /// To be judged at the end of the step, when their logs are in the books.
    elected: Vec<NodeId>,
}

impl LeaderCompleteness {
    fn judge(&self, leader: NodeId, term: Term, ledger: &Ledger) -> Result<(), String> {
        let earlier = self.frontier.range(..term).map(|(_, last)| *last);
        let Some((id, chain)) = earlier.max_by_key(|(id, _)| id.index) else { return Ok(()) };
        let Some(page) = ledger.page(leader) else { return Ok(()) };
        if page.log.covers(id.index, chain) {
            return Ok(());
        }
        Err(format!("{leader} leads {term:?} without {id}, which was committed before; it ends at {}", page.log.last()))
    }
}

impl Property for LeaderCompleteness {
    fn name(&self) -> &'static str {
        "I6 leader completeness"
    }

    fn on(&mut self, observation: &Observation<'_>, ledger: &Ledger) -> Result<(), String> {
        match observation {
            Observation::RoleChanged { node, role: Role::Leader, term, .. } => {
                self.leaders.insert(*node, *term);
                self.elected.push(*node);
            }
            Observation::RoleChanged { node, .. } | Observation::Ended { node, .. } => {
                self.leaders.remove(node);
                self.elected.retain(|elected| elected != node);
            }
            Observation::Committed { node, entry } if ledger.is_newly_committed() => {
                // The first who knows it is the leader who committed it.
                let term = self.leaders.get(node).copied();
                let term = term.or(ledger.page(*node).map(Page::durable_term)).unwrap_or(entry.id.term);
                let Some(last) = ledger.committed_at(entry.id.index) else { return Ok(()) };
                self.frontier.insert(term, last);
                let later = self.leaders.iter().filter(|(leader, led)| **led > term && !self.elected.contains(leader));
                for (leader, led) in later {
                    self.judge(*leader, *led, ledger)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn after_step(&mut self, _view: &View<'_>, ledger: &Ledger) -> Result<(), String> {
        for node in std::mem::take(&mut self.elected) {
            if let Some(term) = self.leaders.get(&node) {
                self.judge(node, *term, ledger)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::properties::testing::{A, B, Play, append, noop};

    fn committed_by_a() -> Play<LeaderCompleteness> {
        let mut play = Play::new(LeaderCompleteness::default());
        play.writes(A, None, vec![append(&[noop(1, 1), noop(2, 1)])]).unwrap();
        play.leads(A, 1).unwrap();
        play.step().unwrap();
        play.applies(A, noop(1, 1)).unwrap();
        play.applies(A, noop(2, 1)).unwrap();
        play
    }

    // covers I6
    #[test]
    fn leader_that_lacks_a_committed_entry_is_rejected() {
        let mut play = committed_by_a();
        play.writes(B, None, vec![append(&[noop(1, 1)])]).unwrap();
        play.leads(B, 2).unwrap();
        assert!(play.step().unwrap_err().contains("without 2.t1"));
    }

    // covers I6
    #[test]
    fn leader_with_another_entry_in_its_place_is_rejected() {
        let mut play = committed_by_a();
        play.writes(B, None, vec![append(&[noop(1, 1), noop(2, 2), noop(3, 2)])]).unwrap();
        play.leads(B, 3).unwrap();
        assert!(play.step().is_err());
    }

    // covers I6
    #[test]
    fn commit_by_an_old_leader_that_a_new_one_lacks_is_rejected() {
        let mut play = committed_by_a();
        play.writes(B, None, vec![append(&[noop(1, 1), noop(2, 1)])]).unwrap();
        play.leads(B, 2).unwrap();
        play.step().unwrap();
        play.writes(A, None, vec![append(&[noop(3, 1)])]).unwrap();
        assert!(play.applies(A, noop(3, 1)).is_err());
    }

    #[test]
    fn leader_of_a_term_before_the_commit_owes_nothing() {
        let mut play = Play::new(LeaderCompleteness::default());
        play.writes(A, None, vec![append(&[noop(1, 5)])]).unwrap();
        play.leads(A, 5).unwrap();
        play.applies(A, noop(1, 5)).unwrap();
        // Its votes were given before; they only took long.
        play.leads(B, 4).unwrap();
        play.step().unwrap();
    }
}

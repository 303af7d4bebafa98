//! E6, I1: who becomes leader has the votes of a majority of each configuration in force, given in this very term, by
//! exactly these incarnations, and on their devices. Two leaders of a term show only if both come about; this shows the
//! first one that has no right to it.

use std::collections::BTreeMap;

use smr::entry::{HardState, Term};
use smr::id::NodeId;
use smr::status::Role;

use super::{Property, majority};
use crate::ledger::Ledger;
use crate::observation::Observation;

#[derive(Default)]
pub(super) struct ElectedByAMajority {
    /// Whom each node has voted for, durably.
    votes: BTreeMap<(Term, NodeId), NodeId>,
}

impl ElectedByAMajority {
    fn note(&mut self, node: NodeId, hard_state: HardState) {
        if let Some(vote) = hard_state.vote {
            self.votes.insert((hard_state.term, node), vote);
        }
    }
}

impl Property for ElectedByAMajority {
    fn name(&self) -> &'static str {
        "I1 E6 elected by a majority"
    }

    fn on(&mut self, observation: &Observation<'_>, ledger: &Ledger) -> Result<(), String> {
        match observation {
            // A write may have reached the device without anyone hearing of it.
            Observation::Started { node, recovered, .. } => self.note(*node, recovered.hard_state()),
            Observation::WriteDurable { node, write } => {
                if let Some(hard_state) = write.hard_state() {
                    self.note(*node, hard_state);
                }
            }
            Observation::RoleChanged { node, role: Role::Leader, term, .. } => {
                let configuration = ledger.page(*node).and_then(|page| page.log.configuration());
                let Some((_, configuration)) = configuration else {
                    return Err(format!("{node} leads in {term:?} without a configuration"));
                };
                let voted = |voter: &NodeId| self.votes.get(&(*term, *voter)) == Some(node);
                if !majority(configuration, &voted) {
                    let members = configuration.members();
                    let given: Vec<&NodeId> = members.iter().filter(|member| voted(member)).collect();
                    return Err(format!("{node} leads in {term:?} of {configuration:?} with the votes of {given:?}"));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::properties::testing::{A, B, C, D, Play, append, members};

    fn group_of_three() -> Play<ElectedByAMajority> {
        let mut play = Play::new(ElectedByAMajority::default());
        for node in [A, B, C] {
            play.writes(node, None, vec![append(&[members(1, 1, &[A, B, C], &[])])]).unwrap();
        }
        play.writes(A, Some((2, Some(A))), vec![]).unwrap();
        play
    }

    // covers E6 I1
    #[test]
    fn leader_with_the_votes_of_a_majority_is_fine_and_one_without_is_rejected() {
        let mut play = group_of_three();
        assert!(play.leads(A, 2).is_err(), "its own vote alone");
        play.writes(B, Some((2, Some(A))), vec![]).unwrap();
        play.leads(A, 2).unwrap();
    }

    // covers E6
    #[test]
    fn votes_of_an_older_term_of_a_stranger_or_not_on_the_device_do_not_count() {
        let mut play = group_of_three();
        play.writes(B, Some((1, Some(A))), vec![]).unwrap();
        play.writes(D, Some((2, Some(A))), vec![]).unwrap();
        play.issues(C, Some((2, Some(A))), vec![]).unwrap();
        assert!(play.leads(A, 2).is_err());
        play.completes(C).unwrap();
        play.leads(A, 2).unwrap();
    }
}

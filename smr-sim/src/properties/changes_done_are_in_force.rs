//! M12: a change of members that an operator hears to be done was in force, committed, at some moment between question
//! and answer. A leader that was deposed without knowing it must not call the members done that it remembers.

use std::collections::{BTreeMap, BTreeSet};

use smr::entry::Payload;
use smr::id::{NodeId, ReplicaId};
use smr::replica::{Outcome, Request};

use super::Property;
use crate::ledger::Ledger;
use crate::observation::Observation;

type Members = BTreeSet<ReplicaId>;

#[derive(Default)]
pub(super) struct ChangesDoneAreInForce {
    /// The voters of each configuration that was committed, in their order; of a joint one, none.
    committed: Vec<Members>,
    /// By node and tag: who was asked for, and which of those was in force then.
    asked: BTreeMap<(NodeId, u64), (Members, usize)>,
}

impl Property for ChangesDoneAreInForce {
    fn name(&self) -> &'static str {
        "M12 a change that is called done was in force"
    }

    fn on(&mut self, observation: &Observation<'_>, ledger: &Ledger) -> Result<(), String> {
        match observation {
            Observation::Committed { entry, .. } if ledger.is_newly_committed() => {
                if let Payload::Configuration(configuration) = &entry.payload {
                    let is_joint = configuration.is_joint();
                    let voters = configuration.voters.iter().filter(|_| !is_joint);
                    self.committed.push(voters.map(|voter| voter.name).collect());
                }
            }
            Observation::Asked { node, tag, request: Request::Scale { replicas } } => {
                let in_force = self.committed.len().saturating_sub(1);
                self.asked.insert((*node, *tag), (replicas.keys().copied().collect(), in_force));
            }
            Observation::Ended { node, .. } => self.asked.retain(|(asked, _), _| asked != node),
            Observation::Answered { node, tag, outcome } => {
                let Some((wanted, since)) = self.asked.remove(&(*node, *tag)) else { return Ok(()) };
                if **outcome == Outcome::Done && !self.committed[since..].contains(&wanted) {
                    let last = self.committed.last();
                    return Err(format!("{node} calls the change to {wanted:?} done; in force is {last:?}"));
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
    use crate::properties::testing::{A, B, C, Play, members};

    fn asks(play: &mut Play<ChangesDoneAreInForce>, node: NodeId, tag: u64, wanted: &[NodeId]) {
        let replicas = wanted.iter().map(|member| (member.name, String::new())).collect();
        play.feed(&Observation::Asked { node, tag, request: &Request::Scale { replicas } }).unwrap();
    }

    // covers M12
    #[test]
    fn members_of_before_are_not_called_done() {
        let mut play = Play::new(ChangesDoneAreInForce::default());
        play.applies(A, members(1, 1, &[A, B], &[])).unwrap();
        asks(&mut play, A, 1, &[A, B]);
        play.applies(B, members(2, 2, &[A, B, C], &[A, B])).unwrap();
        play.applies(B, members(3, 2, &[A, B, C], &[])).unwrap();
        asks(&mut play, A, 2, &[A, B]);
        asks(&mut play, B, 3, &[A, B, C]);
        play.answers(A, 1, Outcome::Done).unwrap();
        play.answers(B, 3, Outcome::Done).unwrap();
        assert!(play.answers(A, 2, Outcome::Done).is_err());
    }

    // covers M12
    #[test]
    fn change_that_is_not_committed_is_not_done() {
        for (answer, is_right) in [(Outcome::Done, false), (Outcome::Unknown, true)] {
            let mut play = Play::new(ChangesDoneAreInForce::default());
            play.applies(A, members(1, 1, &[A, B], &[])).unwrap();
            asks(&mut play, A, 1, &[A, B, C]);
            play.applies(A, members(2, 1, &[A, B, C], &[A, B])).unwrap();
            assert_eq!(play.answers(A, 1, answer).is_ok(), is_right, "it is joint");
        }
    }
}

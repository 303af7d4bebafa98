//! What a configuration service has decided for one group: part of its replicated state.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::entry::Term;
use crate::epoch::{EpochConfiguration, EpochKind};
use crate::id::NodeId;

/// Names one arbiter: drawn at random when its host becomes the leader of the service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PresiderId(pub u64);

/// The decisions on one group, as far as they still matter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochRecord {
    present: EpochConfiguration,
    /// Members that hold all that was ever committed. Never empty.
    complete: BTreeSet<NodeId>,
    /// Of each present member: since which epoch it has been one without a break.
    member_since: BTreeMap<NodeId, Term>,
    /// Whose decisions count.
    presider: PresiderId,
}

/// A change of the record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EpochDecision {
    /// From now on this arbiter decides, and no other.
    Presides(PresiderId),
    /// The next configuration.
    Next {
        /// Who decides.
        presider: PresiderId,
        /// What.
        configuration: EpochConfiguration,
    },
    /// Every member of this epoch holds all that was ever committed.
    Activated(Term),
}

/// Why a decision does not count. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotDecided {
    /// Another arbiter presides.
    #[error("another arbiter decides by now")]
    AnotherPresides,
    /// It was made for another epoch than the present one.
    #[error("epoch {present} is the present one")]
    Outdated {
        /// The present epoch.
        present: Term,
    },
    /// It would lose something.
    #[error("{0}")]
    Unsound(String),
}

impl EpochRecord {
    /// Of a group that was just founded by these, in this order: epoch 1. All of them hold all that was ever committed,
    /// which is nothing.
    ///
    /// # Panics
    /// If there are no members, or too many: the layout must have been checked.
    pub fn found(kind: EpochKind, members: Vec<NodeId>) -> EpochRecord {
        let present = EpochConfiguration { epoch: Term(1), kind, members, incomplete: None };
        present.validate().unwrap_or_else(|error| panic!("{error}"));
        EpochRecord {
            complete: present.members.iter().copied().collect(),
            member_since: present.members.iter().map(|node| (*node, Term(1))).collect(),
            present,
            presider: PresiderId::default(),
        }
    }

    /// The latest decision.
    pub fn present(&self) -> &EpochConfiguration {
        &self.present
    }

    /// The members that hold all that was ever committed.
    pub fn complete(&self) -> &BTreeSet<NodeId> {
        &self.complete
    }

    /// Whose decisions count.
    pub fn presider(&self) -> PresiderId {
        self.presider
    }

    /// Whether a node belongs to every configuration from this epoch to the present one (K17).
    pub fn is_member_since(&self, node: NodeId, epoch: Term) -> bool {
        self.member_since.get(&node).is_some_and(|since| *since <= epoch) && epoch <= self.present.epoch
    }

    /// Carries out a decision. The same everywhere: depends on the record alone.
    ///
    /// # Errors
    /// If it does not count.
    pub fn apply(&mut self, decision: &EpochDecision) -> Result<(), NotDecided> {
        match decision {
            EpochDecision::Presides(presider) => {
                self.presider = *presider;
                Ok(())
            }
            EpochDecision::Next { presider, .. } if *presider != self.presider => Err(NotDecided::AnotherPresides),
            EpochDecision::Next { configuration, .. } => self.decide(configuration),
            EpochDecision::Activated(epoch) if *epoch != self.present.epoch => {
                Err(NotDecided::Outdated { present: self.present.epoch })
            }
            EpochDecision::Activated(_) => {
                self.complete = self.present.members.iter().copied().collect();
                Ok(())
            }
        }
    }

    fn decide(&mut self, next: &EpochConfiguration) -> Result<(), NotDecided> {
        if next.epoch != self.present.epoch.next() {
            return Err(NotDecided::Outdated { present: self.present.epoch });
        }
        next.validate().map_err(NotDecided::Unsound)?;
        let unsound = |why: &str| Err(NotDecided::Unsound(format!("configuration {next}: {why}")));
        if next.kind != self.present.kind {
            return unsound("the group is of another kind");
        }
        if !self.complete.contains(&next.first()) {
            return unsound("its first is not known to hold all that was ever committed");
        }
        let incomplete = next.members.iter().copied().filter(|node| !self.complete.contains(node));
        if incomplete.ne(next.incomplete) {
            return unsound("it calls others incomplete than those that are");
        }
        self.complete.retain(|node| next.is_member(*node));
        self.member_since.retain(|node, _| next.is_member(*node));
        for member in &next.members {
            self.member_since.entry(*member).or_insert(next.epoch);
        }
        self.present = next.clone();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: u16) -> NodeId {
        NodeId::new(name, 7)
    }

    fn next(record: &EpochRecord, members: &[u16], incomplete: Option<u16>) -> EpochDecision {
        let configuration = EpochConfiguration {
            epoch: record.present.epoch.next(),
            kind: record.present.kind,
            members: members.iter().map(|name| node(*name)).collect(),
            incomplete: incomplete.map(node),
        };
        EpochDecision::Next { presider: record.presider, configuration }
    }

    fn record() -> EpochRecord {
        EpochRecord::found(EpochKind::Chain, vec![node(0), node(1), node(2)])
    }

    // covers K2
    #[test]
    fn first_is_complete_and_only_an_activation_of_the_present_epoch_makes_one_so() {
        let mut record = record();
        record.apply(&next(&record, &[0, 1], None)).unwrap();
        record.apply(&next(&record, &[0, 1, 2], Some(2))).unwrap();
        let led_by_newcomer = next(&record, &[2], None);
        assert!(matches!(record.clone().apply(&led_by_newcomer), Err(NotDecided::Unsound(_))));
        assert!(matches!(record.apply(&next(&record, &[0, 1, 2], None)), Err(NotDecided::Unsound(_))));
        assert_eq!(record.apply(&EpochDecision::Activated(Term(2))), Err(NotDecided::Outdated { present: Term(3) }));
        assert!(!record.complete.contains(&node(2)));
        record.apply(&EpochDecision::Activated(Term(3))).unwrap();
        record.apply(&next(&record, &[2], None)).unwrap();
        assert_eq!(record.complete, [node(2)].into());
    }

    // covers K17
    #[test]
    fn member_that_left_and_came_back_is_none_since_before() {
        let mut record = record();
        record.apply(&next(&record, &[0, 1], None)).unwrap();
        record.apply(&next(&record, &[0, 1, 2], Some(2))).unwrap();
        assert!(record.is_member_since(node(0), Term(1)));
        assert!(!record.is_member_since(node(2), Term(1)) && !record.is_member_since(node(2), Term(2)));
        assert!(record.is_member_since(node(2), Term(3)));
        assert!(!record.is_member_since(node(0), Term(4)), "no one is in an epoch to come");
    }

    #[test]
    fn decisions_of_another_arbiter_or_for_another_epoch_change_nothing() {
        let mut record = record();
        let of_former = next(&record, &[0], None);
        record.apply(&EpochDecision::Presides(PresiderId(5))).unwrap();
        assert_eq!(record.apply(&of_former), Err(NotDecided::AnotherPresides));
        let twice = next(&record, &[0, 1], None);
        record.apply(&twice).unwrap();
        assert_eq!(record.apply(&twice), Err(NotDecided::Outdated { present: Term(2) }));
    }
}

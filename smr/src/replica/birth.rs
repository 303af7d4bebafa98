//! How a group comes into being, and how a fresh directory learns that it missed that moment.
//!
//! A directory without a past is *unborn*: it neither votes, campaigns nor acknowledges. Unborn replicas tell each
//! other their incarnations. One that has seen all seats of the group, or is shown a genesis that names its own
//! incarnation, is a *founder*: it writes the genesis as entry 1 of term 1, then its birth, and only then takes part.
//! So a first start needs every replica once, in any order, and afterwards a majority.
//!
//! One that meets a group which does not know its incarnation came too late: its seat belongs to another life, whose
//! promises it does not remember (amnesia, fault catalogue M6). It stays out until an operator readmits it; then the
//! group's configuration names it, and it is *taken in* with an empty log.
//!
//! Two replicas may found different groups only if a directory was emptied in the middle of the first start. Their
//! genesis hashes differ, so they refuse each other (M10), and at most one of the two groups has a majority.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::entry::{Configuration, Genesis, GenesisHash};
use crate::id::{ClusterId, GroupName, Incarnation, NodeId, NodeName};

/// What replicas tell each other about their birth.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BirthMessage {
    /// The sender is unborn, and knows these seats of its group.
    Unborn {
        /// All seats, its own among them.
        seats: BTreeSet<NodeName>,
    },
    /// The sender is born.
    Born {
        /// The hash of its group's genesis.
        genesis: GenesisHash,
        /// The genesis itself, if the sender is a founder.
        founders: Option<Genesis>,
        /// The members, as far as the sender knows.
        configuration: Configuration,
    },
}

/// What an unborn replica concludes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not enough is known.
    Wait,
    /// It is a founder of this group.
    Founder(Genesis),
    /// The group has taken it in.
    TakenIn(GenesisHash),
    /// The group exists and does not know this incarnation, or is no group that fits.
    Stranger(String),
}

/// An unborn replica's view of its group.
#[derive(Debug)]
pub struct Unborn {
    node: NodeId,
    cluster: Option<ClusterId>,
    group: GroupName,
    seats: BTreeSet<NodeName>,
    /// False for a life that follows a quarantined one: it knows that the group exists.
    may_found: bool,
    /// The latest incarnation seen on each seat, its own included.
    seen: BTreeMap<NodeName, Incarnation>,
}

impl Unborn {
    /// A replica `node` of `group`, whose seats are `seats` (its own among them).
    pub fn new(
        node: NodeId,
        cluster: Option<ClusterId>,
        group: GroupName,
        seats: BTreeSet<NodeName>,
        may_found: bool,
    ) -> Unborn {
        assert!(seats.contains(&node.name), "{node} has no seat among {seats:?}");
        let seen = BTreeMap::from([(node.name, node.incarnation)]);
        Unborn { node, cluster, group, seats, may_found, seen }
    }

    /// What it tells everybody, again and again.
    pub fn message(&self) -> BirthMessage {
        BirthMessage::Unborn { seats: self.seats.clone() }
    }

    /// What follows from what is known: a group of one is founded at once.
    pub fn verdict(&self) -> Verdict {
        if !self.may_found || self.seen.len() < self.seats.len() {
            return Verdict::Wait;
        }
        let members = self.seen.iter().map(|(&name, &incarnation)| NodeId { name, incarnation }).collect();
        Verdict::Founder(Genesis { cluster: self.cluster, group: self.group.clone(), members })
    }

    /// Takes in what another replica says.
    pub fn receive(&mut self, from: NodeId, message: &BirthMessage) -> Verdict {
        match message {
            BirthMessage::Unborn { seats } if *seats != self.seats => Verdict::Stranger(format!(
                "replica {from} counts {} replicas in group {}, this one {}",
                seats.len(),
                self.group,
                self.seats.len()
            )),
            BirthMessage::Unborn { .. } => {
                if self.seats.contains(&from.name) && from.name != self.node.name {
                    self.seen.insert(from.name, from.incarnation);
                }
                self.verdict()
            }
            BirthMessage::Born { genesis, founders, configuration } => {
                if let Some(founders) = founders
                    && founders.members.contains(&self.node)
                    && founders.hash() == *genesis
                    && founders.group == self.group
                    && founders.cluster == self.cluster
                {
                    return Verdict::Founder(founders.clone());
                }
                if configuration.is_member(self.node) {
                    return Verdict::TakenIn(*genesis);
                }
                Verdict::Stranger(format!(
                    "group {} exists and does not know incarnation {} of replica {}: readmit it",
                    self.group, self.node.incarnation, self.node.name
                ))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unborn(name: u16, incarnation: u64, seats: u16) -> Unborn {
        let group: GroupName = "g".parse().unwrap();
        Unborn::new(NodeId::new(name, incarnation), Some(ClusterId(1)), group, (0..seats).map(NodeName).collect(), true)
    }

    fn genesis(incarnations: &[u64]) -> Genesis {
        Genesis {
            cluster: Some(ClusterId(1)),
            group: "g".parse().unwrap(),
            members: (0..).zip(incarnations).map(|(name, &incarnation)| NodeId::new(name, incarnation)).collect(),
        }
    }

    fn born(genesis: &Genesis, configuration: Configuration) -> BirthMessage {
        BirthMessage::Born { genesis: genesis.hash(), founders: Some(genesis.clone()), configuration }
    }

    #[test]
    fn unborn_alone_founds_a_group_of_one() {
        assert_eq!(unborn(0, 10, 1).verdict(), Verdict::Founder(genesis(&[10])));
    }

    #[test]
    fn unborn_all_seats_seen_founds_the_same_group_everywhere() {
        let mut nodes: Vec<Unborn> = (0..3).map(|name| unborn(name, 10 + u64::from(name), 3)).collect();
        let ids: Vec<NodeId> = nodes.iter().map(|node| node.node).collect();
        for node in &mut nodes {
            let own = node.node;
            let mut verdict = node.verdict();
            for &id in ids.iter().filter(|&&id| id != own) {
                assert_eq!(verdict, Verdict::Wait);
                verdict = node.receive(id, &BirthMessage::Unborn { seats: (0..3).map(NodeName).collect() });
            }
            assert_eq!(verdict, Verdict::Founder(genesis(&[10, 11, 12])));
        }
    }

    #[test]
    fn unborn_shown_a_genesis_with_its_incarnation_is_founder() {
        let genesis = genesis(&[10, 11, 12]);
        let message = born(&genesis, Configuration::of(genesis.members.iter().copied()));
        assert_eq!(unborn(1, 11, 3).receive(NodeId::new(0, 10), &message), Verdict::Founder(genesis));
    }

    // covers M6: an emptied directory under an old name must not take part.
    #[test]
    fn unborn_of_unknown_incarnation_meeting_a_group_stays_out() {
        let genesis = genesis(&[10, 11, 12]);
        let message = born(&genesis, Configuration::of(genesis.members.iter().copied()));
        let mut emptied = unborn(1, 99, 3);
        assert!(matches!(emptied.receive(NodeId::new(0, 10), &message), Verdict::Stranger(_)));
        // Nor does it found a group with another one that was emptied, as long as a third seat is silent.
        let other = BirthMessage::Unborn { seats: (0..3).map(NodeName).collect() };
        assert_eq!(emptied.receive(NodeId::new(2, 98), &other), Verdict::Wait);
    }

    #[test]
    fn unborn_named_by_a_later_configuration_is_taken_in() {
        let genesis = genesis(&[10, 11, 12]);
        let mut configuration = Configuration::of(genesis.members.iter().copied());
        configuration.learners.insert(NodeId::new(1, 99));
        let message = born(&genesis, configuration);
        assert_eq!(unborn(1, 99, 3).receive(NodeId::new(0, 10), &message), Verdict::TakenIn(genesis.hash()));
    }

    // covers M10
    #[test]
    fn unborn_with_another_member_list_is_a_stranger() {
        let message = BirthMessage::Unborn { seats: (0..5).map(NodeName).collect() };
        assert!(matches!(unborn(0, 10, 3).receive(NodeId::new(1, 11), &message), Verdict::Stranger(_)));
    }

    #[test]
    fn unborn_after_quarantine_never_founds() {
        let group: GroupName = "g".parse().unwrap();
        let seats = BTreeSet::from([NodeName(0)]);
        let node = Unborn::new(NodeId::new(0, 10), Some(ClusterId(1)), group, seats, false);
        assert_eq!(node.verdict(), Verdict::Wait);
    }
}

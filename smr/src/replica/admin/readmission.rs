//! Readmission: the new incarnation of a replica takes the place of the old one.
//!
//! It joins as a learner beside the old member, catches up, and then one joint change puts it into the old one's
//! place; so the number of failures that the group survives never falls on the way. The leader looks at the
//! configuration in force and takes the next step from there. So a readmission that a failover interrupts is simply
//! asked for again.

use std::collections::BTreeMap;

use crate::id::{Incarnation, NodeId, ReplicaId};
use crate::protocol::{CoreStatus, Time};
use crate::raft::Change;
use crate::replica::Outcome;
use crate::status::Role;

/// Why a readmission is refused while another one is under way.
pub const READMISSION_UNDER_WAY: &str = "another readmission is under way";
/// In the reason why a readmission is refused that there is nothing to do for: the replica's present incarnation is in
/// the configuration.
pub const MEMBER_ALREADY: &str = "is a member already";
/// How long the leader tries before it gives up, in microseconds. A large snapshot must fit.
const TIMEOUT_US: u64 = 600_000_000;
/// An incarnation that was met within this time counts as present, in microseconds.
const PRESENT_US: u64 = 3_000_000;
/// A member that was heard within this time counts as alive, in microseconds.
const ALIVE_US: u64 = 1_500_000;
/// A newcomer that has been silent for this long gives way to another readmission, in microseconds. It may come back
/// and go on as long as no one asks.
const SILENT_US: u64 = 10_000_000;

/// Which incarnations were met lately of which replica, members or not.
#[derive(Debug, Default)]
pub struct ConnectedPeers {
    met: BTreeMap<ReplicaId, (Incarnation, Time)>,
}

impl ConnectedPeers {
    /// This incarnation was met.
    pub fn met(&mut self, now: Time, node: NodeId) {
        self.met.insert(node.name, (node.incarnation, now));
    }

    pub(super) fn present(&self, now: Time, name: ReplicaId) -> Option<NodeId> {
        let &(incarnation, at) = self.met.get(&name)?;
        (now.since_us(at) <= PRESENT_US).then_some(NodeId { name, incarnation })
    }
}

/// A readmission under way.
#[derive(Debug)]
pub struct Readmission {
    /// `None` if no node has this number: the group was recovered from the directory of one replica.
    outgoing: Option<NodeId>,
    incoming: NodeId,
    began_at: Time,
    give_up_at: Time,
}

/// What the leader does next.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// Nothing yet.
    Wait,
    /// Asks the core for this change of members.
    Change(Change),
    /// Tell the operator.
    End(Outcome),
}

impl Readmission {
    /// Begins, if it makes sense: the replica has a voter of a previous incarnation that is silent, and a new one that
    /// is there.
    ///
    /// # Errors
    /// What to tell the operator.
    pub fn start(
        now: Time,
        name: ReplicaId,
        status: &CoreStatus,
        connected_peers: &ConnectedPeers,
    ) -> Result<Readmission, Outcome> {
        let refused = |why: String| Err(Outcome::Refused(why));
        let outgoing = status.configuration.voters.iter().find(|voter| voter.name == name).copied();
        if outgoing == Some(status.node) {
            return refused(format!("replica {name} leads the group"));
        }
        let alive = |node: NodeId| {
            status
                .peers
                .iter()
                .any(|peer| peer.node == node && peer.heard_at.is_some_and(|heard| now.since_us(heard) <= ALIVE_US))
        };
        let incoming = connected_peers.present(now, name);
        // A replica is one process at a time, so one of another incarnation proves that this one is gone,
        // however lately it spoke.
        let is_succeeded = incoming.is_some() && incoming != outgoing;
        if let Some(outgoing) = outgoing
            && alive(outgoing)
            && !is_succeeded
        {
            return refused(format!("replica {outgoing} is alive and votes"));
        }
        let Some(incoming) = incoming else {
            if outgoing.is_none() {
                return refused(format!("the group has no replica {name}: start its replica first"));
            }
            return refused(format!("no new incarnation of replica {name} is there: start it first"));
        };
        if Some(incoming) == outgoing {
            let what = "once it runs it needs no readmission, and what is damaged heals by itself";
            return refused(format!("replica {incoming} {MEMBER_ALREADY}; {what}"));
        }
        let voters = &status.configuration.voters;
        let up =
            voters.iter().filter(|&&voter| voter == status.node || (alive(voter) && Some(voter) != outgoing)).count();
        if up * 2 <= voters.len() {
            return refused(format!("only {up} of {} members are alive: no majority", voters.len()));
        }
        Ok(Readmission { outgoing, incoming, began_at: now, give_up_at: now.plus_us(TIMEOUT_US) })
    }

    /// What follows from the configuration in force.
    pub fn next(&self, now: Time, status: &CoreStatus) -> Step {
        if status.role != Role::Leader {
            return Step::End(Outcome::Unknown);
        }
        if now >= self.give_up_at {
            return Step::End(Outcome::Refused(format!("replica {} does not catch up", self.incoming)));
        }
        let configuration = &status.configuration;
        if configuration.is_joint() || status.configuration_index > status.commit {
            return Step::Wait;
        }
        let is_replaced = self.outgoing.is_none_or(|outgoing| !configuration.voters.contains(&outgoing));
        if configuration.voters.contains(&self.incoming) && is_replaced {
            return Step::End(Outcome::Done);
        }
        // A learner of this replica from an earlier try whose directory was emptied once more.
        let stale = configuration
            .learners
            .iter()
            .find(|learner| learner.name == self.incoming.name && **learner != self.incoming);
        if let Some(&stale) = stale {
            return Step::Change(Change::RemoveLearner(stale));
        }
        if !configuration.learners.contains(&self.incoming) {
            return Step::Change(Change::AddLearner(self.incoming));
        }
        let incoming = self.incoming;
        Step::Change(match self.outgoing {
            Some(outgoing) => Change::Replace { incoming, outgoing },
            None => Change::Voters(configuration.voters.iter().copied().chain([incoming]).collect()),
        })
    }

    /// Why this readmission gives way to a new request for replica `name`, if it does: its newcomer is gone for good,
    /// so that waiting for it would only keep the operator from what has to be done (its directory was emptied once
    /// more, say).
    pub fn gives_way(
        &self,
        now: Time,
        name: ReplicaId,
        status: &CoreStatus,
        connected_peers: &ConnectedPeers,
    ) -> Option<String> {
        let Readmission { incoming, began_at, .. } = *self;
        if let Some(present) = connected_peers.present(now, name)
            && name == incoming.name
            && present.incarnation != incoming.incarnation
        {
            return Some(format!("replica {present} is there instead of {incoming}"));
        }
        let heard_at = status.peers.iter().find(|peer| peer.node == incoming).and_then(|peer| peer.heard_at);
        let silent_us = now.since_us(heard_at.map_or(began_at, |heard| heard.max(began_at)));
        (silent_us > SILENT_US).then(|| format!("replica {incoming} has been silent for {} s", silent_us / 1_000_000))
    }

    /// Who comes and who goes, for reports.
    pub fn describe(&self) -> String {
        match self.outgoing {
            Some(outgoing) => format!("replica {} for {outgoing}", self.incoming),
            None => format!("replica {} for no one", self.incoming),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{Configuration, EntryId, Index, Term};
    use crate::protocol::PeerStatus;

    const OLD: NodeId = NodeId::new(2, 12);
    const FIRST: NodeId = NodeId::new(2, 22);
    const SECOND: NodeId = NodeId::new(2, 32);

    /// Replica 0 leads, 1 was heard just now, and each of `heard` at its time.
    fn status(now: Time, heard: &[(NodeId, Time)]) -> CoreStatus {
        let (leader, other) = (NodeId::new(0, 10), NodeId::new(1, 11));
        let heard = [(other, now)].into_iter().chain(heard.iter().copied());
        let peers = heard.map(|(node, at)| PeerStatus {
            node,
            match_index: Index::ZERO,
            heard_at: Some(at),
            needs_snapshot: false,
            disk_is_slow: false,
        });
        CoreStatus {
            node: leader,
            role: Role::Leader,
            term: Term(2),
            leader: Some(leader),
            log_start: EntryId::ZERO,
            last: EntryId::ZERO,
            commit: Index::ZERO,
            durable: Index::ZERO,
            log_bytes: 0,
            configuration: Configuration::of([leader, other, OLD]),
            configuration_index: Index::ZERO,
            reads: crate::status::ReadMode::Index,
            peers: peers.collect(),
        }
    }

    fn begun(now: Time) -> (Readmission, ConnectedPeers) {
        let mut connected_peers = ConnectedPeers::default();
        connected_peers.met(now, FIRST);
        let readmission = Readmission::start(now, OLD.name, &status(now, &[]), &connected_peers).unwrap();
        (readmission, connected_peers)
    }

    fn refusal(name: u16, status: &CoreStatus, connected_peers: &ConnectedPeers) -> String {
        match Readmission::start(Time(10_000_000), ReplicaId(name), status, connected_peers) {
            Err(Outcome::Refused(why)) => why,
            other => panic!("{other:?}"),
        }
    }

    // covers D21
    #[test]
    fn readmission_without_sense_or_majority_is_refused_with_the_reason() {
        let now = Time(10_000_000);
        let mut connected_peers = ConnectedPeers::default();
        let quiet = status(now, &[]);
        assert!(refusal(9, &quiet, &connected_peers).contains("no replica 9"));
        assert!(refusal(0, &quiet, &connected_peers).contains("leads the group"));
        assert!(refusal(2, &quiet, &connected_peers).contains("start it first"), "no one is there");
        connected_peers.met(Time(now.0 - PRESENT_US - 1), FIRST);
        assert!(refusal(2, &quiet, &connected_peers).contains("start it first"), "it was there, but long ago");
        connected_peers.met(now, OLD);
        assert!(refusal(2, &quiet, &connected_peers).contains("is a member already"));
        assert!(refusal(2, &status(now, &[(OLD, now)]), &connected_peers).contains("alive and votes"));
        connected_peers.met(now, FIRST);
        let just_lost = Readmission::start(now, OLD.name, &status(now, &[(OLD, now)]), &connected_peers);
        assert!(just_lost.is_ok(), "it was heard a moment ago, and another one is in its place: {just_lost:?}");
        // The other member was last heard too long ago: the leader alone is no majority.
        assert!(refusal(2, &status(Time(now.0 - ALIVE_US - 1), &[]), &connected_peers).contains("no majority"));
        assert!(Readmission::start(now, OLD.name, &quiet, &connected_peers).is_ok());
    }

    // covers D28
    #[test]
    fn readmission_of_a_replica_that_has_no_node_adds_a_voter() {
        let now = Time(10_000_000);
        let mut connected_peers = ConnectedPeers::default();
        let alone = |learners: &[NodeId], voters: &[NodeId]| CoreStatus {
            configuration: Configuration {
                learners: learners.iter().copied().collect(),
                ..Configuration::of(voters.iter().copied())
            },
            ..status(now, &[])
        };
        let leader = NodeId::new(0, 10);
        assert!(refusal(2, &alone(&[], &[leader]), &connected_peers).contains("start its replica first"));
        connected_peers.met(now, FIRST);
        let readmission = Readmission::start(now, FIRST.name, &alone(&[], &[leader]), &connected_peers).unwrap();
        assert_eq!(readmission.next(now, &alone(&[], &[leader])), Step::Change(Change::AddLearner(FIRST)));
        let both = Change::Voters([leader, FIRST].into());
        assert_eq!(readmission.next(now, &alone(&[FIRST], &[leader])), Step::Change(both));
        assert_eq!(readmission.next(now, &alone(&[], &[leader, FIRST])), Step::End(Outcome::Done));
    }

    #[test]
    fn readmission_of_newcomer_that_is_there_keeps_others_out() {
        let (readmission, mut connected_peers) = begun(Time(1));
        let now = Time(60_000_000);
        connected_peers.met(now, FIRST);
        assert_eq!(readmission.gives_way(now, OLD.name, &status(now, &[(FIRST, now)]), &connected_peers), None);
        assert_eq!(readmission.gives_way(now, ReplicaId(1), &status(now, &[(FIRST, now)]), &connected_peers), None);
    }

    #[test]
    fn readmission_of_newcomer_emptied_once_more_gives_way_to_its_successor() {
        let (readmission, mut connected_peers) = begun(Time(1));
        connected_peers.met(Time(2), SECOND);
        let why = readmission.gives_way(Time(2), OLD.name, &status(Time(2), &[(FIRST, Time(1))]), &connected_peers);
        assert!(why.is_some_and(|why| why.contains("is there instead")));
    }

    #[test]
    fn readmission_of_newcomer_long_silent_gives_way_to_any_other() {
        let (readmission, connected_peers) = begun(Time(1));
        let status = |now| status(now, &[(FIRST, Time(1_000))]);
        assert_eq!(
            readmission.gives_way(Time(SILENT_US), ReplicaId(1), &status(Time(SILENT_US)), &connected_peers),
            None
        );
        let late = Time(SILENT_US + 2_000);
        assert!(readmission.gives_way(late, ReplicaId(1), &status(late), &connected_peers).is_some());
    }
}

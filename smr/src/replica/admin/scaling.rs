//! Other members: the group goes over to the replicas that an operator names, in one joint change.
//!
//! Their addresses come first, by a command in the log, so that every member can reach the newcomers and knows them
//! when they call. Then the newcomers join as learners and catch up; then one joint change puts all of them in and all
//! others out. The leader looks at the configuration in force and takes the next step from there, so a change that a
//! failover interrupts is simply asked for again; asked for once more when it is done, it is done.

use std::collections::{BTreeMap, BTreeSet};

use super::readmission::ConnectedPeers;
use crate::id::{NodeId, ReplicaId};
use crate::protocol::{CoreStatus, Time};
use crate::raft::{Change, MEMBERS_MAX};
use crate::replica::Outcome;
use crate::session::are_sensible;
use crate::status::Role;

/// Why a change of members is refused while another one is under way.
pub const CHANGE_UNDER_WAY: &str = "another change of members is under way";
/// How long the leader tries before it gives up, in microseconds. A large snapshot must fit.
const TIMEOUT_US: u64 = 600_000_000;
/// How long it waits for a newcomer that is not there, in microseconds.
const ABSENT_TIMEOUT_US: u64 = 30_000_000;
/// A member that was heard within this time counts as alive, in microseconds.
const ALIVE_US: u64 = 1_500_000;
/// Addresses that are not applied by then are proposed again, in microseconds.
const PROPOSE_AGAIN_US: u64 = 2_000_000;

/// A change of members under way.
#[derive(Debug)]
pub struct Scaling {
    /// The replicas that are to vote, and where they are reached; an empty address says nothing.
    wanted: BTreeMap<ReplicaId, String>,
    give_up_at: Time,
    absent_until: Time,
    proposed_at: Option<Time>,
}

/// What the leader does next.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// Nothing yet.
    Wait,
    /// Proposes these addresses.
    Propose(BTreeMap<ReplicaId, String>),
    /// Asks the core for this change of members.
    Change(Change),
    /// Tell the operator.
    End(Outcome),
}

impl Scaling {
    /// Begins, if it makes sense.
    ///
    /// # Errors
    /// What to tell the operator.
    pub fn start(now: Time, wanted: BTreeMap<ReplicaId, String>, status: &CoreStatus) -> Result<Scaling, Outcome> {
        let refused = |why: String| Err(Outcome::Refused(why));
        if wanted.is_empty() {
            return refused("the last replica of a group cannot be removed".to_owned());
        }
        if wanted.len() > MEMBERS_MAX {
            return refused(format!("{} replicas; a group has {MEMBERS_MAX} members at most", wanted.len()));
        }
        if !are_sensible(&wanted) {
            return refused("an address is too long".to_owned());
        }
        let voters = &status.configuration.voters;
        let stays = |node: &&NodeId| wanted.contains_key(&node.name);
        let newcomers = wanted.keys().filter(|name| voters.iter().all(|voter| voter.name != **name)).count();
        let alive = voters.iter().filter(stays).filter(|voter| is_alive(now, status, **voter)).count() + newcomers;
        if alive * 2 <= wanted.len() {
            let of = wanted.len();
            return refused(format!("only {alive} of the {of} replicas that would be left are alive: no majority"));
        }
        let (give_up_at, absent_until) = (now.plus_us(TIMEOUT_US), now.plus_us(ABSENT_TIMEOUT_US));
        Ok(Scaling { wanted, give_up_at, absent_until, proposed_at: None })
    }

    /// What follows from the configuration in force, and the addresses that are known.
    pub fn next(
        &mut self,
        now: Time,
        status: &CoreStatus,
        known: &BTreeMap<ReplicaId, String>,
        connected_peers: &ConnectedPeers,
    ) -> Step {
        if status.role != Role::Leader {
            return Step::End(Outcome::Unknown);
        }
        let configuration = &status.configuration;
        if configuration.is_joint() || status.configuration_index > status.commit {
            return if now >= self.give_up_at { Step::End(Outcome::Unknown) } else { Step::Wait };
        }
        let lacks = |(name, address): &(&ReplicaId, &String)| {
            !address.is_empty() && known.get(*name).is_none_or(|known| known != *address)
        };
        let new: BTreeMap<ReplicaId, String> =
            self.wanted.iter().filter(lacks).map(|(name, address)| (*name, address.clone())).collect();
        if !new.is_empty() {
            if now >= self.absent_until {
                return Step::End(Outcome::Refused("the addresses could not be recorded".to_owned()));
            }
            if self.proposed_at.is_some_and(|at| now.since_us(at) < PROPOSE_AGAIN_US) {
                return Step::Wait;
            }
            self.proposed_at = Some(now);
            return Step::Propose(new);
        }
        let mut target = BTreeSet::new();
        for name in self.wanted.keys() {
            if let Some(voter) = configuration.voters.iter().find(|voter| voter.name == *name) {
                target.insert(*voter);
                continue;
            }
            let learner = configuration.learners.iter().find(|learner| learner.name == *name).copied();
            match (connected_peers.present(now, *name), learner) {
                (Some(present), Some(learner)) if present != learner => {
                    return Step::Change(Change::RemoveLearner(learner));
                }
                (Some(present), None) => return Step::Change(Change::AddLearner(present)),
                (_, Some(learner)) => {
                    target.insert(learner);
                }
                (None, None) if now >= self.absent_until => {
                    return Step::End(Outcome::Refused(format!("replica {name} is not there: start it first")));
                }
                (None, None) => return Step::Wait,
            }
        }
        if target == configuration.voters {
            return Step::End(Outcome::Done);
        }
        if now >= self.give_up_at {
            return Step::End(Outcome::Refused(format!("{} does not catch up", self.describe())));
        }
        // Someone may have died, or come back as another one, since it began.
        let is_there = |node: &&NodeId| {
            is_alive(now, status, **node)
                && connected_peers.present(now, node.name).is_none_or(|present| present == **node)
        };
        if target.iter().filter(is_there).count() * 2 <= target.len() {
            return Step::Wait;
        }
        Step::Change(Change::Voters(target))
    }

    /// Whether this is what is under way.
    pub fn is_for(&self, replicas: &BTreeMap<ReplicaId, String>) -> bool {
        self.wanted == *replicas
    }

    /// Who is to belong to the group, for reports.
    pub fn describe(&self) -> String {
        let names: Vec<String> = self.wanted.keys().map(ToString::to_string).collect();
        format!("the group of replicas {}", names.join(", "))
    }
}

/// Whether this node itself, or a member that was heard lately.
fn is_alive(now: Time, status: &CoreStatus, node: NodeId) -> bool {
    let heard = |at: Option<Time>| at.is_some_and(|at| now.since_us(at) <= ALIVE_US);
    node == status.node || status.peers.iter().any(|peer| peer.node == node && heard(peer.heard_at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{Configuration, EntryId, Index, Term};
    use crate::protocol::PeerStatus;

    const NOW: Time = Time(100_000_000);

    fn node(name: u16) -> NodeId {
        NodeId::new(name, u64::from(name) + 10)
    }

    /// Replica 0 leads; `alive` were heard just now.
    fn status(voters: &[u16], learners: &[u16], alive: &[u16]) -> CoreStatus {
        let peers = alive.iter().map(|name| PeerStatus {
            node: node(*name),
            match_index: Index::ZERO,
            heard_at: Some(NOW),
            needs_snapshot: false,
            disk_is_slow: false,
        });
        CoreStatus {
            node: node(0),
            role: Role::Leader,
            term: Term(2),
            leader: Some(node(0)),
            log_start: EntryId::ZERO,
            last: EntryId::ZERO,
            commit: Index::ZERO,
            durable: Index::ZERO,
            log_bytes: 0,
            configuration: Configuration {
                learners: learners.iter().map(|name| node(*name)).collect(),
                ..Configuration::of(voters.iter().map(|name| node(*name)))
            },
            configuration_index: Index::ZERO,
            reads: crate::status::ReadMode::Index,
            peers: peers.collect(),
        }
    }

    fn wanted(names: &[u16]) -> BTreeMap<ReplicaId, String> {
        names.iter().map(|name| (ReplicaId(*name), format!("h:{name}"))).collect()
    }

    fn refusal(names: &[u16], status: &CoreStatus) -> String {
        match Scaling::start(NOW, wanted(names), status) {
            Err(Outcome::Refused(why)) => why,
            other => panic!("{other:?}"),
        }
    }

    // covers M2
    #[test]
    fn scaling_to_no_one_to_too_many_or_to_those_who_are_down_is_refused_with_the_reason() {
        let all = status(&[0, 1, 2], &[], &[1, 2]);
        assert!(refusal(&[], &all).contains("last replica"));
        assert!(refusal(&(0..=MEMBERS_MAX as u16).collect::<Vec<_>>(), &all).contains("at most"));
        let two_down = status(&[0, 1, 2], &[], &[]);
        assert!(refusal(&[1], &two_down).contains("no majority"), "the one that would be left is down");
        assert!(refusal(&[0, 1], &two_down).contains("no majority"));
        assert!(Scaling::start(NOW, wanted(&[0, 1, 3, 4]), &two_down).is_ok(), "newcomers count");
        let long = [(ReplicaId(0), "x".repeat(400))].into();
        assert!(matches!(Scaling::start(NOW, long, &all), Err(Outcome::Refused(why)) if why.contains("too long")));
    }

    // covers M5
    #[test]
    fn scaling_makes_addresses_known_then_learners_then_one_joint_change() {
        let mut connected_peers = ConnectedPeers::default();
        let three = |learners: &[u16]| status(&[0, 1, 2], learners, &[1, 2]);
        let mut scaling = Scaling::start(NOW, wanted(&[0, 1, 2, 3, 4]), &three(&[])).unwrap();
        let all = wanted(&[0, 1, 2, 3, 4]);
        assert_eq!(
            scaling.next(NOW, &three(&[]), &wanted(&[0, 1, 2]), &connected_peers),
            Step::Propose(wanted(&[3, 4]))
        );
        assert_eq!(scaling.next(NOW, &three(&[]), &BTreeMap::new(), &connected_peers), Step::Wait, "once is enough");
        assert_eq!(scaling.next(NOW, &three(&[]), &all, &connected_peers), Step::Wait, "no one has come yet");
        connected_peers.met(NOW, node(3));
        let add = |name| Step::Change(Change::AddLearner(node(name)));
        assert_eq!(scaling.next(NOW, &three(&[]), &all, &connected_peers), add(3));
        assert_eq!(scaling.next(NOW, &three(&[3]), &all, &connected_peers), Step::Wait);
        connected_peers.met(NOW, node(4));
        assert_eq!(scaling.next(NOW, &three(&[3]), &all, &connected_peers), add(4));
        let five = (0..5).map(node).collect();
        let caught_up = status(&[0, 1, 2], &[3, 4], &[1, 2]);
        assert_eq!(scaling.next(NOW, &caught_up, &all, &connected_peers), Step::Change(Change::Voters(five)));
        let dying = status(&[0, 1, 2], &[3, 4], &[1]);
        assert_eq!(scaling.next(NOW, &dying, &all, &connected_peers), Step::Wait, "two of five are alive");
        let done = status(&[0, 1, 2, 3, 4], &[], &[1, 2]);
        assert_eq!(scaling.next(NOW, &done, &all, &connected_peers), Step::End(Outcome::Done));
    }

    #[test]
    fn scaling_of_a_learner_emptied_once_more_begins_with_the_new_one() {
        let mut connected_peers = ConnectedPeers::default();
        let now = status(&[0], &[1], &[]);
        let mut scaling = Scaling::start(NOW, wanted(&[0, 1]), &now).unwrap();
        connected_peers.met(NOW, NodeId::new(1, 99));
        let next = scaling.next(NOW, &now, &wanted(&[0, 1]), &connected_peers);
        assert_eq!(next, Step::Change(Change::RemoveLearner(node(1))));
    }

    #[test]
    fn scaling_to_someone_who_never_comes_ends_with_the_reason_and_to_whom_there_is_at_once() {
        let now = status(&[0, 1, 2], &[], &[1, 2]);
        let mut scaling = Scaling::start(NOW, wanted(&[0, 1, 2, 3]), &now).unwrap();
        let late = NOW.plus_us(ABSENT_TIMEOUT_US);
        let end = scaling.next(late, &now, &wanted(&[0, 1, 2, 3]), &ConnectedPeers::default());
        assert!(matches!(&end, Step::End(Outcome::Refused(why)) if why.contains("replica 3 is not there")), "{end:?}");
        let mut same = Scaling::start(NOW, wanted(&[0, 1, 2]), &now).unwrap();
        let end = same.next(NOW, &now, &wanted(&[0, 1, 2]), &ConnectedPeers::default());
        assert_eq!(end, Step::End(Outcome::Done));
    }

    // covers M12
    #[test]
    fn scaling_whose_leader_lost_its_role_is_unknown() {
        let now = status(&[0, 1, 2], &[], &[1, 2]);
        let mut scaling = Scaling::start(NOW, wanted(&[0]), &now).unwrap();
        let deposed = CoreStatus { role: Role::Follower, ..now };
        let end = scaling.next(NOW, &deposed, &BTreeMap::new(), &ConnectedPeers::default());
        assert_eq!(end, Step::End(Outcome::Unknown));
    }
}

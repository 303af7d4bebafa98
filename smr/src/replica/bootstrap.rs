//! How a group comes into being, and how a fresh directory learns that it missed that moment.
//!
//! A directory without a past is *uninitialized*: it neither votes, campaigns nor acknowledges. Uninitialized replicas
//! tell each other their incarnations. One that has seen all replicas of the group asks that their genesis be recorded
//! ([`super::ConfigurationSource`]). The managers' own group has none: there it waits until every other one says that
//! it sees the very same incarnations, and no one goes back to one that it has seen succeeded. So if a replica was
//! emptied meanwhile, whoever has founded the earlier group says nothing for the later one. Once that is done, or it is
//! shown the genesis of a group that names its own incarnation, it is a *founder*: it writes the genesis as entry 1 of
//! term 1, then that it is initialized, and only then takes part. So a first start needs every replica once, in any
//! order, and afterwards a majority.
//!
//! One that meets a group which does not know its incarnation came too late: its replica has another incarnation, whose
//! votes it does not remember (amnesia, fault catalogue M6). So does one whose genesis is refused, and one that
//! meets a replica which knows that the group exists. It is *excluded*, durably: it stays out until an operator
//! readmits it; then the group's configuration names it, and it is *taken in* with an empty log. Excluded replicas
//! never found a group, however many of them there are: the data may be in a directory that will be back.
//!
//! If the data is lost for good, the operator says so to every replica (`--found_anew`). All of them together may then
//! found a group in place of the recorded one.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::entry::{Configuration, Genesis, GenesisHash, GenesisRequest, Incumbent};
use crate::id::{ClusterId, GroupName, Incarnation, NodeId, ReplicaId};
use crate::replica::configuration_source::GenesisAnswer;
use crate::storage::Witness;

/// What replicas tell each other about their bootstrap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BootstrapMessage {
    /// The sender is uninitialized, and knows these replicas of its group.
    Uninitialized {
        /// All replicas, its own among them.
        replicas: BTreeSet<ReplicaId>,
        /// What it has heard of it.
        claim: Claim,
        /// The group that it would found with those that it sees; `None` while it does not see all replicas.
        sees: Option<GenesisHash>,
    },
    /// The sender is initialized.
    Initialized {
        /// The hash of its group's genesis.
        genesis: GenesisHash,
        /// The genesis itself, if the sender is a founder.
        founders: Option<Genesis>,
        /// The cluster; `None` if the genesis makes it.
        cluster: Option<ClusterId>,
        /// The members, as far as the sender knows.
        configuration: Configuration,
    },
}

/// What stands for and against an uninitialized replica as a founder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// It knows that its group exists, or has data of it that is damaged.
    pub is_excluded: bool,
    /// It was started with the operator's word that the group begins again. What it has heard does not matter then, if
    /// all others were, too.
    pub found_anew: bool,
}

/// What an uninitialized replica concludes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not enough is known.
    Wait,
    /// It may be a founder, if this is granted. To be asked of the [`super::ConfigurationSource`], with the answer to
    /// [`Bootstrap::answered`].
    Ask(GenesisRequest),
    /// It is a founder of this group.
    Founder(Genesis),
    /// The group has taken it in.
    TakenIn {
        /// The group.
        genesis: GenesisHash,
        /// The cluster, if whoever says so knows more of it than the genesis says.
        cluster: Option<ClusterId>,
    },
    /// The group exists without it. To be made durable before anything else is done. Said once.
    Excluded(Witness),
    /// A replica there has another idea of the group.
    Stranger(String),
}

/// Incarnations that were succeeded while a replica waits: this many are remembered at most. Beyond, it takes in no
/// more.
const SUCCEEDED_MAX: usize = 1024;

/// Who a replica is when it waits for its bootstrap.
#[derive(Clone, Debug)]
pub struct Newcomer {
    /// The replica itself.
    pub node: NodeId,
    /// The cluster, if it is known.
    pub cluster: Option<ClusterId>,
    /// The group that is to be founded, or joined.
    pub group: GroupName,
    /// All replicas, its own among them.
    pub replicas: BTreeSet<ReplicaId>,
    /// What its directory and its operator say. A directory that follows a quarantined incarnation is excluded.
    pub claim: Claim,
    /// Whether someone has to record a genesis before it counts.
    pub is_recorded: bool,
}

/// An uninitialized replica's view of its group.
#[derive(Debug)]
pub struct Bootstrap {
    own: Newcomer,
    /// The latest incarnation seen of each other replica, and what it said.
    seen: BTreeMap<ReplicaId, (Incarnation, Claim, Option<GenesisHash>)>,
    /// The latest incarnation seen of each other replica, connected or not.
    latest: BTreeMap<ReplicaId, Incarnation>,
    /// Those that another one was seen in the place of: nothing that they said before may count again.
    succeeded: BTreeSet<NodeId>,
    /// What was asked and not answered yet.
    asked: Option<GenesisRequest>,
    /// The group because of which the last request was refused.
    incumbent: Option<Incumbent>,
}

impl Bootstrap {
    /// A replica that waits for its bootstrap.
    pub fn new(own: Newcomer) -> Bootstrap {
        assert!(own.replicas.contains(&own.node.name), "{} is not among {:?}", own.node, own.replicas);
        Bootstrap {
            own,
            seen: BTreeMap::new(),
            latest: BTreeMap::new(),
            succeeded: BTreeSet::new(),
            asked: None,
            incumbent: None,
        }
    }

    /// What it tells everyone, again and again.
    pub fn message(&self) -> BootstrapMessage {
        BootstrapMessage::Uninitialized {
            replicas: self.own.replicas.clone(),
            claim: self.own.claim,
            sees: self.genesis_seen().filter(|_| !self.is_out()).map(|genesis| genesis.hash()),
        }
    }

    /// It knows that its group exists, and no one gave it the word to found it again.
    fn is_out(&self) -> bool {
        self.own.claim.is_excluded && !self.own.claim.found_anew
    }

    /// The group that this replica would found: all replicas, with the incarnations that it sees there.
    fn genesis_seen(&self) -> Option<Genesis> {
        if self.seen.len() + 1 < self.own.replicas.len() {
            return None;
        }
        let others = self.seen.iter().map(|(&name, &(incarnation, ..))| NodeId { name, incarnation });
        let members = others.chain([self.own.node]).collect();
        Some(Genesis { cluster: self.own.cluster, group: self.own.group.clone(), members })
    }

    /// What a replica that is excluded tells its operator.
    pub fn excluded_because(group: &GroupName, node: NodeId, witness: Witness) -> String {
        format!(
            "{witness} that group {group} exists, and incarnation {} of replica {} is not in it: readmit it, or \
             bring its data \
             back; or, if the data of the whole group is lost, start all its replicas with --found_anew",
            node.incarnation, node.name
        )
    }

    /// What follows from what is known.
    pub fn verdict(&mut self) -> Verdict {
        let excluded = self.seen.iter().find(|(_, (_, claim, _))| claim.is_excluded);
        if let Some((&name, &(incarnation, ..))) = excluded
            && !self.own.claim.is_excluded
        {
            return self.exclude(Witness::Peer(NodeId { name, incarnation }));
        }
        let Some(genesis) = self.genesis_seen().filter(|_| self.asked.is_none()) else { return Verdict::Wait };
        // Whoever has heard of another group is excluded, so this is about all of them.
        let anew = self.own.claim.found_anew && self.seen.values().all(|(_, claim, _)| claim.found_anew);
        if self.own.claim.is_excluded && !anew {
            return Verdict::Wait;
        }
        if !self.own.is_recorded {
            let hash = genesis.hash();
            let agreed = self.seen.values().all(|(_, _, sees)| *sees == Some(hash));
            return if agreed { Verdict::Founder(genesis) } else { Verdict::Wait };
        }
        let request = GenesisRequest { genesis, instead_of: self.incumbent };
        self.asked = Some(request.clone());
        Verdict::Ask(request)
    }

    /// Takes in what became of the request that was asked.
    pub fn answered(&mut self, answer: GenesisAnswer) -> Verdict {
        let Some(GenesisRequest { genesis: asked, .. }) = self.asked.take() else { return Verdict::Wait };
        match answer {
            GenesisAnswer::NotYet(_) => Verdict::Wait,
            GenesisAnswer::Recorded => Verdict::Founder(asked),
            GenesisAnswer::Refused { incumbent, genesis } => {
                // The answer to an earlier request may have been lost, and someone may have lost a directory since. If
                // the group begins again, it is that very genesis which is about to be replaced.
                if let Some(genesis) = genesis
                    && self.is_named_by(&genesis)
                    && !self.own.claim.found_anew
                {
                    return Verdict::Founder(genesis);
                }
                self.incumbent = Some(incumbent);
                self.exclude(Witness::Recorder)
            }
        }
    }

    /// Takes in what another replica says.
    pub fn receive(&mut self, from: NodeId, message: &BootstrapMessage) -> Verdict {
        match message {
            BootstrapMessage::Uninitialized { replicas, .. } if *replicas != self.own.replicas => {
                Verdict::Stranger(format!(
                    "replica {from} counts {} replicas in group {}, this one {}",
                    replicas.len(),
                    self.own.group,
                    self.own.replicas.len()
                ))
            }
            BootstrapMessage::Uninitialized { claim, sees, .. } => {
                if self.own.replicas.contains(&from.name)
                    && from.name != self.own.node.name
                    && (self.own.is_recorded || self.is_latest(from))
                {
                    self.seen.insert(from.name, (from.incarnation, *claim, *sees));
                }
                self.verdict()
            }
            BootstrapMessage::Initialized { genesis, founders, cluster, configuration } => {
                if let Some(founders) = founders
                    && founders.hash() == *genesis
                    && self.is_named_by(founders)
                {
                    return Verdict::Founder(founders.clone());
                }
                if configuration.is_member(self.own.node) {
                    return Verdict::TakenIn { genesis: *genesis, cluster: *cluster };
                }
                self.exclude(Witness::Peer(from))
            }
        }
    }

    /// Whether no one has been seen in its place since; notes that it is in the place of whom was there before.
    fn is_latest(&mut self, from: NodeId) -> bool {
        let before = self.latest.get(&from.name).copied().filter(|before| *before != from.incarnation);
        if self.succeeded.contains(&from) || (before.is_some() && self.succeeded.len() >= SUCCEEDED_MAX) {
            return false;
        }
        if let Some(incarnation) = before {
            self.succeeded.insert(NodeId { name: from.name, incarnation });
            self.seen.remove(&from.name);
        }
        self.latest.insert(from.name, from.incarnation);
        true
    }

    /// The connection to this one has ended. What it said is no longer known to be true: a group may have been founded
    /// since.
    pub fn disconnected(&mut self, from: NodeId) {
        if self.seen.get(&from.name).is_some_and(|(incarnation, ..)| *incarnation == from.incarnation) {
            self.seen.remove(&from.name);
        }
    }

    /// Someone says that the group exists without this replica.
    pub fn exclude(&mut self, witness: Witness) -> Verdict {
        if std::mem::replace(&mut self.own.claim.is_excluded, true) {
            Verdict::Wait
        } else {
            Verdict::Excluded(witness)
        }
    }

    fn is_named_by(&self, genesis: &Genesis) -> bool {
        genesis.members.contains(&self.own.node)
            && genesis.group == self.own.group
            && genesis.cluster == self.own.cluster
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRESH: Claim = Claim { is_excluded: false, found_anew: false };
    const EXCLUDED: Claim = Claim { is_excluded: true, found_anew: false };
    const ANEW: Claim = Claim { is_excluded: false, found_anew: true };

    fn newcomer(name: u16, incarnation: u64, replicas: u16, claim: Claim) -> Newcomer {
        Newcomer {
            node: NodeId::new(name, incarnation),
            cluster: Some(ClusterId(1)),
            group: "g".parse().unwrap(),
            replicas: (0..replicas).map(ReplicaId).collect(),
            claim,
            is_recorded: true,
        }
    }

    fn server(name: u16, incarnation: u64, replicas: u16) -> Bootstrap {
        Bootstrap::new(newcomer(name, incarnation, replicas, FRESH))
    }

    /// One of the managers, whose genesis no one records.
    fn manager(name: u16, incarnation: u64, replicas: u16, claim: Claim) -> Bootstrap {
        Bootstrap::new(Newcomer { is_recorded: false, ..newcomer(name, incarnation, replicas, claim) })
    }

    fn genesis(incarnations: &[u64]) -> Genesis {
        Genesis {
            cluster: Some(ClusterId(1)),
            group: "g".parse().unwrap(),
            members: (0..).zip(incarnations).map(|(name, &incarnation)| NodeId::new(name, incarnation)).collect(),
        }
    }

    fn ask(incarnations: &[u64], instead_of: Option<Incumbent>) -> Verdict {
        Verdict::Ask(GenesisRequest { genesis: genesis(incarnations), instead_of })
    }

    fn refused(incarnations: &[u64]) -> GenesisAnswer {
        let genesis = genesis(incarnations);
        GenesisAnswer::Refused { incumbent: Incumbent::Recorded(genesis.hash()), genesis: Some(genesis) }
    }

    fn says(claim: Claim) -> BootstrapMessage {
        BootstrapMessage::Uninitialized { replicas: (0..3).map(ReplicaId).collect(), claim, sees: None }
    }

    /// The same, of one that sees these incarnations.
    fn sees(claim: Claim, incarnations: &[u64]) -> BootstrapMessage {
        let sees = Some(genesis(incarnations).hash());
        BootstrapMessage::Uninitialized { replicas: (0..3).map(ReplicaId).collect(), claim, sees }
    }

    fn initialized(genesis: &Genesis, configuration: Configuration) -> BootstrapMessage {
        BootstrapMessage::Initialized {
            genesis: genesis.hash(),
            founders: Some(genesis.clone()),
            cluster: genesis.cluster,
            configuration,
        }
    }

    #[test]
    fn uninitialized_alone_founds_a_group_of_one() {
        assert_eq!(manager(0, 10, 1, FRESH).verdict(), Verdict::Founder(genesis(&[10])));
        let mut lone = server(0, 10, 1);
        assert_eq!(lone.verdict(), ask(&[10], None));
        assert_eq!(lone.verdict(), Verdict::Wait, "asked already");
        assert_eq!(lone.answered(GenesisAnswer::Recorded), Verdict::Founder(genesis(&[10])));
    }

    // covers M14: what a replica said before its connection ended may be untrue by now.
    #[test]
    fn uninitialized_whose_peer_has_gone_founds_nothing_with_what_that_said() {
        let mut node = manager(0, 10, 3, FRESH);
        assert_eq!(node.receive(NodeId::new(1, 11), &says(FRESH)), Verdict::Wait);
        node.disconnected(NodeId::new(1, 9));
        node.disconnected(NodeId::new(1, 11));
        let all = sees(FRESH, &[10, 11, 99]);
        assert_eq!(node.receive(NodeId::new(2, 99), &all), Verdict::Wait);
        assert_eq!(node.receive(NodeId::new(1, 11), &all), Verdict::Founder(genesis(&[10, 11, 99])));
    }

    // covers M14: a founder that was emptied at once must not be counted for another group by those that did not hear
    // of the first one yet.
    #[test]
    fn uninitialized_whom_no_one_records_founds_only_what_all_others_see_too() {
        let mut node = manager(0, 10, 3, FRESH);
        assert_eq!(node.receive(NodeId::new(1, 11), &sees(FRESH, &[10, 11, 12])), Verdict::Wait);
        // Replica 2 has another incarnation by now, and replica 1 may have founded a group with the former one.
        assert_eq!(node.receive(NodeId::new(2, 22), &sees(FRESH, &[10, 11, 22])), Verdict::Wait);
        assert_eq!(node.message(), sees(FRESH, &[10, 11, 22]));
        // Nor does anyone go back to one that was succeeded.
        let mut late = manager(0, 10, 3, FRESH);
        late.receive(NodeId::new(2, 12), &says(FRESH));
        late.receive(NodeId::new(2, 22), &says(FRESH));
        assert_eq!(late.receive(NodeId::new(1, 11), &sees(FRESH, &[10, 11, 12])), Verdict::Wait);
        assert_eq!(late.receive(NodeId::new(2, 12), &sees(FRESH, &[10, 11, 12])), Verdict::Wait);
        // Replica 1 sees it as well.
        assert_eq!(late.receive(NodeId::new(1, 11), &sees(FRESH, &[10, 11, 22])), Verdict::Wait);
        let all = sees(FRESH, &[10, 11, 22]);
        assert_eq!(late.receive(NodeId::new(2, 22), &all), Verdict::Founder(genesis(&[10, 11, 22])));
    }

    #[test]
    fn uninitialized_all_replicas_seen_founds_the_same_group_everywhere() {
        let mut nodes: Vec<Bootstrap> = (0..3).map(|name| server(name, 10 + u64::from(name), 3)).collect();
        let ids: Vec<NodeId> = nodes.iter().map(|node| node.own.node).collect();
        for node in &mut nodes {
            let own = node.own.node;
            let mut verdict = node.verdict();
            for &id in ids.iter().filter(|&&id| id != own) {
                assert_eq!(verdict, Verdict::Wait);
                verdict = node.receive(id, &says(FRESH));
            }
            assert_eq!(verdict, ask(&[10, 11, 12], None));
            assert_eq!(node.answered(GenesisAnswer::Recorded), Verdict::Founder(genesis(&[10, 11, 12])));
        }
    }

    // covers M14
    #[test]
    fn uninitialized_whose_request_gets_no_answer_asks_again_with_whoever_is_there_then() {
        let mut node = server(0, 10, 3);
        node.receive(NodeId::new(1, 11), &says(FRESH));
        assert_eq!(node.receive(NodeId::new(2, 12), &says(FRESH)), ask(&[10, 11, 12], None));
        // It is founded by no one before the answer, and two requests are never under way.
        assert_eq!(node.receive(NodeId::new(2, 22), &says(FRESH)), Verdict::Wait);
        assert_eq!(node.answered(GenesisAnswer::NotYet("no leader".to_owned())), Verdict::Wait);
        assert_eq!(node.verdict(), ask(&[10, 11, 22], None));
        // The first request had been carried out: this node is a founder all the same, and the new one on replica 2 is
        // not.
        assert_eq!(node.answered(refused(&[10, 11, 12])), Verdict::Founder(genesis(&[10, 11, 12])));
    }

    #[test]
    fn uninitialized_shown_a_genesis_with_its_incarnation_is_founder() {
        let genesis = genesis(&[10, 11, 12]);
        let message = initialized(&genesis, Configuration::of(genesis.members.iter().copied()));
        assert_eq!(server(1, 11, 3).receive(NodeId::new(0, 10), &message), Verdict::Founder(genesis));
    }

    // covers M6 M14: an emptied directory under an old name must not take part, and never founds.
    #[test]
    fn uninitialized_of_unknown_incarnation_meeting_a_group_is_excluded() {
        let genesis = genesis(&[10, 11, 12]);
        let message = initialized(&genesis, Configuration::of(genesis.members.iter().copied()));
        for mut emptied in [server(1, 99, 3), manager(1, 99, 3, FRESH)] {
            let peer = NodeId::new(0, 10);
            assert_eq!(emptied.receive(peer, &message), Verdict::Excluded(Witness::Peer(peer)));
            assert_eq!(emptied.receive(peer, &message), Verdict::Wait, "said once");
            assert_eq!(emptied.receive(NodeId::new(2, 98), &says(FRESH)), Verdict::Wait);
            assert_eq!(emptied.receive(NodeId::new(0, 97), &says(FRESH)), Verdict::Wait, "all are empty now");
        }
    }

    // covers M14: whoever hears of the group through one that is excluded is excluded as well.
    #[test]
    fn uninitialized_meeting_an_excluded_one_is_excluded_and_founds_nothing() {
        for mut last in [server(2, 32, 3), manager(2, 32, 3, FRESH)] {
            assert_eq!(last.receive(NodeId::new(0, 30), &says(FRESH)), Verdict::Wait);
            let peer = NodeId::new(1, 31);
            assert_eq!(last.receive(peer, &says(EXCLUDED)), Verdict::Excluded(Witness::Peer(peer)));
            assert_eq!(last.message(), says(EXCLUDED));
            assert_eq!(last.verdict(), Verdict::Wait);
        }
    }

    // covers M14: nor is the word of the manager forgotten, in a group of one either.
    #[test]
    fn uninitialized_refused_by_the_manager_is_excluded() {
        let mut lone = server(0, 99, 1);
        assert_eq!(lone.verdict(), ask(&[99], None));
        assert_eq!(lone.answered(refused(&[10])), Verdict::Excluded(Witness::Recorder));
        assert_eq!(lone.verdict(), Verdict::Wait);
        assert_eq!(Bootstrap::new(newcomer(0, 99, 1, EXCLUDED)).verdict(), Verdict::Wait, "after a restart");
    }

    // covers M15
    #[test]
    fn uninitialized_with_the_operators_word_founds_anew_once_all_have_it() {
        let excluded_anew = Claim { is_excluded: true, found_anew: true };
        let start = || Bootstrap::new(newcomer(0, 30, 3, excluded_anew));
        let mut node = start();
        assert_eq!(node.receive(NodeId::new(1, 31), &says(excluded_anew)), Verdict::Wait);
        assert_eq!(node.receive(NodeId::new(2, 32), &says(EXCLUDED)), Verdict::Wait, "one was started without");
        assert_eq!(node.receive(NodeId::new(2, 32), &says(FRESH)), Verdict::Wait, "one was started without");
        assert_eq!(node.receive(NodeId::new(2, 32), &says(ANEW)), ask(&[30, 31, 32], None));
        assert_eq!(node.answered(refused(&[10, 11, 12])), Verdict::Wait, "it is excluded already");
        let incumbent = Some(Incumbent::Recorded(genesis(&[10, 11, 12]).hash()));
        assert_eq!(node.verdict(), ask(&[30, 31, 32], incumbent));
        assert_eq!(node.answered(GenesisAnswer::Recorded), Verdict::Founder(genesis(&[30, 31, 32])));
        // A group that no one records begins again as well, with the word of all.
        let mut manager = manager(0, 30, 3, excluded_anew);
        let all = [30, 31, 32];
        assert_eq!(manager.receive(NodeId::new(1, 31), &sees(ANEW, &all)), Verdict::Wait);
        assert_eq!(manager.receive(NodeId::new(2, 32), &sees(FRESH, &all)), Verdict::Wait);
        assert_eq!(manager.receive(NodeId::new(2, 32), &sees(ANEW, &all)), Verdict::Founder(genesis(&all)));
    }

    // covers M15: a member of the recorded group that was never initialized has no data, and goes along.
    #[test]
    fn uninitialized_with_the_operators_word_does_not_found_the_group_that_is_to_be_replaced() {
        let mut node = Bootstrap::new(newcomer(0, 10, 2, ANEW));
        let message =
            BootstrapMessage::Uninitialized { replicas: (0..2).map(ReplicaId).collect(), claim: ANEW, sees: None };
        assert_eq!(node.receive(NodeId::new(1, 31), &message), ask(&[10, 31], None));
        assert_eq!(node.answered(refused(&[10, 11])), Verdict::Excluded(Witness::Recorder));
        let incumbent = Some(Incumbent::Recorded(genesis(&[10, 11]).hash()));
        assert_eq!(node.verdict(), ask(&[10, 31], incumbent));
    }

    // covers M15: the word of some does not make others forget what they, or these, know.
    #[test]
    fn uninitialized_without_the_operators_word_is_excluded_by_one_that_knows_of_the_group() {
        let mut node = manager(0, 30, 3, FRESH);
        node.receive(NodeId::new(1, 31), &says(ANEW));
        let peer = NodeId::new(2, 32);
        let knows = says(Claim { is_excluded: true, found_anew: true });
        assert_eq!(node.receive(peer, &knows), Verdict::Excluded(Witness::Peer(peer)));
        assert_eq!(node.verdict(), Verdict::Wait);
    }

    #[test]
    fn uninitialized_named_by_a_later_configuration_is_taken_in() {
        let genesis = genesis(&[10, 11, 12]);
        let mut configuration = Configuration::of(genesis.members.iter().copied());
        configuration.learners.insert(NodeId::new(1, 99));
        let message = initialized(&genesis, configuration);
        for claim in [FRESH, EXCLUDED] {
            let mut node = Bootstrap::new(newcomer(1, 99, 3, claim));
            assert_eq!(
                node.receive(NodeId::new(0, 10), &message),
                Verdict::TakenIn { genesis: genesis.hash(), cluster: genesis.cluster }
            );
        }
    }

    // covers M10
    #[test]
    fn uninitialized_with_another_member_list_is_a_stranger() {
        let message =
            BootstrapMessage::Uninitialized { replicas: (0..5).map(ReplicaId).collect(), claim: FRESH, sees: None };
        assert!(matches!(server(0, 10, 3).receive(NodeId::new(1, 11), &message), Verdict::Stranger(_)));
    }
}

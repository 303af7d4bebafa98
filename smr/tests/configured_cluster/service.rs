//! A model of the configuration service: one value that decides on epochs and grants leases, with the rules that the
//! core counts on. Each rule can be left out, to see that the walk notices.

use std::collections::{BTreeMap, BTreeSet};

use smr::entry::Term;
use smr::epoch::{EpochConfiguration, EpochKind};
use smr::id::NodeId;
use smr::internals::configured::LEASE_MAX_US;
use smr::internals::protocol::Time;

/// A rule that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Any member that is left may be first, complete or not.
    AnySurvivorIsFirst,
    /// A newcomer counts as complete from the moment it is appended.
    NewcomerIsComplete,
    /// A lease is granted to any present member, whatever it was in between, and is by the record.
    LeaseWhateverTheEpoch,
    /// A configuration without a member is decided on while its lease lasts.
    LeasesNotWaitedFor,
    /// A new leader of the service knows nothing of its predecessor's grants.
    GrantsForgottenInFailover,
    /// Who reports that an old epoch was activated is believed.
    OldActivationCounts,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Service {
    /// Everything it ever decided: epoch 1 is the first.
    pub configurations: Vec<EpochConfiguration>,
    /// The members that are complete by its record.
    pub complete: BTreeSet<NodeId>,
    /// Until when each member may count on a lease.
    granted_until: BTreeMap<NodeId, Time>,
    /// Whose removal waits for its lease.
    leaving: Option<NodeId>,
    pub fault: Option<Fault>,
}

impl Service {
    pub fn new(kind: EpochKind, members: &[NodeId]) -> Service {
        let genesis = EpochConfiguration { epoch: Term(1), kind, members: members.to_vec(), incomplete: None };
        Service {
            configurations: vec![genesis],
            complete: members.iter().copied().collect(),
            granted_until: BTreeMap::new(),
            leaving: None,
            fault: None,
        }
    }

    /// The latest decision.
    pub fn present(&self) -> &EpochConfiguration {
        self.configurations.last().expect("a genesis")
    }

    pub fn of(&self, epoch: Term) -> Option<&EpochConfiguration> {
        self.configurations.iter().find(|configuration| configuration.epoch == epoch)
    }

    fn has_fault(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    /// Every member of this epoch holds all that was ever committed.
    pub fn activated(&mut self, epoch: Term) {
        if epoch == self.present().epoch || self.has_fault(Fault::OldActivationCounts) {
            self.complete = self.present().members.iter().copied().collect();
        }
    }

    /// A member asks for a lease; the length that it is granted, in microseconds.
    pub fn grant(&mut self, node: NodeId, epoch: Term, now: Time) -> Option<u64> {
        let is_member = |known: &EpochConfiguration| known.is_member(node);
        let since_then = self.configurations.iter().filter(|known| known.epoch >= epoch).all(is_member);
        let belongs = since_then && self.complete.contains(&node);
        let is_granted = if self.has_fault(Fault::LeaseWhateverTheEpoch) { is_member(self.present()) } else { belongs };
        if !is_granted || self.leaving == Some(node) {
            return None;
        }
        self.granted_until.insert(node, now.plus_us(LEASE_MAX_US));
        Some(LEASE_MAX_US)
    }

    /// Another one leads the service: it takes it that everybody was granted a lease right now.
    pub fn fail_over(&mut self, now: Time) {
        self.leaving = None;
        self.granted_until.clear();
        if !self.has_fault(Fault::GrantsForgottenInFailover) {
            let everyone = self.configurations.iter().flat_map(|known| known.members.clone());
            self.granted_until = everyone.map(|node| (node, now.plus_us(LEASE_MAX_US))).collect();
        }
    }

    /// A member is to go: it is granted nothing any more. The decision may come once its lease is over.
    pub fn begin_removal(&mut self, node: NodeId) {
        self.leaving = Some(node);
    }

    pub fn may_remove(&self, node: NodeId, now: Time) -> bool {
        let is_over = self.granted_until.get(&node).is_none_or(|until| now >= *until);
        (is_over || self.has_fault(Fault::LeasesNotWaitedFor)) && self.leaving == Some(node)
    }

    /// Who may be first of these.
    pub fn candidates(&self, members: &[NodeId]) -> Vec<NodeId> {
        let is_eligible = |node: &&NodeId| self.complete.contains(*node) || self.has_fault(Fault::AnySurvivorIsFirst);
        members.iter().filter(is_eligible).copied().collect()
    }

    /// Decides on the next configuration: these members, in this order.
    pub fn decide(&mut self, members: Vec<NodeId>) -> EpochConfiguration {
        self.leaving = None;
        if self.has_fault(Fault::NewcomerIsComplete) {
            self.complete.extend(members.iter().copied());
        }
        self.complete.retain(|node| members.contains(node));
        assert!(
            !self.complete.is_empty() || self.fault.is_some(),
            "no complete member is left in {members:?}, after {}",
            self.present()
        );
        let first = members[0];
        let incomplete = members.iter().copied().find(|node| !self.complete.contains(node) && *node != first);
        let present = self.present();
        let next = EpochConfiguration { epoch: present.epoch.next(), kind: present.kind, members, incomplete };
        self.configurations.push(next.clone());
        next
    }
}

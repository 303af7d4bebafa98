//! What the leader of a configuration service knows of one group, and what it proposes because of it.
//!
//! - *Removal.* Members say who is in their way. That is collected for [`ArbiterSettings::collect_us`]; then those stay
//!   who are in no one's way: the largest set of members that hear each other and holds a complete one, counted in
//!   those whom the service hears; in a tie, the one with the first. Silence towards the service alone removes no one.
//! - *Leases.* Who is to leave is granted none any more from the moment on when that shows, and the decision waits
//!   until the last grant is over. A fresh arbiter takes it that everybody was granted the longest one when it began.
//! - *Restart.* A first that has restarted orders nothing before the next epoch, so it gets one.
//! - *Promotion.* Of a star the first may be another complete member, if an operator wants that; a chain keeps its
//!   order.
//! - *Joining.* Who reports and is no member is brought up to date by the last member, one at a time, and is appended
//!   as incomplete once that is done. Whoever was removed, or took too long while others waited, waits before, twice as
//!   long after each time; those that failed least often come first.

mod joining;
mod promotion;
mod settings;

use std::collections::{BTreeMap, BTreeSet};

pub use self::promotion::NotPromoted;
pub use self::settings::{ArbiterSettings, BadArbiterSettings};

use super::record::{EpochDecision, EpochRecord, PresiderId};
use super::{LeaseGrant, MemberReport, REPORTS_MAX, ServiceWord};
use crate::configured::LEASE_MAX_US;
use crate::entry::Term;
use crate::epoch::{EPOCH_MEMBERS_MAX, EpochConfiguration};
use crate::id::{NodeId, ReplicaId};
use crate::protocol::{Report, Time};

/// Newcomers that are remembered at most; more of them wait until these have joined or gone.
const NEWCOMERS_MAX: usize = 64;

/// See the module.
#[derive(Clone, Debug)]
pub struct Arbiter {
    settings: ArbiterSettings,
    id: PresiderId,
    /// It was seen to preside.
    has_presided: bool,
    began_at: Time,
    /// When each node reported last.
    heard: BTreeMap<NodeId, Time>,
    /// Until when a lease may last that this arbiter granted.
    granted_until: BTreeMap<NodeId, Time>,
    /// What follows is about this epoch.
    epoch: Term,
    members: Vec<NodeId>,
    /// The configuration that follows this epoch, once it was proposed: it may be in the service's log for as long as
    /// no other one is known to follow, however long ago that was.
    proposed: Option<EpochConfiguration>,
    /// Who says that whom is in its way, and when it said so last.
    blocked: BTreeMap<(NodeId, NodeId), Time>,
    /// Since when there is anything in `blocked`.
    blocked_since: Option<Time>,
    leaving: BTreeSet<NodeId>,
    is_activated: bool,
    first_restarted: bool,
    /// Whom an operator wants to be first, and when that was said last.
    promoted: Option<(NodeId, Time)>,
    /// When it learned of this epoch.
    epoch_since: Time,
    caught_up: Option<NodeId>,
    /// Who is being brought up to date.
    joining: Option<NodeId>,
    /// Since when.
    joining_since: Time,
    /// How often each replica was removed lately, or took too long to join, and when last.
    failed: BTreeMap<ReplicaId, (u32, Time)>,
}

impl Arbiter {
    /// An arbiter that begins at `now`, under a name that no other one has had.
    ///
    /// # Panics
    /// If the settings are invalid.
    pub fn new(settings: ArbiterSettings, id: PresiderId, now: Time) -> Arbiter {
        settings.validate().unwrap_or_else(|error| panic!("{error}"));
        Arbiter {
            settings,
            id,
            has_presided: false,
            began_at: now,
            heard: BTreeMap::new(),
            granted_until: BTreeMap::new(),
            epoch: Term::ZERO,
            members: Vec::new(),
            proposed: None,
            blocked: BTreeMap::new(),
            blocked_since: None,
            leaving: BTreeSet::new(),
            is_activated: false,
            first_restarted: false,
            promoted: None,
            epoch_since: now,
            caught_up: None,
            joining: None,
            joining_since: now,
            failed: BTreeMap::new(),
        }
    }

    /// Takes in what a node says, and answers it. `record` was read at a leader that was confirmed after the report had
    /// arrived. Time never goes backwards. Records may: one that was read before another one is worth no lease, for its
    /// members may have gone meanwhile.
    pub fn hear(&mut self, now: Time, record: &EpochRecord, report: &MemberReport) -> ServiceWord {
        let present = record.present();
        if self.is_outdated(record) {
            return ServiceWord { configuration: present.clone(), lease: None, feeds: None };
        }
        self.follow(now, record);
        let node = report.node;
        if present.is_member(node) || self.heard.contains_key(&node) || self.heard.len() < NEWCOMERS_MAX {
            self.heard.insert(node, now);
        }
        let mut lease = None;
        for said in report.reports.iter().take(REPORTS_MAX) {
            match *said {
                Report::LeaseWanted { epoch, asked_at } => {
                    lease =
                        self.grant(now, record, node, epoch).map(|length_us| LeaseGrant { epoch, asked_at, length_us });
                }
                // Whatever was said in another epoch is settled.
                Report::Activated { epoch } => {
                    self.is_activated |= epoch == present.epoch && present.is_member(node);
                }
                Report::Blocked { epoch, by, .. } => {
                    if epoch == present.epoch && present.is_member(node) && present.is_member(by) {
                        self.blocked.insert((node, by), now);
                        self.blocked_since.get_or_insert(now);
                    }
                }
                Report::CaughtUp { epoch, newcomer } => {
                    if epoch == present.epoch && record.complete().contains(&node) && self.joining == Some(newcomer) {
                        self.caught_up = Some(newcomer);
                    }
                }
                Report::FirstRestarted { epoch, .. } => {
                    self.first_restarted |= epoch == present.epoch && present.first() == node;
                }
            }
        }
        self.look_for_newcomers(now, record);
        let feeds = self.joining.filter(|_| all_are_complete(record) && present.last() == node);
        ServiceWord { configuration: present.clone(), lease, feeds }
    }

    /// What is to be decided now, if anything. To be asked again and again; the same may be proposed more than once.
    pub fn decide(&mut self, now: Time, record: &EpochRecord) -> Option<EpochDecision> {
        if record.presider() != self.id {
            // Once another one has presided it knows nothing of the leases that were granted meanwhile.
            return (!self.has_presided).then_some(EpochDecision::Presides(self.id));
        }
        self.has_presided = true;
        let present = record.present();
        if self.is_outdated(record) {
            return None;
        }
        self.follow(now, record);
        // What was proposed is proposed again, and nothing else, until it counts or cannot count any more: then those
        // who are not in it may be granted leases again.
        if let Some(configuration) = &self.proposed {
            let again = EpochDecision::Next { presider: self.id, configuration: configuration.clone() };
            if record.clone().apply(&again).is_ok() {
                return Some(again);
            }
            self.proposed = None;
        }
        if self.is_activated && !all_are_complete(record) {
            return Some(EpochDecision::Activated(present.epoch));
        }
        self.forget_old_words(now);
        let staying = self.who_stays(now, record);
        self.leaving = present.members.iter().filter(|member| !staying.contains(member)).copied().collect();
        if !self.leaving.is_empty() {
            let is_collected = self.blocked_since.is_some_and(|since| now.since_us(since) >= self.settings.collect_us);
            let leases_are_over = self.leaving.iter().all(|node| self.holds_no_lease(*node, now));
            return (is_collected && leases_are_over).then(|| self.next(record, staying));
        }
        if self.first_restarted {
            return Some(self.next(record, staying));
        }
        if let Some(first) = self.wished_first(now, record) {
            let others = staying.into_iter().filter(|member| *member != first);
            return Some(self.next(record, [first].into_iter().chain(others).collect()));
        }
        let newcomer = self.caught_up.filter(|newcomer| {
            Some(*newcomer) == self.joining && all_are_complete(record) && staying.len() < EPOCH_MEMBERS_MAX
        })?;
        Some(self.next(record, staying.into_iter().chain([newcomer]).collect()))
    }

    /// Whether another one has taken over since it presided: then its host needs a new one.
    pub fn is_over(&self, record: &EpochRecord) -> bool {
        self.has_presided && record.presider() != self.id
    }

    /// Proposes that these are the members. From now on no one else is granted a lease.
    fn next(&mut self, record: &EpochRecord, members: Vec<NodeId>) -> EpochDecision {
        let present = record.present();
        let incomplete = members.iter().copied().find(|node| !record.complete().contains(node));
        let configuration = EpochConfiguration { epoch: present.epoch.next(), kind: present.kind, members, incomplete };
        self.proposed = Some(configuration.clone());
        EpochDecision::Next { presider: self.id, configuration }
    }

    /// Whether it has seen a later epoch than the record's.
    fn is_outdated(&self, record: &EpochRecord) -> bool {
        record.present().epoch < self.epoch
    }

    /// Forgets what was about an epoch that is over. The record must not be of an earlier one.
    fn follow(&mut self, now: Time, record: &EpochRecord) {
        let present = record.present();
        if present.epoch == self.epoch {
            return;
        }
        let gone: Vec<NodeId> = self.members.iter().filter(|node| !present.is_member(**node)).copied().collect();
        for node in gone {
            self.note_failure(node, now);
        }
        (self.epoch, self.members, self.proposed) = (present.epoch, present.members.clone(), None);
        self.blocked.clear();
        self.blocked_since = None;
        self.leaving.clear();
        (self.is_activated, self.first_restarted, self.caught_up) = (false, false, None);
        (self.promoted, self.epoch_since) = (None, now);
        self.joining = self.joining.filter(|node| !has_its_place(present, *node));
    }

    fn forget_old_words(&mut self, now: Time) {
        let alive_us = self.settings.alive_us;
        self.blocked.retain(|_, said_at| now.since_us(*said_at) < alive_us);
        if self.blocked.is_empty() {
            self.blocked_since = None;
        }
    }

    fn is_there(&self, node: NodeId, now: Time) -> bool {
        self.heard.get(&node).is_some_and(|at| now.since_us(*at) < self.settings.alive_us)
    }

    /// The members that are to go on, in their order. All of them if there is nothing better.
    fn who_stays(&self, now: Time, record: &EpochRecord) -> Vec<NodeId> {
        let members = &record.present().members;
        if self.blocked.is_empty() {
            return members.clone();
        }
        let holds = |set: usize, node: &NodeId| {
            members.iter().position(|member| member == node).is_some_and(|place| set & (1 << place) != 0)
        };
        let in_set = |set: usize| members.iter().enumerate().filter(move |(place, _)| set & (1 << place) != 0);
        let is_sound = |set: &usize| {
            let hear_each_other = self.blocked.keys().all(|(who, by)| !(holds(*set, who) && holds(*set, by)));
            let has_history =
                in_set(*set).any(|(_, node)| record.complete().contains(node) && self.is_there(*node, now));
            hear_each_other && has_history
        };
        let worth = |set: &usize| {
            let there = in_set(*set).filter(|(_, node)| self.is_there(**node, now)).count();
            // Of equal ones the one whose members come first.
            (there, in_set(*set).count(), set & 1, std::cmp::Reverse(*set))
        };
        let all = 1_usize << members.len();
        match (1..all).filter(is_sound).max_by_key(worth) {
            Some(best) => in_set(best).map(|(_, node)| *node).collect(),
            // No complete member is there: the group waits for one.
            None => members.clone(),
        }
    }

    /// A lease for a member that asked for it in this epoch.
    fn grant(&mut self, now: Time, record: &EpochRecord, node: NodeId, epoch: Term) -> Option<u64> {
        let belongs = record.is_member_since(node, epoch) && record.complete().contains(&node);
        let goes = self.proposed.as_ref().is_some_and(|next| !next.is_member(node));
        if !belongs || goes || self.leaving.contains(&node) || record.presider() != self.id {
            return None;
        }
        self.granted_until.insert(node, now.plus_us(self.settings.lease_over_us()));
        Some(LEASE_MAX_US)
    }

    fn holds_no_lease(&self, node: NodeId, now: Time) -> bool {
        let of_former = self.began_at.plus_us(self.settings.lease_over_us());
        now >= self.granted_until.get(&node).map_or(of_former, |until| of_former.max(*until))
    }
}

/// Whether there is no newcomer any more. A configuration goes on naming the one that it was decided with; that it has
/// everything by now is known to the record alone.
fn all_are_complete(record: &EpochRecord) -> bool {
    record.complete().len() == record.present().members.len()
}

/// Whether a node, or another incarnation of its replica, is a member.
fn has_its_place(present: &EpochConfiguration, node: NodeId) -> bool {
    present.members.iter().any(|member| member.name == node.name)
}

#[cfg(test)]
mod tests;

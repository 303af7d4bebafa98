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

use std::collections::{BTreeMap, BTreeSet};

use super::record::{EpochDecision, EpochRecord, PresiderId};
use super::{LeaseGrant, MemberReport, REPORTS_MAX, ServiceWord};
use crate::configured::LEASE_MAX_US;
use crate::entry::Term;
use crate::epoch::{EPOCH_MEMBERS_MAX, EpochConfiguration, EpochKind};
use crate::id::{NodeId, ReplicaId};
use crate::protocol::{Report, Time};
use crate::raft::{CLOCK_DRIFT_MAX_PERMILLE, CLOCK_DRIFT_PERMILLE};

/// A newcomer may take this long to be brought up to date while others wait, in microseconds; twice as long after each
/// time that it was removed or did not make it, for it may just have much to read.
const JOIN_US: u64 = 30_000_000;
/// So often that time is doubled at most.
const JOIN_DOUBLINGS_MAX: u32 = 5;
/// Removals that are longer ago do not make the pause longer, in microseconds.
const REMOVALS_COUNT_US: u64 = 600_000_000;
/// An epoch lasts at least so long before another first is wanted, in microseconds: each change stops the group for a
/// moment.
const PROMOTION_PAUSE_US: u64 = 1_000_000;
/// An operator's wish that has not come true for so long is over, in microseconds.
const PROMOTION_WISH_US: u64 = 5_000_000;
/// Newcomers that are remembered at most; more of them wait until these have joined or gone.
const NEWCOMERS_MAX: usize = 64;

/// Intervals of an arbiter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArbiterSettings {
    /// By how much the rates of two clocks may differ, per thousand. A lease is waited out for longer by that.
    pub clock_drift_permille: u64,
    /// For so long it collects who is in whose way before it decides, in microseconds. Longer than members take to
    /// report once.
    pub collect_us: u64,
    /// Who reported within this time is there, in microseconds.
    pub alive_us: u64,
    /// How long someone who was removed once waits before it may join again, in microseconds.
    pub pause_us: u64,
    /// It waits twice as long after each further time within ten minutes, but never longer than this, in microseconds.
    pub pause_max_us: u64,
}

impl Default for ArbiterSettings {
    fn default() -> ArbiterSettings {
        ArbiterSettings {
            clock_drift_permille: CLOCK_DRIFT_PERMILLE,
            collect_us: 200_000,
            alive_us: 300_000,
            pause_us: 1_000_000,
            pause_max_us: 64_000_000,
        }
    }
}

/// Settings that contradict each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bad settings: {0}")]
pub struct BadArbiterSettings(&'static str);

impl ArbiterSettings {
    /// Checks what they must have to do with each other.
    ///
    /// # Errors
    /// Which relation is broken.
    pub fn validate(&self) -> Result<(), BadArbiterSettings> {
        let rules = [
            (self.clock_drift_permille <= CLOCK_DRIFT_MAX_PERMILLE, "clocks that drift by more than half are none"),
            (self.collect_us <= self.alive_us, "who reported while it was collected must count as there"),
        ];
        match rules.iter().find(|(holds, _)| !holds) {
            Some((_, broken)) => Err(BadArbiterSettings(broken)),
            None => Ok(()),
        }
    }

    /// After this long a lease that was granted is over by every clock.
    fn lease_over_us(&self) -> u64 {
        LEASE_MAX_US + LEASE_MAX_US * self.clock_drift_permille / 1000
    }
}

/// Why a replica cannot be made the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotPromoted {
    /// In a chain the order is the way of the log.
    #[error("the members of a chain keep their order")]
    Chain,
    /// It is no member.
    #[error("replica {0} is no member at present")]
    NoMember(ReplicaId),
    /// It may lack what was committed.
    #[error("replica {0} does not have everything yet")]
    Incomplete(ReplicaId),
    /// It has not said anything lately.
    #[error("replica {0} is not heard")]
    NotHeard(ReplicaId),
    /// The record is not the newest one.
    #[error("the members are changing")]
    Changing,
}

impl NotPromoted {
    /// Whether it is worth while to ask again soon.
    pub fn will_pass(&self) -> bool {
        matches!(self, NotPromoted::NotHeard(_) | NotPromoted::Changing)
    }
}

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

    /// An operator wants this replica to be the first. The next decision makes it that; one that comes in between ends
    /// the wish, and so does time, if it is not said again. All that was ever committed is in its log, for it is
    /// complete; what was not yet may be lost with the change, and whoever waits for it hears that its outcome is
    /// unknown. No lease has to be waited out: the former first is a member still, and nothing commits without its
    /// word.
    ///
    /// # Errors
    /// Why it cannot be.
    pub fn promote(&mut self, now: Time, record: &EpochRecord, name: ReplicaId) -> Result<(), NotPromoted> {
        let present = record.present();
        if present.kind == EpochKind::Chain {
            return Err(NotPromoted::Chain);
        }
        if self.is_outdated(record) {
            return Err(NotPromoted::Changing);
        }
        self.follow(now, record);
        let member = present.members.iter().copied().find(|member| member.name == name);
        let node = member.ok_or(NotPromoted::NoMember(name))?;
        if !record.complete().contains(&node) {
            return Err(NotPromoted::Incomplete(name));
        }
        if !self.is_there(node, now) {
            return Err(NotPromoted::NotHeard(name));
        }
        self.promoted = Some((node, now));
        Ok(())
    }

    /// No one waits for the promotion any longer. False if it may yet happen.
    pub fn forget_promotion(&mut self, name: ReplicaId) -> bool {
        self.promoted = None;
        self.proposed.as_ref().is_none_or(|next| next.first().name != name)
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
        self.promoted = self.promoted.filter(|(_, said_at)| now.since_us(*said_at) < PROMOTION_WISH_US);
        if let Some((first, _)) = self.promoted.filter(|(node, _)| self.may_be_first(*node, now, record)) {
            let others = staying.into_iter().filter(|member| *member != first);
            return Some(self.next(record, [first].into_iter().chain(others).collect()));
        }
        let newcomer = self.caught_up.filter(|newcomer| {
            Some(*newcomer) == self.joining && all_are_complete(record) && staying.len() < EPOCH_MEMBERS_MAX
        })?;
        Some(self.next(record, staying.into_iter().chain([newcomer]).collect()))
    }

    fn may_be_first(&self, node: NodeId, now: Time, record: &EpochRecord) -> bool {
        let has_lasted = now.since_us(self.epoch_since) >= PROMOTION_PAUSE_US;
        has_lasted && record.present().first() != node && record.complete().contains(&node) && self.is_there(node, now)
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

    fn look_for_newcomers(&mut self, now: Time, record: &EpochRecord) {
        let present = record.present();
        if self.joining.is_some_and(|node| !self.is_there(node, now)) {
            (self.joining, self.caught_up) = (None, None);
        }
        if !all_are_complete(record) {
            // It is not its turn yet.
            self.joining_since = now;
        }
        let waits = |node: &NodeId| {
            let is_there = self.is_there(*node, now) && !has_its_place(present, *node);
            is_there && Some(*node) != self.joining && self.has_paused(*node, now)
        };
        let next = self.heard.keys().copied().filter(waits).min_by_key(|node| (self.failures(*node, now), *node));
        match self.joining {
            Some(late) if next.is_some() && self.caught_up.is_none() && self.is_late(late, now) => {
                self.note_failure(late, now);
                (self.joining, self.joining_since) = (next, now);
            }
            Some(_) => {}
            None => (self.joining, self.joining_since) = (next, now),
        }
        let (heard, alive_us) = (&mut self.heard, self.settings.alive_us);
        heard.retain(|node, at| present.is_member(*node) || now.since_us(*at) < alive_us);
    }

    fn is_late(&self, newcomer: NodeId, now: Time) -> bool {
        let doublings = self.failures(newcomer, now).min(JOIN_DOUBLINGS_MAX);
        now.since_us(self.joining_since) >= JOIN_US << doublings
    }

    /// It was removed, or took too long to join.
    fn note_failure(&mut self, node: NodeId, now: Time) {
        let times = self.failures(node, now);
        self.failed.insert(node.name, (times.saturating_add(1), now));
    }

    fn failures(&self, node: NodeId, now: Time) -> u32 {
        let lately = self.failed.get(&node.name).filter(|(_, at)| now.since_us(*at) < REMOVALS_COUNT_US);
        lately.map_or(0, |(times, _)| *times)
    }

    fn has_paused(&self, node: NodeId, now: Time) -> bool {
        let Some((times, at)) = self.failed.get(&node.name) else { return true };
        let doublings = times.saturating_sub(1).min(16);
        now.since_us(*at) >= (self.settings.pause_us << doublings).min(self.settings.pause_max_us)
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
mod tests {
    use super::*;
    use crate::entry::EntryId;

    const MS: u64 = 1000;

    fn node(name: u16) -> NodeId {
        NodeId::new(name, 1)
    }

    /// A record, its arbiter, and the time.
    struct Table {
        record: EpochRecord,
        arbiter: Arbiter,
        now: Time,
    }

    impl Table {
        fn new(members: u16) -> Table {
            let record = EpochRecord::found(EpochKind::Active, (0..members).map(node).collect());
            let mut table = Table {
                record,
                arbiter: Arbiter::new(ArbiterSettings::default(), PresiderId(1), Time(0)),
                now: Time(0),
            };
            table.decide().expect("it presides");
            // Whatever a former arbiter granted is over.
            table.now = Time(1000 * MS);
            table
        }

        fn says(&mut self, who: u16, reports: Vec<Report>) -> ServiceWord {
            let epoch = self.record.present().epoch;
            let report = MemberReport { node: node(who), epoch, last: EntryId::ZERO, reports };
            self.arbiter.hear(self.now, &self.record, &report)
        }

        fn blocked(&mut self, who: u16, by: u16) {
            let epoch = self.record.present().epoch;
            self.says(who, vec![Report::Blocked { epoch, by: node(by), last: EntryId::ZERO }]);
        }

        fn wants_lease(&mut self, who: u16) -> Option<LeaseGrant> {
            let epoch = self.record.present().epoch;
            self.says(who, vec![Report::LeaseWanted { epoch, asked_at: Time(7) }]).lease
        }

        /// The members once a decision was applied, if there was one.
        fn decide(&mut self) -> Option<Vec<u16>> {
            let decision = self.arbiter.decide(self.now, &self.record)?;
            self.record.apply(&decision).unwrap_or_else(|error| panic!("{decision:?}: {error}"));
            self.arbiter.follow(self.now, &self.record);
            Some(self.record.present().members.iter().map(|member| member.name.0).collect())
        }

        fn after(&mut self, ms: u64) -> &mut Table {
            self.now = self.now.plus_us(ms * MS);
            self
        }
    }

    // covers K16
    #[test]
    fn dead_first_of_two_is_removed_and_a_cut_between_two_leaves_the_first() {
        let mut table = Table::new(2);
        table.says(0, Vec::new());
        table.after(600).blocked(1, 0);
        assert_eq!(table.decide(), None, "it is collected first");
        table.after(200).blocked(1, 0);
        assert_eq!(table.decide(), Some(vec![1]));

        let mut table = Table::new(2);
        table.blocked(0, 1);
        table.blocked(1, 0);
        table.after(200);
        table.blocked(0, 1);
        table.blocked(1, 0);
        assert_eq!(table.decide(), Some(vec![0]), "in a tie the set with the first");
    }

    // covers K5
    #[test]
    fn dead_head_is_removed_though_only_the_one_after_it_says_so() {
        let mut table = Table::new(3);
        table.after(600).blocked(1, 0);
        table.says(2, Vec::new());
        table.after(200).blocked(1, 0);
        table.says(2, Vec::new());
        assert_eq!(table.decide(), Some(vec![1, 2]));
    }

    // covers K11 K16
    #[test]
    fn member_that_only_the_service_does_not_hear_stays() {
        let mut table = Table::new(3);
        for _ in 0..20 {
            table.after(100);
            table.says(0, Vec::new());
            table.says(1, Vec::new());
            assert_eq!(table.decide(), None);
        }
        // Now the first does not hear the third either, which is there, though.
        table.blocked(0, 2);
        table.says(2, Vec::new());
        table.after(200).blocked(0, 2);
        table.says(1, Vec::new());
        table.says(2, Vec::new());
        assert_eq!(table.decide(), Some(vec![0, 1]));
    }

    // covers K10
    #[test]
    fn last_complete_member_is_waited_for_even_if_only_a_newcomer_is_there() {
        let mut table = Table::new(1);
        table.says(0, Vec::new());
        table.says(5, Vec::new());
        let word = table.says(0, Vec::new());
        assert_eq!(word.feeds, Some(node(5)));
        table.says(0, vec![Report::CaughtUp { epoch: Term(1), newcomer: node(5) }]);
        assert_eq!(table.decide(), Some(vec![0, 5]));
        assert_eq!(table.record.present().incomplete, Some(node(5)));
        table.after(600).blocked(5, 0);
        table.after(250).blocked(5, 0);
        assert_eq!(table.decide(), None);
    }

    // covers K2
    #[test]
    fn removal_waits_until_the_last_lease_is_over_and_no_more_are_granted() {
        let mut table = Table::new(3);
        assert!(table.wants_lease(2).is_some());
        table.blocked(0, 2);
        assert_eq!(table.decide(), None);
        assert_eq!(table.wants_lease(2), None, "it is to leave");
        assert!(table.wants_lease(1).is_some());
        table.after(250).blocked(0, 2);
        table.says(1, Vec::new());
        assert_eq!(table.decide(), None, "collected, and its lease lasts");
        table.after(60).blocked(0, 2);
        table.says(1, Vec::new());
        assert_eq!(table.decide(), Some(vec![0, 1]));
    }

    // covers K2 K17
    #[test]
    fn record_that_was_read_before_a_removal_is_worth_no_lease_after_it() {
        let mut table = Table::new(3);
        let read_before = table.record.clone();
        table.blocked(0, 2);
        table.after(250).blocked(0, 2);
        table.says(1, Vec::new());
        assert_eq!(table.decide(), Some(vec![0, 1]));
        let reports = vec![Report::LeaseWanted { epoch: Term(1), asked_at: Time(7) }];
        let report = MemberReport { node: node(2), epoch: Term(1), last: EntryId::ZERO, reports };
        let word = table.arbiter.hear(table.now, &read_before, &report);
        assert_eq!((word.lease, word.configuration.epoch), (None, Term(1)));
        assert_eq!(table.arbiter.decide(table.now, &read_before), None);
        assert_eq!((table.arbiter.epoch, table.arbiter.failed.len()), (Term(2), 1), "it is where it was");
    }

    // covers K2
    #[test]
    fn no_lease_is_granted_while_a_decision_without_the_member_may_still_be_in_the_log() {
        let mut table = Table::new(3);
        table.blocked(0, 2);
        table.after(250).blocked(0, 2);
        table.says(1, Vec::new());
        let proposed = table.arbiter.decide(table.now, &table.record).expect("a removal");
        // It takes long, and meanwhile no one has said again that the third is in its way.
        table.after(2_000);
        for who in 0..3 {
            table.says(who, Vec::new());
        }
        assert_eq!(table.arbiter.decide(table.now, &table.record), Some(proposed), "this one, or none");
        assert_eq!(table.wants_lease(2), None);
        assert!(table.wants_lease(1).is_some());
        assert_eq!(table.decide(), Some(vec![0, 1]));
    }

    // covers K2
    #[test]
    fn decision_that_cannot_count_any_more_is_given_up() {
        let mut table = Table::new(2);
        table.says(0, Vec::new());
        table.says(5, Vec::new());
        table.says(0, vec![Report::CaughtUp { epoch: Term(1), newcomer: node(5) }]);
        assert_eq!(table.decide(), Some(vec![0, 1, 5]));
        table.says(0, vec![Report::FirstRestarted { epoch: Term(2), last: EntryId::ZERO }]);
        table.arbiter.decide(table.now, &table.record).expect("an epoch in which the newcomer is incomplete");
        // One that was proposed before comes first: the newcomer is complete.
        table.record.apply(&EpochDecision::Activated(Term(2))).unwrap();
        assert_eq!(table.decide(), Some(vec![0, 1, 5]));
        assert_eq!((table.record.present().epoch, table.record.present().incomplete), (Term(3), None));
    }

    // covers K2 K8
    #[test]
    fn fresh_arbiter_takes_it_that_everyone_was_granted_a_lease() {
        let mut table = Table::new(3);
        assert!(table.wants_lease(2).is_some());
        table.arbiter = Arbiter::new(ArbiterSettings::default(), PresiderId(2), table.now);
        assert_eq!(table.wants_lease(2), None, "it does not preside yet");
        table.decide();
        table.blocked(0, 2);
        table.after(250).blocked(0, 2);
        table.says(1, Vec::new());
        assert_eq!(table.decide(), None);
        table.after(60).blocked(0, 2);
        table.says(1, Vec::new());
        assert_eq!(table.decide(), Some(vec![0, 1]));
    }

    // covers K8
    #[test]
    fn arbiter_that_was_succeeded_neither_presides_again_nor_grants() {
        let mut table = Table::new(2);
        table.decide();
        assert!(!table.arbiter.is_over(&table.record));
        table.record.apply(&EpochDecision::Presides(PresiderId(9))).unwrap();
        assert!(table.arbiter.is_over(&table.record));
        assert_eq!((table.decide(), table.wants_lease(1)), (None, None));
    }

    // covers K9 K18
    #[test]
    fn first_that_restarted_gets_a_new_epoch_with_the_same_members() {
        let mut table = Table::new(3);
        let restarted = |epoch| vec![Report::FirstRestarted { epoch, last: EntryId::ZERO }];
        table.says(1, restarted(Term(1)));
        assert_eq!(table.decide(), None, "it is not the first that says so");
        table.says(0, restarted(Term(1)));
        assert_eq!(table.decide(), Some(vec![0, 1, 2]));
        assert_eq!(table.record.present().epoch, Term(2));
        table.says(0, restarted(Term(1)));
        assert_eq!(table.decide(), None, "of an epoch that is over");
    }

    // covers K2 K9
    #[test]
    fn member_that_an_operator_wants_first_becomes_that_once_the_epoch_has_lasted_and_it_is_there() {
        let mut table = Table::new(3);
        table.says(0, Vec::new());
        table.says(5, Vec::new());
        let promote = |table: &mut Table, name| table.arbiter.promote(table.now, &table.record, ReplicaId(name));
        assert_eq!(promote(&mut table, 2), Err(NotPromoted::NotHeard(ReplicaId(2))));
        assert_eq!(promote(&mut table, 5), Err(NotPromoted::NoMember(ReplicaId(5))));
        table.says(2, Vec::new());
        promote(&mut table, 2).unwrap();
        assert_eq!(table.decide(), Some(vec![2, 0, 1]));
        assert_eq!(table.decide(), None, "once");

        // Not at once again, and not one that has fallen silent meanwhile.
        table.says(0, Vec::new());
        promote(&mut table, 0).unwrap();
        assert_eq!(table.decide(), None);
        table.after(1000);
        assert_eq!(table.decide(), None);
        table.says(0, Vec::new());
        assert_eq!(table.decide(), Some(vec![0, 2, 1]));

        // Any other decision ends the wish.
        table.after(1000);
        table.says(1, Vec::new());
        promote(&mut table, 1).unwrap();
        let epoch = table.record.present().epoch;
        table.says(0, vec![Report::FirstRestarted { epoch, last: EntryId::ZERO }]);
        assert_eq!(table.decide(), Some(vec![0, 2, 1]));
        table.after(1000);
        table.says(1, Vec::new());
        assert_eq!(table.decide(), None);

        // So does time, and whoever waited for it can take it back.
        promote(&mut table, 1).unwrap();
        table.after(5000);
        table.says(1, Vec::new());
        assert_eq!(table.decide(), None);
        promote(&mut table, 1).unwrap();
        assert!(table.arbiter.forget_promotion(ReplicaId(1)));
        assert_eq!(table.decide(), None);
    }

    // covers K2 K9
    #[test]
    fn promotion_by_a_record_of_another_epoch_than_the_arbiters_is_no_wish_that_comes_true_later() {
        let mut table = Table::new(2);
        let former = table.record.clone();
        table.says(0, Vec::new());
        table.says(1, Vec::new());
        let epoch = table.record.present().epoch;
        table.says(0, vec![Report::FirstRestarted { epoch, last: EntryId::ZERO }]);
        // The arbiter has not heard of its own decision yet, and whoever asks has read it.
        let decision = table.arbiter.decide(table.now, &table.record).expect("a new epoch");
        table.record.apply(&decision).unwrap();
        table.arbiter.promote(table.now, &table.record, ReplicaId(1)).unwrap();
        table.after(1000);
        table.says(1, Vec::new());
        assert_eq!(table.decide(), Some(vec![1, 0]));
        // And the other way round.
        let refused = table.arbiter.promote(table.now, &former, ReplicaId(0));
        assert_eq!(refused, Err(NotPromoted::Changing));
        table.after(1000);
        table.says(0, Vec::new());
        assert_eq!(table.decide(), None);
    }

    // covers K2
    #[test]
    fn neither_an_incomplete_member_nor_one_of_a_chain_is_promoted() {
        let mut table = Table::new(1);
        table.says(0, Vec::new());
        table.says(5, Vec::new());
        table.says(0, vec![Report::CaughtUp { epoch: Term(1), newcomer: node(5) }]);
        assert_eq!(table.decide(), Some(vec![0, 5]));
        table.says(5, Vec::new());
        let refused = table.arbiter.promote(table.now, &table.record, ReplicaId(5));
        assert_eq!(refused, Err(NotPromoted::Incomplete(ReplicaId(5))));
        let chain = EpochRecord::found(EpochKind::Chain, vec![node(0), node(1)]);
        let mut arbiter = Arbiter::new(ArbiterSettings::default(), PresiderId(1), Time(0));
        let refused = arbiter.promote(Time(0), &chain, ReplicaId(1));
        assert_eq!(refused, Err(NotPromoted::Chain));
    }

    // covers K7
    #[test]
    fn second_newcomer_joins_once_the_first_one_is_complete_and_not_before() {
        let mut table = Table::new(1);
        let both_report = |table: &mut Table, last: u16| {
            table.says(5, Vec::new());
            table.says(6, Vec::new());
            table.says(last, Vec::new()).feeds.map(|node| node.name.0)
        };
        assert_eq!(both_report(&mut table, 0), Some(5));
        table.says(0, vec![Report::CaughtUp { epoch: Term(1), newcomer: node(5) }]);
        assert_eq!(table.decide(), Some(vec![0, 5]));
        assert_eq!(both_report(&mut table, 5), None, "one at a time");
        table.says(0, vec![Report::Activated { epoch: Term(2) }]);
        assert_eq!(table.decide(), Some(vec![0, 5]));
        assert_eq!(both_report(&mut table, 5), Some(6));
        table.says(5, vec![Report::CaughtUp { epoch: Term(2), newcomer: node(6) }]);
        assert_eq!(table.decide(), Some(vec![0, 5, 6]));
    }

    // covers K7
    #[test]
    fn newcomer_that_never_catches_up_is_in_the_way_of_no_other_for_ever() {
        let mut table = Table::new(1);
        // Whom it is to bring up to date after this many seconds in which all have reported.
        let mut feeds = |seconds: u64, newcomers: &[u16]| {
            let mut feeds = None;
            for _ in 0..10 * seconds {
                table.after(100);
                for newcomer in newcomers {
                    table.says(*newcomer, Vec::new());
                }
                feeds = table.says(0, Vec::new()).feeds;
            }
            feeds.map(|node| node.name.0)
        };
        assert_eq!(feeds(100, &[5]), Some(5), "as long as it likes while no one else waits");
        assert_eq!(feeds(1, &[5, 6]), Some(6));
        assert_eq!(feeds(28, &[5, 6]), Some(6));
        assert_eq!(feeds(2, &[5, 6, 7]), Some(7), "those that have not failed yet come first");
        assert_eq!(feeds(28, &[5, 6, 7]), Some(7));
        assert_eq!(feeds(2, &[5, 6, 7]), Some(5));
        assert_eq!(feeds(30, &[5, 6, 7]), Some(5), "it has twice as long now");
        assert_eq!(feeds(30, &[5, 6, 7]), Some(6));
    }

    // covers K7
    #[test]
    fn removed_member_pauses_before_it_joins_again_and_twice_as_long_the_next_time() {
        removed_again_and_again(ArbiterSettings::default().pause_max_us, &[1000, 2000, 4000]);
        removed_again_and_again(1500 * MS, &[1000, 1500, 1500]);
    }

    fn removed_again_and_again(pause_max_us: u64, pauses_ms: &[u64]) {
        let mut table = Table::new(2);
        table.arbiter.settings.pause_max_us = pause_max_us;
        for pause_ms in pauses_ms {
            table.after(700).blocked(0, 1);
            table.after(200).blocked(0, 1);
            table.decide().expect("a removal");
            let epoch = table.record.present().epoch;
            table.after(pause_ms - 100);
            table.says(1, Vec::new());
            assert_eq!(table.says(0, Vec::new()).feeds, None);
            table.after(200);
            table.says(1, Vec::new());
            assert_eq!(table.says(0, Vec::new()).feeds, Some(node(1)));
            table.says(0, vec![Report::CaughtUp { epoch, newcomer: node(1) }]);
            assert_eq!(table.decide(), Some(vec![0, 1]));
            assert_eq!(table.wants_lease(1), None, "it is incomplete");
            let epoch = table.record.present().epoch;
            table.says(0, vec![Report::Activated { epoch }]);
            assert_eq!(table.decide(), Some(vec![0, 1]));
            assert!(table.wants_lease(1).is_some());
        }
    }
}

//! Leading: the term's first entry, proposals, the quorum check, transfer, and the way out of leadership.
//! [`super::replicate`] has what goes to each follower, and what comes back.

use std::collections::BTreeMap;

use super::control::{Change, ChangeRefused, TransferRefused};
use super::lease::LeaseState;
use super::message::Body;
use super::progress::{Pace, Progress};
use super::read::Reads;
use super::{Leader, Leadership, Raft, Role, membership, quorum};
use crate::entry::{Configuration, Entry, EntryId, Index, Payload};
use crate::id::{NodeId, ReplicaId};
use crate::protocol::{Event, LogChange, NotHere, StandDown, Time};

/// A transfer of leadership under way. Proposals are refused until it ends, or the target could never catch up.
#[derive(Clone, Debug)]
pub(super) struct LeadershipTransfer {
    /// Who is to lead.
    pub(super) target: NodeId,
    /// When to give up and serve again.
    pub(super) deadline: Time,
    /// Whether the target was told to start.
    pub(super) told: bool,
}

impl Raft {
    /// A quorum voted for this node in its term.
    pub(super) fn become_leader(&mut self) {
        let term = self.hard_state.term;
        assert!(matches!(self.role, Role::Candidate(_)), "{} became leader of {term} without an election", self.node);
        assert!(self.hard_state.vote == Some(self.node), "leader of {term} voted for {:?}", self.hard_state.vote);
        assert!(self.leader.node.is_none(), "{term} has a second leader besides {:?} (I1)", self.leader.node);
        assert!(self.log.last().term < term, "entry {} exists before its leader", self.log.last());
        self.leader = Leadership { node: Some(self.node), believed: true, ..Leadership::default() };
        self.role = Role::Leader(Box::new(Leader {
            peers: BTreeMap::new(),
            reads: Reads::default(),
            lease_state: LeaseState::from(self.now),
            transfer: None,
            heartbeat_at: self.now.plus_us(self.settings.heartbeat_us),
        }));
        self.disk_lag.begin_again();
        self.track_members();
        // The first entry of the term is what makes it possible to commit those of earlier ones (§5.4.2, §8).
        self.append_own(vec![Payload::Noop]);
    }

    /// Appends payloads to the leader's own log and sends them on, in parallel with its disk. Returns the first's id.
    fn append_own(&mut self, payloads: Vec<Payload>) -> EntryId {
        assert!(matches!(self.role, Role::Leader(_)), "{} appends entries of its own without leading", self.node);
        let first = EntryId { index: self.log.last().index.next(), term: self.hard_state.term };
        let mut entries = Vec::with_capacity(payloads.len());
        for payload in payloads {
            let entry = Entry { id: EntryId { index: self.log.last().index.next(), ..first }, payload };
            if let Payload::Configuration(configuration) = &entry.payload {
                self.configurations.append(entry.id.index, configuration.clone());
            }
            self.log.append(entry.clone());
            entries.push(entry);
        }
        self.out.change(LogChange::Append(entries));
        self.replicate_to_all();
        first
    }

    /// Commands arrived.
    pub(super) fn append_commands(&mut self, commands: Vec<bytes::Bytes>) -> Result<EntryId, NotHere> {
        let accepts = matches!(&self.role, Role::Leader(leader) if leader.transfer.is_none());
        if !accepts {
            Err(self.not_leader())
        } else if commands.is_empty() {
            Ok(EntryId { index: self.log.last().index.next(), term: self.hard_state.term })
        } else {
            Ok(self.append_own(commands.into_iter().map(Payload::Command).collect()))
        }
    }

    /// The answer to what only a leader does. One that hands over names no one: it does not know yet.
    pub(super) fn not_leader(&self) -> NotHere {
        let leader = self.visible_leader().filter(|leader| *leader != self.node);
        NotHere { at: leader.map(|leader| leader.name), term: self.hard_state.term }
    }

    /// Whether this leader has committed an entry of its own term, and so knows what is committed (§8).
    pub(super) fn has_committed_in_term(&self) -> bool {
        self.committed_id().term == self.hard_state.term
    }

    /// Commits what a quorum has (§5.3, §5.4.2).
    pub(super) fn commit_replicated(&mut self) {
        let Role::Leader(leader) = &self.role else { return };
        let durable = self.out.durable();
        let reached = quorum::reached(self.configurations.current(), |node| {
            // Our own log counts like everyone's: as far as it is durable.
            if node == self.node { durable } else { leader.peers.get(&node).map_or(Index::ZERO, Progress::counted) }
        });
        let Some(reached) = reached.filter(|reached| *reached > self.commit) else { return };
        // An entry of an earlier term may be on a majority and still be overwritten (Figure 8). Only one of our own
        // term cannot, and it takes those below it along.
        if self.log.id_at(reached).is_none_or(|id| id.term != self.hard_state.term) {
            return;
        }
        let first_in_term = !self.has_committed_in_term();
        self.advance_commit(reached);
        if first_in_term {
            self.release_early_reads();
        }
        self.follow_up_on_configuration();
    }

    /// The configuration in force may just have been committed: leave a joint one; leave the group if it is without us.
    fn follow_up_on_configuration(&mut self) {
        let configuration = self.configurations.current();
        if self.configurations.current_index() > self.commit {
            return;
        }
        if configuration.is_joint() {
            // Also if a predecessor began the change and died (M13).
            self.append_configuration(membership::left(configuration));
        } else if !configuration.is_voter(self.node) {
            // We led a group that we are no member of, until this was committed (§6, M4).
            self.hand_over_and_follow(self.best_successor());
        }
    }

    /// Forgets those who have left, once they could know that they have, or are not there to be told. Until then they
    /// get the log like everyone, or they would ask for votes for ever.
    fn untrack_previous_members(&mut self) {
        let (now, timeout_us) = (self.now, self.settings.election_timeout_us);
        let (configuration, since) = (self.configurations.current(), self.configurations.current_index());
        if since > self.commit {
            return;
        }
        let Role::Leader(leader) = &mut self.role else { return };
        leader.peers.retain(|node, progress| {
            let listens = now.since_us(progress.reached_at()) < timeout_us;
            configuration.is_member(*node) || (listens && progress.commit_sent < since)
        });
    }

    fn append_configuration(&mut self, configuration: Configuration) -> EntryId {
        for node in configuration.members() {
            self.track_peer(node);
        }
        let id = self.append_own(vec![Payload::Configuration(configuration)]);
        // Other quorums count from now on.
        if let Role::Leader(leader) = &mut self.role {
            leader.lease_state.begin_again(self.now);
        }
        self.commit_replicated();
        self.confirm_round();
        id
    }

    fn track_members(&mut self) {
        for node in self.configurations.current().members() {
            self.track_peer(node);
        }
    }

    fn track_peer(&mut self, node: NodeId) {
        let (own, last, now) = (self.node, self.log.last().index, self.now);
        if let Role::Leader(leader) = &mut self.role
            && node != own
        {
            leader.peers.entry(node).or_insert_with(|| Progress::new(last, now));
        }
    }

    /// The operator wants other members.
    pub(super) fn try_change_members(&mut self, change: &Change) -> Result<EntryId, ChangeRefused> {
        let Role::Leader(leader) = &self.role else { return Err(ChangeRefused::NotLeader(self.not_leader())) };
        if leader.transfer.is_some() {
            return Err(ChangeRefused::NotYet("leadership is being handed over"));
        }
        // Without this two leaders could each change the same old configuration, and their majorities miss each other
        // (M1).
        if !self.has_committed_in_term() {
            return Err(ChangeRefused::NotYet("the leader has not committed an entry of its term yet"));
        }
        let current = self.configurations.current();
        if current.is_joint() || self.configurations.current_index() > self.commit {
            return Err(ChangeRefused::NotYet("another change is under way"));
        }
        let (next, promoted) = membership::planned(current, change).map_err(ChangeRefused::Senseless)?;
        // A voter that still has to catch up counts for the quorum and is of no use to it (M5).
        if !promoted.iter().all(|node| self.is_caught_up(leader, *node)) {
            return Err(ChangeRefused::NotYet("the learner has not caught up"));
        }
        Ok(self.append_configuration(next))
    }

    fn is_caught_up(&self, leader: &Leader, node: NodeId) -> bool {
        let Some(progress) = leader.peers.get(&node) else { return node == self.node };
        progress.heard_at.is_some_and(|at| self.now.since_us(at) < self.settings.election_timeout_us)
            && progress.healing.is_none()
            && matches!(progress.pace, Pace::Replicate)
            && progress.is_level(self.log.last().index, self.now, &self.settings)
    }

    /// The operator wants another leader (thesis §3.10).
    pub(super) fn try_transfer(&mut self, name: ReplicaId) -> Result<(), TransferRefused> {
        let not_leader = self.not_leader();
        let voters = &self.configurations.current().voters;
        let Role::Leader(leader) = &mut self.role else { return Err(TransferRefused::NotLeader(not_leader)) };
        if leader.transfer.is_some() {
            return Err(TransferRefused::Busy);
        }
        // In a joint configuration a replica may have two incarnations; the one that stays is meant.
        let Some(target) = voters.iter().copied().find(|voter| voter.name == name) else {
            return Err(TransferRefused::Senseless(format!("{name} is no voter")));
        };
        if target == self.node {
            return Err(TransferRefused::Senseless(format!("{name} leads already")));
        }
        let deadline = self.now.plus_us(self.settings.election_timeout_us);
        leader.transfer = Some(LeadershipTransfer { target, deadline, told: false });
        self.continue_transfer();
        // Should it lack something that was lost on the way, there is no time to wait for that to show.
        self.probe(target);
        Ok(())
    }

    /// Tells the target of a transfer to start once its log is complete.
    pub(super) fn continue_transfer(&mut self) {
        let (term, last) = (self.hard_state.term, self.log.last().index);
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(transfer) = &mut leader.transfer else { return };
        let complete = leader.peers.get(&transfer.target).is_some_and(|progress| progress.counted() == last);
        if complete && !transfer.told {
            transfer.told = true;
            leader.lease_state.end();
            self.out.send(transfer.target, term, Body::TimeoutNow);
        }
    }

    /// Heartbeats, the checks that go with them, and the end of a transfer that came to nothing.
    pub(super) fn tick_leader(&mut self) {
        let now = self.now;
        let Role::Leader(leader) = &mut self.role else { return };
        if leader.transfer.as_ref().is_some_and(|transfer| now >= transfer.deadline) {
            leader.transfer = None;
            self.out.effects.events.push(Event::TransferFailed);
        }
        if now < leader.heartbeat_at {
            return;
        }
        // From now, not from when it was due: after a pause there is no storm of overdue ticks (E18).
        leader.heartbeat_at = now.plus_us(self.settings.heartbeat_us);
        if let Some(for_us) = self.quorum_silent_for_us() {
            self.out.effects.events.push(Event::StandsDown { cause: StandDown::QuorumSilent { for_us } });
            self.become_follower();
            self.restart_election_timer();
        } else if let Some((for_us, successor)) = self.disk_stalled_for_us() {
            let cause = StandDown::DiskStalled { for_us, successor };
            self.out.effects.events.push(Event::StandsDown { cause });
            self.disk_lag.found_slow();
            self.hand_over_and_follow(Some(successor));
        } else {
            self.send_heartbeats();
            // What was kept for a member that is level by now, or does not get further.
            self.cut_log();
            self.untrack_previous_members();
            self.look_at_their_disks();
            self.give_way_if_disk_lags();
        }
    }

    /// Check-quorum (thesis §6.2): for how long a quorum was silent, if that will be 2 T before the next look. By then
    /// those who are cut off from this leader have stood for election, each after T to 2 T, and clients should not wait
    /// for this one (E8, E10). Sooner it would help no one, and hurt where the others only stood still for a moment, as
    /// on a machine whose disk or memory is short: they would go on with this leader, which would have left them
    /// without one for T more.
    fn quorum_silent_for_us(&self) -> Option<u64> {
        let Role::Leader(leader) = &self.role else { return None };
        let alive_at = quorum::reached(self.configurations.current(), |node| {
            if node == self.node {
                self.now
            } else {
                leader.peers.get(&node).map(Progress::alive_at).unwrap_or_default()
            }
        });
        let for_us = self.now.since_us(alive_at.unwrap_or_default());
        let longest_us = 2 * self.settings.election_timeout_us - self.settings.heartbeat_us;
        (for_us >= longest_us).then_some(for_us)
    }

    /// A leader whose disk hangs can commit nothing that needs its own copy, and answers ever more slowly (E19): for
    /// how long it has hung, and who can take over. Alone it has no one to give way to. Nor has it where the others'
    /// disks hang with its own, as they do on one machine or one storage: they could not stand, and the group would
    /// wait for an election on top. So for as long again it gives way only to a member that goes on acknowledging.
    fn disk_stalled_for_us(&self) -> Option<(u64, NodeId)> {
        let for_us = self.now.since_us(self.out.oldest_write_at()?);
        if for_us <= self.settings.disk_stall_us {
            return None;
        }
        let waits_for_level = for_us <= 2 * self.settings.disk_stall_us;
        let last = self.log.last().index;
        let successor =
            self.best_successor_that(|progress| !waits_for_level || progress.is_level(last, self.now, &self.settings))?;
        Some((for_us, successor))
    }

    /// A leader whose disk stays behind what the others commit hands over to one of them (E21), as in a transfer that
    /// an operator asks for: what was proposed is not lost. Should that fail, it tries again when as much time has
    /// passed.
    fn give_way_if_disk_lags(&mut self) {
        let (now, durable) = (self.now, self.out.durable());
        let Role::Leader(leader) = &self.role else { return };
        if leader.transfer.is_some() || !self.disk_lag.look(now, durable, self.commit, &self.settings) {
            return;
        }
        let has_more =
            |node: &NodeId| matches!(&self.role, Role::Leader(leader) if leader.peers[node].match_index > durable);
        let keeps_up = self.best_successor_that(|progress| !progress.disk_lag.is_slow());
        let Some(successor) = keeps_up.filter(has_more).or_else(|| self.best_successor().filter(has_more)) else {
            return;
        };
        if self.try_transfer(successor.name).is_ok() {
            self.out.effects.events.push(Event::DiskLags { successor });
        }
    }

    /// The voter that is alive and has most of the log.
    fn best_successor(&self) -> Option<NodeId> {
        self.best_successor_that(|_| true)
    }

    /// The same, of those of which this is true.
    fn best_successor_that(&self, is_fit: impl Fn(&Progress) -> bool) -> Option<NodeId> {
        let Role::Leader(leader) = &self.role else { return None };
        let alive = |progress: &Progress| {
            is_fit(progress)
                && progress.healing.is_none()
                && progress.heard_at.is_some_and(|at| self.now.since_us(at) < self.settings.election_timeout_us)
        };
        let voters = &self.configurations.current().voters;
        let candidates = leader.peers.iter().filter(|(node, progress)| voters.contains(node) && alive(progress));
        candidates.max_by_key(|(_, progress)| progress.match_index).map(|(node, _)| *node)
    }

    /// Steps down, and tells the successor, if there is one, so that the group need not wait for a timeout.
    fn hand_over_and_follow(&mut self, successor: Option<NodeId>) {
        let term = self.hard_state.term;
        if let Some(successor) = successor {
            self.announce_commit();
            self.out.send(successor, term, Body::TimeoutNow);
        }
        self.become_follower();
        self.restart_election_timer();
    }

    /// The leader asks this node to take over (thesis §3.10). Late and doubled requests are of an older term, or come
    /// from a leader that serves again; the former are dropped before they get here, the latter cost an election (E16).
    pub(super) fn receive_timeout_now(&mut self) {
        if self.may_campaign() {
            self.start_election(true);
        }
    }
}

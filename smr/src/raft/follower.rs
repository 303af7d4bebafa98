//! Following: entries from the leader, its heartbeats, and what happens when it falls silent (§5.2, §5.3).

use super::message::Body;
use super::{Follower, Raft, Role};
use crate::entry::{Entry, EntryId, HardState, Index, Payload, Term};
use crate::id::NodeId;
use crate::protocol::{Event, LogChange, ReadOutcome};

impl Raft {
    /// A later term exists: whatever this node was before, it follows in that one, whose leader it does not know yet.
    pub(super) fn enter_term(&mut self, term: Term) {
        assert!(term > self.hard_state.term, "entering {term} from {}", self.hard_state.term);
        self.set_hard_state(HardState { term, vote: None, ..self.hard_state });
        self.become_follower();
    }

    /// Gives up every other role. A follower stays as it is: seeing a term must not put off its own election (§5.2).
    pub(super) fn become_follower(&mut self) {
        let election_at = self.now.plus_us(self.patience_us());
        let follower = Role::Follower(Follower { election_at, campaign_at: None });
        match &mut self.role {
            Role::Follower(_) => {}
            Role::PreCandidate(_) | Role::Candidate(_) => self.role = follower,
            Role::Leader(leader) => {
                self.leader.believed = false;
                let failed = leader.reads.drain();
                self.out.effects.reads.extend(failed.into_iter().map(|token| ReadOutcome::Failed { token }));
                self.role = follower;
            }
        }
    }

    /// A leader of the present term spoke. `false` if the term already has another one, or this node leads it itself:
    /// then someone is broken, and it is not this node's log that pays for it.
    pub(super) fn follow(&mut self, from: NodeId) -> bool {
        if self.leader.node.is_some_and(|leader| leader != from) || matches!(self.role, Role::Leader(_)) {
            return false;
        }
        self.leader.node = Some(from);
        self.leader.heard_at = Some(self.now);
        self.leader.lost_at = None;
        self.leader.believed = true;
        self.pre_vote_backoff = None;
        self.become_follower();
        self.restart_election_timer();
        true
    }

    /// Waits a whole timeout again, from now.
    pub(super) fn restart_election_timer(&mut self) {
        let election_at = self.now.plus_us(self.patience_us());
        if let Role::Follower(follower) = &mut self.role {
            *follower = Follower { election_at, campaign_at: None };
        }
    }

    /// Asks for pre-votes after a short random delay, at least `after_us`; not before the lease that it granted is
    /// over: a reset is no proof of death.
    pub(super) fn campaign_soon(&mut self, after_us: u64) {
        let begin = self.now.plus_us(after_us).max(self.bound_until);
        let at = begin.plus_us(self.draw_us(self.settings.failover_delay_max_us));
        if let Role::Follower(follower) = &mut self.role {
            follower.campaign_at = Some(at);
        }
    }

    /// The leader's side closed its connection to this node: most often its process is gone (fast failover).
    pub(super) fn disconnected(&mut self, from: NodeId) {
        // Only a follower or a pre-candidate has heard a leader of its term.
        if self.leader.node != Some(from) || self.leader.heard_at.is_none() {
            return;
        }
        self.leader.lost_at = Some(self.now);
        self.leader.believed = false;
        // Whoever it asked so far still heard the leader, and it would be an election timeout before it asks again.
        if matches!(self.role, Role::PreCandidate(_)) {
            self.become_follower();
        }
        self.campaign_soon(self.stands_back_us());
    }

    /// The election timer, and the one that fast failover sets.
    pub(super) fn tick_voter(&mut self) {
        let due = match &self.role {
            Role::Follower(follower) => follower.due_at(),
            Role::PreCandidate(pre) => pre.retry_at,
            Role::Candidate(candidate) => candidate.retry_at,
            Role::Leader(_) => return,
        };
        if self.now < due {
            return;
        }
        // Redrawn each time, or two nodes with equal timeouts would collide for ever (E3).
        self.timeout_us = self.draw_timeout_us();
        if self.may_campaign() && !self.is_bound() {
            self.start_pre_vote();
        } else {
            self.become_follower();
            self.restart_election_timer();
        }
    }

    /// Entries, or a probe without any, from the leader of this term (§5.3, Figure 2).
    pub(super) fn receive_append(&mut self, from: NodeId, previous: EntryId, entries: Vec<Entry>, commit: Index) {
        // Nothing is stored before it is clear how far that would have to go: the answer comes within a round trip.
        if !self.ask_leader_to_heal(from) {
            return;
        }
        let proven = match entries.last() {
            Some(last) => last.id,
            None => previous,
        };
        // What is committed here is in every later leader's log (§5.4), so the logs agree at least up to there, and the
        // append may begin (or even end) under our commit index, or under our snapshot (L9).
        if previous.index > self.commit && !self.log.has(previous) {
            let hint = self.log.agreement_hint(previous, self.committed_id());
            self.out.send(from, self.hard_state.term, Body::AppendRejected { previous: previous.index, hint });
            return;
        }
        let leader = format!("leader {from}");
        if let Some(what) = self.log.contradiction(&leader, previous, &entries, self.commit) {
            self.contradicted(from, what);
            return;
        }
        self.take_entries(entries);
        let committed = self.committed_id();
        let last = if proven.index > committed.index { proven } else { committed };
        // Only what this message proved: our log may go on with entries that the leader does not have (L8).
        self.advance_commit(commit.min(proven.index));
        if self.is_healing() {
            self.acknowledge_healing(from, last);
        } else {
            self.out.send_after_log(from, self.hard_state.term, Body::AppendAccepted { last });
        }
    }

    /// Adds what is new; removes what contradicts it. A late, shorter append contradicts nothing (L4).
    fn take_entries(&mut self, entries: Vec<Entry>) {
        let (differs_from, fresh) = self.log.news(entries, self.commit);
        if let Some(index) = differs_from {
            self.remove_from(index);
        }
        if fresh.is_empty() {
            return;
        }
        for entry in &fresh {
            if let Payload::Configuration(configuration) = &entry.payload {
                self.configurations.append(entry.id.index, configuration.clone());
            }
            self.log.append(entry.clone());
        }
        self.out.change(LogChange::Append(fresh));
    }

    fn remove_from(&mut self, index: Index) {
        assert!(
            index > self.commit,
            "removing entries from {index}, but {} is committed, in {}",
            self.commit,
            self.hard_state.term
        );
        self.log.truncate_from(index);
        self.configurations.truncate_from(index);
        self.out.cap_durable(index);
        self.out.change(LogChange::RemoveFrom(index));
    }

    /// The leader of this term says that `last` is committed, and names only what this node acknowledged to it in this
    /// term. We have this very entry, and so our log equals the leader's up to there, as if an append had proven it
    /// (§5.3).
    ///
    /// Nothing that was acknowledged in a term leaves the log in that term, so if it is missing, the disk has forgotten
    /// it. A node that heals knows that already.
    pub(super) fn receive_commit(&mut self, from: NodeId, last: EntryId) {
        if last.index <= self.commit {
            if let Some(own) = self.log.id_at(last.index).filter(|own| *own != last) {
                self.contradicted(from, format!("leader {from} has entry {last} where {own} is committed"));
            }
            return;
        }
        if self.log.has(last) {
            self.advance_commit(last.index);
        } else if !self.is_healing() {
            self.out.effects.events.push(Event::Forgot { entry: last });
        }
    }
}

//! Campaigning: the question whether to ask, the election, and the way into leadership (§5.2, thesis §9.6).

use std::collections::BTreeSet;

use super::message::Body;
use super::{Candidate, PreCandidate, Raft, Role, quorum};
use crate::entry::{HardState, Term};
use crate::id::NodeId;
use crate::protocol::WriteId;
use rand_chacha::rand_core::Rng;

impl Raft {
    /// Whether this node may stand: a voter (E15) whose disk works, or its vote would never be durable (E19), and
    /// has lost nothing ([`super::healing`]).
    ///
    /// One that has just been removed stands too until it knows that to be committed (thesis §4.2.2). It may be the
    /// only one with that entry: the others, in the configuration before, then need its vote and cannot get it, because
    /// their logs are shorter. It does not count itself, and gives way once its removal is committed.
    pub(super) fn may_campaign(&self) -> bool {
        let stalled =
            self.out.oldest_write_at().is_some_and(|at| self.now.since_us(at) > self.settings.election_timeout_us);
        let removal_is_open = self.configurations.current_index() > self.commit
            && self.configurations.previous().is_some_and(|before| before.is_voter(self.node));
        (self.configurations.current().is_voter(self.node) || removal_is_open)
            && !self.is_healing()
            && !stalled
            && self.hard_state.term.next() < super::message::TERM_LIMIT
    }

    /// Asks the others whether they would vote for this node in the next term. Without this, a node that was cut off
    /// would come back with a high term and depose a healthy leader (E7).
    pub(super) fn start_pre_vote(&mut self) {
        assert!(!matches!(self.role, Role::Leader(_)), "a leader of {:?} campaigns (E14)", self.hard_state.term);
        self.leader.believed = false;
        let campaign = self.rng.next_u32();
        // Where the leader's connection broke, the others will notice within milliseconds: ask again soon.
        let failing_over =
            self.leader.lost_at.is_some_and(|at| self.now.since_us(at) < self.settings.election_timeout_us);
        let timeout_us = if failing_over {
            self.settings.failover_backoff_us + self.draw_us(self.settings.failover_delay_max_us)
        } else {
            self.draw_timeout_us()
        };
        self.role = Role::PreCandidate(PreCandidate {
            campaign,
            granted: [self.node].into(),
            refused: BTreeSet::new(),
            asked_at: self.now,
            retry_at: self.now.plus_us(timeout_us),
        });
        let (term, last) = (self.hard_state.term.next(), self.log.last());
        for node in self.other_voters() {
            self.out.send(node, term, Body::PreVote { campaign, last });
        }
        self.count_pre_votes();
    }

    /// A voter would vote for this node, if that was about the campaign that runs (E6).
    pub(super) fn receive_pre_vote_granted(&mut self, from: NodeId, term: Term, campaign: u32) {
        let next = self.hard_state.term.next();
        match &mut self.role {
            Role::PreCandidate(pre) if term == next && campaign == pre.campaign => pre.granted.insert(from),
            _ => return,
        };
        self.count_pre_votes();
    }

    /// A voter would not; perhaps because it is in a later term. Then that term has to be caught up with, or no one
    /// whose term is lower could ever be elected beside it (E13).
    pub(super) fn receive_pre_vote_refused(&mut self, from: NodeId, term: Term, campaign: u32) {
        match &mut self.role {
            Role::PreCandidate(pre) if pre.campaign == campaign => pre.refused.insert(from),
            _ => return,
        };
        if term > self.hard_state.term {
            self.enter_term(term);
            // Each refusal of this kind raises the term, so this cannot go round in circles.
            self.campaign_soon(0);
        }
    }

    fn count_pre_votes(&mut self) {
        let Role::PreCandidate(pre) = &self.role else { return };
        if quorum::is_quorum(self.configurations.current(), |node| pre.granted.contains(&node)) {
            self.start_election(false);
        }
    }

    /// Enters the next term, and asks for votes in it. `transfer`: the leader asked for this.
    pub(super) fn start_election(&mut self, transfer: bool) {
        assert!(transfer || !self.is_bound(), "{} stands until {:?} bound by a lease", self.node, self.bound_until);
        assert!(!matches!(self.role, Role::Leader(_)), "a leader of {:?} campaigns (E14)", self.hard_state.term);
        self.set_hard_state(HardState { term: self.hard_state.term.next(), vote: Some(self.node), ..self.hard_state });
        let retry_at = self.now.plus_us(self.draw_timeout_us());
        let own_vote = self.out.write_id();
        self.role = Role::Candidate(Candidate { granted: BTreeSet::new(), own_vote, retry_at });
        let (term, last) = (self.hard_state.term, self.log.last());
        // The candidacy is a vote like any other: the requests wait inside the write that makes it durable.
        for node in self.other_voters() {
            self.out.send(node, term, Body::Vote { last, transfer });
        }
    }

    /// Writes are complete: perhaps the one with this candidate's own vote, which counts only now.
    pub(super) fn count_own_vote(&mut self, durable: WriteId) {
        match &mut self.role {
            Role::Candidate(candidate) if candidate.own_vote <= durable => candidate.granted.insert(self.node),
            _ => return,
        };
        self.count_votes();
    }

    /// A voter gave its vote in this term.
    pub(super) fn receive_vote_granted(&mut self, from: NodeId) {
        let Role::Candidate(candidate) = &mut self.role else { return };
        candidate.granted.insert(from);
        self.count_votes();
    }

    fn count_votes(&mut self) {
        let Role::Candidate(candidate) = &self.role else { return };
        if quorum::is_quorum(self.configurations.current(), |node| candidate.granted.contains(&node)) {
            self.become_leader();
        }
    }

    fn other_voters(&self) -> Vec<NodeId> {
        let configuration = self.configurations.current();
        let voters = configuration.voters.union(&configuration.outgoing);
        voters.copied().filter(|node| *node != self.node).collect()
    }
}

//! Answering those who campaign (§5.2, §5.4.1, thesis §4.2.3 and §9.6).

use super::message::Body;
use super::{PreVoteBackoff, Raft, Role, quorum};
use crate::entry::{EntryId, HardState, Term};
use crate::id::NodeId;

impl Raft {
    /// Would this node vote for `from` in `term`? The answer binds no one, and changes neither term nor vote.
    pub(super) fn receive_pre_vote(&mut self, from: NodeId, term: Term, campaign: u32, last: EntryId) {
        let next = term > self.hard_state.term && self.is_up_to_date(last);
        let refuses = self.is_healing() || self.is_bound() || self.leader_is_healthy();
        if !next || refuses || self.prefers_another(from, last) {
            self.out.send(from, self.hard_state.term, Body::PreVoteRefused { campaign });
            return;
        }
        self.out.send(from, term, Body::PreVoteGranted { campaign });
        // A campaign of ours would now only split the vote.
        let backoff_us = self.settings.failover_backoff_us;
        let backoff = PreVoteBackoff { granted_to: from, last, until: self.now.plus_us(backoff_us) };
        let backoff_us = backoff_us.max(self.stands_back_us());
        match &mut self.role {
            Role::PreCandidate(_) => {
                self.become_follower();
                self.campaign_soon(backoff_us);
                self.pre_vote_backoff = Some(backoff);
            }
            Role::Follower(follower) if self.leader.lost_at.is_some() => {
                if follower.campaign_at.is_some() {
                    self.campaign_soon(backoff_us);
                }
                self.pre_vote_backoff = Some(backoff);
            }
            Role::Follower(_) | Role::Candidate(_) | Role::Leader(_) => {}
        }
    }

    /// `from` asks for this node's vote.
    pub(super) fn receive_vote(&mut self, from: NodeId, term: Term, last: EntryId, transfer: bool) {
        // A server that hears its leader ignores candidates, their term included, or a removed or flaky node could
        // depose a leader that serves everyone else (E12, thesis §4.2.3).
        // Who granted a lease gives its vote to no one before that is over, in no term (`lease`). A leader that asks
        // another one to stand has given its lease up.
        let is_loyal = self.is_bound() || (term > self.hard_state.term && self.leader_is_healthy());
        if self.is_healing() || (!transfer && is_loyal) {
            self.out.send(from, self.hard_state.term, Body::VoteRefused);
            return;
        }
        if term > self.hard_state.term {
            self.enter_term(term);
        }
        let free = self.hard_state.vote == Some(from) || (self.hard_state.vote.is_none() && self.leader.node.is_none());
        if term < self.hard_state.term || !free || !self.is_up_to_date(last) {
            self.out.send(from, self.hard_state.term, Body::VoteRefused);
            return;
        }
        if self.hard_state.vote.is_none() {
            self.set_hard_state(HardState { term, vote: Some(from), ..self.hard_state });
        }
        self.become_follower();
        self.restart_election_timer();
        self.out.send(from, term, Body::VoteGranted);
    }

    /// §5.4.1: whether a log that ends with `last` is at least as up to date as this node's: a later last term wins,
    /// and among equal ones the longer log. Equal logs qualify.
    fn is_up_to_date(&self, last: EntryId) -> bool {
        let own = self.log.last();
        (last.term, last.index) >= (own.term, own.index)
    }

    /// Whether this node has a leader, or is one. Healthy: heard within T, over a connection that still stands.
    ///
    /// A connection that the leader's side closed is most often the death of its process. It only makes this node
    /// *willing* to elect another; one healthy connection per voter in a majority is enough to keep the leader.
    fn leader_is_healthy(&self) -> bool {
        match (&self.role, self.leader.heard_at) {
            (Role::Leader(_), _) => true,
            (_, Some(at)) => self.leader.lost_at.is_none() && self.now.since_us(at) < self.settings.election_timeout_us,
            (_, None) => false,
        }
    }

    /// Whether a pre-vote for `from` would only help to split the vote: this node granted one to another a moment ago,
    /// or asks for the same thing itself and is the better one of the two.
    fn prefers_another(&self, from: NodeId, last: EntryId) -> bool {
        // Not over one with more of the log: two nodes that lack something would put each other off again and again,
        // and with them the only one that can be elected.
        let is_held_off = |backoff: &PreVoteBackoff| {
            let lacks_nothing = (backoff.last.term, backoff.last.index) >= (last.term, last.index);
            backoff.granted_to != from && self.now < backoff.until && lacks_nothing
        };
        let own = self.log.last();
        let stands_better = match &self.role {
            Role::PreCandidate(pre) => {
                let fresh = self.now.since_us(pre.asked_at) < self.settings.failover_delay_max_us;
                // Asked too early, before the others had noticed, it has lost already, and must not stand in the way.
                let lost_leader = self.leader.node.filter(|_| self.leader.lost_at.is_some());
                let may_win = quorum::is_quorum(self.configurations.current(), |voter| {
                    !pre.refused.contains(&voter) && Some(voter) != lost_leader
                });
                fresh && may_win && last == own && from < self.node
            }
            Role::Follower(_) | Role::Candidate(_) | Role::Leader(_) => false,
        };
        stands_better || self.pre_vote_backoff.as_ref().is_some_and(is_held_off)
    }
}

//! Linearizable reads without the log: read index (thesis §6.4).
//!
//! A leader may have been deposed without knowing. So a read that arrives waits for one round of heartbeats that
//! *starts after* it: if a quorum still follows in this term, no other leader can have committed anything by then that
//! this one does not know. All reads that wait share a round, one round runs at a time, and rounds have fresh numbers
//! in their term, so answers to an older round confirm nothing (R3). Only a quorum of voters counts, of both sets in a
//! joint configuration (R5). Before its first commit in its term a leader does not know what is committed, so reads
//! wait (R2).
//!
//! While a leader holds a lease ([`super::lease`]), there is nothing to wait for.

use super::membership::Configurations;
use super::message::Body;
use super::{Leader, Raft, Role, quorum};
use crate::entry::Index;
use crate::id::NodeId;
use crate::protocol::{NotHere, ReadOutcome, ReadToken};

/// The reads that wait at a leader. Invariant: without `confirming` there are none in `next`.
#[derive(Clone, Debug, Default)]
pub(super) struct Reads {
    /// The number of the latest round; 0 before the first.
    pub(super) round: u64,
    /// Those that the running round confirms, with their read index. Empty: no round runs.
    confirming: Vec<(ReadToken, Index)>,
    /// Those that arrived after the running round had started: they need the next one.
    next: Vec<(ReadToken, Index)>,
    /// Those that wait for the first commit in this term. They have no read index yet.
    early: Vec<ReadToken>,
}

impl Reads {
    pub(super) fn len(&self) -> usize {
        self.confirming.len() + self.next.len() + self.early.len()
    }

    /// Everything that waits, in the order of arrival.
    pub(super) fn drain(&mut self) -> Vec<ReadToken> {
        let confirming = self.confirming.drain(..).chain(self.next.drain(..)).map(|(token, _)| token);
        confirming.chain(self.early.drain(..)).collect()
    }
}

impl Raft {
    /// A read arrived.
    pub(super) fn take_read(&mut self, token: ReadToken) -> Result<(), NotHere> {
        let knows_commits = self.has_committed_in_term();
        let not_here = NotHere { at: self.visible_leader().map(|leader| leader.name), term: self.hard_state.term };
        let Role::Leader(leader) = &mut self.role else { return Err(not_here) };
        if leader.reads.len() >= self.settings.reads_waiting_max {
            return Err(not_here);
        }
        if !knows_commits {
            leader.reads.early.push(token);
            return Ok(());
        }
        leader.reads.next.push((token, self.commit));
        self.confirm_next();
        Ok(())
    }

    /// Reads have a read index now. A lease confirms them at once; otherwise they need the next round.
    fn confirm_next(&mut self) {
        let leased = self.holds_lease_at(self.now);
        let Role::Leader(leader) = &mut self.role else { return };
        if leased {
            let ready = leader.reads.next.drain(..);
            self.out.effects.reads.extend(ready.map(|(token, index)| ReadOutcome::Ready { token, index }));
        } else if leader.reads.confirming.is_empty() {
            self.start_round();
        }
    }

    /// The leader committed an entry of its term: reads that waited for that have a read index now.
    pub(super) fn release_early_reads(&mut self) {
        let Role::Leader(leader) = &mut self.role else { return };
        if leader.reads.early.is_empty() {
            return;
        }
        let commit = self.commit;
        leader.reads.next.extend(leader.reads.early.drain(..).map(|token| (token, commit)));
        self.confirm_next();
    }

    /// A member answered a heartbeat, or the configuration changed: is the running round complete?
    pub(super) fn confirm_round(&mut self) {
        let Role::Leader(leader) = &mut self.role else { return };
        if leader.reads.confirming.is_empty() || !round_is_complete(leader, &self.configurations, self.node) {
            return;
        }
        let ready = leader.reads.confirming.drain(..);
        self.out.effects.reads.extend(ready.map(|(token, index)| ReadOutcome::Ready { token, index }));
        if !leader.reads.next.is_empty() {
            self.start_round();
        }
    }

    fn start_round(&mut self) {
        let (term, lease, held_by_all) = (self.hard_state.term, self.lease_to_ask(), self.held_by_all());
        let Role::Leader(leader) = &mut self.role else { return };
        assert!(leader.reads.confirming.is_empty(), "two rounds at once in {term}");
        leader.reads.confirming = std::mem::take(&mut leader.reads.next);
        leader.reads.round += 1;
        let configuration = self.configurations.current();
        for (node, progress) in &mut leader.peers {
            if configuration.is_voter(*node) {
                let commit = super::replicate::commit_for(progress, &self.log, self.commit);
                progress.commit_sent = progress.commit_sent.max(commit.index);
                let (round, held_by_all) = (leader.reads.round, held_by_all.min(commit.index));
                self.out.send(*node, term, Body::Heartbeat { round, commit, held_by_all, lease });
            }
        }
        // Alone, the leader is its own quorum.
        self.confirm_round();
    }
}

fn round_is_complete(leader: &Leader, configurations: &Configurations, own: NodeId) -> bool {
    quorum::is_quorum(configurations.current(), |node| {
        node == own || leader.peers.get(&node).is_some_and(|progress| progress.confirmed_round >= leader.reads.round)
    })
}

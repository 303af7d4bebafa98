//! Healing: a node that lost entries to damage, and knows it, comes back without anyone's help.
//!
//! Its term and its vote are sound, or it would not be here (unless the directory is a copy whose files are of
//! different moments, taken since its newest start: the start numbers find older ones); what it has of its log is sound
//! too, and reaches back without a hole to its snapshot or to nothing. But it may have acknowledged entries that it has
//! no more, so it must help no one to lead who lacks them, itself included. To the group it is *only down*: it neither
//! votes nor stands, grants no lease and confirms no read, and what it stores counts for nothing. It tells its leader
//! that it heals, and is sent entries, or a snapshot, all the same.
//!
//! # When it has healed
//! When its durable log is proven to equal the present leader's up to an index that is not below any of
//! - `past`: what the disk still tells of how far the log had got (the watermark, the last entry that could be read,
//!   and `past` of an earlier start that has not healed);
//! - the last index that *this leader's* log held when it first answered *this start*.
//!
//! With another leader, that is, in another term, the wait begins again: another answer, another proof.
//!
//! # Why that is safe
//! Raft needs of a voter that at each of its votes its log holds whatever it has acknowledged and a quorum has
//! committed with that (§5.4). Let D be the node, L the leader of term T that it heals by, B the index that L named.
//! Take an entry e that was committed, and that D had acknowledged before its loss to the leader of some term t. D's
//! term is sound and it follows no one of an earlier one, so t ≤ T.
//! - *t = T.* Then e was in L's log before D acknowledged it, so before the loss, so before L answered this start.
//!   Nothing leaves a leader's log in its term. So e's index is at most B.
//! - *t < T.* L was elected by a quorum, and e is on a quorum. Someone is in both. If D itself is, it voted before its
//!   loss, with e in its log, for since then it has voted for no one. So in any case someone who had e voted for L,
//!   and L's log held e when it was elected. So e's index is at most B.
//!
//! The answer must be to *this start*: an older one, still on its way, may name an index from before D acknowledged e.
//! So the question carries a number that was drawn for this start, and the answer repeats it. With its log equal to L's
//! up to B, and durably so, D holds every such e, and is a voter like any other. An acknowledgement from before the
//! loss that arrives late says what was true when it was sent, and counts as before: it is one of those that the
//! argument is about.
//!
//! `past` adds nothing to this proof. It is for the day on which L itself has lost something: what this disk can still
//! tell of its log must not be less than what it comes back with.
//!
//! That a node heals is durable before its log is touched ([`crate::storage::watermark`]) and until it has healed. So a
//! crash on the way begins again: silent, with a new number, and with at least as far to go.
//!
//! # The leader's side
//! It forgets what the node had ([`Progress::begin_healing`]), for that may be gone; else it would name as committed
//! what the node cannot have, or never send it again. It pipelines as to anyone, but counts nothing: neither in
//! commits nor as a sign of life. Any answer that only a sound node gives ends that.

use super::Raft;
use super::message::Body;
use super::progress::Progress;
use crate::entry::{EntryId, Index};
use crate::id::NodeId;
use crate::protocol::Event;

/// How far a node that heals has come.
#[derive(Clone, Debug)]
pub(super) struct Healing {
    /// Names this start.
    start: u64,
    past: Index,
    /// What the leader of the present term answered to this start, if it has.
    leader_held: Option<Index>,
    /// Up to where the log was proven to equal that leader's.
    proven: Index,
}

impl Healing {
    pub(super) fn new(start: u64, past: Index) -> Healing {
        Healing { start, past, leader_held: None, proven: Index::ZERO }
    }

    /// A term has begun: another leader, another wait.
    pub(super) fn begin_term(&mut self) {
        (self.leader_held, self.proven) = (None, Index::ZERO);
    }
}

impl Raft {
    /// Whether this node is to be silent.
    pub(super) fn is_healing(&self) -> bool {
        self.healing.is_some()
    }

    /// What the disk still tells of how far the log had got, while this node heals.
    pub(super) fn heals_past(&self) -> Option<Index> {
        self.healing.as_ref().map(|healing| healing.past)
    }

    /// Tells the leader which start of this node asks. In the place of everything that a sound node would answer, until
    /// the leader has answered this. Returns whether the leader has.
    pub(super) fn ask_leader_to_heal(&mut self, leader: NodeId) -> bool {
        let Some(healing) = &self.healing else { return true };
        let (start, answered) = (healing.start, healing.leader_held.is_some());
        if !answered {
            self.out.send(leader, self.hard_state.term, Body::Healing { start });
        }
        answered
    }

    /// In the place of an answer to a heartbeat: still there, still healing.
    pub(super) fn answer_heartbeat_healing(&mut self, leader: NodeId) {
        if let Some(healing) = &self.healing {
            let start = healing.start;
            self.out.send(leader, self.hard_state.term, Body::Healing { start });
        }
    }

    /// In the place of an acknowledgement: the log is durable up to `last`, and equal to the leader's; that counts for
    /// nothing.
    pub(super) fn acknowledge_healing(&mut self, leader: NodeId, last: EntryId) {
        let Some(healing) = &mut self.healing else { return };
        healing.proven = healing.proven.max(last.index);
        let start = healing.start;
        self.out.send_after_log(leader, self.hard_state.term, Body::AppendStored { start, last });
    }

    /// The leader of this term has heard of a start of this node, and had `last` then. Only the first answer to this
    /// very start counts.
    pub(super) fn receive_healing_heard(&mut self, start: u64, last: EntryId) {
        if let Some(healing) = &mut self.healing
            && healing.start == start
        {
            healing.leader_held.get_or_insert(last.index);
        }
    }

    /// Ends the silence, once there is nothing left that this node may have acknowledged and lacks.
    pub(super) fn heal_if_complete(&mut self) {
        let Some(healing) = &self.healing else { return };
        let Some(leader_held) = healing.leader_held else { return };
        let through = leader_held.max(healing.past);
        // What is committed is in every later leader's log.
        let proven = healing.proven.max(self.commit);
        if proven >= through && self.out.durable() >= through {
            self.healing = None;
            self.out.effects.events.push(Event::Healed { through });
        }
    }

    /// A member says that it heals, in the start that it names.
    pub(super) fn receive_healing(&mut self, from: NodeId, start: u64) {
        let (now, term, last) = (self.now, self.hard_state.term, self.log.last());
        let Some(progress) = self.progress_of(from) else { return };
        let is_news = progress.begin_healing(start, last.index, now);
        self.out.send(from, term, Body::HealingHeard { start, last });
        if is_news {
            self.replicate_to(from);
            // It counts no more, and may have been what a majority hung on.
            self.continue_transfer();
        }
    }

    /// A member that heals has a part of our log, durably. It may have got it from an earlier leader, so it need not be
    /// in ours, if we should be deposed without knowing it.
    pub(super) fn receive_append_stored(&mut self, from: NodeId, start: u64, last: EntryId) {
        if !self.log.has(last) && last.index >= self.log.start().index {
            return;
        }
        self.member_stored(from, start, last);
    }

    fn progress_of(&mut self, node: NodeId) -> Option<&mut Progress> {
        let super::Role::Leader(leader) = &mut self.role else { return None };
        leader.peers.get_mut(&node)
    }
}

//! Leases for reads (thesis §6.4.1): a leader that holds one answers reads without asking anyone.
//!
//! # Who owes what to whom
//! Each heartbeat of a leader that serves reads this way asks for a lease ([`Lease`]): its length, and when the
//! heartbeat was *sent*, by the leader's clock. Who answers is *bound* from that moment on, for that length by its own
//! clock: it votes for no one, says so to pre-votes, and does not stand itself. That holds whatever its own flags say,
//! so members with different flags are safe. The answer repeats when it was asked, so a heartbeat that is sent twice,
//! or answered late, counts for what it is.
//!
//! A leader *holds* the lease until the latest moment at which a quorum's answered heartbeats were sent, plus its own
//! length. While it holds, every electable candidate needs the vote of someone who is bound, so no one leads in a
//! later term, no one else commits anything, and its commit index is the newest there is. Quorums are those of the
//! configuration in force, of both sets in a joint one, exactly as for a round of [`super::read`]: the lease is such a
//! round that stays good for a while.
//!
//! # Time
//! Microseconds of each node's own monotonic clock; no two clocks are ever compared. What is assumed is that their
//! *rates* differ by at most [`Settings::clock_drift_permille`](super::Settings): while one member's clock counts 1000,
//! no other one's counts more than 1000 + that. The voter counts the whole length `L`, from when it hears; the leader
//! only `(L - 1) * 1000 / (1000 + drift)`, from when it sent. Hearing is after sending, so the leader's count ends
//! first whichever clock is the faster one. The 1 is what a clock read in whole microseconds hides. Wall clocks play no
//! part (R7).
//!
//! A clock that stands still while the leader does (a process that is stopped does not stop its clock, a virtual
//! machine may) breaks the assumption. The default, read index, assumes nothing of the kind.
//!
//! # The moment that counts
//! A read is checked with a time that was taken *after* it arrived and before it is answered ([`crate::protocol`],
//! duties): then there is a moment in between at which no one had committed anything that this leader does not know,
//! and that is all that linearizability asks for, however long the process is stopped before or after (R6, E18).
//!
//! # When it ends
//! - By itself; then reads go by rounds again until enough heartbeats are answered.
//! - With the term, or the role: it is part of the leader's state.
//! - While leadership is handed over, and once the target was told to start, for the rest of the term (R8): votes for a
//!   candidate whom the leader itself told to stand are given although one is bound. Such a candidate stands in the
//!   very next term. So whoever is the first to lead after the holder of a lease either waited for it, or was told to
//!   start by that holder.
//! - With a change of configuration: only heartbeats that are sent after it count (R8).
//!
//! # Restarts
//! A voter forgets how long it is bound. So the longest lease that it ever granted is part of its hard state, durable
//! before the first answer that rests on it leaves, and after a start it waits that long (E17). A new incarnation
//! grants nothing before the leader itself has made it a voter, by a change of configuration.

use super::message::{Body, Lease};
use super::{Raft, Role, quorum};
use crate::core_kit::lease::countable_us;
use crate::entry::HardState;
use crate::id::NodeId;
use crate::protocol::Time;
use crate::status::ReadMode;

/// A leader's own part in its lease; which heartbeats were answered is in [`super::progress`].
#[derive(Clone, Debug)]
pub(super) struct LeaseState {
    /// Heartbeats count that were sent after it.
    since: Time,
    /// Someone was told to start: over for the rest of the term.
    is_over: bool,
}

impl LeaseState {
    pub(super) fn from(now: Time) -> LeaseState {
        LeaseState { since: now, is_over: false }
    }

    /// Other quorums count from now on.
    pub(super) fn begin_again(&mut self, now: Time) {
        self.since = now;
    }

    /// Someone is told to start.
    pub(super) fn end(&mut self) {
        self.is_over = true;
    }

    /// For exploration, see [`super::canonical`].
    pub(super) fn forget_time(&mut self, now: Time) {
        self.since = now;
    }
}

impl Raft {
    /// What the heartbeats that are sent now ask for.
    pub(super) fn lease_to_ask(&self) -> Option<Lease> {
        let Role::Leader(leader) = &self.role else { return None };
        (self.settings.reads == ReadMode::Lease && !leader.lease_state.is_over)
            .then_some(Lease { asked_at_us: self.now.0, length_us: self.settings.lease_us })
    }

    /// Answers a heartbeat of this node's leader: from now on it is bound by what was asked for.
    pub(super) fn answer_heartbeat(&mut self, from: NodeId, round: u64, lease: Option<Lease>) {
        if self.is_healing() {
            return self.answer_heartbeat_healing(from);
        }
        if let Some(lease) = lease {
            self.bound_until = self.bound_until.max(self.now.plus_us(lease.length_us));
            if lease.length_us > self.hard_state.lease_us {
                // The answer waits until this is durable, as everything does that rests on the hard state.
                self.hard_state = HardState { lease_us: lease.length_us, ..self.hard_state };
                self.out.hard_state(self.hard_state);
            }
        }
        self.out.send(from, self.hard_state.term, Body::HeartbeatAck { round, lease });
    }

    /// Whether this node may vote for no one, itself included, unless the leader itself wants another one.
    pub(super) fn is_bound(&self) -> bool {
        self.now < self.bound_until
    }

    /// A member granted what a heartbeat asked for. What is wrong with that, if anything is.
    pub(super) fn receive_lease(&mut self, from: NodeId, lease: Lease) -> Option<String> {
        let now = self.now;
        let asked = self.settings.reads == ReadMode::Lease && lease.length_us == self.settings.lease_us;
        if !asked || lease.asked_at_us > now.0 {
            return Some(format!("granted {lease:?}, which was not asked for by {now:?}"));
        }
        let Role::Leader(leader) = &mut self.role else { return None };
        if let Some(progress) = leader.peers.get_mut(&from) {
            progress.lease_asked_at = progress.lease_asked_at.max(Some(Time(lease.asked_at_us)));
        }
        None
    }

    /// Whether this node holds the lease at a time of its clock: no other one leads in a later term then.
    pub(super) fn holds_lease_at(&self, at: Time) -> bool {
        let Role::Leader(leader) = &self.role else { return false };
        if self.settings.reads != ReadMode::Lease || leader.lease_state.is_over || leader.transfer.is_some() {
            return false;
        }
        let asked_at = quorum::reached(self.configurations.current(), |node| {
            let answered = leader.peers.get(&node).and_then(|progress| progress.lease_asked_at);
            // No one votes for another one while it leads.
            if node == self.node { Some(at) } else { answered.filter(|asked_at| *asked_at > leader.lease_state.since) }
        });
        let length_us = countable_us(self.settings.lease_us, self.settings.clock_drift_permille);
        asked_at.flatten().is_some_and(|asked_at| at < asked_at.plus_us(length_us))
    }
}

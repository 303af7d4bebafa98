//! What only Raft is asked: other members (§6), and another leader (thesis §3.10). The rest of what a core is asked is
//! in [`crate::protocol`].

use std::collections::BTreeSet;

use super::{BadSettings, Message, Raft};
use crate::entry::EntryId;
use crate::id::{NodeId, ReplicaId};
use crate::protocol::{Effects, NotHere, Protocol, Time};

/// A request for other members. The core turns it into joint configurations (Raft §6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Send the log to one more node, which gets no vote by that.
    AddLearner(NodeId),
    /// Send the log to this learner no longer.
    RemoveLearner(NodeId),
    /// Put `incoming`, a learner that has caught up, into the place of the voter `outgoing`, in one joint change. The
    /// core appends the joint entry, and by itself, once that is committed, the entry that leaves it.
    Replace {
        /// The learner.
        incoming: NodeId,
        /// The voter.
        outgoing: NodeId,
    },
    /// Any other set of voters. The learners among them are promoted; voters not named leave.
    Voters(BTreeSet<NodeId>),
}

/// Why a change of members was refused. Nothing was appended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeRefused {
    /// Only the leader changes members.
    #[error("not the leader")]
    NotLeader(NotHere),
    /// The leader has not committed an entry of its own term yet (M1), or an earlier change is under way. Try again.
    #[error("not now: {0}")]
    NotYet(&'static str),
    /// It makes no sense; trying again does not help (M2).
    #[error("{0}")]
    Senseless(String),
}

/// Why leadership was not handed over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransferRefused {
    /// Only the leader can.
    #[error("not the leader")]
    NotLeader(NotHere),
    /// The target cannot lead, or already does.
    #[error("{0}")]
    Senseless(String),
    /// Another transfer is under way.
    #[error("another transfer is under way")]
    Busy,
}

/// Raft, as an operator sees it. A trait, so that what notes all that goes through a core can stand in front of it.
pub trait Control: Protocol {
    /// Uses another election timeout from now on, in microseconds, and what follows from it
    /// ([`Settings::with_election_timeout_us`](super::Settings::with_election_timeout_us)). What was granted stays: a
    /// lease binds its voter as long as it was granted for.
    ///
    /// # Errors
    /// If no core can work with it. Nothing has changed.
    fn set_election_timeout(&mut self, us: u64) -> Result<(), BadSettings>;

    /// Begins to change who is a member, and returns the entry that says so.
    ///
    /// # Errors
    /// If it cannot begin. Nothing was appended.
    fn change_members(
        &mut self,
        now: Time,
        change: &Change,
        effects: &mut Effects<Self::Message>,
    ) -> Result<EntryId, ChangeRefused>;

    /// Begins to hand leadership to this voter.
    ///
    /// # Errors
    /// If it cannot begin.
    fn transfer(
        &mut self,
        now: Time,
        to: ReplicaId,
        effects: &mut Effects<Self::Message>,
    ) -> Result<(), TransferRefused>;
}

impl Control for Raft {
    fn set_election_timeout(&mut self, us: u64) -> Result<(), BadSettings> {
        let settings = self.settings.clone().with_election_timeout_us(us);
        settings.validate()?;
        if settings != self.settings {
            self.settings = settings;
            self.timeout_us = self.draw_timeout_us();
        }
        Ok(())
    }

    fn change_members(
        &mut self,
        now: Time,
        change: &Change,
        effects: &mut Effects<Message>,
    ) -> Result<EntryId, ChangeRefused> {
        self.act(now, effects, |raft| raft.try_change_members(change))
    }

    fn transfer(&mut self, now: Time, to: ReplicaId, effects: &mut Effects<Message>) -> Result<(), TransferRefused> {
        self.act(now, effects, |raft| raft.try_transfer(to))
    }
}

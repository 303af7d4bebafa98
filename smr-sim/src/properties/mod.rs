//! What must always hold, one file for each property (section I of the fault catalogue).
//!
//! A [`Property`] hears of everything that happens ([`Observation`]), may look up what the observer has written down
//! about all nodes ([`Ledger`]), and may look at the nodes that a step touched ([`View`]). It keeps its own books
//! and never looks at all nodes in each step, so that the cost of a step does not grow with the group or the logs.
//! An `Err` is a violation: the run ends, and says which property was broken, in which step.
//!
//! # Without a file of their own
//! - I14, linearizability, is judged at the end of a run by the workload, from what clients saw
//!   ([`crate::workload`]).
//! - I16 speaks of epochs of configurations, which Raft groups do not have: see [`crate::epochs::properties`].

mod acknowledged_is_kept;
mod bounds;
mod changes_done_are_in_force;
mod configurations;
mod durable_majority;
mod elected_by_a_majority;
mod every_request_answered;
mod exactly_once;
mod forgetting_is_noticed;
mod founded_once;
mod history_is_immutable;
mod leader_append_only;
mod leader_completeness;
mod lease_excludes_later_leaders;
mod log_matching;
mod monotone;
mod one_leader_per_term;
mod one_vote_per_term;
mod persist_before_send;
mod same_commands_same_state;
mod shape;
#[cfg(test)]
mod testing;

use std::collections::BTreeSet;

use smr::entry::{Configuration, EntryId};
use smr::id::NodeId;
use smr::internals::protocol::{Recovered, Time};
use smr::internals::raft::Raft;
use smr::internals::session::SessionTable;

use crate::clock::Clock;
use crate::ledger::Ledger;
use crate::observation::Observation;

/// A node in service.
#[derive(Clone, Copy)]
pub struct NodeView<'a> {
    /// The replica and its incarnation.
    pub node: NodeId,
    /// The production core, as it is after the step.
    pub raft: &'a Raft,
    /// What turns its own time into that of the world.
    pub clock: Clock,
    /// The last entry that it applied, or the last one under its snapshot.
    pub applied: EntryId,
    /// The last entry under its newest snapshot.
    pub snapshot: EntryId,
    /// Its session table.
    pub sessions: &'a SessionTable,
    /// A hash of all commands that took effect, their places and answers.
    pub digest: u64,
    /// Requests that wait for their outcome inside.
    pub requests_waiting: usize,
    /// The most events that ever waited for a turn of its process, the latest of them from the network.
    pub events_waiting_most: usize,
    /// Events beyond this are to be dropped.
    pub events_max: usize,
    /// With this many writes under way messages are to be dropped.
    pub writes_under_way_high: u64,
}

/// SimNodes, whatever state machine they run.
pub trait SimNodes {
    /// The node on a replica, if it is in service.
    fn node(&self, replica: usize) -> Option<NodeView<'_>>;

    /// A hash over the whole state of the node on a replica, sessions included. Slow: now and then only.
    fn deep_digest(&self, replica: usize) -> Option<u64>;

    /// What a start of the node on a replica would find if the power went now and took everything unsynced; an error if
    /// it could not start. `None` if it is not in service. Slow.
    fn found_after_power_cut(&self, replica: usize) -> Option<Result<Recovered, String>>;

    /// How many replicas there are.
    fn replicas(&self) -> usize;
}

/// What a property may look at after a step.
pub struct View<'a> {
    /// The time by the clock of the world.
    pub now: Time,
    /// The number of the step.
    pub step: u64,
    /// The replicas that the step touched, once each.
    pub touched: &'a [usize],
    /// Every replica, also those without a process.
    pub nodes: &'a dyn SimNodes,
}

impl<'a> View<'a> {
    /// The nodes in service that the step touched.
    pub fn touched_nodes(&self) -> impl Iterator<Item = NodeView<'a>> {
        self.touched.iter().filter_map(|replica| self.nodes.node(*replica))
    }
}

/// Something that must always hold.
pub trait Property: Send {
    /// Its number in the catalogue and what it says, for a report.
    fn name(&self) -> &'static str;

    /// Something happened; it is in the books already.
    ///
    /// # Errors
    /// What is wrong.
    fn on(&mut self, observation: &Observation<'_>, ledger: &Ledger) -> Result<(), String>;

    /// Something is about to be written down: the books are as they were before.
    ///
    /// # Errors
    /// What is wrong.
    fn before(&mut self, observation: &Observation<'_>, ledger: &Ledger) -> Result<(), String> {
        let _ = (observation, ledger);
        Ok(())
    }

    /// A step is over.
    ///
    /// # Errors
    /// What is wrong.
    fn after_step(&mut self, view: &View<'_>, ledger: &Ledger) -> Result<(), String> {
        let _ = (view, ledger);
        Ok(())
    }
}

/// All of them, fresh.
pub fn all() -> Vec<Box<dyn Property>> {
    vec![
        Box::new(one_leader_per_term::OneLeaderPerTerm::default()),
        Box::new(one_vote_per_term::OneVotePerTerm::default()),
        Box::new(monotone::Monotone::default()),
        Box::new(leader_append_only::LeaderAppendOnly::default()),
        Box::new(log_matching::LogMatching::default()),
        Box::new(leader_completeness::LeaderCompleteness::default()),
        Box::new(same_commands_same_state::SameCommandsSameState::default()),
        Box::new(durable_majority::DurableMajority::default()),
        Box::new(history_is_immutable::HistoryIsImmutable::default()),
        Box::new(shape::Shape),
        Box::new(persist_before_send::PersistBeforeSend::default()),
        Box::new(acknowledged_is_kept::AcknowledgedIsKept::default()),
        Box::new(exactly_once::ExactlyOnce::default()),
        Box::new(configurations::Configurations::default()),
        Box::new(changes_done_are_in_force::ChangesDoneAreInForce::default()),
        Box::new(bounds::Bounds::default()),
        Box::new(every_request_answered::EveryRequestAnswered::default()),
        Box::new(lease_excludes_later_leaders::LeaseExcludesLaterLeaders::default()),
        Box::new(elected_by_a_majority::ElectedByAMajority::default()),
        Box::new(forgetting_is_noticed::ForgettingIsNoticed::default()),
        Box::new(founded_once::FoundedOnce::default()),
    ]
}

/// Those that hold also for a group that has lost everything, and begins again.
pub(super) fn of_founding() -> Vec<Box<dyn Property>> {
    vec![Box::new(founded_once::FoundedOnce::default())]
}

/// Whether those who `have` it are a majority of the voters and, in a joint configuration, of the outgoing ones.
/// Counted here, so that the core's own way of counting is not its own judge.
pub(crate) fn majority(configuration: &Configuration, have: &impl Fn(&NodeId) -> bool) -> bool {
    let of = |voters: &BTreeSet<NodeId>| 2 * voters.iter().filter(|voter| have(voter)).count() > voters.len();
    of(&configuration.voters) && (configuration.outgoing.is_empty() || of(&configuration.outgoing))
}

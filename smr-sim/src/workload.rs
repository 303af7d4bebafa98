//! What clients ask, and the judgement on what they heard.
//!
//! A [`Workload`] names the state machine, invents operations, and judges the history of one run: all operations as
//! clients saw them, with the times of their beginning and end. [`Registers`] is the one that our own tests use.

use smr::internals::protocol::Time;
use smr::state_machine::StateMachine;

use crate::sim_rng::SimRng;

pub use super::registers::{Register, Registers};

/// Commands and queries of clients, and their judge.
pub trait Workload: Send + 'static {
    /// What is replicated.
    type Machine: StateMachine;

    /// The state before the first entry.
    fn machine(&self) -> Self::Machine;

    /// What client `client` does next. An operation need not be unique, but a judge may need it so.
    fn next(&mut self, client: usize, rng: &mut SimRng) -> Operation;

    /// Reads at the very end of a run, when everything is calm again and nothing else is under way. Their answers are
    /// part of the history.
    fn last_reads(&self) -> Vec<Operation> {
        Vec::new()
    }

    /// Judges all that clients saw: is it linearizable (I14), was nothing acknowledged lost (I12), nothing done twice
    /// (I13)? Called once, when no operation is under way.
    ///
    /// # Errors
    /// What is wrong.
    fn judge(&self, history: &[Seen]) -> Result<(), String>;
}

/// Something that a client does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A command, applied exactly once.
    Write(Vec<u8>),
    /// A query, answered from a state that is not older than its beginning.
    Read(Vec<u8>),
}

/// An operation as its client saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Which client, by its number.
    pub client: usize,
    /// What it asked for.
    pub operation: Operation,
    /// When it was begun.
    pub began_at: Time,
    /// When its outcome was known; the end of time if it never was.
    pub ended_at: Time,
    /// The answer; `None` if it may have taken effect, at any time from its beginning on, or not.
    pub answer: Option<Vec<u8>>,
    /// Whether its only copy was refused before it was proposed: then it has no answer, no effect, and never will have
    /// (C9).
    pub refused: bool,
}

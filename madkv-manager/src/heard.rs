//! When each agent was heard last. Known to the leader alone, and in memory: after an election all agents have time to
//! speak again before one of them is accused.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// When each agent was heard last.
#[derive(Debug, Default)]
pub struct Heard(Mutex<BTreeMap<u16, Instant>>);

impl Heard {
    /// A report of this agent was answered, by a leader.
    pub fn note(&self, agent: u16) {
        self.lock().insert(agent, Instant::now());
    }

    /// When it was heard last, if it was.
    pub fn at(&self, agent: u16) -> Option<Instant> {
        self.lock().get(&agent).copied()
    }

    /// Forgets all agents but these: no more are kept than are recorded.
    pub fn keep(&self, known: impl Fn(u16) -> bool) {
        self.lock().retain(|agent, _| known(*agent));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u16, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

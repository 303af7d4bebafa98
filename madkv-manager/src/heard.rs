//! When each agent was heard last. Known to the leader alone, and in memory: after an election all agents have time to
//! speak again before one of them is accused.

use std::collections::BTreeMap;
use std::time::Instant;

use parking_lot::{Mutex, MutexGuard};

/// A sign of life of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sign {
    /// When it came, by the clock of this manager.
    pub at: Instant,
    /// How often it was told then to report, in milliseconds: until it has heard of another interval, it keeps to this.
    pub told_ms: u64,
}

/// When each agent was heard last.
#[derive(Debug, Default)]
pub struct Heard(Mutex<BTreeMap<u16, Sign>>);

impl Heard {
    /// A report of this agent was answered, by a leader, which told it to report every `told_ms` milliseconds.
    pub fn note(&self, agent: u16, told_ms: u64) {
        self.lock().insert(agent, Sign { at: Instant::now(), told_ms });
    }

    /// When it was heard last, if it was.
    pub fn last(&self, agent: u16) -> Option<Sign> {
        self.lock().get(&agent).copied()
    }

    /// Forgets all agents but these: no more are kept than are recorded.
    pub fn keep(&self, known: impl Fn(u16) -> bool) {
        self.lock().retain(|agent, _| known(*agent));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u16, Sign>> {
        self.0.lock()
    }
}

/// What was recorded of each agent when its leader looked last. What is recorded and what was heard reach the leader in
/// either order: a record that has changed is a sign of life as well.
#[derive(Debug, Default)]
pub struct Records(BTreeMap<u16, Record>);

#[derive(Debug)]
struct Record {
    last: (u64, u64),
    has_failed: bool,
    since: Instant,
}

impl Records {
    /// Notes what is recorded of an agent now: the start and the number of its last report, and whether its host has
    /// failed. Returns since when just that is recorded, as far as was seen.
    pub fn unchanged_since(&mut self, agent: u16, last: (u64, u64), has_failed: bool, now: Instant) -> Instant {
        let record = self.0.entry(agent).or_insert(Record { last, has_failed, since: now });
        if (record.last, record.has_failed) != (last, has_failed) {
            *record = Record { last, has_failed, since: now };
        }
        record.since
    }

    /// Forgets all agents but these.
    pub fn keep(&mut self, known: impl Fn(u16) -> bool) {
        self.0.retain(|agent, _| known(*agent));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn new_record_and_any_change_of_it_count_as_heard_now() {
        let mut records = Records::default();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(records.unchanged_since(1, (7, 1), false, at(5_000)), at(5_000), "seen for the first time");
        assert_eq!(records.unchanged_since(1, (7, 1), false, at(6_000)), at(5_000));
        assert_eq!(records.unchanged_since(1, (7, 2), false, at(7_000)), at(7_000), "it has reported");
        assert_eq!(records.unchanged_since(1, (7, 2), true, at(8_000)), at(8_000));
        assert_eq!(records.unchanged_since(1, (7, 2), false, at(9_000)), at(9_000), "heard again after a failure");
        records.keep(|agent| agent != 1);
        assert_eq!(records.unchanged_since(1, (7, 2), false, at(10_000)), at(10_000));
    }
}

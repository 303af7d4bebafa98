//! I18: no response channel is left unanswered: each request that a process took gets exactly one outcome, unless the
//! process ends; in the calm, within a bounded time. And after each step the engine still waits for as many as were
//! asked and not answered: one that it has dropped shows at once.
//!
//! A panic, the other half of I18, ends the run by itself.

use std::collections::BTreeMap;

use smr::id::NodeId;
use smr::internals::protocol::Time;
use smr::replica::Request;

use super::{Property, View};
use crate::ledger::Ledger;
use crate::observation::Observation;

/// How long a request may wait in the calm, in microseconds: many elections.
const ANSWER_WITHIN_US: u64 = 20_000_000;
/// How often the waiting ones are looked through, in steps.
const EVERY_STEPS: u64 = 1024;

#[derive(Default)]
struct Waiting {
    copies: u64,
    has_no_deadline: bool,
    /// Since when it is known to wait in the calm.
    since: Option<Time>,
}

#[derive(Default)]
pub(super) struct EveryRequestAnswered {
    /// Requests without an outcome.
    waiting: BTreeMap<(NodeId, u64), Waiting>,
    /// How many of them each node has.
    open: BTreeMap<NodeId, u64>,
    is_calm: bool,
}

impl EveryRequestAnswered {
    fn look(&mut self, now: Time) -> Result<(), String> {
        for ((node, tag), waiting) in self.waiting.iter_mut().filter(|(_, waiting)| !waiting.has_no_deadline) {
            let since = *waiting.since.get_or_insert(now);
            if now.since_us(since) > ANSWER_WITHIN_US {
                return Err(format!(
                    "{node} took request {tag:x}, and gave it no outcome within {ANSWER_WITHIN_US} us of calm"
                ));
            }
        }
        Ok(())
    }
}

impl Property for EveryRequestAnswered {
    fn name(&self) -> &'static str {
        "I18 every request gets one outcome"
    }

    fn on(&mut self, observation: &Observation<'_>, _ledger: &Ledger) -> Result<(), String> {
        match observation {
            Observation::Asked { node, tag, request } => {
                // The network may double a request: each copy gets an outcome.
                let waiting = self.waiting.entry((*node, *tag)).or_default();
                waiting.copies += 1;
                // It has ten minutes, to carry snapshots.
                waiting.has_no_deadline = matches!(request, Request::Readmit { .. } | Request::Scale { .. });
                *self.open.entry(*node).or_default() += 1;
            }
            Observation::Answered { node, tag, outcome } => {
                let Some(waiting) = self.waiting.get_mut(&(*node, *tag)) else {
                    return Err(format!("{node} gives {tag:x} an outcome too many: {outcome:?}"));
                };
                waiting.copies -= 1;
                if waiting.copies == 0 {
                    self.waiting.remove(&(*node, *tag));
                }
                self.open.entry(*node).and_modify(|open| *open -= 1);
            }
            Observation::Ended { node, .. } => {
                self.waiting.retain(|(asked, _), _| asked != node);
                self.open.remove(node);
            }
            Observation::Calm => self.is_calm = true,
            _ => {}
        }
        Ok(())
    }

    fn after_step(&mut self, view: &View<'_>, _ledger: &Ledger) -> Result<(), String> {
        for node in view.touched_nodes() {
            let open = self.open.get(&node.node).copied().unwrap_or(0);
            if open != node.requests_waiting as u64 {
                let waits = node.requests_waiting;
                return Err(format!("{} owes {open} outcomes, and knows of {waits} requests", node.node));
            }
        }
        if self.is_calm && view.step.is_multiple_of(EVERY_STEPS) { self.look(view.now) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::properties::testing::{A, Play};
    use smr::replica::Outcome;

    // covers I18
    #[test]
    fn second_outcome_and_outcome_without_a_request_are_rejected() {
        let mut play = Play::new(EveryRequestAnswered::default());
        play.asks_write(A, 1, 7, 3).unwrap();
        play.answers(A, 1, Outcome::Unknown).unwrap();
        assert!(play.answers(A, 1, Outcome::Unknown).is_err());
        assert!(play.answers(A, 2, Outcome::Unknown).is_err());
    }

    // covers I18
    #[test]
    fn request_left_without_an_outcome_is_rejected_unless_its_process_ended() {
        let left = |ends: bool| {
            let mut play = Play::new(EveryRequestAnswered::default());
            play.asks_write(A, 1, 7, 3).unwrap();
            if ends {
                play.ends(A).unwrap();
            }
            play.property.look(Time(1)).and_then(|()| play.property.look(Time(2 + ANSWER_WITHIN_US)))
        };
        assert!(left(false).is_err());
        left(true).unwrap();
    }
}

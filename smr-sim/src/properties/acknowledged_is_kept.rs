//! I12: nothing acknowledged is lost. When a write is acknowledged, it has taken effect at a committed index; and what
//! is committed stays (I6, I9). What clients make of it together, the workload judges at the end
//! ([`crate::workload`]).

use std::collections::BTreeMap;

use smr::entry::Payload;
use smr::id::{ClientId, NodeId};
use smr::internals::session::SessionCommand;
use smr::replica::{Outcome, Request};

use super::Property;
use crate::ledger::Ledger;
use crate::observation::Observation;

#[derive(Default)]
pub(super) struct AcknowledgedIsKept {
    /// Writes with numbers that took effect.
    effects: std::collections::BTreeSet<(ClientId, u64)>,
    /// Writes that were asked, by node and tag.
    asked: BTreeMap<(NodeId, u64), (ClientId, u64)>,
}

impl Property for AcknowledgedIsKept {
    fn name(&self) -> &'static str {
        "I12 what is acknowledged has taken effect"
    }

    fn on(&mut self, observation: &Observation<'_>, ledger: &Ledger) -> Result<(), String> {
        match observation {
            Observation::Asked { node, tag, request: Request::Write { client, number, .. } } => {
                self.asked.insert((*node, *tag), (*client, *number));
            }
            Observation::Ended { node, .. } => {
                self.asked.retain(|(asked, _), _| asked != node);
            }
            Observation::Applied { entry, took_effect: true, .. } if ledger.committed().index >= entry.id.index => {
                if let Payload::Command(bytes) = &entry.payload
                    && let Ok(SessionCommand::Write { client, number, .. }) = SessionCommand::decode(bytes)
                {
                    self.effects.insert((client, number));
                }
            }
            Observation::Answered { node, tag, outcome } => {
                let Some((client, number)) = self.asked.get(&(*node, *tag)).copied() else { return Ok(()) };
                let claims = matches!(outcome, Outcome::Answer(_) | Outcome::AnswerGone);
                if claims && !self.effects.contains(&(client, number)) {
                    return Err(format!("{node} acknowledges write {number} of {client:?}, which took no effect"));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::properties::testing::{A, B, Play, write};

    fn play() -> Play<AcknowledgedIsKept> {
        let mut play = Play::new(AcknowledgedIsKept::default());
        play.asks_write(A, 1, 7, 3).unwrap();
        play
    }

    // covers I12
    #[test]
    fn answer_to_a_write_without_effect_is_rejected() {
        assert!(play().answers(A, 1, Outcome::Answer(b"ok".as_slice().into())).is_err());
        play().answers(A, 1, Outcome::Unknown).unwrap();
        let mut play = play();
        play.applies(B, write(1, 1, 7, 3)).unwrap();
        play.answers(A, 1, Outcome::Answer(b"ok".as_slice().into())).unwrap();
    }

    // covers I12
    #[test]
    fn effect_of_another_number_does_not_count() {
        let mut play = play();
        play.applies(B, write(1, 1, 7, 2)).unwrap();
        assert!(play.answers(A, 1, Outcome::Answer(b"ok".as_slice().into())).is_err());
    }
}

//! I13, exactly once: one (client, number) takes effect at one log index at most, and all answers given for it are
//! equal; a session is opened by one entry, and given to one request.

use std::collections::BTreeMap;

use smr::codec;
use smr::entry::{Index, Payload};
use smr::id::{ClientId, NodeId};
use smr::internals::session::SessionCommand;
use smr::replica::{Outcome, Request};

use super::Property;
use crate::ledger::Ledger;
use crate::observation::Observation;

#[derive(Default)]
pub(super) struct ExactlyOnce {
    effects: BTreeMap<(ClientId, u64), Index>,
    answers: BTreeMap<(ClientId, u64), u64>,
    sessions: BTreeMap<ClientId, u64>,
    asked: BTreeMap<(NodeId, u64), (ClientId, u64)>,
}

impl Property for ExactlyOnce {
    fn name(&self) -> &'static str {
        "I13 exactly once"
    }

    fn on(&mut self, observation: &Observation<'_>, _ledger: &Ledger) -> Result<(), String> {
        match observation {
            Observation::Asked { node, tag, request: Request::Write { client, number, .. } } => {
                self.asked.insert((*node, *tag), (*client, *number));
            }
            Observation::Ended { node, .. } => {
                self.asked.retain(|(asked, _), _| asked != node);
            }
            Observation::Applied { node, entry, took_effect: true, .. } => {
                let Payload::Command(bytes) = &entry.payload else { return Ok(()) };
                let Ok(SessionCommand::Write { client, number, .. }) = SessionCommand::decode(bytes) else {
                    return Ok(());
                };
                let first = *self.effects.entry((client, number)).or_insert(entry.id.index);
                if first != entry.id.index {
                    return Err(format!(
                        "write {number} of {client:?} takes effect on {node} at {}, and did at {first}",
                        entry.id
                    ));
                }
            }
            Observation::Answered { node, tag, outcome: Outcome::Answer(answer) } => {
                let Some((client, number)) = self.asked.get(&(*node, *tag)).copied() else { return Ok(()) };
                let hash = codec::checksum(&[answer]);
                if *self.answers.entry((client, number)).or_insert(hash) != hash {
                    return Err(format!("{node} gives write {number} of {client:?} another answer than before"));
                }
            }
            Observation::Answered { node, tag, outcome: Outcome::SessionOpened(client) } => {
                if let Some(other) = self.sessions.insert(*client, *tag) {
                    return Err(format!("{node} gives session {client:?} to request {tag}, and {other} has it"));
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

    // covers I13
    #[test]
    fn second_effect_of_a_number_is_rejected() {
        let mut play = Play::new(ExactlyOnce::default());
        play.applies(A, write(1, 1, 7, 3)).unwrap();
        play.applies(B, write(1, 1, 7, 3)).unwrap();
        play.applies(A, write(2, 1, 7, 4)).unwrap();
        assert!(play.applies(A, write(3, 1, 7, 3)).is_err());
    }

    // covers I13
    #[test]
    fn other_answer_to_the_same_number_is_rejected() {
        let mut play = Play::new(ExactlyOnce::default());
        for (node, tag) in [(A, 1), (B, 2), (A, 3)] {
            play.asks_write(node, tag, 7, 3).unwrap();
        }
        play.answers(A, 1, Outcome::Answer(b"one".as_slice().into())).unwrap();
        play.answers(B, 2, Outcome::Answer(b"one".as_slice().into())).unwrap();
        assert!(play.answers(A, 3, Outcome::Answer(b"two".as_slice().into())).is_err());
    }

    // covers I13
    #[test]
    fn session_given_twice_is_rejected() {
        let mut play = Play::new(ExactlyOnce::default());
        play.answers(A, 1, Outcome::SessionOpened(ClientId::at(5))).unwrap();
        assert!(play.answers(A, 2, Outcome::SessionOpened(ClientId::at(5))).is_err());
    }
}

//! Incarnations that were replaced: who sends something, and whether this one still counts.

use super::actions::Replaced;
use super::{Action, Engine};
use crate::entry::{Configuration, Index};
use crate::id::{Disqualified, NodeId};
use crate::protocol::{Input, Protocol, Time};
use crate::state_machine::StateMachine;

impl<P: Protocol, S: StateMachine> Engine<P, S> {
    /// A member says that this node is none any more. It counts if this node has not heard of it: its log names itself
    /// as a voter, in an earlier configuration. Who was taken in only now does not name itself yet, or in a later one;
    /// and a learner may be named by an entry that was never committed, and is then no one's predecessor.
    pub fn replaced_heard(&mut self, from: NodeId, replaced: Replaced) {
        let status = self.core.status();
        if status.configuration.is_voter(self.node) && status.configuration_index < replaced.since {
            self.replaced_by(replaced, &format!("replica {from}"));
        }
    }

    /// Whether another incarnation has the place of this node, which sent something: then it may not know. A place is a
    /// vote: a learner that is left of an earlier incarnation, or comes to be the next one, has it not.
    pub(super) fn replaced(&self, node: NodeId) -> Option<Replaced> {
        let (since, members) = &self.members;
        if members.is_member(node) {
            return None;
        }
        let successor = members.voters.iter().find(|voter| voter.name == node.name)?;
        Some(Replaced { by: successor.incarnation, since: *since })
    }

    pub(super) fn replaced_by(&mut self, Replaced { by, since }: Replaced, whose: &str) {
        let why = Disqualified::Replaced { by };
        self.quarantine(format!("{why} ({whose} says so, by the configuration of entry {since})"));
    }

    /// The configuration of the last entry applied is another one by now.
    pub(super) fn members_changed(&mut self, carrier: Index, configuration: Configuration) {
        let was_member = self.members.1.is_member(self.node);
        self.members = (carrier, configuration);
        let is_member = self.members.1.is_member(self.node);
        if was_member && let Some(replaced) = self.replaced(self.node) {
            self.replaced_by(replaced, "its own log");
        } else if was_member != is_member {
            self.actions.push(Action::Retired((!is_member).then_some(carrier)));
        }
    }

    /// This node is connected. If it was replaced it hears so, even if it has nothing to say by itself (one that
    /// heals).
    pub fn connected(&mut self, now: Time, node: NodeId) {
        if self.core.has_service() {
            self.step(now, Input::Connected(node));
        }
        if let Some(replaced) = self.replaced(node).filter(|_| !self.silent) {
            self.actions.push(Action::SendReplaced(node, replaced));
        }
    }
}

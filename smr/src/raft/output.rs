//! What Raft's messages rest on (I11); [`Outbox`] lets none of them leave before that.

use super::message::{Body, Message, envelope};
use crate::core_kit::outbox::Outbox;
use crate::entry::{HardState, Term};
use crate::id::NodeId;
use crate::protocol::StoredState;

pub use crate::core_kit::outbox::IDLE_WRITES_MAX;

impl Outbox<Message> {
    /// Sends a message that rests on nothing but the term it speaks in.
    pub(super) fn send(&mut self, to: NodeId, term: Term, body: Body) {
        // A pre-vote's term is one that no one has entered: nothing of it is on any disk.
        let needs_no_hard_state = matches!(body, Body::PreVote { .. } | Body::PreVoteGranted { .. });
        let envelope = envelope(to, term, body);
        if needs_no_hard_state {
            self.push(envelope);
        } else {
            self.push_after_hard_state(envelope);
        }
    }

    /// Sends a message that rests on the log as it is now.
    pub(super) fn send_after_log(&mut self, to: NodeId, term: Term, body: Body) {
        self.push_after_log(envelope(to, term, body));
    }

    /// Term and vote are to be made durable.
    pub(super) fn hard_state(&mut self, hard_state: HardState) {
        self.store(StoredState::Raft(hard_state));
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::Message;
    use super::*;
    use crate::core_kit::outbox::{IDLE_WRITES_MAX, Outbox};
    use crate::entry::{HardState, Index};
    use crate::protocol::{LogChange, Time, WriteId};

    const NODE: NodeId = NodeId::new(1, 1);

    fn writing(outbox: &mut Outbox<Message>, last: u64) -> WriteId {
        outbox.change(LogChange::Append(Vec::new()));
        outbox.finish(Time(0), Index(last)).writes[0].id()
    }

    // covers L6
    #[test]
    fn durable_first_of_two_writes_done_counts_only_that() {
        let mut outbox = Outbox::new(Index(3));
        let first = writing(&mut outbox, 5);
        let second = writing(&mut outbox, 9);
        outbox.complete(first);
        assert_eq!(outbox.durable(), Index(5));
        outbox.complete(second);
        assert_eq!(outbox.durable(), Index(9));
        outbox.complete(first);
        assert_eq!(outbox.durable(), Index(9), "said twice");
    }

    // covers L7
    #[test]
    fn durable_old_write_done_after_truncation_is_not_the_new_entry() {
        let mut outbox = Outbox::new(Index(3));
        let old = writing(&mut outbox, 9);
        outbox.cap_durable(Index(5));
        outbox.change(LogChange::RemoveFrom(Index(5)));
        let new = writing(&mut outbox, 7);
        outbox.complete(old);
        assert_eq!(outbox.durable(), Index(4));
        outbox.complete(new);
        assert_eq!(outbox.durable(), Index(7));
    }

    // covers I11
    #[test]
    fn send_before_hard_state_is_durable_waits_inside_the_write() {
        let mut outbox = Outbox::new(Index(3));
        outbox.hard_state(HardState { term: Term(2), ..HardState::default() });
        outbox.send(NODE, Term(2), Body::VoteRefused);
        outbox.send(NODE, Term(3), Body::PreVoteGranted { campaign: 1 });
        let effects = outbox.finish(Time(0), Index(3));
        assert_eq!(effects.messages, [envelope(NODE, Term(3), Body::PreVoteGranted { campaign: 1 })]);
        assert_eq!(effects.writes[0].peek(), [envelope(NODE, Term(2), Body::VoteRefused)]);
        outbox.send(NODE, Term(2), Body::HeartbeatAck { round: 0, lease: None });
        let effects = outbox.finish(Time(0), Index(3));
        assert!(effects.messages.is_empty() && effects.writes[0].peek().len() == 1);
        outbox.complete(WriteId(2));
        outbox.send(NODE, Term(2), Body::HeartbeatAck { round: 0, lease: None });
        let effects = outbox.finish(Time(0), Index(3));
        assert!(effects.messages.len() == 1 && effects.writes.is_empty());
    }

    // covers I17 D12
    #[test]
    fn finish_disk_hangs_bounds_writes_that_only_wait() {
        let mut outbox = Outbox::new(Index(3));
        writing(&mut outbox, 4);
        for _ in 0..2 * IDLE_WRITES_MAX {
            outbox.send_after_log(NODE, Term(1), Body::AppendAccepted { last: crate::entry::EntryId::new(4, 1) });
            outbox.finish(Time(0), Index(4));
        }
        assert_eq!(outbox.pending_len(), IDLE_WRITES_MAX);
        let id = writing(&mut outbox, 5);
        assert_eq!(outbox.pending_len(), IDLE_WRITES_MAX + 1, "what has something to write is never dropped");
        outbox.complete(id);
        assert_eq!(outbox.durable(), Index(5));
    }
}

//! What a step hands out, and what of it is still on its way to the disk.
//!
//! Two rules decide when a message may leave (I11), and they are enforced here for all senders at once:
//! - no message that speaks in a term leaves before that term, and the vote given in it, are durable;
//! - what rests on the log ([`Outbox::send_after_log`]) leaves after everything that was to be written before it.
//!
//! A step makes at most one [`Write`]. Writes complete in order, so one number says how far the log is durable: when a
//! write completes, so has everything that was in the log when it was issued. A later truncation lowers what the
//! writes before it can still claim, or the end of an old write would be taken for the durability of a new entry at the
//! same index (L7).

use std::collections::VecDeque;

use super::message::{Body, Envelope, Message, envelope};
use crate::entry::{HardState, Index, Term};
use crate::id::NodeId;
use crate::protocol::{Effects, LogChange, Time, Write, WriteId};

/// With this many writes on their way, answers that would need a write of their own just to wait their turn are
/// dropped: a message may be lost, and whoever asked asks again. Bounds what heartbeats pile up in front of a disk that
/// hangs.
pub const IDLE_WRITES_MAX: usize = 1024;

/// See the module.
#[derive(Debug)]
pub(super) struct Outbox {
    /// The rest of the step's effects; `messages` and `writes` are filled by this type only.
    pub(super) effects: Effects<Message>,
    // The write that this step is making.
    hard_state: Option<HardState>,
    log: Vec<LogChange>,
    then: Vec<Envelope>,
    // Writes issued in earlier steps, and not complete.
    next: WriteId,
    pending: VecDeque<Pending>,
    hard_state_pending: Option<WriteId>,
    durable: Index,
}

/// Between two steps, as the explorer does it, which goes on from one core in many ways. A [`Write`] has no copies:
/// what rests on it leaves once.
impl Clone for Outbox {
    fn clone(&self) -> Outbox {
        let Outbox { effects, hard_state, log, then, next, pending, hard_state_pending, durable } = self;
        let is_between = effects.writes.is_empty() && hard_state.is_none() && log.is_empty() && then.is_empty();
        assert!(is_between, "a core is copied in the middle of a step: {self:?}");
        Outbox {
            next: *next,
            pending: pending.clone(),
            hard_state_pending: *hard_state_pending,
            ..Outbox::new(*durable)
        }
    }
}

#[derive(Clone, Debug)]
struct Pending {
    id: WriteId,
    issued_at: Time,
    /// How far the log is durable once this write is.
    reaches: Index,
    /// It has nothing to write, and only waits its turn.
    idle: bool,
}

impl Outbox {
    /// Nothing is on its way, and the log is durable up to `durable`.
    pub(super) fn new(durable: Index) -> Outbox {
        Outbox {
            effects: Effects::default(),
            hard_state: None,
            log: Vec::new(),
            then: Vec::new(),
            next: WriteId(1),
            pending: VecDeque::new(),
            hard_state_pending: None,
            durable,
        }
    }

    /// Sends a message that rests on nothing but the term it speaks in.
    pub(super) fn send(&mut self, to: NodeId, term: Term, body: Body) {
        // A pre-vote's term is one that no one has entered: nothing was promised in it.
        let needs_no_hard_state = matches!(body, Body::PreVote { .. } | Body::PreVoteGranted { .. });
        if needs_no_hard_state || self.hard_state_is_durable() {
            self.effects.messages.push(envelope(to, term, body));
        } else {
            self.then.push(envelope(to, term, body));
        }
    }

    /// Sends a message that rests on the log as it is now.
    pub(super) fn send_after_log(&mut self, to: NodeId, term: Term, body: Body) {
        self.then.push(envelope(to, term, body));
    }

    /// Term and vote are to be made durable.
    pub(super) fn hard_state(&mut self, hard_state: HardState) {
        self.hard_state = Some(hard_state);
    }

    /// The log is to be changed. Changes are made in the order of these calls.
    pub(super) fn change(&mut self, change: LogChange) {
        self.log.push(change);
    }

    /// The write that this step is making, if it has anything to write.
    pub(super) fn write_id(&self) -> WriteId {
        self.next
    }

    /// Whether the latest term and vote are durable.
    pub(super) fn hard_state_is_durable(&self) -> bool {
        self.hard_state.is_none() && self.hard_state_pending.is_none()
    }

    /// How far the present log is durable.
    pub(super) fn durable(&self) -> Index {
        self.durable
    }

    /// How many of the writes that are not complete only wait their turn.
    pub(super) fn idle_pending(&self) -> usize {
        self.pending.iter().filter(|write| write.idle).count()
    }

    /// When the oldest write was issued that is not complete.
    pub(super) fn oldest_write_at(&self) -> Option<Time> {
        self.pending.front().map(|write| write.issued_at)
    }

    /// Entries from `index` on were removed, or are no longer what they were: what is durable there counts no more.
    pub(super) fn cap_durable(&mut self, index: Index) {
        self.durable = self.durable.min(index.previous());
        for write in &mut self.pending {
            write.reaches = write.reaches.min(index.previous());
        }
    }

    /// A durable snapshot covers the log up to `index`.
    pub(super) fn raise_durable(&mut self, index: Index) {
        self.durable = self.durable.max(index);
    }

    /// The write `id`, and all before it, are complete.
    ///
    /// # Panics
    /// If that write was never issued.
    pub(super) fn complete(&mut self, id: WriteId) {
        assert!(id < self.next, "write {} was never issued, the next is {}", id.0, self.next.0);
        while let Some(write) = self.pending.pop_front_if(|write| write.id <= id) {
            self.durable = self.durable.max(write.reaches);
        }
        self.hard_state_pending = self.hard_state_pending.filter(|pending| *pending > id);
    }

    /// Ends the step: its effects, with its write if there is one. `last` is the log's last entry.
    pub(super) fn finish(&mut self, now: Time, last: Index) -> Effects<Message> {
        let hard_state = self.hard_state.take();
        let log = std::mem::take(&mut self.log);
        let mut then = std::mem::take(&mut self.then);
        let mut effects = std::mem::take(&mut self.effects);
        let empty = hard_state.is_none() && log.is_empty();
        if empty && self.pending.is_empty() {
            effects.messages.append(&mut then);
        } else if !empty || (!then.is_empty() && self.pending.len() < IDLE_WRITES_MAX) {
            let id = self.next;
            self.next = WriteId(id.0 + 1);
            if hard_state.is_some() {
                self.hard_state_pending = Some(id);
            }
            self.pending.push_back(Pending { id, issued_at: now, reaches: last, idle: empty });
            effects.writes.push(Write::new(id, hard_state, log, then));
        }
        effects
    }

    /// Lets the latest write, which has nothing to write, be complete with the one before it. For exploration.
    pub(super) fn join_latest(&mut self) {
        let latest = self.pending.pop_back().map(|write| write.reaches);
        assert!(latest == self.pending.back().map(|write| write.reaches), "an empty write reached further");
        self.next = WriteId(self.next.0 - 1);
    }

    /// Numbers the writes under way from 1 on, all of them issued at `now`; returns how many there were before them.
    /// For exploration, see [`super::canonical`].
    pub(super) fn forget_time(&mut self, now: Time) -> u64 {
        let before = self.next.0 - 1 - self.pending.len() as u64;
        for pending in &mut self.pending {
            (pending.id, pending.issued_at) = (WriteId(pending.id.0 - before), now);
        }
        self.next = WriteId(self.next.0 - before);
        self.hard_state_pending = self.hard_state_pending.map(|write| WriteId(write.0 - before));
        before
    }

    /// Asserts that writes are in order. For tests.
    pub(super) fn assert_order(&self) {
        for (before, after) in self.pending.iter().zip(self.pending.iter().skip(1)) {
            assert!(before.id < after.id && before.issued_at <= after.issued_at, "{before:?} before {after:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId::new(1, 1);

    fn writing(outbox: &mut Outbox, last: u64) -> WriteId {
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
        assert_eq!(outbox.pending.len(), IDLE_WRITES_MAX);
        let id = writing(&mut outbox, 5);
        assert_eq!(outbox.pending.len(), IDLE_WRITES_MAX + 1, "what has something to write is never dropped");
        outbox.complete(id);
        assert_eq!(outbox.durable(), Index(5));
    }
}

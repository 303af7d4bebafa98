//! What a step hands out, and what of it is still on its way to the disk.
//!
//! Two rules decide when a message may leave (I11), and they are enforced here for all senders at once:
//! - no message that rests on the hard state ([`Outbox::push_after_hard_state`]) leaves before that is durable;
//! - what rests on the log ([`Outbox::push_after_log`]) leaves after everything that was to be written before it.
//!
//! Each core says in a file of its own which messages rest on what.
//!
//! A step makes at most one [`Write`]. Writes complete in order, so one number says how far the log is durable: when a
//! write completes, so has everything that was in the log when it was issued. A later truncation lowers what the
//! writes before it can still claim, or the end of an old write would be taken for the durability of a new entry at the
//! same index (L7).

use std::collections::VecDeque;
use std::fmt;

use crate::entry::Index;
use crate::protocol::{Effects, Envelope, LogChange, StoredState, Time, Write, WriteId};

/// With this many writes on their way, answers that would need a write of their own just to wait their turn are
/// dropped: a message may be lost, and whoever asked asks again. Bounds what heartbeats pile up in front of a disk that
/// hangs.
pub const IDLE_WRITES_MAX: usize = 1024;

/// See the module.
#[derive(Debug)]
pub(crate) struct Outbox<M> {
    /// The rest of the step's effects; `messages` and `writes` are filled by this type only.
    pub(crate) effects: Effects<M>,
    // The write that this step is making.
    hard_state: Option<StoredState>,
    log: Vec<LogChange>,
    then: Vec<Envelope<M>>,
    // Writes issued in earlier steps, and not complete.
    next: WriteId,
    pending: VecDeque<Pending>,
    hard_state_pending: Option<WriteId>,
    durable: Index,
}

/// Between two steps, as the explorer does it, which goes on from one core in many ways. A [`Write`] has no copies:
/// what rests on it leaves once.
impl<M: fmt::Debug> Clone for Outbox<M> {
    fn clone(&self) -> Outbox<M> {
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

impl<M> Outbox<M> {
    /// Nothing is on its way, and the log is durable up to `durable`.
    pub(crate) fn new(durable: Index) -> Outbox<M> {
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

    /// Sends a message that rests on nothing.
    pub(crate) fn push(&mut self, envelope: Envelope<M>) {
        self.effects.messages.push(envelope);
    }

    /// Sends a message that rests on the hard state as it is now.
    pub(crate) fn push_after_hard_state(&mut self, envelope: Envelope<M>) {
        if self.hard_state_is_durable() {
            self.effects.messages.push(envelope);
        } else {
            self.then.push(envelope);
        }
    }

    /// Sends a message that rests on the log as it is now.
    pub(crate) fn push_after_log(&mut self, envelope: Envelope<M>) {
        self.then.push(envelope);
    }

    /// The hard state is to be made durable.
    pub(crate) fn store(&mut self, state: StoredState) {
        self.hard_state = Some(state);
    }

    /// The log is to be changed. Changes are made in the order of these calls.
    pub(crate) fn change(&mut self, change: LogChange) {
        self.log.push(change);
    }

    /// The write that this step is making, if it has anything to write.
    pub(crate) fn write_id(&self) -> WriteId {
        self.next
    }

    /// Whether the latest hard state is durable.
    pub(crate) fn hard_state_is_durable(&self) -> bool {
        self.hard_state.is_none() && self.hard_state_pending.is_none()
    }

    /// How far the present log is durable.
    pub(crate) fn durable(&self) -> Index {
        self.durable
    }

    /// How many writes are not complete.
    #[cfg(test)]
    pub(crate) fn pending_len(&self) -> usize {
        self.pending.len()
    }

    /// How many of the writes that are not complete only wait their turn.
    pub(crate) fn idle_pending(&self) -> usize {
        self.pending.iter().filter(|write| write.idle).count()
    }

    /// When the oldest write was issued that is not complete.
    pub(crate) fn oldest_write_at(&self) -> Option<Time> {
        self.pending.front().map(|write| write.issued_at)
    }

    /// Entries from `index` on were removed, or are no longer what they were: what is durable there counts no more.
    pub(crate) fn cap_durable(&mut self, index: Index) {
        self.durable = self.durable.min(index.previous());
        for write in &mut self.pending {
            write.reaches = write.reaches.min(index.previous());
        }
    }

    /// A durable snapshot covers the log up to `index`.
    pub(crate) fn raise_durable(&mut self, index: Index) {
        self.durable = self.durable.max(index);
    }

    /// The write `id`, and all before it, are complete.
    ///
    /// # Panics
    /// If that write was never issued.
    pub(crate) fn complete(&mut self, id: WriteId) {
        assert!(id < self.next, "write {} was never issued, the next is {}", id.0, self.next.0);
        while let Some(write) = self.pending.pop_front_if(|write| write.id <= id) {
            self.durable = self.durable.max(write.reaches);
        }
        self.hard_state_pending = self.hard_state_pending.filter(|pending| *pending > id);
    }

    /// Ends the step: its effects, with its write if there is one. `last` is the log's last entry.
    pub(crate) fn finish(&mut self, now: Time, last: Index) -> Effects<M> {
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
    pub(crate) fn join_latest(&mut self) {
        let latest = self.pending.pop_back().map(|write| write.reaches);
        assert!(latest == self.pending.back().map(|write| write.reaches), "an empty write reached further");
        self.next = WriteId(self.next.0 - 1);
    }

    /// Numbers the writes under way from 1 on, all of them issued at `now`; returns how many there were before them.
    /// For exploration, see [`crate::raft::canonical`].
    pub(crate) fn forget_time(&mut self, now: Time) -> u64 {
        let before = self.next.0 - 1 - self.pending.len() as u64;
        for pending in &mut self.pending {
            (pending.id, pending.issued_at) = (WriteId(pending.id.0 - before), now);
        }
        self.next = WriteId(self.next.0 - before);
        self.hard_state_pending = self.hard_state_pending.map(|write| WriteId(write.0 - before));
        before
    }

    /// Asserts that writes are in order. For tests.
    pub(crate) fn assert_order(&self) {
        for (before, after) in self.pending.iter().zip(self.pending.iter().skip(1)) {
            assert!(before.id < after.id && before.issued_at <= after.issued_at, "{before:?} before {after:?}");
        }
    }
}

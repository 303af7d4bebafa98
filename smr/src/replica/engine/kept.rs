//! Writes that a member keeps although another one orders them: in an `active` group clients send to all members.
//!
//! A member keeps a write until it has applied it, and then answers it from its session table, as the one who ordered
//! it does. It orders nothing itself. What is in no entry of its log after [`FORWARD_AFTER_US`], or when an epoch
//! begins, it sends on to the first: the client's copy to that one may be lost, and the first may have changed. Copies
//! meet there: one that waits for its commit, or has its answer, is not ordered again; and should it be ordered twice
//! all the same, the session table applies it once.
//!
//! - Only writes of a session are kept. Whatever has no identity would be applied as often as it is ordered.
//! - What is certain without the log is said at once, but for a member that lacks something: it refuses only what is
//!   too large for any, and answers the rest once it is complete. It does not send on either: others have the same
//!   write.
//! - None is kept for longer than [`KEPT_FOR_US`], so that what the first does not admit is not applied hours later,
//!   when no one wants it any more.
//! - Of a write that was kept it is never said afterwards that it had no effect, only because its session is gone, or
//!   its member stops: a copy that was sent on may have been applied, or may yet be. The outcome is then unknown.
//! - The first says nothing about what it does not order of this (its queue is full, its disk is): it comes again.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::limits::{BUSY_RETRY_MS, COMMAND_MAX_BYTES};
use super::waiting::Batch;
use super::{Action, Engine};
use crate::entry::{Index, Payload};
use crate::id::ClientId;
use crate::protocol::{LogChange, Protocol, Time, Write};
use crate::replica::{Outcome, ReplySink, ReplyTo};
use crate::session::{SessionCommand, SessionTable, WRITE_HEADER_LEN_BYTES, write_name};
use crate::state_machine::{Readiness, StateMachine};
use crate::status::Role;

/// Writes that a member keeps, copies included; the next ones are `Busy`.
pub const KEPT_MAX: usize = 8 << 10;
/// Bytes of commands that a member keeps.
pub const KEPT_MAX_BYTES: usize = 16 << 20;
/// A write that no entry of the own log holds after this long is sent to the first, in microseconds.
pub const FORWARD_AFTER_US: u64 = 50_000;
/// It is sent again after twice as long each time, up to this, in microseconds.
pub const FORWARD_AGAIN_MAX_US: u64 = 1_600_000;
/// A write that has no answer after this long is given up, its outcome unknown, in microseconds.
pub const KEPT_FOR_US: u64 = 10_000_000;
/// Bytes of commands that are sent on in one message, unless one alone has more, and in all at one look.
pub const FORWARD_MAX_BYTES: usize = 1 << 20;
/// About how many bytes a write takes on the wire beside its command.
const FORWARD_OVERHEAD_BYTES: usize = 48;

/// A write on its way from the member that has it from a client to the one who orders.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForwardedWrite {
    /// The session.
    pub client: ClientId,
    /// The write's number in it.
    pub number: u64,
    /// From the client.
    pub lowest_unanswered: u64,
    /// For the state machine.
    pub command: Bytes,
}

impl ForwardedWrite {
    /// About how many bytes it takes on the wire.
    pub fn size_bytes(&self) -> usize {
        FORWARD_OVERHEAD_BYTES + self.command.len()
    }

    fn to_command(&self) -> SessionCommand {
        let ForwardedWrite { client, number, lowest_unanswered, command } = self.clone();
        SessionCommand::Write { client, number, lowest_unanswered, command }
    }
}

/// A write that is kept.
struct Kept {
    lowest_unanswered: u64,
    command: Bytes,
    /// Who waits for its answer: one for each copy.
    replies: Vec<ReplyTo>,
    /// The entry of the own log that holds it.
    ordered_at: Option<Index>,
    /// When it is given up.
    ends_at: Time,
    /// When it is looked at again, unless it is in the log.
    due_at: Time,
    /// How long after that once more.
    pause_us: u64,
    /// Whether it was sent on: a copy may be applied, whatever this node finds later.
    was_sent: bool,
}

/// See the module.
#[derive(Default)]
pub(super) struct KeptWrites {
    writes: BTreeMap<(ClientId, u64), Kept>,
    copies: usize,
    bytes: usize,
    /// The earliest time at which one is looked at, or an earlier time.
    look_at: Option<Time>,
    /// Whether this node was ready when that was last said.
    is_ready: Option<bool>,
}

impl KeptWrites {
    /// How many requests wait.
    pub(super) fn len(&self) -> usize {
        self.copies
    }

    /// When they are looked at next.
    pub(super) fn look_at(&self) -> Option<Time> {
        self.look_at
    }

    fn keep(&mut self, now: Time, name: (ClientId, u64), lowest_unanswered: u64, command: Bytes, reply: ReplyTo) {
        let due_at = now.plus_us(FORWARD_AFTER_US);
        self.copies += 1;
        if let Some(kept) = self.writes.get_mut(&name)
            && kept.command == command
        {
            kept.replies.push(reply);
            return;
        }
        self.bytes += command.len();
        let kept = Kept {
            lowest_unanswered,
            command,
            replies: vec![reply],
            ordered_at: None,
            ends_at: now.plus_us(KEPT_FOR_US),
            due_at,
            pause_us: FORWARD_AFTER_US,
            was_sent: false,
        };
        // Another command under the same number: its client has a bug, and learns of the later one only.
        if let Some(before) = self.writes.insert(name, kept) {
            self.removed(&before);
            before.answer(&Outcome::Unknown);
        }
        self.look_at = Some(self.look_at.map_or(due_at, |at| at.min(due_at)));
    }

    fn is_full(&self, size_bytes: usize) -> bool {
        self.copies >= KEPT_MAX || self.bytes + size_bytes > KEPT_MAX_BYTES
    }

    fn remove(&mut self, name: (ClientId, u64)) -> Option<Kept> {
        let kept = self.writes.remove(&name)?;
        self.removed(&kept);
        Some(kept)
    }

    fn removed(&mut self, kept: &Kept) {
        self.copies -= kept.replies.len();
        self.bytes -= kept.command.len();
    }

    /// The own log is about to change so: what is in it need not be sent to anyone.
    pub(super) fn log_changes<M>(&mut self, write: &Write<M>) {
        if self.writes.is_empty() {
            return;
        }
        for change in write.log() {
            match change {
                LogChange::Append(entries) => {
                    for entry in entries {
                        let Payload::Command(bytes) = &entry.payload else { continue };
                        if let Some(kept) = write_name(bytes).and_then(|name| self.writes.get_mut(&name)) {
                            kept.ordered_at = Some(entry.id.index);
                        }
                    }
                }
                LogChange::RemoveFrom(index) => self.not_ordered_from(*index),
                LogChange::RemoveThrough(_) | LogChange::Install(_) => {}
            }
        }
    }

    /// No entry from this one on holds any of them.
    fn not_ordered_from(&mut self, index: Index) {
        for kept in self.writes.values_mut().filter(|kept| kept.ordered_at.is_some_and(|at| at >= index)) {
            kept.ordered_at = None;
            self.look_at = Some(Time(0));
        }
    }

    /// This one is looked at again.
    fn not_ordered(&mut self, name: (ClientId, u64)) {
        if let Some(kept) = self.writes.get_mut(&name) {
            kept.ordered_at = None;
            self.look_at = Some(self.look_at.map_or(kept.due_at, |at| at.min(kept.due_at)));
        }
    }

    /// A snapshot has taken the place of entries, which are not applied one by one.
    pub(super) fn snapshot_installed(&mut self) {
        self.not_ordered_from(Index::ZERO);
        self.all_due();
    }

    /// An epoch has begun: all that no entry holds are due.
    pub(super) fn all_due(&mut self) {
        for kept in self.writes.values_mut().filter(|kept| kept.ordered_at.is_none()) {
            (kept.due_at, kept.pause_us) = (Time(0), FORWARD_AFTER_US);
            self.look_at = Some(Time(0));
        }
    }

    /// Answers all of them: no one will know what becomes of them.
    pub(super) fn fail(&mut self) {
        let KeptWrites { is_ready, .. } = *self;
        let kept = std::mem::replace(self, KeptWrites { is_ready, ..KeptWrites::default() });
        kept.writes.into_values().for_each(|kept| kept.answer(&Outcome::Unknown));
    }
}

impl Kept {
    /// When something is to be done about it.
    fn next_look(&self) -> Time {
        if self.ordered_at.is_some() { self.ends_at } else { self.due_at.min(self.ends_at) }
    }

    /// What the table says of it, if it knows. Where its session is gone by now no one can say whether it was applied
    /// before that.
    fn known(&self, sessions: &SessionTable, (client, number): (ClientId, u64)) -> Option<Outcome> {
        match sessions.check(client, number, self.lowest_unanswered, &self.command)? {
            Outcome::SessionExpired => Some(Outcome::Unknown),
            outcome => Some(outcome),
        }
    }

    fn to_send(&self, (client, number): (ClientId, u64)) -> ForwardedWrite {
        ForwardedWrite { client, number, lowest_unanswered: self.lowest_unanswered, command: self.command.clone() }
    }

    fn answer(self, outcome: &Outcome) {
        for reply in self.replies {
            reply.send(outcome.clone());
        }
    }
}

/// The refusal of a write that no member orders because of its size.
fn too_large(command: &SessionCommand) -> Option<Outcome> {
    let len_bytes = WRITE_HEADER_LEN_BYTES + command.for_machine().map_or(0, Bytes::len);
    (len_bytes > COMMAND_MAX_BYTES).then_some(Outcome::TooLarge { limit_bytes: COMMAND_MAX_BYTES as u32 })
}

/// Whoever sent a write on is not answered: it learns of the outcome by its own log.
struct NoOne;

impl ReplySink for NoOne {
    fn deliver(&self, _: u64, _: Outcome) {}

    fn deliver_part(&self, _: u64, _: Bytes) -> bool {
        false
    }
}

impl<P: Protocol, S: StateMachine> Engine<P, S> {
    /// Keeps a write of a session that another member orders, unless it can be answered at once.
    pub(super) fn keep(&mut self, now: Time, command: SessionCommand, reply: ReplyTo) {
        // No member will ever order what is too large, so one that lacks something can say that as well.
        let certain = too_large(&command).or_else(|| {
            let known = || self.known(&command).or_else(|| self.refused(&command));
            if self.answers_clients() { known() } else { None }
        });
        if let Some(outcome) = certain {
            return reply.send(outcome);
        }
        let SessionCommand::Write { client, number, lowest_unanswered, command } = command else {
            panic!("{command:?} has no identity, and cannot be kept")
        };
        if self.kept.is_full(command.len()) {
            return reply.send(Outcome::Busy { retry_after_ms: BUSY_RETRY_MS });
        }
        if self.kept.is_ready != Some(true) {
            self.state.readiness(&Readiness::Stored { command: &command });
        }
        self.kept.keep(now, (client, number), lowest_unanswered, command, reply);
    }

    /// Why this node would not order it, if it would not.
    fn refused(&self, command: &SessionCommand) -> Option<Outcome> {
        self.is_applied_everywhere(command).err().map(Outcome::Refused)
    }

    fn known(&self, command: &SessionCommand) -> Option<Outcome> {
        match command {
            SessionCommand::Write { client, number, lowest_unanswered, command } => {
                self.sessions.check(*client, *number, *lowest_unanswered, command)
            }
            _ => None,
        }
    }

    /// An entry with this write was applied: whoever waits for it here is answered.
    pub(super) fn answer_kept(&mut self, name: (ClientId, u64)) {
        if !self.answers_clients() {
            // It is looked at again once this member lacks nothing.
            self.kept.not_ordered(name);
            return;
        }
        let Some(kept) = self.kept.remove(name) else { return };
        // As the table has it: another command under the same number has another outcome (C7).
        let known = kept.known(&self.sessions, name);
        self.leave_to_all(kept, known.unwrap_or(Outcome::Unknown));
    }

    fn leave_to_all(&mut self, kept: Kept, outcome: Outcome) {
        for reply in kept.replies {
            self.leave(reply, outcome.clone());
        }
    }

    /// Whether those that are kept are to be looked at.
    pub(super) fn kept_are_due(&self, now: Time) -> bool {
        self.kept.look_at.is_some_and(|at| at <= now)
    }

    /// Answers what was applied without this node having said so, orders the rest or sends it to who does.
    pub(super) fn look_at_kept(&mut self, now: Time) {
        self.kept.look_at = None;
        let may_answer = self.answers_clients();
        let orders = self.core.routing().writes.is_here();
        let (mut answered, mut sent, mut bytes) = (Vec::new(), Vec::new(), 0);
        let mut look_at: Option<Time> = None;
        let mut writes = std::mem::take(&mut self.kept.writes);
        for (name, kept) in &mut writes {
            if kept.ends_at <= now {
                // It may have been sent on, and may be in someone's log.
                answered.push((*name, Outcome::Unknown));
                continue;
            }
            if kept.ordered_at.is_none() && kept.due_at <= now {
                let write = kept.to_send(*name);
                if may_answer && let Some(outcome) = self.found(kept, &write) {
                    answered.push((*name, outcome));
                    continue;
                }
                kept.due_at = now.plus_us(kept.pause_us);
                if may_answer && bytes < FORWARD_MAX_BYTES {
                    bytes += write.size_bytes();
                    sent.push(write);
                    kept.was_sent = true;
                    kept.pause_us = (2 * kept.pause_us).min(FORWARD_AGAIN_MAX_US);
                }
            }
            let next_look = kept.next_look();
            look_at = Some(look_at.map_or(next_look, |at| at.min(next_look)));
        }
        self.kept.writes = writes;
        self.kept.look_at = look_at;
        for (name, outcome) in answered {
            if let Some(kept) = self.kept.remove(name) {
                self.leave_to_all(kept, outcome);
            }
        }
        if sent.is_empty() {
            return;
        }
        if orders {
            self.order_for_others(now, sent);
        } else if let Some(first) = self.core.status().leader.filter(|first| *first != self.node) {
            self.actions.push(Action::Forward(first, sent));
        }
    }

    /// What is certain of one that is kept, now that this member lacks nothing.
    fn found(&self, kept: &Kept, write: &ForwardedWrite) -> Option<Outcome> {
        kept.known(&self.sessions, (write.client, write.number)).or_else(|| {
            let refused = self.refused(&write.to_command())?;
            Some(if kept.was_sent { Outcome::Unknown } else { refused })
        })
    }

    /// Another member has sent these on.
    pub fn forwarded(&mut self, now: Time, writes: Vec<ForwardedWrite>) {
        // Whoever does not order them is not the one any more; they come again, to another one.
        if !self.silent && self.core.routing().writes.is_here() && self.core.keeps_writes() {
            self.order_for_others(now, writes);
        }
    }

    /// Orders these, if no copy of them was ordered before, as far as this node knows. No one waits here.
    fn order_for_others(&mut self, now: Time, writes: Vec<ForwardedWrite>) {
        let mut batch = Batch::default();
        self.admission.look(now, &self.core.log_load(), &self.log_limits, self.snapshot_len_bytes);
        for write in writes {
            let command = write.to_command();
            if self.known(&command).is_some() || self.waiting.has(&command) {
                continue;
            }
            if let Ok(bytes) = self.admit(&command, &batch) {
                batch.push(&command, bytes, ReplyTo { tag: 0, sink: Arc::new(NoOne) });
            }
        }
        self.propose(now, batch);
    }

    /// Whether this node answers writes once it has applied them.
    fn answers_clients(&self) -> bool {
        self.core.routing().answers.is_here()
    }

    /// Whether it lacks nothing, and is in step with its group: it has heard who orders.
    fn is_ready(&self) -> bool {
        let routing = self.core.routing();
        routing.writes.is_here() || (routing.answers.is_here() && self.core.leader_heard().is_some())
    }

    /// Says whether this node is ready when that changes.
    pub(super) fn look_at_readiness(&mut self) {
        let is_ready = self.is_ready();
        // A member that was ready lacks nothing when an epoch begins; it only has to hear of it.
        let is_member = || self.core.status().role != Role::Learner;
        if !is_ready && self.kept.is_ready == Some(true) && is_member() {
            return;
        }
        if self.kept.is_ready.replace(is_ready) != Some(is_ready) {
            self.state.readiness(&if is_ready { Readiness::Ready } else { Readiness::NotReady });
        }
    }
}

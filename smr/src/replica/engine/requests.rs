//! Requests, from their arrival to their answer. The head of the engine tells what becomes of one.

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::limits::{BUSY_RETRY_MS, COMMAND_MAX_BYTES, LOG_FREEING_BYTES, READS_WAITING_MAX};
use super::waiting::Batch;
use super::{Action, Engine};
use crate::codec;
use crate::entry::{EntryId, Index};
use crate::protocol::{Effects, NotHere, Protocol, ReadOutcome, ReadToken, Route, Time};
use crate::replica::admin::AdminRequest;
use crate::replica::{NotLeader, Outcome, ReplyTo, Request};
use crate::session::SessionCommand;
use crate::state_machine::{Answer, StateMachine};
use crate::status::ServiceState;

/// What a long answer is counted with: its first part.
const PARTS_BYTES: usize = 256 << 10;

/// A read, until it is answered.
pub(super) struct PendingRead {
    query: Bytes,
    reply: ReplyTo,
}

impl<P: Protocol, S: StateMachine> Engine<P, S> {
    /// Requests arrived; they are handled as one batch.
    pub fn requests(&mut self, now: Time, requests: impl IntoIterator<Item = (Request, ReplyTo)>) {
        let mut batch = Batch::default();
        let mut reads = Vec::new();
        self.admission.look(now, &self.core.log_load(), &self.log_limits, self.snapshot_len_bytes);
        for (request, reply) in requests {
            if let ServiceState::Quarantined { reason } = &self.service_state
                && self.silent
                && !matches!(request, Request::Status)
            {
                reply.send(Outcome::OutOfService(format!("quarantined: {reason}")));
                continue;
            }
            match request {
                Request::OpenSession => {
                    let nonce = self.draw_nonce();
                    self.enlist(now, SessionCommand::Open { nonce }, reply, &mut batch);
                }
                Request::Idempotent { command } => {
                    self.enlist(now, SessionCommand::Idempotent { command }, reply, &mut batch);
                }
                Request::Write { client, number, lowest_unanswered, command } => {
                    let write = SessionCommand::Write { client, number, lowest_unanswered, command };
                    self.enlist(now, write, reply, &mut batch);
                }
                Request::Read { query } => {
                    if let Err(elsewhere) = self.is_for_here(self.core.routing().reads) {
                        reply.send(elsewhere);
                    } else if query.len() > COMMAND_MAX_BYTES {
                        reply.send(Outcome::TooLarge { limit_bytes: COMMAND_MAX_BYTES as u32 });
                    } else if self.reads_waiting + reads.len() >= READS_WAITING_MAX {
                        reply.send(Outcome::Busy { retry_after_ms: BUSY_RETRY_MS });
                    } else {
                        reads.push(PendingRead { query, reply });
                    }
                }
                Request::LocalRead { query } if self.has_answers_left() => self.answer(PendingRead { query, reply }),
                Request::LocalRead { .. } => reply.send(Outcome::Busy { retry_after_ms: BUSY_RETRY_MS }),
                Request::Status => reply.send(Outcome::Status(Box::new(self.status()))),
                Request::Timings(which) => {
                    let timings = self.timings(which);
                    reply.send(Outcome::Answer(codec::encode(&timings).into()));
                }
                Request::Transfer { to } => {
                    self.begin_operators(now, AdminRequest::Transfer { to }, reply);
                }
                Request::Scale { replicas } => {
                    self.begin_operators(now, AdminRequest::Scale { replicas }, reply);
                }
                Request::Readmit { name } => {
                    self.begin_operators(now, AdminRequest::Readmit { name }, reply);
                }
            }
        }
        self.propose(now, batch);
        if !reads.is_empty() {
            self.begin_reads(now, reads);
        }
    }

    pub(super) fn begin_reads(&mut self, now: Time, reads: Vec<PendingRead>) {
        let token = ReadToken(self.next_read_token);
        self.next_read_token += 1;
        let mut effects = Effects::default();
        match self.core.read(now, token, &mut effects) {
            Ok(()) => {
                self.reads_waiting += reads.len();
                self.reads.insert(token, reads);
            }
            Err(not_here) => fail(reads, not_here.into()),
        }
        self.absorb(effects);
    }

    /// Whether requests of a kind are for this replica.
    ///
    /// # Errors
    /// What to tell whoever asks.
    pub(super) fn is_for_here(&self, route: Route) -> Result<(), Outcome> {
        if route.is_here() { Ok(()) } else { Err(Outcome::NotLeader(self.hint(route))) }
    }

    /// Whom clients are told to ask.
    pub(super) fn hint(&self, route: Route) -> NotLeader {
        let at = match route {
            Route::Here => Some(self.node.name),
            Route::There(at) => at,
        };
        NotHere { at, term: self.core.routing().term }.into()
    }

    /// Adds a write to the batch, unless it can be answered at once or waits already.
    pub(super) fn enlist(&mut self, now: Time, command: SessionCommand, reply: ReplyTo, batch: &mut Batch) {
        if let Err(elsewhere) = self.is_for_here(self.core.routing().writes) {
            if matches!(command, SessionCommand::Write { .. }) && self.core.keeps_writes() {
                return self.keep(now, command, reply);
            }
            return reply.send(elsewhere);
        }
        if let SessionCommand::Write { client, number, lowest_unanswered, command } = &command
            && let Some(outcome) = self.sessions.check(*client, *number, *lowest_unanswered, command)
        {
            return reply.send(outcome);
        }
        let Some(reply) = self.waiting.join(&command, reply) else { return };
        match self.admit(&command, batch) {
            Ok(bytes) => batch.push(&command, bytes, reply),
            Err(refusal) => reply.send(refusal),
        }
    }

    /// Whether a command may be proposed, behind those of `batch`; as it goes into the log.
    ///
    /// # Errors
    /// What whoever asks for it is told.
    pub(super) fn admit(&mut self, command: &SessionCommand, batch: &Batch) -> Result<Bytes, Outcome> {
        // Asked only of what is to be proposed: a repeat has its answer.
        self.is_applied_everywhere(command).map_err(Outcome::Refused)?;
        let bytes = command.encode();
        if bytes.len() > COMMAND_MAX_BYTES {
            return Err(Outcome::TooLarge { limit_bytes: COMMAND_MAX_BYTES as u32 });
        }
        let lacks_room = self.disk_is_full || self.snapshot_waits_for_room.is_some();
        if lacks_room && !command.frees::<S>() {
            return Err(Outcome::DiskFull);
        }
        let is_full = self.waiting.is_full(batch, bytes.len())
            || (lacks_room && self.core.log_load().needed_bytes > self.log_max_bytes() + LOG_FREEING_BYTES)
            || self.core.uncommitted_entries() + batch.len() as u64 >= self.uncommitted_entries_max;
        if is_full {
            return Err(Outcome::Busy { retry_after_ms: BUSY_RETRY_MS });
        }
        if !lacks_room {
            self.admission.admit(bytes.len()).map_err(|retry_after_ms| Outcome::Busy { retry_after_ms })?;
        }
        Ok(bytes)
    }

    /// The random part of a session's name, never 0.
    pub(super) fn draw_nonce(&mut self) -> u64 {
        self.nonces_drawn += 1;
        xxh3_64_with_seed(&self.nonces_drawn.to_le_bytes(), self.nonce_seed).max(1)
    }

    pub(super) fn propose(&mut self, now: Time, mut batch: Batch) {
        let commands = batch.take_commands();
        if commands.is_empty() {
            return;
        }
        let mut effects = Effects::default();
        self.timings.is_now(now);
        match self.core.propose(now, commands, &mut effects) {
            Ok(first) => {
                for (behind, (client, number)) in batch.names() {
                    let entry = EntryId { index: Index(first.index.0 + behind), term: first.term };
                    self.timings.name(client, number, entry);
                }
                self.waiting.proposed(first, batch);
            }
            Err(not_here) => batch.refuse(&Outcome::NotLeader(not_here.into())),
        }
        self.absorb(effects);
    }

    pub(super) fn read_outcome(&mut self, read: ReadOutcome) {
        match read {
            ReadOutcome::Ready { token, .. } if self.operators.confirm(token) => {}
            ReadOutcome::Ready { token, index } => {
                let reads = self.reads.remove(&token).unwrap_or_default();
                self.confirmed_reads.push(index, reads);
            }
            ReadOutcome::Failed { token } => {
                let hint = self.hint(self.core.routing().reads);
                if self.operators.fail(token, hint) {
                    return;
                }
                let reads = self.reads.remove(&token).unwrap_or_default();
                self.reads_waiting -= reads.len();
                fail(reads, hint);
            }
        }
    }

    pub(super) fn answer(&mut self, read: PendingRead) {
        let PendingRead { query, reply } = read;
        if !reply.sink.has_room() {
            return reply.send(Outcome::Busy { retry_after_ms: BUSY_RETRY_MS });
        }
        match self.state.query(&query) {
            Answer::Now(answer) if reply.sink.reserve(reply.tag, answer.len()) => {
                self.leave(reply, Outcome::Answer(answer.into()));
            }
            Answer::Now(answer) => {
                // It was made, and so counts.
                self.answers_bytes += answer.len();
                reply.send(Outcome::Busy { retry_after_ms: BUSY_RETRY_MS });
            }
            Answer::Parts(parts) => {
                self.answers_bytes += PARTS_BYTES;
                self.actions.push(Action::AnswerParts { reply, parts });
            }
        }
    }

    /// An answer leaves at the end of the turn.
    pub(super) fn leave(&mut self, reply: ReplyTo, outcome: Outcome) {
        if let Outcome::Answer(answer) = &outcome {
            self.answers_bytes += answer.len();
        }
        self.answers.push((reply, outcome));
    }

    /// No one will know what became of any write that waits.
    pub(super) fn fail_waiting_writes(&mut self) {
        self.waiting.fail_after(Index::ZERO, &Outcome::Unknown);
    }

    /// The same of those, too, that another member orders: this one stops.
    pub(super) fn fail_all_writes(&mut self) {
        self.fail_waiting_writes();
        self.kept.fail();
    }

    pub(super) fn fail_reads(&mut self) {
        let hint = self.hint(self.core.routing().reads);
        self.reads_waiting = 0;
        let unconfirmed = std::mem::take(&mut self.reads).into_values().flatten();
        fail(unconfirmed.chain(self.confirmed_reads.take()), hint);
        self.operators.fail_all(hint);
    }
}

/// These reads are not answered here.
fn fail(reads: impl IntoIterator<Item = PendingRead>, hint: NotLeader) {
    reads.into_iter().for_each(|read| read.reply.send(Outcome::NotLeader(hint)));
}

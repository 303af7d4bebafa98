//! Writes that were proposed and wait for their commit, in the order of the log.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::entry::{EntryId, Index};
use crate::id::ClientId;
use crate::replica::{Outcome, ReplyTo};
use crate::session::SessionCommand;

/// Writes that may wait for their commit, copies included; the next ones are `Busy`.
pub const WRITES_WAITING_MAX: usize = 32 << 10;
/// Bytes of commands that may wait for their commit.
pub const WRITES_WAITING_MAX_BYTES: usize = 64 << 20;

/// Commands that are about to be proposed together.
#[derive(Default)]
pub(super) struct Batch {
    commands: Vec<Bytes>,
    writes: Vec<(Option<Numbered>, usize, ReplyTo)>,
    bytes: usize,
}

impl Batch {
    /// Adds a command, as it goes into the log.
    pub(super) fn push(&mut self, command: &SessionCommand, bytes: Bytes, reply: ReplyTo) {
        self.bytes += bytes.len();
        self.writes.push((Numbered::of(command), bytes.len(), reply));
        self.commands.push(bytes);
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.writes.len()
    }

    /// The writes of sessions among them, by their place in the batch.
    pub(super) fn names(&self) -> impl Iterator<Item = (u64, (ClientId, u64))> {
        let numbered = self.writes.iter().map(|(numbered, _, _)| numbered.as_ref());
        (0..).zip(numbered).filter_map(|(place, write)| write.map(|write| (place, (write.client, write.number))))
    }

    /// The commands, for the core; what waits for them stays.
    pub(super) fn take_commands(&mut self) -> Vec<Bytes> {
        std::mem::take(&mut self.commands)
    }

    /// Answers all of it: it was not proposed.
    pub(super) fn refuse(self, outcome: &Outcome) {
        for (_, _, reply) in self.writes {
            reply.send(outcome.clone());
        }
    }
}

/// A write by its session and number there, with its command: one client cannot give the same number to two.
struct Numbered {
    client: ClientId,
    number: u64,
    command: Bytes,
}

impl Numbered {
    fn of(command: &SessionCommand) -> Option<Numbered> {
        match command {
            SessionCommand::Write { client, number, command, .. } => {
                Some(Numbered { client: *client, number: *number, command: command.clone() })
            }
            SessionCommand::Open { .. } | SessionCommand::Idempotent { .. } | SessionCommand::Addresses { .. } => None,
        }
    }
}

struct Waiting {
    id: EntryId,
    numbered: Option<Numbered>,
    size_bytes: usize,
    reply: ReplyTo,
    /// Who asked for the same once more meanwhile.
    copies: Vec<ReplyTo>,
}

/// See the module.
#[derive(Default)]
pub(super) struct WaitingWrites {
    writes: VecDeque<Waiting>,
    bytes: usize,
    copies: usize,
    /// Where in the log a write of a session waits.
    places: BTreeMap<(ClientId, u64), Index>,
}

impl WaitingWrites {
    /// How many requests wait.
    pub(super) fn len(&self) -> usize {
        self.writes.len() + self.copies
    }

    /// Whether a command of this many bytes finds no room any more, with those of `batch` before it.
    pub(super) fn is_full(&self, batch: &Batch, size_bytes: usize) -> bool {
        self.len() + batch.writes.len() >= WRITES_WAITING_MAX
            || self.bytes + batch.bytes + size_bytes > WRITES_WAITING_MAX_BYTES
    }

    /// A copy of a write that waits already waits along with it; else the reply comes back. A client whose answer is
    /// late asks again. If each copy became an entry, a log that commits slowly would fill with them faster than it
    /// commits, and never get rid of them.
    pub(super) fn join(&mut self, command: &SessionCommand, reply: ReplyTo) -> Option<ReplyTo> {
        let SessionCommand::Write { client, number, command, .. } = command else { return Some(reply) };
        if self.len() >= WRITES_WAITING_MAX {
            return Some(reply);
        }
        let Some(index) = self.places.get(&(*client, *number)) else { return Some(reply) };
        let at = self.writes.partition_point(|waiting| waiting.id.index < *index);
        match self.writes.get_mut(at) {
            // The same number with another command is refused when it is applied (C7).
            Some(waiting) if waiting.numbered.as_ref().is_some_and(|numbered| numbered.command == *command) => {
                waiting.copies.push(reply);
                self.copies += 1;
                None
            }
            _ => Some(reply),
        }
    }

    /// Whether a copy of this write waits.
    pub(super) fn has(&self, command: &SessionCommand) -> bool {
        let SessionCommand::Write { client, number, .. } = command else { return false };
        self.places.contains_key(&(*client, *number))
    }

    /// A batch has its place in the log, from `first` on.
    pub(super) fn proposed(&mut self, first: EntryId, batch: Batch) {
        let mut id = first;
        for (numbered, size_bytes, reply) in batch.writes {
            if let Some(Numbered { client, number, .. }) = &numbered {
                self.places.insert((*client, *number), id.index);
            }
            self.bytes += size_bytes;
            self.writes.push_back(Waiting { id, numbered, size_bytes, reply, copies: Vec::new() });
            id.index = id.index.next();
        }
    }

    /// Who waits for the entry at `index`, and under which term it was proposed.
    pub(super) fn applied(&mut self, index: Index) -> Option<(EntryId, ReplyTo, Vec<ReplyTo>)> {
        if self.writes.front()?.id.index != index {
            return None;
        }
        let waiting = self.writes.pop_front()?;
        self.bytes -= waiting.size_bytes;
        self.copies -= waiting.copies.len();
        if let Some(Numbered { client, number, .. }) = waiting.numbered
            && self.places.get(&(client, number)) == Some(&index)
        {
            self.places.remove(&(client, number));
        }
        Some((waiting.id, waiting.reply, waiting.copies))
    }

    /// Answers all writes after this index: no one will know what becomes of them.
    pub(super) fn fail_after(&mut self, index: Index, outcome: &Outcome) {
        let kept = self.writes.partition_point(|waiting| waiting.id.index <= index);
        for waiting in self.writes.split_off(kept) {
            self.bytes -= waiting.size_bytes;
            self.copies -= waiting.copies.len();
            for reply in std::iter::once(waiting.reply).chain(waiting.copies) {
                reply.send(outcome.clone());
            }
        }
        self.places.retain(|_, place| *place <= index);
    }
}

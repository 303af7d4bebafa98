//! What a core asks of its driver: messages, writes with the messages that rest on them, answers to reads.

use super::recovered::StoredState;
use super::{Event, ReadToken, Report};
use crate::entry::{Entry, HardState, Index, SnapshotMeta};
use crate::id::NodeId;

/// Names a [`Write`]. Counts up from 1 in each run of a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct WriteId(pub u64);

/// A message and whom it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope<M> {
    /// The receiver; the driver drops the message if that very incarnation is not connected.
    pub to: NodeId,
    /// What is said, in the words of its core.
    pub message: M,
}

/// What a core asks of its driver.
#[derive(Debug)]
pub struct Effects<M> {
    /// May leave at once.
    pub messages: Vec<Envelope<M>>,
    /// To be made durable, in this order.
    pub writes: Vec<Write<M>>,
    /// Reads that may be answered, or have failed.
    pub reads: Vec<ReadOutcome>,
    /// Nodes that need a snapshot because the log no longer reaches back to them.
    pub snapshots_wanted: Vec<NodeId>,
    /// What has changed, for logs and for whoever waits.
    pub events: Vec<Event>,
    /// For the configuration service. Each may be repeated, and lost: what still holds is said again.
    pub reports: Vec<Report>,
}

impl<M> Effects<M> {
    /// Adds what another call asks for, after this.
    pub fn extend(&mut self, later: Effects<M>) {
        let Effects { messages, writes, reads, snapshots_wanted, events, reports } = later;
        append(&mut self.messages, messages);
        append(&mut self.writes, writes);
        append(&mut self.reads, reads);
        append(&mut self.snapshots_wanted, snapshots_wanted);
        append(&mut self.events, events);
        append(&mut self.reports, reports);
    }
}

/// Moves where nothing is to be copied.
fn append<T>(list: &mut Vec<T>, mut later: Vec<T>) {
    if list.is_empty() {
        *list = later;
    } else {
        list.append(&mut later);
    }
}

impl<M> Default for Effects<M> {
    fn default() -> Effects<M> {
        Effects {
            messages: Vec::new(),
            writes: Vec::new(),
            reads: Vec::new(),
            snapshots_wanted: Vec::new(),
            events: Vec::new(),
            reports: Vec::new(),
        }
    }
}

/// Something to make durable, with the messages that rest on it locked inside.
#[derive(Debug)]
pub struct Write<M> {
    id: WriteId,
    hard_state: Option<StoredState>,
    log: Vec<LogChange>,
    then: Vec<Envelope<M>>,
}

impl<M> Write<M> {
    /// A write with the given parts. An empty one (no hard state, no log change) only waits its turn: its messages rest
    /// on what stands before it in the queue.
    pub fn new(id: WriteId, hard_state: Option<StoredState>, log: Vec<LogChange>, then: Vec<Envelope<M>>) -> Write<M> {
        Write { id, hard_state, log, then }
    }

    /// Its number, for [`Input::Durable`](super::Input::Durable).
    pub fn id(&self) -> WriteId {
        self.id
    }

    /// The hard state to be made durable, before the log changes.
    pub fn stored_state(&self) -> Option<&StoredState> {
        self.hard_state.as_ref()
    }

    /// The same, of a Raft core.
    ///
    /// # Panics
    /// If the core is of another kind.
    pub fn hard_state(&self) -> Option<HardState> {
        self.hard_state.as_ref().map(StoredState::hard_state)
    }

    /// The changes of the log, to be made in this order.
    pub fn log(&self) -> &[LogChange] {
        &self.log
    }

    /// The bytes of the entries in it, by [`Entry::size_bytes`].
    pub fn entries_bytes(&self) -> usize {
        let appended = self.log.iter().filter_map(|change| match change {
            LogChange::Append(entries) => Some(entries),
            _ => None,
        });
        appended.flatten().map(Entry::size_bytes).sum()
    }

    /// Says that everything in this write, and in all writes before it, has reached the device. This is the only way to
    /// the messages that rest on it, so no driver can send them early (I11).
    pub fn durable(self) -> (WriteId, Vec<Envelope<M>>) {
        (self.id, self.then)
    }

    /// The messages inside, for tests and traces. A driver has no use for this.
    pub fn peek(&self) -> &[Envelope<M>] {
        &self.then
    }
}

/// A change of the durable log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogChange {
    /// Remove this entry and all after it: they contradict the leader's (Raft §5.3).
    RemoveFrom(Index),
    /// Append these, the first right after the last entry (or after the snapshot).
    Append(Vec<Entry>),
    /// Remove all entries up to and including this one; a durable snapshot covers them. May be done lazily.
    RemoveThrough(Index),
    /// The stored snapshot with this meta becomes the log's start. If the log has its last entry with the same term,
    /// the entries behind it stay; otherwise the whole log goes (Raft §7).
    Install(SnapshotMeta),
}

/// What became of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadOutcome {
    /// Nothing that was committed when the read arrived lies above `index`: answer it once that is applied.
    Ready {
        /// The read.
        token: ReadToken,
        /// The commit index when it arrived.
        index: Index,
    },
    /// The node takes no reads any more: the client asks elsewhere.
    Failed {
        /// The read.
        token: ReadToken,
    },
}

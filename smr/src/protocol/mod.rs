//! The seam between a protocol core and the replica that drives it.
//!
//! A core is a value. [`Protocol::step`] takes the time and what *happened* ([`Input`]), and returns [`Effects`]: data
//! that says what to send, what to make durable, and which reads may be answered. What is *asked* of it
//! ([`Protocol::propose`], [`Protocol::read`], [`Protocol::install`]) is answered at once by a `Result`, and has
//! effects of the same kind. A core has no clock, thread, socket, file or source of randomness of its own, so a test or
//! a simulator can drive it through any history, and replay it. Raft ([`crate::raft`]) is the first protocol after
//! this seam.
//!
//! Who takes writes and reads, and who answers, is the core's to say ([`Protocol::routing`]), as is whether this node
//! applies what is committed ([`Protocol::applies`]). What an operator asks for (other members, another leader) is
//! not in the seam: that differs from protocol to protocol ([`crate::replica::admin`]).
//!
//! # Duties of a driver, in order
//! 1. Feed messages before timers: after a pause, what has arrived is older news than what the clock says (E18).
//! 2. Hand every [`Write`] to the disk in the order given. A write is done when its hard state and its log changes have
//!    reached the device; only then [`Write::durable`] gives out the messages that rest on it, and only then
//!    [`Input::Durable`] with its id goes back to the core. Writes complete in order; several may share one sync.
//! 3. Send `messages` at once; they rest on nothing that is not durable yet. A message may be lost, doubled or
//!    overtaken.
//! 4. Apply what is committed in the order of the log, at once or later; never one entry twice. A core only knows the
//!    commit index; the driver takes the entries up to it from [`Protocol::committed_from`], as many at a time as it
//!    has time for.
//! 5. Answer a read when its index has been applied. It may be confirmed long before.
//! 6. Call `step` with [`Input::Tick`] at [`Protocol::deadline`], or sooner.
//! 7. Take the time of a step *after* its input has arrived. A process may be stopped at any place, and a read that
//!    arrived after the time was taken would be judged by what was true before it (R6).
//!
//! Sending, writing and applying may overlap: the core orders what must be ordered through [`Write`].

mod checkpoint;
mod effects;
mod events;
mod recovered;
mod status;
mod time;

use std::collections::BTreeSet;
use std::fmt;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use self::checkpoint::{CheckpointFit, CheckpointName};
pub use self::effects::{Effects, Envelope, LogChange, ReadOutcome, Write, WriteId};
pub use self::events::{Event, Report, StandDown};
pub use self::recovered::{Recovered, StoredState};
pub use self::status::{CoreStatus, LogLoad, PeerStatus, Returning};
pub use self::time::Time;
use crate::entry::{Configuration, Entry, EntryId, Index, SnapshotMeta, Term};
use crate::epoch::EpochConfiguration;
use crate::id::{NodeId, ReplicaId};

/// A replication protocol's core.
pub trait Protocol: Send + 'static {
    /// What cores say to each other.
    type Message: Serialize + DeserializeOwned + fmt::Debug + Clone + Send + 'static;

    /// Takes one input at time `now` (never less than at the last call).
    ///
    /// # Panics
    /// If an invariant is broken: that is a bug, and going on could lose data.
    fn step(&mut self, now: Time, input: Input<Self::Message>) -> Effects<Self::Message>;

    /// Appends commands to the log, as one batch: the first becomes the entry that is returned, the others follow it
    /// without a gap, in order, in the same term.
    ///
    /// # Errors
    /// If this node does not take writes now. Nothing was appended.
    fn propose(
        &mut self,
        now: Time,
        commands: Vec<Bytes>,
        effects: &mut Effects<Self::Message>,
    ) -> Result<EntryId, NotHere>;

    /// A read arrived, or a batch of reads that share a fate. What becomes of it is among [`Effects::reads`], now or
    /// later.
    ///
    /// # Errors
    /// If this node does not take reads now, or no more of them.
    fn read(&mut self, now: Time, token: ReadToken, effects: &mut Effects<Self::Message>) -> Result<(), NotHere>;

    /// A whole, verified snapshot arrived from another node and is stored durably beside the current one; its state is
    /// ready to take over, and does if this is `Ok`. The [`Write`] that installs it in the log is among the effects;
    /// what is to be applied goes on after it.
    ///
    /// # Errors
    /// If the node has all of it, and more.
    fn install(
        &mut self,
        now: Time,
        snapshot: &SnapshotMeta,
        effects: &mut Effects<Self::Message>,
    ) -> Result<(), Superseded>;

    /// Who takes requests. Called for each of them.
    fn routing(&self) -> Routing;

    /// Whether this node applies what is committed now. One that does not keeps the log and answers nothing.
    fn applies(&self) -> bool {
        true
    }

    /// Whether a node that does not order writes keeps those that clients send it until it has applied them, and sends
    /// them on to the one who does. Called for each write that another one orders, and in each turn.
    fn keeps_writes(&self) -> bool {
        false
    }

    /// Whether a configuration service decides who the members are: then it is told what happens, and asked.
    fn has_service(&self) -> bool {
        false
    }

    /// When [`Input::Tick`] is due next.
    fn deadline(&self) -> Time;

    /// What the core knows of itself. Allocates; for a look now and then.
    fn status(&self) -> CoreStatus;

    /// Whose digests of the state are compared. Called now and then.
    fn digest_peers(&self) -> DigestPeers;

    /// The committed entries from `from` on: at most `entries_max`, and at most `bytes_max` bytes unless the first
    /// alone is larger. Nothing if `from` lies above the commit index.
    ///
    /// # Panics
    /// If the log was cut at or above `from`: a snapshot may only end with what was applied.
    fn committed_from(&self, from: Index, entries_max: usize, bytes_max: usize) -> Vec<Entry>;

    /// [`CoreStatus::log_bytes`] alone. Called after each batch.
    fn log_bytes(&self) -> usize {
        self.status().log_bytes
    }

    /// What the log holds, and for whom. Called for each batch of requests.
    fn log_load(&self) -> LogLoad {
        let log_bytes = self.log_bytes();
        LogLoad { new_bytes: log_bytes, needed_bytes: log_bytes, returning: None }
    }

    /// How many entries the log holds that are not known to be committed, whoever appended them. Called for each
    /// request.
    fn uncommitted_entries(&self) -> u64 {
        let status = self.status();
        status.last.index.0.saturating_sub(status.commit.0)
    }

    /// When this node last heard its leader, and the highest commit index that this one has named; `None` for whoever
    /// follows no one, and of a protocol that does not keep it. Only those who watch ask for it.
    fn leader_heard(&self) -> Option<(Time, Index)> {
        None
    }

    /// Whether this node has found its own disk to be a slow one, so that it leaves leading to others as long as they
    /// can. Only those who watch ask for it.
    fn disk_is_slow(&self) -> bool {
        false
    }

    /// The last entry that is known to be committed. Called after each batch.
    fn commit(&self) -> Index {
        self.status().commit
    }

    /// Up to where another member has the log on its device, for a node that orders writes and knows. Called for each
    /// message.
    fn held_by(&self, _member: NodeId) -> Option<Index> {
        None
    }

    /// The entry at `index`, if the log has it.
    fn entry_at(&self, _index: Index) -> Option<EntryId> {
        None
    }

    /// Whether a member that applies brings those up to date that do not, by checkpoints ([`Event::CheckpointDue`]).
    fn makes_checkpoints(&self) -> bool {
        false
    }

    /// What this node, whose state is at `applied`, does with a checkpoint that came from `from`.
    fn judge_checkpoint(&self, _from: NodeId, _name: &CheckpointName, _applied: EntryId) -> CheckpointFit {
        CheckpointFit::Drop
    }

    /// About how many bytes a message takes on the wire; queues are bounded by it.
    fn message_size_bytes(message: &Self::Message) -> usize;

    /// Whether a message may be overtaken by others on its way (entries), as opposed to heartbeats, votes and
    /// acknowledgements, on which leadership and latency hang.
    fn is_bulk(message: &Self::Message) -> bool;

    /// Whether no one waits for a message: it may leave along with the next one to that member, which there is soon.
    fn may_wait(message: &Self::Message) -> bool;

    /// The configuration in force at `index` and the entry that carried it, for a snapshot that ends there.
    /// `index` lies between the log's start and its end.
    fn configuration_at(&self, index: Index) -> (Configuration, Index);
}

/// What happens to a core.
#[derive(Clone, Debug)]
pub enum Input<M> {
    /// Time has passed.
    Tick,
    /// A message arrived. Its sender is the one whose handshake was verified.
    Receive {
        /// The sender.
        from: NodeId,
        /// What it said.
        message: M,
    },
    /// The write with this id, and all before it, have reached the device.
    Durable(WriteId),
    /// The replication connection *from* this node was closed by its side. News, not proof of death.
    Disconnected(NodeId),
    /// A replication connection *from* this node was made. Where it takes the place of one whose end was not seen yet
    /// (its machine lost its power), this is all that is heard of that. Raft does not listen.
    Connected(NodeId),
    /// A snapshot that ends with this entry was taken here, and is durable: the log may be cut.
    SnapshotTaken(EntryId),
    /// The transfer of a snapshot to this node ended, well or not.
    SnapshotSent {
        /// The receiver.
        to: NodeId,
        /// The entry it ends with, or `None` if the transfer failed.
        last: Option<EntryId>,
    },
    /// The transfer of a snapshot to this node, or what is made of it there, got further.
    SnapshotProgress(NodeId),
    /// The configuration service decided on a configuration. Only for kinds that have such a service; Raft does not
    /// listen.
    Configured(EpochConfiguration),
    /// The configuration service granted what a [`Report::LeaseWanted`] asked for.
    LeaseGranted {
        /// From the request.
        epoch: Term,
        /// From the request.
        asked_at: Time,
        /// How long, in microseconds from the request on.
        length_us: u64,
    },
    /// The configuration service wants this node, a complete member of this epoch, to bring this newcomer up to date
    /// outside of the configuration; or no one any more.
    Join {
        /// The epoch for which that was said.
        epoch: Term,
        /// The newcomer.
        newcomer: Option<NodeId>,
    },
}

/// Names a read, or a batch of reads, across [`Protocol::read`] and [`Effects::reads`]. Chosen by the driver,
/// never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadToken(pub u64);

/// A request came to the wrong node. Nothing was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotHere {
    /// Who takes such requests, as far as this node knows.
    pub at: Option<ReplicaId>,
    /// The term or epoch in which it does.
    pub term: Term,
}

/// Who takes the requests of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// This node takes them.
    Here,
    /// Another one, if it is known.
    There(Option<ReplicaId>),
}

impl Route {
    /// Whether it is this node.
    pub fn is_here(self) -> bool {
        self == Route::Here
    }
}

/// Where clients turn to, per kind of request, in this term or epoch. They never follow an older one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Routing {
    /// The term or epoch.
    pub term: Term,
    /// Who takes writes.
    pub writes: Route,
    /// Who takes reads.
    pub reads: Route,
    /// Who answers a write that was taken here, once it is applied. A node that is not the one says that the outcome is
    /// unknown, which is never wrong: the same request at the right node is answered from its session.
    pub answers: Route,
}

/// A snapshot that was received is not newer than what the node has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("everything in it is here already")]
pub struct Superseded;

/// Whose states a node compares with its own, and when one that differs must be wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DigestPeers {
    /// All members, the node itself included.
    pub members: BTreeSet<NodeId>,
    /// A state is right if more than half of each of these sets have it. Without any set there is no majority, and
    /// whoever sees a difference can only report it.
    pub majorities_of: Vec<BTreeSet<NodeId>>,
}

/// Each half of a configuration has its majority.
impl From<&Configuration> for DigestPeers {
    fn from(configuration: &Configuration) -> DigestPeers {
        let sets = [&configuration.voters, &configuration.outgoing].into_iter().filter(|set| !set.is_empty());
        DigestPeers { members: configuration.members(), majorities_of: sets.cloned().collect() }
    }
}

//! The seam between a protocol core and the replica that drives it.
//!
//! A core is a value with one function: [`Protocol::step`] takes the time and one [`Input`] and returns
//! [`Outputs`]: data that says what to send, what to make durable, what to apply and what to answer. It has no
//! clock, thread, socket, file or source of randomness of its own, so a test or a simulator can drive it through
//! any history, and replay it. Raft ([`crate::raft`]) is the first protocol behind this seam.
//!
//! # Duties of a driver, in order
//! 1. Feed messages before timers: after a pause, what has arrived is older news than what the clock says (E18).
//! 2. Hand every [`Write`] to the disk in the order given. A write is done when its promise and its log changes have
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

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::entry::{Configuration, Entry, EntryId, Index, Promise, SnapshotMeta, Term};
use crate::id::{NodeId, NodeName};

use crate::status::{ReadMode, Role};

/// Monotonic time in microseconds since an origin of the driver's choice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(pub u64);

impl Time {
    /// The time `us` microseconds after this one.
    #[must_use]
    pub fn plus_us(self, us: u64) -> Time {
        Time(self.0.saturating_add(us))
    }

    /// Microseconds from `earlier` to this time; 0 if `earlier` is later.
    pub fn since_us(self, earlier: Time) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}us", self.0)
    }
}

/// What a node brought back from its disk, for a core to start from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// What it has promised.
    pub promise: Promise,
    /// Its snapshot; the default one for none.
    pub snapshot: SnapshotMeta,
    /// The entries right behind the snapshot, without a hole. Older ones in front of them are ignored.
    pub entries: Vec<Entry>,
    /// Entries are missing that it may have acknowledged: it is silent until it has more than up to this index, at
    /// least.
    pub heals_past: Option<Index>,
}

/// A replication protocol's core.
pub trait Protocol: Send + 'static {
    /// What cores say to each other.
    type Message: Serialize + DeserializeOwned + fmt::Debug + Clone + Send + 'static;

    /// Takes one input at time `now` (never less than at the last call).
    ///
    /// # Panics
    /// If an invariant is broken: that is a bug, and going on could lose data.
    fn step(&mut self, now: Time, input: Input<Self::Message>) -> Outputs<Self::Message>;

    /// When [`Input::Tick`] is due next.
    fn deadline(&self) -> Time;

    /// What the core knows of itself. Allocates; for a look now and then.
    fn status(&self) -> CoreStatus;

    /// The role alone. Called for each request.
    fn role(&self) -> Role {
        self.status().role
    }

    /// Who leads, in which term: what a node that does not lead tells a client. Called for each request.
    fn leader_hint(&self) -> NotLeader {
        let status = self.status();
        NotLeader { leader: status.leader.map(|leader| leader.name), term: status.term }
    }

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

    /// The last entry that is known to be committed. Called after each batch.
    fn commit(&self) -> Index {
        self.status().commit
    }

    /// About how many bytes a message takes on the wire; queues are bounded by it.
    fn message_size_bytes(message: &Self::Message) -> usize;

    /// Whether a message may be overtaken by others on its way (entries), as opposed to heartbeats, votes and
    /// acknowledgements, on which leadership and latency hang.
    fn is_bulk(message: &Self::Message) -> bool;

    /// Whether nobody waits for a message: it may leave along with the next one to that member, which there is soon.
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
    /// Commands to append, as one batch. Answered at once in [`Outputs::proposed`].
    Propose(Vec<bytes::Bytes>),
    /// A read arrived (or a batch of reads that share a fate). Answered later in [`Outputs::reads`].
    Read(ReadToken),
    /// The write with this id, and all before it, have reached the device.
    Durable(WriteId),
    /// The replication connection *from* this node was closed by its side. News, not proof of death.
    Disconnected(NodeId),
    /// The operator wants another set of members. Answered at once in [`Outputs::change`].
    Change(Change),
    /// Hand leadership to this node. Answered at once in [`Outputs::transfer`].
    Transfer(NodeName),
    /// A snapshot that ends with this entry was taken here, and is durable: the log may be cut.
    SnapshotTaken(EntryId),
    /// A whole, verified snapshot arrived from another node and is stored durably beside the current one; its state is
    /// ready to take over. Answered at once in [`Outputs::install`].
    SnapshotReceived(SnapshotMeta),
    /// The transfer of a snapshot to this node ended, well or not.
    SnapshotSent {
        /// The receiver.
        to: NodeId,
        /// The entry it ends with, or `None` if the transfer failed.
        last: Option<EntryId>,
    },
    /// The transfer of a snapshot to this node, or what is made of it there, got further.
    SnapshotProgress(NodeId),
}

/// A wish for other members. The core turns it into joint configurations (Raft §6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Add a learner.
    AddLearner(NodeId),
    /// Remove a learner.
    RemoveLearner(NodeId),
    /// Put `incoming`, a learner that has caught up, into the place of the voter `outgoing`, in one joint change. The
    /// core appends the joint entry, and by itself, once that is committed, the entry that leaves it.
    Replace {
        /// The learner.
        incoming: NodeId,
        /// The voter.
        outgoing: NodeId,
    },
    /// Any other set of voters. The learners among them are promoted; voters not named leave.
    Voters(std::collections::BTreeSet<NodeId>),
}

/// Names a read, or a batch of reads, across [`Input::Read`] and [`Outputs::reads`]. Chosen by the driver, never
/// reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadToken(pub u64);

/// Names a [`Write`]. Counts up from 1 in each run of a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct WriteId(pub u64);

/// A message and whom it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope<M> {
    /// The receiver; the driver drops the message if that very incarnation is not connected.
    pub to: NodeId,
    /// The message.
    pub message: M,
}

/// What a step asks of its driver.
#[derive(Debug)]
pub struct Outputs<M> {
    /// May leave at once.
    pub messages: Vec<Envelope<M>>,
    /// To be made durable, in this order.
    pub writes: Vec<Write<M>>,
    /// The answer to [`Input::Propose`].
    pub proposed: Option<Result<Proposed, NotLeader>>,
    /// The answer to [`Input::Change`].
    pub change: Option<Result<EntryId, ChangeRefused>>,
    /// The answer to [`Input::Transfer`].
    pub transfer: Option<Result<(), TransferRefused>>,
    /// Reads that may be answered, or have failed.
    pub reads: Vec<ReadOutcome>,
    /// The answer to [`Input::SnapshotReceived`]: whether the state is to be replaced by the snapshot's. The [`Write`]
    /// that installs it in the log is among `writes`; what is to be applied goes on after it.
    pub install: Option<bool>,
    /// Nodes that need a snapshot because the log no longer reaches back to them.
    pub snapshots_wanted: Vec<NodeId>,
    /// What has changed, for logs and for whoever waits.
    pub events: Vec<Event>,
}

impl<M> Default for Outputs<M> {
    fn default() -> Outputs<M> {
        Outputs {
            messages: Vec::new(),
            writes: Vec::new(),
            proposed: None,
            change: None,
            transfer: None,
            reads: Vec::new(),
            install: None,
            snapshots_wanted: Vec::new(),
            events: Vec::new(),
        }
    }
}

/// Something to make durable, with the messages that rest on it locked inside.
#[derive(Debug)]
pub struct Write<M> {
    id: WriteId,
    promise: Option<Promise>,
    log: Vec<LogChange>,
    then: Vec<Envelope<M>>,
}

impl<M> Write<M> {
    /// A write with the given parts. An empty one (no promise, no log change) only waits its turn: its messages rest
    /// on what stands before it in the queue.
    pub fn new(id: WriteId, promise: Option<Promise>, log: Vec<LogChange>, then: Vec<Envelope<M>>) -> Write<M> {
        Write { id, promise, log, then }
    }

    /// Its number, for [`Input::Durable`].
    pub fn id(&self) -> WriteId {
        self.id
    }

    /// The promise to be made durable, before the log changes.
    pub fn promise(&self) -> Option<Promise> {
        self.promise
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
    /// Remove this entry and all behind it: they contradict the leader's (Raft §5.3).
    RemoveFrom(Index),
    /// Append these, the first right behind the last entry (or behind the snapshot).
    Append(Vec<Entry>),
    /// Remove all entries up to and including this one; a durable snapshot covers them. May be done lazily.
    RemoveThrough(Index),
    /// The stored snapshot with this meta becomes the log's start. If the log has its last entry with the same term,
    /// the entries behind it stay; otherwise the whole log goes (Raft §7).
    Install(SnapshotMeta),
}

/// Where proposals went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proposed {
    /// The first of them; the others follow without a gap, in order, in the same term.
    pub first: EntryId,
}

/// The answer of a node that does not lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct NotLeader {
    /// Who leads, as far as this node knows.
    pub leader: Option<NodeName>,
    /// The term in which it does.
    pub term: Term,
}

/// Why a change of members was refused. Nothing was appended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeRefused {
    /// Only the leader changes members.
    #[error("not the leader")]
    NotLeader(NotLeader),
    /// The leader has not committed an entry of its own term yet (M1), or an earlier change is under way. Try again.
    #[error("not now: {0}")]
    NotYet(&'static str),
    /// It makes no sense; trying again does not help (M2).
    #[error("{0}")]
    Senseless(String),
}

/// Why leadership was not handed over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransferRefused {
    /// Only the leader can.
    #[error("not the leader")]
    NotLeader(NotLeader),
    /// The target cannot lead, or already does.
    #[error("{0}")]
    Senseless(String),
    /// Another transfer is under way.
    #[error("another transfer is under way")]
    Busy,
}

/// What became of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadOutcome {
    /// A quorum confirmed the leader after the read arrived, or a lease covers this step: answer it once `index` is
    /// applied.
    Ready {
        /// Which read.
        token: ReadToken,
        /// The commit index when it arrived.
        index: Index,
    },
    /// The node does not lead, or no longer: the client asks elsewhere.
    Failed {
        /// Which read.
        token: ReadToken,
    },
}

/// What has changed in a core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The node's role, its term or the leader it knows has changed.
    RoleChanged {
        /// The role now.
        role: Role,
        /// The term now.
        term: Term,
        /// The leader now, if one is known.
        leader: Option<NodeId>,
    },
    /// A transfer ended without a new leader; this node serves again.
    TransferFailed,
    /// This leader's disk does not keep up with the group; it hands over (E21).
    DiskLags {
        /// To this one.
        successor: NodeId,
    },
    /// The leader counts on an entry that this node acknowledged in the present term, and the node does not have it:
    /// its directory was set back, or its disk lied (M8). It must not take part any longer.
    Forgot {
        /// The entry.
        entry: EntryId,
    },
    /// The node lacks nothing any more that it may have acknowledged: from now on it counts. The disk has to know.
    Healed {
        /// Up to where its log had to be brought.
        through: Index,
    },
    /// What a member says and what this node knows cannot both be, unless some directory has lost what was durable
    /// there: two leaders of one term, two entries under one id, a leader without an entry that is committed. Going on
    /// would destroy what is left, so this node must keep what it has, and not take part any longer.
    LossProven {
        /// Both sides of it.
        what: String,
    },
    /// A message was dropped because it cannot come from a sound peer (B5).
    Nonsense {
        /// The sender.
        from: NodeId,
        /// What is wrong with it.
        what: String,
    },
}

/// What a core knows of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoreStatus {
    /// The node.
    pub node: NodeId,
    /// Its part.
    pub role: Role,
    /// Its term.
    pub term: Term,
    /// Whom it follows, or itself.
    pub leader: Option<NodeId>,
    /// The entry that the log starts behind (the last one under the snapshot, or cut).
    pub log_start: EntryId,
    /// The last entry.
    pub last: EntryId,
    /// The last entry that it knows to be committed.
    pub commit: Index,
    /// The last entry that has reached its own device.
    pub durable: Index,
    /// The log's size, from the start to the end, by [`Entry::size_bytes`].
    pub log_bytes: usize,
    /// The configuration in force and the entry that carried it.
    pub configuration: Configuration,
    /// See `configuration`.
    pub configuration_index: Index,
    /// How it confirms reads while it leads.
    pub reads: ReadMode,
    /// For a leader: how far each other member is. Empty otherwise.
    pub peers: Vec<PeerStatus>,
}

/// What a log in memory holds, in bytes of entries ([`Entry::size_bytes`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogLoad {
    /// After the newest snapshot: what the next one makes dispensable.
    pub new_bytes: usize,
    /// What cannot be removed at present: that, and what is kept for members that are behind.
    pub needed_bytes: usize,
    /// For a leader: the last of the members that are coming back and still work off what they lack.
    pub returning: Option<Returning>,
}

/// A member that is coming back and has to be faster than those who write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Returning {
    /// How far it is, in bytes of entries from some fixed point on.
    pub position_bytes: u64,
    /// Since when it has been taking in entries.
    pub since: Time,
}

/// What a leader knows of another member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// The member.
    pub node: NodeId,
    /// The last entry known to be durable there (Raft §5.3, `matchIndex`).
    pub match_index: Index,
    /// When it was last heard from in this term.
    pub heard_at: Option<Time>,
    /// Whether it waits for a snapshot.
    pub needs_snapshot: bool,
}

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

use std::collections::BTreeSet;
use std::fmt;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::entry::{Configuration, Entry, EntryId, HardState, Index, SnapshotMeta, Term};
use crate::epoch::EpochConfiguration;
use crate::id::{NodeId, ReplicaId};

use crate::status::{ReadMode, Role};

/// Monotonic time in microseconds since an origin of the driver's choice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
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
    /// What it is bound by.
    pub stored: StoredState,
    /// Its snapshot; the default one for none.
    pub snapshot: SnapshotMeta,
    /// The entries right behind the snapshot, without a hole. Older ones in front of them are ignored.
    pub entries: Vec<Entry>,
    /// Entries are missing that it may have acknowledged: it is silent until it has more than up to this index, at
    /// least.
    pub heals_past: Option<Index>,
}

impl Recovered {
    /// What it is bound by, of a Raft node.
    ///
    /// # Panics
    /// If the node is of another kind.
    pub fn hard_state(&self) -> HardState {
        self.stored.hard_state()
    }
}

/// What binds a node in later starts, durable before anything that rests on it leaves: one record, in the form of its
/// kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoredState {
    /// Of Raft: term, vote and leases.
    Raft(HardState),
    /// Of the kinds under a configuration service: the configuration of the epoch that the node acts in, whole; `None`
    /// before the first.
    Configured(Option<EpochConfiguration>),
}

impl StoredState {
    /// Term, vote and leases.
    ///
    /// # Panics
    /// If it is of another kind.
    pub fn hard_state(&self) -> HardState {
        match self {
            StoredState::Raft(hard_state) => *hard_state,
            StoredState::Configured(_) => panic!("{self:?} is no term and vote"),
        }
    }
}

impl Default for StoredState {
    fn default() -> StoredState {
        StoredState::Raft(HardState::default())
    }
}

impl From<HardState> for StoredState {
    fn from(hard_state: HardState) -> StoredState {
        StoredState::Raft(hard_state)
    }
}

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

    /// Its number, for [`Input::Durable`].
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

/// Names a checkpoint: whose it is, and what it goes from and to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointName {
    /// The epoch of the primary that took it.
    pub epoch: Term,
    /// The entry at which the state has to be that it is taken over at.
    pub base: EntryId,
    /// The last entry that the primary had applied.
    pub end: EntryId,
}

/// What a backup does with a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointFit {
    /// Takes it over: its state is at the base.
    Apply,
    /// Applies its own log up to the base first.
    ReplayTo(EntryId),
    /// Cannot use it, and asks for a whole image.
    WholeWanted,
    /// Drops it: it is of another epoch, or not newer than the state, or its end is not in this log yet.
    Drop,
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

/// What has changed in a core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The node's part, its term or epoch, or whom it follows has changed, and with that perhaps its routing.
    RoleChanged {
        /// Its part now.
        role: Role,
        /// The term or epoch now.
        term: Term,
        /// Whom it follows now, if that is known, or itself.
        leader: Option<NodeId>,
    },
    /// This node orders no more writes, of its own accord.
    StandsDown {
        /// Why.
        cause: StandDown,
    },
    /// A transfer of leadership came to nothing; this node serves again.
    TransferFailed,
    /// This node's disk does not keep up with the group that it orders writes for; it hands over (E21).
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
    /// In a `passive` group, the primary's backups should be brought up to date with its state.
    CheckpointDue {
        /// The epoch.
        epoch: Term,
        /// Up to here: the last entry that is committed.
        end: EntryId,
    },
    /// What a member says and what this node knows cannot both be, unless some directory has lost what was durable
    /// there: two leaders of one term, two entries under one id, a leader without an entry that is committed. Going on
    /// would destroy what is left, so this node must keep what it has, and not take part any longer.
    LossProven {
        /// Both sides of it.
        what: String,
    },
    /// A message was dropped because it cannot come from a sound peer (B5).
    ProtocolViolation {
        /// The sender.
        from: NodeId,
        /// What is wrong with it.
        what: String,
    },
}

/// Why a member that orders writes gives that up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StandDown {
    /// No quorum has answered for so long that it may have elected another one (E8, E10).
    QuorumSilent {
        /// For how long, in microseconds.
        for_us: u64,
    },
    /// Its disk does not finish a write (E19).
    DiskStalled {
        /// For how long it has not, in microseconds.
        for_us: u64,
        /// Who is to take over.
        successor: NodeId,
    },
}

/// What a member says to its group's configuration service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// The first entry of this epoch is committed: every member of it holds all that was ever committed.
    Activated {
        /// The epoch.
        epoch: Term,
    },
    /// A member of this epoch does not answer, or does not acknowledge, for so long that it counts as gone.
    Blocked {
        /// The epoch.
        epoch: Term,
        /// That member.
        by: NodeId,
        /// The end of the log of the node that says so: among complete ones, the highest is to be first.
        last: EntryId,
    },
    /// The newcomer lacks no more than was written a moment ago: it may be made a member.
    CaughtUp {
        /// From [`Input::Join`].
        epoch: Term,
        /// The newcomer.
        newcomer: NodeId,
    },
    /// A lease is wanted, to be answered with [`Input::LeaseGranted`].
    LeaseWanted {
        /// The epoch in which this member acts.
        epoch: Term,
        /// Now.
        asked_at: Time,
    },
    /// The first of this epoch has restarted: it orders nothing before the next one.
    FirstRestarted {
        /// The epoch.
        epoch: Term,
        /// The end of its log.
        last: EntryId,
    },
}

impl Report {
    /// Whether the service should hear it at once, and not with the next heartbeat.
    pub fn is_urgent(&self) -> bool {
        !matches!(self, Report::LeaseWanted { .. })
    }

    /// Whether the later one of the two says all that the other one says.
    pub fn is_about_the_same(&self, other: &Report) -> bool {
        match (self, other) {
            (Report::Blocked { by, .. }, Report::Blocked { by: other, .. }) => by == other,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }
}

/// What a core knows of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoreStatus {
    /// The replica and its incarnation.
    pub node: NodeId,
    /// The part that it plays in its group at present.
    pub role: Role,
    /// The latest term or epoch that it has entered.
    pub term: Term,
    /// Whom it follows, or itself.
    pub leader: Option<NodeId>,
    /// The entry that the log starts after (the last one under the snapshot, or cut).
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
    /// The member that it is about.
    pub node: NodeId,
    /// The last entry known to be durable there (Raft §5.3, `matchIndex`).
    pub match_index: Index,
    /// When it was last heard from in this term.
    pub heard_at: Option<Time>,
    /// Whether it waits for a snapshot.
    pub needs_snapshot: bool,
}

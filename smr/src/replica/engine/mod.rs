//! The replica's logic: core, sessions and state machine as one value without threads, clocks or sockets.
//!
//! [`Engine`] takes happenings (requests, messages, completed writes, time) and answers requests through their
//! [`ReplyTo`]; whatever needs the outside world comes back as an [`Action`]. The threads around it
//! ([`super::driver`]) only carry things to and fro, so a simulator can take their place.
//!
//! # The life of a request
//! A write is checked against the session table (a duplicate is answered from store), proposed together with
//! everything else that waited, and remembered ([`waiting`]) under the index it got; a copy of it that comes meanwhile
//! waits along. When that index is applied with the same term, the answer leaves; when the replica loses its role
//! before the entry is committed, the outcome is *unknown* (C9), because the entry may yet be committed by another
//! leader. A read gets a token, is confirmed by the core, and is answered once the index of its arrival is applied; a
//! replica that loses its role fails it instead (R4). What an operator asks for is an [`Admin`]'s business. What is
//! committed is applied a portion at a time ([`backlog`]).

mod admission;
mod audit;
mod backlog;
mod versions;
mod waiting;

use std::collections::BTreeMap;

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::entry::{Configuration, Entry, EntryId, Index, Payload, SnapshotMeta};
use crate::id::{Disqualified, GroupName, Incarnation, NodeId};
use crate::protocol::{
    Effects, Envelope, Event, Input, NotHere, Protocol, ReadOutcome, ReadToken, Route, Time, Write, WriteId,
};
use crate::replica::admin::{Admin, AdminContext, AdminRequest};
use crate::replica::engine::admission::Admission;
use crate::replica::engine::audit::{Audit, Finding};
use crate::replica::engine::backlog::{ConfirmedReads, PARTS_BYTES};
use crate::replica::engine::waiting::{Batch, WaitingWrites};
use crate::replica::{NotLeader, Outcome, ReplyTo, Request};
use crate::session::{SessionCommand, SessionTable};
use crate::snapshot::ReceivedSnapshot;
use crate::state_machine::{Answer, StateMachine};
use crate::status::{Advertised, ReplicaStatus, Role, ServiceState};
use crate::version::CommandVersions;

pub use self::admission::{LogLimits, SNAPSHOT_LOG_SMALL_BYTES};
pub use self::audit::DIGEST_EVERY_ENTRIES;
pub use self::backlog::{
    ANSWERS_PER_TURN_MAX_BYTES, APPLY_ENTRIES_MAX, APPLY_MAX_BYTES, Portion, WORK_PER_TURN_MAX_US,
};
pub use self::waiting::{WRITES_WAITING_MAX, WRITES_WAITING_MAX_BYTES};
use crate::status::StateDigest;

/// The largest command or query, in bytes: a value of 1 MiB with its key and some room.
pub const COMMAND_MAX_BYTES: usize = (1 << 20) + (64 << 10);
/// Reads that may wait for their confirmation; the next ones are `Busy`.
pub const READS_WAITING_MAX: usize = 32 << 10;
/// When a client is asked to try again after `Busy`, in milliseconds.
pub const BUSY_RETRY_MS: u32 = 20;
/// A snapshot is taken when the log after the last one holds at least this many bytes ...
pub const SNAPSHOT_LOG_MIN_BYTES: usize = 16 << 20;
/// ... and at the latest with this many, whatever the size of the state.
pub const SNAPSHOT_LOG_MAX_BYTES: usize = 256 << 20;
/// With half of this many bytes in the log that cannot be cut, writes are slowed down, and beyond it `Busy`, until a
/// snapshot has made room, or a member that comes back has taken them in. Four times as much as a snapshot is taken
/// after, where the state is so large.
pub const LOG_MAX_BYTES: usize = 256 << 20;
/// With a full log, what makes the state smaller is still taken for this many bytes more: otherwise a group that cannot
/// make a snapshot for lack of room would never have any again.
pub const LOG_FREEING_BYTES: usize = 16 << 20;
/// A snapshot for which there was no room is tried again after this time, in microseconds.
const SNAPSHOT_ROOM_RETRY_US: u64 = 5_000_000;
/// A log that gets full is filled up as if that took this long, in microseconds.
const LOG_DRAIN_US: u64 = 2_000_000;
/// A member that comes back does not slow the writers down for this long, in microseconds.
const RETURN_GRACE_US: u64 = 2_000_000;
/// And never slows them down to less than this, in bytes per second.
const SLOWED_MIN_BYTES_PER_S: u64 = 512 << 10;

/// The bounds of the log in service.
pub const LOG_LIMITS: LogLimits = LogLimits {
    snapshot_bytes: SNAPSHOT_LOG_MIN_BYTES..=SNAPSHOT_LOG_MAX_BYTES,
    max_bytes: LOG_MAX_BYTES,
    drain_us: LOG_DRAIN_US,
    grace_us: RETURN_GRACE_US,
    slowed_min_bytes_per_s: SLOWED_MIN_BYTES_PER_S,
};
/// With this many entries in a leader's log that are not known to be committed, writes are `Busy`. What earlier leaders
/// left counts: each one that is cut off before it commits adds what clients want at that moment, copies of the same
/// writes. Without a limit over all of them the group has to send and write the whole pile before it commits anything
/// new.
pub const UNCOMMITTED_ENTRIES_MAX: u64 = WRITES_WAITING_MAX as u64;
/// Up to this many answers of one turn are passed on by the replica's own thread; more of them are left to the
/// connections' tasks.
const ANSWERS_NOW_MAX: usize = 2;

/// What the engine asks of the world around it.
pub enum Action<P: Protocol, S: StateMachine> {
    /// Send this; it rests on nothing.
    Send(Envelope<P::Message>),
    /// Make this durable, in order with the other writes and adoptions.
    Write(Write<P::Message>),
    /// Make this received snapshot the current one, before the write that follows.
    PublishSnapshot(ReceivedSnapshot),
    /// Remove this received snapshot; it came too late.
    Discard(ReceivedSnapshot),
    /// Drop this on another thread: a state that a snapshot has taken the place of, which may take long.
    DropInBackground(Box<(S, SessionTable)>),
    /// Write a snapshot of this in the background, then call [`Engine::snapshot_taken`].
    TakeSnapshot(Box<SnapshotImage<S>>),
    /// Hash this in the background, then call [`Engine::digest_taken`] or [`Engine::digest_given_up`].
    TakeDigest(Box<SnapshotImage<S>>),
    /// Tell this node what the hash of the state was; no one waits for it.
    SendDigest(NodeId, StateDigest),
    /// Tell this node that it is no member any more; it may not have heard of it. No one waits for this.
    SendReplaced(NodeId, Replaced),
    /// Send the newest snapshot to this node, then call [`Engine::snapshot_sent`].
    SendSnapshot(NodeId),
    /// Draw the parts of a long answer on a worker thread.
    AnswerParts {
        /// Whom for.
        reply: ReplyTo,
        /// The parts.
        parts: Box<dyn Iterator<Item = Vec<u8>> + Send>,
    },
    /// The log lacks nothing any more that this node may have acknowledged: the disk has to know that it has healed.
    Healed,
    /// Put this node into quarantine for this reason, and end: it must not say anything more. Nothing that was to
    /// follow matters.
    Quarantine(String),
    /// End the process for this reason: a committed entry is of a kind that this build does not know. Nothing that was
    /// to follow matters.
    Stop(String),
    /// Tell a person (one line on stderr).
    Report(String),
}

/// A node that was a member has another incarnation in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replaced {
    /// The incarnation that is there.
    pub by: Incarnation,
    /// The entry that carries the committed configuration.
    pub since: Index,
}

/// Everything that a snapshot holds, as of one moment.
pub struct SnapshotImage<S: StateMachine> {
    /// Where it ends, and who is a member there.
    pub meta: SnapshotMeta,
    /// The session table.
    pub sessions: crate::session::SessionImage,
    /// The state machine.
    pub state: S::Image,
}

/// A received snapshot whose state is built, ready to take over.
pub struct Install<S> {
    /// Where it ends, and who is a member there.
    pub meta: SnapshotMeta,
    /// The session table.
    pub sessions: SessionTable,
    /// The state machine.
    pub state: S,
    /// The file, not yet the current one.
    pub file: ReceivedSnapshot,
}

struct PendingRead {
    query: Bytes,
    reply: ReplyTo,
}

/// Core, sessions and state machine of one replica.
pub struct Engine<P: Protocol, S: StateMachine> {
    group: GroupName,
    service_state: ServiceState,
    /// What it lacks, while the core is silent because of that.
    healing: Option<String>,
    sync_mode: String,
    core: P,
    node: NodeId,
    /// What the core's routing said when it last changed.
    takes_writes: bool,
    takes_reads: bool,
    state: S,
    sessions: SessionTable,
    /// The last entry applied, or the snapshot's.
    applied: EntryId,
    /// The configuration in force there, with the entry that carries it.
    members: (Index, Configuration),
    snapshot: EntryId,
    snapshot_len_bytes: u64,
    log_limits: LogLimits,
    admission: Admission,
    uncommitted_entries_max: u64,
    portion: Portion,
    snapshot_under_way: bool,
    audit: Audit,
    waiting: WaitingWrites,
    next_read_token: u64,
    reads: BTreeMap<ReadToken, Vec<PendingRead>>,
    confirmed_reads: ConfirmedReads,
    reads_waiting: usize,
    admin: Box<dyn Admin<P>>,
    /// Messages that no sound peer sends.
    violations: u64,
    /// See [`EngineStart`].
    nonce_seed: u64,
    nonces_drawn: u64,
    /// It has put itself into quarantine, or stopped for good.
    silent: bool,
    /// What the builds of the other members apply, as they said when they were met.
    applied_by: BTreeMap<NodeId, CommandVersions>,
    /// See [`Engine::disk_is_full`].
    disk_is_full: bool,
    /// There was no room for the latest snapshot: when to try again.
    snapshot_waits_for_room: Option<Time>,
    actions: Vec<Action<P, S>>,
    /// Answers that leave at the end of the turn.
    answers: Vec<(ReplyTo, Outcome)>,
    answers_bytes: usize,
}

/// What an engine starts from.
pub struct EngineStart<P: Protocol, S> {
    /// The group's name, for status and reports.
    pub group: GroupName,
    /// Whether the replica is in service, for status.
    pub service_state: ServiceState,
    /// What was damaged, if the core starts without entries that it may have acknowledged; for status.
    pub healing: Option<String>,
    /// How writes reach the device, for status.
    pub sync_mode: String,
    /// The core, recovered.
    pub core: P,
    /// For what operators ask of it.
    pub admin: Box<dyn Admin<P>>,
    /// The state as of the snapshot, or the empty one.
    pub state: S,
    /// The sessions as of the snapshot, or none.
    pub sessions: SessionTable,
    /// Where the snapshot ends; [`EntryId::ZERO`] without one.
    pub snapshot: EntryId,
    /// The length of the snapshot's file, in bytes.
    pub snapshot_len_bytes: u64,
    /// When snapshots are taken, and how long the log may get. In service [`LOG_LIMITS`].
    pub log_limits: LogLimits,
    /// At multiples of this index the state is hashed. In service [`DIGEST_EVERY_ENTRIES`].
    pub digest_every_entries: u64,
    /// With this many entries in the log that are not known to be committed, writes are `Busy`. In service
    /// [`UNCOMMITTED_ENTRIES_MAX`].
    pub uncommitted_entries_max: u64,
    /// What the random parts of sessions follow from. Random.
    pub nonce_seed: u64,
    /// What is applied at a time. In service the default.
    pub portion: Portion,
}

impl<P: Protocol, S: StateMachine> Engine<P, S> {
    /// An engine that starts after its snapshot.
    pub fn new(start: EngineStart<P, S>) -> Engine<P, S> {
        let (configuration, carrier) = start.core.configuration_at(start.snapshot.index);
        let routing = start.core.routing();
        Engine {
            members: (carrier, configuration),
            group: start.group,
            service_state: start.service_state,
            healing: start.healing,
            sync_mode: start.sync_mode,
            takes_writes: routing.writes.is_here(),
            takes_reads: routing.reads.is_here(),
            node: start.core.status().node,
            core: start.core,
            state: start.state,
            sessions: start.sessions,
            applied: start.snapshot,
            snapshot: start.snapshot,
            snapshot_len_bytes: start.snapshot_len_bytes,
            log_limits: start.log_limits,
            admission: Admission::default(),
            uncommitted_entries_max: start.uncommitted_entries_max,
            portion: start.portion,
            snapshot_under_way: false,
            audit: Audit::new(start.digest_every_entries),
            waiting: WaitingWrites::default(),
            next_read_token: 1,
            reads: BTreeMap::new(),
            confirmed_reads: ConfirmedReads::default(),
            reads_waiting: 0,
            admin: start.admin,
            violations: 0,
            nonce_seed: start.nonce_seed,
            nonces_drawn: 0,
            silent: false,
            applied_by: BTreeMap::new(),
            disk_is_full: false,
            snapshot_waits_for_room: None,
            actions: Vec::new(),
            answers: Vec::new(),
            answers_bytes: 0,
        }
    }

    /// What is to be done since the last call, in order. The answers of the turn leave here.
    pub fn take_actions(&mut self) -> Vec<Action<P, S>> {
        self.answers_bytes = 0;
        let few = self.answers.len() <= ANSWERS_NOW_MAX;
        for (reply, outcome) in self.answers.drain(..) {
            if few {
                reply.sink.deliver_now(reply.tag, outcome);
            } else {
                reply.send(outcome);
            }
        }
        std::mem::take(&mut self.actions)
    }

    /// When [`Engine::tick`] is due.
    pub fn deadline(&self) -> Time {
        let core = self.core.deadline();
        self.admin.next_tick().map_or(core, |admin| admin.min(core))
    }

    /// The core, to look at.
    pub fn core(&self) -> &P {
        &self.core
    }

    /// The state machine, to look at.
    pub fn state(&self) -> &S {
        &self.state
    }

    /// The last entry that was applied, or the last one under the snapshot.
    pub fn applied(&self) -> EntryId {
        self.applied
    }

    /// The last entry under the newest snapshot.
    pub fn snapshot(&self) -> EntryId {
        self.snapshot
    }

    /// The session table, to look at.
    pub fn sessions(&self) -> &SessionTable {
        &self.sessions
    }

    /// How many requests wait for their outcome.
    pub fn requests_waiting(&self) -> usize {
        self.waiting.len() + self.reads_waiting + self.admin.waiting()
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Time) {
        if self.silent {
            return;
        }
        self.step(now, Input::Tick);
        if self.snapshot_waits_for_room.is_some_and(|at| at <= now) && !self.snapshot_under_way {
            self.take_snapshot();
        }
        if self.admin.next_tick().is_some_and(|at| at <= now) {
            self.with_admin(now, |admin, context| admin.tick(context));
        }
    }

    /// A message arrived.
    pub fn receive(&mut self, now: Time, from: NodeId, message: P::Message) {
        if let Some(replaced) = self.replaced(from) {
            self.actions.push(Action::SendReplaced(from, replaced));
        }
        self.step(now, Input::Receive { from, message });
    }

    /// A member says that this node is none any more. It counts if this node has not heard of it: its log names itself
    /// as a voter, in an earlier configuration. Who was taken in only now does not name itself yet, or in a later one;
    /// and a learner may be named by an entry that was never committed, and is then no one's predecessor.
    pub fn replaced_heard(&mut self, from: NodeId, replaced: Replaced) {
        let status = self.core.status();
        if status.configuration.is_voter(self.node) && status.configuration_index < replaced.since {
            self.replaced_by(replaced, &format!("replica {from}"));
        }
    }

    /// Whether another incarnation has the place of this node, which sent something: then it may not know.
    fn replaced(&self, node: NodeId) -> Option<Replaced> {
        let (since, members) = &self.members;
        if members.is_member(node) {
            return None;
        }
        let successor = members.members().into_iter().find(|member| member.name == node.name)?;
        Some(Replaced { by: successor.incarnation, since: *since })
    }

    fn replaced_by(&mut self, Replaced { by, since }: Replaced, whose: &str) {
        let why = Disqualified::Replaced { by };
        self.quarantine(format!("{why} ({whose} says so, by the configuration of entry {since})"));
    }

    /// The configuration of the last entry applied is another one by now.
    fn members_changed(&mut self, carrier: Index, configuration: Configuration) {
        let was_member = self.members.1.is_member(self.node);
        self.members = (carrier, configuration);
        if was_member && let Some(replaced) = self.replaced(self.node) {
            self.replaced_by(replaced, "its own log");
        }
    }

    /// The writes up to this one have reached the device.
    pub fn durable(&mut self, now: Time, id: WriteId) {
        self.step(now, Input::Durable(id));
    }

    /// The connection from this node was closed by its side.
    pub fn disconnected(&mut self, now: Time, node: NodeId) {
        self.step(now, Input::Disconnected(node));
    }

    /// This node is connected. If it was replaced it hears so, even if it has nothing to say by itself (one that
    /// heals).
    pub fn connected(&mut self, node: NodeId) {
        if let Some(replaced) = self.replaced(node).filter(|_| !self.silent) {
            self.actions.push(Action::SendReplaced(node, replaced));
        }
    }

    /// This incarnation was met; it may be no member.
    pub fn met(&mut self, now: Time, node: NodeId) {
        self.admin.met(now, node);
    }

    /// The snapshot that was to be taken is durable.
    pub fn snapshot_taken(&mut self, now: Time, last: EntryId, len_bytes: u64) {
        if self.silent {
            return;
        }
        self.snapshot_under_way = false;
        self.snapshot_waits_for_room = None;
        if last.index > self.snapshot.index {
            self.snapshot = last;
            self.snapshot_len_bytes = len_bytes;
            self.step(now, Input::SnapshotTaken(last));
        }
        self.take_snapshot_if_due();
    }

    /// There is no room for the snapshot that was to be taken. It is tried again; until it succeeds a leader takes
    /// nothing that makes the state larger. False if the log has become so long meanwhile that this replica cannot go
    /// on without one.
    #[must_use]
    pub fn snapshot_lacks_room(&mut self, now: Time) -> bool {
        self.snapshot_under_way = false;
        self.snapshot_waits_for_room = Some(now.plus_us(SNAPSHOT_ROOM_RETRY_US));
        self.core.log_load().needed_bytes <= self.log_max_bytes() + LOG_FREEING_BYTES + WRITES_WAITING_MAX_BYTES
    }

    /// What the log that cannot be cut may hold.
    fn log_max_bytes(&self) -> usize {
        self.log_limits.max_for(self.snapshot_len_bytes)
    }

    /// The disk has become full, or has room again.
    pub fn disk_is_full(&mut self, is_full: bool) {
        self.disk_is_full = is_full;
        if let Some(at) = &mut self.snapshot_waits_for_room
            && !is_full
        {
            *at = Time(0);
        }
        if self.takes_writes || !is_full {
            self.report(if is_full {
                "the disk is full: only what makes the state smaller is taken".to_owned()
            } else {
                "the disk has room again".to_owned()
            });
        }
    }

    /// The newest snapshot was found damaged and put out of service: another one is made at once, or a restart would
    /// find a gap, and followers that need one would wait for the log to grow.
    pub fn snapshot_lost(&mut self) {
        if !self.snapshot_under_way && !self.silent {
            self.take_snapshot();
        }
    }

    /// The state that was to be hashed is.
    pub fn digest_taken(&mut self, digest: StateDigest) {
        if self.silent {
            return;
        }
        let Some(digest) = self.audit.taken(digest) else { return };
        let others = self.core.digest_peers().members.into_iter().filter(|node| *node != self.node);
        self.actions.extend(others.map(|node| Action::SendDigest(node, digest)));
        self.compare_digests(self.node, digest.index);
    }

    /// The state that was to be hashed will not be.
    pub fn digest_given_up(&mut self) {
        self.audit.given_up();
    }

    /// Another member says what its state was.
    pub fn digest_heard(&mut self, from: NodeId, digest: StateDigest) {
        if !self.silent && self.audit.heard(from, digest) {
            self.compare_digests(from, digest.index);
        }
    }

    fn compare_digests(&mut self, news: NodeId, index: Index) {
        for finding in self.audit.compare(self.node, &self.core.digest_peers(), news, index) {
            match finding {
                Finding::OddOneOut(what) => {
                    let why = format!("the state differs from that of a majority: {what}");
                    self.quarantine(why);
                }
                Finding::Differs(what) => self.report(format!("the states of replicas differ: {what}")),
            }
        }
    }

    /// This node must not take part any longer, for this reason: from now on it says nothing and takes nothing in.
    pub fn quarantine(&mut self, reason: String) {
        if self.is_quarantined() {
            return;
        }
        self.stop();
        self.service_state = ServiceState::Quarantined { reason: reason.clone() };
        self.silent = true;
        self.actions.push(Action::Quarantine(reason));
    }

    /// Whether this node has put itself into quarantine since it started.
    pub fn is_quarantined(&self) -> bool {
        self.silent
    }

    /// The transfer of a snapshot to this node, or what is made of it there, got further.
    pub fn snapshot_progress(&mut self, now: Time, to: NodeId) {
        self.step(now, Input::SnapshotProgress(to));
    }

    /// How full the log was when requests were last looked at, in thousandths of what it may hold.
    pub fn log_fullness_permille(&self) -> u32 {
        self.admission.fullness_permille()
    }

    /// The transfer of a snapshot ended.
    pub fn snapshot_sent(&mut self, now: Time, to: NodeId, last: Option<EntryId>) {
        self.step(now, Input::SnapshotSent { to, last });
    }

    /// A snapshot arrived and its state is built. False if it is not newer than what is here; it is then dropped.
    pub fn install(&mut self, now: Time, install: Install<S>, len_bytes: u64) -> bool {
        if self.silent {
            // Nothing goes over what this node has. What came stays a part of a transfer; no one resumes it.
            return false;
        }
        let meta = install.meta;
        let mut effects = Effects::default();
        let accepted = self.core.install(now, &meta, &mut effects).is_ok();
        if accepted {
            assert!(
                meta.last.index > self.applied.index,
                "snapshot {:?} would undo applied {}",
                meta.last,
                self.applied
            );
            let state = std::mem::replace(&mut self.state, install.state);
            let sessions = std::mem::replace(&mut self.sessions, install.sessions);
            self.actions.push(Action::DropInBackground(Box::new((state, sessions))));
            self.applied = meta.last;
            self.snapshot = meta.last;
            self.snapshot_len_bytes = len_bytes;
            self.audit.replaced(meta.last.index);
            self.members_changed(meta.configuration_index, meta.configuration.clone());
            // S12: what waited under the snapshot has an unknown outcome.
            self.fail_waiting_writes();
            self.actions.push(Action::PublishSnapshot(install.file));
            let node = self.node;
            self.report(format!("replica {node} installed a snapshot that ends at {}", meta.last));
        } else {
            self.actions.push(Action::DropInBackground(Box::new((install.state, install.sessions))));
            self.actions.push(Action::Discard(install.file));
        }
        self.absorb(effects);
        accepted
    }

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
                    self.enlist(SessionCommand::Open { nonce }, reply, &mut batch);
                }
                Request::Idempotent { command } => {
                    self.enlist(SessionCommand::Idempotent { command }, reply, &mut batch);
                }
                Request::Write { client, number, lowest_unanswered, command } => {
                    let write = SessionCommand::Write { client, number, lowest_unanswered, command };
                    self.enlist(write, reply, &mut batch);
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
                Request::Transfer { to } => {
                    let request = AdminRequest::Transfer { to };
                    self.with_admin(now, |admin, context| admin.begin(context, request, reply));
                }
                Request::Readmit { name } => {
                    let request = AdminRequest::Readmit { name };
                    self.with_admin(now, |admin, context| admin.begin(context, request, reply));
                }
            }
        }
        self.propose(now, batch);
        if !reads.is_empty() {
            self.begin_reads(now, reads);
        }
    }

    fn begin_reads(&mut self, now: Time, reads: Vec<PendingRead>) {
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

    /// The process is about to end in an orderly way: if others should take over before that, it is begun, and this is
    /// true.
    #[must_use]
    pub fn hand_over(&mut self, now: Time) -> bool {
        self.with_admin(now, |admin, context| admin.hand_over(context))
    }

    fn with_admin<T>(&mut self, now: Time, act: impl FnOnce(&mut dyn Admin<P>, AdminContext<'_, P>) -> T) -> T {
        let (mut effects, mut lines) = (Effects::default(), Vec::new());
        let core = &mut self.core;
        let context = AdminContext { now, core, effects: &mut effects, lines: &mut lines };
        let answer = act(self.admin.as_mut(), context);
        lines.into_iter().for_each(|line| self.report(line));
        self.absorb(effects);
        answer
    }

    /// Whether requests of a kind are for this replica.
    ///
    /// # Errors
    /// What to tell whoever asks.
    fn is_for_here(&self, route: Route) -> Result<(), Outcome> {
        if route.is_here() { Ok(()) } else { Err(Outcome::NotLeader(self.hint(route))) }
    }

    /// Whom clients are told to ask.
    fn hint(&self, route: Route) -> NotLeader {
        let at = match route {
            Route::Here => Some(self.node.name),
            Route::There(at) => at,
        };
        NotHere { at, term: self.core.routing().term }.into()
    }

    /// The replica, described.
    pub fn status(&self) -> ReplicaStatus {
        let core = self.core.status();
        ReplicaStatus {
            group: self.group.clone(),
            node: core.node,
            service_state: match (&self.healing, &self.service_state) {
                (Some(reason), ServiceState::InService) => ServiceState::Quarantined { reason: reason.clone() },
                _ => self.service_state.clone(),
            },
            role: core.role,
            term: core.term,
            leader: core.leader,
            snapshot: self.snapshot,
            last: core.last,
            commit: core.commit,
            applied: self.applied.index,
            digest: self.audit.own(),
            log_bytes: core.log_bytes as u64,
            sessions: self.sessions.len() as u64,
            voters: core.configuration.voters.iter().copied().collect(),
            learners: core.configuration.learners.iter().copied().collect(),
            sync_mode: self.sync_mode.clone(),
            reads: core.reads,
            peers: core.peers.iter().map(|peer| (peer.node, peer.match_index)).collect(),
            advertised: Advertised::Unknown,
        }
    }

    /// What was damaged, while the core is silent because of that.
    pub fn healing(&self) -> Option<&str> {
        self.healing.as_deref()
    }

    /// What status says from now on.
    pub fn set_service_state(&mut self, service_state: ServiceState) {
        self.service_state = service_state;
    }

    /// Answers everything that still waits: the replica stops.
    pub fn stop(&mut self) {
        self.fail_waiting_writes();
        self.fail_reads();
        let mut lines = Vec::new();
        self.admin.stop(&mut lines);
        lines.into_iter().for_each(|line| self.report(line));
    }

    /// Adds a write to the batch, unless it can be answered at once or waits already.
    fn enlist(&mut self, command: SessionCommand, reply: ReplyTo, batch: &mut Batch) {
        if let Err(elsewhere) = self.is_for_here(self.core.routing().writes) {
            return reply.send(elsewhere);
        }
        if let Err(why) = self.is_applied_everywhere(&command) {
            return reply.send(Outcome::Refused(why));
        }
        if let SessionCommand::Write { client, number, lowest_unanswered, command } = &command
            && let Some(outcome) = self.sessions.check(*client, *number, *lowest_unanswered, command)
        {
            return reply.send(outcome);
        }
        let Some(reply) = self.waiting.join(&command, reply) else { return };
        let bytes = command.encode();
        if bytes.len() > COMMAND_MAX_BYTES {
            return reply.send(Outcome::TooLarge { limit_bytes: COMMAND_MAX_BYTES as u32 });
        }
        let lacks_room = self.disk_is_full || self.snapshot_waits_for_room.is_some();
        if lacks_room && !command.frees::<S>() {
            return reply.send(Outcome::DiskFull);
        }
        let is_full = self.waiting.is_full(batch, bytes.len())
            || (lacks_room && self.core.log_load().needed_bytes > self.log_max_bytes() + LOG_FREEING_BYTES)
            || self.core.uncommitted_entries() + batch.len() as u64 >= self.uncommitted_entries_max;
        if is_full {
            return reply.send(Outcome::Busy { retry_after_ms: BUSY_RETRY_MS });
        }
        if !lacks_room && let Err(retry_after_ms) = self.admission.admit(bytes.len()) {
            return reply.send(Outcome::Busy { retry_after_ms });
        }
        batch.push(&command, bytes, reply);
    }

    /// The random part of a session's name, never 0.
    fn draw_nonce(&mut self) -> u64 {
        self.nonces_drawn += 1;
        xxh3_64_with_seed(&self.nonces_drawn.to_le_bytes(), self.nonce_seed).max(1)
    }

    fn propose(&mut self, now: Time, mut batch: Batch) {
        let commands = batch.take_commands();
        if commands.is_empty() {
            return;
        }
        let mut effects = Effects::default();
        match self.core.propose(now, commands, &mut effects) {
            Ok(first) => self.waiting.proposed(first, batch),
            Err(not_here) => batch.refuse(&Outcome::NotLeader(not_here.into())),
        }
        self.absorb(effects);
    }

    fn step(&mut self, now: Time, input: Input<P::Message>) {
        if self.silent {
            return;
        }
        let effects = self.core.step(now, input);
        self.absorb(effects);
    }

    fn absorb(&mut self, mut effects: Effects<P::Message>) {
        let ends = |event: &Event| matches!(event, Event::Forgot { .. } | Event::LossProven { .. });
        if let Some(at) = effects.events.iter().position(ends) {
            // Nothing of this step leaves, not even an answer that rests on nothing.
            let event = effects.events.swap_remove(at);
            return self.note(event);
        }
        self.actions.extend(effects.messages.into_iter().map(Action::Send));
        self.actions.extend(effects.writes.into_iter().map(Action::Write));
        self.actions.extend(effects.snapshots_wanted.into_iter().map(Action::SendSnapshot));
        for read in effects.reads {
            self.read_outcome(read);
        }
        for event in effects.events {
            self.note(event);
        }
    }

    fn apply(&mut self, entry: Entry) {
        let index = entry.id.index;
        assert_eq!(index, self.applied.index.next(), "entry {} follows applied {}", entry.id, self.applied);
        let command = match &entry.payload {
            Payload::Command(bytes) => match versions::decode::<S>(bytes) {
                Ok(command) => Some(command),
                Err(what) => return self.cannot_apply(entry.id, &what),
            },
            Payload::Noop | Payload::Configuration(_) => None,
        };
        self.applied = entry.id;
        let outcome = match &entry.payload {
            Payload::Noop => None,
            Payload::Configuration(configuration) => {
                self.members_changed(index, configuration.clone());
                None
            }
            Payload::Command(_) => {
                let state = &mut self.state;
                command.map(|command| self.sessions.apply(index, &command, |command| state.apply(index, command)))
            }
        };
        if let Some((id, reply, copies)) = self.waiting.applied(index) {
            // Another leader's entry in its place says nothing about it.
            let is_told_here = id.term == entry.id.term && self.core.routing().answers.is_here();
            let outcome = outcome.filter(|_| is_told_here).unwrap_or(Outcome::Unknown);
            for copy in copies {
                self.leave(copy, outcome.clone());
            }
            self.leave(reply, outcome);
        }
        if self.audit.begins_at(index) {
            let image = self.image();
            self.actions.push(Action::TakeDigest(Box::new(image)));
        }
    }

    fn read_outcome(&mut self, read: ReadOutcome) {
        match read {
            ReadOutcome::Ready { token, index } => {
                let reads = self.reads.remove(&token).unwrap_or_default();
                self.confirmed_reads.push(index, reads);
            }
            ReadOutcome::Failed { token } => {
                let reads = self.reads.remove(&token).unwrap_or_default();
                self.reads_waiting -= reads.len();
                fail(reads, self.hint(self.core.routing().reads));
            }
        }
    }

    fn answer(&mut self, read: PendingRead) {
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
    fn leave(&mut self, reply: ReplyTo, outcome: Outcome) {
        if let Outcome::Answer(answer) = &outcome {
            self.answers_bytes += answer.len();
        }
        self.answers.push((reply, outcome));
    }

    fn take_snapshot_if_due(&mut self) {
        if self.snapshot_waits_for_room.is_some() {
            return;
        }
        let threshold = self.log_limits.snapshot_after(self.snapshot_len_bytes);
        // The logs of a group grow in step. Replicas that shared a machine would all take their snapshots at once.
        let threshold = threshold + threshold / 8 * usize::from(self.node.name.0 % 4);
        // In the middle of a large backlog it would end far in front of the log's end, and make little room. But the
        // log is in memory.
        let due = !self.snapshot_under_way
            && self.applied.index > self.snapshot.index
            && self.core.log_load().new_bytes >= threshold
            && (self.backlog() <= self.portion.entries_max as u64 || self.core.log_bytes() > LOG_MAX_BYTES);
        if due {
            self.take_snapshot();
        }
    }

    fn take_snapshot(&mut self) {
        self.snapshot_under_way = true;
        let image = self.image();
        self.actions.push(Action::TakeSnapshot(Box::new(image)));
    }

    fn image(&self) -> SnapshotImage<S> {
        let (configuration, configuration_index) = self.core.configuration_at(self.applied.index);
        SnapshotImage {
            meta: SnapshotMeta { last: self.applied, configuration, configuration_index },
            sessions: self.sessions.image(),
            state: self.state.image(),
        }
    }

    fn note(&mut self, event: Event) {
        match event {
            Event::RoleChanged { role, term, leader } => {
                self.routing_changed();
                let whom = match leader {
                    Some(leader) if role != Role::Leader => format!(", leader is {}", leader.name),
                    _ => String::new(),
                };
                self.report(format!("replica {} is {role} in term {term}{whom}", self.node.name));
            }
            Event::DiskLags { successor } => self.report(format!(
                "replica {} hands over to {}: its own disk has been behind its group for seconds",
                self.node.name, successor.name
            )),
            Event::TransferFailed => self.admin.transfer_failed(),
            Event::Forgot { entry } => {
                let why = format!("entry {entry} was acknowledged, and the log ends at {}", self.core.status().last);
                self.quarantine(why);
            }
            Event::Healed { through } => {
                self.healing = None;
                self.report(format!("has healed: everything up to entry {through} is here"));
                self.actions.push(Action::Healed);
            }
            Event::LossProven { what } => self.quarantine(format!("proof of a loss: {what}")),
            Event::ProtocolViolation { from, what } => {
                self.violations += 1;
                // A peer with a bug may go on for ever; the lines about it become rare.
                if self.violations.is_power_of_two() {
                    let count = self.violations;
                    self.report(format!("dropped a message of replica {from}: {what} ({count} such messages so far)"));
                }
            }
        }
    }

    fn routing_changed(&mut self) {
        let routing = self.core.routing();
        let took_writes = std::mem::replace(&mut self.takes_writes, routing.writes.is_here());
        let took_reads = std::mem::replace(&mut self.takes_reads, routing.reads.is_here());
        if took_writes && !self.takes_writes {
            // Others may commit what this node proposed, or not. What is committed has its answer when it is applied.
            self.waiting.fail_after(self.core.commit(), &Outcome::Unknown);
        }
        if took_reads && !self.takes_reads {
            self.fail_reads();
        }
        self.admin.routing_changed(&routing);
    }

    /// No one will know what became of any write that waits.
    fn fail_waiting_writes(&mut self) {
        self.waiting.fail_after(Index::ZERO, &Outcome::Unknown);
    }

    fn fail_reads(&mut self) {
        let hint = self.hint(self.core.routing().reads);
        self.reads_waiting = 0;
        let unconfirmed = std::mem::take(&mut self.reads).into_values().flatten();
        fail(unconfirmed.chain(self.confirmed_reads.take()), hint);
    }

    fn report(&mut self, line: String) {
        self.actions.push(Action::Report(line));
    }
}

/// These reads are not answered here.
fn fail(reads: impl IntoIterator<Item = PendingRead>, hint: NotLeader) {
    reads.into_iter().for_each(|read| read.reply.send(Outcome::NotLeader(hint)));
}

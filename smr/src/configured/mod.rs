//! The core of groups under a configuration service: every member is kept in step, and someone else decides who they
//! are. A pure function of what happened, like [`crate::raft`].
//!
//! Raft needs a majority of its own members to decide anything, also who they are. Here the members of an *epoch* are
//! given ([`EpochConfiguration`]); what is committed is on the disks of *all* of them, so one that is left holds it
//! all: f + 1 replicas survive f failures. Who is gone is for the service to say, which is a Raft group of its own.
//!
//! # Kinds
//! | kind | order | way of a write | commits when | applies | answers | reads |
//! |---|---|---|---|---|---|---|
//! | `chain` | head | from member to member | all have it durable, as the tail knows | all | head | any member |
//! | `active` | first member | from the first to all | all acknowledged it in this epoch | all | all | any member |
//! | `passive` | first member (primary) | as above | as above | primary | primary | primary |
//!
//! `active` and `passive` are *stars*.
//!
//! # What it guarantees
//! Given a service that keeps its side (below): what is committed stays, in the same place, for ever, on every member
//! that counts as complete; two entries with one epoch and index are equal; a read that is answered has seen everything
//! that was committed when it arrived. Whatever messages are lost, doubled, delayed or overtaken, whoever crashes or
//! pauses, and in whatever order members hear of epochs.
//!
//! # Rules
//! Each has an interleaving that loses a commit, or answers stale, without it.
//! - *Configuration*: durable as a whole before a member acts in it; then every lower epoch is refused. It travels with
//!   the first messages of its epoch. [`enter`]
//! - *First entry*: an epoch begins with a no-op of its first member. Acknowledgements count in their epoch alone.
//!   [`order`]
//! - *Complete*: a member is, in an epoch, once the no-op of that epoch is durable in its log. Then every entry that
//!   was committed before is in its log. Only then it answers reads, or hands the log on to others.
//! - *Restart*: a process orders nothing in an epoch that it did not enter in this start: what it lost it would order
//!   again under the same names. It waits for the next epoch; any other member goes on. [`order`]
//! - *Cutting*: the first's log wins; whoever differs cuts, but never below a commit index that it knows: then someone
//!   has lost something, and that is an event. [`append`]
//! - *Reads*: a member notes the end of its own log and answers once that is committed; if the log is cut below it, the
//!   cut is noted. The first and the tail note what they have committed, but only in an epoch that they entered in this
//!   start: after a restart they know less than they said. [`read`]
//! - *Being a member*: a read needs that its member *is* one when it arrives: by a lease of the service, counted from
//!   when it was asked for; or by the word of every other member, asked after the read arrived. [`lease`], [`read`]
//!
//! # What the service has to do
//! Decide on epochs by compare-and-set; name as first a member that is complete by its record; that record shrinks with
//! each removal and grows by [`Report::Activated`] of the present epoch only; add one newcomer at a time, as
//! `incomplete`, at the end; grant a lease only to a member that is complete and belongs to every configuration from
//! the epoch it names to the present one; let the last grant to a member pass before it decides on a configuration
//! without it. A model of it is in `smr/tests/configured_cluster`.
//!
//! # Messages
//! | message | from → to | answer | rests on |
//! |---|---|---|---|
//! | `Append` | to others; chain: to next; feeder: newcomer | `Accepted`, `Rejected`, `Contradicted` | configuration |
//! | `Accepted` | back | | the entries, and all writes before them |
//! | `Durable` | in a chain each → next | | the same, of all before it |
//! | `Heartbeat` | as `Append` | `HeartbeatAck` | the configuration |
//! | `Commit` | first → others (`active`); in a chain each → the one before | | the configuration |
//! | `Confirm` | a member with reads → every other one | `Confirmed` | the configuration |
//! | `Announce` | anyone → who speaks in a lower epoch, or asks | | the configuration |
//! | `ConfigurationWanted` | anyone → who speaks in a higher epoch | `Announce` | nothing |
//!
//! # Left out
//! - Keeping requests until they are applied, and sending them on to the first (`active`), and images between primary
//!   and backups (`passive`) are the engine's. This core says who orders, applies and answers, and when a checkpoint is
//!   due and fits ([`checkpoint`]).
//! - Healing of a damaged log: a member that lost what it acknowledged comes back as a newcomer.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod checkpoint;
pub mod invariants;
pub mod message;

mod append;
pub(crate) mod canonical;
mod enter;
mod join;
mod lease;
mod order;
mod output;
mod progress;
mod read;
mod replicate;
mod settings;
mod snapshot;
mod watch;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;

use self::checkpoint::Checkpoints;
use self::join::Newcomer;
use self::message::Body;
use self::progress::{Pace, Progress};
use self::read::Reads;
use crate::core_kit::log::Log;
use crate::core_kit::outbox::Outbox;
use crate::entry::{Configuration, Entry, EntryId, Index, SnapshotMeta, Term};
use crate::epoch::{EpochConfiguration, EpochKind};
use crate::id::NodeId;
use crate::protocol::{
    CheckpointFit, CheckpointName, CoreStatus, DigestPeers, Effects, Event, Input, LogLoad, NotHere, PeerStatus,
    Protocol, ReadToken, Recovered, Report, Route, Routing, StoredState, Superseded, Time,
};
use crate::status::Role;

pub use self::message::Message;
pub use self::settings::{BadSettings, LEASE_MAX_US, Settings};

/// One member's core. See the module.
#[derive(Clone, Debug)]
pub struct Configured {
    settings: Settings,
    node: NodeId,
    /// Names this start, in questions whose answers must not be taken for those to an earlier start.
    start: u64,
    started_at: Time,
    now: Time,
    /// Of the epoch that it acts in, as of now; [`Outbox`] knows whether it is durable.
    configuration: Option<EpochConfiguration>,
    /// When that epoch was entered, if in this start.
    entered_at: Option<Time>,
    log: Log,
    /// The last entry known to be committed. Between the snapshot and the log's end.
    commit: Index,
    /// Those that it sends its log to in this epoch.
    peers: BTreeMap<NodeId, Progress>,
    /// Those that are known to be in this epoch, over the present connection.
    told: BTreeSet<NodeId>,
    /// When others were last heard in this epoch.
    heard: BTreeMap<NodeId, Time>,
    /// In a chain: what the member before this one has said, in this epoch, that all up to it have durably.
    durable_before: EntryId,
    /// In a chain: up to where it has said to the next one that all have the log, and to the one before what is
    /// committed.
    durable_said: Index,
    commit_said: Index,
    newcomer: Option<Newcomer>,
    reads: Reads,
    /// Until when the service's last lease counts.
    leased_until: Time,
    checkpoints: Checkpoints,
    /// [`Report::Activated`] was said in this epoch.
    is_activated: bool,
    heartbeat_at: Time,
    out: Outbox<Message>,
}

impl Configured {
    /// A node as it comes back from its disk, or starts for the first time.
    ///
    /// # Panics
    /// If the settings are invalid; if what was recovered is of another kind, has a hole, or heals: its storage must
    /// have checked that.
    pub fn new(settings: Settings, node: NodeId, recovered: Recovered, mut rng: ChaCha8Rng, now: Time) -> Configured {
        settings.validate().unwrap_or_else(|error| panic!("{error}"));
        let Recovered { stored, snapshot, entries, heals_past } = recovered;
        assert!(heals_past.is_none(), "{node} lacks entries up to {heals_past:?}: it has to come back as a newcomer");
        let configuration = match stored {
            StoredState::Configured(configuration) => configuration,
            StoredState::Raft(hard_state) => panic!("{node} was of another kind: it has stored {hard_state:?}"),
        };
        let mut log = Log::new(snapshot.last);
        for entry in entries.into_iter().filter(|entry| entry.id.index > snapshot.last.index) {
            log.append(entry);
        }
        let epoch = configuration.as_ref().map_or(Term::ZERO, |configuration| configuration.epoch);
        assert!(log.last().term <= epoch, "{node}: entry {} in the log of epoch {epoch}", log.last());
        let out = Outbox::new(log.last().index);
        let mut core = Configured {
            settings,
            node,
            start: rng.next_u64(),
            started_at: now,
            now,
            configuration,
            entered_at: None,
            log,
            commit: snapshot.last.index,
            peers: BTreeMap::new(),
            told: BTreeSet::new(),
            heard: BTreeMap::new(),
            durable_before: EntryId::ZERO,
            durable_said: Index::ZERO,
            commit_said: Index::ZERO,
            newcomer: None,
            reads: Reads::default(),
            leased_until: Time(0),
            checkpoints: Checkpoints::new(now),
            is_activated: false,
            heartbeat_at: now,
            out,
        };
        core.peers = core.receivers();
        core
    }

    /// The epoch that it acts in; 0 before the first.
    fn epoch(&self) -> Term {
        self.configuration.as_ref().map_or(Term::ZERO, |configuration| configuration.epoch)
    }

    /// The configuration, if this node is a member of it.
    fn membership(&self) -> Option<&EpochConfiguration> {
        self.configuration.as_ref().filter(|configuration| configuration.is_member(self.node))
    }

    /// Whether it is the first of its epoch, whatever it may do there.
    fn is_first(&self) -> bool {
        self.configuration.as_ref().is_some_and(|configuration| configuration.first() == self.node)
    }

    fn is_chain(&self) -> bool {
        self.settings.kind.is_chain()
    }

    /// The no-op that began this epoch, if it is in the log, durable or not.
    fn noop_index(&self) -> Option<Index> {
        let (epoch, last) = (self.epoch(), self.log.last());
        if epoch == Term::ZERO || last.term != epoch {
            return None;
        }
        let before = self.log.back_up(last.index, Term(epoch.0 - 1));
        // If the log starts after it, it is long committed.
        Some(before.map_or(self.log.start().index, |id| id.index.next()))
    }

    /// Whether every entry that was ever committed, up to its own epoch, is in its log.
    fn is_complete(&self) -> bool {
        self.membership().is_some() && self.noop_index().is_some_and(|noop| noop <= self.out.durable())
    }

    /// From whom it takes entries. An outsider takes them from any member: whoever feeds it.
    fn takes_entries_from(&self, node: NodeId) -> bool {
        match (&self.configuration, self.membership()) {
            (_, Some(membership)) if self.is_chain() => membership.before(self.node) == Some(node),
            (_, Some(membership)) => membership.first() == node && node != self.node,
            (Some(outside), None) => outside.is_member(node),
            (None, None) => false,
        }
    }

    /// Sends a message of the present epoch.
    fn send(&mut self, to: NodeId, body: Body) {
        let message = self.message(to, body);
        self.out.send(to, message);
    }

    fn message(&self, to: NodeId, body: Body) -> Message {
        let is_told = self.told.contains(&to) && body != Body::Announce;
        let configuration = self.configuration.clone().filter(|_| !is_told);
        Message { epoch: self.epoch(), configuration, body }
    }

    /// Something arrived. In this order: is it sound, is it of our epoch, is it from who may say it.
    fn receive(&mut self, from: NodeId, message: Message) {
        if from == self.node {
            return self.violation(from, "a message from oneself".to_owned());
        }
        if let Err(violation) = message.validate() {
            return self.violation(from, violation);
        }
        let Message { epoch, configuration, body } = message;
        if epoch < self.epoch() {
            return self.receive_lower_epoch(from, &body);
        }
        if epoch > self.epoch() {
            let Some(configuration) = configuration else {
                let message = Message { epoch: self.epoch(), configuration: None, body: Body::ConfigurationWanted };
                return self.out.send(from, message);
            };
            if !self.receive_configuration(from, configuration) {
                return;
            }
        } else if let Some(other) = configuration
            && Some(&other) != self.configuration.as_ref()
        {
            return self.contradicted(from, format!("{from} has {other}, which is another one than here"));
        }
        let is_new = self.told.insert(from);
        if self.configuration.as_ref().is_some_and(|configuration| configuration.is_member(from)) {
            self.heard.insert(from, self.now);
            if is_new {
                self.backup_is_back();
            }
        }
        match body {
            Body::Append { .. } | Body::Heartbeat { .. } | Body::Durable { .. } if !self.takes_entries_from(from) => {
                self.violation(from, format!("sends the log in epoch {epoch}, which is not its to send"));
            }
            Body::Append { previous, entries, commit } => self.receive_append(from, previous, entries, commit),
            Body::Heartbeat { commit, through } => self.receive_heartbeat(from, commit, through),
            Body::Durable { through } => self.receive_durable(through),
            Body::Commit { last } => self.receive_commit_from(from, last),
            Body::Accepted { last } => self.receive_accepted(from, last),
            Body::Contradicted { commit } => self.receive_contradicted(from, commit),
            Body::Rejected { previous, hint } => self.receive_rejected(from, previous, hint),
            Body::HeartbeatAck { commit } => self.receive_heartbeat_ack(from, commit),
            Body::Confirm { start, round } => self.receive_confirm(from, start, round),
            Body::Confirmed { start, round } => self.receive_confirmed(from, start, round),
            Body::Announce | Body::ConfigurationWanted => {}
        }
    }

    /// A member contradicts what is durable: someone has lost something (see [`Event::LossProven`]). From anyone else
    /// it is a violation of the protocol.
    fn contradicted(&mut self, from: NodeId, what: String) {
        if self.configuration.as_ref().is_some_and(|configuration| configuration.is_member(from)) {
            self.out.effects.events.push(Event::LossProven { what });
        } else {
            self.violation(from, what);
        }
    }

    fn violation(&mut self, from: NodeId, what: String) {
        self.out.effects.events.push(Event::ProtocolViolation { from, what });
    }

    fn report(&mut self, report: Report) {
        self.out.effects.reports.push(report);
    }

    /// Everything up to `index` is committed.
    fn advance_commit(&mut self, index: Index) {
        if index <= self.commit {
            return;
        }
        assert!(index <= self.log.last().index, "commit {index} after the last entry {}", self.log.last());
        self.commit = index;
    }

    /// The last entry known to be committed.
    fn committed_id(&self) -> EntryId {
        self.log.id_at(self.commit).unwrap_or_else(|| {
            panic!("commit {} outside of the log from {} to {}", self.commit, self.log.start(), self.log.last())
        })
    }

    /// The members in the words of those who show a group. Who has not shown yet that it has everything learns, and so
    /// does who is brought up to date here.
    fn shown_members(&self) -> Configuration {
        let Some(known) = &self.configuration else { return Configuration::default() };
        // Once the first entry of the epoch is committed, all of them have everything.
        let is_activated = self.noop_index().is_some_and(|noop| noop <= self.commit);
        let incomplete = known.incomplete.filter(|_| !is_activated);
        let voters = known.members.iter().filter(|member| incomplete != Some(**member)).copied().collect();
        let newcomer = self.newcomer.map(|newcomer| newcomer.node);
        Configuration { voters, outgoing: BTreeSet::new(), learners: incomplete.into_iter().chain(newcomer).collect() }
    }

    /// The limits and intervals that it runs with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The configuration of the epoch that it acts in.
    pub fn configuration(&self) -> Option<&EpochConfiguration> {
        self.configuration.as_ref()
    }

    /// Its part: the first leads if it may order, whoever is no member learns.
    pub fn role(&self) -> Role {
        match self.membership() {
            Some(_) if self.orders() => Role::Leader,
            Some(_) => Role::Follower,
            None => Role::Learner,
        }
    }

    /// Who orders writes, as far as this node knows; no one in an epoch whose first, this node, has restarted.
    fn visible_first(&self) -> Option<NodeId> {
        let first = self.configuration.as_ref().map(EpochConfiguration::first);
        first.filter(|first| *first != self.node || self.orders())
    }

    /// Does one thing, and what follows from any: the only way in.
    fn act<T>(&mut self, now: Time, effects: &mut Effects<Message>, act: impl FnOnce(&mut Configured) -> T) -> T {
        self.now = self.now.max(now);
        let before = (self.role(), self.epoch(), self.visible_first());
        let answer = act(self);
        self.commit_if_all_have_it();
        self.announce();
        self.release_reads();
        self.take_checkpoint_if_due();
        let after = (self.role(), self.epoch(), self.visible_first());
        if before != after {
            let (role, term, leader) = after;
            self.out.effects.events.push(Event::RoleChanged { role, term, leader });
        }
        effects.extend(self.out.finish(self.now, self.log.last().index));
        answer
    }

    fn take_in(&mut self, input: Input<Message>) {
        match input {
            Input::Tick => self.tick(),
            Input::Receive { from, message } => self.receive(from, message),
            Input::Durable(write) => self.out.complete(write),
            Input::Disconnected(node) => self.disconnected(node),
            // It may have restarted. What it has to be told is told over this one.
            Input::Connected(node) => drop(self.told.remove(&node)),
            Input::SnapshotTaken(last) => self.snapshot_taken(last),
            Input::SnapshotSent { to, last } => self.snapshot_sent(to, last),
            Input::SnapshotProgress(_) => {}
            Input::Configured(configuration) => {
                // The service may say it again, or later than a member did.
                if configuration.epoch > self.epoch() {
                    self.receive_configuration(self.node, configuration);
                }
            }
            Input::LeaseGranted { epoch, asked_at, length_us } => self.lease_granted(epoch, asked_at, length_us),
            Input::Join { epoch, newcomer } => self.join(epoch, newcomer),
        }
    }

    /// The timer: everyone says that it is there, and asks again what was not answered.
    fn tick(&mut self) {
        if self.now < self.heartbeat_at {
            return;
        }
        self.heartbeat_at = self.now.plus_us(self.settings.heartbeat_us);
        self.send_heartbeats();
        self.ask_again();
        self.want_lease();
        self.report_blocked();
        self.report_newcomer();
        if self.is_activated {
            self.report(Report::Activated { epoch: self.epoch() });
        }
    }

    /// The connection from a node was closed: what was on its way there may be lost, and it may have restarted.
    fn disconnected(&mut self, node: NodeId) {
        self.told.remove(&node);
        if let Some(progress) = self.peers.get_mut(&node)
            && !matches!(progress.pace, Pace::Snapshot { .. })
        {
            progress.probe_from(progress.match_index.next());
        }
    }
}

impl Protocol for Configured {
    type Message = Message;

    fn step(&mut self, now: Time, input: Input<Message>) -> Effects<Message> {
        let mut effects = Effects::default();
        self.act(now, &mut effects, |core| core.take_in(input));
        effects
    }

    fn propose(&mut self, now: Time, commands: Vec<Bytes>, effects: &mut Effects<Message>) -> Result<EntryId, NotHere> {
        self.act(now, effects, |core| core.append_commands(commands))
    }

    fn read(&mut self, now: Time, token: ReadToken, effects: &mut Effects<Message>) -> Result<(), NotHere> {
        self.act(now, effects, |core| core.take_read(token))
    }

    fn install(
        &mut self,
        now: Time,
        snapshot: &SnapshotMeta,
        effects: &mut Effects<Message>,
    ) -> Result<(), Superseded> {
        self.act(now, effects, |core| core.snapshot_received(snapshot))
    }

    fn routing(&self) -> Routing {
        let there = |node: Option<NodeId>| Route::There(node.map(|node| node.name));
        let first = if self.orders() { Route::Here } else { there(self.visible_first()) };
        let answers = match &self.configuration {
            // In a chain the tail knows first what is committed. But it knows nothing of who asked; the head does.
            Some(known) if self.settings.kind != EpochKind::Active && known.first() != self.node => first,
            // What such a one has applied was committed; but it is no replica that answers yet, or any more.
            _ if self.keeps_writes() && !self.is_first() && !self.is_complete() => there(self.visible_first()),
            _ => Route::Here,
        };
        let reads = if self.serves_reads() { Route::Here } else { there(self.visible_first()) };
        Routing { term: self.epoch(), writes: first, reads, answers }
    }

    fn keeps_writes(&self) -> bool {
        self.settings.kind.all_take_writes()
    }

    fn has_service(&self) -> bool {
        true
    }

    fn applies(&self) -> bool {
        // A backup keeps what it stores until it is first. Who is no member gets no checkpoints: it applies what it
        // knows to be committed, or no snapshot of its own would ever let it cut its log.
        self.settings.kind.all_apply() || self.is_first() || self.membership().is_none()
    }

    fn makes_checkpoints(&self) -> bool {
        !self.settings.kind.all_apply()
    }

    fn judge_checkpoint(&self, from: NodeId, name: &CheckpointName, applied: EntryId) -> CheckpointFit {
        if self.configuration.as_ref().is_none_or(|known| known.first() != from) {
            // A former primary, which does not know it yet.
            return CheckpointFit::Drop;
        }
        self.checkpoint_fit(name.epoch, name.base, name.end, applied)
    }

    fn deadline(&self) -> Time {
        self.heartbeat_at
    }

    fn status(&self) -> CoreStatus {
        let peers = self.peers.iter().map(|(node, progress)| PeerStatus {
            node: *node,
            match_index: progress.match_index,
            heard_at: self.heard.get(node).copied(),
            needs_snapshot: matches!(progress.pace, Pace::Snapshot { .. }),
            disk_is_slow: false,
        });
        CoreStatus {
            node: self.node,
            role: self.role(),
            term: self.epoch(),
            leader: self.visible_first(),
            log_start: self.log.start(),
            last: self.log.last(),
            commit: self.commit,
            durable: self.out.durable(),
            log_bytes: self.log.size_bytes(),
            configuration: self.shown_members(),
            configuration_index: Index::ZERO,
            reads: self.settings.reads,
            peers: peers.collect(),
        }
    }

    fn digest_peers(&self) -> DigestPeers {
        let members: BTreeSet<_> = self.configuration.iter().flat_map(|known| &known.members).copied().collect();
        // Of two, neither is made the only copy because they differ.
        let majorities_of = if members.len() > 2 { vec![members.clone()] } else { Vec::new() };
        DigestPeers { members, majorities_of }
    }

    fn committed_from(&self, from: Index, entries_max: usize, bytes_max: usize) -> Vec<Entry> {
        self.log.committed_from(from, self.commit, entries_max, bytes_max)
    }

    fn log_bytes(&self) -> usize {
        self.log.size_bytes()
    }

    fn commit(&self) -> Index {
        self.commit
    }

    fn leader_heard(&self) -> Option<(Time, Index)> {
        let membership = self.membership().filter(|_| self.is_complete())?;
        // In a chain the entries and their fate come by the neighbour.
        let source = if self.is_chain() { membership.before(self.node)? } else { membership.first() };
        // A backup of a passive group is where some checkpoint was, and has the rest in its log.
        let goal = if self.applies() { self.commit } else { self.commit.min(Index(1)) };
        Some((*self.heard.get(&source)?, goal))
    }

    fn log_load(&self) -> LogLoad {
        LogLoad {
            new_bytes: self.log.bytes_after(self.log.snapshot().index),
            needed_bytes: self.log.bytes_after(self.needed_after()),
            returning: None,
        }
    }

    fn uncommitted_entries(&self) -> u64 {
        self.log.last().index.0.saturating_sub(self.commit.0)
    }

    fn message_size_bytes(message: &Message) -> usize {
        message.size_bytes()
    }

    fn is_bulk(message: &Message) -> bool {
        matches!(message.body, Body::Append { .. })
    }

    fn may_wait(_: &Message) -> bool {
        // A commit index is what members answer clients and reads by.
        false
    }

    fn configuration_at(&self, _: Index) -> (Configuration, Index) {
        // Not in the log: a snapshot of these kinds names none.
        (Configuration::default(), Index::ZERO)
    }
}

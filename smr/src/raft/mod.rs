//! The Raft core: agreement on a log among a majority, as a pure function of what happened.
//!
//! A [`Raft`] is told what happens ([`Input`]) and says what to do ([`Effects`]). It has no clock, thread, file,
//! socket, lock or global randomness, and iterates over ordered collections only; a lint keeps it so. Given the same
//! inputs it does the same, so every run can be replayed. [`crate::protocol`] lists the duties of its driver.
//!
//! # What it guarantees
//! As long as a majority of disks keeps what was synced: at most one leader per term; a leader's log contains all that
//! was committed before it; what is committed stays, in the same place, for ever, on everyone; and a read that is
//! answered has seen everything that was committed when it arrived. Whatever messages are lost, doubled, delayed or
//! overtaken, whoever crashes or pauses. As long as a majority can talk to each other in time, it makes progress.
//!
//! # Words
//! As in the paper: term, index, commit index, match and next index. *HardState*: term and vote. *Start*: the entry
//! that the log in memory begins after. *Up to date*: §5.4.1. *Pre-vote*: asking whether one would be elected, before
//! entering a term. *Bound*: by a lease, not to vote for a while. *Campaign*: a pre-vote or an election. *Round*:
//! heartbeats that confirm reads. *Transfer*: of leadership, where no snapshot is spoken of. *To track* a peer: to
//! begin to count its progress. T: the election timeout.
//!
//! # Messages
//! | message | from → to | answer | rests on |
//! |---|---|---|---|
//! | `PreVote` | pre-candidate → voters | `PreVoteGranted`, `PreVoteRefused` | nothing |
//! | `Vote` | candidate → voters | `VoteGranted`, `VoteRefused` | own term and vote |
//! | `VoteGranted` | voter → candidate | | the vote |
//! | `Append` | leader → members | `AppendAccepted`, `AppendRejected` | the term |
//! | `AppendAccepted` | member → leader | | the entries, and all writes before them |
//! | `Heartbeat` | leader → members | `HeartbeatAck` | the term |
//! | `Commit` | leader → members with nothing in flight | | the term |
//! | `StaleTerm` | anyone → leader of an older term | | the term |
//! | `TimeoutNow` | leader → its successor | `Vote` to all | the term |
//! | `SnapshotInstalled` | member → leader | | the snapshot in its place |
//! | `Healing` | member that lost entries → leader | `HealingHeard` | the term |
//! | `AppendStored` | member that lost entries → leader | | the entries, and all writes before them |
//!
//! "Rests on": what must be durable before the message leaves. `core_kit::outbox` enforces it for everyone.
//!
//! # The paper, and where it is
//! | section | what | where |
//! |---|---|---|
//! | §5.1 | terms | [`Raft::receive`] |
//! | §5.2 | elections | [`candidate`], [`voter`], timers in [`follower`] |
//! | §5.3 | replication, consistency check, fast back-up | [`follower`], [`replicate`], [`progress`] |
//! | §5.4.1 | who may be elected | [`voter`] |
//! | §5.4.2 | commit only by the own term | [`leader`] |
//! | §6 | membership, joint | [`membership`], [`leader`] |
//! | §7 | snapshots | [`snapshot`], `core_kit::log` |
//! | §8 | first entry of a term | [`leader`] |
//! | thesis §3.10 | transfer of leadership | [`leader`] |
//! | thesis §4.2.3, §6.2, §9.6 | disruptive servers, check-quorum, pre-vote | [`voter`], [`leader`], [`candidate`] |
//! | thesis §6.4 | reads without the log | [`read`] |
//! | thesis §6.4.1 | leases for reads | [`lease`] |
//! | thesis §10.2 | parallel disk writes, pipelines | `core_kit::outbox`, [`progress`] |
//! | (ours) | damage that heals | [`healing`] |
//!
//! # Left out
//! - Reads at followers (thesis §6.4, last paragraph): a client that asks a follower is sent to the leader.
//! - Batching of proposals by time: the driver batches by what is waiting (thesis §10.2.2 has both).
//! - Quiescence: an idle group still exchanges heartbeats.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod invariants;
pub mod message;
pub mod quorum;

mod candidate;
pub(crate) mod canonical;
mod control;
mod disk_lag;
mod follower;
mod healing;
mod leader;
mod lease;
mod membership;
mod output;
mod progress;
mod read;
mod replicate;
mod settings;
mod snapshot;
mod voter;

use std::collections::{BTreeMap, BTreeSet};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;

use self::disk_lag::DiskLag;
use self::healing::Healing;
use self::leader::LeadershipTransfer;
use self::lease::LeaseState;
use self::membership::Configurations;
use self::message::Body;
use self::progress::{Pace, Progress};
use self::read::Reads;
use crate::core_kit::log::Log;
use crate::core_kit::outbox::Outbox;
use crate::entry::{Configuration, Entry, EntryId, HardState, Index, Payload, SnapshotMeta, Term};
use crate::id::NodeId;
use crate::protocol::{
    CoreStatus, DigestPeers, Effects, Event, Input, LogLoad, NotHere, PeerStatus, Protocol, ReadToken, Recovered,
    Route, Routing, Superseded, Time, WriteId,
};
use crate::status;

pub use self::control::{Change, ChangeRefused, Control, TransferRefused};
pub use self::message::{LEASE_MAX_US, Message};
pub use self::settings::{BadSettings, CLOCK_DRIFT_MAX_PERMILLE, CLOCK_DRIFT_PERMILLE, MEMBERS_MAX, Settings};

/// One member's Raft. See the module.
#[derive(Clone, Debug)]
pub struct Raft {
    settings: Settings,
    node: NodeId,
    rng: ChaCha8Rng,
    now: Time,
    /// Term and vote, as of now; [`Outbox`] knows whether they are durable.
    hard_state: HardState,
    log: Log,
    configurations: Configurations,
    /// The last entry known to be committed. Between the snapshot and the log's end.
    commit: Index,
    /// Every member was known to have the log up to here: by leaders that this node heard, or as one.
    held_by_all: Index,
    role: Role,
    leader: Leadership,
    /// The election timeout that is being waited for, in microseconds; in [T, 2T), redrawn whenever it has passed.
    timeout_us: u64,
    pre_vote_backoff: Option<PreVoteBackoff>,
    /// Until then this node is bound by a lease that it granted.
    bound_until: Time,
    /// Whether its own disk keeps up with the group.
    disk_lag: DiskLag,
    /// It lacks entries that it may have acknowledged, and is silent.
    healing: Option<Healing>,
    out: Outbox<Message>,
}

/// The part that a node plays. Whether a follower votes is not part of it: that is what the configuration says, and
/// saying it twice would be one time too many (M11).
#[derive(Clone, Debug)]
enum Role {
    Follower(Follower),
    PreCandidate(PreCandidate),
    Candidate(Candidate),
    Leader(Box<Leader>),
}

#[derive(Clone, Debug)]
struct Follower {
    /// When the leader is taken for lost.
    election_at: Time,
    /// When to campaign before that, because the leader's connection broke.
    campaign_at: Option<Time>,
}

impl Follower {
    fn due_at(&self) -> Time {
        self.campaign_at.map_or(self.election_at, |at| at.min(self.election_at))
    }
}

/// Asks whether it would be elected in the next term. Still in its old one.
#[derive(Clone, Debug)]
struct PreCandidate {
    /// Tells this campaign from earlier ones.
    campaign: u32,
    granted: BTreeSet<NodeId>,
    refused: BTreeSet<NodeId>,
    asked_at: Time,
    retry_at: Time,
}

/// Asks for votes in its term.
#[derive(Clone, Debug)]
struct Candidate {
    granted: BTreeSet<NodeId>,
    /// The write with its own vote, which counts when that is durable.
    own_vote: WriteId,
    retry_at: Time,
}

#[derive(Clone, Debug)]
struct Leader {
    /// All members but itself, and those that have just left until they could know it.
    peers: BTreeMap<NodeId, Progress>,
    reads: Reads,
    lease_state: LeaseState,
    transfer: Option<LeadershipTransfer>,
    heartbeat_at: Time,
}

/// What is known of the present term's leader.
#[derive(Clone, Debug, Default)]
struct Leadership {
    /// Who it is. Never changes in a term once known, not even when it steps down.
    node: Option<NodeId>,
    /// When it was last heard; `None` for itself.
    heard_at: Option<Time>,
    /// When its connection broke, if nothing was heard since.
    lost_at: Option<Time>,
    /// The highest commit index that it has named. It may be higher than that of this node, which lacks entries then.
    commit: Index,
    /// Whether clients may still be sent there: not once this node lost the connection, campaigned, or stepped down.
    believed: bool,
}

/// A pre-vote granted a moment ago: others wait.
#[derive(Clone, Debug)]
struct PreVoteBackoff {
    granted_to: NodeId,
    /// The end of its log.
    last: EntryId,
    until: Time,
}

impl Raft {
    /// A node as it comes back from its disk, or starts for the first time.
    ///
    /// # Panics
    /// If the settings are invalid, or the recovered log has a hole or is of another kind: its storage must have
    /// checked that.
    pub fn new(settings: Settings, node: NodeId, recovered: Recovered, rng: ChaCha8Rng, now: Time) -> Raft {
        settings.validate().unwrap_or_else(|error| panic!("{error}"));
        let Recovered { stored, snapshot, entries, heals_past } = recovered;
        let mut hard_state = stored.hard_state();
        let mut log = Log::new(snapshot.last);
        let mut configurations = Configurations::new(&snapshot);
        for entry in entries.into_iter().filter(|entry| entry.id.index > snapshot.last.index) {
            if let Payload::Configuration(configuration) = &entry.payload {
                configurations.append(entry.id.index, configuration.clone());
            }
            log.append(entry);
        }
        // A founding member has entry 1 of term 1 before it ever saved a hard state. The entry's term is as good.
        if log.last().term > hard_state.term {
            hard_state = HardState { term: log.last().term, vote: None, ..hard_state };
        }
        let commit = snapshot.last.index;
        let out = Outbox::new(log.last().index);
        let mut raft = Raft {
            timeout_us: settings.election_timeout_us,
            settings,
            node,
            rng,
            now,
            hard_state,
            log,
            configurations,
            commit,
            held_by_all: Index::ZERO,
            role: Role::Follower(Follower { election_at: now, campaign_at: None }),
            leader: Leadership::default(),
            pre_vote_backoff: None,
            // It may have granted one right before it ended (E17).
            bound_until: now.plus_us(hard_state.lease_us),
            disk_lag: DiskLag::default(),
            healing: None,
            out,
        };
        raft.healing = heals_past.map(|past| Healing::new(raft.rng.next_u64(), past));
        raft.timeout_us = raft.draw_timeout_us();
        // The only voter need not wait for others to speak first.
        let alone = quorum::is_quorum(raft.configurations.current(), |voter| voter == node);
        if !alone {
            raft.restart_election_timer();
        }
        raft
    }

    /// Something arrived. In this order: is it sound, is it of our term, is it for our role (§5.1).
    fn receive(&mut self, from: NodeId, message: Message) {
        if from == self.node {
            self.violation(from, "a message from oneself".to_owned());
            return;
        }
        if let Err(violation) = message.validate() {
            self.violation(from, violation);
            return;
        }
        let Message { term, body } = message;
        match body {
            // Questions of candidates are answered whoever asks: the asker may be in a configuration that this node has
            // not seen yet (§6, E15).
            Body::PreVote { campaign, last } => self.receive_pre_vote(from, term, campaign, last),
            Body::Vote { last, transfer } => self.receive_vote(from, term, last, transfer),
            // A leader is believed for the same reason.
            Body::Append { .. }
            | Body::Heartbeat { .. }
            | Body::Commit { .. }
            | Body::TimeoutNow
            | Body::HealingHeard { .. } => {
                self.receive_from_leader(from, Message { term, body });
            }
            // Answers count only from those who could have been asked; in particular not from an earlier incarnation
            // (M7).
            _ if !self.may_answer(from) => {}
            Body::PreVoteGranted { campaign } => self.receive_pre_vote_granted(from, term, campaign),
            Body::PreVoteRefused { campaign } => self.receive_pre_vote_refused(from, term, campaign),
            Body::VoteRefused | Body::StaleTerm => self.receive_later_term(term, &body),
            // The remaining answers repeat the term of the question.
            _ if term > self.hard_state.term => {
                let what = format!("an answer in {term:?} to a question that was never asked");
                self.violation(from, what);
            }
            _ if term < self.hard_state.term => {}
            Body::VoteGranted => self.receive_vote_granted(from),
            Body::AppendAccepted { .. }
            | Body::AppendRejected { .. }
            | Body::HeartbeatAck { .. }
            | Body::SnapshotInstalled { .. }
            | Body::Healing { .. }
            | Body::AppendStored { .. } => self.receive_from_member(from, body),
        }
    }

    fn receive_from_leader(&mut self, from: NodeId, message: Message) {
        let Message { term, body } = message;
        if term < self.hard_state.term {
            // Nothing else would tell it: candidates that it does not hear cannot depose it.
            if matches!(body, Body::Append { .. } | Body::Heartbeat { .. }) {
                self.out.send(from, self.hard_state.term, Body::StaleTerm);
            }
            return;
        }
        if term > self.hard_state.term {
            self.enter_term(term);
        }
        if !self.follow(from) {
            let other = self.leader.node.map_or_else(|| "unknown".to_owned(), |leader| leader.to_string());
            self.contradicted(from, format!("term {term} has two leaders, {other} and {from}"));
            return;
        }
        if let Body::Append { commit, .. }
        | Body::Heartbeat { commit: EntryId { index: commit, .. }, .. }
        | Body::Commit { last: EntryId { index: commit, .. } } = &body
        {
            self.leader.commit = self.leader.commit.max(*commit);
        }
        match body {
            Body::Append { previous, entries, commit } => self.receive_append(from, previous, entries, commit),
            Body::Heartbeat { round, commit, held_by_all, lease } => {
                self.receive_commit(from, commit);
                // What all have durably they keep, whoever leads later.
                self.held_by_all = self.held_by_all.max(held_by_all);
                self.look_at_disk();
                self.answer_heartbeat(from, round, lease);
            }
            Body::Commit { last } => self.receive_commit(from, last),
            Body::TimeoutNow => self.receive_timeout_now(),
            Body::HealingHeard { start, last } => self.receive_healing_heard(start, last),
            _ => {}
        }
    }

    fn receive_from_member(&mut self, from: NodeId, body: Body) {
        if !matches!(self.role, Role::Leader(_)) {
            return;
        }
        let violation = match body {
            Body::AppendAccepted { last } => {
                self.receive_append_accepted(from, last);
                None
            }
            Body::HeartbeatAck { round, lease } => self.receive_heartbeat_ack(from, round, lease),
            Body::AppendRejected { previous, hint } => {
                self.receive_append_rejected(from, previous, hint);
                None
            }
            Body::SnapshotInstalled { last } => {
                self.receive_snapshot_installed(from, last);
                None
            }
            Body::Healing { start } => {
                self.receive_healing(from, start);
                None
            }
            Body::AppendStored { start, last } => {
                self.receive_append_stored(from, start, last);
                None
            }
            _ => None,
        };
        if let Some(violation) = violation {
            self.violation(from, violation);
        }
    }

    /// Someone that was asked is in a later term: that is news to candidates and leaders, who asked.
    fn receive_later_term(&mut self, term: Term, body: &Body) {
        let asked = match body {
            Body::VoteRefused => matches!(self.role, Role::Candidate(_)),
            _ => matches!(self.role, Role::Leader(_)),
        };
        if asked && term > self.hard_state.term {
            self.enter_term(term);
        }
    }

    fn may_answer(&self, node: NodeId) -> bool {
        let kept = matches!(&self.role, Role::Leader(leader) if leader.peers.contains_key(&node));
        kept || self.configurations.current().is_member(node)
    }

    /// A member contradicts what is durable: someone has lost something (see [`Event::LossProven`]). From anyone else
    /// it is a violation of the protocol.
    fn contradicted(&mut self, from: NodeId, what: String) {
        let is_member = |configuration: &Configuration| configuration.is_member(from);
        let history = [Some(self.configurations.current()), self.configurations.previous()];
        if history.into_iter().flatten().any(is_member) {
            self.out.effects.events.push(Event::LossProven { what });
        } else {
            self.violation(from, what);
        }
    }

    fn violation(&mut self, from: NodeId, what: String) {
        self.out.effects.events.push(Event::ProtocolViolation { from, what });
    }

    /// Changes term or vote, here and on disk.
    ///
    /// # Panics
    /// If the term falls, or a vote given in it changes (I2).
    fn set_hard_state(&mut self, hard_state: HardState) {
        let own = self.hard_state;
        assert!(
            hard_state.lease_us == own.lease_us
                && (hard_state.term > own.term || (hard_state.term == own.term && own.vote.is_none())),
            "hard state {own:?} replaced by {hard_state:?}"
        );
        if hard_state.term > own.term {
            self.leader = Leadership::default();
            self.pre_vote_backoff = None;
            self.healing.iter_mut().for_each(Healing::begin_term);
        }
        self.hard_state = hard_state;
        self.out.hard_state(hard_state);
    }

    /// Everything up to `index` is committed.
    fn advance_commit(&mut self, index: Index) {
        if index <= self.commit {
            return;
        }
        assert!(index <= self.log.last().index, "commit {index} after the last entry {}", self.log.last());
        self.commit = index;
    }

    /// The limits and intervals that it runs with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The last entry known to be committed.
    fn committed_id(&self) -> EntryId {
        self.log.id_at(self.commit).unwrap_or_else(|| {
            panic!("commit {} outside of the log from {} to {}", self.commit, self.log.start(), self.log.last())
        })
    }

    /// Who leads, if that is known and still believed.
    fn visible_leader(&self) -> Option<NodeId> {
        match &self.role {
            Role::Leader(_) | Role::Follower(_) => self.leader.node.filter(|_| self.leader.believed),
            Role::PreCandidate(_) | Role::Candidate(_) => None,
        }
    }

    /// Its part. A follower that does not vote is a learner.
    pub fn role(&self) -> status::Role {
        match &self.role {
            Role::Leader(_) => status::Role::Leader,
            Role::PreCandidate(_) | Role::Candidate(_) => status::Role::Candidate,
            Role::Follower(_) if self.configurations.current().is_voter(self.node) => status::Role::Follower,
            Role::Follower(_) => status::Role::Learner,
        }
    }

    /// A number in [0, `below`), from the generator that was passed in. The bias of the remainder is of no importance.
    fn draw_us(&mut self, below: u64) -> u64 {
        self.rng.next_u64() % below
    }

    fn draw_timeout_us(&mut self) -> u64 {
        self.settings.election_timeout_us + self.draw_us(self.settings.election_timeout_us)
    }
}

impl Raft {
    /// Does one thing, and what follows from any: the only way in.
    fn act<T>(&mut self, now: Time, effects: &mut Effects<Message>, act: impl FnOnce(&mut Raft) -> T) -> T {
        self.now = self.now.max(now);
        let before = (self.role(), self.hard_state.term, self.visible_leader());
        let answer = act(self);
        self.announce_commit();
        self.heal_if_complete();
        let after = (self.role(), self.hard_state.term, self.visible_leader());
        if before != after {
            let (role, term, leader) = after;
            self.out.effects.events.push(Event::RoleChanged { role, term, leader });
        }
        effects.extend(self.out.finish(self.now, self.log.last().index));
        answer
    }

    fn take_in(&mut self, input: Input<Message>) {
        match input {
            Input::Tick => {
                self.tick_leader();
                self.tick_voter();
            }
            Input::Receive { from, message } => self.receive(from, message),
            Input::Durable(write) => {
                self.out.complete(write);
                self.count_own_vote(write);
                self.commit_replicated();
            }
            Input::Disconnected(node) => self.disconnected(node),
            Input::SnapshotTaken(last) => self.snapshot_taken(last),
            Input::SnapshotSent { to, last } => self.snapshot_sent(to, last),
            Input::SnapshotProgress(to) => self.snapshot_progress(to),
            // Its members agree by themselves on who they are.
            Input::Connected(_) | Input::Configured(_) | Input::LeaseGranted { .. } | Input::Join { .. } => {}
        }
    }
}

impl Protocol for Raft {
    type Message = Message;

    fn step(&mut self, now: Time, input: Input<Message>) -> Effects<Message> {
        let mut effects = Effects::default();
        self.act(now, &mut effects, |raft| raft.take_in(input));
        effects
    }

    fn propose(
        &mut self,
        now: Time,
        commands: Vec<bytes::Bytes>,
        effects: &mut Effects<Message>,
    ) -> Result<EntryId, NotHere> {
        self.act(now, effects, |raft| raft.append_commands(commands))
    }

    fn read(&mut self, now: Time, token: ReadToken, effects: &mut Effects<Message>) -> Result<(), NotHere> {
        self.act(now, effects, |raft| raft.take_read(token))
    }

    fn install(
        &mut self,
        now: Time,
        snapshot: &SnapshotMeta,
        effects: &mut Effects<Message>,
    ) -> Result<(), Superseded> {
        self.act(now, effects, |raft| raft.snapshot_received(snapshot))
    }

    fn routing(&self) -> Routing {
        let leader = match &self.role {
            Role::Leader(_) => Route::Here,
            _ => Route::There(self.visible_leader().map(|leader| leader.name)),
        };
        // What waits here was proposed here, and has its answer when it is applied, whoever leads by then.
        Routing { term: self.hard_state.term, writes: leader, reads: leader, answers: Route::Here }
    }

    fn deadline(&self) -> Time {
        match &self.role {
            Role::Follower(follower) => follower.due_at(),
            Role::PreCandidate(pre) => pre.retry_at,
            Role::Candidate(candidate) => candidate.retry_at,
            Role::Leader(leader) => {
                let transfer = leader.transfer.as_ref().map(|transfer| transfer.deadline);
                transfer.map_or(leader.heartbeat_at, |deadline| deadline.min(leader.heartbeat_at))
            }
        }
    }

    fn status(&self) -> CoreStatus {
        let peers = match &self.role {
            Role::Leader(leader) => leader.peers.iter().map(|(node, progress)| peer_status(*node, progress)).collect(),
            Role::Follower(_) | Role::PreCandidate(_) | Role::Candidate(_) => Vec::new(),
        };
        CoreStatus {
            node: self.node,
            role: self.role(),
            term: self.hard_state.term,
            leader: self.visible_leader(),
            log_start: self.log.start(),
            last: self.log.last(),
            commit: self.commit,
            durable: self.out.durable(),
            log_bytes: self.log.size_bytes(),
            configuration: self.configurations.current().clone(),
            configuration_index: self.configurations.current_index(),
            reads: self.settings.reads,
            peers,
        }
    }

    fn digest_peers(&self) -> DigestPeers {
        DigestPeers::from(self.configurations.current())
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
        Some((self.leader.heard_at?, self.leader.commit))
    }

    fn disk_is_slow(&self) -> bool {
        self.disk_lag.is_slow()
    }

    fn held_by(&self, member: NodeId) -> Option<Index> {
        let Role::Leader(leader) = &self.role else { return None };
        leader.peers.get(&member).map(|progress| progress.match_index)
    }

    fn entry_at(&self, index: Index) -> Option<EntryId> {
        self.log.id_at(index)
    }

    fn log_load(&self) -> LogLoad {
        self.describe_log()
    }

    fn uncommitted_entries(&self) -> u64 {
        self.log.last().index.0.saturating_sub(self.commit.0)
    }

    fn message_size_bytes(message: &Message) -> usize {
        message.size_bytes()
    }

    fn is_bulk(message: &Message) -> bool {
        // Also those without entries: a probe that overtakes the entries before it is rejected for nothing.
        matches!(message.body, Body::Append { .. })
    }

    fn may_wait(message: &Message) -> bool {
        // The next heartbeat says the same. In a group at work the next append is there long before.
        matches!(message.body, Body::Commit { .. })
    }

    fn configuration_at(&self, index: Index) -> (Configuration, Index) {
        self.configuration_for_snapshot(index)
    }
}

fn peer_status(node: NodeId, progress: &Progress) -> PeerStatus {
    PeerStatus {
        node,
        match_index: progress.match_index,
        heard_at: progress.heard_at,
        needs_snapshot: matches!(progress.pace, Pace::Snapshot(_)),
        disk_is_slow: progress.disk_lag.is_slow(),
    }
}

//! The replica's logic: core, sessions and state machine as one value without threads, clocks or sockets.
//!
//! [`Engine`] takes what happens (requests, messages, completed writes, time) and answers requests through their
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
//! committed is applied a portion at a time ([`backlog`]). In groups whose clients send to all members a write that
//! another one orders is kept until it is applied ([`kept`]).

mod actions;
mod admission;
mod audit;
mod backlog;
mod checkpoints;
mod kept;
mod limits;
mod members;
mod operators;
mod requests;
mod service;
mod snapshots;
mod timings;
pub(in crate::replica) mod versions;
mod waiting;

use std::collections::BTreeMap;

use self::audit::Audit;
use self::backlog::ConfirmedReads;
use self::checkpoints::Checkpoints;
use self::kept::KeptWrites;
use self::operators::OperatorRequests;
use self::requests::PendingRead;
use self::service::ServiceTalk;
use self::timings::Timings;
use self::waiting::WaitingWrites;
use crate::entry::{Configuration, Entry, EntryId, Index, Payload, Term};
use crate::id::{GroupName, NodeId, ReplicaId};
use crate::protocol::{Effects, Event, Input, Protocol, ReadToken, StandDown, Time, WriteId};
use crate::replica::Tuning;
use crate::replica::admin::{Admin, AdminContext};
use crate::replica::engine::admission::Admission;
use crate::replica::{Outcome, ReplyTo};
use crate::session::{Addresses, SessionCommand, SessionTable};
use crate::state_machine::StateMachine;
use crate::status::{Advertised, EntryTimings, ReplicaStatus, Role, ServiceState, TimedEntry};
use crate::version::CommandVersions;

pub use self::actions::{Action, Install, Replaced, SnapshotImage};
pub use self::admission::{
    LOG_LIMITS, LOG_MAX_BYTES, LogLimits, SNAPSHOT_LOG_MAX_BYTES, SNAPSHOT_LOG_MIN_BYTES, SNAPSHOT_LOG_SMALL_BYTES,
};
pub use self::audit::DIGEST_EVERY_ENTRIES;
pub use self::backlog::{
    ANSWERS_PER_TURN_MAX_BYTES, APPLY_ENTRIES_MAX, APPLY_MAX_BYTES, Portion, WORK_PER_TURN_MAX_US, Worked,
};
pub use self::checkpoints::{
    BuildCheckpoint, BuiltCheckpoint, CHECKPOINT_MAX_BYTES, CHECKPOINT_PIECE_MAX_BYTES, CheckpointPiece, MakeCheckpoint,
};
pub use self::kept::{
    FORWARD_AFTER_US, FORWARD_AGAIN_MAX_US, FORWARD_MAX_BYTES, ForwardedWrite, KEPT_FOR_US, KEPT_MAX, KEPT_MAX_BYTES,
};
pub use self::limits::{
    BUSY_RETRY_MS, COMMAND_MAX_BYTES, LOG_FREEING_BYTES, READS_WAITING_MAX, UNCOMMITTED_ENTRIES_MAX,
};
pub use self::versions::BEFORE_UPGRADE;
pub use self::waiting::{WRITES_WAITING_MAX, WRITES_WAITING_MAX_BYTES};

/// Up to this many answers of one turn are passed on by the replica's own thread; more of them are left to the
/// connections' tasks.
const ANSWERS_NOW_MAX: usize = 2;

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
    checkpoints: Checkpoints<S>,
    waiting: WaitingWrites,
    kept: KeptWrites,
    next_read_token: u64,
    reads: BTreeMap<ReadToken, Vec<PendingRead>>,
    confirmed_reads: ConfirmedReads,
    reads_waiting: usize,
    admin: Box<dyn Admin<P>>,
    operators: OperatorRequests,
    counts: Counts,
    /// See [`EngineStart`].
    nonce_seed: u64,
    nonces_drawn: u64,
    /// It has put itself into quarantine, or stopped for good.
    silent: bool,
    /// What the builds of other nodes apply, as they said when they were met; of each replica the node met last.
    applied_by: BTreeMap<ReplicaId, (NodeId, CommandVersions)>,
    /// See [`Engine::disk_is_full`].
    disk_is_full: bool,
    /// There was no room for the latest snapshot: when to try again.
    snapshot_waits_for_room: Option<Time>,
    timings: Timings,
    service_talk: ServiceTalk,
    actions: Vec<Action<P, S>>,
    /// Answers that leave at the end of the turn.
    answers: Vec<(ReplyTo, Outcome)>,
    answers_bytes: usize,
}

/// What an engine counts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// In how many terms it was a candidate. To ask whether to ask for votes (the pre-vote) begins no term.
    pub elections: u64,
    /// In how many terms it became the leader.
    pub elections_won: u64,
    /// Messages that no sound peer sends.
    pub violations: u64,
    /// The term in which it was seen last.
    term: Option<Term>,
    /// The last term in which it stood for election, and the last one that it led.
    stood_in: Option<Term>,
    led: Option<Term>,
}

impl Counts {
    /// Whoever is seen as a candidate when a term begins has begun it; so has its leader, who may have been elected
    /// within one step. In the term in which it was before, a candidate only asks whether to ask.
    fn role_changed(&mut self, role: Role, term: Term) {
        let begins = self.term.replace(term).is_some_and(|before| before < term);
        let stands = role == Role::Leader || (role == Role::Candidate && begins);
        if stands && self.stood_in.replace(term) != Some(term) {
            self.elections += 1;
        }
        if role == Role::Leader && self.led.replace(term) != Some(term) {
            self.elections_won += 1;
        }
    }

    /// What was counted since `before`, which was this at that time.
    pub fn since(&self, before: &Counts) -> [u64; 3] {
        [
            self.elections - before.elections,
            self.elections_won - before.elections_won,
            self.violations - before.violations,
        ]
    }
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
            checkpoints: Checkpoints::default(),
            waiting: WaitingWrites::default(),
            kept: KeptWrites::default(),
            next_read_token: 1,
            reads: BTreeMap::new(),
            confirmed_reads: ConfirmedReads::default(),
            reads_waiting: 0,
            admin: start.admin,
            operators: OperatorRequests::default(),
            counts: Counts::default(),
            nonce_seed: start.nonce_seed,
            nonces_drawn: 0,
            silent: false,
            applied_by: BTreeMap::new(),
            disk_is_full: false,
            snapshot_waits_for_room: None,
            timings: Timings::default(),
            service_talk: ServiceTalk::default(),
            actions: Vec::new(),
            answers: Vec::new(),
            answers_bytes: 0,
        }
    }

    /// What is to be done since the last call, in order. The answers of the turn leave here.
    pub fn take_actions(&mut self) -> Vec<Action<P, S>> {
        self.timings.turn_ends(self.core.commit(), self.applied.index);
        if self.core.keeps_writes() {
            self.look_at_readiness();
        }
        self.talk_if_due();
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
        let own = [self.admin.next_tick(), self.kept.look_at(), self.operators.look_at()].into_iter().flatten();
        own.fold(core, Time::min)
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

    /// How often it stood for election and led since it began, and what it dropped.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// The length of the newest snapshot's file, in bytes.
    pub fn snapshot_len_bytes(&self) -> u64 {
        self.snapshot_len_bytes
    }

    /// The session table, to look at.
    pub fn sessions(&self) -> &SessionTable {
        &self.sessions
    }

    /// How many requests wait for their outcome.
    pub fn requests_waiting(&self) -> usize {
        self.waiting.len() + self.kept.len() + self.reads_waiting + self.operators.len() + self.admin.waiting()
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Time) {
        if self.silent {
            return;
        }
        self.service_talk.note_due();
        self.step(now, Input::Tick);
        if self.snapshot_waits_for_room.is_some_and(|at| at <= now) && !self.snapshot_under_way {
            self.take_snapshot();
        }
        if self.kept_are_due(now) {
            self.look_at_kept(now);
        }
        if self.admin.next_tick().is_some_and(|at| at <= now) {
            self.with_admin(now, |admin, context| admin.tick(context));
        }
        self.begin_confirmed(now);
    }

    /// A message arrived.
    pub fn receive(&mut self, now: Time, from: NodeId, message: P::Message) {
        if let Some(replaced) = self.replaced(from) {
            self.actions.push(Action::SendReplaced(from, replaced));
        }
        self.step(now, Input::Receive { from, message });
        if self.takes_writes
            && let Some(through) = self.core.held_by(from)
        {
            self.timings.held(from, through);
        }
    }

    /// The writes up to this one have reached the device.
    pub fn durable(&mut self, now: Time, id: WriteId) {
        self.timings.is_now(now);
        self.timings.durable(id);
        self.step(now, Input::Durable(id));
    }

    /// The connection from this node was closed by its side.
    pub fn disconnected(&mut self, now: Time, node: NodeId) {
        self.step(now, Input::Disconnected(node));
    }

    /// Whether something that an operator asked for is under way: then it counts who is connected.
    pub fn looks_after_members(&self) -> bool {
        self.operators.len() + self.admin.waiting() > 0
    }

    /// This incarnation was met; it may be no member.
    pub fn met(&mut self, now: Time, node: NodeId) {
        self.admin.met(now, node);
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

    /// The process is about to end in an orderly way: if others should take over before that, it is begun, and this is
    /// true.
    #[must_use]
    pub fn hand_over(&mut self, now: Time) -> bool {
        self.with_admin(now, |admin, context| admin.hand_over(context))
    }

    /// Goes by other limits from now on.
    pub fn tune(&mut self, now: Time, tuning: &Tuning) {
        self.log_limits.snapshot_bytes = LogLimits::snapshot_bytes_up_to(tuning.snapshot_log_max_bytes);
        self.with_admin(now, |admin, context| admin.tune(context, tuning));
    }

    fn with_admin<T>(&mut self, now: Time, act: impl FnOnce(&mut dyn Admin<P>, AdminContext<'_, P>) -> T) -> T {
        let (mut effects, mut lines) = (Effects::default(), Vec::new());
        let mut moves = None;
        let addresses_are_fixed =
            self.is_applied_everywhere(&SessionCommand::Addresses { addresses: Addresses::new() }).err();
        let context = AdminContext {
            now,
            core: &mut self.core,
            effects: &mut effects,
            addresses: self.sessions.addresses(),
            addresses_are_fixed,
            moves: &mut moves,
            lines: &mut lines,
        };
        let answer = act(self.admin.as_mut(), context);
        if let Some(addresses) = moves {
            let command = SessionCommand::Addresses { addresses }.encode();
            // Should it come to nothing, it is proposed again.
            let _ = self.core.propose(now, vec![command], &mut effects);
        }
        lines.into_iter().for_each(|line| self.report(line));
        self.absorb(effects);
        answer
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

    /// When an entry got how far here, by this replica's own clock. A write of a session is known by its number where
    /// it was proposed; `None` if it was not, or too long ago.
    pub fn timings(&self, which: TimedEntry) -> Option<EntryTimings> {
        let entry = match which {
            TimedEntry::Entry(entry) => entry,
            TimedEntry::Write { client, number } => self.timings.entry_of(client, number)?,
        };
        let (_, members) = &self.members;
        let voters = if members.is_joint() { Vec::new() } else { members.voters.iter().copied().collect() };
        (self.core.entry_at(entry.index) == Some(entry)).then(|| self.timings.of(self.node, entry, voters))
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
        self.fail_all_writes();
        self.fail_reads();
        let mut lines = Vec::new();
        self.admin.stop(&mut lines);
        lines.into_iter().for_each(|line| self.report(line));
    }

    fn step(&mut self, now: Time, input: Input<P::Message>) {
        if self.silent {
            return;
        }
        self.timings.is_now(now);
        self.service_talk.is_now(now);
        let effects = self.core.step(now, input);
        self.absorb(effects);
        self.look_at_checkpoint();
    }

    fn absorb(&mut self, mut effects: Effects<P::Message>) {
        let ends = |event: &Event| matches!(event, Event::Forgot { .. } | Event::LossProven { .. });
        if let Some(at) = effects.events.iter().position(ends) {
            // Nothing of this step leaves, not even an answer that rests on nothing.
            let event = effects.events.swap_remove(at);
            return self.note(event);
        }
        self.actions.extend(effects.messages.into_iter().map(Action::Send));
        effects.writes.iter().for_each(|write| self.timings.issued(write));
        effects.writes.iter().for_each(|write| self.kept.log_changes(write));
        self.actions.extend(effects.writes.into_iter().map(Action::Write));
        self.actions.extend(effects.snapshots_wanted.into_iter().map(Action::SendSnapshot));
        for read in effects.reads {
            self.read_outcome(read);
        }
        for event in effects.events {
            self.note(event);
        }
        self.service_talk.report(effects.reports);
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
        let kept = match &command {
            Some((SessionCommand::Write { client, number, .. }, _)) if self.kept.len() > 0 => Some((*client, *number)),
            _ => None,
        };
        let outcome = match &entry.payload {
            Payload::Noop => None,
            Payload::Configuration(configuration) => {
                self.members_changed(index, configuration.clone());
                None
            }
            Payload::Command(_) => {
                let state = &mut self.state;
                command.map(|(command, versions)| {
                    self.sessions.open_versions_to(versions);
                    if let SessionCommand::Addresses { addresses } = &command {
                        self.actions.push(Action::SetAddresses(addresses.clone()));
                    }
                    self.sessions.apply(index, &command, |command| state.apply(index, command))
                })
            }
        };
        self.state.passed(index);
        if let Some((id, reply, copies)) = self.waiting.applied(index) {
            // Another leader's entry in its place says nothing about it.
            let is_told_here = id.term == entry.id.term && self.core.routing().answers.is_here();
            let outcome = outcome.filter(|_| is_told_here).unwrap_or(Outcome::Unknown);
            for copy in copies {
                self.leave(copy, outcome.clone());
            }
            self.leave(reply, outcome);
        }
        if let Some(name) = kept {
            self.answer_kept(name);
        }
        if self.audit.begins_at(index) {
            let image = self.image();
            self.actions.push(Action::TakeDigest(Box::new(image)));
            self.take_checkpoint_for_digest();
        }
    }

    fn note(&mut self, event: Event) {
        match event {
            Event::RoleChanged { role, term, leader } => {
                self.checkpoints.begin_epoch(term);
                self.kept.all_due();
                self.routing_changed();
                self.counts.role_changed(role, term);
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
            Event::StandsDown { cause } => self.report(match cause {
                StandDown::QuorumSilent { for_us } => format!(
                    "replica {} stands down: no majority has answered for {} ms",
                    self.node.name,
                    for_us / 1_000
                ),
                StandDown::DiskStalled { for_us, successor } => format!(
                    "replica {} stands down for {}: its disk has not finished a write for {} ms",
                    self.node.name,
                    successor.name,
                    for_us / 1_000
                ),
            }),
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
            Event::CheckpointDue { epoch, end } => self.checkpoint_due(epoch, end),
            Event::LossProven { what } => self.quarantine(format!("{}{what}", crate::status::LOSS_PROVEN)),
            Event::ProtocolViolation { from, what } => {
                self.counts.violations += 1;
                // A peer with a bug may go on for ever; the lines about it become rare.
                if self.counts.violations.is_power_of_two() {
                    let count = self.counts.violations;
                    self.report(format!("dropped a message of replica {from}: {what} ({count} such messages so far)"));
                }
            }
        }
    }

    fn routing_changed(&mut self) {
        let routing = self.core.routing();
        let took_writes = std::mem::replace(&mut self.takes_writes, routing.writes.is_here());
        let took_reads = std::mem::replace(&mut self.takes_reads, routing.reads.is_here());
        if took_writes != self.takes_writes {
            self.timings.forget_others();
        }
        if took_writes && !self.takes_writes {
            // Others may commit what this node proposed, or not. What is committed has its answer when it is applied,
            // if it is applied here.
            if self.core.applies() {
                self.waiting.fail_after(self.core.commit(), &Outcome::Unknown);
            } else {
                self.fail_waiting_writes();
            }
        }
        if took_reads && !self.takes_reads {
            self.fail_reads();
        }
        self.admin.routing_changed(&routing);
    }

    fn report(&mut self, line: String) {
        self.actions.push(Action::Report(line));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_have_each_candidacy_and_leadership_once_for_each_term() {
        let mut counts = Counts::default();
        let mut after = |role, term| {
            counts.role_changed(role, Term(term));
            (counts.elections, counts.elections_won)
        };
        assert_eq!(after(Role::Follower, 4), (0, 0));
        // It asks whether to ask, and then asks.
        assert_eq!(after(Role::Candidate, 4), (0, 0));
        assert_eq!(after(Role::Candidate, 5), (1, 0));
        // Votes were split: it tries again without having been anything else meanwhile.
        assert_eq!(after(Role::Candidate, 6), (2, 0));
        assert_eq!(after(Role::Leader, 6), (2, 1));
        // Nothing is new but whom it believes in.
        assert_eq!(after(Role::Leader, 6), (2, 1));
        // Elected within one step, by its own vote.
        assert_eq!(after(Role::Leader, 8), (3, 2));
        assert_eq!(after(Role::Follower, 9), (3, 2));
    }
}

//! A whole configured group in one value: cores with disks that lose what was not synced, a wire that a test may
//! deliver, lose, double and reorder as it likes, and a configuration service. Judges, after each step, what has to
//! hold for all of them together.

#![allow(dead_code, unreachable_pub, reason = "shared by several test binaries, each of which uses a part")]

pub mod service;
pub mod trace;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use smr::entry::{Entry, EntryId, Index, SnapshotMeta, Term};
use smr::epoch::EpochConfiguration;
use smr::id::NodeId;
use smr::internals::configured::message::Body;
use smr::internals::configured::{Configured, Message, Settings, invariants};
use smr::internals::protocol::{
    Effects, Envelope, Event, Input, LogChange, NotHere, Protocol, ReadOutcome, ReadToken, Recovered, Report,
    StoredState, Superseded, Time, Write, WriteId,
};
use smr_sim::clock::Clock;

use self::service::Service;
use crate::core_cluster::{self, change_log, entries_after, name};

/// What one node has on its disk.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    pub configuration: Option<EpochConfiguration>,
    pub snapshot: SnapshotMeta,
    /// After the snapshot, or reaching under it.
    pub entries: Vec<Entry>,
}

impl Disk {
    fn apply(&mut self, write: &Write<Message>) {
        if let Some(StoredState::Configured(configuration)) = write.stored_state() {
            self.configuration = configuration.clone();
        }
        for change in write.log() {
            change_log(&mut self.entries, change);
            if let LogChange::Install(meta) = change {
                self.snapshot = meta.clone();
            }
        }
    }

    /// Whether the disk holds this entry, itself or under its snapshot.
    pub fn holds(&self, id: EntryId) -> bool {
        core_cluster::holds(&self.snapshot, &self.entries, id)
    }

    fn recovered(&self) -> Recovered {
        let entries = entries_after(&self.snapshot, &self.entries);
        let stored = StoredState::Configured(self.configuration.clone());
        Recovered { stored, snapshot: self.snapshot.clone(), entries, heals_past: None }
    }

    pub fn epoch(&self) -> Term {
        self.configuration.as_ref().map_or(Term::ZERO, |configuration| configuration.epoch)
    }
}

/// One node: its core while it runs, its disk always.
pub struct Node {
    pub core: Option<Configured>,
    pub disk: Disk,
    /// Issued and not durable, oldest first.
    pub writes: VecDeque<Write<Message>>,
    /// The log as the core has it, rebuilt from what it wrote: an independent witness.
    mirror: Vec<Entry>,
    reads: BTreeMap<ReadToken, Index>,
    pub starts: u64,
    pub clock: Clock,
    /// What it last asked the service for.
    pub lease_wanted: Option<(Term, Time)>,
}

/// A message under way.
pub type Flying = core_cluster::Flying<Message>;

/// What happens to a core, or is asked of it.
#[derive(Clone, Debug)]
pub enum Call {
    Happens(Input<Message>),
    Propose(Vec<Bytes>),
    Read(ReadToken),
    Install(SnapshotMeta),
}

impl From<Input<Message>> for Call {
    fn from(input: Input<Message>) -> Call {
        Call::Happens(input)
    }
}

/// What a core answered to what it was asked.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    None,
    Proposed(Result<EntryId, NotHere>),
    Read(Result<(), NotHere>),
    Installed(Result<(), Superseded>),
}

/// What a core said and wants done.
#[derive(Debug)]
pub struct Outputs {
    pub answer: Answer,
    pub effects: Effects<Message>,
}

impl Outputs {
    fn of(core: &mut Configured, now: Time, call: Call) -> Outputs {
        let mut effects = Effects::default();
        let answer = match call {
            Call::Happens(input) => {
                effects = core.step(now, input);
                Answer::None
            }
            Call::Propose(commands) => Answer::Proposed(core.propose(now, commands, &mut effects)),
            Call::Read(token) => Answer::Read(core.read(now, token, &mut effects)),
            Call::Install(meta) => Answer::Installed(core.install(now, &meta, &mut effects)),
        };
        Outputs { answer, effects }
    }

    /// Whether a snapshot takes over.
    pub fn installs(&self) -> bool {
        self.answer == Answer::Installed(Ok(()))
    }
}

/// See the module.
pub struct Cluster {
    pub now: Time,
    pub settings: Settings,
    pub service: Service,
    pub nodes: BTreeMap<NodeId, Node>,
    pub wire: Vec<Flying>,
    /// What was committed by anyone, for ever, and in which epoch.
    pub history: BTreeMap<Index, (Entry, Term)>,
    /// Every entry that was ever in a log (I5).
    seen: BTreeMap<EntryId, Entry>,
    /// Who ordered in an epoch, and in which start (I16).
    orderers: BTreeMap<Term, (NodeId, u64)>,
    next_token: u64,
    pub seed: u64,
    /// How often something happened, by name.
    pub counts: BTreeMap<&'static str, u64>,
    /// Whether a test put words into nodes' mouths, or set a disk back: then only single nodes are judged.
    pub forged: bool,
    pub trace: Option<Vec<String>>,
}

impl Cluster {
    pub fn new(seed: u64, settings: Settings, members: &[NodeId]) -> Cluster {
        Cluster {
            now: Time(1000),
            service: Service::new(settings.kind, members),
            settings,
            nodes: BTreeMap::new(),
            wire: Vec::new(),
            history: BTreeMap::new(),
            seen: BTreeMap::new(),
            orderers: BTreeMap::new(),
            next_token: 1,
            seed,
            counts: BTreeMap::new(),
            forged: false,
            trace: None,
        }
    }

    pub fn say(&mut self, line: String) {
        if let Some(trace) = &mut self.trace {
            trace.push(line);
        }
    }

    /// Adds a node with this on its disk, and starts it.
    pub fn add(&mut self, node: NodeId, disk: Disk, clock: Clock) {
        let fresh = Node {
            core: None,
            disk,
            writes: VecDeque::new(),
            mirror: Vec::new(),
            reads: BTreeMap::new(),
            starts: 0,
            clock,
            lease_wanted: None,
        };
        self.nodes.insert(node, fresh);
        self.start(node);
    }

    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[&id]
    }

    fn node_mut(&mut self, id: NodeId) -> &mut Node {
        self.nodes.get_mut(&id).unwrap_or_else(|| panic!("no node {id}"))
    }

    pub fn core(&self, id: NodeId) -> &Configured {
        self.nodes[&id].core.as_ref().unwrap_or_else(|| panic!("{id} is down"))
    }

    pub fn is_up(&self, id: NodeId) -> bool {
        self.nodes.get(&id).is_some_and(|node| node.core.is_some())
    }

    pub fn up(&self) -> BTreeSet<NodeId> {
        self.nodes.keys().copied().filter(|id| self.is_up(*id)).collect()
    }

    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// When a node wants to look at its clock.
    pub fn due_at(&self, id: NodeId) -> Time {
        self.node(id).clock.moment(self.core(id).deadline())
    }

    /// Starts a node from its disk.
    pub fn start(&mut self, id: NodeId) {
        let (settings, seed) = (self.settings.clone(), self.seed);
        let now = self.node(id).clock.at(self.now);
        let node = self.node_mut(id);
        node.starts += 1;
        let rng = ChaCha8Rng::seed_from_u64(seed ^ (u64::from(id.name.0) << 32) ^ (node.starts << 16));
        let recovered = node.disk.recovered();
        node.mirror = recovered.entries.clone();
        let core = Configured::new(settings, id, recovered, rng, now);
        invariants::check(&core);
        node.core = Some(core);
    }

    /// Ends a node; the first `survive` of its writes reached the disk, and no one was told.
    pub fn crash(&mut self, id: NodeId, survive: usize) {
        let node = self.node_mut(id);
        for write in node.writes.drain(..).take(survive) {
            node.disk.apply(&write);
        }
        node.core = None;
        node.reads.clear();
        node.lease_wanted = None;
    }

    /// One step of one node, with all checks. Messages that may leave are put on the wire.
    pub fn step(&mut self, id: NodeId, call: impl Into<Call>) -> Outputs {
        let call = call.into();
        let now = self.node(id).clock.at(self.now);
        if self.trace.is_some()
            && let Some(line) = trace::call(id, &call)
        {
            self.say(line);
        }
        let node = self.node_mut(id);
        let core = node.core.as_mut().unwrap_or_else(|| panic!("{id} is down"));
        let before = invariants::summary(core);
        let commit = core.commit();
        let mut outputs = Outputs::of(core, now, call);
        let committed =
            if outputs.installs() { Vec::new() } else { core.committed_from(commit.next(), usize::MAX, usize::MAX) };
        if self.trace.is_some() {
            let lines = trace::outputs(&outputs, &committed);
            lines.into_iter().for_each(|line| self.say(format!("    {line}")));
        }
        let node = self.node_mut(id);
        let core = node.core.as_ref().unwrap_or_else(|| panic!("{id} is down"));
        invariants::check(core);
        invariants::check_transition(&before, core);
        let orders = invariants::orders(core);
        let status = core.status();
        for write in outputs.effects.writes.drain(..) {
            for change in write.log() {
                change_log(&mut node.mirror, change);
            }
            node.writes.push_back(write);
        }
        let (mirror, starts) = (node.mirror.clone(), node.starts);
        // Before that, nothing of it has left the node: a crash undoes it all.
        let has_entered = node.disk.epoch() == status.term;
        assert!(
            mirror.is_empty() || mirror.last().map(|entry| entry.id) == Some(status.last),
            "{id}: the log was written up to {:?}, but ends at {}",
            mirror.last(),
            status.last
        );
        // I5: one name, one entry.
        for entry in mirror.into_iter().filter(|_| has_entered) {
            let known = self.seen.entry(entry.id).or_insert_with(|| entry.clone());
            assert!(self.forged || *known == entry, "{id} has another entry {} (I5)", entry.id);
        }
        if orders && has_entered {
            let known = *self.orderers.entry(status.term).or_insert((id, starts));
            assert_eq!(known, (id, starts), "epoch {} is ordered by two, or in two starts (I16)", status.term);
        }
        for entry in &committed {
            self.note_committed(id, entry);
        }
        self.check_complete(id);
        for envelope in outputs.effects.messages.drain(..) {
            self.send(id, envelope);
        }
        for outcome in &outputs.effects.reads {
            self.note_read(id, outcome);
        }
        for report in &outputs.effects.reports {
            self.note_report(id, report);
        }
        for event in &outputs.effects.events {
            let broken =
                matches!(event, Event::Forgot { .. } | Event::LossProven { .. } | Event::ProtocolViolation { .. });
            assert!(self.forged || !broken, "{id}: {event:?}");
        }
        outputs
    }

    /// Everyone applies the same (I7, I9); the first to commit has it on the disks of all members of its epoch.
    fn note_committed(&mut self, id: NodeId, entry: &Entry) {
        let status = self.core(id).status();
        if self.forged {
            self.history.entry(entry.id.index).or_insert_with(|| (entry.clone(), status.term));
            return;
        }
        if let Some((known, _)) = self.history.get(&entry.id.index) {
            assert_eq!(known, entry, "{id} applies another entry (I7)");
            return;
        }
        let configuration = self.core(id).configuration().expect("an epoch").clone();
        let decider = if configuration.kind.is_chain() { configuration.last() } else { configuration.first() };
        assert_eq!(decider, id, "{id} is the first to commit {} in {configuration}", entry.id);
        for member in &configuration.members {
            let holds = self.nodes.get(member).is_some_and(|node| node.disk.holds(entry.id));
            assert!(holds, "{} was committed in {configuration}, but {member} does not have it on disk", entry.id);
        }
        self.count("committed");
        self.history.insert(entry.id.index, (entry.clone(), status.term));
    }

    /// Each committed entry is in the log of every complete member of its epoch and of every later one.
    fn check_complete(&mut self, id: NodeId) {
        let node = &self.nodes[&id];
        let Some(core) = node.core.as_ref().filter(|core| invariants::is_complete(core)) else { return };
        if self.forged {
            return;
        }
        let (start, epoch) = (core.status().log_start.index, core.status().term);
        for (index, (entry, committed_in)) in self.history.range(start.next()..) {
            if *committed_in <= epoch {
                let own = node.mirror.iter().find(|own| own.id.index == *index);
                assert_eq!(own, Some(entry), "{id} is complete in epoch {epoch} without a committed entry");
            }
        }
    }

    fn note_read(&mut self, id: NodeId, outcome: &ReadOutcome) {
        let commit = self.core(id).commit();
        let forged = self.forged;
        let node = self.node_mut(id);
        match outcome {
            ReadOutcome::Ready { token, index } => {
                let needed = node.reads.remove(token).unwrap_or_else(|| panic!("{token:?} answered twice"));
                assert!(
                    forged || *index >= needed,
                    "{id}: stale read {token:?} at {index}, but {needed} was committed when it arrived"
                );
                assert!(*index <= commit, "{id}: read {token:?} at {index} is not committed");
                self.count("read answered");
            }
            ReadOutcome::Failed { token } => {
                assert!(node.reads.remove(token).is_some(), "{token:?} answered twice");
            }
        }
    }

    fn note_report(&mut self, id: NodeId, report: &Report) {
        match report {
            Report::Activated { epoch } => {
                self.service.activated(*epoch);
                self.count("activated");
            }
            Report::LeaseWanted { epoch, asked_at } => {
                self.node_mut(id).lease_wanted = Some((*epoch, *asked_at));
            }
            Report::CaughtUp { .. } => self.count("caught up"),
            Report::Blocked { .. } => self.count("blocked"),
            Report::FirstRestarted { .. } => self.count("first restarted"),
        }
    }

    /// The service answers a node's last request for a lease. The input for it, if it is granted.
    pub fn grant(&mut self, id: NodeId) -> Option<Input<Message>> {
        let (epoch, asked_at) = self.node_mut(id).lease_wanted.take()?;
        let length_us = self.service.grant(id, epoch, self.now)?;
        Some(Input::LeaseGranted { epoch, asked_at, length_us })
    }

    /// A read arrives; when it is answered, its index must cover all that anyone had committed by now.
    pub fn read(&mut self, id: NodeId) -> Outputs {
        let token = ReadToken(self.next_token);
        self.next_token += 1;
        let committed = self.history.last_key_value().map_or(Index::ZERO, |(index, _)| *index);
        self.node_mut(id).reads.insert(token, committed);
        let outputs = self.step(id, Call::Read(token));
        if matches!(outputs.answer, Answer::Read(Err(_))) {
            self.node_mut(id).reads.remove(&token);
        }
        outputs
    }

    /// I11: nothing leaves before what it rests on is on the disk.
    fn send(&mut self, from: NodeId, envelope: Envelope<Message>) {
        let Envelope { to, message } = envelope;
        let disk = &self.nodes[&from].disk;
        assert_ne!(from, to, "a message to oneself: {message:?}");
        assert!(disk.epoch() >= message.epoch, "{from} speaks in epoch {} before its sync", message.epoch);
        match &message.body {
            Body::Accepted { last: named } | Body::Durable { through: named } => {
                let later = disk.epoch() > message.epoch;
                assert!(disk.holds(*named) || later, "{from} acknowledges {named} before it is on its disk");
            }
            _ => {}
        }
        self.wire.push(Flying { from, to, message });
    }

    /// The oldest write of a node reaches its disk, and the messages inside leave.
    fn sync_one(&mut self, id: NodeId) -> Option<WriteId> {
        let node = self.node_mut(id);
        let write = node.writes.pop_front()?;
        node.disk.apply(&write);
        let (write_id, messages) = write.durable();
        self.say(format!("{}'s disk has written #{}", name(id), write_id.0));
        for message in messages {
            self.say(format!("    to {}: {}", name(message.to), trace::message(&message.message)));
            self.send(id, message);
        }
        Some(write_id)
    }

    /// The first `count` writes of a node become durable, by one sync.
    pub fn sync(&mut self, id: NodeId, count: usize) -> Option<Outputs> {
        let mut latest = None;
        for _ in 0..count {
            latest = self.sync_one(id).or(latest);
        }
        latest.map(|write| self.step(id, Input::Durable(write)))
    }

    /// Takes a message from the wire and hands it to its receiver, if that runs.
    pub fn deliver(&mut self, position: usize) -> Option<(NodeId, Outputs)> {
        let Flying { from, to, message } = self.wire.remove(position);
        if !self.is_up(to) {
            return None;
        }
        Some((to, self.step(to, Input::Receive { from, message })))
    }

    /// The service's decision on this epoch reaches a node.
    pub fn tell(&mut self, id: NodeId, epoch: Term) -> Outputs {
        let configuration = self.service.of(epoch).unwrap_or_else(|| panic!("no epoch {epoch}")).clone();
        self.step(id, Input::Configured(configuration))
    }

    /// A snapshot of everything that is committed at a node becomes durable there, and the core is told.
    pub fn take_snapshot(&mut self, id: NodeId) -> Option<Outputs> {
        let index = self.core(id).commit();
        if index <= self.node(id).disk.snapshot.last.index {
            return None;
        }
        let last = self.history[&index].0.id;
        self.node_mut(id).disk.snapshot = SnapshotMeta { last, ..SnapshotMeta::default() };
        self.count("snapshot taken");
        Some(self.step(id, Input::SnapshotTaken(last)))
    }

    /// The snapshot of one node arrives at another, complete and verified.
    pub fn send_snapshot(&mut self, meta: SnapshotMeta, to: NodeId) -> Outputs {
        let outputs = self.step(to, Call::Install(meta));
        if outputs.installs() {
            self.count("snapshot installed");
        }
        outputs
    }

    pub fn propose(&mut self, id: NodeId, commands: &[&str]) -> Outputs {
        self.step(id, Call::Propose(commands.iter().map(|text| Bytes::copy_from_slice(text.as_bytes())).collect()))
    }

    /// The first of the present epoch, if it orders.
    pub fn first(&self) -> Option<NodeId> {
        let first = self.service.present().first();
        let orders = self.is_up(first)
            && invariants::orders(self.core(first))
            && self.core(first).status().term == self.service.present().epoch;
        orders.then_some(first)
    }
}

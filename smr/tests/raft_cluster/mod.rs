//! A whole group of cores in one value: nodes with disks that lose what was not synced, and a wire that a test may
//! deliver, lose, double and reorder as it likes. Judges all of section I of the fault catalogue that can be seen from
//! outside a core, after each step.

#![allow(dead_code, unreachable_pub, reason = "shared by several test binaries, each of which uses a part")]

pub mod trace;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use smr::entry::{Configuration, Entry, EntryId, HardState, Index, Payload, SnapshotMeta, Term};
use smr::id::{NodeId, ReplicaId};
use smr::internals::protocol::{
    Effects, Envelope, Event, Input, LogChange, NotHere, Protocol, ReadOutcome, ReadToken, Recovered, Superseded, Time,
    Write,
};
use smr::internals::raft::message::Body;
use smr::internals::raft::{Change, ChangeRefused, Control, Message, Raft, Settings, TransferRefused, invariants};
use smr::status::Role;
use smr_sim::clock::Clock;

use crate::core_cluster::{self, change_log, entries_after, name};

/// What one node has on its disk.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    pub hard_state: HardState,
    pub snapshot: SnapshotMeta,
    /// After the snapshot, or reaching under it.
    pub entries: Vec<Entry>,
    /// Entries are missing that the node may have acknowledged: it heals.
    pub heals_past: Option<Index>,
}

impl Disk {
    /// Makes one write durable.
    fn apply(&mut self, hard_state: Option<HardState>, changes: &[LogChange]) {
        self.hard_state = hard_state.unwrap_or(self.hard_state);
        for change in changes {
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
        let (snapshot, heals_past) = (self.snapshot.clone(), self.heals_past);
        Recovered { stored: self.hard_state.into(), snapshot, entries, heals_past }
    }
}

/// One node: its core while it runs, its disk always.
pub struct Node {
    pub raft: Option<Raft>,
    pub disk: Disk,
    /// Issued and not durable, oldest first.
    pub writes: VecDeque<Write<Message>>,
    /// The log as the core has it, rebuilt from what it wrote: an independent witness.
    mirror: Vec<Entry>,
    pub applied: Index,
    reads: BTreeMap<ReadToken, Index>,
    pub starts: u64,
    pub clock: Clock,
}

/// A message under way.
pub type Flying = core_cluster::Flying<Message>;

/// What happens to a core, or is asked of it.
#[derive(Clone, Debug)]
pub enum Call {
    Happens(Input<Message>),
    Propose(Vec<Bytes>),
    Read(ReadToken),
    Change(Change),
    Transfer(ReplicaId),
    Install(SnapshotMeta),
}

impl From<Input<Message>> for Call {
    fn from(input: Input<Message>) -> Call {
        Call::Happens(input)
    }
}

impl From<Change> for Call {
    fn from(change: Change) -> Call {
        Call::Change(change)
    }
}

/// What a core answered to what it was asked.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// Nothing was asked, or the answer is among the effects.
    None,
    Proposed(Result<EntryId, NotHere>),
    Changed(Result<EntryId, ChangeRefused>),
    Transferred(Result<(), TransferRefused>),
    Installed(Result<(), Superseded>),
}

/// What a core said and wants done.
#[derive(Debug)]
pub struct Outputs {
    pub answer: Answer,
    pub effects: Effects<Message>,
}

impl Outputs {
    fn of(raft: &mut Raft, now: Time, call: Call) -> Outputs {
        let mut effects = Effects::default();
        let answer = match call {
            Call::Happens(input) => {
                effects = raft.step(now, input);
                Answer::None
            }
            Call::Propose(commands) => Answer::Proposed(raft.propose(now, commands, &mut effects)),
            Call::Read(token) => {
                if raft.read(now, token, &mut effects).is_err() {
                    effects.reads.push(ReadOutcome::Failed { token });
                }
                Answer::None
            }
            Call::Change(change) => Answer::Changed(raft.change_members(now, &change, &mut effects)),
            Call::Transfer(to) => Answer::Transferred(raft.transfer(now, to, &mut effects)),
            Call::Install(meta) => Answer::Installed(raft.install(now, &meta, &mut effects)),
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
    pub nodes: BTreeMap<NodeId, Node>,
    pub wire: Vec<Flying>,
    /// What was committed by anyone, for ever (I7, I9).
    pub history: BTreeMap<Index, Entry>,
    leaders: BTreeMap<Term, NodeId>,
    next_token: u64,
    pub seed: u64,
    /// How often something happened, by name.
    pub counts: BTreeMap<&'static str, u64>,
    /// Whether a test put words into nodes' mouths: then what they say proves nothing about the others' logs and disks,
    /// and only the invariants of single nodes are judged.
    pub forged: bool,
    /// What happened, if anyone wants to read it.
    pub trace: Option<Vec<String>>,
}

impl Cluster {
    pub fn new(seed: u64, settings: Settings) -> Cluster {
        Cluster {
            now: Time(0),
            settings,
            nodes: BTreeMap::new(),
            wire: Vec::new(),
            history: BTreeMap::new(),
            leaders: BTreeMap::new(),
            next_token: 1,
            seed,
            counts: BTreeMap::new(),
            forged: false,
            trace: None,
        }
    }

    /// Adds a line to the trace.
    pub fn say(&mut self, line: String) {
        if let Some(trace) = &mut self.trace {
            trace.push(line);
        }
    }

    /// Adds nodes that were founded together: entry 1 of term 1 names them all.
    pub fn found(&mut self, members: &[NodeId]) {
        let genesis = Entry {
            id: EntryId::new(1, 1),
            payload: Payload::Configuration(Configuration::of(members.iter().copied())),
        };
        for member in members {
            let disk = Disk {
                hard_state: HardState { term: Term(1), vote: None, lease_us: 0 },
                entries: vec![genesis.clone()],
                ..Disk::default()
            };
            self.add(*member, disk);
        }
        self.history.insert(Index(1), genesis);
    }

    /// Adds a node with this on its disk, and starts it.
    pub fn add(&mut self, node: NodeId, disk: Disk) {
        let fresh = Node {
            raft: None,
            disk,
            writes: VecDeque::new(),
            mirror: Vec::new(),
            applied: Index::ZERO,
            reads: BTreeMap::new(),
            starts: 0,
            clock: Clock::TRUE,
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

    pub fn raft(&self, id: NodeId) -> &Raft {
        self.nodes[&id].raft.as_ref().unwrap_or_else(|| panic!("{id} is down"))
    }

    pub fn is_up(&self, id: NodeId) -> bool {
        self.nodes.get(&id).is_some_and(|node| node.raft.is_some())
    }

    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// The clock of a node that has just started runs at this rate.
    pub fn set_clock(&mut self, id: NodeId, permille: u64) {
        assert_eq!(self.now, Time(0), "a clock would jump");
        self.node_mut(id).clock.rate_permille = permille;
    }

    /// When a node wants to look at its clock.
    pub fn due_at(&self, id: NodeId) -> Time {
        self.node(id).clock.moment(self.raft(id).deadline())
    }

    /// Starts a node from its disk.
    pub fn start(&mut self, id: NodeId) {
        let (settings, seed) = (self.settings.clone(), self.seed);
        let now = self.node(id).clock.at(self.now);
        let node = self.node_mut(id);
        node.starts += 1;
        let rng = ChaCha8Rng::seed_from_u64(
            seed ^ (u64::from(id.name.0) << 32) ^ (id.incarnation.0 << 48) ^ (node.starts << 16),
        );
        let recovered = node.disk.recovered();
        node.mirror = recovered.entries.clone();
        node.applied = node.disk.snapshot.last.index;
        let raft = Raft::new(settings, id, recovered, rng, now);
        invariants::check(&raft);
        node.raft = Some(raft);
    }

    /// Ends a node; the first `survive` of its writes reached the disk, and no one was told.
    pub fn crash(&mut self, id: NodeId, survive: usize) {
        let node = self.node_mut(id);
        for write in node.writes.drain(..).take(survive) {
            node.disk.apply(write.hard_state(), write.log());
        }
        node.raft = None;
        node.reads.clear();
    }

    /// The disk of a node that is down keeps its log up to `keep`, and knows that it had got to `past` at least.
    pub fn lose(&mut self, id: NodeId, keep: Index, past: Index) {
        let node = self.node_mut(id);
        assert!(node.raft.is_none(), "{id} is up");
        node.disk.entries.retain(|entry| entry.id.index <= keep);
        node.disk.heals_past = Some(past);
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
        let raft = node.raft.as_mut().unwrap_or_else(|| panic!("{id} is down"));
        let led = raft.role() == Role::Leader;
        let before = invariants::summary(raft);
        let commit = raft.commit();
        let mut outputs = Outputs::of(raft, now, call);
        let committed = if outputs.installs() {
            // The snapshot's end.
            Vec::new()
        } else {
            raft.committed_from(commit.next(), usize::MAX, usize::MAX)
        };
        let lines = if self.trace.is_some() { trace::outputs(&outputs, &committed) } else { Vec::new() };
        lines.into_iter().for_each(|line| self.say(format!("    {line}")));
        let node = self.node_mut(id);
        let raft = node.raft.as_mut().unwrap_or_else(|| panic!("{id} is down"));
        invariants::check(raft);
        invariants::check_transition(&before, raft);
        if outputs.installs() {
            let commit = raft.status().commit;
            assert!(commit > node.applied, "{id}: a snapshot {commit} under what is applied, {}", node.applied);
            node.applied = commit;
        }
        let log_changed = outputs.effects.writes.iter().any(|write| !write.log().is_empty());
        for write in outputs.effects.writes.drain(..) {
            for change in write.log() {
                change_log(&mut node.mirror, change);
            }
            node.writes.push_back(write);
        }
        let status = raft.status();
        let last = node.mirror.last().map_or(node.disk.snapshot.last.index, |entry| entry.id.index);
        assert!(
            node.mirror.is_empty() || last == status.last.index,
            "{id}: the log was written up to {last}, but ends at {}",
            status.last
        );
        let leads = status.role == Role::Leader;
        for entry in &committed {
            self.note_committed(id, entry);
        }
        if leads {
            self.note_leader(id, status.term, !led);
        }
        for envelope in outputs.effects.messages.drain(..) {
            self.send(id, envelope);
        }
        for outcome in &outputs.effects.reads {
            self.note_read(id, outcome);
        }
        for event in &outputs.effects.events {
            match event {
                Event::RoleChanged { role: Role::Leader, .. } => self.count("leader elected"),
                Event::Healed { .. } => self.node_mut(id).disk.heals_past = None,
                _ => {}
            }
        }
        if log_changed {
            self.check_log_matching(id);
        }
        outputs
    }

    /// I7 and I9: everyone applies the same, in order and without a gap. I8: the first to commit has it on enough
    /// disks.
    fn note_committed(&mut self, id: NodeId, entry: &Entry) {
        let node = self.node_mut(id);
        assert_eq!(entry.id.index, node.applied.next(), "{id} skipped or repeated an entry");
        node.applied = entry.id.index;
        if self.forged {
            self.history.entry(entry.id.index).or_insert_with(|| entry.clone());
            return;
        }
        let node = self.node(id);
        let leads = node.raft.as_ref().is_some_and(|raft| raft.role() == Role::Leader);
        match self.history.get(&entry.id.index) {
            Some(known) => assert_eq!(known, entry, "{id} applies another entry (I7)"),
            None => {
                // A leader that commits its own removal steps down in the same step.
                let removed = !self.raft(id).status().configuration.is_voter(id);
                assert!(leads || removed, "{id} is the first to commit {} and does not lead", entry.id);
                self.history.insert(entry.id.index, entry.clone());
                // The configuration in force counts, which is the last in the log, not the one at the entry. Leaving a
                // joint one is allowed only after both of its majorities have it.
                self.assert_on_majorities(&self.raft(id).status().configuration, entry.id);
                if let Payload::Configuration(configuration) = &entry.payload {
                    self.assert_on_majorities(configuration, entry.id);
                }
            }
        }
    }

    fn assert_on_majorities(&self, configuration: &Configuration, id: EntryId) {
        for set in [&configuration.voters, &configuration.outgoing] {
            let holders: Vec<_> = set.iter().filter(|voter| self.nodes[voter].disk.holds(id)).collect();
            let enough = set.is_empty() || holders.len() > set.len() / 2;
            assert!(enough, "{id} was committed, but of {set:?} only {holders:?} have it on disk (I8)");
        }
    }

    /// I1: over the whole history a term has one leader. I6: a new leader has everything that was ever committed.
    fn note_leader(&mut self, id: NodeId, term: Term, new: bool) {
        let known = *self.leaders.entry(term).or_insert(id);
        assert_eq!(known, id, "{term} has two leaders (I1)");
        if !new || self.forged {
            return;
        }
        let node = &self.nodes[&id];
        let start = node.raft.as_ref().map_or(Index::ZERO, |raft| raft.status().commit);
        for (index, entry) in self.history.range(start.next()..) {
            let own = node.mirror.iter().find(|own| own.id.index == *index);
            assert_eq!(own, Some(entry), "{id} leads {term} without a committed entry (I6)");
        }
    }

    /// I5: where two logs have the same entry, they are equal up to there.
    fn check_log_matching(&self, id: NodeId) {
        let own = &self.nodes[&id].mirror;
        if self.forged {
            return;
        }
        for (other_id, other) in &self.nodes {
            if *other_id == id || other.raft.is_none() {
                continue;
            }
            let mut equal_above = false;
            let mut others = other.mirror.iter().rev().peekable();
            for entry in own.iter().rev() {
                while others.next_if(|other| other.id.index > entry.id.index).is_some() {}
                let Some(other) = others.peek().filter(|other| other.id.index == entry.id.index) else { continue };
                let equal = other.id == entry.id;
                assert!(!equal || **other == *entry, "{id} and {other_id} have different entries {} (I5)", entry.id);
                assert!(equal || !equal_above, "{id} and {other_id} agree above {}, not there (I5)", entry.id);
                equal_above = equal;
            }
        }
    }

    fn note_read(&mut self, id: NodeId, outcome: &ReadOutcome) {
        let node = self.node_mut(id);
        match outcome {
            ReadOutcome::Ready { token, index } => {
                let needed = node.reads.remove(token).unwrap_or_else(|| panic!("{token:?} answered twice"));
                assert!(
                    *index >= needed,
                    "{id}: read {token:?} at {index}, but {needed} was committed when it arrived"
                );
                self.count("read answered");
            }
            ReadOutcome::Failed { token } => {
                assert!(node.reads.remove(token).is_some(), "{token:?} answered twice");
            }
        }
    }

    /// A read arrives; when it is answered, its index must cover all that anyone had committed by now.
    pub fn read(&mut self, id: NodeId) -> (ReadToken, Outputs) {
        let token = ReadToken(self.next_token);
        self.next_token += 1;
        let committed = self.history.last_key_value().map_or(Index::ZERO, |(index, _)| *index);
        self.node_mut(id).reads.insert(token, committed);
        (token, self.step(id, Call::Read(token)))
    }

    /// I11: nothing leaves before what it rests on is on the disk.
    fn send(&mut self, from: NodeId, envelope: Envelope<Message>) {
        let Envelope { to, message } = envelope;
        let disk = &self.nodes[&from].disk;
        assert_ne!(from, to, "a message to oneself: {message:?}");
        match &message.body {
            Body::PreVote { .. } | Body::PreVoteGranted { .. } => {}
            Body::Vote { .. } => {
                assert_eq!(
                    disk.hard_state,
                    HardState { term: message.term, vote: Some(from), ..disk.hard_state },
                    "a candidacy before its sync"
                );
            }
            Body::VoteGranted => {
                let later = disk.hard_state.term > message.term;
                let kept = disk.hard_state == HardState { term: message.term, vote: Some(to), ..disk.hard_state };
                assert!(kept || later, "{from} grants {message:?} to {to} with {:?} on disk", disk.hard_state);
            }
            Body::AppendAccepted { last } | Body::SnapshotInstalled { last } | Body::AppendStored { last, .. } => {
                assert!(disk.holds(*last), "{from} acknowledges {last} before it is on its disk");
                assert!(disk.hard_state.term >= message.term);
            }
            Body::HeartbeatAck { lease: Some(lease), .. } => {
                assert!(
                    disk.hard_state.lease_us >= lease.length_us,
                    "{from} grants {lease:?} before it is on its disk"
                );
                assert!(disk.hard_state.term >= message.term);
            }
            _ => assert!(disk.hard_state.term >= message.term, "{from} speaks in {} before its sync", message.term),
        }
        self.wire.push(Flying { from, to, message });
    }

    /// The oldest write of a node reaches its disk, and the messages inside leave. Tell the core with `acknowledge`.
    fn sync_one(&mut self, id: NodeId) -> Option<smr::internals::protocol::WriteId> {
        let node = self.node_mut(id);
        let write = node.writes.pop_front()?;
        node.disk.apply(write.hard_state(), write.log());
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
    pub fn deliver(&mut self, position: usize) -> Option<(Flying, Outputs)> {
        let flying = self.wire.remove(position);
        self.hand_over(flying)
    }

    /// Hands a message to its receiver, if that runs.
    pub fn hand_over(&mut self, flying: Flying) -> Option<(Flying, Outputs)> {
        if !self.is_up(flying.to) {
            return None;
        }
        let input = Input::Receive { from: flying.from, message: flying.message.clone() };
        let outputs = self.step(flying.to, input);
        Some((flying, outputs))
    }

    /// A snapshot of everything that a node has applied becomes durable there, and the core is told.
    pub fn take_snapshot(&mut self, id: NodeId) -> Option<Outputs> {
        let node = self.node_mut(id);
        let index = node.applied;
        if index <= node.disk.snapshot.last.index {
            return None;
        }
        let entry = self.history[&index].id;
        let (configuration, configuration_index) = self.raft(id).configuration_at(index);
        let node = self.node_mut(id);
        node.disk.snapshot = SnapshotMeta { last: entry, configuration, configuration_index };
        self.count("snapshot taken");
        Some(self.step(id, Input::SnapshotTaken(entry)))
    }

    /// The snapshot of one node arrives at another, complete and verified.
    pub fn send_snapshot(&mut self, meta: SnapshotMeta, to: NodeId) -> Outputs {
        let outputs = self.step(to, Call::Install(meta));
        if outputs.installs() {
            self.count("snapshot installed");
        }
        outputs
    }

    /// Proposes commands.
    pub fn propose(&mut self, id: NodeId, commands: &[&str]) -> Outputs {
        self.step(id, Call::Propose(commands.iter().map(|text| Bytes::copy_from_slice(text.as_bytes())).collect()))
    }

    /// The node that leads in the highest term, if any.
    pub fn leader(&self) -> Option<NodeId> {
        let leads = |id: &&NodeId| self.is_up(**id) && self.raft(**id).role() == Role::Leader;
        self.nodes.keys().filter(leads).max_by_key(|id| self.raft(**id).status().term).copied()
    }

    /// Everyone that runs.
    pub fn up(&self) -> BTreeSet<NodeId> {
        self.nodes.keys().copied().filter(|id| self.is_up(*id)).collect()
    }
}

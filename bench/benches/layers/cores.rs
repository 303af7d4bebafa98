//! The Raft core alone: three of them on one thread, a wire and disks that take no time.
//!
//! What is left is what the core itself costs: proposals in batches at the leader, appends to two followers, their
//! answers, and the commit at all three.

use std::collections::VecDeque;

use bytes::Bytes;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use smr::entry::{Configuration, Entry, EntryId, HardState, Payload, Term};
use smr::id::NodeId;
use smr::internals::protocol::{Effects, Input, LogChange, Protocol, Recovered, Time};
use smr::internals::raft::{Message, Raft, Settings};
use smr::status::Role;

/// Size of a command, in bytes.
pub(crate) const COMMAND_BYTES: usize = 150;
/// How far the time moves with each batch, in microseconds: a heartbeat every few hundred batches.
const BATCH_US: u64 = 200;
/// After this many entries the log is cut, as a snapshot would let it be.
const LOG_ENTRIES_MAX: u64 = 20_000;

/// Three cores.
pub(crate) struct Cores {
    now: Time,
    nodes: Vec<(NodeId, Raft)>,
    leader: usize,
    /// The last entry that each node saw committed.
    committed: Vec<EntryId>,
    cut: Vec<EntryId>,
    entries: u64,
    wire: VecDeque<(usize, NodeId, Message)>,
}

impl Cores {
    /// A group that has just elected its first leader.
    pub(crate) fn new() -> Cores {
        let members: Vec<NodeId> = (0..3).map(|name| NodeId::new(name, u64::from(name) + 1)).collect();
        let genesis =
            Entry { id: EntryId::new(1, 1), payload: Payload::Configuration(Configuration::of(members.clone())) };
        let nodes = members.iter().map(|&member| {
            let recovered = Recovered {
                stored: HardState { term: Term(1), ..HardState::default() }.into(),
                entries: vec![genesis.clone()],
                ..Recovered::default()
            };
            let rng = ChaCha8Rng::seed_from_u64(member.incarnation.0);
            (member, Raft::new(Settings::default(), member, recovered, rng, Time(0)))
        });
        let mut cores = Cores {
            now: Time(0),
            nodes: nodes.collect(),
            leader: 0,
            committed: vec![EntryId::ZERO; 3],
            cut: vec![EntryId::ZERO; 3],
            entries: 0,
            wire: VecDeque::new(),
        };
        loop {
            if let Some(leader) = cores.nodes.iter().position(|(_, raft)| raft.role() == Role::Leader) {
                cores.leader = leader;
                return cores;
            }
            cores.tick();
        }
    }

    /// Proposes a batch, and lets everything happen that follows from it; how many entries were committed at the
    /// leader.
    pub(crate) fn propose(&mut self, commands: &[Bytes]) -> u64 {
        let before = self.committed[self.leader].index;
        self.now = self.now.plus_us(BATCH_US);
        let mut effects = Effects::default();
        // Refused only by a leader that was deposed, and nothing here is slow enough for that.
        let _ = self.nodes[self.leader].1.propose(self.now, commands.to_vec(), &mut effects);
        self.take(self.leader, effects);
        self.settle();
        if self.nodes.iter().any(|(_, raft)| raft.deadline() <= self.now) {
            self.tick();
        }
        self.entries += commands.len() as u64;
        if self.entries > LOG_ENTRIES_MAX {
            self.entries = 0;
            self.cut();
        }
        self.committed[self.leader].index.0 - before.0
    }

    fn tick(&mut self) {
        let due = self.nodes.iter().map(|(_, raft)| raft.deadline()).min().unwrap_or(self.now);
        self.now = self.now.max(due);
        for node in 0..self.nodes.len() {
            self.step(node, Input::Tick);
        }
        self.settle();
    }

    fn cut(&mut self) {
        for node in 0..self.nodes.len() {
            let last = self.committed[node];
            if last.index > self.cut[node].index {
                self.cut[node] = last;
                self.step(node, Input::SnapshotTaken(last));
            }
        }
        self.settle();
    }

    fn settle(&mut self) {
        while let Some((from, to, message)) = self.wire.pop_front() {
            let from = self.nodes[from].0;
            if let Some(receiver) = self.nodes.iter().position(|(node, _)| *node == to) {
                self.step(receiver, Input::Receive { from, message });
            }
        }
    }

    fn step(&mut self, node: usize, input: Input<Message>) {
        let effects = self.nodes[node].1.step(self.now, input);
        self.take(node, effects);
    }

    fn take(&mut self, node: usize, effects: Effects<Message>) {
        self.send(node, effects.messages);
        let core = &self.nodes[node].1;
        if core.commit() > self.committed[node].index
            && let Some(last) = core.committed_from(core.commit(), 1, usize::MAX).pop()
        {
            self.committed[node] = last.id;
        }
        for write in effects.writes {
            debug_assert!(write.log().iter().all(|change| !matches!(change, LogChange::Install(_))));
            let (id, then) = write.durable();
            self.send(node, then);
            self.step(node, Input::Durable(id));
        }
    }

    fn send(&mut self, node: usize, envelopes: Vec<smr::internals::protocol::Envelope<Message>>) {
        self.wire.extend(envelopes.into_iter().map(|envelope| (node, envelope.to, envelope.message)));
    }

    /// Lets the next deadline pass.
    #[allow(dead_code, reason = "for the test of this file")]
    pub(crate) fn pass_time(&mut self) {
        self.tick();
    }

    /// The first entry that the leader's log still has comes after this.
    #[allow(dead_code, reason = "for the test of this file")]
    pub(crate) fn log_start(&self) -> smr::entry::Index {
        self.nodes[self.leader].1.status().log_start.index
    }

    /// The lowest of the three nodes' commit indexes.
    #[allow(dead_code, reason = "for the test of this file")]
    pub(crate) fn committed_everywhere(&self) -> smr::entry::Index {
        self.nodes.iter().map(|(_, raft)| raft.status().commit).min().unwrap_or_default()
    }
}

/// A batch of commands.
pub(crate) fn commands(count: usize) -> Vec<Bytes> {
    (0..count).map(|_| Bytes::from(vec![b'c'; COMMAND_BYTES])).collect()
}

//! Whole groups of engines (core, sessions, state machine) on virtual time, with a network that loses and delays and
//! nodes that crash and forget what was not durable. Clients swap unique values; afterwards the values must form one
//! chain: nothing lost, nothing twice.
//!
//! covers E1 L11 C1 C2 C9 R10 I12 I13, on a small scale.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use smr::entry::{Entry, EntryId, Genesis, Index, Promise, SnapshotMeta, Term};
use smr::id::{ClusterId, NodeId, NodeName};
use smr::protocol::{LogChange, Protocol, Recovered, Time, Write};
use smr::raft::{Raft, Settings};
use smr::replica::engine::{Action, Engine, EngineStart};
use smr::replica::{ClientId, Outcome, ReplySink, ReplyTo, Request, Standing};
use smr::session::SessionTable;
use smr::state_machine::{Answer, Image, StateMachine};

type Message = <Raft as Protocol>::Message;

/// A few registers; a command is (register, value), its answer the value before.
#[derive(Clone, Default)]
struct Registers(BTreeMap<u8, u64>);

impl Image for Registers {
    fn write(&self, _output: &mut dyn io::Write) -> io::Result<()> {
        Ok(())
    }
}

impl StateMachine for Registers {
    type Image = Registers;

    fn apply(&mut self, _index: Index, command: &[u8]) -> Vec<u8> {
        let value = u64::from_le_bytes(command[1..9].try_into().unwrap());
        self.0.insert(command[0], value).unwrap_or(0).to_le_bytes().to_vec()
    }

    fn query(&self, query: &[u8]) -> Answer {
        Answer::Now(self.0.get(&query[0]).copied().unwrap_or(0).to_le_bytes().to_vec())
    }

    fn image(&self) -> Registers {
        self.clone()
    }

    fn restore(_input: &mut dyn io::Read) -> io::Result<Registers> {
        Ok(Registers::default())
    }
}

/// What a node has on its device.
#[derive(Clone, Default)]
struct Device {
    promise: Promise,
    entries: Vec<Entry>,
}

impl Device {
    fn write(&mut self, write: &Write<Message>) {
        if let Some(promise) = write.promise() {
            self.promise = promise;
        }
        for change in write.log() {
            match change {
                LogChange::Append(entries) => self.entries.extend(entries.iter().cloned()),
                LogChange::RemoveFrom(index) => self.entries.retain(|entry| entry.id.index < *index),
                other => panic!("not in this test: {other:?}"),
            }
        }
    }
}

struct Node {
    id: NodeId,
    device: Device,
    engine: Option<Engine<Raft, Registers>>,
    /// Writes on their way to the device, and when they arrive there.
    writes: VecDeque<(Time, Write<Message>)>,
    restart_at: Time,
}

#[derive(Default)]
struct Mailbox(Mutex<Vec<(u64, Outcome)>>);

impl ReplySink for Mailbox {
    fn deliver(&self, tag: u64, outcome: Outcome) {
        self.0.lock().unwrap().push((tag, outcome));
    }

    fn deliver_part(&self, _tag: u64, _part: Bytes) -> bool {
        panic!("no scans in this test");
    }
}

/// A client that swaps one unique value after the other, and repeats each until it has the answer.
struct Client {
    session: Option<ClientId>,
    number: u64,
    register: u8,
    value: u64,
    asked_at: Option<Time>,
    /// Answers to older tries are told apart by the tag.
    tries: u64,
    /// (register, value before, value) of each acknowledged swap.
    acknowledged: Vec<(u8, u64, u64)>,
}

struct Cluster {
    now: Time,
    rng: ChaCha8Rng,
    nodes: Vec<Node>,
    network: BTreeMap<(Time, u64), (NodeId, NodeId, Message)>,
    sent: u64,
    loss_percent: u64,
    mailbox: Arc<Mailbox>,
    clients: Vec<Client>,
    genesis: Genesis,
    crashes: u64,
}

impl Cluster {
    fn new(seed: u64, size: u16, clients: u64) -> Cluster {
        let members: BTreeSet<NodeId> = (0..size).map(|name| NodeId::new(name, 100 + u64::from(name))).collect();
        let genesis = Genesis { cluster: Some(ClusterId(1)), group: "g".parse().unwrap(), members };
        let nodes = genesis.members.iter().map(|&id| Node {
            id,
            device: Device { promise: Promise { term: Term(1), vote: None }, entries: vec![genesis.first_entry()] },
            engine: None,
            writes: VecDeque::new(),
            restart_at: Time(0),
        });
        Cluster {
            now: Time(0),
            rng: ChaCha8Rng::seed_from_u64(seed),
            nodes: nodes.collect(),
            network: BTreeMap::new(),
            sent: 0,
            loss_percent: 0,
            mailbox: Arc::new(Mailbox::default()),
            clients: (0..clients)
                .map(|number| Client {
                    session: None,
                    number: 1,
                    register: 0,
                    value: (number + 1) * 1_000_000,
                    asked_at: None,
                    tries: 0,
                    acknowledged: Vec::new(),
                })
                .collect(),
            genesis,
            crashes: 0,
        }
    }

    fn draw(&mut self, below: u64) -> u64 {
        self.rng.next_u64() % below
    }

    fn start(&mut self, position: usize) {
        let seed = self.rng.next_u64();
        let node = &mut self.nodes[position];
        let recovered = Recovered {
            promise: node.device.promise,
            snapshot: SnapshotMeta::default(),
            entries: node.device.entries.clone(),
        };
        let core = Raft::new(Settings::default(), node.id, recovered, ChaCha8Rng::seed_from_u64(seed), self.now);
        node.engine = Some(Engine::new(EngineStart {
            group: self.genesis.group.clone(),
            standing: Standing::InService,
            sync_mode: String::new(),
            core,
            state: Registers::default(),
            sessions: SessionTable::new(),
            snapshot: EntryId::ZERO,
            snapshot_len_bytes: 0,
        }));
    }

    /// Kills a node: what was on its way to the device is gone, or, at random, has arrived after all.
    fn crash(&mut self, position: usize) {
        let keep = self.draw(4);
        let down_us = 50_000 + self.draw(3_000_000);
        let node = &mut self.nodes[position];
        if node.engine.take().is_none() {
            return;
        }
        self.crashes += 1;
        for (_, write) in node.writes.drain(..).take(keep as usize) {
            node.device.write(&write);
        }
        node.restart_at = self.now.plus_us(down_us);
        let dead = node.id;
        // The news of a closed connection comes behind everything that was sent on it.
        self.network.retain(|_, (from, _, _)| *from != dead);
        for other in 0..self.nodes.len() {
            if let Some(engine) = &mut self.nodes[other].engine {
                engine.disconnected(self.now, dead);
            }
            self.act(other);
        }
    }

    /// Carries out what an engine asks.
    fn act(&mut self, position: usize) {
        let node = &mut self.nodes[position];
        let from = node.id;
        let Some(engine) = &mut node.engine else { return };
        for action in engine.take_actions() {
            match action {
                Action::Send(envelope) => self.send(from, envelope.to, envelope.message),
                Action::Write(write) => {
                    let arrives = self.now.plus_us(100 + self.draw(2_000));
                    let writes = &mut self.nodes[position].writes;
                    let arrives = writes.back().map_or(arrives, |(before, _)| arrives.max(*before));
                    writes.push_back((arrives, write));
                }
                Action::Report(_) => {}
                _ => panic!("not in this test"),
            }
        }
    }

    fn send(&mut self, from: NodeId, to: NodeId, message: Message) {
        let copies = match self.draw(100) {
            percent if percent < self.loss_percent => 0,
            99 => 2,
            _ => 1,
        };
        for _ in 0..copies {
            let arrives = self.now.plus_us(50 + self.draw(1_000) + if self.draw(50) == 0 { 100_000 } else { 0 });
            self.sent += 1;
            self.network.insert((arrives, self.sent), (from, to, message.clone()));
        }
    }

    /// Moves time to the next thing that happens, and lets it happen.
    fn step(&mut self) {
        let mut next = self.now.plus_us(5_000);
        next = self.network.keys().next().map_or(next, |(at, _)| next.min(*at));
        for node in &self.nodes {
            next = node.writes.front().map_or(next, |(at, _)| next.min(*at));
            next = node.engine.as_ref().map_or(next, |engine| next.min(engine.deadline()));
        }
        self.now = next.max(self.now);
        let now = self.now;
        while let Some(first) = self.network.first_entry()
            && first.key().0 <= now
        {
            let (from, to, message) = first.remove();
            let position = usize::from(to.name.0);
            if let Some(engine) = &mut self.nodes[position].engine {
                engine.receive(now, from, message);
            }
            self.act(position);
        }
        for position in 0..self.nodes.len() {
            let node = &mut self.nodes[position];
            if node.engine.is_none() && node.restart_at <= now {
                self.start(position);
            }
            let mut released = Vec::new();
            let node = &mut self.nodes[position];
            while node.writes.front().is_some_and(|(at, _)| *at <= now) {
                let Some((_, write)) = node.writes.pop_front() else { break };
                node.device.write(&write);
                let (id, messages) = write.durable();
                released.extend(messages);
                if let Some(engine) = &mut node.engine {
                    engine.durable(now, id);
                }
            }
            let from = node.id;
            for envelope in released {
                self.send(from, envelope.to, envelope.message);
            }
            if let Some(engine) = &mut self.nodes[position].engine
                && engine.deadline() <= now
            {
                engine.tick(now);
            }
            self.act(position);
        }
        self.serve_clients();
    }

    fn serve_clients(&mut self) {
        let outcomes = std::mem::take(&mut *self.mailbox.0.lock().unwrap());
        for (tag, outcome) in outcomes {
            let client = &mut self.clients[(tag >> 32) as usize];
            if tag & 0xffff_ffff != client.tries || client.asked_at.is_none() {
                continue;
            }
            match outcome {
                Outcome::SessionOpened(session) => client.session = Some(session),
                Outcome::Answer(before) => {
                    let before = u64::from_le_bytes(before[..].try_into().unwrap());
                    client.acknowledged.push((client.register, before, client.value));
                    client.number += 1;
                    client.value += 1;
                    client.register = (client.value % 2) as u8;
                }
                Outcome::NotLeader(_) | Outcome::Unknown | Outcome::Busy { .. } => {}
                other => panic!("client {} got {other:?}", tag >> 32),
            }
            client.asked_at = None;
        }
        for number in 0..self.clients.len() {
            let target = self.draw(self.nodes.len() as u64) as usize;
            let patience = 200_000 + self.draw(300_000);
            let client = &mut self.clients[number];
            if client.asked_at.is_some_and(|at| self.now.since_us(at) < patience) {
                continue;
            }
            let Some(engine) = &mut self.nodes[target].engine else { continue };
            client.tries += 1;
            client.asked_at = Some(self.now);
            let mut command = vec![client.register];
            command.extend_from_slice(&client.value.to_le_bytes());
            let request = match client.session {
                None => Request::OpenSession,
                Some(session) => Request::Write {
                    client: session,
                    number: client.number,
                    lowest_unanswered: client.number,
                    command: command.into(),
                },
            };
            let tag = (number as u64) << 32 | client.tries;
            engine.requests(self.now, [(request, ReplyTo { tag, sink: self.mailbox.clone() })]);
            self.act(target);
        }
    }

    fn run_until(&mut self, until: Time) {
        while self.now < until {
            self.step();
        }
    }

    /// Reads both registers at whoever leads, and checks the chain of values.
    fn check(&mut self) {
        let last: BTreeMap<u8, u64> = {
            let leader = self.nodes.iter().filter_map(|node| node.engine.as_ref());
            let leader = leader.max_by_key(|engine| engine.status().applied).unwrap();
            leader.state().0.clone()
        };
        let mut successor: BTreeMap<(u8, u64), u64> = BTreeMap::new();
        for client in &self.clients {
            for &(register, before, value) in &client.acknowledged {
                let doubled = successor.insert((register, before), value);
                assert_eq!(doubled, None, "{before} of register {register} was replaced by {value} and by another");
            }
        }
        // A value whose acknowledgement never came (the client still waits) may close a gap, one for each client.
        let mut gaps = 0;
        for register in 0..2 {
            let values: BTreeSet<u64> =
                successor.iter().filter(|((r, _), _)| *r == register).map(|(_, v)| *v).collect();
            let befores = successor.keys().filter(|(r, _)| *r == register).map(|(_, before)| *before);
            gaps += befores.filter(|before| *before != 0 && !values.contains(before)).count();
            let ends = values.iter().filter(|value| !successor.contains_key(&(register, **value))).count();
            assert!(ends <= 1 + self.clients.len(), "register {register} has {ends} ends");
            assert!(values.is_empty() || last.contains_key(&register));
        }
        assert!(gaps <= self.clients.len(), "{gaps} values were seen that nobody wrote or that were lost");
    }
}

fn torture(seed: u64, size: u16) -> (usize, u64) {
    let mut cluster = Cluster::new(seed, size, 3);
    cluster.loss_percent = cluster.draw(10);
    let end = Time(20_000_000);
    while cluster.now < end {
        let quiet = 200_000 + cluster.draw(2_000_000);
        cluster.run_until(cluster.now.plus_us(quiet));
        let victim = cluster.draw(u64::from(size)) as usize;
        cluster.crash(victim);
        if cluster.draw(8) == 0 {
            (0..usize::from(size)).for_each(|node| cluster.crash(node));
        }
    }
    // Calm: everything heals, and each client gets on.
    cluster.loss_percent = 0;
    let before: Vec<usize> = cluster.clients.iter().map(|client| client.acknowledged.len()).collect();
    let calm_until = cluster.now.plus_us(10_000_000);
    cluster.run_until(calm_until);
    for (client, before) in cluster.clients.iter().zip(before) {
        assert!(client.acknowledged.len() > before, "seed {seed}: a client made no progress in the calm");
    }
    cluster.check();
    // All replicas that are equally far have equal registers.
    let states: Vec<_> = cluster
        .nodes
        .iter()
        .filter_map(|node| node.engine.as_ref())
        .map(|engine| (engine.status().applied, engine.state().0.clone()))
        .collect();
    for pair in states.windows(2) {
        assert!(pair[0].0 != pair[1].0 || pair[0].1 == pair[1].1, "seed {seed}: replicas differ at {}", pair[0].0);
    }
    (cluster.clients.iter().map(|client| client.acknowledged.len()).sum(), cluster.crashes)
}

#[test]
fn cluster_under_crashes_and_loss_keeps_one_chain_of_values() {
    let mut swaps = 0;
    let mut crashes = 0;
    for seed in 0..12 {
        let (acknowledged, crashed) = torture(seed, if seed % 3 == 0 { 5 } else { 3 });
        swaps += acknowledged;
        crashes += crashed;
    }
    assert!(swaps > 1_000 && crashes > 100, "{swaps} swaps and {crashes} crashes are too few to mean anything");
}

// covers E1: the fast failover, on virtual time.
#[test]
fn leader_crash_replaced_within_tens_of_milliseconds() {
    let mut pauses = Vec::new();
    for seed in 0..20 {
        let mut cluster = Cluster::new(seed, 3, 1);
        cluster.run_until(Time(5_000_000));
        let is_leader = |node: &Node| {
            node.engine.as_ref().is_some_and(|engine| engine.status().role == smr::protocol::Role::Leader)
        };
        let leader = cluster.nodes.iter().position(is_leader).expect("a leader after 5 s");
        cluster.crash(leader);
        cluster.nodes[leader].restart_at = Time(u64::MAX);
        let killed_at = cluster.now;
        while !cluster.nodes.iter().any(is_leader) {
            cluster.step();
            assert!(cluster.now.since_us(killed_at) < 3_000_000, "seed {seed}: no new leader");
        }
        pauses.push(cluster.now.since_us(killed_at) / 1000);
    }
    pauses.sort_unstable();
    assert!(pauses[10] <= 100, "median of {pauses:?} ms");
}

#[test]
fn names_of_nodes_are_their_positions() {
    let cluster = Cluster::new(1, 3, 1);
    for (position, node) in cluster.nodes.iter().enumerate() {
        assert_eq!(node.id.name, NodeName(position as u16));
    }
}

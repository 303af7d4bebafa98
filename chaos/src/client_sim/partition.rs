//! A partition: a simulated replica group of the production map, and the production listener and backend of each of its
//! servers.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use madkv_proto::map::ClusterMap;
use madkv_server::backend::ServerBackend;
use madkv_server::map::{JudgesKeys, Map};
use parking_lot::Mutex;
use smr::entry::Term;
use smr::id::ReplicaId;
use smr::internals::protocol::{Protocol, Time};
use smr::replica::{NotLeader, Outcome, ReplyTo, Request, Submit};
use smr_service::listener::{Acceptor, ListenerLimits};
use smr_sim::sim_rng::SimRng;
use smr_sim::workload::{Operation, Seen, Workload};
use smr_sim::world::{Setting, World};

use super::endpoint::Endpoint;
use super::managers::narrow_map;
use super::rare::{Counts, Rare};
use super::sim_net::{Incoming, SimNet};

/// The machine that is replicated. Clients come from outside, so there is nothing to invent here.
#[derive(Clone)]
pub struct MapMachine;

impl Workload for MapMachine {
    type Machine = Map;

    fn machine(&self) -> Map {
        Map::default()
    }

    fn next(&mut self, client: usize, _rng: &mut SimRng) -> Operation {
        panic!("client {client} lives inside of the group")
    }

    fn judge(&self, _history: &[Seen]) -> Result<(), String> {
        Ok(())
    }
}

/// Where a listener puts requests; the event loop carries them on.
#[derive(Clone)]
pub struct RequestQueue {
    requests: Arc<Mutex<Vec<(Request, ReplyTo)>>>,
    net: Arc<SimNet>,
}

impl Submit for RequestQueue {
    fn queue(&self, request: Request, reply: ReplyTo) {
        self.requests.lock().push((request, reply));
        self.net.wake();
    }
}

/// A process with its listener.
struct Server {
    request_queue: RequestQueue,
    acceptor: Acceptor<ServerBackend<RequestQueue>>,
    backend: Arc<ServerBackend<RequestQueue>>,
    judges_keys: JudgesKeys,
    /// When it hears of the map that counts, if it is behind.
    learns_at: Option<Time>,
}

/// A request that a replica has.
struct Pending {
    replica: usize,
    reply: ReplyTo,
    /// Session and number, for a write.
    write: Option<(u64, u64)>,
}

/// See the module.
pub struct Partition {
    /// Its number.
    pub number: u16,
    /// The replicas.
    pub world: World<MapMachine>,
    /// What must not be was seen.
    pub violation: Option<String>,
    /// What was seen.
    pub counts: Counts,
    map: ClusterMap,
    limits: ListenerLimits,
    net: Arc<SimNet>,
    rng: SimRng,
    /// Processes per mille that start behind the map.
    behind: u64,
    servers: Vec<Option<Server>>,
    /// For each replica: the process that was last seen, and whether it was stopped.
    seen: Vec<(u64, bool)>,
    pending: BTreeMap<u64, Pending>,
    /// What managers have asked, and what they were answered.
    asked_by_managers: BTreeMap<u64, Option<Outcome>>,
    /// Answers to writes, by session and number.
    answered: BTreeMap<(u64, u64), Bytes>,
    /// Two replicas that name each other as the leader, in which term, until when.
    misled: Option<(usize, usize, Term, Time)>,
    /// The replica whose directory was emptied.
    emptied: Option<usize>,
    /// How the next process that ends does so.
    silently: Vec<bool>,
}

impl Partition {
    /// A partition of `map`, with a group by `setting`.
    pub fn new(
        number: u16,
        setting: Setting,
        map: ClusterMap,
        limits: ListenerLimits,
        behind: u64,
        net: Arc<SimNet>,
        rng: SimRng,
    ) -> Partition {
        let world = World::new(setting, MapMachine);
        let size = world.nodes.len();
        Partition {
            number,
            world,
            violation: None,
            counts: Counts::default(),
            map,
            limits,
            net,
            rng,
            behind,
            servers: (0..size).map(|_| None).collect(),
            seen: vec![(0, false); size],
            pending: BTreeMap::new(),
            asked_by_managers: BTreeMap::new(),
            answered: BTreeMap::new(),
            misled: None,
            emptied: None,
            silently: vec![false; size],
        }
    }

    fn place(&self, replica: usize) -> Endpoint {
        Endpoint { group: self.number, replica: replica as u16 }
    }

    /// Ends a process; with a power cut its connections say nothing.
    pub fn crash(&mut self, replica: usize, power_cut: bool) {
        if self.world.nodes[replica].is_down() {
            return;
        }
        if self.world.leader() == Some(replica) {
            self.counts.saw(Rare::LeaderKilled);
        }
        if power_cut {
            self.counts.saw(Rare::PowerCut);
        }
        self.silently[replica] = power_cut;
        self.world.crash(replica, power_cut);
    }

    /// Ends a process and empties its directory, if the group can bear it and none was emptied before.
    pub fn empty_directory(&mut self, replica: usize) -> bool {
        let bearable = self.world.nodes.len() >= 3 && self.emptied.is_none() && self.world.leader().is_some();
        if bearable {
            self.emptied = Some(replica);
            self.world.lose_directory(replica);
        }
        bearable
    }

    /// Two replicas name each other as the leader for this many microseconds.
    pub fn mislead(&mut self, one: usize, other: usize, us: u64) {
        let hints = self.world.nodes.iter().filter_map(|machine| machine.serving());
        let term = hints.map(|serving| serving.engine().core().routing().term).max().unwrap_or_default();
        self.misled = (one != other).then(|| (one, other, term, self.world.now.plus_us(us)));
    }

    /// Whom a misled replica names.
    fn misled(&self, replica: usize, request: &Request) -> Option<Outcome> {
        let (one, other, term, until) = self.misled?;
        let named = if replica == one { other } else { one };
        let asked = matches!(request, Request::OpenSession | Request::Write { .. } | Request::Read { .. });
        let misled = asked && (replica == one || replica == other) && self.world.now < until;
        misled.then(|| Outcome::NotLeader(NotLeader { leader: Some(ReplicaId(named as u16)), term }))
    }

    /// When something is due.
    pub fn next_at(&self) -> Option<Time> {
        let learns = self.servers.iter().flatten().filter_map(|server| server.learns_at).min();
        self.world.next_at().into_iter().chain(learns).min()
    }

    /// Takes a connection to a server that was there when it was dialled.
    pub fn serve(&mut self, incoming: Incoming) {
        // Gone meanwhile: dropped, which closes it.
        if let Some(server) = &self.servers[usize::from(incoming.place.replica)] {
            tokio::spawn(server.acceptor.serve(incoming.input, incoming.output));
        }
    }

    /// Lets happen what is due, and passes on what was asked and answered.
    pub fn run(&mut self, now: Time) {
        loop {
            self.carry_requests();
            let due = self.world.next_at().is_some_and(|at| at <= now);
            if !due {
                break;
            }
            self.world.step();
            self.carry_answers();
            self.watch_processes();
            self.watch_maps();
        }
        self.world.now = self.world.now.max(now);
        for server in self.servers.iter_mut().flatten() {
            if server.learns_at.is_some_and(|at| at <= now) {
                server.learns_at = None;
                server.backend.adopt(&self.map);
            }
        }
        if let Some(violation) = &self.world.watch.violation {
            self.violation.get_or_insert(format!("s{}: {violation:?}", self.number));
        }
    }

    fn carry_requests(&mut self) {
        for replica in 0..self.servers.len() {
            let Some(server) = &self.servers[replica] else { continue };
            let requests = std::mem::take(&mut *server.request_queue.requests.lock());
            for (request, reply) in requests {
                if let Some(outcome) = self.misled(replica, &request) {
                    reply.send(outcome);
                    continue;
                }
                let write = match &request {
                    Request::Write { client, number, .. } => Some((client.index, *number)),
                    _ => None,
                };
                let tag = self.world.submit(replica, request);
                self.pending.insert(tag, Pending { replica, reply, write });
            }
        }
    }

    fn carry_answers(&mut self) {
        for (tag, outcome) in self.world.take_answers() {
            if let Some(answer) = self.asked_by_managers.get_mut(&tag) {
                *answer = Some(outcome);
                continue;
            }
            // Asked by a process that is no more.
            let Some(Pending { reply, write, .. }) = self.pending.remove(&tag) else { continue };
            if let (Some(write), Outcome::Answer(answer)) = (write, &outcome) {
                match self.answered.insert(write, answer.clone()) {
                    Some(earlier) if earlier != *answer => {
                        let (session, number) = write;
                        let why = format!(
                            "s{}: write {number} of session {session} is answered {earlier:?} and {answer:?} (I13)",
                            self.number
                        );
                        self.violation.get_or_insert(why);
                    }
                    Some(_) => self.counts.saw(Rare::AnsweredFromStore),
                    None => {}
                }
            }
            if self.rng.chance(500) {
                reply.sink.deliver_now(reply.tag, outcome);
            } else {
                reply.send(outcome);
            }
        }
    }

    /// The managers ask whoever leads, or someone. Returns the tag of the question.
    pub fn ask_for_managers(&mut self, request: Request) -> u64 {
        let some_replica = self.rng.below(self.world.nodes.len() as u64) as usize;
        let replica = self.world.leader().unwrap_or(some_replica);
        let tag = self.world.submit(replica, request);
        self.asked_by_managers.insert(tag, None);
        tag
    }

    /// What a question of the managers was answered; asked for once.
    pub fn answer_to_managers(&mut self, tag: u64) -> Option<Outcome> {
        self.asked_by_managers.get_mut(&tag).and_then(Option::take)
    }

    /// Another map counts. Processes that run hear of it some time.
    pub fn map_changes(&mut self, map: &ClusterMap) {
        self.map = map.clone();
        for server in self.servers.iter_mut().flatten() {
            server.learns_at = Some(self.world.now.plus_us(1 + self.rng.below(1_000_000)));
        }
    }

    /// Opens listeners of processes that have started, and closes those of processes that have ended.
    fn watch_processes(&mut self) {
        for replica in 0..self.servers.len() {
            let machine = &self.world.nodes[replica];
            let (up, run) = (!machine.is_down(), machine.run());
            let stopped = up && machine.paused_until > self.world.now;
            let (seen_run, seen_stopped) = self.seen[replica];
            let place = self.place(replica);
            if self.servers[replica].is_some() && (!up || run != seen_run) {
                self.servers[replica] = None;
                self.pending.retain(|_, pending| pending.replica != replica);
                let silently = std::mem::take(&mut self.silently[replica]);
                self.net.place_ended(place, silently);
            }
            if up && self.servers[replica].is_none() {
                self.servers[replica] = Some(self.open(replica));
                self.net.place_started(place);
            }
            if stopped != seen_stopped {
                if stopped {
                    self.counts.saw(Rare::ServerStopped);
                }
                self.net.stop(place, stopped);
            }
            self.seen[replica] = (run, stopped);
        }
    }

    /// In service it is the map itself that says so; here one is made for each start of a process, by the simulator.
    fn watch_maps(&self) {
        for (server, machine) in self.servers.iter().zip(&self.world.nodes) {
            if let Some(server) = server {
                let judges = |map: &Map| map.judges_keys().get();
                server
                    .judges_keys
                    .set(machine.serving().is_some_and(|serving| judges(&serving.engine().state().inner)));
            }
        }
    }

    fn open(&mut self, replica: usize) -> Server {
        let behind = self.rng.chance(self.behind);
        let map = if behind { narrow_map(&self.map) } else { self.map.clone() };
        if behind {
            self.counts.saw(Rare::ServerBehind);
        }
        let learns_at = behind.then(|| self.world.now.plus_us(1_000 + self.rng.below(1_500_000)));
        let request_queue = RequestQueue { requests: Arc::default(), net: Arc::clone(&self.net) };
        let judges_keys = JudgesKeys::default();
        let backend = ServerBackend::new(request_queue.clone(), self.number, &map, judges_keys.clone());
        let backend = Arc::new(backend);
        let acceptor = Acceptor::new(Arc::clone(&backend), self.limits.clone());
        let _ = replica;
        Server { request_queue, acceptor, backend, judges_keys, learns_at }
    }
}

//! The world of a group under a configuration service: machines, the network between them, clients, the service, and
//! time. What goes wrong are methods, as in the world of Raft groups.

mod service_talk;
mod trouble;
mod turns;

use std::collections::BTreeSet;

use smr::codec;
use smr::entry::{EntryId, Genesis, Index, Term};
use smr::epoch::EpochConfiguration;
use smr::epoch_service::{MemberReport, ServiceWord};
use smr::id::{NodeId, ReplicaId, StartId};
use smr::internals::configured::{Message, invariants};
use smr::internals::engine::BuildCheckpoint;
use smr::internals::message::PeerMessage;
use smr::internals::protocol::{CoreStatus, Protocol, Time};
use smr::internals::snapshot::SendingFile;
use smr::replica::{Outcome, Request};
use smr::state_machine::{Image, StateMachine};

use super::ledger::{Ledger, Seen};
use super::machine::{Common, Input, Machine, Process};
use super::properties::{self, Property};
use super::rare::RareCounts;
use super::service::{Confirmed, LOOK_US, Service};
use super::swarm::SwarmConfig;
use crate::clients::Clients;
use crate::network::{CLIENTS, Endpoint, Frame, Network};
use crate::probe::Chained;
use crate::schedule::Schedule;
use crate::sim_node::{CLUSTER, group};
use crate::sim_rng::{Purpose, SimRng};
use crate::trace::{Text, Trace};
use crate::watch::Violation;
use crate::workload::{Register, Registers};

/// Where the configuration service is, as one end of a link.
pub const SERVICE: Endpoint = CLIENTS - 1;

/// How often one who waits says so, in microseconds.
const CALL_US: u64 = 50_000;
/// How long two processes take to connect, in microseconds.
const CONNECT_US: u64 = 500;

enum Event {
    Arrive(Frame),
    Reset {
        from: NodeId,
        to: usize,
    },
    Connected {
        from: NodeId,
        to: usize,
    },
    Request {
        replica: usize,
        tag: u64,
        request: Request,
    },
    Answer {
        tag: u64,
        outcome: Outcome,
    },
    /// No one took the request.
    Refused {
        tag: u64,
    },
    Client(usize),
    Turn {
        replica: usize,
    },
    Resume {
        replica: usize,
        run: u64,
    },
    Disk {
        replica: usize,
        run: u64,
    },
    Taken {
        replica: usize,
        run: u64,
    },
    Transferred(Box<Transfer>),
    Sent {
        replica: usize,
        run: u64,
        to: NodeId,
        last: Option<EntryId>,
    },
    Built {
        replica: usize,
        run: u64,
    },
    Start {
        replica: usize,
        run: u64,
    },
    CheckpointMade {
        replica: usize,
        run: u64,
    },
    BuildCheckpoint {
        replica: usize,
        run: u64,
        build: Box<BuildCheckpoint<Chained<Register>>>,
    },
    /// A report has reached the service.
    Report(MemberReport),
    /// The round that confirms the leader is over.
    Confirm(MemberReport),
    /// The leader that was confirmed takes the report in.
    Hear(Box<Confirmed>),
    /// The service's word has reached a node.
    Word {
        node: NodeId,
        word: Option<Box<ServiceWord>>,
    },
    /// The leader of the service looks what is to be decided.
    Look,
    /// What is proposed is committed.
    Commit,
    /// The service has a leader again.
    Lead,
}

struct Transfer {
    from: NodeId,
    run: u64,
    to: NodeId,
    file: Option<SendingFile>,
}

/// See the module.
pub struct World {
    /// The true time.
    pub now: Time,
    /// One for each replica.
    pub machines: Vec<Machine>,
    /// What is under way between them.
    pub network: Network,
    /// Who asks, and what came of it.
    pub clients: Clients<Registers>,
    /// What has happened.
    pub trace: Trace,
    /// How often what was seen.
    pub rare: RareCounts,
    /// The first thing that did not hold.
    pub violation: Option<Violation>,
    pub(super) service: Service,
    common: Common,
    ledger: Ledger,
    properties: Vec<Box<dyn Property>>,
    /// What clients count, which is about Raft groups as well.
    of_clients: crate::rare::RareCounts,
    schedule: Schedule<Event>,
    steps: u64,
    /// When the latest decision that was proposed will be committed.
    commits_until: Time,
    disks: SimRng,
    rolls: SimRng,
    faults: SimRng,
}

impl World {
    /// A group that begins with its genesis, and others that wait to be taken in.
    pub fn new(seed: u64, config: SwarmConfig, text: Text) -> World {
        let names = 0..config.machines();
        let machines: Vec<Machine> = names.map(|name| Machine::new(name, config.clocks[usize::from(name)])).collect();
        let members: BTreeSet<NodeId> = machines[..usize::from(config.size)].iter().map(|machine| machine.id).collect();
        let founded = EpochConfiguration {
            epoch: Term(1),
            kind: config.settings.kind,
            members: members.iter().copied().collect(),
            incomplete: None,
        };
        let mut workload = Registers::new(config.registers, config.reads_percent).with_ballast(config.ballast_bytes);
        workload.readers = config.readers;
        let mut world = World {
            now: Time(0),
            network: Network::new(seed, config.weather),
            clients: Clients::new(seed, machines.len(), config.pace, workload).with_habits(config.habits),
            trace: Trace::new(text),
            rare: RareCounts::default(),
            violation: None,
            service: Service::new(config.service.clone(), &founded, SimRng::new(seed, Purpose::Service)),
            common: Common {
                genesis: Genesis { cluster: Some(CLUSTER), group: group(), members },
                replicas: machines.iter().map(|machine| machine.id.name).collect::<BTreeSet<ReplicaId>>(),
                config,
            },
            machines,
            ledger: Ledger::default(),
            properties: properties::all(),
            of_clients: crate::rare::RareCounts::default(),
            schedule: Schedule::new(),
            steps: 0,
            commits_until: Time(0),
            disks: SimRng::new(seed, Purpose::Disks),
            rolls: SimRng::new(seed, Purpose::Nodes),
            faults: SimRng::new(seed, Purpose::Order),
        };
        for replica in 0..world.machines.len() {
            world.start_at(replica, Time(0));
        }
        world.schedule(Time(0), Event::Lead);
        world.schedule(Time(LOOK_US), Event::Look);
        for number in 0..world.clients.count() {
            world.wake_client(number);
        }
        world
    }

    /// How many steps were made.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// What this world is made of.
    pub fn config(&self) -> &SwarmConfig {
        &self.common.config
    }

    /// The replica of the first of the present epoch, if it orders.
    pub fn first(&self) -> Option<usize> {
        let first = self.service.record().present().first();
        let replica = usize::from(first.name.0);
        let core = self.machines[replica].core().filter(|_| self.machines[replica].id == first)?;
        invariants::orders(core).then_some(replica)
    }

    /// Lets the next thing happen if that is not later than `until`; else false.
    pub fn step_before(&mut self, until: Time) -> bool {
        if !self.schedule.has_until(until) {
            return false;
        }
        let Some((at, event)) = self.schedule.pop() else { return false };
        self.now = at.max(self.now);
        self.steps += 1;
        self.handle(event);
        if let Some(why) = self.clients.take_violation() {
            self.violate("C9 outcomes that clients understand", why);
        }
        true
    }

    /// Time goes on to then. Nothing may be due before.
    pub fn skip_to(&mut self, at: Time) {
        self.now = at.max(self.now);
    }

    /// Something is wrong.
    pub fn violate(&mut self, property: &str, why: String) {
        let (step, at) = (self.steps, self.now);
        self.violation.get_or_insert_with(|| Violation { property: property.to_owned(), why, step, at });
    }

    /// Something happened: all properties judge it, and it goes into the books.
    fn observe(&mut self, seen: &Seen<'_>) {
        let (now, step) = (self.now, self.steps);
        match seen {
            // Too many to be told one by one; what they come to is in the others.
            Seen::Stepped { .. } | Seen::State { .. } => {}
            seen => self.trace.note(now, &words(seen), || text(seen)),
        }
        for property in &mut self.properties {
            if let Err(why) = property.on(seen, &self.ledger) {
                let property = property.name().to_owned();
                self.violation.get_or_insert(Violation { property, why, step, at: now });
            }
        }
        self.ledger.note(seen);
    }

    /// Something that no property judges, for whoever reads the trace.
    pub(super) fn say(&mut self, text: impl FnOnce() -> String) {
        self.trace.note(self.now, &[9], text);
    }

    fn schedule(&mut self, at: Time, event: Event) {
        self.schedule.add(at.max(self.now), event);
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Arrive(frame) => self.arrive(frame),
            Event::Reset { from, to } => {
                if !self.machines[to].is_down() && !self.network.is_cut(from.name.0, to as u16) {
                    self.put(to, Input::Reset { from });
                }
            }
            Event::Connected { from, to } => {
                let there = &self.machines[usize::from(from.name.0)];
                let is_there = there.id == from && !there.is_down() && !self.machines[to].is_down();
                if is_there && !self.network.is_cut(from.name.0, to as u16) {
                    self.put(to, Input::Connected { from });
                }
            }
            Event::Request { replica, tag, request } => {
                if self.machines[replica].is_down() {
                    return self.schedule(self.now.plus_us(100), Event::Refused { tag });
                }
                self.say(|| format!("replica {replica} is asked {tag:x}: {request:?}"));
                self.machines[replica].requests.push_back((tag, request));
                self.turn_soon(replica);
            }
            Event::Answer { tag, outcome } => {
                self.say(|| format!("client {} hears of {tag:x}: {outcome:?}", tag >> 48));
                self.clients.take(tag, outcome, self.now, &mut self.of_clients);
                self.wake_client((tag >> 48) as usize);
            }
            Event::Refused { tag } => {
                self.clients.refused(tag, self.now);
                self.wake_client((tag >> 48) as usize);
            }
            Event::Client(number) => {
                if self.clients.wake(number, self.now) {
                    self.wake_client(number);
                }
            }
            Event::Turn { replica } => self.turn(replica),
            Event::Resume { replica, run } => self.resume(replica, run),
            Event::Disk { replica, run } => self.disk(replica, run),
            Event::Taken { replica, run } => self.taken(replica, run),
            Event::Transferred(transfer) => self.transferred(*transfer),
            Event::Sent { replica, run, to, last } => {
                if self.machines[replica].run == run {
                    self.put(replica, Input::SnapshotSent { to, last });
                }
            }
            Event::Built { replica, run } => self.built(replica, run),
            Event::Start { replica, run } => self.start(replica, run),
            Event::CheckpointMade { replica, run } => {
                if self.machines[replica].run == run {
                    self.put(replica, Input::CheckpointMade);
                }
            }
            Event::BuildCheckpoint { replica, run, build } => {
                if self.machines[replica].run == run {
                    let built = build.build();
                    self.put(replica, Input::CheckpointBuilt(built));
                }
            }
            Event::Report(report) => self.report(report),
            Event::Confirm(report) => self.confirm(report),
            Event::Hear(confirmed) => self.hear(*confirmed),
            Event::Word { node, word } => self.word(node, word),
            Event::Look => self.look_at_service(),
            Event::Commit => self.commit_decision(),
            Event::Lead => self.lead_service(),
        }
    }

    fn wake_client(&mut self, number: usize) {
        for ask in self.clients.take_asks() {
            if let Some(at) = self.network.arrivals(self.now, CLIENTS, ask.replica as u16).next() {
                self.schedule(at, Event::Request { replica: ask.replica, tag: ask.tag, request: ask.request });
            }
        }
        if let Some(at) = self.clients.wakes_at(number, self.now) {
            self.schedule(at, Event::Client(number));
        }
    }

    /// Clients begin nothing new but the workload's last reads.
    pub fn begin_last_reads(&mut self) {
        self.clients.stop();
        self.clients.begin_last_reads(self.now);
        self.wake_client(0);
    }

    fn arrive(&mut self, frame: Frame) {
        let replica = usize::from(frame.to.name.0);
        let machine = &self.machines[replica];
        if machine.is_down() || machine.id != frame.to || self.network.is_cut(frame.from.name.0, frame.to.name.0) {
            return;
        }
        self.put(replica, Input::Peer { from: frame.from, bytes: frame.bytes });
    }

    fn send_message(&mut self, from: NodeId, to: NodeId, message: Message) {
        self.observe(&Seen::Sent { from, to, message: &message });
        self.send(from, to, &PeerMessage::Protocol(message));
    }

    fn send(&mut self, from: NodeId, to: NodeId, message: &PeerMessage<Message>) {
        self.send_at(self.now, from, to, message);
    }

    /// Sends something that leaves then.
    fn send_at(&mut self, at: Time, from: NodeId, to: NodeId, message: &PeerMessage<Message>) {
        let frame = Frame { from, start: StartId::default(), to, bytes: codec::encode(message).into() };
        if let Some(old) = self.network.remember(&frame) {
            let at = self.now.plus_us(self.disks.below(5_000));
            self.schedule(at, Event::Arrive(old));
        }
        for at in self.network.arrivals(at, from.name.0, to.name.0) {
            self.schedule(at, Event::Arrive(frame.clone()));
        }
    }

    /// A hash over the whole state of the node on a replica.
    pub fn deep_digest(&self, replica: usize) -> Option<u64> {
        let engine = self.machines[replica].serving()?.engine();
        let mut bytes = Vec::new();
        let state = engine.state().image();
        let written = engine.sessions().image().write(&mut bytes).and_then(|()| state.write(&mut bytes));
        written.unwrap_or_else(|error| panic!("writing to memory failed: {error}"));
        Some(codec::checksum(&[&bytes]))
    }

    /// The last index that the node on a replica applied, if it serves.
    pub fn applied(&self, replica: usize) -> Option<Index> {
        self.machines[replica].serving().map(|serving| serving.applied().index)
    }

    /// The group as it is, in a line.
    pub fn described(&self) -> String {
        let nodes = self.machines.iter().map(|machine| match &machine.process {
            Process::Down => format!("{} is down", machine.id),
            Process::Waiting(_) => format!("{} waits", machine.id),
            Process::Serving(serving) => {
                let (status, applied) = (serving.engine().core().status(), serving.applied());
                let CoreStatus { term, last, commit, .. } = status;
                format!("{} in epoch {term} has {last}, commits {commit}, applied {applied}", machine.id)
            }
        });
        let nodes: Vec<String> = nodes.collect();
        let complete = self.service.record().complete();
        format!("{}, complete {complete:?}; {}", self.service.record().present(), nodes.join("; "))
    }

    /// The last entry that was ever committed.
    pub fn last_committed(&self) -> Index {
        self.ledger.last_committed()
    }
}

fn id(entry: EntryId) -> u64 {
    entry.index.0 << 16 ^ entry.term.0
}

/// What goes into the hash of the trace.
fn words(seen: &Seen<'_>) -> [u64; 4] {
    match seen {
        Seen::Started { node, configuration, snapshot, entries, .. } => {
            let epoch = configuration.map_or(0, |configuration| configuration.epoch.0);
            let last = entries.last().map_or(*snapshot, |entry| entry.id);
            [1, node.incarnation.0, epoch, id(last)]
        }
        Seen::Durable { node, write } => [2, node.incarnation.0, write.id().0, write.log().len() as u64],
        Seen::Sent { from, to, message } => {
            [3, from.incarnation.0, to.incarnation.0, codec::checksum(&[&codec::encode(*message)])]
        }
        Seen::Committed { node, entry, configuration } => [4, node.incarnation.0, id(entry.id), configuration.epoch.0],
        Seen::Decided { configuration, complete, leased } => {
            [5, configuration.epoch.0, *complete as u64, leased.len() as u64]
        }
        Seen::Ended { node } => [6, node.incarnation.0, 0, 0],
        Seen::Emptied { node } => [7, node.incarnation.0, 0, 0],
        Seen::Stepped { .. } | Seen::State { .. } => [8, 0, 0, 0],
    }
}

fn text(seen: &Seen<'_>) -> String {
    match seen {
        Seen::Started { node, configuration, snapshot, entries, .. } => {
            let configuration = configuration.map_or("no epoch".to_owned(), ToString::to_string);
            format!("{node} starts in {configuration}, snapshot {snapshot}, {} entries", entries.len())
        }
        Seen::Durable { node, write } => {
            format!("{node} has written #{}: {:?} {:?}", write.id().0, write.stored_state(), write.log())
        }
        Seen::Sent { from, to, message } => format!("{from} to {to}: {message:?}"),
        Seen::Committed { node, entry, configuration } => {
            format!("{node} commits {} in epoch {}", entry.id, configuration.epoch)
        }
        Seen::Decided { configuration, complete, .. } => format!("decided: {configuration}; {complete} complete"),
        Seen::Ended { node } => format!("{node} ends"),
        Seen::Emptied { node } => format!("{node} loses its directory"),
        Seen::Stepped { .. } | Seen::State { .. } => String::new(),
    }
}

//! The world: machines, the network between them, clients, and time.
//!
//! [`World::step`] lets the next thing happen. What goes wrong are methods, for scenarios and for the fault injector
//! alike: [`World::crash`], [`World::pause`], [`World::hang_disk`], [`World::cut_off`], [`World::reset`],
//! [`World::lose_directory`], [`World::damage`], [`World::set_back`].

use std::collections::{BTreeMap, BTreeSet};

use smr::codec;
use smr::entry::{EntryId, GenesisRequest};
use smr::id::{Disqualified, NodeId, ReplicaId, StartId, StartTrail};
use smr::internals::protocol::{Protocol, Recovered, Time};
use smr::internals::snapshot::SendingFile;
use smr::replica::{GenesisAnswer, Outcome, Request};
use smr::state_machine::{Image, StateMachine};
use smr::status::Role;

use crate::clients::{Clients, FLOOD, LISTENER, OPERATOR, Pace};
use crate::network::{Frame, Network, Weather};
use crate::properties::{NodeView, Property, SimNodes, View};
use crate::schedule::Schedule;
use crate::sim_node::{Common, Input, Shape, SimNode};
use crate::sim_rng::{Purpose, SimRng};
use crate::trace::{Text, Trace};
use crate::watch::Watch;
use crate::workload::Workload;

pub use founding::Recorder;

mod background;
mod delivery;
mod faults;
mod founding;
mod processes;
mod requests;
mod turns;

/// How often an uninitialized replica says so, in microseconds.
const BOOTSTRAP_INTERVAL_US: u64 = 50_000;

/// How a world begins.
pub struct Setting {
    /// Decides everything.
    pub seed: u64,
    /// How many replicas, and their limits.
    pub shape: Shape,
    /// The network.
    pub weather: Weather,
    /// The clients.
    pub pace: Pace,
    /// What must hold.
    pub properties: Vec<Box<dyn Property>>,
    /// What becomes of the trace's text.
    pub text: Text,
}

impl Setting {
    /// A small group with all properties.
    pub fn small(seed: u64, size: u16) -> Setting {
        Setting {
            seed,
            shape: Shape::small(size),
            weather: Weather::default(),
            pace: Pace::default(),
            properties: crate::properties::all(),
            text: Text::None,
        }
    }
}

enum Event {
    Arrive(Frame),
    /// The news that a connection from there was closed by its side.
    Reset {
        from: NodeId,
        to: usize,
    },
    /// The news that a connection from there was made.
    Connected {
        from: NodeId,
        to: usize,
    },
    /// The news that this process must not take part any longer.
    Disqualified {
        node: NodeId,
        start: StartId,
        why: Disqualified,
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
    /// The disk of this node has room again.
    Room {
        replica: usize,
    },
    Built {
        replica: usize,
        run: u64,
    },
    Transferred(Box<SnapshotTransfer>),
    /// The sender of a snapshot hears how the transfer ended.
    Sent {
        replica: usize,
        run: u64,
        to: NodeId,
        last: Option<EntryId>,
    },
    Start {
        replica: usize,
        run: u64,
    },
    /// The request to record a genesis has reached those who do.
    GenesisAsked {
        replica: usize,
        run: u64,
        request: GenesisRequest,
    },
    GenesisAnswered {
        replica: usize,
        run: u64,
        answer: GenesisAnswer,
    },
    Client(usize),
}

struct SnapshotTransfer {
    from: NodeId,
    run: u64,
    to: NodeId,
    /// `None` if there was nothing to send.
    file: Option<SendingFile>,
}

/// See the module.
pub struct World<W: Workload> {
    /// The seed that decided everything.
    pub seed: u64,
    /// The time by the clock of the world; each node has one of its own.
    pub now: Time,
    /// One for each replica.
    pub nodes: Vec<SimNode<W::Machine>>,
    /// What is under way between nodes.
    pub network: Network,
    /// Who asks, and what came of it.
    pub clients: Clients<W>,
    /// Who looks on.
    pub watch: Watch,
    /// Who records which group was founded.
    pub recorder: Recorder,
    /// How long a write takes to the device, in microseconds, at most.
    pub disk_us: u64,
    common: Common<W::Machine>,
    schedule: Schedule<Event>,
    steps: u64,
    touched: Vec<usize>,
    disks: SimRng,
    order: SimRng,
    rolls: SimRng,
    faults: SimRng,
    next_incarnation: u64,
    next_operator_tag: u64,
    next_listener_tag: u64,
    /// Outcomes of what listeners asked.
    listener_outcomes: Vec<(u64, Outcome)>,
    next_flood_tag: u64,
    transfers_asked: BTreeSet<u64>,
    readmissions_asked: BTreeSet<(ReplicaId, NodeId)>,
    /// What the manager remembers: the newest start of each node.
    manager: BTreeMap<NodeId, StartId>,
    /// Processes that were started from a copy of a directory.
    copies: BTreeMap<(NodeId, StartId), StartTrail>,
}

impl<S: StateMachine> SimNodes for Vec<SimNode<S>> {
    fn node(&self, replica: usize) -> Option<NodeView<'_>> {
        let machine = &self[replica];
        let serving = machine.serving()?;
        let engine = serving.engine();
        Some(NodeView {
            node: machine.id,
            raft: engine.core().raft(),
            clock: machine.clock,
            applied: engine.applied(),
            snapshot: engine.snapshot(),
            sessions: engine.sessions(),
            digest: engine.state().digest,
            requests_waiting: serving.turns.waiting(),
            events_waiting_most: machine.inbox_most,
            events_max: serving.events_max,
            writes_under_way_high: serving.turns.writes_under_way_high(),
        })
    }

    fn deep_digest(&self, replica: usize) -> Option<u64> {
        let engine = self[replica].serving()?.engine();
        let mut bytes = Vec::new();
        let state = engine.state().image();
        let written = engine.sessions().image().write(&mut bytes).and_then(|()| state.write(&mut bytes));
        written.unwrap_or_else(|error| panic!("writing to memory failed: {error}"));
        Some(codec::checksum(&[&bytes]))
    }

    fn found_after_power_cut(&self, replica: usize) -> Option<Result<Recovered, String>> {
        self[replica].serving().map(|_| self[replica].found_after_power_cut())
    }

    fn replicas(&self) -> usize {
        self.len()
    }
}

impl<W: Workload> World<W>
where
    W: Clone,
{
    /// Empty directories on all replicas, whose processes start at once and found their group. Spare ones wait to be
    /// taken in.
    pub fn new(setting: Setting, workload: W) -> World<W> {
        let Setting { seed, shape, weather, pace, properties, text } = setting;
        let founders = shape.size;
        let size = founders + shape.spares;
        let empty = {
            let workload = workload.clone();
            Box::new(move || workload.machine())
        };
        let replicas = (0..founders).map(ReplicaId).collect();
        let mut world = World {
            seed,
            now: Time(0),
            nodes: (0..size).map(|name| SimNode::new(name, 100 * (1 + u64::from(name)))).collect(),
            network: Network::new(seed, weather),
            clients: Clients::new(seed, usize::from(size), pace, workload).with_limits(shape.sessions),
            watch: Watch::new(Trace::new(text), properties),
            disk_us: 2_000,
            common: Common { shape, replicas, empty, is_recorded: true },
            recorder: Recorder::new(seed),
            schedule: Schedule::new(),
            steps: 0,
            touched: Vec::new(),
            disks: SimRng::new(seed, Purpose::Disks),
            order: SimRng::new(seed, Purpose::Order),
            rolls: SimRng::new(seed, Purpose::Nodes),
            faults: SimRng::new(seed, Purpose::Faults),
            next_incarnation: 10_000,
            next_operator_tag: OPERATOR,
            next_listener_tag: LISTENER,
            listener_outcomes: Vec::new(),
            next_flood_tag: FLOOD,
            transfers_asked: BTreeSet::new(),
            readmissions_asked: BTreeSet::new(),
            manager: BTreeMap::new(),
            copies: BTreeMap::new(),
        };
        for replica in 0..usize::from(size) {
            world.start_at(replica, Time(0));
        }
        world.wake_clients();
        world
    }
}

impl<W: Workload> World<W> {
    /// How many steps were made.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The replicas that the last step touched.
    pub fn touched(&self) -> &[usize] {
        &self.touched
    }

    /// What all machines have in common.
    pub fn shape(&self) -> &Shape {
        &self.common.shape
    }

    /// A number below `end`, for experiments.
    pub fn draw(&mut self, end: u64) -> u64 {
        self.faults.below(end)
    }

    /// The replica of whoever leads in the highest term.
    pub fn leader(&self) -> Option<usize> {
        let leads = |machine: &SimNode<W::Machine>| {
            let core = machine.serving()?.engine().core();
            (core.role() == Role::Leader).then(|| core.routing().term)
        };
        let terms = self.nodes.iter().enumerate().filter_map(|(replica, machine)| Some((leads(machine)?, replica)));
        terms.max().map(|(_, replica)| replica)
    }

    /// The last index that the node on a replica applied, if it is in service.
    pub fn applied(&self, replica: usize) -> Option<u64> {
        self.nodes[replica].serving().map(|serving| serving.applied().index.0)
    }

    /// When the next thing happens.
    pub fn next_at(&self) -> Option<Time> {
        self.schedule.next_at()
    }

    /// Lets the next thing happen. False if nothing ever happens again.
    pub fn step(&mut self) -> bool {
        let Some((at, event)) = self.schedule.pop() else { return false };
        self.now = at.max(self.now);
        self.steps += 1;
        (self.watch.now, self.watch.step) = (self.now, self.steps);
        self.touched.clear();
        self.handle(event);
        if let Some(why) = self.clients.take_violation() {
            self.watch.violate("C9 outcomes that clients understand", why);
        }
        let view = View { now: self.now, step: self.steps, touched: &self.touched, nodes: &self.nodes };
        self.watch.after_step(&view);
        true
    }

    /// Lets the next thing happen if that is not later than `until`; else false.
    pub fn step_before(&mut self, until: Time) -> bool {
        self.schedule.has_until(until) && self.step()
    }

    /// Time goes on to then, if it is not that late already. Nothing may be due before.
    pub fn skip_to(&mut self, at: Time) {
        self.now = at.max(self.now);
        self.watch.now = self.now;
    }

    /// Steps until then, for scenarios.
    ///
    /// # Panics
    /// If a property is violated.
    pub fn run_until(&mut self, until: Time) {
        while self.schedule.has_until(until) {
            self.step();
            self.assert_sound();
        }
        self.now = until.max(self.now);
    }

    /// Steps for this many microseconds.
    ///
    /// # Panics
    /// If a property is violated.
    pub fn run_for(&mut self, us: u64) {
        self.run_until(self.now.plus_us(us));
    }

    /// Steps until something holds.
    ///
    /// # Panics
    /// If it does not within this many microseconds, or a property is violated.
    pub fn run_until_that(&mut self, within_us: u64, what: &str, holds: impl Fn(&World<W>) -> bool) {
        let deadline = self.now.plus_us(within_us);
        while !holds(self) {
            assert!(self.now < deadline, "seed {}: not within {within_us} us: {what}", self.seed);
            assert!(self.step(), "seed {}: nothing happens any more: {what}", self.seed);
            self.assert_sound();
        }
    }

    fn assert_sound(&self) {
        assert!(self.watch.violation.is_none(), "seed {}: {:?}", self.seed, self.watch.violation);
    }

    fn schedule(&mut self, at: Time, event: Event) {
        self.schedule.add(at.max(self.now), event);
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Arrive(frame) => self.arrive(frame),
            Event::Reset { from, to } => {
                if !self.nodes[to].is_down() && !self.network.is_cut(from.name.0, to as u16) {
                    self.put(to, Input::Reset { from });
                }
            }
            Event::Connected { from, to } => {
                let is_there = |replica: usize| !self.nodes[replica].is_down();
                let same = self.nodes[from.name.0 as usize].id == from;
                if same
                    && is_there(from.name.0 as usize)
                    && is_there(to)
                    && !self.network.is_cut(from.name.0, to as u16)
                {
                    self.put(to, Input::Connected { from });
                }
            }
            Event::Room { replica } => self.room_changes(replica, false),
            Event::Disqualified { node, start, why } => self.disqualified(node, start, why),
            Event::Request { replica, tag, request } => {
                if !self.nodes[replica].is_down() {
                    self.put_request(replica, tag, request);
                    self.turn_soon(replica);
                } else if !(LISTENER..OPERATOR).contains(&tag) {
                    self.schedule(self.now.plus_us(100), Event::Refused { tag });
                }
            }
            Event::Answer { tag, outcome } => {
                self.clients.take(tag, outcome, self.now, &mut self.watch.rare);
                self.serve_client(tag);
            }
            Event::Refused { tag } => {
                self.clients.refused(tag, self.now);
                self.serve_client(tag);
            }
            Event::Turn { replica } => self.turn(replica),
            Event::Resume { replica, run } => self.resume(replica, run),
            Event::Disk { replica, run } => self.disk(replica, run),
            Event::Taken { replica, run } => self.taken(replica, run),
            Event::Built { replica, run } => self.built(replica, run),
            Event::Transferred(transfer) => self.transferred(*transfer),
            Event::Sent { replica, run, to, last } => {
                if self.nodes[replica].run == run && !self.nodes[replica].is_down() {
                    self.put(replica, Input::SnapshotSent { to, last });
                }
            }
            Event::Start { replica, run } => self.start(replica, run),
            Event::GenesisAsked { replica, run, request } => self.genesis_asked(replica, run, request),
            Event::GenesisAnswered { replica, run, answer } => self.genesis_answered(replica, run, answer),
            Event::Client(number) => {
                if self.clients.wake(number, self.now) {
                    self.wake_client(number);
                }
            }
        }
    }

    /// The replicas whose node is in service.
    pub fn serving_replicas(&self) -> BTreeSet<usize> {
        (0..self.nodes.len()).filter(|replica| self.nodes[*replica].serving().is_some()).collect()
    }
}

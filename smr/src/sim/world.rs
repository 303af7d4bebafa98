//! The world: machines, the network between them, clients, and time.
//!
//! [`World::step`] lets the next thing happen. What goes wrong are methods, for scenarios and for the swarm alike:
//! [`World::crash`], [`World::pause`], [`World::hang_disk`], [`World::cut_off`], [`World::reset`],
//! [`World::lose_directory`], [`World::damage`], [`World::set_back`].

use std::cmp::Ordering;
use std::collections::{BTreeSet, BinaryHeap};
use std::path::Path;

use crate::codec;
use crate::entry::EntryId;
use crate::id::{Incarnation, NodeId, NodeName};
use crate::protocol::{Envelope, Event as CoreEvent, Protocol, Recovered, Role, Time};
use crate::raft::Message;
use crate::replica::birth::{BirthMessage, Verdict};
use crate::replica::disk::DiskJob;
use crate::replica::engine::Action;
use crate::replica::message::PeerMessage;
use crate::replica::{Outcome, Request};
use crate::sim::clients::{Clients, DOOR, OPERATOR, Pace};
use crate::sim::dice::{Dice, Purpose};
use crate::sim::machine::{Broken, Common, Input, Life, Machine, Shape, Start, carry};
use crate::sim::network::{CLIENTS, Frame, Network, Weather};
use crate::sim::properties::{End, Happening, Machines, NodeView, Property, Spoiled, View};
use crate::sim::rare::Rare;
use crate::sim::trace::{Text, Trace};
use crate::sim::watch::Watch;
use crate::sim::workload::Workload;
use crate::snapshot::{SendingFile, SnapshotError};
use crate::state_machine::{Image, StateMachine};
use crate::storage::virtual_disk::{Loss, VirtualDisk};

/// Inputs that wait for a stopped process at most; the next ones are lost.
const INBOX_MAX: usize = 8 << 10;
/// How often an unborn replica says so, in microseconds.
const BIRTH_INTERVAL_US: u64 = 50_000;
/// How often a replica that is being readmitted looks whether it has become a voter, in microseconds.
const READMISSION_LOOK_US: u64 = 200_000;

/// How a world begins.
pub struct Setting {
    /// Decides everything.
    pub seed: u64,
    /// The group.
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
            properties: crate::sim::properties::all(),
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
    Request {
        seat: usize,
        tag: u64,
        request: Request,
    },
    Answer {
        tag: u64,
        outcome: Outcome,
    },
    /// Nobody took the request.
    Refused {
        tag: u64,
    },
    Turn {
        seat: usize,
    },
    Resume {
        seat: usize,
        run: u64,
    },
    Disk {
        seat: usize,
        run: u64,
    },
    Taken {
        seat: usize,
        run: u64,
    },
    Built {
        seat: usize,
        run: u64,
    },
    Transferred(Box<Transfer>),
    Start {
        seat: usize,
        run: u64,
    },
    Client(usize),
}

struct Transfer {
    from: NodeId,
    run: u64,
    to: NodeId,
    /// `None` if there was nothing to send.
    file: Option<SendingFile>,
}

struct Scheduled {
    at: Time,
    number: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Scheduled {}
impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Scheduled {
    /// The earliest is the greatest: the heap gives that one first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

/// See the module.
pub struct World<W: Workload> {
    /// The seed that decided everything.
    pub seed: u64,
    /// The time.
    pub now: Time,
    /// One for each seat.
    pub machines: Vec<Machine<W::Machine>>,
    /// The network.
    pub network: Network,
    /// The clients.
    pub clients: Clients<W>,
    /// Who looks on.
    pub watch: Watch,
    /// How long a write takes to the device, in microseconds, at most.
    pub disk_us: u64,
    common: Common<W::Machine>,
    queue: BinaryHeap<Scheduled>,
    scheduled: u64,
    steps: u64,
    touched: Vec<usize>,
    disks: Dice,
    rolls: Dice,
    faults: Dice,
    next_incarnation: u64,
    next_operator_tag: u64,
    next_door_tag: u64,
    /// Outcomes of what doors asked.
    door: Vec<(u64, Outcome)>,
}

impl<S: StateMachine> Machines for Vec<Machine<S>> {
    fn node(&self, seat: usize) -> Option<NodeView<'_>> {
        let machine = &self[seat];
        let serving = machine.serving()?;
        let engine = &serving.engine;
        Some(NodeView {
            node: machine.id,
            raft: engine.core().raft(),
            applied: engine.applied(),
            snapshot: engine.snapshot(),
            sessions: engine.sessions(),
            digest: engine.state().digest,
            requests_waiting: engine.requests_waiting(),
        })
    }

    fn deep_digest(&self, seat: usize) -> Option<u64> {
        let engine = &self[seat].serving()?.engine;
        let mut bytes = Vec::new();
        let state = engine.state().image();
        let written = engine.sessions().image().write(&mut bytes).and_then(|()| state.write(&mut bytes));
        written.unwrap_or_else(|error| panic!("writing to memory failed: {error}"));
        Some(codec::checksum(&[&bytes]))
    }

    fn found_after_power_cut(&self, seat: usize) -> Option<Result<Recovered, String>> {
        self[seat].serving().map(|_| self[seat].found_after_power_cut())
    }

    fn seats(&self) -> usize {
        self.len()
    }
}

impl<W: Workload> World<W>
where
    W: Clone,
{
    /// Empty directories on all seats, whose processes start at once and found their group.
    pub fn new(setting: Setting, workload: W) -> World<W> {
        let Setting { seed, shape, weather, pace, properties, text } = setting;
        let size = shape.size;
        let empty = {
            let workload = workload.clone();
            Box::new(move || workload.machine())
        };
        let seats = (0..size).map(NodeName).collect();
        let mut world = World {
            seed,
            now: Time(0),
            machines: (0..size).map(|name| Machine::new(name, 100 * (1 + u64::from(name)))).collect(),
            network: Network::new(seed, weather),
            clients: Clients::new(seed, usize::from(size), pace, workload).with_limits(shape.sessions),
            watch: Watch::new(Trace::new(text), properties),
            disk_us: 2_000,
            common: Common { shape, seats, empty },
            queue: BinaryHeap::new(),
            scheduled: 0,
            steps: 0,
            touched: Vec::new(),
            disks: Dice::new(seed, Purpose::Disks),
            rolls: Dice::new(seed, Purpose::Machines),
            faults: Dice::new(seed, Purpose::Faults),
            next_incarnation: 10_000,
            next_operator_tag: OPERATOR,
            next_door_tag: DOOR,
            door: Vec::new(),
        };
        for seat in 0..usize::from(size) {
            world.start_at(seat, Time(0));
        }
        world.wake_clients();
        world
    }
}

impl<W: Workload> World<W> {
    // ---- Looking ----

    /// How many steps were made.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// What all machines have in common.
    pub fn shape(&self) -> &Shape {
        &self.common.shape
    }

    /// A number below `end`, for experiments.
    pub fn draw(&mut self, end: u64) -> u64 {
        self.faults.below(end)
    }

    /// The seat of whoever leads in the highest term.
    pub fn leader(&self) -> Option<usize> {
        let leads = |machine: &Machine<W::Machine>| {
            let core = machine.serving()?.engine.core();
            (core.role() == Role::Leader).then(|| core.leader_hint().term)
        };
        let terms = self.machines.iter().enumerate().filter_map(|(seat, machine)| Some((leads(machine)?, seat)));
        terms.max().map(|(_, seat)| seat)
    }

    /// The last index that the node on a seat applied, if it is in service.
    pub fn applied(&self, seat: usize) -> Option<u64> {
        self.machines[seat].serving().map(|serving| serving.applied().index.0)
    }

    // ---- What goes wrong ----

    /// Ends a process, by a kill or a power cut; it comes back after a random time.
    pub fn crash(&mut self, seat: usize, power_cut: bool) {
        // Sometimes it is back before anybody has given it up.
        let down_max_us = self.faults.pick(&[30_000, 2_000_000]);
        let down_us = 1_000 + self.faults.below(down_max_us);
        self.crash_for(seat, power_cut, Some(down_us));
    }

    /// Ends a process; it comes back after so many microseconds, or when [`World::start_at`] says so.
    pub fn crash_for(&mut self, seat: usize, power_cut: bool, down_us: Option<u64>) {
        if !self.machines[seat].is_down() {
            let end = if power_cut { End::PowerCut } else { End::Killed };
            self.end(seat, end);
        }
        self.machines[seat].run += 1;
        if let Some(down_us) = down_us {
            self.start_at(seat, self.now.plus_us(down_us));
        }
    }

    /// A process that is down starts then, instead of when it would have.
    pub fn start_at(&mut self, seat: usize, at: Time) {
        self.machines[seat].run += 1;
        let run = self.machines[seat].run;
        self.schedule(at, Event::Start { seat, run });
    }

    /// Stops a process (SIGSTOP) for so long; what arrives meanwhile waits.
    pub fn pause(&mut self, seat: usize, us: u64) {
        if self.machines[seat].is_down() {
            return;
        }
        let until = self.now.plus_us(us).max(self.machines[seat].paused_until);
        self.machines[seat].paused_until = until;
        let run = self.machines[seat].run;
        self.schedule(until, Event::Resume { seat, run });
    }

    /// Nothing that is written reaches the device before then.
    pub fn hang_disk(&mut self, seat: usize, until: Time) {
        self.machines[seat].disk_hangs_until = until;
    }

    /// A device that hung works again.
    pub fn mend_disk(&mut self, seat: usize) {
        if self.machines[seat].disk_hangs_until > self.now {
            self.machines[seat].disk_hangs_until = self.now;
            let run = self.machines[seat].run;
            // Work that was to end later ends now.
            self.schedule(self.now, Event::Disk { seat, run });
        }
    }

    /// Cuts a link, one way. [`CLIENTS`] is an end, too.
    pub fn cut(&mut self, from: u16, to: u16) {
        self.network.cut_one_way(from, to);
        self.watch.happen(&Happening::Cut { from, to });
        if !self.network.is_cut(to, from) {
            self.watch.rare.saw(Rare::OneWayCut);
        }
    }

    /// Cuts all links of a node to the others, both ways. With `resets` the others hear at once that its connections are gone.
    pub fn cut_off(&mut self, seat: usize, resets: bool) {
        for other in (0..self.machines.len()).filter(|other| *other != seat) {
            self.cut(seat as u16, other as u16);
            self.cut(other as u16, seat as u16);
            if resets {
                self.reset(seat, other);
            }
        }
    }

    /// All links carry again.
    pub fn heal_cuts(&mut self) {
        self.network.cut.clear();
        self.watch.happen(&Happening::CutsHealed);
    }

    /// The connection from one node to another breaks, and is made again at once.
    pub fn reset(&mut self, from: usize, to: usize) {
        let from = self.machines[from].id;
        self.schedule(self.now, Event::Reset { from, to });
    }

    /// A process ends and its directory is emptied; it comes back as another incarnation.
    pub fn lose_directory(&mut self, seat: usize) {
        self.crash(seat, false);
        self.next_incarnation += 100;
        let machine = &mut self.machines[seat];
        let node = machine.id;
        machine.disk = VirtualDisk::new();
        machine.id.incarnation = Incarnation(self.next_incarnation);
        (machine.is_damaged, machine.is_set_back) = (false, false);
        self.watch.happen(&Happening::DirectorySpoiled { node, how: Spoiled::Emptied });
    }

    /// A process ends and a file of its directory is changed; false if the file does not exist.
    pub fn damage(&mut self, seat: usize, path: &Path, change: impl FnOnce(&mut Vec<u8>)) -> bool {
        let reached = self.reached(seat);
        self.crash(seat, false);
        let machine = &mut self.machines[seat];
        let done = machine.disk.damage(path, change).is_ok();
        if done {
            (machine.is_damaged, machine.forgot, machine.reached) = (true, true, reached);
            let node = machine.id;
            self.watch.happen(&Happening::DirectorySpoiled { node, how: Spoiled::Damaged });
        }
        done
    }

    /// A process ends and one slot of a file with two is changed: the other one says the same, or as much as counts.
    pub fn damage_slot(&mut self, seat: usize, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        self.crash(seat, false);
        // There may be no such file yet.
        let _ = self.machines[seat].disk.damage(path, change);
    }

    /// A copy of a directory as it is now, for [`World::set_back`].
    pub fn backup(&self, seat: usize) -> VirtualDisk {
        self.machines[seat].disk.after_crash(Loss::Nothing)
    }

    fn reached(&self, seat: usize) -> EntryId {
        let machine = &self.machines[seat];
        machine.serving().map_or(machine.reached, |serving| serving.engine.core().status().last)
    }

    /// A process ends, and its directory is set back to what `disk` holds.
    pub fn set_back(&mut self, seat: usize, disk: VirtualDisk) {
        let reached = self.reached(seat);
        self.crash(seat, false);
        let machine = &mut self.machines[seat];
        machine.disk = disk;
        (machine.is_set_back, machine.forgot, machine.reached) = (true, true, reached);
        let node = machine.id;
        self.watch.happen(&Happening::DirectorySpoiled { node, how: Spoiled::SetBack });
    }

    /// Asks a node something on behalf of an operator, at once; the outcome comes into `clients.operator` under the tag that
    /// is returned.
    pub fn ask(&mut self, seat: usize, request: Request) -> u64 {
        self.next_operator_tag += 1;
        let tag = self.next_operator_tag;
        self.schedule(self.now, Event::Request { seat, tag, request });
        tag
    }

    /// A request of the process's own front door, at once: for clients that live outside of the world. The tag that is returned
    /// comes with the outcome out of [`World::take_answers`], unless the process ends before.
    pub fn submit(&mut self, seat: usize, request: Request) -> u64 {
        self.next_door_tag += 1;
        let tag = self.next_door_tag;
        self.schedule(self.now, Event::Request { seat, tag, request });
        tag
    }

    /// What became of requests that were submitted, with their tags.
    pub fn take_answers(&mut self) -> Vec<(u64, Outcome)> {
        std::mem::take(&mut self.door)
    }

    /// Ends all faults but those of disks that were lost: links carry, processes go on, disks work, the network is calm.
    pub fn end_faults(&mut self) {
        self.heal_cuts();
        self.network.weather = Weather::calm();
        for seat in 0..self.machines.len() {
            self.mend_disk(seat);
            self.unpause(seat);
        }
    }

    /// Clients begin nothing new but the workload's last reads.
    pub fn begin_last_reads(&mut self) {
        self.clients.stop();
        self.clients.begin_last_reads(self.now);
        self.wake_client(0);
    }

    /// A stopped process goes on now.
    pub fn unpause(&mut self, seat: usize) {
        if self.machines[seat].paused_until > self.now {
            self.machines[seat].paused_until = self.now;
            let run = self.machines[seat].run;
            self.schedule(self.now, Event::Resume { seat, run });
        }
    }

    // ---- Time ----

    /// When the next thing happens.
    pub fn next_at(&self) -> Option<Time> {
        self.queue.peek().map(|next| next.at)
    }

    /// Lets the next thing happen. False if nothing ever happens again.
    pub fn step(&mut self) -> bool {
        let Some(Scheduled { at, event, .. }) = self.queue.pop() else { return false };
        self.now = at.max(self.now);
        self.steps += 1;
        (self.watch.now, self.watch.step) = (self.now, self.steps);
        self.touched.clear();
        self.handle(event);
        if let Some(why) = self.clients.take_violation() {
            self.watch.violate("C9 outcomes that clients understand", why);
        }
        let view = View { now: self.now, step: self.steps, touched: &self.touched, machines: &self.machines };
        self.watch.after_step(&view);
        true
    }

    /// Lets the next thing happen if that is not later than `until`; else false.
    pub fn step_before(&mut self, until: Time) -> bool {
        self.queue.peek().is_some_and(|next| next.at <= until) && self.step()
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
        while self.queue.peek().is_some_and(|next| next.at <= until) {
            self.step();
            self.assert_sound();
        }
        self.now = until.max(self.now);
    }

    /// Steps for so many microseconds.
    ///
    /// # Panics
    /// If a property is violated.
    pub fn run_for(&mut self, us: u64) {
        self.run_until(self.now.plus_us(us));
    }

    /// Steps until something holds.
    ///
    /// # Panics
    /// If it does not within so many microseconds, or a property is violated.
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
        self.scheduled += 1;
        self.queue.push(Scheduled { at: at.max(self.now), number: self.scheduled, event });
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Arrive(frame) => self.arrive(frame),
            Event::Reset { from, to } => {
                if !self.machines[to].is_down() && !self.network.is_cut(from.name.0, to as u16) {
                    self.put(to, Input::Reset { from });
                }
            }
            Event::Request { seat, tag, request } => {
                if !self.machines[seat].is_down() {
                    self.put(seat, Input::Request { tag, request });
                } else if !(DOOR..OPERATOR).contains(&tag) {
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
            Event::Turn { seat } => self.turn(seat),
            Event::Resume { seat, run } => self.resume(seat, run),
            Event::Disk { seat, run } => self.disk(seat, run),
            Event::Taken { seat, run } => self.taken(seat, run),
            Event::Built { seat, run } => self.built(seat, run),
            Event::Transferred(transfer) => self.transferred(*transfer),
            Event::Start { seat, run } => self.start(seat, run),
            Event::Client(number) => {
                if self.clients.wake(number, self.now) {
                    self.wake_client(number);
                }
            }
        }
    }

    // ---- Clients ----

    fn serve_client(&mut self, tag: u64) {
        if tag < OPERATOR {
            self.wake_client((tag >> 48) as usize);
        }
    }

    fn wake_clients(&mut self) {
        for number in 0..self.clients.count() {
            self.wake_client(number);
        }
    }

    /// Sends what a client wants to be sent, and looks when it has something to do next.
    fn wake_client(&mut self, number: usize) {
        for ask in self.clients.take_asks() {
            // Copies are the clients' own business: a connection does not double requests.
            if let Some(at) = self.network.arrivals(self.now, CLIENTS, ask.seat as u16).next() {
                self.schedule(at, Event::Request { seat: ask.seat, tag: ask.tag, request: ask.request });
            }
        }
        if let Some(at) = self.clients.wakes_at(number, self.now) {
            self.schedule(at, Event::Client(number));
        }
    }

    // ---- Processes ----

    /// Something reaches a process, which may be stopped.
    fn put(&mut self, seat: usize, input: Input) {
        let machine = &mut self.machines[seat];
        if machine.paused_until > self.now {
            if machine.inbox.len() < INBOX_MAX {
                machine.inbox.push_back(input);
            } else {
                self.watch.rare.saw(Rare::QueueFull);
                if let Input::Request { tag, .. } = input {
                    self.answer(seat, tag, Outcome::Busy { retry_after_ms: 20 });
                }
            }
            return;
        }
        self.take_in(seat, input);
        self.settle(seat);
    }

    fn arrive(&mut self, frame: Frame) {
        let seat = usize::from(frame.to.name.0);
        let machine = &self.machines[seat];
        if machine.is_down() || self.network.is_cut(frame.from.name.0, frame.to.name.0) {
            return;
        }
        if machine.id != frame.to {
            return self.watch.rare.saw(Rare::WrongIncarnation);
        }
        self.put(seat, Input::Peer { from: frame.from, bytes: frame.bytes });
    }

    fn take_in(&mut self, seat: usize, input: Input) {
        let now = self.now;
        let machine = &mut self.machines[seat];
        let node = machine.id;
        match input {
            Input::Peer { from, bytes } => {
                let message: PeerMessage<Message> = match codec::decode(&bytes) {
                    Ok(message) => message,
                    Err(error) => return self.watch.violate("B1 decoding what was encoded", error.to_string()),
                };
                match message {
                    PeerMessage::Protocol(message) => {
                        if let Life::Serving(serving) = &mut machine.life {
                            self.watch.happen(&Happening::Received { from, to: node, message: &message });
                            serving.engine.receive(now, from, message);
                        }
                    }
                    PeerMessage::Birth(message) => self.birth_message(seat, from, &message),
                }
            }
            Input::Reset { from } => {
                if let Some(serving) = machine.serving_mut() {
                    serving.engine.disconnected(now, from);
                }
            }
            Input::Request { tag, request } => {
                self.watch.happen(&Happening::Asked { node, tag, request: &request });
                let present: Vec<NodeId> = match request {
                    Request::Readmit { .. } => self.machines.iter().filter(|m| !m.is_down()).map(|m| m.id).collect(),
                    _ => Vec::new(),
                };
                let machine = &mut self.machines[seat];
                let reply = machine.reply_to(tag);
                match &mut machine.life {
                    Life::Serving(serving) => {
                        present.into_iter().for_each(|node| serving.engine.met(now, node));
                        serving.engine.requests(now, [(request, reply)]);
                    }
                    Life::Waiting(_) => reply.send(Outcome::OutOfService("waits".to_owned())),
                    Life::Down => {}
                }
            }
        }
    }

    fn birth_message(&mut self, seat: usize, from: NodeId, message: &BirthMessage) {
        let now = self.now;
        let machine = &mut self.machines[seat];
        let node = machine.id;
        match &mut machine.life {
            Life::Down => {}
            Life::Waiting(waiting) => {
                let verdict = waiting.unborn.receive(from, message);
                // The other one may wait for nothing but this.
                let call = match (message, &verdict) {
                    (BirthMessage::Unborn { .. }, Verdict::Founder(_)) => Some(waiting.unborn.message()),
                    _ => None,
                };
                if let Some(call) = call {
                    self.call(seat, &call);
                }
                self.conclude(seat, verdict);
            }
            Life::Serving(serving) => {
                if let BirthMessage::Unborn { .. } = message {
                    let answer = BirthMessage::Born {
                        genesis: serving.genesis,
                        founders: serving.founders.clone(),
                        configuration: serving.engine.core().status().configuration,
                    };
                    self.send(node, from, &PeerMessage::Birth(answer));
                }
            }
        }
        let _ = now;
    }

    fn call(&mut self, seat: usize, call: &BirthMessage) {
        let from = self.machines[seat].id;
        for other in 0..self.machines.len() {
            let machine = &self.machines[other];
            if other != seat && !machine.is_down() {
                let to = machine.id;
                self.send(from, to, &PeerMessage::Birth(call.clone()));
            }
        }
    }

    fn conclude(&mut self, seat: usize, verdict: Verdict) {
        let rng = self.rolls.rng();
        let start = self.machines[seat].conclude(&self.common, verdict, self.now, rng);
        if let Some(start) = start {
            self.started(seat, start);
        }
    }

    fn start(&mut self, seat: usize, run: u64) {
        let machine = &mut self.machines[seat];
        if machine.run != run || !machine.is_down() {
            return;
        }
        let rng = self.rolls.rng();
        let start = machine.start(&self.common, self.now, rng);
        self.started(seat, start);
        self.settle(seat);
    }

    fn started(&mut self, seat: usize, start: Start) {
        let machine = &mut self.machines[seat];
        match start {
            Start::Runs { notes, quarantined } => {
                for note in &notes {
                    if note.contains("cut an interrupted write") {
                        self.watch.rare.saw(Rare::TornTailCut);
                    }
                    if note.contains("was damaged, repaired") {
                        self.watch.rare.saw(Rare::SlotRepaired);
                    }
                }
                if let Some(reason) = quarantined {
                    let expected = machine.is_damaged || machine.is_set_back;
                    let (node, damage) = (machine.id, reason.contains("/log"));
                    (machine.is_damaged, machine.is_set_back) = (false, false);
                    self.watch.rare.saw(if damage { Rare::DamagedLog } else { Rare::DamagedFile });
                    if !expected {
                        self.watch.violate("D3 no quarantine without damage", format!("{node}: {reason}"));
                    }
                }
                let machine = &mut self.machines[seat];
                if std::mem::take(&mut machine.is_damaged) {
                    // It was what may be missing: the end of the log.
                    machine.is_set_back = true;
                }
                if self.machines[seat].is_waiting() {
                    self.watch.happen(&Happening::Waits { node: self.machines[seat].id });
                }
            }
            Start::Failed(why) => {
                machine.run += 1;
                self.watch.rare.saw(Rare::StartFailed);
                let node = machine.id;
                let end = End::DiskError(why);
                self.watch.happen(&Happening::Ended { node, end: &end });
                let again_us = self.faults.between(10_000, 300_000);
                self.start_at(seat, self.now.plus_us(again_us));
            }
        }
    }

    /// A process ends, whyever.
    fn end(&mut self, seat: usize, end: End) {
        let progress_max = self.disks.pick(&[1, 4, 16, 80]);
        let progress = self.disks.below(progress_max);
        let loss = match (&end, self.disks.below(4)) {
            (End::PowerCut, 0) => Loss::Everything,
            (End::PowerCut, _) => Loss::Seeded(self.disks.any()),
            // Also what was written and not flushed may still have been in the process.
            _ => Loss::Killed(self.disks.any()),
        };
        let node = self.machines[seat].id;
        self.note_crash(seat);
        self.watch.happen(&Happening::Ended { node, end: &end });
        self.machines[seat].end(progress, loss);
        // The news of a closed connection; a power cut sends none.
        if end != End::PowerCut {
            for other in (0..self.machines.len()).filter(|other| *other != seat) {
                let at = self.now.plus_us(50 + self.disks.below(1_000));
                self.schedule(at, Event::Reset { from: node, to: other });
            }
        }
    }

    /// What a crash interrupts.
    fn note_crash(&mut self, seat: usize) {
        use crate::raft::message::Body;
        let Some(serving) = self.machines[seat].serving() else { return };
        let rare = &mut self.watch.rare;
        for envelope in serving.held_back() {
            match envelope.message.body {
                Body::VoteGranted | Body::Vote { .. } => rare.saw(Rare::CrashBeforeVoteSent),
                Body::AppendAccepted { .. } => rare.saw(Rare::CrashBeforeAck),
                _ => {}
            }
        }
        if serving.installs() || serving.building.is_some() {
            rare.saw(Rare::CrashDuringInstall);
        }
        if serving.taking.is_some() {
            rare.saw(Rare::CrashDuringSnapshot);
        }
    }

    fn turn(&mut self, seat: usize) {
        let now = self.now;
        let machine = &mut self.machines[seat];
        if machine.turn_at != now {
            return;
        }
        machine.turn_at = Time(u64::MAX);
        if machine.paused_until > now {
            return;
        }
        match &mut machine.life {
            Life::Down => return,
            Life::Waiting(waiting) => {
                if waiting.call_at <= now {
                    waiting.call_at = now.plus_us(BIRTH_INTERVAL_US);
                    let (call, verdict) = (waiting.unborn.message(), waiting.unborn.verdict());
                    self.call(seat, &call);
                    self.conclude(seat, verdict);
                }
            }
            Life::Serving(serving) => {
                if serving.engine.deadline() <= now {
                    serving.engine.tick(now);
                }
                if serving.readmission_open && serving.readmission_look_at <= now {
                    serving.readmission_look_at = now.plus_us(READMISSION_LOOK_US);
                    let status = serving.engine.core().status();
                    if status.configuration.voters.contains(&status.node) && status.configuration_index <= status.commit
                    {
                        serving.readmission_open = false;
                        serving.give_to_disk(DiskJob::CompleteReadmission);
                        self.watch.rare.saw(Rare::Readmitted);
                    }
                }
            }
        }
        self.settle(seat);
    }

    fn resume(&mut self, seat: usize, run: u64) {
        let now = self.now;
        let machine = &mut self.machines[seat];
        if machine.run != run || machine.paused_until > now || machine.is_down() {
            return;
        }
        let inbox = std::mem::take(&mut machine.inbox);
        if inbox.len() > 100 {
            self.watch.rare.saw(Rare::LongPause);
        }
        // What clients have sent meanwhile is read before or after what peers sent: who knows.
        let requests_first = self.rolls.below(2) == 0;
        let (requests, news): (Vec<Input>, Vec<Input>) =
            inbox.into_iter().partition(|input| matches!(input, Input::Request { .. }));
        let (first, second) = if requests_first { (requests, news) } else { (news, requests) };
        for input in first.into_iter().chain(second) {
            self.take_in(seat, input);
        }
        self.machines[seat].turn_at = now;
        self.turn(seat);
    }

    /// Carries out what a process asks for, tells the others what it did, and looks when it has something to do next.
    fn settle(&mut self, seat: usize) {
        if !self.touched.contains(&seat) {
            self.touched.push(seat);
        }
        loop {
            self.look(seat);
            let from = self.machines[seat].id;
            let Life::Serving(serving) = &mut self.machines[seat].life else { break };
            let actions = serving.engine.take_actions();
            if actions.is_empty() {
                break;
            }
            for action in actions {
                let Life::Serving(serving) = &mut self.machines[seat].life else { break };
                match action {
                    Action::Send(Envelope { to, message }) => self.send_message(from, to, message),
                    Action::Write(write) => {
                        self.watch.happen(&Happening::WriteIssued { node: from, write: &write });
                        serving.give_to_disk(DiskJob::Write(write));
                    }
                    Action::Adopt(file) => serving.give_to_disk(DiskJob::Adopt(file)),
                    Action::Discard(file) => serving.give_to_disk(DiskJob::Discard(file)),
                    Action::Quarantine(reason) => {
                        self.quarantine(seat, &reason);
                        break;
                    }
                    Action::TakeSnapshot(image) => {
                        serving.taking = Some(image);
                        let at = self.now.plus_us(2_000 + self.disks.below(60_000));
                        let run = self.machines[seat].run;
                        self.schedule(at, Event::Taken { seat, run });
                    }
                    Action::SendSnapshot(to) => {
                        let latest = serving.snapshots.latest();
                        let file = latest.and_then(|info| serving.snapshots.open_for_sending(&info).ok());
                        let at = self.now.plus_us(2_000 + self.disks.below(60_000));
                        let run = self.machines[seat].run;
                        self.schedule(at, Event::Transferred(Box::new(Transfer { from, run, to, file })));
                    }
                    Action::AnswerParts { reply, parts } => reply.send(Outcome::Answer(parts.flatten().collect())),
                    Action::Report(_) => {}
                }
            }
        }
        self.deliver_outcomes(seat);
        self.schedule_work(seat);
    }

    /// Disk work, and the next turn.
    fn schedule_work(&mut self, seat: usize) {
        let now = self.now;
        let machine = &mut self.machines[seat];
        let (run, hangs_until) = (machine.run, machine.disk_hangs_until);
        let wake_at = match &mut machine.life {
            Life::Down => return,
            Life::Waiting(waiting) => waiting.call_at,
            Life::Serving(serving) => {
                if serving.begin_disk_work() {
                    let at = now.plus_us(100 + self.disks.below(self.disk_us)).max(hangs_until);
                    self.schedule(at, Event::Disk { seat, run });
                }
                let Life::Serving(serving) = &self.machines[seat].life else { return };
                let deadline = serving.engine.deadline();
                if serving.readmission_open { deadline.min(serving.readmission_look_at) } else { deadline }
            }
        };
        let wake_at = wake_at.max(now);
        let machine = &mut self.machines[seat];
        if wake_at < machine.turn_at {
            machine.turn_at = wake_at;
            self.schedule(wake_at, Event::Turn { seat });
        }
    }

    /// Tells everybody what the core and the state machine did.
    fn look(&mut self, seat: usize) {
        let machine = &self.machines[seat];
        let node = machine.id;
        let Life::Serving(serving) = &machine.life else { return };
        let engine = &serving.engine;
        let core = std::mem::take(&mut *engine.core().notes.borrow_mut());
        let executions = std::mem::take(&mut *engine.state().notes.borrow_mut());
        if let Some(recovered) = &core.recovered {
            self.watch.happen(&Happening::Started { node, recovered, forgot: machine.forgot });
        }
        let mut executions = executions.into_iter().peekable();
        let mut digest = None;
        for entry in &core.committed {
            let execution = executions.next_if(|execution| execution.index == entry.id.index);
            digest = execution.map(|execution| execution.digest).or(digest);
            let digest = digest.unwrap_or_else(|| match executions.peek() {
                Some(next) => next.before,
                None => engine.state().digest,
            });
            let took_effect = execution.is_some();
            let deep = execution.and_then(|execution| execution.deep);
            self.watch.happen(&Happening::Applied { node, entry, took_effect, digest, deep });
        }
        for event in &core.events {
            match event {
                CoreEvent::RoleChanged { role, term, leader } => {
                    let (role, term, leader) = (*role, *term, *leader);
                    self.watch.happen(&Happening::RoleChanged { node, role, term, leader });
                }
                CoreEvent::TransferFailed => self.watch.rare.saw(Rare::TransferFailed),
                CoreEvent::Forgot { .. } => {}
                CoreEvent::Nonsense { from, what } => {
                    let why = format!("{node} dropped a message of {from}: {what}");
                    // Old messages of the same incarnation are sound; nobody here sends nonsense.
                    self.watch.violate("B5 no nonsense from sound peers", why);
                }
            }
        }
        for _ in 0..core.reads_failed {
            self.watch.rare.saw(Rare::ReadFailed);
        }
        if core.recovered.is_some() {
            self.machines[seat].forgot = false;
        }
    }

    fn deliver_outcomes(&mut self, seat: usize) {
        for (tag, outcome) in self.machines[seat].mailbox.take() {
            self.answer(seat, tag, outcome);
        }
    }

    fn answer(&mut self, seat: usize, tag: u64, outcome: Outcome) {
        let node = self.machines[seat].id;
        self.watch.happen(&Happening::Answered { node, tag, outcome: &outcome });
        if (DOOR..OPERATOR).contains(&tag) {
            return self.door.push((tag, outcome));
        }
        if let Some(at) = self.network.arrivals(self.now, seat as u16, CLIENTS).next() {
            self.schedule(at, Event::Answer { tag, outcome });
        }
    }

    fn send_message(&mut self, from: NodeId, to: NodeId, message: Message) {
        self.watch.happen(&Happening::Sent { from, to, message: &message });
        self.send(from, to, &PeerMessage::Protocol(message));
    }

    fn send(&mut self, from: NodeId, to: NodeId, message: &PeerMessage<Message>) {
        let frame = Frame { from, to, bytes: codec::encode(message).into() };
        if let Some(old) = self.network.remember(&frame) {
            let at = self.now.plus_us(self.disks.below(5_000));
            self.watch.rare.saw(Rare::Replayed);
            self.schedule(at, Event::Arrive(old));
        }
        for at in self.network.arrivals(self.now, from.name.0, to.name.0) {
            self.schedule(at, Event::Arrive(frame.clone()));
        }
    }

    /// A node has found out that it forgot something: its process ends.
    fn quarantine(&mut self, seat: usize, reason: &str) {
        let machine = &mut self.machines[seat];
        let node = machine.id;
        let expected = machine.is_set_back;
        let Life::Serving(serving) = std::mem::replace(&mut machine.life, Life::Down) else { return };
        self.watch.happen(&Happening::Forgot { node, reason });
        if !expected {
            self.watch.violate("M8 no node forgets by itself", format!("{node}: {reason}"));
        }
        serving.into_desk().quarantine(reason);
        self.end(seat, End::Quarantined(reason.to_owned()));
        self.start_at(seat, self.now.plus_us(100_000));
    }

    /// A process whose device failed ends by itself.
    fn disk_failed(&mut self, seat: usize, why: String) {
        self.end(seat, End::DiskError(why));
        let down_us = self.faults.between(1_000, 500_000);
        self.start_at(seat, self.now.plus_us(down_us));
    }

    // ---- Background work ----

    fn disk(&mut self, seat: usize, run: u64) {
        let now = self.now;
        let machine = &mut self.machines[seat];
        if machine.run != run {
            return;
        }
        let hangs_until = machine.disk_hangs_until.max(machine.paused_until);
        if hangs_until > now {
            return self.schedule(hangs_until, Event::Disk { seat, run });
        }
        let node = machine.id;
        let Life::Serving(serving) = &mut machine.life else { return };
        if !serving.is_at_work() {
            return;
        }
        let writes = match serving.end_disk_work() {
            Ok(writes) => writes,
            Err(error) => return self.disk_failed(seat, error.to_string()),
        };
        let mut last = None;
        for write in writes {
            self.watch.happen(&Happening::WriteDurable { node, write: &write });
            let (id, messages) = write.durable();
            last = Some(id);
            for Envelope { to, message } in messages {
                self.send_message(node, to, message);
            }
        }
        let Life::Serving(serving) = &mut self.machines[seat].life else { return };
        if let Some(id) = last {
            serving.engine.durable(now, id);
        }
        if let Err(error) = serving.follow() {
            return self.disk_failed(seat, error.to_string());
        }
        self.settle(seat);
    }

    fn taken(&mut self, seat: usize, run: u64) {
        let now = self.now;
        let machine = &mut self.machines[seat];
        if machine.run != run {
            return;
        }
        let until = machine.paused_until.max(machine.disk_hangs_until);
        if until > now {
            return self.schedule(until, Event::Taken { seat, run });
        }
        let node = machine.id;
        let Life::Serving(serving) = &mut machine.life else { return };
        match serving.end_taking() {
            Ok(None) => {}
            Ok(Some((last, len_bytes, checksum))) => {
                self.watch.happen(&Happening::SnapshotTaken { node, last, checksum });
                serving.engine.snapshot_taken(now, last, len_bytes);
                self.settle(seat);
            }
            Err(error) => self.disk_failed(seat, error.to_string()),
        }
    }

    fn built(&mut self, seat: usize, run: u64) {
        let now = self.now;
        let machine = &mut self.machines[seat];
        if machine.run != run {
            return;
        }
        if machine.paused_until > now {
            let until = machine.paused_until;
            return self.schedule(until, Event::Built { seat, run });
        }
        let node = machine.id;
        let Life::Serving(serving) = &mut machine.life else { return };
        match serving.end_building(self.common.shape.sessions) {
            Ok(None) => {}
            Ok(Some((install, len_bytes))) => {
                let meta = install.meta.clone();
                let accepted = serving.engine.install(now, install, len_bytes);
                self.watch.happen(&Happening::SnapshotInstalled { node, meta: &meta, accepted });
                self.settle(seat);
            }
            Err(error) => self.disk_failed(seat, error.to_string()),
        }
    }

    fn transferred(&mut self, transfer: Transfer) {
        let now = self.now;
        let Transfer { from, run, to, mut file } = transfer;
        let seat = usize::from(from.name.0);
        if self.machines[seat].run != run {
            return;
        }
        let until = self.machines[seat].paused_until;
        if until > now {
            return self.schedule(until, Event::Transferred(Box::new(Transfer { from, run, to, file })));
        }
        let last = file.as_ref().map(|file| file.info().meta.last);
        let arrived = file.as_mut().map_or(Err(Broken::OnTheWay), |file| self.carry(from, to, file));
        let Some(serving) = self.machines[seat].serving_mut() else { return };
        if let Err(Broken::Source) = arrived
            && let Some(file) = &file
        {
            match serving.snapshots.set_aside(file.info()) {
                Ok(()) | Err(SnapshotError::Obsolete { .. }) => serving.engine.snapshot_lost(),
                Err(error) => return self.disk_failed(seat, error.to_string()),
            }
        }
        let last = last.filter(|_| arrived.is_ok());
        self.watch.happen(&Happening::SnapshotSent { from, to, last });
        serving.engine.snapshot_sent(now, to, last);
        self.settle(seat);
    }

    /// Carries a snapshot over, if there is a way; one in five times the connection breaks, and it is resumed later.
    fn carry(&mut self, from: NodeId, to: NodeId, file: &mut SendingFile) -> Result<(), Broken> {
        let up_to = if self.disks.below(5) == 0 { self.disks.below(file.info().len_bytes) } else { u64::MAX };
        let delay_us = 1_000 + self.disks.below(100_000);
        let (here, there) = (from.name.0, to.name.0);
        let cut = self.network.is_cut(here, there) || self.network.is_cut(there, here);
        let seat = usize::from(there);
        let receiver = &mut self.machines[seat];
        let reachable = receiver.id == to && receiver.paused_until <= self.now && !cut;
        let run = receiver.run;
        match receiver.serving_mut() {
            Some(serving) if reachable && serving.building.is_none() => {
                serving.building = Some(carry(file, &serving.snapshots, up_to)?);
                self.schedule(self.now.plus_us(delay_us), Event::Built { seat, run });
                Ok(())
            }
            _ => Err(Broken::OnTheWay),
        }
    }

    /// The seats whose node is in service.
    pub fn serving_seats(&self) -> BTreeSet<usize> {
        (0..self.machines.len()).filter(|seat| self.machines[*seat].serving().is_some()).collect()
    }
}

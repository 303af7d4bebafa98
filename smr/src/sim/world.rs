//! The world: machines, the network between them, clients, and time.
//!
//! [`World::step`] lets the next thing happen. What goes wrong are methods, for scenarios and for the swarm alike:
//! [`World::crash`], [`World::pause`], [`World::hang_disk`], [`World::cut_off`], [`World::reset`],
//! [`World::lose_directory`], [`World::damage`], [`World::set_back`].

use std::cmp::Ordering;
use std::collections::{BTreeSet, BinaryHeap};
use std::io;
use std::path::Path;

use crate::codec;
use crate::entry::EntryId;
use crate::id::{Incarnation, NodeId, NodeName};
use crate::protocol::{Envelope, Event as CoreEvent, Protocol, Recovered, Role, Time};
use crate::raft::Message;
use crate::replica::birth::{BirthMessage, Verdict};
use crate::replica::disk::DiskJob;
use crate::replica::engine::Action;
use crate::replica::engine::BUSY_RETRY_MS;
use crate::replica::message::PeerMessage;
use crate::replica::turn::{EVENTS_MAX, EVENTS_PER_TURN, REQUESTS_MAX, REQUESTS_PER_TURN};
use crate::replica::{ClientId, Outcome, ReplyTo, Request};
use crate::sim::clients::{Clients, DOOR, FLOOD, OPERATOR, Pace};
use crate::sim::dice::{Dice, Purpose};
use crate::sim::machine::{Broken, Common, Input, Life, Machine, Shape, Start, StartTrouble, carry};
use crate::sim::network::{CLIENTS, Frame, Network, Weather};
use crate::sim::properties::{End, Happening, Machines, NodeView, Property, Spoiled, View};
use crate::sim::rare::Rare;
use crate::sim::trace::{Text, Trace};
use crate::sim::watch::Watch;
use crate::sim::workload::Workload;
use crate::snapshot::{SendingFile, SnapshotError};
use crate::state_machine::{Image, StateMachine};
use crate::storage::disk::Disk;
use crate::storage::virtual_disk::{Fault, Loss, ReadFault, VirtualDisk};
use crate::storage::virtual_map::MapDamage;

/// How often an unborn replica says so, in microseconds.
const BIRTH_INTERVAL_US: u64 = 50_000;

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
    next_flood_tag: u64,
    transfers_asked: BTreeSet<u64>,
    readmissions_asked: BTreeSet<(NodeName, NodeId)>,
}

impl<S: StateMachine> Machines for Vec<Machine<S>> {
    fn node(&self, seat: usize) -> Option<NodeView<'_>> {
        let machine = &self[seat];
        let serving = machine.serving()?;
        let engine = serving.engine();
        Some(NodeView {
            node: machine.id,
            raft: engine.core().raft(),
            applied: engine.applied(),
            snapshot: engine.snapshot(),
            sessions: engine.sessions(),
            digest: engine.state().digest,
            requests_waiting: engine.requests_waiting() + serving.turns.held(),
        })
    }

    fn deep_digest(&self, seat: usize) -> Option<u64> {
        let engine = self[seat].serving()?.engine();
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
            next_flood_tag: FLOOD,
            transfers_asked: BTreeSet::new(),
            readmissions_asked: BTreeSet::new(),
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
            let core = machine.serving()?.engine().core();
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

    /// A process ends, and a bit of a snapshot is flipped.
    pub fn damage_snapshot(&mut self, seat: usize, last: EntryId, lot: u64) -> bool {
        let Some(name) = self.snapshot_name(seat, last) else { return false };
        let path = crate::sim::machine::path("snapshots").join(name);
        self.damage(seat, &path, |bytes| crate::sim::swarm::flip(bytes, lot))
    }

    fn snapshot_name(&self, seat: usize, last: EntryId) -> Option<String> {
        let names = self.machines[seat].disk.list(&crate::sim::machine::path("snapshots")).ok()?;
        names.into_iter().filter(|name| name.ends_with(".snap")).find(|name| name.contains(&last.index.0.to_string()))
    }

    /// A copy of a directory as it is now, for [`World::set_back`].
    pub fn backup(&self, seat: usize) -> VirtualDisk {
        self.machines[seat].disk.after_crash(Loss::Nothing)
    }

    fn reached(&self, seat: usize) -> EntryId {
        let machine = &self.machines[seat];
        machine.serving().map_or(machine.reached, |serving| serving.engine().core().status().last)
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
        match request {
            Request::Transfer { .. } => {
                self.transfers_asked.insert(tag);
            }
            Request::Readmit { name }
                if !self.readmissions_asked.insert((name, self.machines[usize::from(name.0)].id)) =>
            {
                self.watch.rare.saw(Rare::ReadmissionRepeated);
            }
            _ => {}
        }
        self.schedule(self.now, Event::Request { seat, tag, request });
        tag
    }

    /// So many requests reach a process at once, which nobody waits for: writes in a session that does not exist.
    pub fn flood(&mut self, seat: usize, count: u64) {
        if self.machines[seat].is_down() {
            return;
        }
        for _ in 0..count {
            self.next_flood_tag += 1;
            let client = ClientId(u64::MAX / 2);
            let request = Request::Write {
                client,
                number: 1,
                lowest_unanswered: 1,
                command: bytes::Bytes::from_static(b"flood"),
            };
            self.put_request(seat, self.next_flood_tag, request);
        }
        self.turn_soon(seat);
    }

    /// The device of a node fails at its next operations but `after` that change or sync something (D6).
    pub fn fail_disk(&mut self, seat: usize, after: u64) {
        let disk = &self.machines[seat].disk;
        disk.fault_at(disk.operations() + after, Fault::Error(io::ErrorKind::Other));
    }

    /// The device of a node has no room until then (D7).
    pub fn fill_disk(&mut self, seat: usize, until: Time) {
        let machine = &mut self.machines[seat];
        machine.full_until = until;
        machine.disk.fault_at(machine.disk.operations(), Fault::Error(io::ErrorKind::StorageFull));
    }

    /// One of the next reads of a node fails: the one after `after` others (D8).
    pub fn fail_read(&mut self, seat: usize, after: u64) {
        let disk = &self.machines[seat].disk;
        disk.read_fault_at(disk.reads() + after, ReadFault::Error(io::ErrorKind::Other));
    }

    /// A process is killed, and something will be wrong with its next start.
    pub fn trouble_start(&mut self, seat: usize, trouble: StartTrouble) {
        let reached = self.reached(seat);
        self.crash(seat, false);
        let machine = &mut self.machines[seat];
        machine.start_trouble = Some(trouble);
        if let StartTrouble::FlippedBit(..) = trouble {
            (machine.is_damaged, machine.forgot, machine.reached) = (true, true, reached);
            let node = machine.id;
            self.watch.happen(&Happening::DirectorySpoiled { node, how: Spoiled::Damaged });
        }
    }

    /// A process ends, and its log, a simulated map, is damaged; false if there is none.
    pub fn damage_map(&mut self, seat: usize, damage: MapDamage) -> bool {
        let reached = self.reached(seat);
        self.crash(seat, false);
        let machine = &mut self.machines[seat];
        let done = machine.disk.damage_map(&crate::sim::machine::path("log"), damage).is_ok();
        if done {
            (machine.is_damaged, machine.forgot, machine.reached) = (true, true, reached);
            let node = machine.id;
            self.watch.happen(&Happening::DirectorySpoiled { node, how: Spoiled::Damaged });
        }
        done
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
            self.machines[seat].full_until = Time(0);
            self.machines[seat].start_trouble = None;
            self.machines[seat].disk.clear_faults();
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
                    self.put_request(seat, tag, request);
                    self.turn_soon(seat);
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

    /// Something reaches a process: it waits for the next turn.
    fn put(&mut self, seat: usize, input: Input<W::Machine>) {
        let machine = &mut self.machines[seat];
        if matches!(input, Input::Peer { .. } | Input::Reset { .. }) && machine.inbox.len() >= EVENTS_MAX {
            return self.watch.rare.saw(Rare::QueueFull);
        }
        machine.inbox.push_back(input);
        self.turn_soon(seat);
    }

    /// A request reaches a process: it waits for the next turn, or is refused.
    fn put_request(&mut self, seat: usize, tag: u64, request: Request) {
        let machine = &mut self.machines[seat];
        if machine.requests.len() >= REQUESTS_MAX {
            let node = machine.id;
            self.watch.happen(&Happening::Asked { node, tag, request: &request });
            return self.answer(seat, tag, Outcome::Busy { retry_after_ms: BUSY_RETRY_MS });
        }
        machine.requests.push_back((tag, request));
    }

    /// The process's thread looks at its queues now, or when it has time.
    fn turn_soon(&mut self, seat: usize) {
        let now = self.now;
        let machine = &mut self.machines[seat];
        if machine.paused_until > now {
            return;
        }
        if machine.busy_until <= now {
            machine.turn_at = now;
            return self.turn(seat);
        }
        let at = machine.busy_until;
        if at < machine.turn_at {
            machine.turn_at = at;
            self.schedule(at, Event::Turn { seat });
        }
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

    fn take_in(&mut self, seat: usize, input: Input<W::Machine>) {
        let now = self.now;
        let machine = &mut self.machines[seat];
        let node = machine.id;
        if let Input::Peer { from, bytes } = input {
            let message: PeerMessage<Message> = match codec::decode(&bytes) {
                Ok(message) => message,
                Err(error) => return self.watch.violate("B1 decoding what was encoded", error.to_string()),
            };
            return match message {
                PeerMessage::Birth(message) => self.birth_message(seat, from, &message),
                PeerMessage::Protocol(message) => {
                    let Life::Serving(serving) = &mut machine.life else { return };
                    if serving.turns.takes_messages() {
                        self.watch.happen(&Happening::Received { from, to: node, message: &message });
                        serving.turns.receive(now, from, message);
                    } else {
                        self.watch.rare.saw(Rare::DiskTooSlow);
                    }
                }
            };
        }
        if let Input::SnapshotBuilt(..) = input {
            // What the turn applied so far comes before it; the state that remembers it is about to be replaced.
            self.look(seat);
        }
        let Life::Serving(serving) = &mut self.machines[seat].life else { return };
        match input {
            Input::Peer { .. } => {}
            Input::Reset { from } => serving.turns.engine_mut().disconnected(now, from),
            Input::Durable(id) => serving.turns.durable(now, id),
            Input::SnapshotTaken { last, len_bytes } => {
                serving.turns.engine_mut().snapshot_taken(now, last, len_bytes);
            }
            Input::SnapshotLost => serving.turns.engine_mut().snapshot_lost(),
            Input::SnapshotSent { to, last } => serving.turns.engine_mut().snapshot_sent(now, to, last),
            Input::SnapshotBuilt(install, len_bytes) => {
                let meta = install.meta.clone();
                let accepted = serving.turns.engine_mut().install(now, *install, len_bytes);
                self.watch.happen(&Happening::SnapshotInstalled { node, meta: &meta, accepted });
            }
        }
    }

    /// Takes the requests of a turn.
    fn take_requests(&mut self, seat: usize) {
        let now = self.now;
        let machine = &mut self.machines[seat];
        let count = machine.requests.len().min(REQUESTS_PER_TURN);
        if count == 0 && machine.serving().is_none_or(|serving| serving.turns.held() == 0) {
            return;
        }
        let node = machine.id;
        let taken: Vec<(u64, Request)> = machine.requests.drain(..count).collect();
        for (tag, request) in &taken {
            self.watch.happen(&Happening::Asked { node, tag: *tag, request });
        }
        let readmit = taken.iter().any(|(_, request)| matches!(request, Request::Readmit { .. }));
        let present: Vec<NodeId> = match readmit {
            true => self.machines.iter().filter(|machine| !machine.is_down()).map(|machine| machine.id).collect(),
            false => Vec::new(),
        };
        let machine = &mut self.machines[seat];
        let sink = machine.mailbox.clone();
        let requests = taken.into_iter().map(|(tag, request)| {
            let reply = ReplyTo { tag, sink: sink.clone() };
            (request, reply)
        });
        match &mut machine.life {
            Life::Serving(serving) => serving.turns.requests(now, requests, || present.clone()),
            Life::Waiting(_) => requests.for_each(|(_, reply)| reply.send(Outcome::OutOfService("waits".to_owned()))),
            Life::Down => {}
        }
    }

    fn birth_message(&mut self, seat: usize, from: NodeId, message: &BirthMessage) {
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
                if let Some(answer) = serving.turns.answer_birth(message) {
                    self.send(node, from, &PeerMessage::Birth(answer));
                }
            }
        }
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
        let (operations, reads) = (machine.disk.operations(), machine.disk.reads());
        match machine.start_trouble.take() {
            Some(StartTrouble::PowerOff(after)) => machine.disk.fault_at(operations + after, Fault::PowerOff),
            Some(StartTrouble::ReadError(after)) => {
                machine.disk.read_fault_at(reads + after, ReadFault::Error(io::ErrorKind::Other));
            }
            Some(StartTrouble::FlippedBit(after, bit)) => {
                machine.disk.read_fault_at(reads + after, ReadFault::FlippedBit(bit));
            }
            None => {}
        }
        if machine.full_until > self.now {
            let after = self.faults.below(8);
            machine.disk.fault_at(operations + after, Fault::Error(io::ErrorKind::StorageFull));
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
                let (node, power_cut) = (machine.id, machine.disk.power_is_off());
                let lot = self.disks.any();
                machine.disk = machine.disk.after_crash(if power_cut { Loss::Seeded(lot) } else { Loss::Killed(lot) });
                self.watch.rare.saw(if power_cut { Rare::CrashDuringStart } else { Rare::StartFailed });
                let end = if power_cut { End::PowerCut } else { End::DiskError(why) };
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
        let core = serving.engine().core();
        if core.role() == Role::Leader {
            let status = core.status();
            if status.last.index > status.commit {
                rare.saw(Rare::LeaderCrashedWithProposals);
            }
        }
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

    /// What the replica's thread does in a turn: news, requests, time.
    fn turn(&mut self, seat: usize) {
        let now = self.now;
        let machine = &mut self.machines[seat];
        if machine.turn_at != now {
            return;
        }
        machine.turn_at = Time(u64::MAX);
        if machine.paused_until > now || machine.is_down() {
            return;
        }
        let run = machine.run;
        let mut taken = 0;
        while taken < EVENTS_PER_TURN
            && self.machines[seat].run == run
            && let Some(input) = self.machines[seat].inbox.pop_front()
        {
            taken += 1;
            self.take_in(seat, input);
        }
        if self.machines[seat].run != run {
            // A birth that the device did not bear.
            return self.settle(seat);
        }
        self.take_requests(seat);
        let machine = &mut self.machines[seat];
        machine.busy_until = now.plus_us(self.common.shape.turn_us * (8 + taken as u64) / 8);
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
                serving.turns.tick_if_due(now, !machine.inbox.is_empty());
                if serving.turns.closes_readmission(now) {
                    serving.give_to_disk(DiskJob::CompleteReadmission);
                    self.watch.rare.saw(Rare::Readmitted);
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
        if machine.inbox.len() > 100 {
            self.watch.rare.saw(Rare::LongPause);
        }
        let leads = |machine: &Machine<W::Machine>| {
            machine.serving().is_some_and(|serving| serving.engine().core().role() == Role::Leader)
        };
        let led = leads(machine);
        machine.turn_at = now;
        self.turn(seat);
        if led && !leads(&self.machines[seat]) {
            self.watch.rare.saw(Rare::DeposedInPause);
        }
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
            let actions = serving.turns.take_actions();
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
                        let opened = match serving.snapshots.latest() {
                            Some(info) => serving.snapshots.open_for_sending(&info).map(Some),
                            None => Ok(None),
                        };
                        let file = match opened {
                            Ok(file) => file,
                            Err(SnapshotError::Corrupt { .. }) => {
                                self.snapshot_is_damaged(seat);
                                None
                            }
                            Err(error) => {
                                self.disk_failed(seat, error.to_string());
                                break;
                            }
                        };
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
                let machine = &self.machines[seat];
                let Life::Serving(serving) = &machine.life else { return };
                let news = !machine.inbox.is_empty() || !machine.requests.is_empty() || serving.turns.is_ready();
                if news { now } else { serving.turns.wake_at() }
            }
        };
        let machine = &mut self.machines[seat];
        let wake_at = wake_at.max(now).max(machine.busy_until);
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
        let engine = serving.engine();
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
                    let led = self.watch.rare_watch.leads(node, term);
                    if led && role != Role::Leader {
                        let stalled = machine.disk_hangs_until > self.now;
                        self.watch.rare.saw(if stalled { Rare::StalledLeader } else { Rare::CheckQuorum });
                    }
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
        if (FLOOD..DOOR).contains(&tag) {
            return;
        }
        if outcome == Outcome::Done && self.transfers_asked.remove(&tag) {
            self.watch.rare.saw(Rare::TransferDone);
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
        let machine = &self.machines[seat];
        let end = if machine.disk.power_is_off() { End::PowerCut } else { End::DiskError(why) };
        if machine.full_until > self.now {
            self.watch.rare.saw(Rare::DiskFullStop);
        }
        self.end(seat, end);
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
        if let Err(error) = serving.follow() {
            return self.disk_failed(seat, error.to_string());
        }
        match last {
            Some(id) => self.put(seat, Input::Durable(id)),
            None => self.settle(seat),
        }
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
                self.put(seat, Input::SnapshotTaken { last, len_bytes });
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
        let Life::Serving(serving) = &mut machine.life else { return };
        match serving.end_building(self.common.shape.sessions) {
            Ok(None) => {}
            Ok(Some((install, len_bytes))) => self.put(seat, Input::SnapshotBuilt(Box::new(install), len_bytes)),
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
        let last = last.filter(|_| arrived.is_ok());
        self.watch.happen(&Happening::SnapshotSent { from, to, last });
        match arrived {
            Err(Broken::Source) => self.snapshot_is_damaged(seat),
            Err(Broken::SendersDisk(why)) => return self.disk_failed(seat, why),
            Err(Broken::ReceiversDisk(why)) => self.disk_failed(usize::from(to.name.0), why),
            Ok(()) | Err(Broken::OnTheWay) => {}
        }
        if !self.machines[seat].is_down() {
            self.put(seat, Input::SnapshotSent { to, last });
        }
    }

    /// The newest snapshot of a node turned out to be damaged: it is put out of service, and another one is made (S8).
    fn snapshot_is_damaged(&mut self, seat: usize) {
        let Some(serving) = self.machines[seat].serving_mut() else { return };
        let Some(info) = serving.snapshots.latest() else { return };
        self.watch.rare.saw(Rare::DamagedSnapshot);
        let Some(serving) = self.machines[seat].serving_mut() else { return };
        match serving.snapshots.set_aside(&info) {
            Ok(()) => self.machines[seat].inbox.push_back(Input::SnapshotLost),
            Err(error) => self.disk_failed(seat, error.to_string()),
        }
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

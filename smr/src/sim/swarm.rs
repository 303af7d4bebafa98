//! The mix: which faults happen at all in a run, how often, to how large a group, under what load.
//!
//! Each seed has another mix (swarm testing: Groce et al., ISSTA 2012). A run with every fault at once is a poor one: most of
//! them hide each other. So each kind is off in about half of the runs, and some runs are long and nearly quiet.

use crate::id::NodeName;
use crate::protocol::{Protocol, ReadMode, Time};
use crate::replica::Request;
use crate::sim::clients::Pace;
use crate::sim::clock::Clock;
use crate::sim::dice::{Dice, Purpose};
use crate::sim::machine::{Shape, StartTrouble, path};
use crate::sim::network::{CLIENTS, Weather};
use crate::sim::rare::Rare;
use crate::sim::workload::Workload;
use crate::sim::world::World;
use crate::storage::Engine;
use crate::storage::disk::Disk;
use crate::storage::virtual_disk::VirtualDisk;
use crate::storage::virtual_map::MapDamage;

/// Something that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A process is killed.
    Kill,
    /// A machine loses power.
    PowerCut,
    /// All processes are killed, or all machines lose power.
    CrashAll,
    /// A process is stopped and goes on.
    Pause,
    /// A device does nothing for a while.
    HangDisk,
    /// All links of a node are cut.
    CutOff,
    /// A node sends and does not hear, or the reverse.
    OneWay,
    /// Each link by itself, each way by itself.
    RandomCuts,
    /// Clients do not reach a node, or its answers do not reach them.
    ClientsCut,
    /// Connections break.
    Resets,
    /// An operator moves the leadership.
    Transfer,
    /// A directory is emptied.
    LoseDirectory,
    /// A file that is compared with others is damaged.
    Damage,
    /// A directory is set back to an earlier state.
    SetBack,
    /// A device fails in a write or a sync, and the process must stop.
    DiskError,
    /// A device is full for a while.
    DiskFull,
    /// A read fails, while the process runs or when it starts.
    ReadError,
    /// The power goes in the middle of a start.
    CrashInStart,
    /// Very many requests at once.
    Flood,
    /// The others lose the leader one by one, and may be killed and back at once; the leader may be stopped and go on, alone, with
    /// their old answers in its buffers. In runs with leases only.
    Siege,
}

const KINDS: [(Kind, u64); 19] = [
    (Kind::Kill, 6),
    (Kind::PowerCut, 6),
    (Kind::CrashAll, 1),
    (Kind::Pause, 4),
    (Kind::HangDisk, 2),
    (Kind::CutOff, 4),
    (Kind::OneWay, 3),
    (Kind::RandomCuts, 3),
    (Kind::ClientsCut, 2),
    (Kind::Resets, 3),
    (Kind::Transfer, 3),
    (Kind::LoseDirectory, 2),
    (Kind::Damage, 2),
    (Kind::SetBack, 2),
    (Kind::DiskError, 2),
    (Kind::DiskFull, 1),
    (Kind::ReadError, 2),
    (Kind::CrashInStart, 2),
    (Kind::Flood, 1),
];

/// What one run is made of.
#[derive(Clone, Debug)]
pub struct Mix {
    /// The group.
    pub shape: Shape,
    /// The network.
    pub weather: Weather,
    /// The clients.
    pub pace: Pace,
    /// How long a write takes at most, in microseconds.
    pub disk_us: u64,
    /// What goes wrong, with weights.
    pub kinds: Vec<(Kind, u64)>,
    /// The time between two faults is drawn up to this, in microseconds.
    pub gap_us: u64,
    /// How long faults happen, in microseconds.
    pub chaos_us: u64,
    /// Registers, for the workload of our own.
    pub registers: u8,
    /// How many of a hundred operations are reads.
    pub reads_percent: u64,
    /// Bytes of ballast in each command.
    pub ballast_bytes: usize,
    /// The machines' clocks, by seat.
    pub clocks: Vec<Clock>,
}

impl Mix {
    /// The mix of a seed. `size` overrides the group's size.
    pub fn draw(dice: &mut Dice, size: Option<u16>) -> Mix {
        let drawn = dice.pick(&[1, 2, 3, 3, 3, 3, 4, 5, 5, 5, 7]);
        let size = size.unwrap_or(drawn);
        let mut shape = Shape::small(size);
        let log_bytes = dice.pick(&[2_000, 5_000, 20_000, 100_000]);
        shape.snapshot_log_bytes = log_bytes..=2 * log_bytes;
        shape.settings.log_retain_bytes = dice.pick(&[0, 1_000, 10_000]);
        shape.settings.append_entries_max = dice.pick(&[1, 4, 16, 256]);
        shape.settings.inflight_appends_max = dice.pick(&[1, 2, 16, 256]);
        if dice.chance(300) {
            shape.sessions.sessions_max = dice.pick(&[3, 8]);
        }
        if dice.chance(300) {
            shape.sessions.answers_max_bytes = dice.pick(&[400, 2_000]);
        }
        let weather = Weather {
            loss: dice.pick(&[0, 0, 0, 10, 50, 200]),
            doubled: dice.pick(&[0, 10, 100]),
            late: dice.pick(&[0, 0, 20, 100]),
            late_us: dice.pick(&[10_000, 100_000, 1_000_000]),
            replayed: dice.pick(&[0, 1, 10]),
            least_us: dice.pick(&[50, 50, 500, 20_000]),
            jitter_us: dice.pick(&[10, 1_000, 1_000, 30_000]),
        };
        let pause_max_us = dice.pick(&[2_000, 12_000, 50_000, 200_000]);
        let pace = Pace {
            clients: dice.between(1, 6) as usize,
            window: dice.pick(&[1, 1, 2, 4, 16]),
            pause_min_us: pause_max_us / 10,
            pause_max_us,
            doubled: dice.pick(&[0, 10, 100]),
            given_up: dice.pick(&[0, 0, 5, 50]),
            trusting: dice.pick(&[0, 20, 300]),
        };
        let mut kinds: Vec<(Kind, u64)> = KINDS.iter().copied().filter(|_| dice.chance(450)).collect();
        if kinds.is_empty() {
            kinds.push((Kind::PowerCut, 1));
        }
        shape.turn_us = dice.pick(&[0, 0, 20, 200, 1_000]);
        shape.engine = dice.pick(&[Engine::Journal, Engine::Simulated]);
        let mut mix = Mix {
            shape,
            weather,
            pace,
            disk_us: dice.pick(&[300, 2_000, 2_000, 10_000, 60_000]),
            kinds,
            gap_us: dice.pick(&[50_000, 300_000, 1_000_000, 3_000_000]),
            chaos_us: dice.between(4_000_000, 18_000_000),
            registers: dice.pick(&[1, 2, 5]),
            reads_percent: dice.pick(&[10, 50, 80]),
            ballast_bytes: dice.pick(&[0, 0, 100, 1_000]),
            clocks: vec![Clock::TRUE; usize::from(size)],
        };
        // Room for what is written during a transfer, or a newcomer never catches up.
        let room_bytes = SENDING_ENTRIES * (mix.ballast_bytes + ENTRY_BYTES);
        let settings = &mut mix.shape.settings;
        settings.log_retain_sending_bytes = settings.log_retain_sending_bytes.max(room_bytes);
        settings.log_retain_bytes = settings.log_retain_bytes.max(room_bytes / 4);
        // Above what stays, or each entry would cause a snapshot.
        let stays = settings.log_retain_bytes;
        let range = &mix.shape.snapshot_log_bytes;
        mix.shape.snapshot_log_bytes = stays + range.start()..=stays + range.end();
        mix.draw_clocks(dice);
        // Last, so that the other mixes are what they were before there was this engine.
        if dice.below(3) == 1 {
            mix.shape.engine = Engine::Segments;
        }
        mix
    }

    /// Some runs read under leases, with clocks that differ as much as they may. Some others have clocks that differ by far more,
    /// and read without leases, which must not depend on them (R7).
    fn draw_clocks(&mut self, dice: &mut Dice) {
        let lot = dice.below(100);
        let drift_permille = if lot < LEASES_PERCENT {
            let settings = &mut self.shape.settings;
            settings.reads = ReadMode::Lease;
            settings.lease_us = dice.pick(&[150_000, 300_000, 300_000, settings.election_timeout_us]);
            settings.clock_drift_permille = dice.pick(&[0, 10, 100, 300]);
            // What can go wrong with leases: one who goes on where it was stopped, is cut off, comes back at once, hands over.
            self.kinds.push((Kind::Siege, 8));
            for kind in [(Kind::Pause, 6), (Kind::CutOff, 4), (Kind::Kill, 6), (Kind::Transfer, 3), (Kind::Resets, 3)] {
                if dice.chance(500) && !self.kinds.contains(&kind) {
                    self.kinds.push(kind);
                }
            }
            settings.clock_drift_permille
        } else if lot < LEASES_PERCENT + WILD_CLOCKS_PERCENT {
            WILD_DRIFT_PERMILLE
        } else {
            return;
        };
        for clock in &mut self.clocks {
            // The bound is about the fastest and the slowest.
            let faster_permille = dice.between(0, drift_permille + 1);
            clock.rate_permille = 1000 + dice.pick(&[0, drift_permille, faster_permille]);
            clock.origin_us = dice.pick(&[0, 1_000_000, 1 << 40]);
        }
    }
}

/// What goes wrong in one run, and when it is over.
pub(super) struct Swarm {
    dice: Dice,
    mix: Mix,
    /// When the next fault happens.
    pub(super) next_at: Time,
    heal_at: Time,
    operator_at: Time,
    founded: bool,
    backups: Vec<Option<VirtualDisk>>,
    /// What a siege has still to do, in any order.
    strokes: Vec<Stroke>,
}

/// A node loses the leader.
#[derive(Clone, Copy, Debug)]
struct Stroke {
    at: Time,
    leader: usize,
    seat: usize,
    /// It hears of that.
    resets: bool,
    /// It is killed, and back soon.
    restarts: bool,
}

/// In so many of a hundred runs reads go by leases ...
const LEASES_PERCENT: u64 = 30;
/// ... and in so many others clocks drift beyond any bound.
const WILD_CLOCKS_PERCENT: u64 = 5;
/// How far, per thousand.
const WILD_DRIFT_PERMILLE: u64 = 300;
/// A siege begins within this, in microseconds: late enough for what is under way to arrive.
const SIEGE_FIRST_US: u64 = 60_000;
/// The next node loses the leader within this, in microseconds.
const SIEGE_GAP_US: u64 = 700_000;
/// A flood fits into so many appends.
const FLOOD_APPENDS_MAX: u64 = 60;
/// While a snapshot is on its way the log keeps so many entries ...
const SENDING_ENTRIES: usize = 40;
/// ... of so many bytes besides ballast.
const ENTRY_BYTES: usize = 100;
/// How often the operator looks for nodes to be readmitted, in microseconds.
const OPERATOR_US: u64 = 700_000;
/// The length of a slot of the promise or the mark.
const SLOT_BYTES: u64 = 512;

impl Swarm {
    pub(super) fn new(seed: u64, mix: Mix) -> Swarm {
        let mut dice = Dice::new(seed, Purpose::Faults);
        let backups = (0..mix.shape.size).map(|_| None).collect();
        let next_at = Time(dice.below(3_000_000));
        Swarm {
            dice,
            mix,
            next_at,
            heal_at: Time(u64::MAX),
            operator_at: Time(0),
            founded: false,
            backups,
            strokes: Vec::new(),
        }
    }

    /// Does what is due.
    pub(super) fn act<W: Workload>(&mut self, world: &mut World<W>) {
        self.founded |= world.serving_seats().len() == world.machines.len();
        if self.heal_at <= world.now {
            self.heal_at = Time(u64::MAX);
            world.heal_cuts();
        }
        self.strike_on(world);
        self.operate(world);
        if self.next_at <= world.now {
            self.next_at = world.now.plus_us(1_000 + self.dice.below(self.mix.gap_us));
            self.strike(world);
        }
    }

    /// When there is something to do.
    pub(super) fn due_at(&self) -> Time {
        let strokes = self.strokes.iter().map(|stroke| stroke.at).min().unwrap_or(Time(u64::MAX));
        self.next_at.min(self.heal_at).min(self.operator_at).min(strokes)
    }

    /// Lays siege to a leader.
    fn besiege<W: Workload>(&mut self, world: &mut World<W>, leader: usize) {
        if self.dice.chance(500) {
            world.pause(leader, self.dice.between(400_000, 1_500_000));
        }
        let mut at = world.now.plus_us(self.dice.below(SIEGE_FIRST_US));
        let first = self.dice.below(world.machines.len() as u64) as usize;
        for seat in (0..world.machines.len()).map(|seat| (seat + first) % world.machines.len()) {
            if seat != leader {
                let (resets, restarts) = (self.dice.chance(700), self.dice.chance(300));
                self.strokes.push(Stroke { at, leader, seat, resets, restarts });
                at = at.plus_us(self.dice.below(SIEGE_GAP_US));
            }
        }
        self.heal_at = at.plus_us(self.dice.between(200_000, 2_000_000));
    }

    /// Does what is due of a siege.
    fn strike_on<W: Workload>(&mut self, world: &mut World<W>) {
        let (due, rest) = self.strokes.iter().partition(|stroke| stroke.at <= world.now);
        self.strokes = rest;
        let due: Vec<Stroke> = due;
        for Stroke { at: _, leader, seat, resets, restarts } in due {
            world.cut(leader as u16, seat as u16);
            world.cut(seat as u16, leader as u16);
            if restarts {
                world.crash_for(seat, false, Some(1_000 + self.dice.below(20_000)));
            } else if resets {
                world.reset(leader, seat);
            }
        }
    }

    /// Readmits nodes that wait outside of a group that exists.
    pub(super) fn operate<W: Workload>(&mut self, world: &mut World<W>) {
        if world.now < self.operator_at {
            return;
        }
        self.operator_at = world.now.plus_us(OPERATOR_US);
        world.machines.iter_mut().for_each(crate::sim::machine::Machine::has_caught_up);
        if !self.founded {
            return;
        }
        let Some(leader) = world.leader() else { return };
        let outside: Vec<usize> = (0..world.machines.len()).filter(|seat| is_outside(world, leader, *seat)).collect();
        if !outside.is_empty() {
            let seat = self.dice.pick(&outside);
            world.ask(leader, Request::Readmit { name: NodeName(seat as u16) });
        }
    }

    /// Whether one more directory may be spoiled: a minority of the disks, at most.
    fn may_spoil<W: Workload>(&self, world: &World<W>) -> bool {
        if world.leader().is_none() {
            return false;
        }
        let minority = (world.machines.len() - 1) / 2;
        // A seat counts until every node knows of its new incarnation, for good: whoever does not may lead next, by a configuration in
        // which that seat is lost.
        let serving = world.serving_seats();
        let is_spoiled = |seat: &usize| serving.iter().any(|witness| is_outside(world, *witness, *seat));
        let spoiled = (0..world.machines.len()).filter(is_spoiled).count();
        self.founded && spoiled < minority
    }

    /// Whether the group can do without what this node has acknowledged and promised, even if it forgets and nobody notices:
    /// all others follow the same leader and have at least as much, on their devices.
    fn is_dispensable<W: Workload>(&self, world: &World<W>, victim: usize) -> bool {
        let Some(leader) = world.leader() else { return false };
        let status = |seat: usize| Some(world.machines[seat].serving()?.engine().core().status());
        let (Some(lead), Some(own)) = (status(leader), status(victim)) else { return false };
        leader != victim
            && (0..world.machines.len()).filter(|seat| *seat != victim).all(|seat| {
                status(seat).is_some_and(|status| {
                    status.term == lead.term
                        && status.leader == Some(lead.node)
                        && status.durable >= own.last.index
                        && status.configuration == lead.configuration
                        && !status.configuration.is_joint()
                })
            })
            && own.term == lead.term
            && lead.commit >= own.last.index
    }

    fn strike<W: Workload>(&mut self, world: &mut World<W>) {
        let total: u64 = self.mix.kinds.iter().map(|(_, weight)| weight).sum();
        let mut lot = self.dice.below(total);
        let kind = self.mix.kinds.iter().find(|(_, weight)| {
            let hit = lot < *weight;
            lot = lot.saturating_sub(*weight);
            hit
        });
        let Some(&(kind, _)) = kind else { return };
        let size = world.machines.len();
        let seat = self.dice.below(size as u64) as usize;
        // Leaders are where it hurts.
        let seat = if self.dice.chance(400) { world.leader().unwrap_or(seat) } else { seat };
        match kind {
            Kind::Kill => world.crash(seat, false),
            Kind::PowerCut => world.crash(seat, true),
            Kind::CrashAll => {
                let power_cut = self.dice.chance(700);
                (0..size).for_each(|seat| world.crash(seat, power_cut));
                world.watch.rare.saw(Rare::AllCrashed);
            }
            Kind::Pause => {
                let us = self.dice.pick(&[100_000, 800_000, 3_000_000]);
                world.pause(seat, 10_000 + self.dice.below(us));
            }
            Kind::HangDisk => {
                let us = self.dice.pick(&[100_000, 1_000_000, 4_000_000]);
                world.hang_disk(seat, world.now.plus_us(self.dice.below(us)));
            }
            Kind::CutOff => {
                world.cut_off(seat, self.dice.chance(500));
                self.heal_soon(world.now);
            }
            Kind::OneWay => {
                let deaf = self.dice.chance(500);
                for other in (0..size as u16).filter(|other| usize::from(*other) != seat) {
                    let (from, to) = if deaf { (other, seat as u16) } else { (seat as u16, other) };
                    world.cut(from, to);
                }
                self.heal_soon(world.now);
            }
            Kind::RandomCuts => {
                for (from, to) in (0..size as u16).flat_map(|from| (0..size as u16).map(move |to| (from, to))) {
                    if from != to && self.dice.chance(300) {
                        world.cut(from, to);
                    }
                }
                self.heal_soon(world.now);
            }
            Kind::ClientsCut => {
                if self.dice.chance(500) {
                    world.cut(CLIENTS, seat as u16);
                } else {
                    world.cut(seat as u16, CLIENTS);
                }
                self.heal_soon(world.now);
            }
            Kind::Resets => {
                for _ in 0..self.dice.between(1, 6) {
                    let to = self.dice.below(size as u64) as usize;
                    if to != seat {
                        world.reset(seat, to);
                    }
                }
            }
            Kind::Transfer => {
                if let Some(leader) = world.leader() {
                    let to = NodeName(self.dice.below(size as u64) as u16);
                    world.ask(leader, Request::Transfer { to });
                }
            }
            Kind::LoseDirectory => {
                if self.may_spoil(world) {
                    world.lose_directory(seat);
                }
            }
            Kind::Damage => self.damage(world, seat),
            Kind::SetBack => self.set_back(world, seat),
            Kind::DiskError => world.fail_disk(seat, self.dice.below(12)),
            Kind::DiskFull => {
                let us = self.dice.pick(&[200_000, 3_000_000]);
                world.fill_disk(seat, world.now.plus_us(self.dice.below(us)));
            }
            Kind::ReadError => {
                if self.dice.chance(500) {
                    world.fail_read(seat, self.dice.below(4));
                } else {
                    world.trouble_start(seat, StartTrouble::ReadError(self.dice.below(40)));
                }
            }
            Kind::CrashInStart => world.trouble_start(seat, StartTrouble::PowerOff(self.dice.below(24))),
            Kind::Siege => {
                if let Some(leader) = world.leader() {
                    self.besiege(world, leader);
                }
            }
            Kind::Flood => {
                // No more than a pipeline of such appends works off in the calm.
                let fitting = FLOOD_APPENDS_MAX * self.mix.shape.settings.append_entries_max as u64;
                let most = self.dice.pick(&[300, 3_000, 12_000]).min(fitting);
                world.flood(seat, self.dice.below(most));
            }
        }
    }

    fn heal_soon(&mut self, now: Time) {
        let us = self.dice.pick(&[100_000, 1_000_000, 3_000_000]);
        self.heal_at = self.heal_at.min(now.plus_us(50_000 + self.dice.below(us)));
    }

    fn damage<W: Workload>(&mut self, world: &mut World<W>, seat: usize) {
        if !self.may_spoil(world) || world.machines[seat].serving().is_none_or(|serving| serving.readmission_open()) {
            return;
        }
        if self.dice.chance(300) {
            // One slot of two: it must not even be noticed. A kill tears nothing, so the other one is sound.
            let (file, slot) = (self.dice.pick(&["promise", "mark"]), self.dice.below(2));
            let at = (slot * SLOT_BYTES + self.dice.below(SLOT_BYTES)) as usize;
            world.damage_slot(seat, &path(file), |bytes| {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1;
                }
            });
            return;
        }
        match self.dice.below(4) {
            // Both slots of the promise.
            0 => {
                world.damage(seat, &path("promise"), |bytes| bytes.iter_mut().for_each(|byte| *byte ^= 1));
            }
            // A snapshot, which is noticed when it is read.
            1 => {
                let snapshots = world.machines[seat].serving().and_then(|serving| serving.snapshots.latest());
                if let Some(info) = snapshots.filter(|_| self.is_dispensable(world, seat)) {
                    let lot = self.dice.any();
                    world.damage_snapshot(seat, info.meta.last, lot);
                }
            }
            // Behind the mark a flipped bit cannot be told from a torn write, so this is for nodes that others can do without.
            _ if !self.is_dispensable(world, seat) => {}
            2 => {
                let (read, bit) = (self.dice.below(30), self.dice.any() as usize);
                world.trouble_start(seat, StartTrouble::FlippedBit(read, bit));
            }
            _ if self.mix.shape.engine == Engine::Simulated => {
                let lot = self.dice.any() as usize;
                let damage = match self.dice.below(6) {
                    0 => MapDamage::Shorter(lot % 20),
                    1 => MapDamage::Emptied,
                    2 => MapDamage::Missing,
                    3 => MapDamage::Unopenable,
                    4 => MapDamage::Unreadable(lot),
                    _ => MapDamage::FlippedBit { value: lot, bit: lot / 7 },
                };
                world.damage_map(seat, damage);
            }
            _ if self.mix.shape.engine == Engine::Segments => {
                let mut names = world.machines[seat].disk.list(&path("log")).unwrap_or_default();
                names.retain(|name| name.ends_with(".segment"));
                if !names.is_empty() {
                    let (name, lot) = (self.dice.below(names.len() as u64) as usize, self.dice.any());
                    world.damage(seat, &path("log").join(&names[name]), |bytes| {
                        let end = bytes.iter().rposition(|byte| *byte != 0).map_or(bytes.len(), |last| last + 1);
                        flip(&mut bytes[..end], lot);
                    });
                }
            }
            _ => {
                let lot = self.dice.any();
                world.damage(seat, &path("log/journal"), |bytes| flip(bytes, lot));
            }
        }
    }

    /// Takes a backup, or brings one back.
    fn set_back<W: Workload>(&mut self, world: &mut World<W>, seat: usize) {
        if world.machines[seat].serving().is_none_or(|serving| serving.readmission_open()) {
            return;
        }
        match self.backups[seat].take() {
            // One from before its first lease: it would come back bound by nothing, and nobody could notice (M8).
            None if self.mix.shape.settings.reads == ReadMode::Lease && !has_granted(world, seat) => {}
            None => self.backups[seat] = Some(world.backup(seat)),
            Some(disk) => {
                if self.may_spoil(world) && self.is_dispensable(world, seat) {
                    world.set_back(seat, disk);
                }
            }
        }
    }
}

/// Whether a node's device knows of a lease that it granted.
fn has_granted<W: Workload>(world: &World<W>, seat: usize) -> bool {
    world.watch.ledger.page(world.machines[seat].id).is_some_and(|page| page.promise.lease_us > 0)
}

/// Flips a bit.
pub(super) fn flip(bytes: &mut [u8], lot: u64) {
    let Some(bit) = lot.checked_rem(bytes.len() as u64 * 8) else { return };
    if let Some(byte) = bytes.get_mut((bit / 8) as usize) {
        *byte ^= 1 << (bit % 8);
    }
}

/// Whether the present node of a seat is no voter, as far as the leader knows.
pub(super) fn is_outside<W: Workload>(world: &World<W>, leader: usize, seat: usize) -> bool {
    let Some(serving) = world.machines[leader].serving() else { return true };
    let status = serving.engine().core().status();
    let machine = &world.machines[seat];
    status.configuration.is_joint()
        || !status.configuration.voters.contains(&machine.id)
        || machine.is_damaged
        || machine.is_set_back
        || machine.serving().is_some_and(|serving| serving.readmission_open())
}

//! The faults of a run: what happens when, by the configuration of its seed ([`super::swarm_config`]).

mod member_changes;

use std::collections::BTreeMap;

use smr::LogEngine;
use smr::entry::Configuration;
use smr::id::{NodeId, ReplicaId, StartId};
use smr::internals::admin::readmission::READMISSION_UNDER_WAY;
use smr::internals::admin::scaling::CHANGE_UNDER_WAY;
use smr::internals::disk::Disk;
use smr::internals::protocol::{Protocol, Time};
use smr::internals::storage::{SLOT_BYTES, SLOT_STRIDE_BYTES};
use smr::replica::{Outcome, Request};
use smr::state_machine::StateMachine;
use smr::status::ReadMode;

use crate::network::CLIENTS;
use crate::rare::Rare;
use crate::sim_node::{Serving, StartTrouble, path};
use crate::sim_rng::{Purpose, SimRng};
use crate::succession::Succession;
use crate::swarm_config::{BACKLOG_APPENDS_MAX, Kind, SwarmConfig};
use crate::virtual_disk::{MapDamage, VirtualDisk, flip};
use crate::virtual_map::SIMULATED;
use crate::workload::Workload;
use crate::world::World;

/// What goes wrong in one run, and when it is over.
pub(super) struct FaultInjector {
    rng: SimRng,
    config: SwarmConfig,
    /// When the next fault happens.
    pub(super) next_at: Time,
    heal_at: Time,
    operator_at: Time,
    /// The readmissions that were asked for, by their tags.
    asked: BTreeMap<u64, usize>,
    /// How many outcomes of what the operator asked were looked at.
    heard: usize,
    /// How many readmissions of each replica came to nothing.
    in_vain: Vec<u64>,
    founded: bool,
    /// Whether replicas that the group goes on without are to be members again.
    wants_all: bool,
    backups: Vec<Option<(VirtualDisk, NodeId, StartId)>>,
    /// What a siege has still to do, in any order.
    strokes: Vec<Stroke>,
    succession: Option<Succession>,
    ambush: Option<Ambush>,
    /// Where a received snapshot is kept from being put in place.
    held_install: Option<usize>,
    /// How many requests may still be put into the logs of leaders that are cut off.
    vain: u64,
}

/// A node loses the leader.
#[derive(Clone, Copy, Debug)]
struct Stroke {
    at: Time,
    leader: usize,
    replica: usize,
    /// Its links to the leader are cut.
    cuts: bool,
    /// It hears of that.
    resets: bool,
    /// It is killed, and back soon.
    restarts: bool,
}

/// Something rare during which a node crashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ambush {
    /// A received snapshot is about to be adopted.
    Install,
    /// Entries that contradict the leader's are about to be removed.
    Truncation,
    /// The state of a received snapshot is being built.
    Building,
}

impl Ambush {
    fn is_sprung_by<S: StateMachine>(self, serving: &Serving<S>) -> bool {
        match self {
            Ambush::Install => serving.installs(),
            Ambush::Truncation => serving.truncates(),
            Ambush::Building => serving.building.is_some(),
        }
    }
}

/// A siege begins within this, in microseconds: late enough for what is under way to arrive.
const SIEGE_FIRST_US: u64 = 60_000;
/// The next node loses the leader within this, in microseconds.
const SIEGE_GAP_US: u64 = 700_000;
/// A voter that restarts again and again does so this many times ...
const SHAKES: usize = 16;
/// ... with up to this long from one to the next, in microseconds.
const SHAKE_GAP_US: u64 = 200_000;
/// A received snapshot is kept from being put in place for this many election timeouts at most.
const HELD_INSTALL_T: u64 = 5;
/// How often the operator looks for nodes to be readmitted, in microseconds.
const OPERATOR_US: u64 = 700_000;
/// The last record or two of a journal.
const JOURNAL_TAIL_BYTES: usize = 250;

impl FaultInjector {
    pub(super) fn new(seed: u64, config: SwarmConfig) -> FaultInjector {
        let mut rng = SimRng::new(seed, Purpose::Faults);
        let replicas = usize::from(config.shape.size + config.shape.spares);
        let backups = (0..replicas).map(|_| None).collect();
        let in_vain = vec![0; replicas];
        let (next_at, heal_at, operator_at) = (Time(rng.below(3_000_000)), Time(u64::MAX), Time(0));
        let vain = BACKLOG_APPENDS_MAX * config.shape.settings.append_entries_max as u64;
        FaultInjector {
            wants_all: !config.changes_members(),
            rng,
            config,
            next_at,
            heal_at,
            operator_at,
            asked: BTreeMap::new(),
            heard: 0,
            in_vain,
            founded: false,
            backups,
            strokes: Vec::new(),
            succession: None,
            ambush: None,
            held_install: None,
            vain,
        }
    }

    /// Does what is due.
    pub(super) fn act<W: Workload>(&mut self, world: &mut World<W>) {
        let serves = |founder: u16| world.nodes[usize::from(founder)].serving().is_some();
        self.founded = self.founded || (0..self.config.shape.size).all(serves);
        if self.heal_at <= world.now {
            self.heal_at = Time(u64::MAX);
            world.heal_cuts();
        }
        self.inject_due(world);
        self.operate(world);
        self.pursue(world);
        if self.next_at <= world.now {
            self.next_at = world.now.plus_us(1_000 + self.rng.below(self.config.gap_us));
            self.inject(world);
        }
    }

    /// When there is something to do.
    pub(super) fn due_at(&self) -> Time {
        let succession_at = self.succession.as_ref().map_or(Time(u64::MAX), Succession::due_at);
        let strokes = self.strokes.iter().map(|stroke| stroke.at).min().unwrap_or(Time(u64::MAX));
        self.next_at.min(self.heal_at).min(self.operator_at).min(succession_at).min(strokes)
    }

    /// Lays siege to a leader.
    fn besiege<W: Workload>(&mut self, world: &mut World<W>, leader: usize) {
        if self.rng.chance(300) {
            return self.shake(world, leader);
        }
        if self.rng.chance(500) {
            world.pause(leader, self.rng.between(400_000, 1_500_000));
        }
        let mut at = world.now.plus_us(self.rng.below(SIEGE_FIRST_US));
        let first = self.rng.below(world.nodes.len() as u64) as usize;
        for replica in (0..world.nodes.len()).map(|replica| (replica + first) % world.nodes.len()) {
            if replica != leader {
                let (resets, restarts) = (self.rng.chance(700), self.rng.chance(300));
                self.strokes.push(Stroke { at, leader, replica, cuts: true, resets, restarts });
                at = at.plus_us(self.rng.below(SIEGE_GAP_US));
            }
        }
        self.heal_at = at.plus_us(self.rng.between(200_000, 2_000_000));
    }

    /// A minority loses the leader, and one of those it is left with restarts again and again: each time it has
    /// forgotten by whose lease it is bound, and sooner or later the others ask it for its vote right then (E17).
    fn shake<W: Workload>(&mut self, world: &mut World<W>, leader: usize) {
        let size = world.nodes.len();
        let first = self.rng.below(size as u64) as usize;
        let others =
            (0..size).map(|replica| (replica + first) % size).filter(|replica| *replica != leader).collect::<Vec<_>>();
        let (lost, left) = others.split_at((size - 1) / 2);
        let stroke = Stroke { at: world.now, leader, replica: leader, cuts: false, resets: false, restarts: false };
        for replica in lost {
            let resets = self.rng.chance(500);
            self.strokes.push(Stroke { replica: *replica, cuts: true, resets, ..stroke });
        }
        // No one stands before.
        let mut at = world.now.plus_us(self.config.shape.settings.election_timeout_us / 2);
        for replica in left.first().iter().cycle().take(SHAKES) {
            at = at.plus_us(self.rng.below(SHAKE_GAP_US));
            self.strokes.push(Stroke { at, replica: **replica, restarts: true, ..stroke });
        }
        self.heal_at = at.plus_us(self.rng.between(200_000, 2_000_000));
    }

    /// Does what is due of a siege.
    fn inject_due<W: Workload>(&mut self, world: &mut World<W>) {
        let (due, rest) = self.strokes.iter().partition(|stroke| stroke.at <= world.now);
        self.strokes = rest;
        let due: Vec<Stroke> = due;
        for Stroke { at: _, leader, replica, cuts, resets, restarts } in due {
            if cuts {
                world.cut(leader as u16, replica as u16);
                world.cut(replica as u16, leader as u16);
            }
            if restarts {
                world.crash_for(replica, false, Some(1_000 + self.rng.below(20_000)));
            } else if resets {
                world.reset(leader, replica);
            }
        }
    }

    /// What waits for something to happen, after each step.
    pub(super) fn pursue<W: Workload>(&mut self, world: &mut World<W>) {
        if let Some(succession) = &mut self.succession
            && !succession.pursue(world, &mut self.rng, &mut self.vain)
        {
            self.succession = None;
        }
        if let Some(replica) = self.held_install
            && !world.holds_install_back(replica)
        {
            self.held_install = None;
        }
        if self.ambush == Some(Ambush::Building) {
            self.overtake_install(world);
        } else if let Some(ambush) = self.ambush {
            let sprung =
                |replica: &usize| world.nodes[*replica].serving().is_some_and(|serving| ambush.is_sprung_by(serving));
            if let Some(replica) = world.touched().iter().copied().find(sprung) {
                self.ambush = None;
                world.crash(replica, self.rng.chance(700));
            }
        }
    }

    /// From now on all replicas are to be members.
    pub(super) fn want_all(&mut self) {
        self.wants_all = true;
    }

    /// Readmits nodes that wait outside of a group that exists.
    pub(super) fn operate<W: Workload>(&mut self, world: &mut World<W>) {
        if world.now < self.operator_at {
            return;
        }
        self.operator_at = world.now.plus_us(OPERATOR_US);
        world.nodes.iter_mut().for_each(crate::sim_node::SimNode::has_caught_up);
        if !self.founded {
            return;
        }
        let Some(leader) = world.leader() else { return };
        let wants_all = self.wants_all;
        let is_scattered = || (0..world.nodes.len()).any(|replica| !is_named(world, leader, replica));
        // Members that are gone for good come first: of them no one knows what they apply, so a change is refused.
        let is_replaced = |replica: usize| {
            is_named(world, leader, replica) && is_outside(world, leader, replica) && !world.nodes[replica].is_healing
        };
        let any_replaced = (0..world.nodes.len()).any(is_replaced);
        if wants_all && self.config.changes_members() && !any_replaced && is_scattered() {
            let all = world.nodes.iter().map(|node| node.id.name).collect();
            return member_changes::ask_to_scale(world, leader, all);
        }
        // Whoever heals needs no one, and nor does whoever has left.
        let needs_help = |replica: &usize| {
            is_outside(world, leader, *replica)
                && !world.nodes[*replica].is_healing
                && (wants_all || is_named(world, leader, *replica))
        };
        let outside: Vec<usize> = (0..world.nodes.len()).filter(needs_help).collect();
        // One that no one hears for good must not keep the operator from the others.
        self.note_refusals(world);
        let fewest = outside.iter().map(|replica| self.in_vain[*replica]).min();
        let next: Vec<usize> = outside.into_iter().filter(|replica| Some(self.in_vain[*replica]) == fewest).collect();
        if !next.is_empty() {
            let replica = self.rng.pick(&next);
            let tag = world.ask(leader, Request::Readmit { name: ReplicaId(replica as u16) });
            self.asked.insert(tag, replica);
        }
    }

    /// Looks at what became of readmissions. One that is refused because of another one tells nothing.
    fn note_refusals<W: Workload>(&mut self, world: &World<W>) {
        let heard =
            world.clients.operator.iter().skip(std::mem::replace(&mut self.heard, world.clients.operator.len()));
        for (tag, outcome) in heard {
            if let (Some(replica), Outcome::Refused(why)) = (self.asked.remove(tag), outcome)
                && why != READMISSION_UNDER_WAY
                && why != CHANGE_UNDER_WAY
            {
                self.in_vain[replica] += 1;
            }
        }
    }

    /// Whether one more directory may be spoiled: a minority of the disks, at most.
    fn may_spoil<W: Workload>(&self, world: &World<W>) -> bool {
        if world.leader().is_none() {
            return false;
        }
        let minority = (world.nodes.len() - 1) / 2;
        // A replica counts until every node knows of its new incarnation, for good: whoever does not may lead next, by
        // a configuration in which that replica is lost.
        let serving = world.serving_replicas();
        let is_spoiled = |replica: &usize| serving.iter().any(|witness| is_outside(world, *witness, *replica));
        let spoiled = (0..world.nodes.len()).filter(is_spoiled).count();
        self.founded && spoiled < minority
    }

    /// Whether the group can do without what this node has acknowledged and voted, even if it forgets and no one
    /// notices: all others follow the same leader and have at least as much, on their devices.
    fn is_dispensable<W: Workload>(&self, world: &World<W>, victim: usize) -> bool {
        let Some(leader) = world.leader() else { return false };
        let status = |replica: usize| Some(world.nodes[replica].serving()?.engine().core().status());
        let (Some(lead), Some(own)) = (status(leader), status(victim)) else { return false };
        leader != victim
            && (0..world.nodes.len()).filter(|replica| *replica != victim).all(|replica| {
                status(replica).is_some_and(|status| {
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

    fn inject<W: Workload>(&mut self, world: &mut World<W>) {
        let total: u64 = self.config.kinds.iter().map(|(_, weight)| weight).sum();
        let mut lot = self.rng.below(total);
        let kind = self.config.kinds.iter().find(|(_, weight)| {
            let hit = lot < *weight;
            lot = lot.saturating_sub(*weight);
            hit
        });
        let Some(&(kind, _)) = kind else { return };
        let size = world.nodes.len();
        let replica = self.rng.below(size as u64) as usize;
        // Leaders are where it hurts.
        let replica = if self.rng.chance(400) { world.leader().unwrap_or(replica) } else { replica };
        match kind {
            Kind::Kill => world.crash(replica, false),
            Kind::PowerCut => world.crash(replica, true),
            Kind::CrashAll => {
                let power_cut = self.rng.chance(700);
                (0..size).for_each(|replica| world.crash(replica, power_cut));
                world.watch.rare.saw(Rare::AllCrashed);
            }
            Kind::Pause => {
                let us = self.rng.pick(&[100_000, 800_000, 3_000_000]);
                world.pause(replica, 10_000 + self.rng.below(us));
            }
            Kind::SlowDisk => {
                let us = self.rng.pick(&[5_000, 50_000, 200_000, 400_000]);
                world.slow_disk(replica, us, world.now.plus_us(self.rng.between(1_000_000, 8_000_000)));
            }
            Kind::HangDisk => {
                let us = self.rng.pick(&[100_000, 1_000_000, 4_000_000]);
                world.hang_disk(replica, world.now.plus_us(self.rng.below(us)));
            }
            Kind::CutOff => {
                world.cut_off(replica, self.rng.chance(500));
                self.heal_soon(world.now);
            }
            Kind::OneWay => {
                let deaf = self.rng.chance(500);
                for other in (0..size as u16).filter(|other| usize::from(*other) != replica) {
                    let (from, to) = if deaf { (other, replica as u16) } else { (replica as u16, other) };
                    world.cut(from, to);
                }
                self.heal_soon(world.now);
            }
            Kind::RandomCuts => {
                for (from, to) in (0..size as u16).flat_map(|from| (0..size as u16).map(move |to| (from, to))) {
                    if from != to && self.rng.chance(300) {
                        world.cut(from, to);
                    }
                }
                self.heal_soon(world.now);
            }
            Kind::ClientsCut => {
                if self.rng.chance(500) {
                    world.cut(CLIENTS, replica as u16);
                } else {
                    world.cut(replica as u16, CLIENTS);
                }
                self.heal_soon(world.now);
            }
            Kind::Resets => {
                for _ in 0..self.rng.between(1, 6) {
                    let to = self.rng.below(size as u64) as usize;
                    if to != replica {
                        world.reset(replica, to);
                    }
                }
            }
            Kind::Transfer => {
                if let Some(leader) = world.leader() {
                    let to = ReplicaId(self.rng.below(size as u64) as u16);
                    world.ask(leader, Request::Transfer { to });
                }
            }
            Kind::LoseDirectory => {
                let may = match self.config.changes_members() {
                    true => self.founded && member_changes::may_lose(world, replica),
                    false => self.may_spoil(world),
                };
                if may {
                    world.lose_directory(replica);
                }
            }
            Kind::Members if self.founded => member_changes::ask(world, &mut self.rng),
            Kind::Members => {}
            Kind::Damage => self.damage(world, replica),
            Kind::LoseLog => self.lose_log(world, replica),
            Kind::SetBack => self.set_back(world, replica),
            Kind::DiskError => world.fail_disk(replica, self.rng.below(12)),
            Kind::DiskFull => {
                let us = self.rng.pick(&[200_000, 3_000_000]);
                let until = world.now.plus_us(self.rng.below(us));
                // Not drawn: seeds keep their meaning.
                if world.now.0.is_multiple_of(2) {
                    world.fill_disk(replica, until);
                } else {
                    world.leave_little_room(replica, until);
                }
            }
            Kind::ReadError => {
                if self.rng.chance(500) {
                    world.fail_read(replica, self.rng.below(4));
                } else {
                    world.trouble_start(replica, StartTrouble::ReadError(self.rng.below(40)));
                }
            }
            Kind::CrashInStart => world.trouble_start(replica, StartTrouble::PowerOff(self.rng.below(24))),
            Kind::Flood => {
                // No more than a pipeline of such appends works off in the calm.
                let fitting = BACKLOG_APPENDS_MAX * self.config.shape.settings.append_entries_max as u64;
                let most = self.rng.pick(&[300, 3_000, 12_000]).min(fitting);
                world.flood(replica, self.rng.below(most));
            }
            Kind::Siege => {
                if let Some(leader) = world.leader() {
                    self.besiege(world, leader);
                }
            }
            Kind::Succession => {
                let us = self.rng.pick(&[500_000, 3_000_000]);
                self.succession = Some(Succession::until(world.now.plus_us(us)));
            }
            Kind::Stranded => self.strand(world),
            Kind::Deposed => {
                if let Some(leader) = world.leader() {
                    world.cut_off(leader, true);
                    world.clients.scatter();
                    self.heal_at = self.heal_at.min(world.now.plus_us(100_000 + self.rng.below(900_000)));
                }
            }
            Kind::Ambush => self.lie_in_wait(world),
            Kind::LateInstall => {
                if let Some(leader) = world.leader() {
                    self.ambush = Some(Ambush::Building);
                    self.send_away(world, leader, replica);
                }
            }
        }
    }

    /// A follower is away for a moment, after which it may need a snapshot.
    fn send_away<W: Workload>(&mut self, world: &mut World<W>, leader: usize, replica: usize) {
        let down_us = 100_000 + self.rng.below(900_000);
        if replica != leader {
            world.crash_for(replica, false, Some(down_us));
        }
    }

    fn heal_soon(&mut self, now: Time) {
        let us = self.rng.pick(&[100_000, 1_000_000, 3_000_000]);
        self.heal_at = self.heal_at.min(now.plus_us(50_000 + self.rng.below(us)));
    }

    /// Cuts the leader off and lets its log grow.
    fn strand<W: Workload>(&mut self, world: &mut World<W>) {
        let Some(leader) = world.leader() else { return };
        world.cut_off(leader, self.rng.chance(700));
        let vain = self.rng.below(self.vain.min(200) + 1);
        self.vain -= vain;
        world.flood(leader, vain);
        let us = self.rng.pick(&[500_000, 3_000_000]);
        self.heal_at = self.heal_at.min(world.now.plus_us(400_000 + self.rng.below(us)));
    }

    /// Once someone builds the state of a received snapshot, that takes until a later leader has sent entries behind
    /// it, and does not know yet that they are committed: all others are killed, and whoever led is away for longer.
    fn overtake_install<W: Workload>(&mut self, world: &mut World<W>) {
        let builds = |replica: &usize| {
            world.nodes[*replica].serving().is_some_and(|serving| Ambush::Building.is_sprung_by(serving))
        };
        let Some(replica) = (0..world.nodes.len()).find(builds) else { return };
        self.ambush = None;
        let hold_us = HELD_INSTALL_T * self.config.shape.settings.election_timeout_us;
        world.hold_install(replica, world.now.plus_us(hold_us));
        self.held_install = Some(replica);
        let leader = world.leader();
        for other in (0..world.nodes.len()).filter(|other| *other != replica) {
            let down_us = if Some(other) == leader { hold_us } else { 1_000 + self.rng.below(20_000) };
            world.crash_for(other, false, Some(down_us));
        }
    }

    /// Brings about something rare, and waits for it.
    fn lie_in_wait<W: Workload>(&mut self, world: &mut World<W>) {
        let ambush = self.rng.pick(&[Ambush::Install, Ambush::Truncation]);
        self.ambush = Some(ambush);
        match (ambush, world.leader()) {
            (Ambush::Install, Some(leader)) => {
                let replica = self.rng.below(world.nodes.len() as u64) as usize;
                if replica != leader {
                    let down_us = 500_000 + self.rng.below(2_000_000);
                    world.crash_for(replica, self.rng.chance(500), Some(down_us));
                }
            }
            (Ambush::Truncation, Some(_)) => self.strand(world),
            (Ambush::Building, _) | (_, None) => {}
        }
    }

    fn damage<W: Workload>(&mut self, world: &mut World<W>, replica: usize) {
        if !self.may_spoil(world) || world.nodes[replica].serving().is_none_or(|serving| serving.readmission_open()) {
            return;
        }
        if self.rng.chance(300) {
            // One slot of two: it must not even be noticed. A kill tears nothing, so the other one is sound.
            let (file, slot) = (self.rng.pick(&["promise", "mark"]), self.rng.below(2));
            let at = slot as usize * SLOT_STRIDE_BYTES + self.rng.below(SLOT_BYTES as u64) as usize;
            world.damage_slot(replica, &path(file), |bytes| {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1;
                }
            });
            return;
        }
        match self.rng.below(4) {
            // Both slots of the hard state.
            0 => {
                world.damage(replica, &path("promise"), |bytes| bytes.iter_mut().for_each(|byte| *byte ^= 1));
            }
            // A snapshot, which is noticed when it is read.
            1 => {
                let snapshots = world.nodes[replica].serving().and_then(|serving| serving.snapshots.latest());
                if let Some(info) = snapshots.filter(|_| self.is_dispensable(world, replica)) {
                    let lot = self.rng.any();
                    world.damage_snapshot(replica, info.meta.last, lot);
                }
            }
            // After the watermark a flipped bit cannot be told from a torn write, so this is for nodes that others can
            // do without.
            _ if !self.is_dispensable(world, replica) => {}
            2 => {
                let (read, bit) = (self.rng.below(30), self.rng.any() as usize);
                world.trouble_start(replica, StartTrouble::FlippedBit(read, bit));
            }
            _ if self.config.shape.engine == SIMULATED => {
                let lot = self.rng.any() as usize;
                let damage = match self.rng.below(8) {
                    0 => MapDamage::Shorter(lot % 20),
                    1 => MapDamage::Emptied,
                    2 => MapDamage::Missing,
                    3 => MapDamage::Unopenable,
                    4 => MapDamage::Unreadable(lot),
                    // The end is where damage looks like an interrupted write.
                    _ => MapDamage::FlippedBit { value: self.rng.pick(&[0, 1, lot]), bit: lot / 7 },
                };
                world.damage_map(replica, damage);
            }
            _ if self.config.shape.engine == LogEngine::Segments => {
                let mut names = world.nodes[replica].disk.list(&path("log")).unwrap_or_default();
                names.retain(|name| name.ends_with(".segment"));
                if !names.is_empty() {
                    let (name, lot) = (self.rng.below(names.len() as u64) as usize, self.rng.any());
                    world.damage(replica, &path("log").join(&names[name]), |bytes| {
                        let end = bytes.iter().rposition(|byte| *byte != 0).map_or(bytes.len(), |last| last + 1);
                        flip(&mut bytes[..end], lot);
                    });
                }
            }
            _ => {
                let lot = self.rng.any();
                // The end is where damage looks like an interrupted write.
                let tail_bytes = self.rng.pick(&[usize::MAX, JOURNAL_TAIL_BYTES]);
                world.damage(replica, &path("log/journal"), |bytes| {
                    let from = bytes.len().saturating_sub(tail_bytes);
                    flip(&mut bytes[from..], lot);
                });
            }
        }
    }

    /// Takes a log away, whole or in part, and its watermark, so that it is noticed for sure. No one looks before
    /// whether the others have what is lost: the node may have been the second one to hold it. Meanwhile others go and
    /// come back.
    fn lose_log<W: Workload>(&mut self, world: &mut World<W>, replica: usize) {
        if !self.may_spoil(world) || world.nodes[replica].serving().is_none_or(|serving| serving.readmission_open()) {
            return;
        }
        world.damage(replica, &path("mark"), |bytes| bytes.iter_mut().for_each(|byte| *byte ^= 1));
        let lot = self.rng.any();
        let cut = |bytes: &mut Vec<u8>| bytes.truncate(lot.checked_rem(bytes.len() as u64).unwrap_or(0) as usize);
        match self.config.shape.engine {
            engine if engine == SIMULATED => {
                let damage = [MapDamage::Shorter(lot as usize % 50), MapDamage::Emptied, MapDamage::Missing];
                world.damage_map(replica, self.rng.pick(&damage));
            }
            LogEngine::Segments => {
                for name in world.nodes[replica].disk.list(&path("log")).unwrap_or_default() {
                    if self.rng.chance(500) {
                        world.damage(replica, &path("log").join(name), |bytes| flip(bytes, lot));
                    }
                }
            }
            LogEngine::Map(_) | LogEngine::Sled => {
                world.damage(replica, &path("log/journal"), cut);
            }
        }
        if self.rng.chance(500)
            && let Some(snapshot) = world.snapshot_of(replica)
        {
            world.damage_snapshot(replica, snapshot, lot);
        }
        world.start_at(replica, world.now.plus_us(1_000 + self.rng.below(100_000)));
        let leader = world.leader();
        for other in (0..world.nodes.len()).filter(|other| *other != replica) {
            if self.rng.chance(if Some(other) == leader { 500 } else { 250 }) {
                let down_us = 1_000 + self.rng.below(1_500_000);
                world.crash_for(other, self.rng.chance(500), Some(down_us));
            }
        }
    }

    /// Takes a backup, or brings one back.
    fn set_back<W: Workload>(&mut self, world: &mut World<W>, replica: usize) {
        if world.nodes[replica].serving().is_none_or(|serving| serving.readmission_open()) {
            return;
        }
        match self.backups[replica].take() {
            // One from before its first lease: it would come back bound by nothing, and no one could notice (M8).
            None if self.config.shape.settings.reads == ReadMode::Lease && !has_granted(world, replica) => {}
            None => {
                let machine = &world.nodes[replica];
                self.backups[replica] = Some((world.backup(replica), machine.id, machine.start.id));
            }
            // A start after the copy was made is remembered, whoever is there: then no one need be able to do without
            // this node.
            Some((disk, node, start)) => {
                let is_noticed = world.is_seen_since(node, start);
                if self.may_spoil(world) && (is_noticed || self.is_dispensable(world, replica)) {
                    world.set_back(replica, disk);
                }
            }
        }
    }
}

/// Whether a node's device knows of a lease that it granted.
fn has_granted<W: Workload>(world: &World<W>, replica: usize) -> bool {
    world.watch.ledger.page(world.nodes[replica].id).is_some_and(|page| page.hard_state.lease_us > 0)
}

/// Whether the leader's configuration has a voter of this replica, in whatever incarnation.
fn is_named<W: Workload>(world: &World<W>, leader: usize, replica: usize) -> bool {
    let named = |configuration: &Configuration| {
        configuration.voters.iter().chain(&configuration.outgoing).any(|node| usize::from(node.name.0) == replica)
    };
    world.nodes[leader].serving().is_some_and(|serving| named(&serving.engine().core().status().configuration))
}

/// Whether the present node of a replica is no voter, as far as the leader knows.
pub(super) fn is_outside<W: Workload>(world: &World<W>, leader: usize, replica: usize) -> bool {
    let Some(serving) = world.nodes[leader].serving() else { return true };
    let status = serving.engine().core().status();
    let machine = &world.nodes[replica];
    status.configuration.is_joint()
        || !status.configuration.voters.contains(&machine.id)
        || machine.is_damaged
        || machine.is_healing
        || machine.ends_healing
        || machine.is_set_back
        || machine.serving().is_some_and(|serving| serving.readmission_open())
}

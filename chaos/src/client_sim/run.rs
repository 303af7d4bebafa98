//! One run: from a seed to a verdict.
//!
//! One event loop on one thread, in a runtime whose clock is paused: the simulator is the main task and sleeps until
//! something of the world is due, or until a client or a listener has posted something. tokio moves the clock when
//! everyone sleeps, so the library's timers and the world's events share one virtual time.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use smr::id::ReplicaId;
use smr::internals::protocol::Time;
use smr::internals::session::SessionLimits;
use smr::replica::Request;
use smr_service::listener::{Acceptor, ListenerLimits};
use smr_sim::network::Weather as PeerWeather;
use smr_sim::properties;
use smr_sim::sim_node::Shape;
use smr_sim::sim_rng::{Purpose, SimRng};
use smr_sim::world::Setting;

use super::callers::Callers;
use super::clock::Clock;
use super::endpoint::{Endpoint, Host, MANAGERS, Way};
use super::managers::{Manager, cluster_map, older_map};
use super::partition::Partition;
use super::rare::{Counts, Rare};
use super::sim_net::{Listening, SimNet, Weather};
use super::slot_mover::SlotMover;
use super::swarm_config::{Fault, SwarmConfig};
use madkv_testkit::history::History;

/// How long callers go on in the calm before they are told to stop, in microseconds. Longer than a process that was
/// killed at the end of the faults may stay down (2 s), and a group of one then waits for its election (1.2 s).
const CALM_US: u64 = 4_000_000;
/// Within this many microseconds of calm every call must have ended: connections that fell silent are found out within
/// seconds, and a call may have begun at the end of the calm.
const ENDS_WITHIN_US: u64 = 60_000_000;

/// What a run came to.
pub struct Report {
    /// What decided it.
    pub seed: u64,
    /// The mix.
    pub config: SwarmConfig,
    /// What is wrong, if anything is.
    pub violation: Option<String>,
    /// All calls.
    pub history: History,
    /// What was seen.
    pub counts: Counts,
    /// Of everything that happened, in order.
    pub hash: u64,
    /// Virtual time, in microseconds.
    pub virtual_us: u64,
    /// Calls that were answered.
    pub answered: u64,
    /// Calls that failed.
    pub failed: u64,
}

impl Report {
    /// The command that repeats the run.
    pub fn replay(&self) -> String {
        format!("cargo run -p madkv-bench --bin madkv-sim -- --library --seeds {}", self.seed)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { seed, config, hash, virtual_us, answered, failed, .. } = self;
        let virtual_s = *virtual_us as f64 / 1e6;
        write!(
            f,
            "seed {seed}: {} x {} servers, {} clients, {virtual_s:.1} s, {answered} calls answered, {failed} failed, \
             hash {hash:016x}",
            config.partitions, config.replicas, config.habits.clients
        )?;
        match &self.violation {
            None => Ok(()),
            Some(why) => write!(f, "\nVIOLATION: {why}\nreplay: {}", self.replay()),
        }
    }
}

/// Runs a seed.
pub fn run(seed: u64) -> Report {
    run_config(seed, SwarmConfig::of(seed))
}

/// Runs a seed with another configuration than its own.
pub fn run_config(seed: u64, config: SwarmConfig) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap_or_else(|error| panic!("no runtime: {error}"));
    runtime.block_on(async { Scene::new(seed, config).play().await })
}

/// What ends by itself.
enum Undo {
    Endpoint(Endpoint),
    Silence(Host, Endpoint, Way),
    Cuts(u16),
    Learn(u16),
    Readmit(u16, u16),
}

struct Scene {
    seed: u64,
    config: SwarmConfig,
    clock: Clock,
    net: Arc<SimNet>,
    partitions: Vec<Partition>,
    managers: Vec<(Arc<Manager>, Acceptor<Manager>)>,
    callers: Callers,
    mover: SlotMover,
    rng: SimRng,
    counts: Counts,
    undo: BTreeMap<(Time, u64), Undo>,
    undo_count: u64,
    fault_at: Option<Time>,
    violation: Option<String>,
}

impl Scene {
    fn new(seed: u64, config: SwarmConfig) -> Scene {
        let clock = Clock::start();
        let net = SimNet::new(seed, clock, Weather::calm());
        let map = cluster_map(config.partitions, config.replicas);
        let mut rng = SimRng::new(seed, Purpose::Faults);
        let partitions = (0..config.partitions)
            .map(|number| {
                let mut shape = Shape::small(config.replicas);
                shape.sessions = config.sessions;
                let setting = Setting {
                    seed: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(u64::from(number)),
                    shape,
                    weather: PeerWeather::calm(),
                    properties: if config.with_properties { properties::all() } else { Vec::new() },
                    ..Setting::small(seed, config.replicas)
                };
                let mut setting = setting;
                setting.pace.clients = 0;
                let rng = SimRng::new(rng.any(), Purpose::Nodes);
                let limits = config.limits.clone();
                Partition::new(number, setting, map.clone(), limits, config.behind, Arc::clone(&net), rng)
            })
            .collect();
        let (count, behind) = config.managers;
        let managers: Vec<_> = (0..count)
            .map(|replica| {
                let known = match replica < behind {
                    true => rng.chance(500).then(|| older_map(&map)),
                    false => Some(map.clone()),
                };
                let manager = Manager::new(known);
                net.listen(Endpoint { group: MANAGERS, replica }, Listening::Open);
                let limits = ListenerLimits { connections_max: 2048, ..ListenerLimits::default() };
                (Arc::clone(&manager), Acceptor::new(manager, limits))
            })
            .collect();
        let addresses = (0..count).map(|replica| Endpoint { group: MANAGERS, replica }.address()).collect();
        let callers = Callers::new(
            seed,
            config.habits.clone(),
            Arc::clone(&net),
            clock,
            addresses,
            config.partitions > 1,
            config.sessions != SessionLimits::default(),
        );
        let mut scene = Scene {
            seed,
            config,
            clock,
            net,
            partitions,
            managers,
            callers,
            mover: SlotMover::new(map, SimRng::new(seed, Purpose::Workload)),
            rng,
            counts: Counts::default(),
            undo: BTreeMap::new(),
            undo_count: 0,
            fault_at: None,
            violation: None,
        };
        for replica in 0..behind {
            let after_us = scene.rng.below(scene.config.chaos_us);
            scene.later(after_us, Undo::Learn(replica));
        }
        scene
    }

    async fn play(mut self) -> Report {
        self.until(Time(self.config.start_us)).await;
        self.callers.start();
        self.net.set_weather(self.config.weather);
        for partition in &mut self.partitions {
            partition.world.network.weather = self.config.peer_weather;
            partition.world.disk_us = self.config.disk_us;
        }
        let chaos_ends = self.clock.now().plus_us(self.config.chaos_us);
        self.plan_fault();
        self.until(chaos_ends).await;
        self.calm_down();
        let answered = self.callers.book.answered();
        self.until(self.clock.now().plus_us(CALM_US)).await;
        if self.callers.book.answered() == answered {
            self.violate("no call was answered in the calm".to_owned());
        }
        self.until_that("slots have moved", |scene| scene.mover.is_idle()).await;
        self.callers.stop();
        self.until_that("every call ends", |scene| scene.callers.have_ended()).await;
        let reads = self.callers.last_reads();
        self.until_that("every key is read at last", |_| reads.is_finished()).await;
        self.report()
    }

    fn report(mut self) -> Report {
        let (mut history, counts) = self.callers.book.close();
        // Where slots have moved, one SCAN sees keys of one dealt partition at several moments.
        history.partitions = (!self.mover.has_moved).then_some(self.config.partitions);
        history.notes.push(format!("madkv-sim --library --seeds {}", self.seed));
        self.counts.add(&counts);
        self.net.recorder(|recorder| self.counts.add(&recorder.counts));
        for partition in &self.partitions {
            self.counts.add(&partition.counts);
        }
        let violation = self.violation.take().or_else(|| super::judge::judge(&history).err());
        let mut hash = self.net.recorder(|recorder| recorder.hash()) ^ self.callers.book.hash().rotate_left(17);
        for partition in &self.partitions {
            hash = hash.rotate_left(9) ^ partition.world.watch.trace.hash() ^ partition.world.steps();
        }
        Report {
            seed: self.seed,
            violation,
            history,
            counts: self.counts,
            hash,
            virtual_us: self.clock.now().0,
            answered: self.callers.book.answered(),
            failed: self.callers.book.failed(),
            config: self.config,
        }
    }

    fn violate(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    // ---- Time ----

    async fn until(&mut self, at: Time) {
        while self.clock.now() < at && self.violation.is_none() {
            self.turn(at).await;
        }
    }

    async fn until_that(&mut self, what: &str, holds: impl Fn(&Scene) -> bool) {
        let deadline = self.clock.now().plus_us(ENDS_WITHIN_US);
        while !holds(self) && self.violation.is_none() {
            if self.clock.now() >= deadline {
                return self.violate(format!("not within {} s of calm: {what}", ENDS_WITHIN_US / 1_000_000));
            }
            self.turn(deadline).await;
        }
    }

    /// Lets happen what is due, then sleeps until something is, or was posted, or `at`.
    async fn turn(&mut self, at: Time) {
        let now = self.clock.now();
        if self.fault_at.is_some_and(|at| at <= now) {
            self.go_wrong();
            self.plan_fault();
        }
        while let Some(first) = self.undo.first_entry()
            && first.key().0 <= now
        {
            let undo = first.remove();
            self.undo(undo);
        }
        for incoming in self.net.run() {
            if incoming.place.group == MANAGERS {
                let (_, acceptor) = &self.managers[usize::from(incoming.place.replica)];
                tokio::spawn(acceptor.serve(incoming.input, incoming.output));
            } else {
                self.partitions[usize::from(incoming.place.group)].serve(incoming);
            }
        }
        if self.mover.run(now, &mut self.partitions) {
            self.map_changes();
        }
        for partition in &mut self.partitions {
            partition.run(now);
            if let Some(why) = partition.violation.take() {
                self.violation.get_or_insert(why);
            }
        }
        let seen = self.net.recorder(|recorder| recorder.violation.take()).or_else(|| self.callers.book.violation());
        if let Some(why) = seen {
            self.violate(why);
        }
        let faults = self.fault_at.into_iter().chain(self.undo.keys().map(|(at, _)| *at).next());
        let world = self.partitions.iter().filter_map(Partition::next_at).chain(self.net.next_at());
        let world = world.chain(self.mover.next_at());
        let next = world.chain(faults).min().map_or(at, |next| next.min(at));
        tokio::select! {
            biased;
            () = self.net.posted() => {}
            () = self.clock.sleep_until(next) => {}
        }
    }

    /// Slots have moved. One manager knows at once, for it has decided so; others, and servers, hear of it some time.
    fn map_changes(&mut self) {
        self.counts.saw(Rare::SlotsMoved);
        let count = u64::from(self.config.managers.0);
        let first = self.rng.below(count) as u16;
        for replica in 0..self.config.managers.0 {
            if replica == first {
                self.managers[usize::from(replica)].0.learn(self.mover.map.clone());
            } else {
                let after_us = self.rng.below(1_000_000);
                self.later(after_us, Undo::Learn(replica));
            }
        }
        for partition in &mut self.partitions {
            partition.map_changes(&self.mover.map);
        }
    }

    // ---- What goes wrong ----

    fn plan_fault(&mut self) {
        let gap_us = 1_000 + self.rng.below(self.config.fault_gap_us);
        self.fault_at = (!self.config.faults.is_empty()).then(|| self.clock.now().plus_us(gap_us));
    }

    fn later(&mut self, after_us: u64, undo: Undo) {
        self.undo_count += 1;
        self.undo.insert((self.clock.now().plus_us(after_us), self.undo_count), undo);
    }

    fn go_wrong(&mut self) {
        let fault = self.rng.pick(&self.config.faults);
        let group = self.rng.below(u64::from(self.config.partitions)) as usize;
        let replicas = u64::from(self.config.replicas);
        let some_replica = self.rng.below(replicas) as usize;
        let leader = self.partitions[group].world.leader().unwrap_or(some_replica);
        let hosts = self.callers.hosts();
        let host = self.rng.pick(&hosts);
        let long_us = self.rng.pick(&[20_000, 300_000, 1_500_000, 6_000_000]);
        let us = 1_000 + self.rng.below(long_us);
        let leader_place = Endpoint { group: group as u16, replica: leader as u16 };
        let some_place = Endpoint { group: group as u16, replica: some_replica as u16 };
        let partition = &mut self.partitions[group];
        self.net
            .recorder(|recorder| recorder.note(partition.world.now, &[4, fault as u64, group as u64, leader as u64]));
        match fault {
            Fault::KillLeader => partition.crash(leader, false),
            Fault::KillServer => partition.crash(some_replica, false),
            Fault::KillAll => (0..replicas as usize).for_each(|replica| partition.crash(replica, false)),
            Fault::PowerCut => partition.crash(some_replica, true),
            Fault::StopLeader => partition.world.pause(leader, us),
            Fault::StopServer => partition.world.pause(some_replica, us),
            Fault::HangDisk => {
                let until = partition.world.now.plus_us(us);
                partition.world.hang_disk(leader, until);
            }
            Fault::CutOffLeader => {
                partition.world.cut_off(leader, us.is_multiple_of(2));
                self.later(us, Undo::Cuts(group as u16));
            }
            Fault::CutPeers => {
                partition.world.cut(leader as u16, some_replica as u16);
                self.later(us, Undo::Cuts(group as u16));
            }
            Fault::Transfer => {
                partition.world.ask(leader, Request::Transfer { to: ReplicaId(some_replica as u16) });
            }
            Fault::ResetClient => self.net.reset(host, leader_place),
            Fault::SilenceOneWay => {
                let way = if us.is_multiple_of(2) { Way::Up } else { Way::Down };
                self.counts.saw(Rare::OneWaySilence);
                self.net.silence(host, leader_place, way, true);
                self.later(us, Undo::Silence(host, leader_place, way));
            }
            Fault::SilenceLeader => {
                self.counts.saw(Rare::LeaderUnreachable);
                for host in hosts {
                    for way in [Way::Up, Way::Down] {
                        self.net.silence(host, leader_place, way, true);
                        self.later(us, Undo::Silence(host, leader_place, way));
                    }
                }
            }
            Fault::KillClient => {
                let place = self.rng.below(hosts.len() as u64) as usize;
                self.callers.kill(place);
            }
            Fault::ManagerDown => {
                let replica = self.rng.below(u64::from(self.config.managers.0)) as u16;
                self.manager_down(replica, us);
            }
            Fault::ManagersDown => {
                self.counts.saw(Rare::AllManagersDown);
                (0..self.config.managers.0).for_each(|replica| self.manager_down(replica, us));
            }
            Fault::EmptyDirectory => {
                if partition.empty_directory(some_replica) {
                    self.counts.saw(Rare::DirectoryEmptied);
                    self.later(us + 300_000, Undo::Readmit(group as u16, some_replica as u16));
                }
            }
            Fault::MoveSlots => self.mover.begin(self.clock.now()),
            Fault::AbandonMove => {
                if self.mover.give_up() {
                    self.counts.saw(Rare::MoveGivenUp);
                }
            }
            Fault::Mislead => {
                let other = (some_replica + 1) % replicas as usize;
                partition.mislead(leader, if leader == some_replica { other } else { some_replica }, us);
            }
            Fault::FullAccept => {
                if !self.partitions[group].world.nodes[some_replica].is_down() {
                    self.counts.saw(Rare::FullAccept);
                    self.net.listen(some_place, Listening::Silent);
                    hosts.iter().for_each(|host| self.net.reset(*host, some_place));
                    self.later(us, Undo::Endpoint(some_place));
                }
            }
        }
    }

    fn manager_down(&mut self, replica: u16, us: u64) {
        let place = Endpoint { group: MANAGERS, replica };
        let silently = self.rng.chance(300);
        self.net.place_ended(place, silently);
        self.later(us, Undo::Endpoint(place));
    }

    fn undo(&mut self, undo: Undo) {
        match undo {
            Undo::Endpoint(place) if place.group == MANAGERS => self.net.place_started(place),
            Undo::Endpoint(place) => {
                if !self.partitions[usize::from(place.group)].world.nodes[usize::from(place.replica)].is_down() {
                    self.net.listen(place, Listening::Open);
                }
            }
            Undo::Silence(host, place, way) => self.net.silence(host, place, way, false),
            Undo::Cuts(group) => self.partitions[usize::from(group)].world.heal_cuts(),
            Undo::Readmit(group, replica) => self.callers.readmit(group, replica),
            Undo::Learn(replica) => {
                self.managers[usize::from(replica)].0.learn(self.mover.map.clone());
            }
        }
    }

    fn calm_down(&mut self) {
        self.fault_at = None;
        for undo in std::mem::take(&mut self.undo).into_values() {
            self.undo(undo);
        }
        self.net.end_silences();
        self.net.set_weather(Weather::calm());
        for partition in &mut self.partitions {
            partition.mislead(0, 0, 0);
            partition.world.end_faults();
        }
    }
}

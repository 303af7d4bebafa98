//! A group in the simulator, with what these scenarios ask for again and again.

use std::collections::BTreeSet;
use std::ops::{AddAssign, Deref, DerefMut};
use std::sync::{Arc, Mutex};

use smr::entry::Term;
use smr::internals::protocol::{CoreStatus, Protocol};
use smr::status::Role;
use smr_sim::clients::Pace;
use smr_sim::ledger::Ledger;
use smr_sim::observation::{End, Observation};
use smr_sim::properties::{Property, SimNodes};
use smr_sim::sim_node::Shape;
use smr_sim::sim_rng::SimRng;
use smr_sim::workload::{Operation, Register, Registers, Seen, Workload};
use smr_sim::world::{Setting, World};

/// How many registers there are.
const REGISTERS: u8 = 2;

/// What has happened, to know that a test has met what it is about.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) crashes: u64,
    pub(crate) disk_errors: u64,
    pub(crate) snapshots_taken: u64,
    pub(crate) installs: u64,
    pub(crate) transfers_broken: u64,
    pub(crate) leaders: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        self.crashes += other.crashes;
        self.disk_errors += other.disk_errors;
        self.snapshots_taken += other.snapshots_taken;
        self.installs += other.installs;
        self.transfers_broken += other.transfers_broken;
        self.leaders += other.leaders;
    }
}

/// Looks on with the properties, and only counts.
struct Counter {
    counts: Arc<Mutex<Counts>>,
    led: BTreeSet<Term>,
}

impl Property for Counter {
    fn name(&self) -> &'static str {
        "what has happened is counted"
    }

    fn on(&mut self, observation: &Observation<'_>, _ledger: &Ledger) -> Result<(), String> {
        let mut counts = self.counts.lock().unwrap();
        match observation {
            Observation::Ended { end, .. } => {
                counts.crashes += 1;
                counts.disk_errors += u64::from(matches!(end, End::DiskError(_)));
            }
            Observation::SnapshotTaken { .. } => counts.snapshots_taken += 1,
            Observation::SnapshotInstalled { accepted: true, .. } => counts.installs += 1,
            Observation::SnapshotSent { last: None, .. } => counts.transfers_broken += 1,
            Observation::RoleChanged { role: Role::Leader, term, .. } => {
                self.led.insert(*term);
                counts.leaders = self.led.len() as u64;
            }
            _ => {}
        }
        Ok(())
    }
}

/// The first clients swap unique values into registers, the others only read.
#[derive(Clone)]
pub(crate) struct Load {
    registers: Registers,
    writers: usize,
}

impl Workload for Load {
    type Machine = Register;

    fn machine(&self) -> Register {
        self.registers.machine()
    }

    fn next(&mut self, client: usize, rng: &mut SimRng) -> Operation {
        if client < self.writers {
            return self.registers.next(client, rng);
        }
        Operation::Read(vec![rng.below(u64::from(REGISTERS)) as u8])
    }

    fn last_reads(&self) -> Vec<Operation> {
        self.registers.last_reads()
    }

    fn judge(&self, history: &[Seen]) -> Result<(), String> {
        self.registers.judge(history)
    }
}

/// The world of a scenario.
pub(crate) type Group = World<Load>;

/// A [`Group`], and what has happened in it.
pub(crate) struct Cluster {
    group: Group,
    counts: Arc<Mutex<Counts>>,
}

impl Deref for Cluster {
    type Target = Group;

    fn deref(&self) -> &Group {
        &self.group
    }
}

impl DerefMut for Cluster {
    fn deref_mut(&mut self) -> &mut Group {
        &mut self.group
    }
}

impl Cluster {
    /// A group of `size` empty directories, which found their group in the first moments.
    pub(crate) fn new(seed: u64, size: u16, writers: usize, readers: usize) -> Cluster {
        Cluster::shaped(seed, Shape::small(size), writers, readers, Vec::new())
    }

    /// The same with limits of one's own, and more that must hold.
    pub(crate) fn shaped(
        seed: u64,
        shape: Shape,
        writers: usize,
        readers: usize,
        properties: Vec<Box<dyn Property>>,
    ) -> Cluster {
        let counts = Arc::new(Mutex::new(Counts::default()));
        let mut setting = Setting { shape, ..Setting::small(seed, 1) };
        setting.properties.push(Box::new(Counter { counts: counts.clone(), led: BTreeSet::new() }));
        setting.properties.extend(properties);
        // Clients that repeat each operation until it is answered. Many ask two replicas at once: so some get through
        // to a new leader while others still hear the old one.
        let clients = writers + readers;
        setting.pace = Pace { clients, window: 1, doubled: 300, given_up: 0, trusting: 0, ..Pace::default() };
        let load = Load { registers: Registers::new(REGISTERS, 0), writers };
        Cluster { group: World::new(setting, load), counts }
    }

    pub(crate) fn counts(&self) -> Counts {
        *self.counts.lock().unwrap()
    }

    /// How many operations were answered.
    pub(crate) fn answered(&self) -> u64 {
        self.clients.acknowledged()
    }

    /// This many messages of a hundred are lost.
    pub(crate) fn lose_percent(&mut self, percent: u64) {
        self.network.weather.loss = 10 * percent;
    }

    /// This many bytes of ballast in each command from now on.
    pub(crate) fn load_with_ballast(&mut self, bytes: usize) {
        self.clients.workload.registers.ballast_bytes = bytes;
    }

    /// The leader, of whom there must be one soon.
    pub(crate) fn some_leader(&mut self) -> usize {
        self.run_until_that(10_000_000, "a leader", |group| group.leader().is_some());
        self.leader().unwrap()
    }

    /// For how long no write was acknowledged, in microseconds.
    pub(crate) fn no_write_since_us(&self) -> u64 {
        self.now.since_us(self.clients.last_write_at())
    }

    /// Writes are acknowledged again.
    pub(crate) fn expect_writes(&mut self, within_us: u64) {
        let from = self.now;
        self.run_until_that(within_us, "writes again", |group| group.clients.last_write_at() > from);
    }

    /// Operations under way are ended, and no new ones are begun.
    pub(crate) fn fall_silent(&mut self) {
        self.clients.stop();
        self.run_until_that(10_000_000, "every request is answered", |group| group.clients.is_idle());
    }

    /// Every replica is in service, and all have applied the same.
    pub(crate) fn expect_equally_far(&mut self, within_us: u64) {
        self.run_until_that(within_us, "all are equally far", |group| {
            let applied = |replica: usize| group.applied(replica);
            applied(0).is_some() && (1..group.nodes.len()).all(|replica| applied(replica) == applied(0))
        });
    }

    /// What clients saw must be linearizable, with nothing lost and nothing twice (I12, I13, I14).
    pub(crate) fn check(&self) {
        assert_eq!(self.clients.judge(), Ok(()), "seed {}", self.seed);
    }

    /// Removes all faults; then everyone must get on, and all replicas must agree in the end.
    pub(crate) fn calm_down(&mut self) {
        self.end_faults();
        for replica in (0..self.nodes.len()).filter(|replica| self.nodes[*replica].is_down()).collect::<Vec<_>>() {
            let now = self.now;
            self.start_at(replica, now);
        }
        let before = self.clients.done().to_vec();
        self.run_for(4_000_000);
        for (client, (before, after)) in before.iter().zip(self.clients.done()).enumerate() {
            assert!(after > before, "seed {}: client {client} made no progress in the calm", self.seed);
        }
        self.fall_silent();
        self.begin_last_reads();
        self.fall_silent();
        self.expect_equally_far(10_000_000);
        let states: BTreeSet<Option<u64>> =
            (0..self.nodes.len()).map(|replica| self.nodes.deep_digest(replica)).collect();
        assert_eq!(states.len(), 1, "seed {}: replicas end with different states", self.seed);
        self.check();
    }
}

/// What the node on a replica says of itself, if it is in service.
pub(crate) fn status(group: &Group, replica: usize) -> Option<CoreStatus> {
    Some(group.nodes[replica].serving()?.engine().core().status())
}

/// The highest term that a node in service is in.
pub(crate) fn term(group: &Group) -> Term {
    let terms = (0..group.nodes.len()).filter_map(|replica| Some(status(group, replica)?.term));
    terms.max().unwrap()
}

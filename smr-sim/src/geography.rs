//! What distance costs: a healthy group that is spread over sites, one client, and how long it waits, by where it sits.
//!
//! Replica `i` is at site `i`. Who orders writes is at site 0, and so is the configuration service of the kinds that
//! have one; a chain ends at the last site. Disks and processors take next to nothing, so what is measured is how often
//! a request has to cross between sites. Time is virtual: the figures are the same on each machine.

use std::collections::BTreeMap;

use smr::epoch::{EpochKind, GroupKind};
use smr::id::ReplicaId;
use smr::internals::configured::Settings;
use smr::internals::protocol::Time;
use smr::replica::Request;
use smr::status::ReadMode;

use crate::clients::{Habits, Pace};
use crate::clock::Clock;
use crate::epochs::swarm::SwarmConfig;
use crate::epochs::world::{SERVICE, World as EpochWorld};
use crate::network::{CLIENTS, Endpoint, Network, Weather};
use crate::sim_rng::{Purpose, SimRng};
use crate::trace::Text;
use crate::workload::{Operation, Registers, Seen};
use crate::world::{Setting, World};

/// A sync takes up to this, in microseconds, besides the 100 that each takes.
const DISK_US: u64 = 2;
/// Any seed will do: nothing is left to chance but the times of syncs.
const SEED: u64 = 1;
/// Half of the operations are reads.
const READS_PERCENT: u64 = 50;
/// Between two operations of the client, in microseconds.
const PAUSE_US: u64 = 5_000;
/// A group is founded, has who orders where it is wanted, and serves, within this, in microseconds.
const BEGIN_TIMEOUT_US: u64 = 60_000_000;
/// Then it settles for this long, in microseconds: roles are known, leases granted.
const SETTLE_US: u64 = 3_000_000;
/// An operation takes at most this, in microseconds.
const OPERATION_TIMEOUT_US: u64 = 5_000_000;

/// A group over sites, and its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spread {
    /// How the group is kept in step.
    pub kind: GroupKind,
    /// How reads are confirmed.
    pub reads: ReadMode,
    /// Sites, and replicas.
    pub sites: u16,
    /// How long a message takes from one site to any other and back, in microseconds.
    pub apart_us: u64,
    /// Where the client is.
    pub client_at: u16,
    /// It reads at the replica of its own site, instead of at the one that orders writes. Not for Raft, whose leader
    /// alone answers.
    pub reads_nearby: bool,
}

/// How long half of the operations of a kind took at most, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waits {
    /// A write.
    pub write_us: u64,
    /// A read.
    pub read_us: u64,
}

impl Spread {
    /// Measures this many operations.
    ///
    /// # Panics
    /// If the group does not get going, or an operation does not end, within generous bounds of virtual time.
    pub fn measure(&self, operations: usize) -> Waits {
        let history = match self.kind {
            GroupKind::Raft => self.raft(operations),
            GroupKind::Epochs(kind) => self.epochs(kind, operations),
        };
        let median = |is_wanted: fn(&Operation) -> bool| {
            let seen = history.iter().filter(|seen| is_wanted(&seen.operation));
            let mut all: Vec<u64> = seen.map(|seen| seen.ended_at.since_us(seen.began_at)).collect();
            all.sort_unstable();
            all.get(all.len() / 2).copied().unwrap_or_else(|| panic!("none of {operations} is of a kind: {self:?}"))
        };
        Waits {
            write_us: median(|operation| matches!(operation, Operation::Write(_))),
            read_us: median(|operation| matches!(operation, Operation::Read(_))),
        }
    }

    fn raft(&self, operations: usize) -> Vec<Seen> {
        let mut setting = Setting::small(SEED, self.sites);
        (setting.weather, setting.pace, setting.shape.settings.reads) = (Weather::calm(), pace(), self.reads);
        let mut world = World::new(setting, Registers::new(1, READS_PERCENT));
        world.disk_us = DISK_US;
        self.spread(&mut world.network);
        world.run_until_that(BEGIN_TIMEOUT_US, "a leader", |world| world.leader().is_some());
        while let Some(leader) = world.leader().filter(|leader| *leader != 0) {
            assert!(world.now < Time(BEGIN_TIMEOUT_US), "replica 0 does not come to lead");
            world.ask(leader, Request::Transfer { to: ReplicaId(0) });
            world.run_for(SETTLE_US);
        }
        world.run_for(SETTLE_US);
        let before = world.clients.history().len();
        let until_us = OPERATION_TIMEOUT_US * operations as u64;
        world.run_until_that(until_us, "all operations", |world| world.clients.history().len() >= before + operations);
        world.clients.history()[before..].to_vec()
    }

    fn epochs(&self, kind: EpochKind, operations: usize) -> Vec<Seen> {
        let drawn = SwarmConfig::draw(&mut SimRng::new(SEED, Purpose::Swarm), Some(kind), Some(self.sites));
        let config = SwarmConfig {
            spares: 0,
            settings: Settings { kind, reads: self.reads, ..Settings::default() },
            weather: Weather::calm(),
            pace: pace(),
            habits: Habits {
                reads_anywhere: false,
                writes_everywhere: kind == EpochKind::Active,
                reads_at: self.reads_nearby.then_some(usize::from(self.client_at)),
            },
            disk_us: DISK_US,
            checkpoint_work_us: DISK_US,
            service: drawn.service.calm(),
            registers: 1,
            reads_percent: READS_PERCENT,
            readers: false,
            ballast_bytes: 0,
            clocks: vec![Clock { origin_us: 0, rate_permille: 1_000 }; usize::from(self.sites)],
            ..drawn
        };
        let mut world = EpochWorld::new(SEED, config, Text::None);
        self.spread(&mut world.network);
        run_until_that(&mut world, BEGIN_TIMEOUT_US, "replica 0 orders", |world| world.first() == Some(0));
        let settled_at = world.now.plus_us(SETTLE_US);
        while world.step_before(settled_at) {}
        let before = world.clients.history().len();
        let until_us = OPERATION_TIMEOUT_US * operations as u64;
        let has_all = |world: &EpochWorld| world.clients.history().len() >= before + operations;
        run_until_that(&mut world, until_us, "all operations", has_all);
        world.clients.history()[before..].to_vec()
    }

    fn spread(&self, network: &mut Network) {
        let replicas = (0..self.sites).map(|site| (site, site));
        let others = [(CLIENTS, self.client_at), (SERVICE, 0)];
        let sites: BTreeMap<Endpoint, u16> = replicas.chain(others).collect();
        network.spread(sites, self.apart_us / 2);
    }
}

/// One client that does one thing after the other.
fn pace() -> Pace {
    Pace { clients: 1, window: 1, pause_min_us: PAUSE_US, pause_max_us: PAUSE_US, doubled: 0, given_up: 0, trusting: 0 }
}

fn run_until_that(world: &mut EpochWorld, within_us: u64, what: &str, holds: impl Fn(&EpochWorld) -> bool) {
    let deadline = world.now.plus_us(within_us);
    while !holds(world) {
        assert!(world.step_before(deadline), "not within {within_us} us: {what}");
        assert!(world.violation.is_none(), "{:?}", world.violation);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As little as everything but the distance may cost, in microseconds.
    const LOCAL_MAX_US: u64 = 3_000;
    const APART_US: u64 = 40_000;

    fn crossings(spread: Spread) -> (u64, u64) {
        let waits = spread.measure(40);
        let of = |us: u64| {
            assert!(us % APART_US <= LOCAL_MAX_US, "{us} us is no number of ways between sites: {spread:?}");
            us / APART_US
        };
        (of(waits.write_us), of(waits.read_us))
    }

    #[test]
    fn requests_cross_between_sites_as_often_as_each_kind_says() {
        let at = |kind: &str, reads, client_at, reads_nearby| {
            let kind = kind.parse().unwrap_or_else(|error| panic!("{error}"));
            crossings(Spread { kind, reads, sites: 3, apart_us: APART_US, client_at, reads_nearby })
        };
        // Beside the leader, and away from it: there and back once more.
        assert_eq!(at("raft", ReadMode::Index, 0, false), (1, 1));
        assert_eq!(at("raft", ReadMode::Index, 1, false), (2, 2));
        assert_eq!(at("raft", ReadMode::Lease, 1, false), (2, 1));
        assert_eq!(at("passive", ReadMode::Lease, 0, false), (1, 0));
        assert_eq!(at("passive", ReadMode::Lease, 2, false), (2, 1));
        assert_eq!(at("chain", ReadMode::Lease, 0, false), (2, 0));
        assert_eq!(at("chain", ReadMode::Lease, 1, true), (3, 0));
        assert_eq!(at("active", ReadMode::Lease, 0, false), (1, 0));
        assert_eq!(at("active", ReadMode::Lease, 1, false), (2, 1));
        assert_eq!(at("active", ReadMode::Lease, 2, true), (2, 0));
    }
}

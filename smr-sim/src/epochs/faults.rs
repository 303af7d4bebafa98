//! The faults of a run: what happens when, by the configuration of its seed.

use smr::internals::protocol::Time;

use super::rare::Rare;
use super::swarm::{Kind, SwarmConfig};
use super::world::{SERVICE, World};
use crate::network::CLIENTS;
use crate::sim_rng::{Purpose, SimRng};

/// A process that is back at once is so within this, in microseconds.
const SOON_US: u64 = 30_000;
/// One that is away for longer is back within this, in microseconds: after its removal, or before.
const AWAY_US: u64 = 2_500_000;
/// What is cut carries again within this, in microseconds.
const CUT_US: u64 = 2_500_000;
/// A process is stopped for up to this long, in microseconds: several leases.
const PAUSE_US: u64 = 1_500_000;

pub(super) struct FaultInjector {
    rng: SimRng,
    kinds: Vec<(Kind, u64)>,
    gap_us: u64,
    next_at: Time,
    heal_at: Time,
}

impl FaultInjector {
    pub(super) fn new(seed: u64, config: &SwarmConfig) -> FaultInjector {
        let mut rng = SimRng::new(seed, Purpose::Faults);
        let next_at = Time(rng.below(2_000_000));
        FaultInjector { kinds: config.kinds.clone(), gap_us: config.gap_us, next_at, heal_at: Time(u64::MAX), rng }
    }

    /// When there is something to do.
    pub(super) fn due_at(&self) -> Time {
        self.next_at.min(self.heal_at)
    }

    /// Does what is due.
    pub(super) fn act(&mut self, world: &mut World) {
        if self.heal_at <= world.now {
            self.heal_at = Time(u64::MAX);
            world.heal_cuts();
        }
        if self.next_at <= world.now {
            self.next_at = world.now.plus_us(1_000 + self.rng.below(self.gap_us));
            let kind = self.pick();
            self.inject(world, kind);
        }
    }

    fn pick(&mut self) -> Kind {
        let sum: u64 = self.kinds.iter().map(|(_, weight)| weight).sum();
        let mut lot = self.rng.below(sum);
        for (kind, weight) in &self.kinds {
            if lot < *weight {
                return *kind;
            }
            lot -= weight;
        }
        Kind::Kill
    }

    fn down_us(&mut self) -> u64 {
        let most = self.rng.pick(&[SOON_US, AWAY_US]);
        1_000 + self.rng.below(most)
    }

    /// What is cut now carries again some time.
    fn heal_soon(&mut self, world: &World) {
        let at = world.now.plus_us(self.rng.below(CUT_US));
        self.heal_at = self.heal_at.min(at);
    }

    fn any(&mut self, world: &World) -> usize {
        self.rng.below(world.machines.len() as u64) as usize
    }

    fn other(&mut self, world: &World, than: usize) -> Option<usize> {
        let others = world.machines.len() as u64 - 1;
        (others > 0).then(|| (than + 1 + self.rng.below(others) as usize) % world.machines.len())
    }

    fn inject(&mut self, world: &mut World, kind: Kind) {
        let replica = self.any(world);
        let place = replica as u16;
        world.say(|| format!("fault: {kind:?}, perhaps at {replica}"));
        match kind {
            Kind::Kill | Kind::PowerCut => {
                let down_us = self.down_us();
                world.crash(replica, kind == Kind::PowerCut, down_us);
            }
            Kind::CrashAll => {
                for replica in 0..world.machines.len() {
                    let down_us = self.down_us();
                    world.crash(replica, true, down_us);
                }
                world.rare.saw(Rare::AllCrashed);
            }
            Kind::CrashFirst => {
                let replica = world.first().unwrap_or(replica);
                let (power_cut, down_us) = (self.rng.chance(700), self.down_us());
                world.crash(replica, power_cut, down_us);
            }
            Kind::Pause => {
                let us = self.rng.below(PAUSE_US);
                world.pause(replica, us);
            }
            Kind::PauseCutOff => {
                let first = world.first().filter(|_| self.rng.chance(500));
                let replica = first.unwrap_or(replica);
                if self.rng.chance(600) {
                    let us = self.rng.below(PAUSE_US);
                    world.pause(replica, us);
                }
                self.cut_off(world, replica);
            }
            Kind::HangDisk => {
                let until = world.now.plus_us(self.rng.below(PAUSE_US));
                world.hang_disk(replica, until);
            }
            Kind::CutOff => self.cut_off(world, replica),
            Kind::CutPair | Kind::OneWay => {
                let Some(other) = self.other(world, replica) else { return };
                world.cut(place, other as u16);
                if kind == Kind::CutPair {
                    world.cut(other as u16, place);
                }
                self.heal_soon(world);
            }
            Kind::CutService | Kind::CutClients => {
                let end = if kind == Kind::CutService { SERVICE } else { CLIENTS };
                let lot = self.rng.below(3);
                if lot != 0 {
                    world.cut(place, end);
                }
                if lot != 1 {
                    world.cut(end, place);
                }
                self.heal_soon(world);
            }
            Kind::Reset => {
                if let Some(other) = self.other(world, replica) {
                    world.reset(replica, other);
                }
            }
            Kind::Empty => {
                if world.may_empty(replica) {
                    let down_us = self.down_us();
                    world.empty(replica, down_us);
                }
            }
            Kind::FailOver => world.fail_service_over(),
            Kind::ServiceStops => {
                let us = self.rng.below(PAUSE_US);
                world.stop_service(us);
            }
        }
    }

    /// No other member hears it, nor it them; its clients do, and the service perhaps.
    fn cut_off(&mut self, world: &mut World, replica: usize) {
        let place = replica as u16;
        for other in (0..world.machines.len() as u16).filter(|other| *other != place) {
            world.cut(place, other);
            world.cut(other, place);
        }
        if self.rng.chance(300) {
            world.cut(place, SERVICE);
            world.cut(SERVICE, place);
        }
        self.heal_soon(world);
    }
}

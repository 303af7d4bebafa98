//! One leader after the other: as soon as a node leads, it is cut from some of the others, gets a few requests, and
//! crashes soon after, while what it has appended is on some disks and not on others. Logs of many terms overlap
//! (Figure 8 of the Raft paper).

use smr::internals::protocol::Time;

use crate::rare::Rare;
use crate::sim_rng::SimRng;
use crate::workload::Workload;
use crate::world::World;

/// A leader gets up to this many requests that go nowhere.
const VAIN_MAX: u64 = 12;

/// See the module.
pub(super) struct Succession {
    until: Time,
    /// The last leader that was hit: its replica and its process.
    hit: Option<(usize, u64)>,
    crash_at: Option<Time>,
}

impl Succession {
    /// It goes on until then.
    pub(super) fn until(until: Time) -> Succession {
        Succession { until, hit: None, crash_at: None }
    }

    /// When there is something to do, whatever happens.
    pub(super) fn due_at(&self) -> Time {
        self.crash_at.unwrap_or(self.until).min(self.until)
    }

    /// Does what is to be done now; false when it is over. `vain`: how many requests may still go nowhere.
    pub(super) fn pursue<W: Workload>(&mut self, world: &mut World<W>, rng: &mut SimRng, vain: &mut u64) -> bool {
        if world.now >= self.until {
            world.heal_cuts();
            return false;
        }
        match (self.crash_at, self.hit) {
            (Some(at), _) if at > world.now => return true,
            (Some(_), Some((replica, run))) => {
                self.crash_at = None;
                world.heal_cuts();
                if world.nodes[replica].run() == run {
                    let down_max_us = rng.pick(&[5_000, 100_000, 800_000]);
                    world.crash_for(replica, rng.chance(300), Some(1_000 + rng.below(down_max_us)));
                }
                return true;
            }
            _ => {}
        }
        let Some(leader) = world.leader() else { return true };
        let hit = Some((leader, world.nodes[leader].run()));
        if self.hit == hit {
            return true;
        }
        self.hit = hit;
        world.watch.rare.saw(Rare::LeaderHitAtOnce);
        for other in (0..world.nodes.len()).filter(|other| *other != leader) {
            if rng.chance(500) {
                world.cut(leader as u16, other as u16);
                world.cut(other as u16, leader as u16);
            }
        }
        let requests = rng.below(VAIN_MAX.min(*vain) + 1);
        *vain -= requests;
        world.flood(leader, requests);
        let us = rng.pick(&[3_000, 30_000, 200_000]);
        self.crash_at = Some(world.now.plus_us(1_000 + rng.below(us)));
        true
    }
}

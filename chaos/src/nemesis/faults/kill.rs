//! kill -9 and restart.

use std::time::{Duration, Instant};

use rand::RngExt;

use super::{ActiveFault, Injection, Scene, Who, headline, heal_when_over};
use crate::nemesis::plan::Fault;
use crate::nemesis::world::{Failure, World};
use madkv_testkit::cluster::{Group, Node};

/// How long a process lives that is killed again and again, at most, in milliseconds: about as long as it needs to
/// start.
const SHORT_LIFE_MAX_MS: u64 = 400;

pub(super) fn inject(scene: &mut Scene<'_>) -> Result<Injection, Failure> {
    let fault = scene.event.fault;
    let who = match fault {
        Fault::KillLeader => Who::Leader,
        Fault::KillFollower | Fault::KillRepeatedly => Who::Follower,
        Fault::KillMinority => Who::Minority,
        Fault::KillMajority => Who::Majority,
        Fault::KillGroup => Who::Group,
        _ => Who::Cluster,
    };
    let nodes = match scene.victims(who) {
        Ok(nodes) => nodes,
        Err(why) => return Ok(Injection::Skipped(why)),
    };
    scene.world.kill(&nodes);
    scene.world.held.extend(&nodes);
    let said = headline(fault, &nodes);
    let ends = scene.ends();
    let group = scene.event.group;
    if fault == Fault::KillRepeatedly {
        let lives =
            (0..32).map(|_| scene.random.random_range(0..=SHORT_LIFE_MAX_MS)).map(Duration::from_millis).collect();
        return Ok(Injection::Active(
            Box::new(Dying { node: nodes[0], group, ends, lives, dies: Instant::now() }),
            said,
        ));
    }
    Ok(Injection::Active(
        Box::new(Dead { costs: nodes.iter().filter(|node| node.group() == group).count(), nodes, group, ends }),
        said,
    ))
}

/// Dead until their time comes.
pub(super) struct Dead {
    pub(super) nodes: Vec<Node>,
    pub(super) group: Group,
    pub(super) ends: Instant,
    pub(super) costs: usize,
}

impl ActiveFault for Dead {
    fn tick(&mut self, world: &mut World) -> Result<bool, Failure> {
        heal_when_over(self.ends, self, world)
    }

    fn heal(&mut self, world: &mut World) -> Result<(), Failure> {
        for node in self.nodes.drain(..) {
            world.start(node)?;
            world.held.remove(&node);
        }
        Ok(())
    }

    fn costs(&self) -> (Group, usize) {
        (self.group, self.costs)
    }
}

/// Started and killed by turns.
struct Dying {
    node: Node,
    group: Group,
    ends: Instant,
    lives: Vec<Duration>,
    dies: Instant,
}

impl ActiveFault for Dying {
    fn tick(&mut self, world: &mut World) -> Result<bool, Failure> {
        let now = Instant::now();
        if now < self.dies {
            return Ok(false);
        }
        if now >= self.ends {
            self.heal(world)?;
            return Ok(true);
        }
        let Some(life) = self.lives.pop() else {
            self.heal(world)?;
            return Ok(true);
        };
        world.kill(&[self.node]);
        world.start(self.node)?;
        self.dies = now + life;
        Ok(false)
    }

    fn heal(&mut self, world: &mut World) -> Result<(), Failure> {
        world.start(self.node)?;
        world.held.remove(&self.node);
        Ok(())
    }

    fn costs(&self) -> (Group, usize) {
        (self.group, 1)
    }
}

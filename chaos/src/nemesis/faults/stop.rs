//! SIGSTOP and SIGCONT.

use std::time::{Duration, Instant};

use super::{ActiveFault, Injection, Scene, Who, headline};
use crate::nemesis::plan::Fault;
use crate::nemesis::world::{Failure, World};
use madkv_testkit::cluster::{Group, Node};

/// How long a stuttering process stands still and runs by turns, in milliseconds.
const STUTTER_MS: u64 = 300;

pub(super) fn inject(scene: &mut Scene<'_>) -> Result<Injection, Failure> {
    let fault = scene.event.fault;
    let who = match fault {
        Fault::StopFollower => Who::Follower,
        Fault::StopMinority => Who::Minority,
        Fault::StopGroup => Who::Group,
        _ => Who::Leader,
    };
    let nodes = match scene.victims(who) {
        Ok(nodes) => nodes,
        Err(why) => return Ok(Injection::Skipped(why)),
    };
    nodes.iter().for_each(|&node| scene.world.cluster.process(node).send_freeze());
    nodes.iter().for_each(|&node| scene.world.cluster.process(node).wait_frozen());
    scene.world.held.extend(&nodes);
    let turns = (fault == Fault::StopStutter).then(|| Duration::from_millis(STUTTER_MS));
    let said = headline(fault, &nodes);
    let now = Instant::now();
    let fault = Frozen {
        costs: nodes.len(),
        nodes,
        group: scene.event.group,
        ends: scene.ends(),
        turns,
        turn: now,
        frozen: true,
    };
    Ok(Injection::Active(Box::new(fault), said))
}

/// Standing still until their time comes.
struct Frozen {
    nodes: Vec<Node>,
    group: Group,
    ends: Instant,
    costs: usize,
    /// If they run by turns: how long each turn is.
    turns: Option<Duration>,
    turn: Instant,
    frozen: bool,
}

impl ActiveFault for Frozen {
    fn tick(&mut self, world: &mut World) -> Result<bool, Failure> {
        let now = Instant::now();
        if now >= self.ends {
            self.heal(world)?;
            return Ok(true);
        }
        if let Some(length) = self.turns
            && now >= self.turn + length
        {
            self.turn = now;
            self.frozen = !self.frozen;
            for &node in &self.nodes {
                let process = world.cluster.process(node);
                if self.frozen { process.send_freeze() } else { process.thaw() }
            }
        }
        Ok(false)
    }

    fn heal(&mut self, world: &mut World) -> Result<(), Failure> {
        for node in self.nodes.drain(..) {
            world.cluster.process(node).thaw();
            world.held.remove(&node);
        }
        Ok(())
    }

    fn costs(&self) -> (Group, usize) {
        (self.group, self.costs)
    }
}

//! SIGTERM and restart.

use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::kill::Dead;
use super::{ActiveFault, Injection, Scene, Who, headline};
use crate::nemesis::plan::Fault;
use crate::nemesis::world::{Failure, World};
use madkv_testkit::cluster::{Group, Node};

/// How long an orderly end may take: 5 s by B10, the rest is for a busy machine.
const END_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a restarted replica may take until it serves, before the next one's turn comes all the same: others may be
/// hurt.
const BACK_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) fn inject(scene: &mut Scene<'_>) -> Result<Injection, Failure> {
    let fault = scene.event.fault;
    let group = scene.event.group;
    let nodes = if fault == Fault::RollingRestart {
        if scene.budget == 0 {
            return Ok(Injection::Skipped("as many are hurt as may be"));
        }
        let mut nodes = scene.free();
        nodes.reverse(); // the leader last, so that it is the last change
        if scene.coin() {
            nodes.reverse();
        }
        nodes
    } else {
        match scene.victims(Who::Leader) {
            Ok(nodes) => nodes,
            Err(why) => return Ok(Injection::Skipped(why)),
        }
    };
    if nodes.is_empty() {
        return Ok(Injection::Skipped("no replica to hit"));
    }
    let said = headline(fault, &nodes);
    scene.world.held.extend(&nodes);
    let mut waiting = nodes;
    waiting.reverse();
    let mut fault = Restarting { waiting, group, pause: scene.event.lasts, phase: Phase::Next };
    fault.tick(scene.world)?;
    Ok(Injection::Active(Box::new(fault), said))
}

struct Restarting {
    /// Those whose turn is still to come, the next one last.
    waiting: Vec<Node>,
    group: Group,
    /// How long each stays away.
    pause: Duration,
    phase: Phase,
}

enum Phase {
    Next,
    Ending(Node, Instant),
    Away(Dead),
    Returning(Node, Instant),
}

impl ActiveFault for Restarting {
    fn tick(&mut self, world: &mut World) -> Result<bool, Failure> {
        match &mut self.phase {
            Phase::Next => {
                let Some(node) = self.waiting.pop() else { return Ok(true) };
                world.expect_end(node);
                world.cluster.process(node).send_terminate();
                self.phase = Phase::Ending(node, Instant::now());
            }
            Phase::Ending(node, since) => {
                let node = *node;
                match world.cluster.process(node).ended() {
                    // Its process may be so young that it does not listen to signals yet; then this one simply ends it.
                    Some(status) if status.success() || status.signal() == Some(Signal::TERM.as_raw()) => {
                        let ends = Instant::now() + self.pause;
                        self.phase = Phase::Away(Dead { nodes: vec![node], group: self.group, ends, costs: 1 });
                    }
                    Some(status) => {
                        let log = world.cluster.process(node).log_tail();
                        return Err(Failure(format!("{node} ended with {status} after a SIGTERM:\n{log}")));
                    }
                    None if since.elapsed() > END_TIMEOUT => {
                        let log = world.cluster.process(node).log_tail();
                        return Err(Failure(format!("{node} has not ended {END_TIMEOUT:?} after a SIGTERM:\n{log}")));
                    }
                    None => {}
                }
            }
            Phase::Away(dead) => {
                let node = dead.nodes.first().copied();
                if dead.tick(world)?
                    && let Some(node) = node
                {
                    world.held.insert(node); // until it is back
                    self.phase = Phase::Returning(node, Instant::now());
                }
            }
            Phase::Returning(node, since) => {
                let serves = world.monitor.status(*node).is_some_and(|status| {
                    status.service_state == smr::status::ServiceState::InService && status.leader.is_some()
                });
                if serves || since.elapsed() > BACK_TIMEOUT {
                    world.held.remove(node);
                    self.phase = Phase::Next;
                }
            }
        }
        Ok(false)
    }

    fn heal(&mut self, world: &mut World) -> Result<(), Failure> {
        for node in self.waiting.drain(..) {
            world.held.remove(&node);
        }
        // The one whose turn it is goes on to its end; the deadlines are inside.
        while !matches!(self.phase, Phase::Next) {
            if let Phase::Away(dead) = &mut self.phase {
                dead.ends = Instant::now();
            }
            self.tick(world)?;
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn costs(&self) -> (Group, usize) {
        (self.group, 1)
    }
}

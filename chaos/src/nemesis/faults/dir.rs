//! A replica's directory is emptied while it is dead. It must come back quarantined, and count again only once an
//! operator has readmitted it, by the command that operators have.

use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use smr::status::ServiceState;

use super::{ActiveFault, Injection, Scene, Who, headline};
use crate::nemesis::world::{Failure, World};
use madkv_testkit::cluster::{Group, Node};
use madkv_testkit::programs::CLIENT;

/// What the command is told to take at most, in milliseconds.
const COMMAND_MS: u64 = 5_000;
/// What it may take at most: it was told, and the machine is busy.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(20);
/// The pause before it is given again.
const AGAIN: Duration = Duration::from_millis(500);
/// How long all of it may take once all other faults are over.
const HEAL_TIMEOUT: Duration = Duration::from_secs(90);

pub(super) fn inject(scene: &mut Scene<'_>) -> Result<Injection, Failure> {
    let nodes = match scene.victims(Who::Follower) {
        Ok(nodes) => nodes,
        Err(why) => return Ok(Injection::Skipped(why)),
    };
    let node = nodes[0];
    scene.world.kill(&nodes);
    scene.world.held.insert(node);
    empty(&scene.world.cluster.backer_path(node))?;
    let said = headline(scene.event.fault, &nodes);
    let ends = scene.ends();
    let fault = Emptied { node, phase: Phase::Dead(ends), once_more: scene.coin(), refusals: 0 };
    Ok(Injection::Active(Box::new(fault), said))
}

/// Removes what is in a directory, not the directory: it may be a mount point or a link to one.
fn empty(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() { fs::remove_dir_all(entry.path())? } else { fs::remove_file(entry.path())? }
    }
    Ok(())
}

struct Emptied {
    node: Node,
    phase: Phase,
    /// Whether the command is given again after it succeeded: operators do that.
    once_more: bool,
    refusals: u32,
}

enum Phase {
    Dead(Instant),
    /// Started; it must find out by itself that it may not serve.
    Returning,
    Commanded(Child, Instant),
    Pausing(Instant),
    /// Readmitted, as the command says.
    Taken(Instant),
}

impl Emptied {
    fn command(&self, world: &World) -> io::Result<Child> {
        let group = match self.node.group() {
            Group::Manager => "m".to_owned(),
            Group::Partition(partition) => format!("s{partition}"),
        };
        Command::new(world.cluster.programs().path(CLIENT))
            .args(["--manager_addrs", &world.cluster.manager_addresses(), "--timeout_ms", &COMMAND_MS.to_string()])
            .args(["readmit", &group, &self.node.replica().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
    }

    fn service_state(&self, world: &World) -> Option<ServiceState> {
        Some(world.monitor.status(self.node)?.service_state)
    }

    /// Whether it counts again. A learner is in service, too: if the leader changed meanwhile it stays one until the
    /// operator asks again.
    fn votes(&self, world: &World) -> bool {
        let status = world.monitor.status(self.node);
        let leading = world.monitor.leader(self.node.group()).and_then(|leader| world.monitor.status(leader));
        let (Some(status), Some(leading)) = (status, leading) else { return false };
        status.service_state == ServiceState::InService
            && leading.voters.contains(&status.node)
            && leading.learners.is_empty()
    }
}

impl ActiveFault for Emptied {
    fn tick(&mut self, world: &mut World) -> Result<bool, Failure> {
        let now = Instant::now();
        match &mut self.phase {
            Phase::Dead(ends) if now >= *ends => {
                world.start(self.node)?;
                self.phase = Phase::Returning;
            }
            Phase::Dead(_) => {}
            Phase::Returning => match self.service_state(world) {
                Some(ServiceState::Quarantined { reason }) => {
                    world.diary.note(&format!("dir: {} is in quarantine: {reason}", self.node));
                    self.phase = Phase::Pausing(now);
                }
                Some(ServiceState::InService) => {
                    return Err(Failure(format!("M6: {} serves on an emptied directory", self.node)));
                }
                Some(ServiceState::Uninitialized) | None => {}
            },
            Phase::Pausing(since) if now >= *since + AGAIN => {
                self.phase = Phase::Commanded(self.command(world)?, now);
            }
            Phase::Pausing(_) => {}
            Phase::Commanded(child, since) => {
                let since = *since;
                let Some(status) = child.try_wait()? else {
                    if since.elapsed() > COMMAND_TIMEOUT {
                        // Its fate does not matter any more; it is waited for all the same.
                        let _ = child.kill();
                        let _ = child.wait();
                        return Err(Failure(format!("readmit {}: no end after {COMMAND_TIMEOUT:?}", self.node)));
                    }
                    return Ok(false);
                };
                let mut said = String::new();
                if let Some(errors) = &mut child.stderr {
                    errors.read_to_string(&mut said)?;
                }
                let took = since.elapsed();
                world.diary.note(&format!("dir: readmit {}: {status} after {took:.1?} {}", self.node, said.trim()));
                if status.success() {
                    world.diary.count_event("readmissions that succeeded");
                    self.phase = Phase::Taken(now);
                } else {
                    self.refusals += 1;
                    world.diary.count_event("readmissions that were refused");
                    // It may have succeeded all the same, with the answer lost.
                    self.phase = if self.votes(world) { Phase::Taken(now) } else { Phase::Pausing(now) };
                }
            }
            Phase::Taken(since) => {
                let since = *since;
                if std::mem::take(&mut self.once_more) {
                    self.phase = Phase::Commanded(self.command(world)?, now);
                } else if self.votes(world) {
                    world.held.remove(&self.node);
                    return Ok(true);
                } else if now >= since + AGAIN.saturating_mul(10) {
                    self.phase = Phase::Pausing(now);
                }
            }
        }
        Ok(false)
    }

    fn heal(&mut self, world: &mut World) -> Result<(), Failure> {
        if let Phase::Dead(ends) = &mut self.phase {
            *ends = Instant::now();
        }
        let start = Instant::now();
        while !self.tick(world)? {
            if start.elapsed() > HEAL_TIMEOUT {
                let status = world.monitor.status(self.node);
                let log = world.cluster.process(self.node).log_tail();
                let node = self.node;
                return Err(Failure(format!(
                    "{node} was not readmitted within {HEAL_TIMEOUT:?} after the faults ({} refusals), it says \
                     {status:?}:\n{log}",
                    self.refusals
                )));
            }
            if let Some(failure) = world.dead() {
                return Err(failure);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn costs(&self) -> (Group, usize) {
        (self.node.group(), 1)
    }

    fn heals_last(&self) -> bool {
        true
    }
}

impl Drop for Emptied {
    fn drop(&mut self) {
        if let Phase::Commanded(child, _) = &mut self.phase {
            // It may have ended; either way it is gone afterwards.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

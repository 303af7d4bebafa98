//! The file system of one replica is full. Its process may stop, and must come back once there is room.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::{ActiveFault, Injection, Scene, headline, heal_when_over};
use crate::nemesis::world::{Failure, SMALL_DISK_NODE, World};
use madkv_testkit::cluster::{Group, Node};

pub(super) fn inject(scene: &mut Scene<'_>) -> Result<Injection, Failure> {
    let node = SMALL_DISK_NODE;
    let Some(disk) = scene.world.small_disk() else { return Ok(Injection::Skipped("no small disk")) };
    if scene.world.held.contains(&node) {
        return Ok(Injection::Skipped("held by another fault"));
    }
    if scene.event.group != node.group() || scene.budget == 0 {
        return Ok(Injection::Skipped("as many are hurt as may be"));
    }
    scene.world.held.insert(node);
    scene.world.expect_end(node);
    let ballast = disk.join("ballast");
    let bytes = fill(&ballast);
    let said = format!("{} ({} MiB)", headline(scene.event.fault, &[node]), bytes >> 20);
    Ok(Injection::Active(Box::new(Full { node, ballast, ends: scene.ends(), said_end: false }), said))
}

/// Writes until nothing more fits; returns how many bytes did.
fn fill(path: &Path) -> u64 {
    let Ok(mut file) = File::create(path) else { return 0 };
    let mut total = 0;
    for chunk_bytes in [1 << 20, 4 << 10, 1] {
        let chunk = vec![0xff; chunk_bytes];
        while let Ok(count @ 1..) = file.write(&chunk) {
            total += count as u64;
        }
    }
    // Blocks that were only reserved are taken now.
    let _ = file.sync_all();
    total
}

struct Full {
    node: Node,
    ballast: PathBuf,
    ends: Instant,
    said_end: bool,
}

impl ActiveFault for Full {
    fn tick(&mut self, world: &mut World) -> Result<bool, Failure> {
        if !self.said_end
            && let Some(status) = world.cluster.process(self.node).ended()
        {
            self.said_end = true;
            world.diary.count_event("processes that stopped because their disk was full");
            let log = world.cluster.process(self.node).log_tail();
            let last = log.lines().last().unwrap_or_default().to_owned();
            world.diary.note(&format!("disk: {} ended ({status}): {last}", self.node));
        }
        heal_when_over(self.ends, self, world)
    }

    fn heal(&mut self, world: &mut World) -> Result<(), Failure> {
        fs::remove_file(&self.ballast)?;
        // It may still be about to stop because of what it could not write: then it is started after that, by us, not
        // by chance.
        world.kill(&[self.node]);
        world.start(self.node)?;
        world.held.remove(&self.node);
        Ok(())
    }

    fn costs(&self) -> (Group, usize) {
        (self.node.group(), 1)
    }
}

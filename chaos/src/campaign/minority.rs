//! The fuzzer on a cluster of which as many replicas die as may, the leader first, and stay dead.

use std::thread;
use std::time::{Duration, Instant};

use crate::campaign::run::{ChaosOptions, Stage};
use crate::fuzz::{Fuzz, FuzzOptions};
use crate::nemesis::traffic::Traffic;
use crate::nemesis::world::{Failure, World};
use madkv_testkit::cluster::{Group, Node};
use madkv_testkit::launcher::Interrupted;

/// How long anything may take that must happen.
const TIMEOUT: Duration = Duration::from_secs(60);
/// How often to look around, in milliseconds.
const LOOK_MS: u64 = 20;

/// Kills the leader of each partition after a third of the time, and more of its replicas, one after the other, as long
/// as a majority is left. Whether all was well; what there is to say goes to `say`.
///
/// # Errors
/// If there was no run to judge.
pub fn fuzz(
    options: &ChaosOptions,
    mut fuzz: FuzzOptions,
    interrupted: &Interrupted,
    say: &mut dyn FnMut(&str),
) -> Result<bool, Failure> {
    let mut stage = Stage::set_for(options, &mut fuzz)?;
    let length = fuzz.length;
    fuzz.must_retry = true;
    let mut traffic = Fuzz::start(fuzz).map_err(|error| Failure(error.to_string()))?;
    let victims = stage.world.may_fail(Group::Partition(0));
    let killed = kill(&mut stage.world, victims, length, &mut traffic, interrupted, say);
    traffic.stop();
    let judged = traffic.finish().map_err(|error| Failure(error.to_string()))?;
    say(&judged.to_string());
    if let Err(failure) = killed {
        say(&format!("failure: {failure}\n"));
        return Ok(false);
    }
    if judged.passed {
        stage.done()?;
    }
    Ok(judged.passed)
}

fn kill(
    world: &mut World,
    victims: usize,
    length: Duration,
    traffic: &mut Fuzz,
    interrupted: &Interrupted,
    say: &mut dyn FnMut(&str),
) -> Result<(), Failure> {
    let start = Instant::now();
    let pause = length / (victims as u32 + 2);
    let partitions = world.cluster.layout().shape.partitions;
    for victim in 0..victims {
        watch(world, start + pause * (victim as u32 + 1), traffic, interrupted)?;
        for partition in 0..partitions {
            let group = Group::Partition(partition);
            let leader = world.cluster.wait_leader(group, TIMEOUT).map_err(|error| Failure(error.to_string()))?;
            let alive = |node: &Node| world.running.contains(node);
            // The leader, then a follower, by turns.
            let follower = world.cluster.nodes_of(group).filter(alive).find(|&node| node != leader);
            let node = if victim % 2 == 0 { leader } else { follower.unwrap_or(leader) };
            world.kill(&[node]);
            let role = if node == leader { "the leader" } else { "a follower" };
            say(&format!("{:.1} s: killed {node}, {role} of {group}\n", start.elapsed().as_secs_f64()));
        }
    }
    watch(world, start + length, traffic, interrupted)
}

fn watch(world: &mut World, until: Instant, traffic: &mut Fuzz, interrupted: &Interrupted) -> Result<(), Failure> {
    while Instant::now() < until {
        if let Some(failure) = world.dead() {
            return Err(failure);
        }
        if let Some(why) = Traffic::failure(traffic) {
            return Err(Failure(format!("a client failed: {why}")));
        }
        if interrupted.signal().is_some() {
            return Err(Failure("interrupted".to_owned()));
        }
        thread::sleep(Duration::from_millis(LOOK_MS));
    }
    Ok(())
}

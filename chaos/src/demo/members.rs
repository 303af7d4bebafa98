//! A partition gets other replicas while it serves.

use std::net::{Ipv4Addr, SocketAddr};

use madkv_testkit::cluster::{Group, Shape};
use madkv_testkit::newcomer;
use madkv_testkit::ports::Ports;
use madkv_testkit::programs::Programs;
use madkv_testkit::wait::wait_for;

use super::stage::{Outcome, Stage, TIMEOUT, claim, goes_on, judge, show_line, shown, tell};

const FIRST: Group = Group::Partition(0);
/// How many replicas the partition has at first, and for a while.
const SIZES: [u16; 2] = [3, 5];

pub(super) fn grow_and_shrink(programs: &Programs) -> Outcome<()> {
    let [few, many] = SIZES;
    let mut stage = Stage::ready(programs, Shape { server_rf: few, manager_rf: 3, partitions: 1 })?;
    let mut load = stage.loops(3)?;
    goes_on(&mut load, "5 steady state v2", "three replicas")?;
    let ports = Ports::claim(2 * (many - few))?;
    let port = |offset: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, ports.first() + offset));
    let mut newcomers = Vec::new();
    for number in 0..many - few {
        let replica = few + number;
        let at = (port(2 * number), port(2 * number + 1));
        tell(&format!("S{} starts with --join, on an empty directory.", replica + 1));
        newcomers.push(newcomer::start(&stage, (0, replica), at, &format!("newcomer.{replica}"))?);
    }
    tell(&format!("madkv-client set replicas.s0 {many}, until both have said where they are"));
    let (wish, back) = (many.to_string(), few.to_string());
    wait_for(TIMEOUT, "five replicas", || {
        stage.quietly(&["set", "replicas.s0", &wish]).ok().filter(|done| done.status.success())
    })?;
    shows_replicas(&stage, many)?;
    goes_on(&mut load, "the number of replicas changes while all runs", "five replicas")?;
    // Not the leader: the next one might be a newcomer, which is none of the nodes that this stage knows.
    let leader = stage.leader_of(FIRST)?;
    for victim in stage.nodes_of(FIRST).filter(|&node| node != leader).collect::<Vec<_>>() {
        stage.kill(victim)?;
    }
    goes_on(&mut load, "", "two of the first three are dead, and the newcomers count")?;
    for node in stage.nodes_of(FIRST).collect::<Vec<_>>() {
        if !stage.process(node).is_running() {
            stage.bring_back(node)?;
        }
    }
    let done = stage.operator(&["set", "replicas.s0", &back])?;
    claim(done.status.success(), || String::from_utf8_lossy(&done.stderr).into_owned())?;
    shows_replicas(&stage, few)?;
    for mut newcomer in newcomers {
        let ended = newcomer.wait_end(TIMEOUT).ok_or("a replica that was let go is still there")?;
        claim(ended.success(), || format!("a replica that was let go ended with {ended}"))?;
    }
    shown("", "those that were let go have heard of it, and ended");
    goes_on(&mut load, "", "three replicas again")?;
    judge(&stage, load)
}

/// The settings that the managers show have that many replicas.
fn shows_replicas(stage: &Stage, replicas: u16) -> Outcome<()> {
    let shown_now = stage.operator(&["get"])?;
    let text = String::from_utf8_lossy(&shown_now.stdout).into_owned();
    let line = text.lines().find(|line| line.starts_with("replicas.s0")).unwrap_or("no such line").to_owned();
    show_line("", &line);
    claim(line.ends_with(&format!(" {replicas}")), || format!("not {replicas}: {text}"))?;
    shown("", &format!("the map has {replicas} replicas"));
    Ok(())
}

//! Hosts with agents: what LFD, GFD and RM print and do.

use std::fs;

use madkv_testkit::agents::AgentPlan;
use madkv_testkit::cluster::{Group, Node, Shape};
use madkv_testkit::programs::Programs;
use madkv_testkit::wait::wait_for;
use rustix::process::{Pid, Signal, kill_process};
use smr::status::ServiceState;

use super::faults::three_clients;
use super::stage::{Outcome, Stage, TIMEOUT, claim, goes_on, judge, shown, tell};

const FIRST: Group = Group::Partition(0);
const THREE: Shape = Shape { server_rf: 3, manager_rf: 3, partitions: 1 };
/// Milliseconds between two heartbeats, first and then.
const FREQS_MS: [u64; 2] = [500, 100];
/// Heartbeats whose times are compared.
const BEATS: usize = 6;

fn server(replica: u16) -> Node {
    Node::Server { partition: 0, replica }
}

fn plan(hosts: u16, heartbeat_freq_ms: u64, relaunch: bool) -> AgentPlan {
    AgentPlan { heartbeat_freq_ms, relaunch, flags: vec!["--trace_messages".into()], ..AgentPlan::for_hosts(hosts) }
}

pub(super) fn milestone_1(programs: &Programs) -> Outcome<()> {
    let shape = Shape { server_rf: 1, manager_rf: 1, partitions: 1 };
    let mut averages = Vec::new();
    for (turn, freq) in FREQS_MS.into_iter().enumerate() {
        let mut stage = Stage::with_agents(programs, shape, &plan(1, freq, false))?;
        stage.process(Node::Manager(0)).start()?;
        let s1 = server(0);
        stage.process(s1).start()?;
        stage.wait_ready(TIMEOUT)?;
        shown("1 (1)", "the server S1 runs");
        tell(&format!("LFD1 starts, with --heartbeat_freq {freq}."));
        stage.start_agent(0)?;
        stage.agent_says(0, |line| line.contains("] LFD1 sending heartbeat to S1"))?;
        stage.agent_says(0, |line| line.contains("] LFD1 receives heartbeat from S1"))?;
        stage.says(s1, |line| line.contains("S1 receives heartbeat from LFD1"))?;
        shown(if turn == 0 { "1 (2)" } else { "1 (9)" }, "LFD1 heartbeats S1, and both consoles say so");
        let sent = wait_for(TIMEOUT, "some heartbeats", || {
            let log = stage.agent_log(0);
            let sent: Vec<String> =
                log.lines().filter(|line| line.contains("sending heartbeat")).map(str::to_owned).collect();
            (sent.len() > BEATS).then_some(sent)
        })?;
        let counts: Vec<Option<u64>> = sent.iter().map(|line| count_of(line)).collect();
        let rise = counts.iter().zip(1..).all(|(count, expected)| *count == Some(expected));
        claim(rise, || format!("heartbeats are not counted from 1: {counts:?}"))?;
        let times: Option<Vec<u64>> = sent.iter().map(|line| micros_of(line)).collect();
        let times = times.ok_or("a line without a time")?;
        let average = (times[BEATS] - times[0]) / BEATS as u64 / 1000;
        tell(&format!("heartbeats are counted from 1, and come every {average} ms"));
        averages.push(average);
        if turn == 0 {
            three_clients(&mut stage, s1)?;
            stage.kill(s1)?;
            stage.agent_says(0, |line| line.contains("LFD1: heartbeat to S1 failed"))?;
            stage.agent_says(0, |line| line.contains("LFD1: delete replica S1"))?;
            shown("1 (8)", "LFD1 has noticed that S1 died");
            tell("Now all of it again, with another frequency.");
        }
    }
    claim(averages[1] < averages[0], || format!("the intervals were {averages:?} ms"))?;
    shown("1 (9)", "the other frequency is in force");
    Ok(())
}

/// The number in `[time] [7] LFD1 sending ...`.
fn count_of(line: &str) -> Option<u64> {
    line.split_once("] [")?.1.split_once(']')?.0.parse().ok()
}

/// The time of the day of a line, in microseconds: `[2026-01-31T12:34:56.789012Z] ...`.
fn micros_of(line: &str) -> Option<u64> {
    let time = line.split_once('T')?.1.split_once('Z')?.0;
    let (clock, fraction) = time.split_once('.')?;
    let seconds = clock.split(':').try_fold(0, |sum, part| Some(sum * 60 + part.parse::<u64>().ok()?))?;
    Some(seconds * 1_000_000 + fraction.parse::<u64>().ok()?)
}

/// GFD and RM say that these are the members.
fn members(stage: &mut Stage, servers: &str, guide: &str) -> Outcome<()> {
    for who in ["GFD", "RM"] {
        stage.a_manager_says(|line| line.ends_with(&format!("] {who}: {servers}")))?;
    }
    shown(guide, &format!("GFD and RM, which are the leading manager's, have {servers}"));
    Ok(())
}

pub(super) fn milestones_2_and_4(programs: &Programs) -> Outcome<()> {
    let mut stage = Stage::with_agents(programs, THREE, &plan(3, FREQS_MS[0], false))?;
    tell("Beforehand the three servers found their group, once and for ever, and end. From then on each");
    tell("of them is a member as soon as it runs.");
    let all: Vec<Node> = (0..3).map(Node::Manager).chain((0..3).map(server)).collect();
    for &node in &all {
        stage.process(node).start()?;
    }
    stage.wait_ready(TIMEOUT)?;
    for &node in &all {
        stage.process(node).kill();
    }
    tell("Managers first: GFD and RM are roles of the one that leads them.");
    for replica in 0..3 {
        stage.process(Node::Manager(replica)).start()?;
    }
    members(&mut stage, "0 members", "2 (1), 4 (1)-(3)")?;
    tell("LFD1, LFD2 and LFD3, one for each host.");
    for host in 0..3 {
        stage.start_agent(host)?;
    }
    shown("2 (2), 4 (4) (5)", "the agents run, and no server yet");
    let so_far = ["1 member: S1", "2 members: S1, S2", "3 members: S1, S2, S3"];
    for (host, guide) in [(0, "2 (3), 4 (6)"), (1, "2 (4), 4 (7)"), (2, "2 (5), 4 (8)")] {
        let number = host + 1;
        tell(&format!("S{number} starts on host {number}."));
        stage.process(server(host)).start()?;
        stage.agent_says(host, |line| line.contains(&format!("] LFD{number} sending heartbeat to S{number}")))?;
        stage.says(server(host), |line| line.contains(&format!("receives heartbeat from LFD{number}")))?;
        stage.agent_says(host, |line| line.ends_with(&format!("LFD{number}: add replica S{number}")))?;
        members(&mut stage, so_far[usize::from(host)], guide)?;
    }
    stage.wait_ready(TIMEOUT)?;
    let mut load = stage.loops(3)?;
    goes_on(&mut load, "2 (6) (7) (10), 4 (10) (13)", "three clients")?;
    stage.kill(server(1))?;
    stage.agent_says(1, |line| line.contains("LFD2: heartbeat to S2 failed"))?;
    stage.agent_says(1, |line| line.ends_with("LFD2: delete replica S2"))?;
    shown("2 (11), 4 (14)", "LFD2 has noticed that S2 died");
    members(&mut stage, "2 members: S1, S3", "2 (12), 4 (15)")?;
    goes_on(&mut load, "2 (13) (14), 4 (16) (17)", "with S1 and S3")?;
    tell("S2 is launched again, by hand.");
    stage.bring_back(server(1))?;
    stage.agent_says(1, |line| line.ends_with("LFD2: add replica S2"))?;
    members(&mut stage, "3 members: S1, S2, S3", "4 (19) (20)")?;
    shown("4 (21)", "S2 serves only since it has all that the others have");
    judge(&stage, load)
}

/// Kills a server's process, whoever launched it.
fn kill_whoever(stage: &Stage, node: Node) -> Outcome<u32> {
    let pid = wait_for(TIMEOUT, &format!("a process of {node}"), || stage.pid_of(node))?;
    tell(&format!("kill -9 {} (process {pid})", stage.named(node)));
    let signalled = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or("no process has such a number")?;
    kill_process(signalled, Signal::KILL)?;
    Ok(pid)
}

/// Waits until a node serves, as another process than this.
fn serves_again(stage: &Stage, node: Node, killed: u32) -> Outcome<()> {
    let pid = wait_for(TIMEOUT, &format!("{node} in service again"), || {
        let pid = stage.pid_of(node).filter(|&pid| pid != killed)?;
        (stage.status(node).ok()?.service_state == ServiceState::InService).then_some(pid)
    })?;
    tell(&format!("{} serves again, as process {pid}", stage.named(node)));
    Ok(())
}

pub(super) fn relaunch(programs: &Programs) -> Outcome<()> {
    let mut stage = Stage::with_agents(programs, THREE, &plan(3, FREQS_MS[1], true))?;
    stage.start_all()?;
    stage.wait_ready(TIMEOUT)?;
    members(&mut stage, "3 members: S1, S2, S3", "5 bootstrapping")?;
    let mut load = stage.loops(3)?;
    goes_on(&mut load, "5 steady state v2", "all run")?;
    for (guide, victim) in [("5 fault injected", 1), ("5 fault reinjected", 1), ("5 second fault injected", 2)] {
        let victim = server(victim);
        let killed = kill_whoever(&stage, victim)?;
        serves_again(&stage, victim, killed)?;
        goes_on(&mut load, guide, "no one had to do anything")?;
        members(&mut stage, "3 members: S1, S2, S3", "5 fault recovered")?;
    }
    judge(&stage, load)
}

pub(super) fn emptied_disk(programs: &Programs) -> Outcome<()> {
    let mut stage = Stage::with_agents(programs, THREE, &plan(3, FREQS_MS[1], true))?;
    stage.start_all()?;
    stage.wait_ready(TIMEOUT)?;
    let mut load = stage.loops(3)?;
    goes_on(&mut load, "", "all run")?;
    let victim = stage.follower_of(FIRST)?;
    let before = stage.status(victim)?.node.incarnation;
    let killed = kill_whoever(&stage, victim)?;
    tell("and its directory is emptied");
    // It may have been launched again already, and writes there.
    wait_for(TIMEOUT, "the removal", || fs::remove_dir_all(stage.backer_path(victim)).ok())?;
    serves_again(&stage, victim, killed)?;
    let after = stage.status(victim)?.node.incarnation;
    claim(after != before, || format!("it is still incarnation {after:?}, whose disk was lost"))?;
    goes_on(&mut load, "", "it was taken back as a new incarnation, and no one had to do anything")?;
    let events = stage.operator(&["events"])?;
    claim(events.status.success(), || String::from_utf8_lossy(&events.stderr).into_owned())?;
    String::from_utf8_lossy(&events.stdout).lines().for_each(|line| super::stage::show_line("", line));
    shown("", "each decision is in the managers' log, with its reason");
    judge(&stage, load)
}

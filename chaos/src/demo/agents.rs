//! Hosts with agents: what LFD, GFD and RM print and do.

use std::fs;

use madkv_testkit::agents::AgentPlan;
use madkv_testkit::cluster::{Group, Node, Shape};
use madkv_testkit::programs::Programs;
use madkv_testkit::wait::wait_for;
use rustix::process::{Pid, Signal, kill_process};
use smr::status::ServiceState;

use super::consoles::average_ms;
use super::faults::three_clients;
use super::stage::{Outcome, Stage, THREE, TIMEOUT, claim, goes_on, judge, shown, tell};

const FIRST: Group = Group::Partition(0);
/// Milliseconds between two heartbeats, first and then.
pub(super) const FREQS_MS: [u64; 2] = [500, 100];
/// Heartbeats whose times are compared.
const BEATS: usize = 6;

/// A server of the only partition.
pub(super) fn server(replica: u16) -> Node {
    Node::Server { partition: 0, replica }
}

/// Agents whose consoles show what they do.
pub(super) fn plan(hosts: u16, heartbeat_freq_ms: u64, relaunch: bool) -> AgentPlan {
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
        let average = average_ms(&sent[..=BEATS])?;
        tell(&format!("heartbeats are counted from 1, and come every {average} ms"));
        averages.push(average);
        if turn == 0 {
            three_clients(&mut stage, s1)?;
            stage.kill(s1)?;
            deleted(&mut stage, 0, "1 (8)")?;
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

/// GFD and RM say that these are the members.
pub(super) fn members(stage: &mut Stage, servers: &str, guide: &str) -> Outcome<()> {
    for who in ["GFD", "RM"] {
        stage.a_manager_says(|line| line.ends_with(&format!("] {who}: {servers}")))?;
    }
    shown(guide, &format!("GFD and RM, which are the leading manager's, have {servers}"));
    Ok(())
}

/// The three servers found their group, and everything ends.
pub(super) fn found_beforehand(stage: &mut Stage) -> Outcome<()> {
    tell("Beforehand the three servers found their group, once and for ever, and end. From then on each");
    tell("of them is a member as soon as it runs.");
    let all: Vec<Node> = (0..3).map(Node::Manager).chain((0..3).map(server)).collect();
    for &node in &all {
        stage.process(node).start()?;
    }
    stage.wait_ready(TIMEOUT)?;
    stage.wait_members(FIRST, 3)?;
    // Managers first: no one may be removed because another one ends a moment later.
    for &node in &all {
        stage.process(node).kill();
    }
    Ok(())
}

/// What the guide calls the steps from the first manager to the last server.
pub(super) struct Steps {
    pub(super) managers: &'static str,
    pub(super) agents: &'static str,
    pub(super) servers: [&'static str; 3],
}

/// Managers, agents, and then servers of a group that is founded, one at a time; `each` looks at a server that runs.
pub(super) fn one_at_a_time(
    stage: &mut Stage,
    steps: &Steps,
    each: impl Fn(&mut Stage, Node) -> Outcome<()>,
) -> Outcome<()> {
    tell("Managers first: GFD and RM are roles of the one that leads them.");
    for replica in 0..3 {
        stage.process(Node::Manager(replica)).start()?;
    }
    members(stage, "0 members", steps.managers)?;
    tell("LFD1, LFD2 and LFD3, one for each host.");
    for host in 0..3 {
        stage.start_agent(host)?;
    }
    shown(steps.agents, "the agents run, and no server yet");
    let so_far = ["1 member: S1", "2 members: S1, S2", "3 members: S1, S2, S3"];
    for (host, guide) in (0..).zip(steps.servers) {
        let number = host + 1;
        tell(&format!("S{number} starts on host {number}."));
        stage.process(server(host)).start()?;
        stage.agent_says(host, |line| line.contains(&format!("] LFD{number} sending heartbeat to S{number}")))?;
        stage.says(server(host), |line| line.contains(&format!("receives heartbeat from LFD{number}")))?;
        added(stage, host)?;
        members(stage, so_far[usize::from(host)], guide)?;
        each(stage, server(host))?;
    }
    Ok(())
}

/// The agent of a host has heard its server.
pub(super) fn added(stage: &mut Stage, host: u16) -> Outcome<()> {
    let number = host + 1;
    stage.agent_says(host, |line| line.ends_with(&format!("LFD{number}: add replica S{number}")))?;
    Ok(())
}

/// The agent of a host has noticed that its server is gone.
pub(super) fn deleted(stage: &mut Stage, host: u16, guide: &str) -> Outcome<()> {
    let number = host + 1;
    stage.agent_says(host, |line| line.contains(&format!("LFD{number}: heartbeat to S{number} failed")))?;
    stage.agent_says(host, |line| line.ends_with(&format!("LFD{number}: delete replica S{number}")))?;
    shown(guide, &format!("LFD{number} has noticed that S{number} died"));
    Ok(())
}

pub(super) fn milestones_2_and_4(programs: &Programs) -> Outcome<()> {
    let mut stage = Stage::with_agents(programs, THREE, &plan(3, FREQS_MS[0], false))?;
    found_beforehand(&mut stage)?;
    let steps = Steps {
        managers: "2 (1), 4 (1)-(3)",
        agents: "2 (2), 4 (4) (5)",
        servers: ["2 (3), 4 (6)", "2 (4), 4 (7)", "2 (5), 4 (8)"],
    };
    one_at_a_time(&mut stage, &steps, |_, _| Ok(()))?;
    stage.wait_ready(TIMEOUT)?;
    let mut load = stage.loops(3)?;
    goes_on(&mut load, "2 (6) (7) (10), 4 (10) (13)", "three clients")?;
    stage.kill(server(1))?;
    deleted(&mut stage, 1, "2 (11), 4 (14)")?;
    members(&mut stage, "2 members: S1, S3", "2 (12), 4 (15)")?;
    goes_on(&mut load, "2 (13) (14), 4 (16) (17)", "with S1 and S3")?;
    tell("S2 is launched again, by hand.");
    stage.bring_back(server(1))?;
    added(&mut stage, 1)?;
    members(&mut stage, "3 members: S1, S2, S3", "4 (19) (20)")?;
    shown("4 (21)", "S2 serves only since it has all that the others have");
    judge(&stage, load)
}

/// Kills a server's process, whoever launched it.
pub(super) fn kill_whoever(stage: &Stage, node: Node) -> Outcome<u32> {
    let pid = wait_for(TIMEOUT, &format!("a process of {node}"), || stage.pid_of(node))?;
    tell(&format!("kill -9 {} (process {pid})", stage.named(node)));
    let signalled = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or("no process has such a number")?;
    kill_process(signalled, Signal::KILL)?;
    Ok(pid)
}

/// Kills the agent of a host, and its server.
pub(super) fn host_dies(stage: &mut Stage, host: u16) -> Outcome<()> {
    tell(&format!("kill -9 LFD{}", host + 1));
    // First, for it launches what has ended.
    stage.agents().ok_or("there are no agents")?.process(host).kill();
    kill_whoever(stage, server(host)).map(drop)
}

/// Waits until a node serves, as another process than this.
pub(super) fn serves_again(stage: &Stage, node: Node, killed: u32) -> Outcome<()> {
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

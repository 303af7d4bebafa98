//! Processes that start, die, hang and are slow.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use madkv_testkit::cluster::{Group, Node, Shape};
use madkv_testkit::line_client::NoAnswer;
use madkv_testkit::programs::Programs;
use madkv_testkit::wait::wait_for;
use smr::status::ServiceState;

use super::stage::{NotHere, Outcome, Stage, TIMEOUT, WATCH, claim, goes_on, judge, show_line, shown, tell};
use crate::disk_faults::injector::{Injector, Tampering, available};

const FIRST: Group = Group::Partition(0);
const SECOND: Group = Group::Partition(1);
/// How long each write to the disk of a slow leader takes, in milliseconds.
const SLOW_DISK_MS: u64 = 2_000;
/// The calls that write.
const WRITING: &str = "pwrite64,write,fdatasync,fsync,sync_file_range";

pub(super) fn bootstrapping(programs: &Programs) -> Outcome<()> {
    let mut stage = Stage::empty(programs, Shape { server_rf: 3, manager_rf: 3, partitions: 1 })?;
    tell("A client first. Nothing runs yet, so it waits.");
    let mut early = stage.traced_client(1)?;
    early.send("PUT early 1")?;
    let servers: Vec<Node> = stage.nodes_of(FIRST).collect();
    tell("Then a server, which waits for managers; then one manager of three, which waits for another.");
    stage.process(servers[2]).start()?;
    stage.process(Node::Manager(1)).start()?;
    claim(matches!(early.line(WATCH), Err(NoAnswer::Late(_))), || "the client was answered by no one".to_owned())?;
    shown("", "without a quorum of managers there is no cluster, and the client waits");
    tell("The other managers: the three found the cluster, each by its own directory.");
    for replica in [0, 2] {
        stage.process(Node::Manager(replica)).start()?;
    }
    let leader = stage.leader_of(Group::Manager)?;
    shown("", &format!("{leader} leads the managers, and no single one of them is needed"));
    tell("The other servers, one at a time.");
    for &node in &servers[..2] {
        stage.process(node).start()?;
        tell(&format!("{} started", stage.named(node)));
    }
    stage.wait_ready(TIMEOUT)?;
    for &node in &servers {
        wait_for(TIMEOUT, &format!("{node} in service"), || {
            (stage.status(node).ok()?.service_state == ServiceState::InService).then_some(())
        })?;
    }
    shown("1 (1)", "all three servers are in service, and one of them leads");
    let answer = early.line(TIMEOUT)?;
    claim(answer == "PUT early not_found", || format!("the early client heard {answer}"))?;
    shown("", "the client that came first is answered now");
    let status = stage.operator(&["status"])?;
    claim(status.status.success(), || "status failed".to_owned())?;
    String::from_utf8_lossy(&status.stdout).lines().for_each(|line| show_line("", line));
    Ok(())
}

pub(super) fn steady_state(programs: &Programs) -> Outcome<()> {
    let mut stage = Stage::ready(programs, Shape { server_rf: 3, manager_rf: 3, partitions: 1 })?;
    let leader = stage.leader_of(FIRST)?;
    three_clients(&mut stage, leader)?;
    let followers: Vec<Node> = stage.nodes_of(FIRST).filter(|&node| node != leader).collect();
    stage.wait_caught_up(FIRST, TIMEOUT)?;
    let mut states = BTreeSet::new();
    for node in followers.into_iter().chain([leader]) {
        let log = stage.process(node).log_text();
        let after = log.lines().rev().find(|line| line.contains("after processing") && !line.contains("a read"));
        let last_write = after.and_then(|line| line.split(" = ").nth(1)?.split(" after").next());
        tell(&format!("{} shows the state {}", stage.named(node), last_write.unwrap_or("of nothing")));
        states.insert(last_write.map(str::to_owned));
    }
    claim(states.len() == 1, || format!("the replicas show different states: {states:?}"))?;
    shown("2, what to keep in mind", "all three replicas show the same state");
    let mut load = stage.loops(3)?;
    goes_on(&mut load, "5 steady state v1 and v2", "without faults")?;
    judge(&stage, load)
}

/// Three clients send a request each, one after the other; all messages and states are on both consoles.
pub(super) fn three_clients(stage: &mut Stage, leader: Node) -> Outcome<()> {
    by_hand(stage, leader, 1..=3)?;
    shown("1 (3)-(5), 2 (6)-(8)", "each request is on the console of its client and of its server, by the same name");
    shown("1 (6), 2 (9)", "so is each reply");
    shown("1 (7)", "the state before and after is shown, and a write changes it");
    Ok(())
}

/// Clients with these numbers send a write and a read each, one after the other, and both consoles say so.
pub(super) fn by_hand(stage: &mut Stage, leader: Node, clients: RangeInclusive<u32>) -> Outcome<()> {
    let server = stage.console_name(leader);
    tell("Three clients, one line each by hand.");
    for number in clients {
        let mut client = stage.traced_client(number)?;
        for line in [format!("PUT x {number}"), "GET x".to_owned()] {
            let answer = client.ask(&line, TIMEOUT)?;
            tell(&format!("C{number}: {line}  ->  {answer}"));
        }
        let request = format!("<C{number}, {server}, 1, request>");
        let reply = format!("<C{number}, {server}, 1, reply>");
        stage.client_says(number, |line| line.ends_with(&format!("Sent {request}")))?;
        stage.says(leader, |line| line.ends_with(&format!("Received {request}")))?;
        let before = stage.says(leader, |line| line.ends_with(&format!("before processing {request}")))?;
        let after = stage.says(leader, |line| line.ends_with(&format!("after processing {request}")))?;
        stage.says(leader, |line| line.ends_with(&format!("Sending {reply}")))?;
        stage.client_says(number, |line| line.ends_with(&format!("Received {reply}")))?;
        // `[time] my_state_S1 = 7 keys (digest ...) before processing <...>`
        let state = |line: &str, when: &str| Some(line.split_once(" = ")?.1.split_once(when)?.0.to_owned());
        let states = state(&before, " before ").zip(state(&after, " after "));
        let changed = states.is_some_and(|(before, after)| before != after);
        claim(changed, || format!("the state did not change: {before} / {after}"))?;
    }
    Ok(())
}

pub(super) fn follower_kill(programs: &Programs) -> Outcome<()> {
    let mut stage = Stage::ready(programs, Shape { server_rf: 3, manager_rf: 3, partitions: 2 })?;
    let mut load = stage.loops(3)?;
    goes_on(&mut load, "5 steady state v2", "all replicas run")?;
    let victims = [stage.follower_of(FIRST)?, stage.follower_of(SECOND)?];
    for node in victims {
        stage.kill(node)?;
    }
    goes_on(&mut load, "2 (13) (14), 5 fault injected", "with one dead in each partition")?;
    for node in victims {
        stage.bring_back(node)?;
    }
    shown("4 (21), 5 fault recovered", "both have caught up, from the log or by a snapshot, and serve again");
    goes_on(&mut load, "", "all run again")?;
    for node in victims {
        stage.kill(node)?;
    }
    goes_on(&mut load, "5 fault reinjected", "the same two are dead again")?;
    judge(&stage, load)
}

pub(super) fn leader_kill(programs: &Programs) -> Outcome<()> {
    let mut stage = Stage::ready(programs, Shape { server_rf: 3, manager_rf: 3, partitions: 1 })?;
    let mut load = stage.loops(3)?;
    goes_on(&mut load, "5 steady state v2", "all replicas run")?;
    let first = stage.leader_of(FIRST)?;
    let term = stage.term_of(first)?;
    stage.kill(first)?;
    let second = stage.leader_of(FIRST)?;
    claim(second != first, || format!("{first} is dead and leads"))?;
    stage.says_that_it_leads_after(second, term)?;
    goes_on(&mut load, "4 configuration 2: a new primary", &format!("{} has taken over", stage.named(second)))?;
    stage.bring_back(first)?;
    let followed = stage.follows(first)?;
    let what = format!("the former leader is back, and follows {}", stage.named(followed));
    shown("5 fault recovered", &what);
    let second = stage.leader_of(FIRST)?;
    let term = stage.term_of(second)?;
    stage.kill(second)?;
    let third = stage.leader_of(FIRST)?;
    stage.says_that_it_leads_after(third, term)?;
    goes_on(&mut load, "5 fault reinjected", &format!("{} leads now", stage.named(third)))?;
    stage.bring_back(second)?;
    judge(&stage, load)
}

pub(super) fn manager_kill(programs: &Programs) -> Outcome<()> {
    let mut stage = Stage::ready(programs, Shape { server_rf: 3, manager_rf: 3, partitions: 1 })?;
    stage.wait_caught_up(Group::Manager, TIMEOUT)?;
    let mut load = stage.loops(3)?;
    goes_on(&mut load, "5 steady state v2", "all run")?;
    let first = stage.leader_of(Group::Manager)?;
    stage.kill(first)?;
    for number in 4..=6 {
        let answer = stage.traced_client(number)?.ask("PUT joined yes", TIMEOUT)?;
        tell(&format!("C{number} joins: PUT joined yes  ->  {answer}"));
    }
    shown("", "new clients join while the managers elect another leader: no single one is needed");
    let second = stage.leader_of(Group::Manager)?;
    stage.kill(second)?;
    goes_on(&mut load, "", "without a quorum of managers those who run go on")?;
    for node in [first, second] {
        tell(&format!("starting {node} again, with its directory"));
        stage.process(node).start()?;
    }
    let leader = stage.leader_of(Group::Manager)?;
    shown("", &format!("{leader} leads the managers again"));
    judge(&stage, load)
}

pub(super) fn majority_kill(programs: &Programs) -> Outcome<()> {
    let mut stage = Stage::ready(programs, Shape { server_rf: 5, manager_rf: 1, partitions: 1 })?;
    let mut load = stage.loops(3)?;
    goes_on(&mut load, "5 steady state v2", "all five run")?;
    let mut dead = Vec::new();
    for (guide, what) in [("5 fault injected", "one of five is dead"), ("5 second fault injected", "two are dead")] {
        let node = stage.follower_of(FIRST)?;
        stage.kill(node)?;
        dead.push(node);
        goes_on(&mut load, guide, what)?;
    }
    let third = stage.follower_of(FIRST)?;
    stage.kill(third)?;
    // What was on its way when it died may still be answered.
    wait_for(TIMEOUT, "the group to stand still", || {
        let before = load.answered();
        std::thread::sleep(WATCH);
        (load.answered() == before).then_some(())
    })?;
    shown("", &format!("three of five are dead: for {WATCH:?} no one was answered, wrongly or otherwise"));
    stage.bring_back(dead[0])?;
    goes_on(&mut load, "5 fault recovered", "with three of five it goes on, and no client was told a thing")?;
    for node in [dead[1], third] {
        stage.bring_back(node)?;
    }
    judge(&stage, load)
}

pub(super) fn slow_leader(programs: &Programs) -> Outcome<()> {
    if let Err(skipped) = available() {
        return Err(NotHere(format!("a slow disk is made with strace: {skipped}")).into());
    }
    let mut stage = Stage::ready(programs, Shape { server_rf: 3, manager_rf: 1, partitions: 1 })?;
    let mut load = stage.loops(3)?;
    goes_on(&mut load, "5 steady state v2", "all run")?;
    let slow = stage.leader_of(FIRST)?;
    let term = stage.term_of(slow)?;
    tell(&format!("From now on each write to the disk of {} takes {SLOW_DISK_MS} ms.", stage.named(slow)));
    let pid = stage.process(slow).pid().ok_or("the leader has ended")?;
    let (place, trace) = (stage.backer_path(slow), stage.directory().join("strace"));
    let injector = Injector::attach(pid, WRITING, Tampering::DelayFrom(1, SLOW_DISK_MS), &place, &trace)?;
    let next = wait_for(TIMEOUT, "another leader", || stage.leader(FIRST).filter(|&leader| leader != slow))?;
    shown(
        "extra option 1 and 2: a performance fault",
        &format!("{} has noticed, and {} leads", slow, stage.named(next)),
    );
    stage.says_that_it_leads_after(next, term)?;
    goes_on(&mut load, "", "the slow one holds no one up")?;
    let status = stage.operator(&["status"])?;
    let said = String::from_utf8_lossy(&status.stdout).into_owned();
    let why = said.lines().find(|line| line.contains("leaves leading to others")).unwrap_or_default();
    show_line("", why);
    claim(why.starts_with(&slow.to_string()), || format!("status does not say that {slow} stands back: {said}"))?;
    shown("", "it will not lead again while others can, and status says why");
    drop(injector);
    // While strace delays a call it does not listen, and may have had to be killed: the replica is started afresh.
    stage.kill(slow)?;
    std::thread::sleep(Duration::from_millis(SLOW_DISK_MS));
    stage.bring_back(slow)?;
    judge(&stage, load)
}

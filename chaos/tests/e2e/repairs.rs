//! The managers count members, and repair groups by themselves; a failover of theirs loses nothing of it.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::thread;
use std::time::Duration;

use madkv_proto::control::{ControlReply, ControlRequest, Membership, Settings};
use madkv_proto::frames::{ClientRequest, ClientResponse, Service};
use madkv_testkit::agents::AgentPlan;
use madkv_testkit::ask::ask;
use madkv_testkit::cluster::{Group, Node, Shape, service_of};
use madkv_testkit::launcher::sync_flags;
use madkv_testkit::wait::wait_for;
use rustix::process::{Pid, Signal, kill_process};
use smr::status::{ReplicaStatus, ServiceState};

use crate::scene::{ONLY, Scene, TIMEOUT, WATCH};

/// The node that is hurt.
const VICTIM: Node = Node::Server { partition: 0, replica: 1 };
/// How long one manager may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// All replicas of the only partition.
const ALL: [u16; 3] = [0, 1, 2];

/// Three hosts with agents, one partition, and this many managers.
fn watched(manager_rf: u16) -> Scene {
    watched_with(manager_rf, 0)
}

/// The same, and this many hosts with room for a replica.
fn watched_with(manager_rf: u16, spare_hosts: u16) -> Scene {
    let mut scene = Scene::stopped(Shape { server_rf: 3, manager_rf, partitions: 1 });
    let server_flags = sync_flags(scene.directory()).into_iter().flat_map(|flag| ["--server_flag".into(), flag]);
    let flags = server_flags.chain(["--trace_messages".into()]).collect();
    let plan = AgentPlan { spare_hosts, flags, ..AgentPlan::for_hosts(3) };
    scene.watch_by_agents(&plan).unwrap();
    scene.start_all().unwrap();
    scene.ready();
    wait_members(&scene, &ALL);
    scene
}

/// What the managers' leader answers.
pub(crate) fn control(scene: &Scene, request: &ControlRequest) -> ControlReply {
    wait_for(TIMEOUT, "an answer of the managers' leader", || {
        scene.nodes_of(Group::Manager).find_map(|node| {
            let question = ClientRequest::Control(request.encode());
            match ask(scene.client_address(node), Service::Manager, question, ANSWER_TIMEOUT) {
                Ok(ClientResponse::Answer(answer)) => ControlReply::decode(&answer).ok(),
                _ => None,
            }
        })
    })
    .unwrap()
}

fn membership(scene: &Scene) -> Membership {
    match control(scene, &ControlRequest::Membership) {
        ControlReply::Membership(membership) => membership,
        other => panic!("{other:?}"),
    }
}

fn events(scene: &Scene) -> Vec<String> {
    match control(scene, &ControlRequest::Events { after: 0, limit: u32::MAX }) {
        ControlReply::Events(events) => {
            events.events.into_iter().map(|event| format!("{}: {}", event.subject, event.text)).collect()
        }
        other => panic!("{other:?}"),
    }
}

fn wait_members(scene: &Scene, expected: &[u16]) {
    let what = format!("members {expected:?}");
    let found = wait_for(TIMEOUT, &what, || (membership(scene).groups[0].members == expected).then_some(()));
    found.unwrap_or_else(|error| panic!("{error}\n{:#?}\n{:#?}", membership(scene), events(scene)));
}

fn wait_event(scene: &Scene, part: &str) -> String {
    let found = wait_for(TIMEOUT, part, || events(scene).into_iter().find(|event| event.contains(part)));
    found.unwrap_or_else(|error| panic!("{error}\n{:#?}", events(scene)))
}

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid as i32).unwrap(), signal).unwrap();
}

#[test]
fn killed_replica_is_a_member_again_and_the_directory_is_the_same() {
    let scene = watched(1);
    let mut load = scene.load();
    let incarnation = scene.status_of(VICTIM).node;
    let pid = wait_for(TIMEOUT, "a process", || scene.pid_of(VICTIM)).unwrap();
    signal(pid, Signal::KILL);
    wait_for(TIMEOUT, "another process", || scene.pid_of(VICTIM).filter(|other| *other != pid)).unwrap();
    wait_members(&scene, &ALL);
    assert_eq!(scene.status_of(VICTIM).node, incarnation);
    assert!(!events(&scene).iter().any(|event| event.contains("readmitted")), "{:#?}", events(&scene));
    load.wait_answers(100, TIMEOUT).unwrap();
    load.finish().unwrap().check(&scene).unwrap();
}

// covers M6
#[test]
fn emptied_directory_is_readmitted_by_itself_although_the_managers_lose_their_leader() {
    let mut scene = watched(3);
    let mut load = scene.load();
    let before = scene.status_of(VICTIM).node;
    change_directory(&scene, VICTIM, empty);
    let leader = scene.leader_of(Group::Manager);
    wait_event(&scene, "S2 is to be readmitted as a new incarnation");
    scene.process(leader).kill();
    wait_event(&scene, "S2 is repaired");
    wait_members(&scene, &ALL);
    let status = scene.status_of(VICTIM);
    assert_eq!(status.service_state, ServiceState::InService);
    let leads = scene.leader_of(ONLY);
    let voters = scene.status_of(leads).voters;
    assert!(voters.contains(&status.node) && !voters.contains(&before) && voters.len() == 3, "{voters:?}");
    let said = events(&scene);
    assert_eq!(said.iter().filter(|event| event.contains("S2 is repaired")).count(), 1, "{said:#?}");
    scene.process(leader).start().unwrap();
    load.wait_answers(100, TIMEOUT).unwrap();
    load.finish().unwrap().check(&scene).unwrap();
}

#[test]
fn host_whose_agent_is_silent_has_failed_and_its_replicas_go_on() {
    let mut scene = watched(1);
    let pid = wait_for(TIMEOUT, "a process", || scene.pid_of(VICTIM)).unwrap();
    scene.agents().unwrap().process(1).kill();
    let event = wait_event(&scene, "counts as failed");
    assert!(event.starts_with("host h2") && event.contains("S2 leaves the members"), "{event}");
    wait_members(&scene, &[0, 2]);
    assert_eq!(scene.pid_of(VICTIM), Some(pid));
    scene.agents().unwrap().process(1).start().unwrap();
    wait_members(&scene, &ALL);
    assert_eq!(scene.pid_of(VICTIM), Some(pid), "it was adopted");
}

/// Stops the victim, so that its agent launches it only after `change` has changed its directory; then kills it.
fn change_directory(scene: &Scene, node: Node, change: impl FnOnce(&Path)) -> u32 {
    let pid = wait_for(TIMEOUT, "a process", || scene.pid_of(node)).unwrap();
    signal(pid, Signal::STOP);
    change(&scene.backer_path(node));
    signal(pid, Signal::KILL);
    pid
}

fn empty(directory: &Path) {
    let away = format!("{}.away", directory.display());
    fs::rename(directory, away).unwrap();
    fs::create_dir(directory).unwrap();
}

fn set(scene: &Scene, name: &str, value: u64) {
    let version = settings(scene).version;
    let request = ControlRequest::Set { name: name.to_owned(), value: value.to_string(), version };
    assert_eq!(control(scene, &request), ControlReply::Done, "{name}");
}

fn settings(scene: &Scene) -> Settings {
    match control(scene, &ControlRequest::Settings) {
        ControlReply::Settings(settings) => settings,
        other => panic!("{other:?}"),
    }
}

#[test]
fn settings_are_changed_for_all_and_outlive_the_managers() {
    let mut scene = watched(1);
    set(&scene, "snapshot_freq", 65_536);
    set(&scene, "election_timeout", 900);
    // The servers take snapshots after that much log, which they did not before.
    let mut client = scene.warm_client();
    let value = "v".repeat(32 << 10);
    wait_for(TIMEOUT, "a snapshot", || {
        client.ask(&format!("PUT k {value}"), TIMEOUT).ok()?;
        let has_snapshot = |status: ReplicaStatus| status.snapshot.index.0 > 0;
        scene.nodes_of(ONLY).all(|node| scene.status(node).is_ok_and(has_snapshot)).then_some(())
    })
    .unwrap();
    let manager = scene.leader_of(Group::Manager);
    scene.process(manager).kill();
    scene.process(manager).start().unwrap();
    // As soon as it has applied its log again.
    wait_for(TIMEOUT, "the settings as they were", || {
        let settings = settings(&scene);
        let both = (settings.get("snapshot_freq"), settings.get("election_timeout"));
        (both == (Some(65_536), Some(900))).then_some(())
    })
    .unwrap();
}

// covers M5 M6 M7 G2
#[test]
fn replica_of_a_host_that_is_gone_is_placed_on_a_spare_host_after_the_grace_period() {
    const SPARE: u16 = 3;
    let mut scene = watched_with(1, 1);
    set(&scene, "host_grace", 2_000);
    let mut load = scene.load();
    let before = scene.status_of(VICTIM).node;
    let old = wait_for(TIMEOUT, "a process", || scene.pid_of(VICTIM)).unwrap();
    // The whole host: what ran there neither answers nor is launched.
    scene.agents().unwrap().process(1).freeze();
    signal(old, Signal::STOP);
    wait_event(&scene, "S2 is to be placed on host h4");
    wait_event(&scene, "S2 is to be readmitted as a new incarnation");
    wait_event(&scene, "S2 is repaired");
    wait_members(&scene, &ALL);
    let address = scene.agents().unwrap().room_address(0);
    let status = wait_for(TIMEOUT, "what it says", || {
        match ask(address, service_of(VICTIM), ClientRequest::Status, ANSWER_TIMEOUT) {
            Ok(ClientResponse::Status(status)) => Some(status),
            _ => None,
        }
    });
    let status = status.unwrap();
    assert_eq!(status.service_state, ServiceState::InService);
    let leader = [Node::Server { partition: 0, replica: 0 }, Node::Server { partition: 0, replica: 2 }];
    let voters = leader.map(|node| scene.status_of(node).voters);
    for voters in &voters {
        assert!(voters.contains(&status.node) && !voters.contains(&before) && voters.len() == 3, "{voters:?}");
    }
    assert!(scene.agents().unwrap().process(SPARE).is_running(), "its agent");
    load.wait_answers(100, TIMEOUT).unwrap();

    // The old host comes back: what ran there is no replica any more, and ends.
    scene.agents().unwrap().process(1).thaw();
    signal(old, Signal::CONT);
    wait_for(TIMEOUT, "the end of the old one", || scene.pid_of(VICTIM).is_none().then_some(())).unwrap();
    thread::sleep(WATCH);
    assert_eq!(scene.pid_of(VICTIM), None, "and no one launches it");
    wait_members(&scene, &ALL);
    load.wait_answers(100, TIMEOUT).unwrap();
    load.finish().unwrap().check(&scene).unwrap();
}

// covers M6
#[test]
fn quarantine_by_proof_of_a_loss_waits_for_an_operator_and_events_say_so() {
    let scene = watched(1);
    let note = "reason: proof of a loss: two leaders of term 7\nsince_unix_s: 1\n";
    change_directory(&scene, VICTIM, |directory| fs::write(directory.join("quarantine"), note).unwrap());
    let event = wait_event(&scene, "S2 waits for an operator");
    assert!(event.contains("only copy"), "{event}");
    wait_members(&scene, &[0, 2]);
    thread::sleep(WATCH);
    let said = events(&scene);
    assert!(
        !said.iter().any(|event| event.contains("to be readmitted") || event.contains("empty directory")),
        "{said:#?}"
    );
    let beside = fs::read_dir(scene.directory()).unwrap().map(|entry| entry.unwrap().file_name());
    let set_aside: Vec<_> = beside.filter(|name| name.to_string_lossy().contains(".aside-")).collect();
    assert!(set_aside.is_empty(), "{set_aside:?}");
    // The operator has looked.
    let leader = scene.leader_of(ONLY);
    let readmit = ClientRequest::Readmit { replica: 1 };
    let answer = ask(scene.client_address(leader), service_of(leader), readmit, TIMEOUT).unwrap();
    assert_eq!(answer, ClientResponse::Done);
    wait_members(&scene, &ALL);
}

// covers M6 M14
#[test]
fn last_copy_and_what_no_majority_is_beside_wait_for_an_operator_and_no_group_is_founded() {
    let scene = watched(1);
    let mut client = scene.warm_client();
    assert_eq!(client.swap("a", "1", TIMEOUT).unwrap(), None);
    let founders = scene.status_of(scene.leader_of(ONLY)).voters;
    let nodes = [1, 2].map(|replica| Node::Server { partition: 0, replica });
    // Both before either is launched again.
    let pids = nodes.map(|node| wait_for(TIMEOUT, "a process", || scene.pid_of(node)).unwrap());
    pids.iter().for_each(|pid| signal(*pid, Signal::STOP));
    nodes.iter().for_each(|node| empty(&scene.backer_path(*node)));
    pids.iter().for_each(|pid| signal(*pid, Signal::KILL));
    for name in ["S2", "S3"] {
        let event = wait_event(&scene, &format!("{name} waits for an operator"));
        assert!(event.contains("without it only 1 of 3 replicas are in service, and 2 are needed"), "{event}");
    }
    change_directory(&scene, Node::Server { partition: 0, replica: 0 }, empty);
    let event = wait_event(&scene, "S1 waits for an operator");
    assert!(event.contains("may be the last copy of the data"), "{event}");
    thread::sleep(WATCH);
    let said = events(&scene);
    assert!(!said.iter().any(|event| event.contains("to be readmitted")), "{said:#?}");
    for node in scene.nodes_of(ONLY) {
        let status = scene.status_of(node);
        assert!(matches!(status.service_state, ServiceState::Quarantined { .. }), "{status:?}");
        assert!(!founders.contains(&status.node));
    }
}

// covers B42: a port that is taken, or a disk that is full, is no reason to take a directory away.
#[test]
fn replica_that_cannot_start_for_another_reason_than_its_directory_keeps_it_and_events_say_so() {
    let mut scene = watched(1);
    let incarnation = scene.status_of(VICTIM).node;
    let pid = wait_for(TIMEOUT, "a process", || scene.pid_of(VICTIM)).unwrap();
    // Or its agent would be faster.
    scene.agents().unwrap().process(1).freeze();
    signal(pid, Signal::KILL);
    let address = scene.peer_address(VICTIM);
    let taken = wait_for(TIMEOUT, "its port", || TcpListener::bind(address).ok());
    scene.agents().unwrap().process(1).thaw();
    let event = wait_event(&scene, "S2 waits for an operator");
    assert!(event.contains("nothing says that its directory is to blame"), "{event}");
    drop(taken);
    wait_members(&scene, &ALL);
    assert_eq!(scene.status_of(VICTIM).node, incarnation);
    assert!(!events(&scene).iter().any(|event| event.contains("empty directory")), "{:#?}", events(&scene));
}

#[test]
fn heartbeat_freq_is_another_on_the_agents_console_within_two_of_the_old_intervals() {
    let mut scene = watched(1);
    let log = scene.agents().unwrap().process(0).log_path().to_owned();
    let console = |text: &str| {
        let said = || fs::read_to_string(&log).ok().filter(|log| log.contains(text));
        wait_for(TIMEOUT, text, said).unwrap()
    };
    let sent = |log: &str| log.matches("LFD1 sending heartbeat to S1").count();
    set(&scene, "lfd_heartbeat_freq", 1_000);
    console("LFD1: heartbeat_freq is 1000 ms");
    set(&scene, "lfd_heartbeat_freq", 200);
    let at = sent(&console("LFD1"));
    let log = console("LFD1: heartbeat_freq is 200 ms");
    let until = log.find("heartbeat_freq is 200 ms").map_or(0, |end| sent(&log[..end]));
    assert!(until <= at + 2, "{} heartbeats at the old interval:\n{log}", until - at);
}

//! Hosts with agents: what they launch again, and when; and that replicas go on without them.

use std::fs;
use std::time::{Duration, Instant};

use madkv_testkit::agents::AgentPlan;
use madkv_testkit::cluster::Node;
use madkv_testkit::wait::wait_for;
use rustix::process::{Pid, Signal, kill_process};
use smr::status::ServiceState;

use crate::scene::{SMALL, Scene, TIMEOUT, WATCH};

/// The node that is hurt.
const VICTIM: Node = Node::Server { partition: 0, replica: 1 };
/// The host that it lives on.
const HOST: u16 = 1;
/// Milliseconds from one heartbeat to the next.
const FREQ_MS: u64 = 200;

/// A cluster on three hosts, all its servers watched.
fn watched(relaunch: bool) -> Scene {
    let mut scene = Scene::stopped(SMALL);
    let flags = vec!["--trace_messages".into()];
    let plan = AgentPlan { heartbeat_freq_ms: FREQ_MS, relaunch, flags, ..AgentPlan::for_hosts(3) };
    scene.watch_by_agents(&plan).unwrap();
    scene.start_all().unwrap();
    scene.ready();
    for host in 0..3 {
        expect(&mut scene, host, 1, &format!("LFD{}: add replica S{}", host + 1, host + 1));
    }
    scene
}

/// Waits until an agent has said something this often.
fn expect(scene: &mut Scene, host: u16, times: usize, text: &str) {
    let agent = scene.agents().unwrap().process(host);
    let said = wait_for(TIMEOUT, text, || (agent.log_text().matches(text).count() >= times).then_some(()));
    said.unwrap_or_else(|error| panic!("{error}\n{}", agent.log_text()));
}

fn said(scene: &mut Scene, host: u16, text: &str) -> usize {
    scene.agents().unwrap().process(host).log_text().matches(text).count()
}

fn pid(scene: &Scene) -> u32 {
    wait_for(TIMEOUT, "a process", || scene.pid_of(VICTIM)).unwrap()
}

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid as i32).unwrap(), signal).unwrap();
}

/// Waits until the victim serves as a process that is none of these.
fn serves_as_another(scene: &Scene, pids: &[u32]) -> u32 {
    wait_for(TIMEOUT, "another process in service", || {
        let pid = scene.pid_of(VICTIM).filter(|pid| !pids.contains(pid))?;
        (scene.status(VICTIM).ok()?.service_state == ServiceState::InService).then_some(pid)
    })
    .unwrap()
}

// covers B40
#[test]
fn killed_server_is_launched_again_by_its_agent_and_by_the_one_that_comes_after_it() {
    let mut scene = watched(true);
    let mut load = scene.load();
    let first = pid(&scene);
    signal(first, Signal::KILL);
    let second = serves_as_another(&scene, &[first]);
    expect(&mut scene, HOST, 1, "LFD2: delete replica S2");
    expect(&mut scene, HOST, 2, "LFD2: add replica S2");

    scene.agents().unwrap().process(HOST).kill();
    load.wait_answers(100, TIMEOUT).unwrap();
    assert_eq!(pid(&scene), second, "replicas go on without their agent");
    scene.agents().unwrap().start_all().unwrap();
    expect(&mut scene, HOST, 3, "LFD2: add replica S2");
    assert_eq!(pid(&scene), second, "it adopts what runs");
    assert_eq!(said(&mut scene, HOST, "LFD2: delete replica S2"), 1);
    signal(second, Signal::KILL);
    let third = serves_as_another(&scene, &[first, second]);

    // What ends while no agent is there is launched by the next one.
    scene.agents().unwrap().process(HOST).kill();
    signal(third, Signal::KILL);
    wait_for(TIMEOUT, "its end", || scene.pid_of(VICTIM).is_none().then_some(())).unwrap();
    scene.agents().unwrap().start_all().unwrap();
    serves_as_another(&scene, &[first, second, third]);
    load.wait_answers(100, TIMEOUT).unwrap();
    load.finish().unwrap().check(&scene).unwrap();
}

// covers B41
#[test]
fn hung_server_is_killed_and_launched_again_only_when_it_is_gone() {
    let mut scene = watched(true);
    let mut load = scene.load();
    let first = pid(&scene);
    signal(first, Signal::STOP);
    expect(&mut scene, HOST, 1, &format!("does not answer: process {first} is killed"));
    serves_as_another(&scene, &[first]);
    expect(&mut scene, HOST, 2, "LFD2: add replica S2");
    let log = scene.agents().unwrap().process(HOST).log_text();
    let place = |text: &str| log.find(text).unwrap_or_else(|| panic!("no {text:?} in {log}"));
    assert!(place("is killed") < place("it is launched again"), "{log}");
    assert!(place("LFD2: delete replica S2") < place("it is launched again"), "{log}");
    load.wait_answers(100, TIMEOUT).unwrap();
    load.finish().unwrap().check(&scene).unwrap();
}

// covers B40
#[test]
fn agent_that_is_stopped_for_a_while_takes_no_one_for_hung() {
    let mut scene = watched(true);
    let first = pid(&scene);
    scene.agents().unwrap().process(HOST).freeze();
    std::thread::sleep(Duration::from_millis(10 * FREQ_MS));
    scene.agents().unwrap().process(HOST).thaw();
    let heard = said(&mut scene, HOST, "receives heartbeat from S2");
    expect(&mut scene, HOST, heard + 5, "receives heartbeat from S2");
    assert_eq!(said(&mut scene, HOST, "delete replica"), 0);
    assert_eq!(pid(&scene), first);
}

// covers B42
#[test]
fn crash_loop_is_slowed_down_and_ends_when_the_cause_does() {
    let mut scene = watched(true);
    let first = pid(&scene);
    let directory = scene.backer_path(VICTIM);
    let away = directory.with_extension("away");
    signal(first, Signal::STOP);
    fs::rename(&directory, &away).unwrap();
    // A directory that is a file: it cannot start.
    fs::write(&directory, "").unwrap();
    signal(first, Signal::KILL);
    for pause in ["500 ms", "1000 ms", "2000 ms"] {
        expect(&mut scene, HOST, 1, &format!("(it exited with 1): it is launched again in {pause}"));
    }
    fs::remove_file(&directory).unwrap();
    fs::rename(&away, &directory).unwrap();
    serves_as_another(&scene, &[first]);
}

// covers B43
#[test]
fn server_that_is_ended_in_order_stays_ended_until_someone_starts_it() {
    let mut scene = watched(true);
    let first = pid(&scene);
    signal(first, Signal::TERM);
    expect(&mut scene, HOST, 1, "has ended in order");
    // A new agent knows it, too.
    scene.agents().unwrap().process(HOST).kill();
    scene.agents().unwrap().start_all().unwrap();
    std::thread::sleep(WATCH);
    assert_eq!(scene.pid_of(VICTIM), None);
    scene.process(VICTIM).wait_end(TIMEOUT).unwrap();
    scene.process(VICTIM).start().unwrap();
    let second = serves_as_another(&scene, &[first]);
    expect(&mut scene, HOST, 2, "LFD2: add replica S2");
    signal(second, Signal::KILL);
    serves_as_another(&scene, &[first, second]);
}

#[test]
fn agent_that_is_to_relaunch_nothing_only_tells() {
    let mut scene = watched(false);
    let first = pid(&scene);
    signal(first, Signal::STOP);
    expect(&mut scene, HOST, 1, "LFD2: delete replica S2");
    assert_eq!(pid(&scene), first, "it is not killed");
    signal(first, Signal::CONT);
    expect(&mut scene, HOST, 2, "LFD2: add replica S2");
    let start = Instant::now();
    signal(first, Signal::KILL);
    expect(&mut scene, HOST, 2, "LFD2: delete replica S2");
    std::thread::sleep(WATCH.saturating_sub(start.elapsed()));
    assert_eq!(scene.pid_of(VICTIM), None);
    scene.process(VICTIM).wait_end(TIMEOUT).unwrap();
    scene.process(VICTIM).start().unwrap();
    expect(&mut scene, HOST, 3, "LFD2: add replica S2");
}

//! Data directories that are emptied, swapped or opened twice, and a replica that is far behind.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use madkv_testkit::cluster::{Node, Shape};
use madkv_testkit::launcher::sync_flags;
use madkv_testkit::ports::Ports;
use madkv_testkit::process::Process;
use madkv_testkit::programs::{CLIENT, SERVER};
use madkv_testkit::wait::wait_for;
use smr::status::ServiceState;

use crate::scene::{ONLY, REFUSAL_TIMEOUT, SMALL, Scene, TIMEOUT, programs};

/// How large the values are that push the log over its limit, in bytes.
const VALUE_BYTES: usize = 256 << 10;
/// How many of them at most: a log that is not cut after this many never will be.
const VALUES_MAX: u64 = 4_000;

const LATE: Node = Node::Server { partition: 0, replica: 2 };

// covers S9
#[test]
fn slow_joiner_is_caught_up_by_snapshot_and_counts_again() {
    let mut scene = Scene::new(SMALL);
    let mut client = scene.warm_client();
    client.ask("PUT first 1", TIMEOUT).unwrap();
    scene.wait_caught_up(ONLY, TIMEOUT).unwrap();
    let last_seen = scene.status_of(LATE).last.index;
    scene.process(LATE).kill();

    // Few keys, so that the state stays small while the log grows until it is cut above what the dead one has.
    let value = "v".repeat(VALUE_BYTES);
    // It is cut at the snapshot before the latest one.
    let mut written = 0;
    let mut first = None;
    loop {
        let snapshot = scene.status_of(scene.leader_of(ONLY)).snapshot.index;
        if first.is_some_and(|first| snapshot > first) {
            break;
        }
        first = first.or(Some(snapshot).filter(|snapshot| *snapshot > last_seen));
        assert!(written < VALUES_MAX, "the log was not cut after {written} values of {VALUE_BYTES} bytes");
        for _ in 0..20 {
            client.ask(&format!("PUT big{} {value}", written % 4), TIMEOUT).unwrap();
            written += 1;
        }
    }
    client.ask("PUT last 2", TIMEOUT).unwrap();
    scene.process(LATE).start().unwrap();
    scene.wait_caught_up(ONLY, TIMEOUT).unwrap();
    assert!(scene.status_of(LATE).snapshot.index > last_seen);

    // It now makes the majority with one other, so each answer rests on what it was given.
    let other = scene.nodes_of(ONLY).find(|&node| node != LATE).unwrap();
    scene.process(other).kill();
    assert_eq!(client.get("first", TIMEOUT).unwrap().as_deref(), Some("1"));
    assert_eq!(client.get("last", TIMEOUT).unwrap().as_deref(), Some("2"));
    assert_eq!(client.get("big0", TIMEOUT).unwrap().map(|value| value.len()), Some(VALUE_BYTES));
    assert_eq!(client.swap("last", "3", TIMEOUT).unwrap().as_deref(), Some("2"));
}

// covers M6
#[test]
fn emptied_directory_is_quarantined_until_readmitted_and_then_counts() {
    let mut scene = Scene::new(SMALL);
    let mut client = scene.warm_client();
    assert_eq!(client.swap("a", "1", TIMEOUT).unwrap(), None);
    scene.process(LATE).kill();
    let path = scene.backer_path(LATE);
    fs::remove_dir_all(&path).unwrap();
    scene.process(LATE).start().unwrap();
    let out_of_service = |scene: &Scene| {
        let service_state = scene.status(LATE).ok()?.service_state;
        matches!(service_state, ServiceState::Quarantined { .. }).then_some(())
    };
    wait_for(TIMEOUT, "quarantine of an emptied replica", || out_of_service(&scene)).unwrap();
    // It says so where its operator looks, and it does not vote: with one more dead there is no majority, and nothing
    // is answered.
    scene.process(LATE).wait_said("quarantine", TIMEOUT).unwrap();
    let other = scene.nodes_of(ONLY).find(|&node| node != LATE).unwrap();
    scene.process(other).kill();
    let mut hasty = scene.client_with(&["--timeout_ms", "1500"]).unwrap();
    let answer = hasty.ask("GET a", TIMEOUT).unwrap();
    assert!(answer.starts_with("ERROR"), "{answer}");
    scene.process(other).start().unwrap();
    scene.leader_of(ONLY);

    // A replica that is alive and votes is not replaced. For a moment the dead one counts as alive, too.
    let refused = readmit(&scene, 1);
    assert!(!refused.status.success(), "{refused:?}");
    wait_for(TIMEOUT, "the readmission", || {
        let output = readmit(&scene, 2);
        assert!(output.status.success() || output.stderr.ends_with(b"is alive and votes\n"), "{output:?}");
        output.status.success().then_some(())
    })
    .unwrap();
    wait_for(TIMEOUT, "the readmitted replica to serve", || {
        (scene.status(LATE).ok()?.service_state == ServiceState::InService).then_some(())
    })
    .unwrap();
    let voters = scene.status_of(scene.leader_of(ONLY)).voters;
    assert_eq!(voters.len(), 3, "{voters:?}");
    assert!(voters.contains(&scene.status_of(LATE).node), "{voters:?}");

    let other = scene.nodes_of(ONLY).find(|&node| node != LATE).unwrap();
    scene.process(other).kill();
    assert_eq!(client.swap("a", "2", TIMEOUT).unwrap().as_deref(), Some("1"));
}

fn readmit(scene: &Scene, replica: u16) -> Output {
    Command::new(programs().path(CLIENT))
        .args(["--manager_addrs", &scene.manager_addresses(), "readmit", "s0", &replica.to_string()])
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// A server like `node` of `scene`, on ports and in a directory of the caller's choice.
fn twin(scene: &Scene, node: Node, first_port: u16, backer_path: &Path) -> Process {
    let peers: Vec<String> = scene
        .nodes_of(node.group())
        .filter(|&peer| peer != node)
        .map(|peer| scene.peer_address(peer).to_string())
        .collect();
    let mut arguments: Vec<OsString> = [
        "--partition_id".to_owned(),
        "0".to_owned(),
        "--replica_id".to_owned(),
        node.replica().to_string(),
        "--manager_addrs".to_owned(),
        scene.manager_addresses(),
        "--api_listen".to_owned(),
        format!("127.0.0.1:{first_port}"),
        "--p2p_listen".to_owned(),
        format!("127.0.0.1:{}", first_port + 1),
        "--peer_addrs".to_owned(),
        peers.join(","),
    ]
    .map(OsString::from)
    .to_vec();
    arguments.extend(["--backer_path".into(), backer_path.as_os_str().to_owned()]);
    arguments.extend(sync_flags(scene.directory()));
    Process::new(programs().path(SERVER), arguments, scene.directory().join("twin.log"))
}

// covers D13
#[test]
fn second_process_on_same_directory_is_refused_and_the_first_goes_on() {
    let mut scene = Scene::new(SMALL);
    let mut client = scene.warm_client();
    let node = scene.leader_of(ONLY);
    let ports = Ports::claim(2).unwrap();
    let mut second = twin(&scene, node, ports.first(), &scene.backer_path(node));
    for frozen in [false, true] {
        if frozen {
            scene.process(node).freeze();
        }
        second.start().unwrap();
        let status = second.wait_end(REFUSAL_TIMEOUT).expect("the second process to end");
        assert!(!status.success());
        let log = second.log_text();
        let path = scene.backer_path(node).display().to_string();
        assert!(log.contains(&path), "no word of the directory: {log}");
        assert_eq!(log.lines().count(), if frozen { 2 } else { 1 }, "one line each time: {log}");
        scene.process(node).thaw();
    }
    assert_eq!(client.swap("a", "1", TIMEOUT).unwrap(), None);
    assert!(scene.process(node).is_running());
}

// covers M9
#[test]
fn directory_of_another_replica_is_refused_and_both_are_named() {
    let mut scene = Scene::new(SMALL);
    let donor = Node::Server { partition: 0, replica: 1 };
    scene.process(donor).kill();
    let ports = Ports::claim(2).unwrap();
    let mut wrong = twin(&scene, LATE, ports.first(), &scene.backer_path(donor));
    wrong.start().unwrap();
    let status = wrong.wait_end(REFUSAL_TIMEOUT).expect("the process to end");
    assert!(!status.success());
    let log = wrong.log_text();
    assert_eq!(log.lines().count(), 1, "{log}");
    assert!(log.contains("s0"), "{log}");
    // Untouched: its owner goes on with it.
    scene.process(donor).start().unwrap();
    scene.wait_caught_up(ONLY, TIMEOUT).unwrap();
}

#[test]
fn lone_replicas_serve_and_resume() {
    let mut scene = Scene::new(Shape { server_rf: 1, manager_rf: 1, partitions: 2 });
    let mut client = scene.warm_client();
    for key in ["a", "b", "c", "d"] {
        assert_eq!(client.swap(key, "1", TIMEOUT).unwrap(), None);
    }
    scene.kill_all();
    scene.start_all().unwrap();
    for key in ["a", "b", "c", "d"] {
        assert_eq!(client.swap(key, "2", TIMEOUT).unwrap().as_deref(), Some("1"));
    }
}

//! `status --slow`: which replica is a slow one, and what of it.

use std::process::{Command, Stdio};
use std::time::Duration;

use madkv_testkit::cluster::Node;
use madkv_testkit::programs::CLIENT;
use madkv_testkit::proxy::{Flow, Rules};
use madkv_testkit::wait::wait_for;
use madkv_testkit::wiring::Network;
use serde_json::{Value, json};

use crate::scene::{ONLY, SMALL, Scene, TIMEOUT, programs};

/// How late bytes arrive on the ways of the slow replica, each way: many times what they normally take, even here.
const DELAY: Duration = Duration::from_millis(100);
/// For how long the replicas have to have measured before, in seconds: then what is normal is known as soon as most of
/// the present is not.
const MEASURED_S: u64 = 5;

fn client(scene: &Scene, words: &[&str]) -> Option<String> {
    let line = ["--manager_addrs", &scene.manager_addresses()].map(str::to_owned);
    let output = Command::new(programs().path(CLIENT)).args(line).args(words).stdin(Stdio::null()).output().unwrap();
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
}

fn pace(scene: &Scene) -> Option<Value> {
    serde_json::from_str(&client(scene, &["status", "--slow", "--json"])?).ok()
}

/// What each server of the partition says.
fn servers(pace: &Value) -> impl Iterator<Item = &Value> {
    pace["nodes"].as_array().into_iter().flatten().filter(|node| node["group"] == "s0")
}

// covers L13 N3
#[test]
fn replica_whose_ways_are_slow_is_named_with_them() {
    let (scene, network) = Scene::wired(SMALL);
    let measured = || {
        let pace = pace(&scene)?;
        let long = servers(&pace).filter(|node| node["pace"]["watched_s"].as_u64() >= Some(MEASURED_S)).count();
        (long == 3).then_some(pace)
    };
    let pace_before = wait_for(TIMEOUT, "all servers to have measured", measured).unwrap();
    for node in pace_before["nodes"].as_array().unwrap() {
        let metrics: Vec<&str> =
            node["pace"]["measures"].as_array().unwrap().iter().filter_map(|one| one["metric"].as_str()).collect();
        assert!(["cpu", "queue", "memory"].iter().all(|metric| metrics.contains(metric)), "{node}");
        assert_eq!(node["stands_back"], false, "{node}");
    }

    let slow = scene.follower_of(ONLY);
    let Node::Server { replica, .. } = slow else { panic!("{slow}") };
    let others: Vec<Node> = scene.nodes_of(ONLY).filter(|node| *node != slow).collect();
    for way in others.iter().flat_map(|other| Network::between(slow, *other)) {
        network.set(way, Rules::both(Flow::Late { delay: DELAY, jitter: Duration::ZERO }));
    }
    let peers: Vec<u16> = (0..3).filter(|peer| *peer != replica).collect();
    let found = wait_for(TIMEOUT, &format!("{slow} to be found slow"), || {
        let pace = pace(&scene)?;
        // One of its ways may be found slow before the other.
        let named = [json!(slow.to_string()), json!("network"), json!(peers)];
        let is_it = |found: &&Value| [&found["node"], &found["phase"], &found["peers"]] == named.each_ref();
        pace["slow"].as_array()?.iter().find(is_it).cloned()
    });
    let found = found.unwrap_or_else(|late| panic!("{late}: {:?}", pace(&scene)));
    assert!(found["normal"].as_u64() < Some(DELAY.as_micros() as u64), "{found}");
    assert!(found["present"].as_u64() > found["normal"].as_u64(), "{found}");
    wait_for(TIMEOUT, "the same in words", || {
        let text = client(&scene, &["status", "--slow"])?;
        text.contains(&format!("{slow} is slow, network to ")).then_some(())
    })
    .unwrap();
}

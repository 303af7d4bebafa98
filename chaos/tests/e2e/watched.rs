//! What real processes show over HTTP: metrics, whether they live and serve, and what they say of themselves.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};

use madkv_testkit::cluster::{Cluster, Group, Node};
use madkv_testkit::programs::CLIENT;
use madkv_testkit::scrape::{Scrape, get};
use madkv_testkit::wait::wait_for;
use serde_json::Value;
use smr_service::http::{CONNECTIONS_MAX, REQUEST_MAX_BYTES};

use crate::scene::{ONLY, SMALL, Scene, TIMEOUT};

/// A small cluster that is ready, whose processes all answer HTTP.
fn scene() -> Scene {
    let mut scene = Scene::stopped(SMALL);
    scene.listen_for_http().unwrap();
    scene.start_all().unwrap();
    scene.ready();
    scene
}

fn address(cluster: &Cluster, node: Node) -> SocketAddr {
    cluster.http_address(node).unwrap()
}

/// Asks again until the answer has this code; returns its text.
fn expect_code(cluster: &Cluster, node: Node, path: &str, code: u16) -> String {
    let what = format!("{code} of {path} at {node}");
    let asked = || get(address(cluster, node), path).ok().filter(|answer| answer.code == code);
    wait_for(TIMEOUT, &what, asked).unwrap().body
}

#[test]
fn metrics_of_all_processes_parse_and_say_what_happened() {
    let mut scene = scene();
    let mut client = scene.client().unwrap();
    for number in 0..20 {
        client.swap(&format!("k{number}"), &"v".repeat(50_000), TIMEOUT).unwrap();
    }
    client.send("GET k1").unwrap();
    client.line(TIMEOUT).unwrap();
    client.send("SCAN a z").unwrap();
    while client.line(TIMEOUT).unwrap() != "SCAN END" {}
    scene.wait_caught_up(ONLY, TIMEOUT).unwrap();

    let nodes: Vec<Node> = scene.layout().shape.nodes().collect();
    let leader = scene.leader_of(ONLY);
    for node in nodes {
        let scrape = Scrape::of(address(&scene, node)).unwrap_or_else(|why| panic!("{node}: {why}"));
        let (group, replica) = match node {
            Node::Manager(replica) => ("m".to_owned(), replica),
            Node::Server { partition, replica } => (format!("s{partition}"), replica),
        };
        let whose = [("group", group.as_str()), ("replica", &replica.to_string())];
        let value = |name: &str| scrape.value(name, &whose).unwrap_or_else(|| panic!("{node}: {name}"));
        let status = scene.status(node).unwrap();
        assert_eq!(value("smr_answers"), 1.0);
        assert_eq!(value("smr_term"), status.term.0 as f64);
        assert_eq!(value("smr_applied_index"), status.applied.0 as f64);
        assert!(value("smr_durable_index") >= status.applied.0 as f64, "{node}");
        assert!(value("smr_sync_duration_seconds_count") > 0.0, "{node}");
        assert!(value("process_resident_memory_bytes") > 1e6, "{node}");
        assert!(value("smr_disk_free_bytes") > 0.0, "{node}");
        let role = scrape.value("smr_role", &[("role", &status.role.to_string())]);
        assert_eq!(role, Some(1.0), "{node}");
        if matches!(node, Node::Server { .. }) {
            assert!(value("smr_messages_sent_total") > 0.0, "{node}");
        }
    }

    let scrape = Scrape::of(address(&scene, leader)).unwrap();
    let ok = |kind| scrape.value("smr_requests_total", &[("kind", kind), ("outcome", "ok")]).unwrap();
    let measured = |kind| scrape.value("smr_request_duration_seconds_count", &[("kind", kind)]).unwrap();
    assert!(ok("write") >= 20.0 && measured("write") >= 20.0);
    assert!(ok("read") >= 1.0 && measured("read") >= 1.0);
    assert_eq!((ok("long_read"), measured("long_read")), (1.0, 1.0), "the SCAN comes in parts");
    let lags = scrape.samples.iter().filter(|sample| sample.name == "smr_follower_lag_entries");
    assert_eq!(lags.count(), 2, "one for each follower");
    assert!(scrape.value("smr_elections_won_total", &[]).unwrap() >= 1.0);

    // Who left is missed, and the loss is counted.
    let other = scene.nodes_of(ONLY).find(|node| *node != leader).unwrap();
    scene.process(other).kill();
    client.swap("k1", "w", TIMEOUT).unwrap();
    wait_for(TIMEOUT, "a message that was dropped", || {
        let scrape = Scrape::of(address(&scene, leader)).unwrap();
        scrape.value("smr_messages_dropped_total", &[("reason", "unconnected")]).filter(|count| *count > 0.0)
    })
    .unwrap();
}

#[test]
fn status_has_the_fields_of_the_clients_table() {
    let scene = scene();
    let output = Command::new(scene.programs().path(CLIENT))
        .args(["--manager_addrs", &scene.manager_addresses(), "status", "--json"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let table: Value = serde_json::from_slice(&output.stdout).unwrap();
    for row in table["nodes"].as_array().unwrap() {
        let node = scene.layout().shape.nodes().find(|node| row["node"] == node.to_string()).unwrap();
        let answer = get(address(&scene, node), "/status").unwrap();
        assert_eq!((answer.code, answer.headers["content-type"].as_str()), (200, "application/json"));
        let status: Value = serde_json::from_str(&answer.body).unwrap();
        let fields = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
        // These the managers know, and the process itself does not.
        let of_managers = ["host", "kind", "member", "service"].map(str::to_owned);
        let in_row: BTreeSet<String> = fields(row).into_iter().filter(|field| !of_managers.contains(field)).collect();
        assert_eq!(fields(&status), in_row, "{node}");
        for field in ["node", "group", "replica", "address", "state", "incarnation", "voters", "reads"] {
            assert_eq!(status[field], row[field], "{field} of {node}");
        }
    }
}

#[test]
fn ready_only_with_a_quorum_and_live_all_the_time() {
    let mut scene = scene();
    let nodes: Vec<Node> = scene.nodes_of(ONLY).collect();
    for &node in &nodes {
        assert_eq!(expect_code(&scene, node, "/readyz", 200), "ok\n");
        assert_eq!(expect_code(&scene, node, "/livez", 200), "ok\n");
    }
    // Frozen, not killed: no connection closes, and the last one finds out by itself.
    let last = scene.leader_of(ONLY);
    for &node in nodes.iter().filter(|node| **node != last) {
        scene.process(node).freeze();
    }
    expect_code(&scene, last, "/readyz", 503);
    expect_code(&scene, last, "/livez", 200);
    let back = *nodes.iter().find(|node| **node != last).unwrap();
    scene.process(back).thaw();
    expect_code(&scene, last, "/readyz", 200);
    expect_code(&scene, back, "/readyz", 200);
}

/// Whoever has everything is ready, also where it takes no requests.
#[test]
fn members_of_groups_of_every_kind_are_ready_while_they_hear_their_group() {
    for kind in ["chain", "passive"] {
        let mut scene = Scene::stopped_with_flags(SMALL, &["--protocol", kind]);
        scene.listen_for_http().unwrap();
        scene.start_all().unwrap();
        scene.ready();
        let nodes: Vec<Node> = scene.nodes_of(ONLY).collect();
        for &node in &nodes {
            expect_code(&scene, node, "/readyz", 200);
        }
        // Without managers no one is removed, so the first is not sure of being one any more when others hang.
        let first = scene.leader_of(ONLY);
        let managers: Vec<Node> = scene.nodes_of(Group::Manager).collect();
        managers.iter().for_each(|&node| scene.process(node).kill());
        for &node in nodes.iter().filter(|node| **node != first) {
            scene.process(node).freeze();
        }
        expect_code(&scene, first, "/readyz", 503);
    }
}

#[test]
fn uninitialized_replica_is_live_and_not_ready() {
    let mut scene = Scene::stopped(SMALL);
    scene.listen_for_http().unwrap();
    let manager = scene.nodes_of(Group::Manager).next().unwrap();
    let alone = scene.nodes_of(ONLY).next().unwrap();
    // Without a manager it has not even begun.
    scene.process(alone).start().unwrap();
    assert_eq!(expect_code(&scene, alone, "/livez", 200), "ok\n");
    assert_eq!(expect_code(&scene, alone, "/readyz", 503), "starting\n");
    scene.process(manager).start().unwrap();
    let waits = || get(address(&scene, alone), "/readyz").ok().filter(|answer| answer.body.contains("founded"));
    assert_eq!(wait_for(TIMEOUT, "a replica that waits for its group", waits).unwrap().code, 503);
    let status: Value = serde_json::from_str(&expect_code(&scene, alone, "/status", 200)).unwrap();
    assert_eq!(status["state"], "uninitialized");
    Scrape::of(address(&scene, alone)).unwrap();
}

#[test]
fn slow_and_hostile_watchers_keep_no_one_out() {
    let scene = scene();
    let mut client = scene.client().unwrap();
    let leader = scene.leader_of(ONLY);
    let at = address(&scene, leader);
    // More than there is room for, and none of them says what it wants.
    let mut slow = Vec::new();
    for _ in 0..CONNECTIONS_MAX + 20 {
        let mut stream = TcpStream::connect(at).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost:").unwrap();
        slow.push(stream);
    }
    assert_eq!(client.swap("a", "1", TIMEOUT).unwrap(), None);
    assert_eq!(get(at, "/livez").unwrap().code, 200);
    // The first of them has lost its place.
    let mut rest = Vec::new();
    slow[0].set_read_timeout(Some(TIMEOUT)).unwrap();
    // Reset or closed, but over.
    let _ = slow[0].read_to_end(&mut rest);
    drop(slow);

    let mut endless = TcpStream::connect(at).unwrap();
    endless.set_read_timeout(Some(TIMEOUT)).unwrap();
    let mut head = b"GET / HTTP/1.1\r\n".to_vec();
    head.extend(b"x: ".iter().chain(&vec![b'y'; 2 * REQUEST_MAX_BYTES]));
    let mut answer = String::new();
    // It may have been closed before all was written.
    let _ = endless.write_all(&head).and_then(|()| endless.read_to_string(&mut answer));
    assert!(!answer.contains(" 200 "), "{answer}");

    for (request, code) in [
        ("GET /elsewhere HTTP/1.1\r\n\r\n", "404"),
        ("POST /metrics HTTP/1.1\r\ncontent-length: 3\r\n\r\nabc", "405"),
        ("no http at all\r\n\r\n", "400"),
    ] {
        let mut stream = TcpStream::connect(at).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert_eq!(answer.split(' ').nth(1), Some(code), "{request:?}: {answer}");
    }
    assert_eq!(client.swap("a", "2", TIMEOUT).unwrap().as_deref(), Some("1"));
    assert!(Scrape::of(at).is_ok());
}

//! The manager group is hurt; those who already run do not care.

use madkv_testkit::cluster::{Group, Node, Shape};
use madkv_testkit::line_client::NoAnswer;

use crate::scene::{ONLY, Scene, TIMEOUT, WATCH};

const THREE_MANAGERS: Shape = Shape { server_rf: 3, manager_rf: 3, partitions: 1 };

// covers G4
#[test]
fn managers_killed_one_by_one_clients_old_and_new_are_served() {
    let mut scene = Scene::new(THREE_MANAGERS);
    let mut old = scene.warm_client();
    assert_eq!(old.swap("a", "1", TIMEOUT).unwrap(), None);
    // Every manager that has applied the map may answer; wait until all have.
    scene.wait_caught_up(Group::Manager, TIMEOUT).unwrap();

    let first = scene.leader_of(Group::Manager);
    scene.process(first).kill();
    assert_eq!(scene.client().unwrap().swap("a", "2", TIMEOUT).unwrap().as_deref(), Some("1"));

    let second = scene.nodes_of(Group::Manager).find(|&node| node != first).unwrap();
    scene.process(second).kill();
    assert_eq!(scene.client().unwrap().swap("a", "3", TIMEOUT).unwrap().as_deref(), Some("2"));

    let third = scene.nodes_of(Group::Manager).find(|&node| node != first && node != second).unwrap();
    scene.process(third).kill();
    assert_eq!(old.swap("a", "4", TIMEOUT).unwrap().as_deref(), Some("3"));

    // Without any manager a new client waits; it is served once there is a quorum again.
    let mut new = scene.client().unwrap();
    new.send("GET a").unwrap();
    assert!(matches!(new.line(WATCH), Err(NoAnswer::Late(_))));
    for node in [first, second] {
        scene.process(node).start().unwrap();
    }
    assert_eq!(new.line(TIMEOUT).unwrap(), "GET a 4");
}

#[test]
fn servers_restarted_without_manager_serve_from_memory_of_their_assignment() {
    let mut scene = Scene::new(THREE_MANAGERS);
    let mut client = scene.warm_client();
    assert_eq!(client.swap("a", "1", TIMEOUT).unwrap(), None);
    scene.kill_all();
    for node in scene.nodes_of(ONLY).collect::<Vec<_>>() {
        scene.process(node).start().unwrap();
    }
    assert_eq!(client.swap("a", "2", TIMEOUT).unwrap().as_deref(), Some("1"));
}

// covers G5
#[test]
fn started_in_an_odd_order_the_cluster_forms() {
    let mut scene = Scene::stopped(THREE_MANAGERS);
    // A client first, then servers, then the managers; each waits for who is missing.
    let mut client = scene.client().unwrap();
    client.send("SWAP a 1").unwrap();
    for replica in [2, 0, 1] {
        scene.process(Node::Server { partition: 0, replica }).start().unwrap();
    }
    // It is not answered: no one knows yet who serves what.
    assert!(matches!(client.line(WATCH), Err(NoAnswer::Late(_))));
    for replica in [1, 2, 0] {
        scene.process(Node::Manager(replica)).start().unwrap();
    }
    scene.ready();
    assert_eq!(client.line(TIMEOUT).unwrap(), "SWAP a null");
}

//! All directories of a group are emptied. What it had acknowledged is gone, so it must not come back as if it had
//! never been: it is out of service until its operator says that it begins again. These tests look at the data, not at
//! what is printed.

use std::ffi::OsString;
use std::fs;

use madkv_testkit::cluster::{Group, Node, Shape};
use madkv_testkit::line_client::LineClient;
use madkv_testkit::wait::wait_for;
use smr::status::ServiceState;

use crate::scene::{ONLY, Scene, TIMEOUT, WATCH};

const LONE: Shape = Shape { server_rf: 1, manager_rf: 1, partitions: 1 };
const THREE: Shape = Shape { server_rf: 3, manager_rf: 1, partitions: 1 };
const THREE_MANAGERS: Shape = Shape { server_rf: 1, manager_rf: 3, partitions: 1 };

fn nodes(scene: &Scene, group: Group) -> Vec<Node> {
    scene.nodes_of(group).collect()
}

fn empty(scene: &mut Scene, node: Node) {
    scene.process(node).kill();
    fs::remove_dir_all(scene.backer_path(node)).unwrap();
}

fn give_word(scene: &mut Scene, nodes: &[Node]) {
    for &node in nodes {
        scene.process(node).add_arguments(&[OsString::from("--found_anew")]);
    }
}

fn wait_quarantined(scene: &Scene, node: Node) {
    let reason = wait_for(TIMEOUT, "a replica out of service", || match scene.status(node).ok()?.service_state {
        ServiceState::Quarantined { reason } => Some(reason),
        ServiceState::InService => panic!("{node} serves"),
        ServiceState::Uninitialized => None,
    });
    let reason = reason.unwrap();
    assert!(reason.contains("readmit") && reason.contains("--found_anew"), "what is to be done? {reason}");
}

/// A client that gives up soon.
fn hasty(scene: &Scene) -> LineClient {
    let timeout = WATCH.as_millis().to_string();
    scene.client_with(&["--timeout_ms", &timeout]).unwrap()
}

/// Nothing is read and nothing is acknowledged.
fn assert_out_of_service(scene: &Scene) {
    let mut client = hasty(scene);
    for line in ["GET a", "PUT a new", "GET a"] {
        let answer = client.ask(line, TIMEOUT).unwrap();
        assert!(answer.starts_with("ERROR"), "{line}: {answer}");
    }
}

fn emptied_group_stays_out_until_the_word(shape: Shape) {
    let mut scene = Scene::new(shape);
    assert_eq!(scene.warm_client().swap("a", "1", TIMEOUT).unwrap(), None);
    let servers = nodes(&scene, ONLY);
    servers.iter().for_each(|&node| empty(&mut scene, node));
    // What they have heard stays heard, so that the managers may be gone at the next start.
    for round in 0..3 {
        scene.start_all().unwrap();
        servers.iter().for_each(|&node| wait_quarantined(&scene, node));
        if round == 0 {
            assert_out_of_service(&scene);
        }
        servers.iter().for_each(|&node| scene.process(node).kill());
        if round == 1 {
            scene.process(Node::Manager(0)).kill();
        }
    }
    // The word of some is not enough.
    if servers.len() > 1 {
        give_word(&mut scene, &servers[1..]);
        scene.start_all().unwrap();
        servers.iter().for_each(|&node| wait_quarantined(&scene, node));
        assert_out_of_service(&scene);
        servers.iter().for_each(|&node| scene.process(node).kill());
    }
    give_word(&mut scene, &servers[..1]);
    scene.start_all().unwrap();
    scene.ready();
    let mut client = scene.client().unwrap();
    assert_eq!(client.swap("a", "2", TIMEOUT).unwrap(), None, "the operator said that it is lost");
    // Those words are still on the command line, and do nothing any more.
    scene.kill_all();
    scene.start_all().unwrap();
    assert_eq!(client.swap("a", "3", TIMEOUT).unwrap().as_deref(), Some("2"));
    scene.process(servers[0]).wait_said("--found_anew: ignored", TIMEOUT).unwrap();
}

// covers M14 M15
#[test]
fn emptied_group_of_three_stays_out_of_service_until_the_operators_word() {
    emptied_group_stays_out_until_the_word(THREE);
}

// covers M14 M15
#[test]
fn emptied_group_of_one_stays_out_of_service_until_the_operators_word() {
    emptied_group_stays_out_until_the_word(LONE);
}

// covers M14
#[test]
fn group_whose_directories_are_emptied_one_after_the_other_stays_out_of_service() {
    let mut scene = Scene::new(THREE);
    assert_eq!(scene.warm_client().swap("a", "1", TIMEOUT).unwrap(), None);
    for node in nodes(&scene, ONLY) {
        empty(&mut scene, node);
        scene.process(node).start().unwrap();
        wait_quarantined(&scene, node);
    }
    assert_out_of_service(&scene);
}

// covers M14: no one tells them while the managers are down; they found nothing by themselves.
#[test]
fn group_emptied_while_the_managers_are_down_waits_and_stays_out_of_service() {
    let mut scene = Scene::new(THREE);
    assert_eq!(scene.warm_client().swap("a", "1", TIMEOUT).unwrap(), None);
    let servers = nodes(&scene, ONLY);
    scene.kill_all();
    servers.iter().for_each(|&node| empty(&mut scene, node));
    for &node in &servers {
        scene.process(node).start().unwrap();
    }
    assert!(hasty(&scene).ask("GET a", TIMEOUT).unwrap().starts_with("ERROR"));
    scene.start_all().unwrap();
    servers.iter().for_each(|&node| wait_quarantined(&scene, node));
    assert_out_of_service(&scene);
}

// covers M17: that is how a run of everything begins.
#[test]
fn service_of_which_all_directories_are_emptied_begins_afresh_without_any_word() {
    let mut scene = Scene::new(THREE);
    assert_eq!(scene.warm_client().swap("a", "1", TIMEOUT).unwrap(), None);
    scene.kill_all();
    for group in [Group::Manager, ONLY] {
        nodes(&scene, group).into_iter().for_each(|node| empty(&mut scene, node));
    }
    scene.start_all().unwrap();
    scene.ready();
    assert_eq!(scene.client().unwrap().swap("a", "2", TIMEOUT).unwrap(), None);
}

// covers M14 G8
#[test]
fn managers_emptied_one_after_the_other_found_no_second_cluster() {
    let mut scene = Scene::new(THREE_MANAGERS);
    assert_eq!(scene.warm_client().swap("a", "1", TIMEOUT).unwrap(), None);
    let managers = nodes(&scene, Group::Manager);
    for &node in &managers {
        scene.wait_caught_up(ONLY, TIMEOUT).unwrap();
        empty(&mut scene, node);
        scene.process(node).start().unwrap();
        wait_quarantined(&scene, node);
    }
    for &node in &managers {
        scene.process(node).kill();
    }
    for &node in &managers {
        scene.process(node).start().unwrap();
        wait_quarantined(&scene, node);
    }
    // Servers that run go on, and a new cluster, which no one founded, does not get their data.
    assert!(scene.status(nodes(&scene, ONLY)[0]).unwrap().service_state == ServiceState::InService);
    assert!(hasty(&scene).ask("PUT a 2", TIMEOUT).unwrap().starts_with("ERROR"));
}

// covers M14 G9
#[test]
fn group_is_founded_only_once_a_majority_of_the_managers_can_record_it() {
    let mut scene = Scene::stopped(Shape { server_rf: 3, manager_rf: 3, partitions: 1 });
    let (managers, servers) = (nodes(&scene, Group::Manager), nodes(&scene, ONLY));
    for &node in &managers {
        scene.process(node).start().unwrap();
    }
    // Each server gets the map, and none of them meets another one.
    for &node in &servers {
        scene.process(node).start().unwrap();
        let assignment = scene.backer_path(node).join("assignment");
        wait_for(TIMEOUT, "a registration", || assignment.exists().then_some(())).unwrap();
        scene.process(node).kill();
    }
    managers[1..].iter().for_each(|&node| scene.process(node).kill());
    for &node in &servers {
        scene.process(node).start().unwrap();
    }
    wait_for(TIMEOUT, "word of the wait", || {
        scene.process(servers[0]).log_text().contains("majority of the managers").then_some(())
    })
    .unwrap();
    for &node in &servers {
        assert_eq!(scene.status(node).unwrap().service_state, ServiceState::Uninitialized);
    }
    assert!(hasty(&scene).ask("PUT a 1", TIMEOUT).unwrap().starts_with("ERROR"));
    scene.start_all().unwrap();
    scene.ready();
    assert_eq!(scene.client().unwrap().swap("a", "1", TIMEOUT).unwrap(), None);
}

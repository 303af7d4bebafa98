//! A group has lost its majority for good, and goes on from what one directory still holds, by its operator's word.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use madkv_testkit::cluster::{Group, Node, Shape};
use madkv_testkit::launcher::sync_flags;
use madkv_testkit::wait::wait_for;
use smr::status::ServiceState;

use crate::scene::{ONLY, REFUSAL_TIMEOUT, Scene, TIMEOUT, programs};

const SERVER: &str = "madkv-server";
const MANAGER: &str = "madkv-manager";
const CLIENT: &str = "madkv-client";
const LONE: Shape = Shape { server_rf: 1, manager_rf: 1, partitions: 1 };
const THREE: Shape = Shape { server_rf: 3, manager_rf: 1, partitions: 1 };
const THREE_MANAGERS: Shape = Shape { server_rf: 1, manager_rf: 3, partitions: 1 };

fn recover(scene: &Scene, program: &str, from: &Path, to: &Path) -> Output {
    let mut flags = sync_flags(scene.directory());
    // The engine is that of the old directory.
    let engine = flags.iter().position(|flag| flag == "--log_engine");
    if let Some(at) = engine {
        flags.drain(at..at + 2);
    }
    Command::new(programs().path(program))
        .args(["recover".as_ref(), "--from".as_ref(), from.as_os_str(), "--to".as_ref(), to.as_os_str()])
        .args(flags)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Puts a directory aside, under a name that is free.
fn put_aside(scene: &Scene, node: Node) -> PathBuf {
    let path = scene.backer_path(node);
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    let free = (0..).map(|number| path.with_file_name(format!("{name}-aside-{number}"))).find(|aside| !aside.exists());
    let aside = free.unwrap();
    fs::rename(&path, &aside).unwrap();
    aside
}

fn give_word(scene: &mut Scene, node: Node) {
    scene.process(node).add_arguments(&[OsString::from("--found_anew")]);
}

/// Ends with a line that holds all of these.
fn assert_refused(scene: &mut Scene, node: Node, words: &[&str]) {
    let process = scene.process(node);
    process.start().unwrap();
    let status = process.wait_end(REFUSAL_TIMEOUT);
    let log = process.log_text();
    assert!(status.is_some_and(|status| !status.success()), "{status:?}: {log}");
    let is_said = log.lines().any(|line| words.iter().all(|word| line.contains(word)));
    assert!(is_said, "{words:?} in one line of {log}");
}

fn readmit(scene: &Scene, group: &str, node: Node) {
    wait_for(TIMEOUT, "a readmission", || {
        let output = Command::new(programs().path(CLIENT))
            .args(["--manager_addrs", &scene.manager_addresses(), "readmit", group, &node.replica().to_string()])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        output.status.success().then_some(())
    })
    .unwrap();
    wait_for(TIMEOUT, "the readmitted replica to serve", || {
        (scene.status(node).ok()?.service_state == ServiceState::InService).then_some(())
    })
    .unwrap();
}

// covers D26 D27 D28
#[test]
fn group_that_lost_two_of_three_directories_goes_on_from_the_third_with_all_that_it_held() {
    let mut scene = Scene::new(THREE);
    let mut client = scene.warm_client();
    for number in 0..50 {
        assert_eq!(client.swap(&format!("k{number}"), "old", TIMEOUT).unwrap(), None);
    }
    scene.wait_caught_up(ONLY, TIMEOUT).unwrap();
    let [first, second, third] = [0, 1, 2].map(|replica| scene.nodes_of(ONLY).nth(replica).unwrap());
    for node in [first, second, third] {
        scene.process(node).kill();
    }
    fs::remove_dir_all(scene.backer_path(first)).unwrap();
    // Lost, as everyone believes.
    let found_again = put_aside(&scene, second);
    let old = put_aside(&scene, third);

    let output = recover(&scene, SERVER, &old, &scene.backer_path(third));
    assert!(output.status.success(), "{}", said(&output));
    let text = said(&output);
    for word in ["read: ", "perhaps missing: ", "2 other members", "replica 2 of group s0", "--found_anew"] {
        assert!(text.contains(word), "{word:?} in {text}");
    }
    assert_refused(&mut scene, third, &["was recovered from", "--found_anew"]);
    give_word(&mut scene, third);
    scene.process(third).start().unwrap();
    assert_eq!(scene.leader_of(ONLY), third);
    let mut client = scene.client().unwrap();
    for number in 0..50 {
        assert_eq!(client.get(&format!("k{number}"), TIMEOUT).unwrap().as_deref(), Some("old"), "k{number}");
    }
    assert_eq!(client.swap("k0", "new", TIMEOUT).unwrap().as_deref(), Some("old"));

    // The others come empty, and are readmitted.
    for node in [first, second] {
        scene.process(node).start().unwrap();
        wait_for(TIMEOUT, "a replica out of service", || {
            matches!(scene.status(node).ok()?.service_state, ServiceState::Quarantined { .. }).then_some(())
        })
        .unwrap();
    }
    readmit(&scene, "s0", first);
    readmit(&scene, "s0", second);
    assert_eq!(scene.status_of(third).voters.len(), 3);
    scene.kill_all();
    scene.start_all().unwrap();
    scene.ready();
    scene.process(third).kill();
    assert_eq!(client.swap("k0", "newer", TIMEOUT).unwrap().as_deref(), Some("new"));

    // The directory that turns up again is of the old group.
    scene.process(second).kill();
    put_aside(&scene, second);
    fs::rename(&found_again, scene.backer_path(second)).unwrap();
    assert_refused(&mut scene, second, &["the manager refuses s0.1", "has genesis"]);
}

/// Starts a replica that no one is left to take back, and then again on what is recovered of its directory.
fn quarantined_and_recovered(scene: &mut Scene, only: Node) {
    scene.process(only).start().unwrap();
    wait_for(TIMEOUT, "a quarantine", || {
        matches!(scene.status(only).ok()?.service_state, ServiceState::Quarantined { .. }).then_some(())
    })
    .unwrap();
    scene.process(only).kill();
    let old = put_aside(scene, only);
    let output = recover(scene, SERVER, &old, &scene.backer_path(only));
    assert!(output.status.success(), "{}", said(&output));
    give_word(scene, only);
    scene.process(only).start().unwrap();
    scene.ready();
}

// covers D26 D27
#[test]
fn group_of_one_whose_term_and_vote_are_lost_goes_on_with_its_data() {
    let mut scene = Scene::new(LONE);
    let mut client = scene.warm_client();
    assert_eq!(client.swap("a", "1", TIMEOUT).unwrap(), None);
    let only = scene.nodes_of(ONLY).next().unwrap();
    scene.process(only).kill();
    let hard_state = scene.backer_path(only).join("promise");
    let len = fs::metadata(&hard_state).unwrap().len();
    fs::write(&hard_state, vec![0; usize::try_from(len).unwrap()]).unwrap();
    // It runs once, and is quarantined: no one is left who could readmit it.
    quarantined_and_recovered(&mut scene, only);
    assert_eq!(scene.client().unwrap().get("a", TIMEOUT).unwrap().as_deref(), Some("1"));
}

// covers D26 D27
#[test]
fn group_of_one_whose_log_is_damaged_goes_on_with_what_verifies() {
    let mut scene = Scene::new(LONE);
    let mut client = scene.warm_client();
    for number in 0..20 {
        assert_eq!(client.swap(&format!("k{number}"), "1", TIMEOUT).unwrap(), None);
    }
    let only = scene.nodes_of(ONLY).next().unwrap();
    scene.process(only).kill();
    // It heals by no one, for there is no one else.
    fs::remove_file(scene.backer_path(only).join("mark")).unwrap();
    quarantined_and_recovered(&mut scene, only);
    let mut client = scene.client().unwrap();
    for number in 0..20 {
        assert_eq!(client.get(&format!("k{number}"), TIMEOUT).unwrap().as_deref(), Some("1"), "k{number}");
    }
    // The word does nothing any more.
    scene.process(only).kill();
    scene.process(only).start().unwrap();
    scene.ready();
    assert_eq!(client.swap("k0", "2", TIMEOUT).unwrap().as_deref(), Some("1"));
    scene.process(only).wait_said("--found_anew: ignored", TIMEOUT).unwrap();
}

// covers D28
#[test]
fn managers_that_lost_two_of_three_directories_go_on_as_the_same_cluster() {
    let mut scene = Scene::new(THREE_MANAGERS);
    assert_eq!(scene.warm_client().swap("a", "1", TIMEOUT).unwrap(), None);
    let managers: Vec<Node> = scene.nodes_of(Group::Manager).collect();
    scene.wait_caught_up(Group::Manager, TIMEOUT).unwrap();
    for &node in &managers {
        scene.process(node).kill();
    }
    for &node in &managers[..2] {
        fs::remove_dir_all(scene.backer_path(node)).unwrap();
    }
    let last = managers[2];
    let old = put_aside(&scene, last);
    let wrong = recover(&scene, SERVER, &old, &scene.backer_path(last));
    assert!(!wrong.status.success() && said(&wrong).contains("group m"), "{}", said(&wrong));
    let output = recover(&scene, MANAGER, &old, &scene.backer_path(last));
    assert!(output.status.success(), "{}", said(&output));
    give_word(&mut scene, last);
    for &node in &managers {
        scene.process(node).start().unwrap();
    }
    assert_eq!(scene.leader_of(Group::Manager), last);
    for &node in &managers[..2] {
        readmit(&scene, "m", node);
    }
    scene.kill_all();
    scene.start_all().unwrap();
    scene.ready();
    assert_eq!(scene.client().unwrap().swap("a", "2", TIMEOUT).unwrap().as_deref(), Some("1"));
}

// covers D29
#[test]
fn recover_that_cannot_be_is_refused_with_one_line_and_changes_nothing() {
    let mut scene = Scene::new(LONE);
    assert_eq!(scene.warm_client().swap("a", "1", TIMEOUT).unwrap(), None);
    let only = scene.nodes_of(ONLY).next().unwrap();
    let (path, elsewhere) = (scene.backer_path(only), scene.directory().join("elsewhere"));
    let refused = |scene: &Scene, from: &Path, to: &Path, words: &str| {
        let output = recover(scene, SERVER, from, to);
        let text = said(&output);
        assert!(!output.status.success() && text.contains(words) && text.lines().count() == 1, "{words:?}: {text}");
    };
    refused(&scene, &path, &elsewhere, "in use by another process");
    scene.process(only).kill();
    let (empty, occupied) = (scene.directory().join("empty"), scene.directory().join("occupied"));
    fs::create_dir(&empty).unwrap();
    fs::create_dir(&occupied).unwrap();
    fs::write(occupied.join("notes"), "mine").unwrap();
    refused(&scene, &path, &path, "must not be the same");
    refused(&scene, &path, &path.join("inside"), "must not be the same");
    refused(&scene, &path, &occupied, "is not empty");
    refused(&scene, &scene.directory().join("nowhere"), &elsewhere, "--from");
    refused(&scene, &empty, &elsewhere, "nothing of a replica");
    let output = Command::new(programs().path(SERVER)).arg("recover").stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(!elsewhere.exists() && fs::read_dir(&empty).unwrap().next().is_none(), "something was made");
    scene.process(only).start().unwrap();
    scene.ready();
    assert_eq!(scene.client().unwrap().get("a", TIMEOUT).unwrap().as_deref(), Some("1"));
}

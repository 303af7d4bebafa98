//! Slots move between partitions, old ones and one that is added, under load: no request fails, each swap takes effect
//! exactly once, and no key is lost, doubled or misplaced, whoever is killed on the way.

use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use madkv_testkit::cluster::{Cluster, Group, Node, Shape};
use madkv_testkit::launcher::sync_flags;
use madkv_testkit::load::{Load, Plan};
use madkv_testkit::programs::CLIENT;
use madkv_testkit::wait::wait_for;
use smr_service::fatal::EXIT_FATAL;

use crate::scene::{Scene, TIMEOUT, fresh_directory, programs};

/// Two partitions of three servers, and three managers.
const SHAPE: Shape = Shape { server_rf: 3, manager_rf: 3, partitions: 2 };
/// Records that are there beside those that the load writes: more than fit into a few pieces.
const RECORDS: usize = 3_000;

fn operator(cluster: &Cluster, words: &[&str]) -> Output {
    let mut client = Command::new(programs().path(CLIENT));
    client.args(["--manager_addrs", &cluster.manager_addresses(), "--timeout_ms", "120000"]).args(words);
    client.stdin(Stdio::null()).output().unwrap()
}

fn done(cluster: &Cluster, words: &[&str]) -> String {
    let output = operator(cluster, words);
    assert!(output.status.success(), "{words:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn refused(cluster: &Cluster, words: &[&str], why: &str) {
    let output = operator(cluster, words);
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.code() == Some(1) && said.contains(why), "{words:?}: {output:?}");
}

/// Writes records that no one changes afterwards.
fn fill(cluster: &Cluster) {
    let mut client = cluster.client().unwrap();
    for number in 0..RECORDS {
        client.send(&format!("PUT r{number:05} {}", value(number))).unwrap();
        // Some at a time, which the client's input has room for.
        if number % 100 == 99 {
            (0..100).for_each(|_| drop(client.line(TIMEOUT).unwrap()));
        }
    }
    client.finish(TIMEOUT).unwrap();
}

fn value(number: usize) -> String {
    format!("{number}-").repeat(20)
}

/// A SCAN shows each record once, with its value.
fn check_records(cluster: &Cluster) {
    let mut client = cluster.client().unwrap();
    let mut lines = vec![client.ask("SCAN r s", TIMEOUT).unwrap()];
    while lines.last().unwrap() != "SCAN END" {
        lines.push(client.line(TIMEOUT).unwrap());
    }
    assert_eq!(lines.len(), RECORDS + 2, "records");
    for (number, line) in lines[1..=RECORDS].iter().enumerate() {
        assert_eq!(*line, format!("  r{number:05} {}", value(number)));
    }
}

fn load(cluster: &Cluster) -> Load {
    Load::start(cluster, &Plan { clients: 4, keys: 24, prefix: "k".to_owned() }).unwrap()
}

/// How the group of each partition is called that has a key of the load.
fn owners(cluster: &Cluster) -> Vec<String> {
    let place = |number| done(cluster, &["where", "--json", &format!("k{number}")]);
    let group = |place: String| place.split("\"group\":\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let mut owners: Vec<String> = (0..24).map(|number| group(place(number))).collect();
    owners.sort();
    owners.dedup();
    owners
}

// covers G7 G10 C10
#[test]
fn slots_move_to_the_other_partition_and_to_an_added_one_under_load() {
    let directory = fresh_directory();
    let flags = sync_flags(directory.path());
    let shape = Shape { manager_rf: 1, ..SHAPE };
    let mut cluster = Cluster::with_room(programs(), shape, 1, directory.path(), &flags).unwrap();
    cluster.start_all().unwrap();
    cluster.wait_ready(TIMEOUT).unwrap();
    fill(&cluster);
    let mut load = load(&cluster);
    load.wait_answers(50, TIMEOUT).unwrap();

    refused(&cluster, &["move-slots", "0-99", "s2"], "the cluster has no s2");
    refused(&cluster, &["move-slots", "8000-9000", "s1"], "not all of one partition, but of s0, s1");
    done(&cluster, &["move-slots", "0-8191", "s1"]);
    assert_eq!(owners(&cluster), ["s1"], "every slot is of s1");
    check_records(&cluster);
    load.wait_answers(100, TIMEOUT).unwrap();
    // One that has no slots left is a partition as any other.
    done(&cluster, &["move-slots", "4000-12000", "s0"]);
    assert_eq!(owners(&cluster), ["s0", "s1"]);
    check_records(&cluster);

    let addresses = cluster.next_partition().unwrap().join(",");
    cluster.add_partition();
    refused(&cluster, &["add-partition", "127.0.0.1:1,127.0.0.1:2"], "1, 3, 5, 7 and 9");
    done(&cluster, &["add-partition", &addresses]);
    refused(&cluster, &["move-slots", "0-99", "s2"], "the group of s2 has not begun yet");
    cluster.start_all().unwrap();
    cluster.wait_ready(TIMEOUT).unwrap();
    wait_for(TIMEOUT, "the genesis of s2", || {
        operator(&cluster, &["move-slots", "0-2999", "s2"]).status.success().then_some(())
    })
    .unwrap();
    done(&cluster, &["move-slots", "5000-11999", "s2"]);
    assert_eq!(owners(&cluster), ["s0", "s1", "s2"]);
    load.wait_answers(100, TIMEOUT).unwrap();
    check_records(&cluster);

    let events = done(&cluster, &["events"]);
    for part in ["are to move from s0 to s1", "attempt 1 begins", "copied in", "s1 owns them", "is done", "s2 is added"]
    {
        assert!(events.contains(part), "{part} in {events}");
    }
    let file = directory.path().join("backup").display().to_string();
    assert!(done(&cluster, &["backup", &file]).contains("keys of 3 partitions"));

    // What each partition owns is in its log and its snapshots.
    cluster.kill_all();
    cluster.start_all().unwrap();
    cluster.wait_ready(TIMEOUT).unwrap();
    load.wait_answers(100, TIMEOUT).unwrap();
    check_records(&cluster);
    assert_eq!(owners(&cluster), ["s0", "s1", "s2"]);
    let history = load.finish().unwrap();
    history.check(&cluster).unwrap();
}

/// Waits until the events have this text once more than before.
fn wait_event(cluster: &Cluster, text: &str, before: usize) {
    let count = || done(cluster, &["events"]).matches(text).count();
    wait_for(TIMEOUT, &format!("the event {text:?}"), || (count() > before).then_some(())).unwrap();
}

// covers G1 G10 C10
#[test]
fn whoever_leads_is_killed_in_each_phase_of_a_move_and_it_goes_on() {
    let mut scene = Scene::new(SHAPE);
    fill(&scene);
    let mut load = load(&scene);
    load.wait_answers(50, TIMEOUT).unwrap();
    let victims = [Group::Manager, Group::Partition(0), Group::Partition(1)];
    let phases = ["are to move from", "attempt 1 begins", "copied in", "owns them"];
    let mut to = 1;
    for phase in phases {
        for victim in victims {
            let before = done(&scene, &["events"]).matches(phase).count();
            let words = ["move-slots".to_owned(), "0-8191".to_owned(), format!("s{to}")];
            let client = scene.programs().path(CLIENT);
            let managers = scene.manager_addresses();
            // It hears of the end, however often the managers' leader changes meanwhile.
            let operator = thread::spawn(move || {
                let mut client = Command::new(client);
                client.args(["--manager_addrs", &managers, "--timeout_ms", "120000"]).args(words);
                client.stdin(Stdio::null()).output().unwrap()
            });
            wait_event(&scene, phase, before);
            let leader = scene.leader_of(victim);
            scene.process(leader).kill();
            let output = operator.join().unwrap();
            assert!(output.status.success(), "{phase}, {leader} killed: {output:?}");
            scene.process(leader).start().unwrap();
            scene.wait_caught_up(leader.group(), TIMEOUT).unwrap();
            check_records(&scene);
            to = 1 - to;
        }
    }
    load.wait_answers(50, TIMEOUT).unwrap();
    let history = load.finish().unwrap();
    history.check(&scene).unwrap();
}

/// A move that does not come to its end in time.
fn try_move(cluster: &Cluster) {
    let mut client = Command::new(programs().path(CLIENT));
    client.args(["--manager_addrs", &cluster.manager_addresses(), "--timeout_ms", "3000"]);
    client.args(["move-slots", "0-8191", "s1"]).stdin(Stdio::null());
    let gave_up = client.output().unwrap();
    assert!(!gave_up.status.success(), "{gave_up:?}");
}

/// Some keys of the first partition, which has slots 0 to 8191.
fn low_keys() -> impl Iterator<Item = String> {
    (0..200).map(|number| format!("w{number}")).filter(|key| madkv_proto::slots::slot_of(key.as_bytes()) < 8192)
}

// covers G10
#[test]
fn destination_without_a_majority_keeps_no_write_from_the_source() {
    let mut scene = Scene::new(Shape { manager_rf: 1, ..SHAPE });
    fill(&scene);
    let mut client = scene.client().unwrap();
    client.swap("warm", "1", TIMEOUT).unwrap();
    let down = [1, 2].map(|replica| Node::Server { partition: 1, replica });
    down.iter().for_each(|&node| scene.process(node).kill());
    try_move(&scene);
    for key in low_keys() {
        client.swap(&key, "2", Duration::from_secs(30)).unwrap();
    }
    down.iter().for_each(|&node| scene.process(node).start().unwrap());
    done(&scene, &["move-slots", "0-8191", "s1"]);
    check_records(&scene);
}

// covers G10
#[test]
fn move_that_is_given_up_leaves_the_slots_where_they_were_and_nothing_elsewhere() {
    let mut scene = Scene::new(Shape { manager_rf: 1, ..SHAPE });
    fill(&scene);
    refused(&scene, &["abandon-move"], "no move of slots is under way");
    let down = [1, 2].map(|replica| Node::Server { partition: 1, replica });
    down.iter().for_each(|&node| scene.process(node).kill());
    try_move(&scene);
    let told = "is given up, s0 keeps slots 0-8191: an operator";
    let waiting = {
        let (client, managers) = (scene.programs().path(CLIENT), scene.manager_addresses());
        thread::spawn(move || {
            let mut client = Command::new(client);
            client.args(["--manager_addrs", &managers, "--timeout_ms", "120000", "abandon-move"]);
            client.stdin(Stdio::null()).output().unwrap()
        })
    };
    wait_event(&scene, told, 0);
    let mut client = scene.client().unwrap();
    for key in low_keys() {
        client.swap(&key, "2", Duration::from_secs(30)).unwrap();
    }
    assert!(!waiting.is_finished(), "the destination has not heard of it");
    down.iter().for_each(|&node| scene.process(node).start().unwrap());
    let output = waiting.join().unwrap();
    assert!(output.status.success(), "{output:?}");
    let events = done(&scene, &["events"]);
    assert!(events.contains("nothing is left of it") && events.matches(told).count() == 1, "{events}");
    refused(&scene, &["abandon-move"], "no move of slots is under way");
    check_records(&scene);
    done(&scene, &["move-slots", "0-8191", "s1"]);
    check_records(&scene);
}

// covers D7
#[test]
fn server_that_cannot_write_a_newer_map_down_ends_with_the_reason() {
    let mut scene = Scene::new(Shape { manager_rf: 1, partitions: 1, ..SHAPE });
    let server = Node::Server { partition: 0, replica: 1 };
    // Where the map is written first, to be renamed.
    let in_the_way = scene.backer_path(server).join("assignment.new");
    std::fs::create_dir(&in_the_way).unwrap();
    done(&scene, &["add-partition", "127.0.0.1:1"]);
    let ended = scene.process(server).wait_end(TIMEOUT).expect("it goes on");
    assert_eq!(ended.code(), Some(EXIT_FATAL));
    let log = scene.process(server).log_text();
    assert!(log.contains("cannot remember the cluster map in") && log.contains("see that its disk works"), "{log}");
    std::fs::remove_dir(&in_the_way).unwrap();
    scene.process(server).start().unwrap();
    scene.wait_caught_up(server.group(), TIMEOUT).unwrap();
}

//! WATCH on real processes: each change once and in order, whoever is killed, wherever the keys go.

use std::ops::Range;
use std::process::{Command, Stdio};
use std::time::Duration;

use madkv_testkit::cluster::{Cluster, Group, Node, Shape};
use madkv_testkit::line_client::LineClient;
use madkv_testkit::programs::CLIENT;
use madkv_testkit::wait::wait_for;

use crate::epochs::wait_whole;
use crate::members::operator;
use crate::scene::{ONLY, SMALL, Scene, TIMEOUT, programs};

/// How long a watcher is looked at before the key is written once more.
const GLANCE: Duration = Duration::from_millis(200);

/// Puts values with these numbers to a key.
fn put(client: &mut LineClient, key: &str, numbers: Range<u32>) {
    for number in numbers {
        client.ask(&format!("PUT {key} v{number}"), TIMEOUT).unwrap();
    }
}

/// The next changes that are told must be puts of these numbers to a key; returns their indexes.
fn expect(watcher: &mut LineClient, key: &str, numbers: Range<u32>) -> Vec<u64> {
    let mut indexes = Vec::new();
    for number in numbers {
        let line = watcher.line(TIMEOUT).unwrap_or_else(|error| panic!("{key} v{number}: {error}"));
        let words: Vec<&str> = line.split(' ').collect();
        let ["EVENT", index, "PUT", told, value] = words[..] else { panic!("{line}") };
        assert_eq!((told, value), (key, &*format!("v{number}")), "{line}");
        indexes.push(index.parse().unwrap());
    }
    indexes
}

/// Begins a watch and waits until it has begun: from then on a key of its own is told.
fn watch(scene: &Cluster, words: &str, key: &str) -> LineClient {
    let mut watcher = scene.client().unwrap();
    watcher.send(&format!("WATCH {words}")).unwrap();
    let mut writer = scene.client().unwrap();
    let begun = || {
        writer.ask(&format!("PUT {key} begin"), TIMEOUT).unwrap();
        watcher.line(GLANCE).ok()
    };
    wait_for(TIMEOUT, "the watch to begin", begun).unwrap();
    // Copies of the same may follow.
    writer.ask(&format!("PUT {key} go"), TIMEOUT).unwrap();
    while !watcher.line(TIMEOUT).unwrap().ends_with(" go") {}
    watcher
}

/// A watch goes on while leaders are killed one after the other, and hears each write once.
fn hears_each_once_across_kills(shape: Shape, flags: &[&str]) {
    let mut scene = Scene::with_flags(shape, flags);
    let is_raft = flags.is_empty();
    if !is_raft {
        wait_whole(&scene);
    }
    let mut watcher = watch(&scene, "k", "k");
    let mut client = scene.client().unwrap();
    put(&mut client, "k", 0..20);
    let mut indexes = expect(&mut watcher, "k", 0..20);
    for round in 0..2u32 {
        let numbers = 20 + 20 * round..40 + 20 * round;
        let leader = scene.leader_of(ONLY);
        scene.process(leader).send_kill();
        put(&mut client, "k", numbers.clone());
        scene.process(leader).kill();
        scene.process(leader).start().unwrap();
        if is_raft {
            scene.wait_caught_up(ONLY, TIMEOUT).unwrap();
        } else {
            wait_whole(&scene);
        }
        indexes.extend(expect(&mut watcher, "k", numbers));
    }
    client.ask("DELETE k", TIMEOUT).unwrap();
    client.ask("DELETE k", TIMEOUT).unwrap();
    put(&mut client, "other", 0..1);
    assert!(indexes.is_sorted_by(|one, next| one < next), "{indexes:?}");
    assert!(watcher.line(TIMEOUT).unwrap().ends_with(" DELETE k"));
    assert_eq!(watcher.ask("GET other", TIMEOUT).unwrap(), "GET other v0", "nothing is told twice");
    if !is_raft {
        // Who leads by now may have begun with a snapshot or a checkpoint.
        return;
    }
    // Another one goes on where this one was.
    let mut later = scene.client().unwrap();
    later.send(&format!("WATCH k k {}", indexes[30])).unwrap();
    later.send("STOP").unwrap();
    assert_eq!(expect(&mut later, "k", 30..60), indexes[30..]);
    assert!(later.line(TIMEOUT).unwrap().ends_with(" DELETE k"));
    assert_eq!(later.line(TIMEOUT).unwrap(), "STOP");
}

// covers C17
#[test]
fn watch_hears_each_change_once_across_kills_of_leaders() {
    hears_each_once_across_kills(SMALL, &[]);
}

// covers C17 K13
#[test]
fn watch_hears_each_change_once_across_kills_in_an_active_group() {
    hears_each_once_across_kills(SMALL, &["--protocol", "active"]);
}

// covers C17 K14
#[test]
fn watch_hears_each_change_once_across_kills_in_a_passive_group() {
    hears_each_once_across_kills(SMALL, &["--protocol", "passive"]);
}

#[test]
fn watch_on_a_pipe_tells_all_up_to_the_next_line_and_then_answers_that() {
    let scene = Scene::new(Shape { partitions: 2, ..SMALL });
    let mut client = scene.client().unwrap();
    for number in 0..30 {
        client.ask(&format!("PUT k{number} v{number}"), TIMEOUT).unwrap();
    }
    client.send("WATCH k l 1").unwrap();
    client.send("GET k7").unwrap();
    let mut told: Vec<String> = Vec::new();
    loop {
        let line = client.line(TIMEOUT).unwrap();
        if line == "GET k7 v7" {
            break;
        }
        told.push(line.splitn(4, ' ').nth(3).unwrap().to_owned());
    }
    told.sort();
    let mut expected: Vec<String> = (0..30).map(|number| format!("k{number} v{number}")).collect();
    expected.sort();
    assert_eq!(told, expected);
    for (line, part) in [
        ("WATCH", "wrong number of words"),
        ("WATCH a b 1 2", "wrong number of words"),
        ("WATCH a b soon", "a whole number"),
        ("WATCH b a", "comes after its last one"),
        ("WATCH a b 7", "ERROR the index 7 is of one partition, and the keys are in s0, s1: name an index of each"),
        ("WATCH a b s0:7", "s1 has some of the keys: name an index of it, too"),
        ("WATCH a b s0:7,s1:9,s2:1", "there is no s2"),
        ("WATCH a b s0:1,s1:999999", "has no entry 999999"),
    ] {
        let answer = client.ask(line, TIMEOUT).unwrap();
        assert!(answer.starts_with("ERROR ") && answer.contains(part), "{line}: {answer}");
    }
    assert_eq!(client.ask("GET k8", TIMEOUT).unwrap(), "GET k8 v8");
    // Each partition goes on at its own index.
    let indexes = |partition: &str| -> Vec<u64> {
        let changes = told_by_partition(&scene, 30);
        changes.iter().filter(|(of, _)| of == partition).map(|(_, index)| *index).collect()
    };
    let (first, second) = (indexes("s0"), indexes("s1"));
    client.send(&format!("WATCH a z s0:{},s1:{}", first[2], second[3])).unwrap();
    client.send("GET k8").unwrap();
    let mut events = 0;
    while client.line(TIMEOUT).unwrap() != "GET k8 v8" {
        events += 1;
    }
    assert_eq!(events, 30 - 2 - 3);
    assert!(client.finish(TIMEOUT).unwrap().success());
}

/// The line after a WATCH waits until the watch has begun, for which each partition with some of the keys has to
/// answer. That may take long, so it is said.
#[test]
fn line_after_a_watch_that_cannot_begin_waits_and_stderr_says_so() {
    let mut scene = Scene::new(Shape { partitions: 2, ..SMALL });
    let mut client = scene.client().unwrap();
    client.ask("PUT k v", TIMEOUT).unwrap();
    client.ask("SCAN a z", TIMEOUT).unwrap();
    while client.line(TIMEOUT).unwrap() != "SCAN END" {}
    let silent: Vec<Node> = scene.nodes_of(Group::Partition(1)).collect();
    silent.iter().for_each(|node| scene.process(*node).kill());
    client.send("WATCH a z").unwrap();
    client.send("PUT l w").unwrap();
    let said =
        || client.complaints().into_iter().find(|line| line.contains("the next line, or the end of input, waits"));
    wait_for(TIMEOUT, "a line on stderr", said).unwrap();
    assert!(client.line(GLANCE).is_err(), "lines are answered in their order");
    silent.iter().for_each(|node| scene.process(*node).start().unwrap());
    assert!(client.line(TIMEOUT).unwrap().starts_with("PUT l "));
    assert_eq!(client.ask("GET l", TIMEOUT).unwrap(), "GET l w");
}

/// The partitions and indexes of this many changes, as `watch --json` tells them.
fn told_by_partition(scene: &Cluster, count: usize) -> Vec<(String, u64)> {
    let arguments = ["--manager_addrs", &scene.manager_addresses(), "watch", "a", "--to", "z", "--from", "1", "--json"];
    let mut watcher = LineClient::start(&programs().path(CLIENT), &arguments.map(str::to_owned)).unwrap();
    let mut next = || -> (String, u64) {
        let told: serde_json::Value = serde_json::from_str(&watcher.line(TIMEOUT).unwrap()).unwrap();
        (told["partition"].as_str().unwrap().to_owned(), told["index"].as_u64().unwrap())
    };
    (0..count).map(|_| next()).collect()
}

/// What is kept is bounded: whoever comes for what is gone is told from where on there are changes.
// covers C19
#[test]
fn watch_that_comes_too_late_is_told_so() {
    let scene = Scene::new(SMALL);
    let mut client = scene.client().unwrap();
    let large = "x".repeat(1 << 19);
    for _ in 0..40 {
        client.ask(&format!("PUT large {large}"), TIMEOUT).unwrap();
    }
    client.send("WATCH large large 1").unwrap();
    let answer = client.line(TIMEOUT).unwrap();
    assert!(answer.starts_with("ERROR compacted: changes of s0 from entry 1 on are not kept"), "{answer}");
    let oldest: u64 = answer.split("those from ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    client.send(&format!("WATCH large large {oldest}")).unwrap();
    client.send("GET none").unwrap();
    let mut events = 0;
    while client.line(TIMEOUT).unwrap() != "GET none null" {
        events += 1;
    }
    assert!((10..40).contains(&events), "{events} of 40 are kept");
}

// covers C18
#[test]
fn watch_follows_slots_that_move() {
    let scene = Scene::new(Shape { partitions: 2, ..SMALL });
    let mut watchers = [watch(&scene, "k", "k"), watch(&scene, "a z", "k")];
    // What the second one began with.
    while !watchers[0].line(TIMEOUT).unwrap().ends_with(" go") {}
    let mut client = scene.client().unwrap();
    let mut number = 0;
    for to in ["s1", "s0", "s1"] {
        put(&mut client, "k", number..number + 10);
        // Whoever has the key: it goes to the other one, or is there.
        for slots in ["0-8191", "8192-16383"] {
            operator(&scene, &["move-slots", slots, to]);
        }
        put(&mut client, "k", number + 10..number + 20);
        number += 20;
    }
    for watcher in &mut watchers {
        expect(watcher, "k", 0..number);
        assert_eq!(watcher.ask("GET none", TIMEOUT).unwrap(), "GET none null");
    }
}

#[test]
fn watch_on_the_command_line_prints_lines_that_flow() {
    let scene = Scene::new(SMALL);
    let mut client = scene.client().unwrap();
    put(&mut client, "k", 0..3);
    let arguments = ["--manager_addrs", &scene.manager_addresses(), "watch", "k", "--from", "1", "--json"];
    let mut watcher = LineClient::start(&programs().path(CLIENT), &arguments.map(str::to_owned)).unwrap();
    for number in 0..3 {
        let told: serde_json::Value = serde_json::from_str(&watcher.line(TIMEOUT).unwrap()).unwrap();
        let value = format!("v{number}");
        assert_eq!((&told["partition"], &told["key"], &told["value"]), (&"s0".into(), &"k".into(), &value.into()));
    }
    put(&mut client, "k", 3..4);
    assert!(watcher.line(TIMEOUT).unwrap().contains("\"v3\""));
    watcher.process().end();
    let wrong =
        Command::new(programs().path(CLIENT)).args(["watch", "k", "--from", "soon"]).stdin(Stdio::null()).output();
    assert_eq!(wrong.unwrap().status.code(), Some(2));
}

//! Processes die or hang under load; afterwards each swap took effect exactly once.

use std::time::Instant;

use madkv_chaos::cli_transcript::under_failovers;
use madkv_chaos::scenario::rolling_restart;
use madkv_testkit::line_client::NoAnswer;

use crate::scene::{ONLY, SMALL, Scene, TIMEOUT, WATCH};

#[test]
fn follower_killed_under_load_writes_go_on_and_it_catches_up() {
    let mut scene = Scene::new(SMALL);
    let mut load = scene.load();
    load.wait_answers(100, TIMEOUT).unwrap();
    let follower = scene.follower_of(ONLY);
    scene.process(follower).kill();
    load.wait_answers(100, TIMEOUT).unwrap();
    scene.process(follower).start().unwrap();
    load.wait_answers(100, TIMEOUT).unwrap();
    let history = load.finish().unwrap();
    scene.wait_caught_up(ONLY, TIMEOUT).unwrap();
    history.check(&scene).unwrap();
}

// covers E1
#[test]
fn leader_killed_under_load_another_takes_over_and_nothing_is_lost() {
    let mut scene = Scene::new(SMALL);
    let mut load = scene.load();
    for _ in 0..3 {
        load.wait_answers(50, TIMEOUT).unwrap();
        let leader = scene.leader_of(ONLY);
        scene.process(leader).kill();
        load.wait_answers(50, TIMEOUT).unwrap();
        assert_ne!(scene.leader_of(ONLY), leader);
        scene.process(leader).start().unwrap();
        scene.wait_caught_up(ONLY, TIMEOUT).unwrap();
    }
    let history = load.finish().unwrap();
    history.check(&scene).unwrap();
}

// covers E18
#[test]
fn leader_frozen_under_load_is_replaced_and_steps_down_when_thawed() {
    let mut scene = Scene::new(SMALL);
    let mut load = scene.load();
    load.wait_answers(50, TIMEOUT).unwrap();
    let leader = scene.leader_of(ONLY);
    scene.process(leader).freeze();
    load.wait_answers(50, TIMEOUT).unwrap();
    let next = scene.leader_of(ONLY);
    assert_ne!(next, leader);
    scene.process(leader).thaw();
    scene.wait_caught_up(ONLY, TIMEOUT).unwrap();
    assert!(scene.status_of(leader).term >= scene.status_of(next).term);
    load.wait_answers(50, TIMEOUT).unwrap();
    let history = load.finish().unwrap();
    history.check(&scene).unwrap();
}

// covers L18
#[test]
fn everything_killed_at_once_under_load_comes_back_with_all_writes() {
    let mut scene = Scene::new(SMALL);
    let mut load = scene.load();
    for _ in 0..3 {
        load.wait_answers(50, TIMEOUT).unwrap();
        scene.kill_all();
        scene.start_all().unwrap();
        scene.ready();
    }
    load.wait_answers(50, TIMEOUT).unwrap();
    let history = load.finish().unwrap();
    history.check(&scene).unwrap();
}

// covers L19
#[test]
fn more_than_f_killed_nothing_is_answered_until_one_is_back() {
    let mut scene = Scene::new(SMALL);
    let mut writer = scene.warm_client();
    let mut reader = scene.warm_client();
    assert_eq!(writer.swap("a", "1", TIMEOUT).unwrap(), None);
    let survivor = scene.leader_of(ONLY);
    let dead: Vec<_> = scene.nodes_of(ONLY).filter(|&node| node != survivor).collect();
    for &node in &dead {
        scene.process(node).kill();
    }
    writer.send("SWAP a 2").unwrap();
    reader.send("GET a").unwrap();
    assert!(matches!(writer.line(WATCH), Err(NoAnswer::Late(_))));
    assert!(matches!(reader.line(WATCH), Err(NoAnswer::Late(_))));
    scene.process(dead[0]).start().unwrap();
    assert_eq!(writer.line(TIMEOUT).unwrap(), "SWAP a 1");
    let read = reader.line(TIMEOUT).unwrap();
    assert!(read == "GET a 1" || read == "GET a 2", "{read}");
    assert_eq!(reader.get("a", TIMEOUT).unwrap().as_deref(), Some("2"));
}

// covers B10
#[test]
fn terminated_under_load_each_process_ends_in_order() {
    let mut scene = Scene::new(SMALL);
    let mut load = scene.load();
    for _ in 0..2 {
        load.wait_answers(50, TIMEOUT).unwrap();
        let leader = scene.leader_of(ONLY);
        let asked = Instant::now();
        scene.process(leader).send_terminate();
        let status = scene.process(leader).wait_end(TIMEOUT).expect("an end");
        assert!(status.success(), "{leader} ended with {status} after {:?}", asked.elapsed());
        load.wait_answers(50, TIMEOUT).unwrap();
        scene.process(leader).start().unwrap();
    }
    let history = load.finish().unwrap();
    history.check(&scene).unwrap();
}

// covers C11: a minute of it: `just transcript`.
#[test]
fn client_prints_one_line_for_each_in_order_while_leaders_are_killed_and_confirms_stop_last() {
    let mut scene = Scene::new(SMALL);
    under_failovers(&mut scene, 4, TIMEOUT).unwrap_or_else(|error| panic!("{error}"));
}

// covers B11: one round of it; a hundred, and how long writes wait: `just rolling`.
#[test]
fn every_node_restarted_in_turn_under_load_nothing_is_lost() {
    let mut scene = Scene::new(SMALL);
    let round = rolling_restart(&mut scene, 1).unwrap_or_else(|error| panic!("{error}"));
    assert!(round.left.iter().all(|(_, value)| value.is_some()), "{round:?}");
}

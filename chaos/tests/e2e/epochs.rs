//! Groups whose members the manager names: kinds `chain`, `active` and `passive`, under load, while members and
//! managers are killed.

use std::collections::BTreeMap;
use std::time::Duration;

use madkv_proto::control::{ControlReply, ControlRequest};
use madkv_testkit::cluster::{Group, Node, Shape};
use madkv_testkit::wait::wait_for;

use crate::members::{operator, refused};
use crate::repairs::control;

use crate::scene::{ONLY, REFUSAL_TIMEOUT, SMALL, Scene, TIMEOUT};

/// How long it may take until all are back. On a machine whose disk stands still now and then members are removed again
/// and again, and each time the pause before they are taken back is twice as long.
pub(crate) const WHOLE_TIMEOUT: Duration = Duration::from_secs(180);

/// Waits until all replicas of the partition are members that have everything.
pub(crate) fn wait_whole(scene: &Scene) {
    let replicas = scene.nodes_of(ONLY).count();
    let whole = || {
        let leader = scene.leader(ONLY)?;
        let status = scene.status(leader).ok()?;
        (status.voters.len() == replicas).then_some(())
    };
    wait_for(WHOLE_TIMEOUT, "all replicas to be members", whole).unwrap();
}

/// Kills one member after the other, the first one and another, and a manager with it; each comes back.
fn survives_kills(kind: &str, shape: Shape) {
    let mut scene = Scene::with_flags(shape, &["--protocol", kind]);
    wait_whole(&scene);
    let mut load = scene.load();
    load.wait_answers(50, TIMEOUT).unwrap();
    for round in 0..2 {
        let first = scene.leader_of(ONLY);
        let victim = if round == 0 { first } else { scene.nodes_of(ONLY).find(|node| *node != first).unwrap() };
        scene.process(victim).kill();
        if shape.manager_rf > 1 && round == 0 {
            let manager = scene.leader_of(Group::Manager);
            scene.process(manager).kill();
            load.wait_answers(50, TIMEOUT).unwrap();
            scene.process(manager).start().unwrap();
        }
        load.wait_answers(50, TIMEOUT).unwrap();
        scene.process(victim).start().unwrap();
        wait_whole(&scene);
        load.wait_answers(50, TIMEOUT).unwrap();
    }
    let history = load.finish().unwrap();
    scene.wait_caught_up(ONLY, TIMEOUT).unwrap();
    history.check(&scene).unwrap();
}

// covers K4 K5 K6 K7 K8
#[test]
fn chain_of_three_survives_kills_of_head_member_and_manager_under_load() {
    survives_kills("chain", Shape { server_rf: 3, manager_rf: 3, partitions: 1 });
}

// covers K7 K13 K16
#[test]
fn two_active_replicas_survive_kills_of_each_under_load() {
    survives_kills("active", Shape { server_rf: 2, manager_rf: 1, partitions: 1 });
}

// covers K7 K14 K15 K16
#[test]
fn passive_of_three_survives_kills_of_primary_and_backup_under_load() {
    survives_kills("passive", Shape { server_rf: 3, manager_rf: 1, partitions: 1 });
}

/// Each member answers what was written before, whoever wrote it.
// covers K2 R1
#[test]
fn reads_at_any_member_see_what_was_acknowledged() {
    let shape = Shape { server_rf: 3, manager_rf: 1, partitions: 1 };
    let scene = Scene::with_flags(shape, &["--protocol", "chain", "--reads", "lease"]);
    wait_whole(&scene);
    let mut writer = scene.warm_client();
    let mut reader = scene.client_with(&["--read_from", "any"]).unwrap();
    for count in 0..60 {
        let value = count.to_string();
        writer.swap("a", &value, TIMEOUT).unwrap();
        assert_eq!(reader.get("a", TIMEOUT).unwrap(), Some(value));
    }
}

fn comes_back_after_everything_was_killed(kind: &str, shape: Shape) {
    let mut scene = Scene::with_flags(shape, &["--protocol", kind]);
    let mut load = scene.load();
    load.wait_answers(50, TIMEOUT).unwrap();
    scene.kill_all();
    scene.start_all().unwrap();
    load.wait_answers(50, TIMEOUT).unwrap();
    let first = scene.leader_of(ONLY);
    scene.process(first).kill();
    std::fs::remove_dir_all(scene.backer_path(first)).unwrap();
    load.wait_answers(50, TIMEOUT).unwrap();
    scene.process(first).start().unwrap();
    wait_whole(&scene);
    load.wait_answers(50, TIMEOUT).unwrap();
    load.finish().unwrap().check(&scene).unwrap();
}

// covers K9 L18
#[test]
fn everything_killed_comes_back_with_all_writes_and_one_member_without_its_data_too() {
    comes_back_after_everything_was_killed("chain", Shape { server_rf: 2, manager_rf: 1, partitions: 1 });
}

// covers K9 K14 L18
#[test]
fn everything_killed_of_a_passive_group_comes_back_and_an_emptied_member_too() {
    comes_back_after_everything_was_killed("passive", Shape { server_rf: 2, manager_rf: 1, partitions: 1 });
}

fn set(scene: &Scene, name: &str, value: u64) -> ControlReply {
    let ControlReply::Settings(settings) = control(scene, &ControlRequest::Settings) else { panic!("no settings") };
    control(scene, &ControlRequest::Set { name: name.to_owned(), value: value.to_string(), version: settings.version })
}

/// The checkpoints that a console shows: the state of each, by its number.
fn checkpoints_shown(scene: &mut Scene, node: Node, verb: &str) -> BTreeMap<u64, String> {
    let log = scene.process(node).log_text();
    let shown = log.lines().filter_map(|line| {
        let (_, tuple) = line.split_once(&format!("] {verb} <S"))?;
        let (state, count) = tuple.split_once(", checkpoint>: my_state_S")?.1.split_once(", checkpoint_count = ")?;
        Some((count.parse().ok()?, state.split_once(" = ")?.1.to_owned()))
    });
    shown.collect()
}

// covers K14
#[test]
fn consoles_of_primary_and_backups_show_the_same_checkpoints() {
    let mut scene = Scene::stopped_with_flags(SMALL, &["--protocol", "passive"]);
    scene.add_server_flags(&["--trace_messages".into()]);
    scene.start_all().unwrap();
    scene.ready();
    wait_whole(&scene);
    let refused = ControlReply::Refused("checkpoint_freq: 5 ms; 20 to 60000 ms are possible".to_owned());
    assert_eq!(set(&scene, "checkpoint_freq", 5), refused);
    assert_eq!(set(&scene, "checkpoint_freq", 50), ControlReply::Done);
    let mut client = scene.warm_client();
    // The members may change meanwhile, and with them whose numbers count.
    wait_for(TIMEOUT, "a checkpoint that all show", || {
        let primary = scene.leader(ONLY)?;
        client.swap("first", "1", TIMEOUT).ok()?;
        let sent = checkpoints_shown(&mut scene, primary, "Sending");
        scene
            .nodes_of(ONLY)
            .collect::<Vec<_>>()
            .into_iter()
            .filter(|node| *node != primary)
            .all(|backup| {
                let received = checkpoints_shown(&mut scene, backup, "Received");
                let same = |(count, state): (&u64, &String)| {
                    state.starts_with("1 keys (digest ") && sent.get(count) == Some(state)
                };
                received.iter().any(same)
            })
            .then_some(())
    })
    .unwrap();
}

/// There are no checkpoints any more, and the primary is killed: what its backups have stored is all that there is of
/// what it has acknowledged since.
// covers K14
#[test]
fn backup_that_is_promoted_between_two_checkpoints_has_every_acknowledged_write() {
    /// This many writes are in no checkpoint.
    const LAG: u64 = 200;
    let mut scene = Scene::with_flags(SMALL, &["--protocol", "passive"]);
    wait_whole(&scene);
    for (name, value) in [("checkpoint_freq", 60_000), ("checkpoint_requests", 1_000_000)] {
        assert_eq!(set(&scene, name, value), ControlReply::Done);
    }
    let mut client = scene.warm_client();
    let mut keys = 0;
    // Until the setting is there, and whenever an epoch begins, there is a checkpoint.
    let primary = wait_for(TIMEOUT, "backups that have stored writes and not applied them", || {
        for _ in 0..20 {
            client.swap(&format!("key{keys}"), &keys.to_string(), TIMEOUT).ok()?;
            keys += 1;
        }
        let primary = scene.leader(ONLY)?;
        let lags = |node: Node| {
            scene.status(node).is_ok_and(|status| status.last.index.0 >= status.applied.0 + LAG) || node == primary
        };
        scene.nodes_of(ONLY).all(lags).then_some(primary)
    })
    .unwrap();
    scene.process(primary).kill();
    for key in 0..keys {
        assert_eq!(client.get(&format!("key{key}"), TIMEOUT).unwrap(), Some(key.to_string()), "key{key} of {keys}");
    }
    assert_ne!(scene.leader_of(ONLY), primary);
}

/// The first is changed by an operator's word, back and forth under load, and each write takes effect once.
fn promotes(kind: &str) {
    let scene = Scene::with_flags(SMALL, &["--protocol", kind]);
    wait_whole(&scene);
    let mut load = scene.load();
    load.wait_answers(50, TIMEOUT).unwrap();
    for _ in 0..3 {
        let first = scene.leader_of(ONLY);
        let next = scene.nodes_of(ONLY).find(|node| *node != first).unwrap();
        let request = ControlRequest::Promote { partition: 0, replica: next.replica() };
        // Before it was heard once, the manager that leads knows nothing of it; and on a busy machine a member may be
        // removed meanwhile, and be back soon.
        let leads = || control(&scene, &request) == ControlReply::Done && scene.leader(ONLY) == Some(next);
        wait_for(WHOLE_TIMEOUT, "another first", || leads().then_some(())).unwrap();
        load.wait_answers(50, TIMEOUT).unwrap();
    }
    let first = scene.leader_of(ONLY);
    let next = scene.nodes_of(ONLY).find(|node| *node != first).unwrap();
    let number = next.replica().to_string();
    let leads = || {
        let words = ["transfer", "s0", &number];
        operator(&scene, &words).status.success() && scene.leader(ONLY) == Some(next)
    };
    wait_for(WHOLE_TIMEOUT, "the same by the client's word", || leads().then_some(())).unwrap();
    refused(&scene, &["transfer", "s0", "7"], "no replica 7");
    let history = load.finish().unwrap();
    scene.wait_caught_up(ONLY, TIMEOUT).unwrap();
    history.check(&scene).unwrap();
}

// covers K9
#[test]
fn operator_makes_another_member_the_first_under_load_and_each_write_takes_effect_once() {
    promotes("active");
    promotes("passive");
}

// covers B9
#[test]
fn server_of_another_kind_than_the_managers_say_ends_with_one_line() {
    let shape = Shape { server_rf: 1, manager_rf: 1, partitions: 1 };
    let mut scene = Scene::stopped(shape);
    let server = Node::Server { partition: 0, replica: 0 };
    scene.process(Node::Manager(0)).add_arguments(&["--protocol".into(), "chain".into()]);
    scene.process(Node::Manager(0)).start().unwrap();
    scene.process(server).start().unwrap();
    let ended = scene.process(server).wait_end(REFUSAL_TIMEOUT).expect("an end");
    assert_eq!(ended.code(), Some(2));
    let said = scene.process(server).log_tail();
    assert!(said.contains("--protocol: raft; the managers say that the group of s0.0 is of kind chain"), "{said}");
    // Nothing was lost by that: what it has made belongs to no group yet.
    scene.process(server).add_arguments(&["--protocol".into(), "chain".into()]);
    scene.process(server).start().unwrap();
    scene.ready();
    let mut client = scene.client().unwrap();
    assert_eq!(client.swap("a", "1", TIMEOUT).unwrap(), None);
}

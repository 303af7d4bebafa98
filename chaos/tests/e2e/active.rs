//! Groups of kind `active`: clients send each write to all members, take the first answer and discard the others.

use std::collections::BTreeSet;

use madkv_testkit::cluster::Node;
use madkv_testkit::line_client::LineClient;
use madkv_testkit::proxy::{Flow, Rules};
use madkv_testkit::wait::wait_for;
use madkv_testkit::wiring::Way;

use crate::epochs::{WHOLE_TIMEOUT, wait_whole};
use crate::scene::{ONLY, SMALL, Scene, TIMEOUT};

const ACTIVE: [&str; 2] = ["--protocol", "active"];
/// The client whose messages are looked at.
const CLIENT: &str = "C7";
/// How many of its requests may be spoiled by a busy machine: a copy that comes to a member after the entry is
/// answered from the session table, and was processed under no one's name.
const REQUESTS_MAX: u32 = 50;

/// An active group whose consoles show messages.
fn traced() -> Scene {
    let mut scene = Scene::stopped_with_flags(SMALL, &ACTIVE);
    scene.add_server_flags(&["--trace_messages".into()]);
    scene.start_all().unwrap();
    scene.ready();
    wait_whole(&scene);
    scene
}

fn members(scene: &Scene) -> Vec<Node> {
    scene.nodes_of(ONLY).collect()
}

/// Whether a console has a line that ends so.
fn says(scene: &mut Scene, node: Node, end: &str) -> bool {
    scene.process(node).log_text().lines().any(|line| line.ends_with(end))
}

/// The state that a server's console shows before or after a request.
fn state(scene: &mut Scene, node: Node, when: &str, request: &str) -> Option<String> {
    let end = format!(" {when} processing <{request}, request>");
    let log = scene.process(node).log_text();
    let line = log.lines().find_map(|line| line.strip_suffix(&end))?;
    Some(line.split_once(" = ")?.1.to_owned())
}

/// A client's console, as it grows.
struct Console {
    client: LineClient,
    said: Vec<String>,
}

impl Console {
    fn wait_for(&mut self, ends: &[String]) {
        wait_for(TIMEOUT, &format!("{ends:?} on the client's console"), || {
            self.said.extend(self.client.complaints());
            ends.iter().all(|end| self.said.iter().any(|line| line.ends_with(end))).then_some(())
        })
        .unwrap_or_else(|error| panic!("{error}: {:#?}", self.said));
    }
}

// covers K13
#[test]
fn consoles_show_each_request_and_reply_at_all_members_and_what_the_client_discards() {
    let mut scene = traced();
    let client = scene.client_with(&["--trace_messages", "--client_id", "7"]).unwrap();
    let mut console = Console { client, said: Vec::new() };
    let nodes = members(&scene);
    let called = ["S1", "S2", "S3"];
    // Each with its state before and after; one request that all have shown so is enough.
    let shown_by_all = (1..=REQUESTS_MAX).any(|request| {
        let answer = console.client.ask(&format!("PUT a {request}"), TIMEOUT).unwrap();
        assert_eq!(answer, if request == 1 { "PUT a not_found" } else { "PUT a found" });
        let tuples = |kind: &str| called.map(|server| format!("<{CLIENT}, {server}, {request}, {kind}>"));
        console.wait_for(&tuples("request").map(|tuple| format!("] Sent {tuple}")));
        console.wait_for(&tuples("reply").map(|tuple| format!("] Received {tuple}")));
        for (node, (request, reply)) in nodes.iter().zip(tuples("request").into_iter().zip(tuples("reply"))) {
            wait_for(TIMEOUT, &format!("{request} on the console of {node}"), || {
                let has = says(&mut scene, *node, &format!("] Received {request}"))
                    && says(&mut scene, *node, &format!("] Sending {reply}"));
                has.then_some(())
            })
            .unwrap();
        }
        // The first answer counts, the others were discarded: two, and more if one of them was so late that it was
        // asked for again.
        let discarded = format!("] request_num {request}: Discarded duplicate reply from S");
        wait_for(TIMEOUT, "discarded replies", || {
            console.said.extend(console.client.complaints());
            let count = console.said.iter().filter(|line| line.contains(&discarded)).count();
            (count >= 2).then_some(())
        })
        .unwrap();
        let states: BTreeSet<_> = nodes
            .iter()
            .zip(called)
            .map(|(node, server)| {
                let request = format!("{CLIENT}, {server}, {request}");
                ["before", "after"].map(|when| state(&mut scene, *node, when, &request))
            })
            .collect();
        states.len() == 1 && states.iter().flatten().all(Option::is_some)
    });
    assert!(shown_by_all, "no request whose state before and after all three have shown");
    for (node, server) in nodes.into_iter().zip(called) {
        assert!(says(&mut scene, node, &format!("] i_am_ready_{server} = 1")), "{node} is ready");
    }
}

/// One after the other dies, the first of the group first, and that one comes back while clients go on.
// covers K5 K7 K13
#[test]
fn members_of_an_active_group_die_one_after_the_other_and_no_write_is_lost_or_doubled() {
    let mut scene = traced();
    let mut load = scene.load();
    load.wait_answers(100, TIMEOUT).unwrap();
    let first = scene.leader_of(ONLY);
    scene.process(first).kill();
    load.wait_answers(100, TIMEOUT).unwrap();
    let second = scene.leader_of(ONLY);
    assert_ne!(first, second);
    scene.process(second).kill();
    // One is left.
    load.wait_answers(100, TIMEOUT).unwrap();
    // No one takes it in, so that it hears clients before it is ready, and keeps what they ask for.
    scene.process(Node::Manager(0)).freeze();
    let number = first.replica() + 1;
    let before = scene.process(first).log_text().len();
    scene.process(first).start().unwrap();
    let wait_said = |scene: &mut Scene, wanted: &[&str]| {
        wait_for(WHOLE_TIMEOUT, &format!("{first} to say {wanted:?}"), || {
            let log = scene.process(first).log_text();
            let mut lines = log.get(before..)?.lines();
            lines.any(|line| wanted.iter().all(|part| line.contains(part))).then_some(())
        })
        .unwrap_or_else(|error| panic!("{error}: {}", scene.process(first).log_tail()));
    };
    wait_said(&mut scene, &[&format!("] i_am_ready_S{number} = 0: stored <C"), ", high_watermark_request_num[C"]);
    let ready = format!("] i_am_ready_S{number} = 1");
    assert!(!scene.process(first).log_text()[before..].contains(&ready));
    load.wait_answers(100, TIMEOUT).unwrap();
    scene.process(Node::Manager(0)).thaw();
    wait_said(&mut scene, &[&ready]);
    load.wait_answers(100, TIMEOUT).unwrap();
    load.finish().unwrap().check(&scene).unwrap();
}

/// Requests and replies of clients are lost one by one, as on a bus without connections.
// covers K13 C1 C2
#[test]
fn one_message_in_twenty_between_clients_and_an_active_group_is_lost_and_all_writes_take_effect_once() {
    const LOST_MIN: u64 = 100;
    let (scene, network) = Scene::wired_with(SMALL, &ACTIVE);
    wait_whole(&scene);
    for node in members(&scene) {
        network.set(Way::clients(node), Rules::both(Flow::LoseFrames { permille: 50 }));
    }
    let mut load = scene.load();
    load.wait_answers(1000, TIMEOUT).unwrap();
    let lost = || -> u64 {
        members(&scene)
            .into_iter()
            .map(|node| network.link(Way::clients(node)))
            .map(|(proxy, link)| proxy.counts(link).lost)
            .sum()
    };
    assert!(lost() > LOST_MIN, "{} messages were lost", lost());
    let history = load.finish().unwrap();
    network.heal();
    scene.wait_caught_up(ONLY, TIMEOUT).unwrap();
    history.check(&scene).unwrap();
}

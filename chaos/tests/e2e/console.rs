//! The consoles of `--trace_messages`: what one side says it sent, the other says it received.

use std::collections::BTreeSet;

use madkv_testkit::cluster::{Node, Shape};
use madkv_testkit::line_client::LineClient;
use madkv_testkit::wait::wait_for;

use crate::scene::{Scene, TIMEOUT};

/// The tuples of the lines that say this, `C7, S1, 3` for `<C7, S1, 3, request>`.
fn tuples<'t>(lines: impl Iterator<Item = &'t str>, verb: &str, kind: &str) -> BTreeSet<String> {
    let said = |line: &'t str| {
        let (stamp, text) = line.strip_prefix('[')?.split_once("] ")?;
        assert!(stamp.contains('T') && stamp.ends_with('Z'), "no time of RFC 3339 in UTC: {line}");
        Some(text.strip_prefix(verb)?.strip_prefix(" <")?.strip_suffix(&format!(", {kind}>"))?.to_owned())
    };
    lines.filter_map(said).collect()
}

fn script(client: &mut LineClient, lines: &[&str]) {
    for line in lines {
        let mut answer = client.ask(line, TIMEOUT).unwrap();
        while answer.ends_with("BEGIN") || answer.starts_with("  ") {
            answer = client.line(TIMEOUT).unwrap();
        }
    }
}

// A name travels with a client, and each request has one number, whatever becomes of it on the way.
#[test]
fn both_consoles_name_the_same_messages_of_reads_and_writes() {
    let mut scene = Scene::stopped(Shape { server_rf: 3, manager_rf: 1, partitions: 2 });
    scene.add_server_flags(&["--trace_messages".into()]);
    scene.start_all().unwrap();
    scene.ready();
    let mut consoles = String::new();
    for number in ["7", "8"] {
        let mut client = scene.client_with(&["--trace_messages", "--client_id", number]).unwrap();
        script(&mut client, &["PUT a 1", "GET a", "SWAP b 2", "SCAN a z", "DELETE a", "GET a"]);
        // Requests are numbered as they were asked, whichever partition they went to.
        let (status, said) = client.finish_with_complaints(TIMEOUT).unwrap();
        assert!(status.success(), "{status}: {said:#?}");
        for request in 1..=6 {
            let tuple = format!(", {request}, reply>");
            assert!(said.iter().any(|line| line.ends_with(&tuple)), "request {request}: {said:#?}");
        }
        consoles += &(said.join("\n") + "\n");
    }
    let servers: Vec<Node> = scene.layout().shape.nodes().filter(|node| matches!(node, Node::Server { .. })).collect();
    // A server's lines are written behind its back: its answer may be there before them.
    let answered = tuples(consoles.lines(), "Received", "reply");
    let logs = wait_for(TIMEOUT, "the servers' lines about all answers", || {
        let logs: String = servers.iter().map(|&node| scene.process(node).log_text()).collect();
        answered.is_subset(&tuples(logs.lines(), "Sending", "reply")).then_some(logs)
    })
    .unwrap();
    for (clients, servers, kind) in [("Sent", "Received", "request"), ("Received", "Sending", "reply")] {
        let at_clients = tuples(consoles.lines(), clients, kind);
        let at_servers = tuples(logs.lines(), servers, kind);
        assert!(at_clients.iter().any(|tuple| tuple.starts_with("C8, S")), "{at_clients:?}");
        assert_eq!(at_clients, at_servers, "{kind}:\n{consoles}\n{logs}");
    }
    // Each was processed between the two, reads too, and shows the state.
    for tuple in tuples(logs.lines(), "Sending", "reply") {
        for when in ["before", "after"] {
            let processing = format!("{when} processing <{tuple}, request>");
            assert!(logs.lines().any(|line| line.ends_with(&processing)), "{processing}:\n{logs}");
        }
    }
}

/// Three replicas that have applied the same show the same state.
#[test]
fn replicas_that_applied_the_same_show_the_same_state() {
    let mut scene = Scene::stopped(Shape { server_rf: 3, manager_rf: 1, partitions: 1 });
    scene.add_server_flags(&["--trace_messages".into()]);
    scene.start_all().unwrap();
    scene.ready();
    let mut client = scene.client().unwrap();
    script(&mut client, &["PUT a 1", "PUT b 2", "SWAP a 3", "DELETE b", "PUT c 4"]);
    let states = |log: &str| -> Vec<String> {
        let after = log.lines().filter_map(|line| line.split_once(" = ")?.1.split_once(" after processing"));
        after.map(|(state, _)| state.to_owned()).collect()
    };
    let nodes: Vec<Node> = scene.layout().shape.nodes().filter(|node| matches!(node, Node::Server { .. })).collect();
    let all = wait_for(TIMEOUT, "five states on each console", || {
        let all: Vec<Vec<String>> = nodes.iter().map(|&node| states(&scene.process(node).log_text())).collect();
        all.iter().all(|states| states.len() == 5).then_some(all)
    })
    .unwrap();
    assert!(all[0][2].starts_with("2 keys (digest ") && all[0][2] != all[0][1], "{all:#?}");
    assert!(all.iter().all(|states| *states == all[0]), "{all:#?}");
}

//! Links between real processes that are cut, stall, break, and say old things again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use madkv_proto::command::{Query, decode_value};
use madkv_proto::frames::{ClientRequest, ClientResponse, Service};
use madkv_testkit::ask::ask;
use madkv_testkit::cluster::{Group, Node, Origin, Port, Shape};
use madkv_testkit::line_client::NoAnswer;
use madkv_testkit::proxy::{Counts, Flow, Rules};
use madkv_testkit::wait::wait_for;
use madkv_testkit::wiring::{Network, Way};
use smr::status::ReadMode;

use crate::scene::{LEASES, ONLY, SMALL, Scene, TIMEOUT, WATCH};

/// Longer than any election timeout, several times over.
const MANY_TIMEOUTS: Duration = Duration::from_secs(5);
/// How often something is tried that a busy machine may spoil, by an election of its own.
const ATTEMPTS_MAX: usize = 6;

fn counts(network: &Network, way: Way) -> Counts {
    let (proxy, link) = network.link(way);
    proxy.counts(link)
}

/// Cuts a node off from all its peers.
fn isolate(scene: &Scene, network: &Network, node: Node, rules: Rules) {
    for other in scene.nodes_of(node.group()).filter(|&other| other != node) {
        Network::between(node, other).into_iter().for_each(|way| network.set(way, rules));
    }
}

/// All ways between the replicas of the partition.
fn ways(scene: &Scene) -> Vec<Way> {
    let nodes: Vec<Node> = scene.nodes_of(ONLY).collect();
    let from = |from: Node| nodes.iter().filter(move |&&to| to != from).map(move |&to| Way::peers(from, to));
    nodes.iter().copied().flat_map(from).collect()
}

// covers N5
#[test]
fn old_bytes_of_peers_and_clients_said_again_change_nothing() {
    let (mut scene, network) = Scene::wired(SMALL);
    let mut load = scene.load();
    load.wait_answers(100, TIMEOUT).unwrap();
    // Old ones of a process that has gone meanwhile, too.
    let follower = scene.follower_of(ONLY);
    scene.process(follower).kill();
    scene.process(follower).start().unwrap();
    load.wait_answers(100, TIMEOUT).unwrap();
    scene.wait_caught_up(ONLY, TIMEOUT).unwrap();
    for way in ways(&scene).into_iter().chain(scene.nodes_of(ONLY).map(Way::clients)) {
        // On some ways nothing was ever said.
        if let Ok(replayed) = network.replay(way) {
            assert!(replayed.sent_bytes > 0, "{way:?}");
        }
        load.wait_answers(20, TIMEOUT).unwrap();
    }
    let history = load.finish().unwrap();
    scene.wait_caught_up(ONLY, TIMEOUT).unwrap();
    history.check(&scene).unwrap();
    assert!(scene.processes().all(|(_, process)| process.is_running()));
}

// covers N6
#[test]
fn peer_that_vanishes_without_closing_is_noticed_dialled_again_and_counts_again() {
    let (mut scene, network) = Scene::wired(SMALL);
    let mut client = scene.warm_client();
    let leader = scene.leader_of(ONLY);
    let [gone, other] = scene.nodes_of(ONLY).filter(|&node| node != leader).collect::<Vec<_>>()[..] else { panic!() };
    let way = Way::peers(leader, gone);
    let before = counts(&network, way).accepted;
    isolate(&scene, &network, gone, Rules::silent());
    assert_eq!(client.swap("a", "1", TIMEOUT).unwrap(), None);
    // No one tells the leader; it finds out, and dials again and again.
    wait_for(TIMEOUT, "another attempt to connect", || (counts(&network, way).accepted > before).then_some(()))
        .unwrap();
    assert_eq!(client.swap("a", "2", TIMEOUT).unwrap().as_deref(), Some("1"));
    network.heal();
    scene.wait_caught_up(ONLY, TIMEOUT).unwrap();
    scene.process(other).kill();
    assert_eq!(client.swap("a", "3", TIMEOUT).unwrap().as_deref(), Some("2"));
}

// covers N7
#[test]
fn peer_that_never_reads_is_disconnected_and_delays_no_one() {
    /// Together more than all buffers on the way to a peer.
    const VALUES: usize = 300;
    const VALUE_BYTES: usize = 256 << 10;
    const MEMORY_MAX_BYTES: u64 = 600 << 20;

    let (mut scene, network) = Scene::wired(SMALL);
    let mut client = scene.warm_client();
    let leader = scene.leader_of(ONLY);
    let deaf = scene.follower_of(ONLY);
    let way = Way::peers(leader, deaf);
    let before = counts(&network, way);
    network.set(way, Rules { forward: Flow::Hold, ..Rules::default() });
    let value = "v".repeat(VALUE_BYTES);
    for number in 0..VALUES {
        client.ask(&format!("PUT big{} {value}", number % 4), TIMEOUT).unwrap();
    }
    let memory = scene.process(leader).resident_bytes().unwrap();
    assert!(memory < MEMORY_MAX_BYTES, "{memory} bytes");
    wait_for(TIMEOUT, "the leader to hang up", || (counts(&network, way).accepted > before.accepted).then_some(()))
        .unwrap();
    network.heal();
    scene.wait_caught_up(ONLY, TIMEOUT).unwrap();
    let other = scene.nodes_of(ONLY).find(|&node| node != leader && node != deaf).unwrap();
    scene.process(other).kill();
    assert_eq!(client.get("big0", TIMEOUT).unwrap().map(|value| value.len()), Some(VALUE_BYTES));
}

// covers N8
#[test]
fn connections_reset_within_frames_and_all_at_once_no_write_is_lost_or_doubled() {
    let (scene, network) = Scene::wired(SMALL);
    let mut load = scene.load();
    let breaking = Flow::ResetAfter { bytes_max: 20_000 };
    for way in ways(&scene) {
        network.set(way, Rules { forward: breaking, ..Rules::default() });
    }
    let resets = || ways(&scene).into_iter().map(|way| counts(&network, way).reset).sum::<u64>();
    wait_for(TIMEOUT, "a hundred connections to break", || (resets() > 100).then_some(())).unwrap();
    network.heal();
    load.wait_answers(100, TIMEOUT).unwrap();
    // All at once, again and again: everyone dials everyone.
    let broken = resets();
    while resets() < broken + 300 {
        ways(&scene).into_iter().for_each(|way| network.reset(way));
        wait_for(TIMEOUT, "all connections again", || {
            ways(&scene).into_iter().all(|way| counts(&network, way).live > 0).then_some(())
        })
        .unwrap();
    }
    load.wait_answers(100, TIMEOUT).unwrap();
    let history = load.finish().unwrap();
    scene.wait_caught_up(ONLY, TIMEOUT).unwrap();
    history.check(&scene).unwrap();
}

// covers N9
#[test]
fn clients_cut_from_the_leader_wait_or_time_out_without_a_storm_and_are_answered_afterwards() {
    let (scene, network) = Scene::wired(SMALL);
    let mut waiting = scene.warm_client();
    assert_eq!(waiting.swap("a", "1", TIMEOUT).unwrap(), None);
    let mut hasty = scene.client_with(&["--timeout_ms", "1500"]).unwrap();
    hasty.get("a", TIMEOUT).unwrap();
    let all = |network: &Network| {
        let counts = scene.nodes_of(ONLY).map(|node| counts(network, Way::clients(node)));
        counts.fold((0, 0), |(accepted, bytes), more| (accepted + more.accepted, bytes + more.forward_bytes))
    };
    let mut value = 1;
    for rules in [Rules::shut(), Rules::silent()] {
        for attempt in 1.. {
            let (old, new) = (value, value + 1);
            value = new;
            let leader = scene.leader_of(ONLY);
            let term = scene.status_of(leader).term;
            network.set(Way::clients(leader), rules);
            let (began, before) = (Instant::now(), all(&network));
            waiting.send(&format!("SWAP a {new}")).unwrap();
            let hasty_heard = hasty.ask("GET a", TIMEOUT).unwrap();
            let waiting_heard = waiting.line(WATCH);
            let (after, seconds) = (all(&network), began.elapsed().as_secs_f64());
            network.heal();
            let swapped = format!("SWAP a {old}");
            match &waiting_heard {
                Ok(line) => assert_eq!(*line, swapped),
                Err(_) => assert_eq!(waiting.line(TIMEOUT).unwrap(), swapped),
            }
            wait_for(TIMEOUT, "an answer in time", || {
                let answer = hasty.ask("GET a", TIMEOUT).unwrap();
                (!answer.starts_with("ERROR timeout")).then(|| assert_eq!(answer, format!("GET a {new}")))
            })
            .unwrap();
            // Questions who leads, and attempts to connect, of two clients, at their pauses.
            let (more_connections, more_bytes) = ((after.0 - before.0) as f64, (after.1 - before.1) as f64);
            let storm = more_connections > 100.0 * seconds || more_bytes > 100_000.0 * seconds;
            assert!(!storm, "{before:?} to {after:?} in {seconds} s");
            if scene.status_of(leader).term == term {
                assert!(hasty_heard.starts_with("ERROR timeout"), "{hasty_heard}");
                assert!(matches!(waiting_heard, Err(NoAnswer::Late(_))), "{waiting_heard:?}");
                break;
            }
            // A busy machine made the replicas elect another leader, which the clients reach.
            assert!(attempt < ATTEMPTS_MAX, "the replicas elect leaders all the time");
        }
    }
}

// covers N9, G4
#[test]
fn managers_cut_from_servers_and_clients_writes_go_on() {
    let (mut scene, network) = Scene::wired(Shape { server_rf: 3, manager_rf: 3, partitions: 1 });
    let mut client = scene.warm_client();
    let to_managers: Vec<Way> = network.ways().filter(|way| matches!(way.to, Port::Api(Node::Manager(_)))).collect();
    assert!(to_managers.iter().any(|way| way.from == Origin::Clients));
    to_managers.iter().for_each(|&way| network.set(way, Rules::silent()));
    assert_eq!(client.swap("a", "1", TIMEOUT).unwrap(), None);
    let leader = scene.leader_of(ONLY);
    scene.process(leader).kill();
    assert_eq!(client.swap("a", "2", TIMEOUT).unwrap().as_deref(), Some("1"));
    // Also a server that restarts meanwhile.
    scene.process(leader).start().unwrap();
    scene.wait_caught_up(ONLY, TIMEOUT).unwrap();
    network.heal();
    assert_eq!(scene.client().unwrap().get("a", TIMEOUT).unwrap().as_deref(), Some("2"));
    scene.wait_leader(Group::Manager, TIMEOUT).unwrap();
}

// covers E8
#[test]
fn link_between_leader_and_one_follower_cut_leadership_moves_once_at_most_and_writes_flow() {
    for rules in [Rules::silent(), Rules::shut()] {
        // A busy machine elects leaders, too; but two that fight over it never come to rest.
        let rests = (0..ATTEMPTS_MAX).any(|_| cut_between_leader_and_one_follower(rules).is_ok());
        assert!(rests, "{rules:?}: leadership never rests");
    }
}

/// Fails if leadership moved more than once, or a client waited for many timeouts.
fn cut_between_leader_and_one_follower(rules: Rules) -> Result<(), String> {
    let (scene, network) = Scene::wired(SMALL);
    let mut load = scene.load();
    load.wait_answers(50, TIMEOUT).unwrap();
    let leader = scene.leader_of(ONLY);
    let before = scene.status_of(leader).term.0;
    Network::between(leader, scene.follower_of(ONLY)).into_iter().for_each(|way| network.set(way, rules));
    let cut = Instant::now();
    while cut.elapsed() < MANY_TIMEOUTS {
        load.wait_answers(1, TIMEOUT).unwrap();
    }
    let terms = scene.nodes_of(ONLY).map(|node| scene.status_of(node).term.0);
    let after = terms.max().unwrap();
    network.heal();
    load.wait_answers(50, TIMEOUT).unwrap();
    let history = load.finish().unwrap();
    // T is 600 to 1200 ms; a change of leaders may cost two of them.
    let wait = history.longest_wait(cut, None);
    history.check(&scene).unwrap();
    if after > before + 1 || wait >= MANY_TIMEOUTS {
        let said = format!("{rules:?}: term {before} became {after}, a client waited {wait:?}");
        eprintln!("{said}");
        return Err(said);
    }
    Ok(())
}

// covers E7
#[test]
fn follower_cut_off_for_many_timeouts_returns_without_disturbing_anybody() {
    let (scene, network) = Scene::wired(SMALL);
    let mut load = scene.load();
    load.wait_answers(50, TIMEOUT).unwrap();
    let quiet = (0..ATTEMPTS_MAX).any(|_| {
        let away = scene.follower_of(ONLY);
        isolate(&scene, &network, away, Rules::shut());
        let term = scene.status_of(away).term;
        let cut = Instant::now();
        while cut.elapsed() < MANY_TIMEOUTS {
            load.wait_answers(1, TIMEOUT).unwrap();
        }
        assert_eq!(scene.status_of(away).term, term, "its term grew while no one could follow it");
        network.heal();
        scene.wait_caught_up(ONLY, TIMEOUT).unwrap();
        load.wait_answers(200, TIMEOUT).unwrap();
        // The others may have elected, on a busy machine; not each time.
        scene.nodes_of(ONLY).all(|node| scene.status_of(node).term == term)
    });
    assert!(quiet, "each return moves the term on");
    let history = load.finish().unwrap();
    history.check(&scene).unwrap();
}

// covers R1
#[test]
fn old_leader_cut_off_with_a_reading_client_answers_nothing_old_after_the_new_one_acked() {
    cut_off_a_leader_with_a_reader(Scene::wired(SMALL));
}

// covers R1, R6
#[test]
fn old_leader_with_a_lease_cut_off_with_a_reading_client_answers_nothing_old_after_the_new_one_acked() {
    cut_off_a_leader_with_a_reader(Scene::wired_with(SMALL, &LEASES));
}

fn cut_off_a_leader_with_a_reader((scene, network): (Scene, Network)) {
    let mut writer = scene.warm_client();
    assert_eq!(writer.swap("x", "1", TIMEOUT).unwrap(), None);
    let old = scene.leader_of(ONLY);
    let address = scene.client_address(old);
    let stop = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicU64::new(0));
    let reads = {
        let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
        thread::spawn(move || {
            let mut reads = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let began = Instant::now();
                let query = Query::Get { key: b"x" }.encode();
                let answer = ask(address, Service::Server { partition: 0 }, ClientRequest::Read { query }, TIMEOUT);
                if let Ok(ClientResponse::Answer(value)) = answer {
                    reads.push((began, decode_value(value).unwrap()));
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            }
            reads
        })
    };
    wait_for(TIMEOUT, "reads of the old value", || (answered.load(Ordering::Relaxed) > 3).then_some(())).unwrap();
    // The client is cut from the old leader, too, or it would wait for its answer longer.
    isolate(&scene, &network, old, Rules::silent());
    network.set(Way::clients(old), Rules::shut());
    assert_eq!(writer.swap("x", "2", TIMEOUT).unwrap().as_deref(), Some("1"));
    let acked = Instant::now();
    thread::sleep(WATCH);
    network.heal();
    scene.wait_caught_up(ONLY, TIMEOUT).unwrap();
    stop.store(true, Ordering::Relaxed);
    let reads = reads.join().unwrap();
    let stale = reads.iter().find(|(began, value)| *began >= acked && value.as_deref() != Some(b"2"));
    assert!(stale.is_none(), "{stale:?} after the new leader acknowledged 2");
}

// covers R1, R9, E18
#[test]
fn old_leader_frozen_with_reads_in_its_buffers_answers_none_with_an_old_value_when_thawed() {
    thaw_with_reads_in_the_buffers(Scene::wired(SMALL));
}

// covers R6, E18
#[test]
fn old_leader_with_a_lease_frozen_with_reads_in_its_buffers_answers_none_with_an_old_value_when_thawed() {
    let (scene, network) = Scene::wired_with(SMALL, &LEASES);
    let leader = scene.leader_of(ONLY);
    assert_eq!(scene.status_of(leader).reads, ReadMode::Lease);
    thaw_with_reads_in_the_buffers((scene, network));
}

/// The leader is stopped, another one is elected and acknowledges a write, and then the old one goes on.
fn thaw_with_reads_in_the_buffers((mut scene, _network): (Scene, Network)) {
    /// Many, because it is a race between them and the news.
    const READS: usize = 50;

    let mut writer = scene.warm_client();
    assert_eq!(writer.swap("x", "1", TIMEOUT).unwrap(), None);
    let old = scene.leader_of(ONLY);
    let address = scene.client_address(old);
    scene.process(old).freeze();
    assert_eq!(writer.swap("x", "2", TIMEOUT).unwrap().as_deref(), Some("1"));
    let asking: Vec<_> = (0..READS)
        .map(|_| {
            thread::spawn(move || {
                let query = Query::Get { key: b"x" }.encode();
                ask(address, Service::Server { partition: 0 }, ClientRequest::Read { query }, TIMEOUT)
            })
        })
        .collect();
    // Until the kernel holds them; the process takes none.
    thread::sleep(WATCH);
    scene.process(old).thaw();
    for reader in asking {
        if let Ok(ClientResponse::Answer(value)) = reader.join().unwrap() {
            assert_eq!(decode_value(value).unwrap().as_deref(), Some(&b"2"[..]), "2 was acknowledged before");
        }
    }
}

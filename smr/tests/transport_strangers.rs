//! Who is not let in: replicas that do not belong here, clients at the wrong port, and noise.
#![allow(missing_docs, dead_code, unreachable_pub, reason = "each test file uses a part of the shared helpers")]
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod transport_support;

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use smr::codec;
use smr::entry::GenesisHash;
use smr::id::{ClusterId, Disqualified, NodeId, ReplicaId, StartId, StartTrail};
use smr::internals::transport::{
    Admission, CONNECTIONS_OF_PEER_MAX, Lane, NoSnapshots, NotAdmitted, Pace, STRANGERS_MAX, TransportConfig,
    TransportEvent,
};
use transport_support::*;

const A: NodeId = NodeId::new(0, 100);
const B: NodeId = NodeId::new(1, 101);

/// Starts A as usual and B spoiled; returns what A and B were told about each other.
fn refusals(spoil: impl FnOnce(&mut TransportConfig)) -> (String, String) {
    let (listener_a, address_a) = listen();
    let (listener_b, address_b) = listen();
    let mut config_b = config(B, &[(0, &address_a), (2, "127.0.0.1:1")]);
    spoil(&mut config_b);
    let a = Node::start(config(A, &[(1, &address_b)]), listener_a);
    let b = Node::start(config_b, listener_b);
    let reason = |event: &Event| match event {
        TransportEvent::Refused { reason, .. } => Some(reason.clone()),
        TransportEvent::Connected { .. } => Some("connected".to_owned()),
        _ => None,
    };
    let told = (a.await_event(reason), b.await_event(reason));
    assert_ne!(told.0, "connected");
    assert_ne!(told.1, "connected");
    // They go on trying, and the reason is told once.
    let before = b.transport.stats().turned_away;
    await_that("more attempts", || b.transport.stats().turned_away >= before + 3);
    assert!(a.events.try_recv().is_err() && b.events.try_recv().is_err());
    told
}

// covers B4
#[test]
fn replica_of_another_group_refused_both_ways() {
    let (a, b) = refusals(|config| config.group = "s1".parse().unwrap());
    assert_eq!(a, "a replica of group s0 meets one of group s1");
    assert_eq!(b, "a replica of group s1 meets one of group s0");
}

// covers B4
#[test]
fn replica_of_another_cluster_refused_both_ways() {
    let (a, b) = refusals(|config| config.cluster = Some(ClusterId(8)));
    assert!(a.contains("cluster") && b.contains("cluster"), "{a} {b}");
}

// covers M10
#[test]
fn replica_with_another_genesis_refused_both_ways() {
    let (a, b) = refusals(|config| config.genesis = Some(GenesisHash(71)));
    assert!(a.contains("genesis") && b.contains("genesis"), "{a} {b}");
}

// covers B4
#[test]
fn mixed_up_addresses_refused_with_both_names() {
    let (a, _) = refusals(|config| config.node = NodeId::new(2, 102));
    assert_eq!(a, "this is replica 2, not 1");
}

// covers B4
#[test]
fn own_address_among_the_peers_refused() {
    let (listener, address) = listen();
    let a = Node::start(config(A, &[(1, &address)]), listener);
    let reason = a.await_event(|event| match event {
        TransportEvent::Refused { peer, reason } => Some((*peer, reason.clone())),
        _ => None,
    });
    assert_eq!(reason, (ReplicaId(1), "this is replica 0, not 1".to_owned()));
}

#[test]
fn reason_is_told_again_when_it_changes() {
    let (listener_a, _) = listen();
    let (listener_b, address_b) = listen();
    let a = Node::start(config(A, &[(1, &address_b)]), listener_a);
    for reason in ["one", "one", "two"] {
        let mut wire = Wire::accept(&listener_b);
        assert_eq!(wire.receive().unwrap().0, kind::HELLO);
        wire.send(kind::REFUSAL, &Refusal::new(reason));
    }
    let (_wire, _) = Wire::accept_as(&listener_b, B);
    let told = |text: &str| Event::Refused { peer: ReplicaId(1), reason: text.to_owned() };
    let events: Vec<Event> = [(); 3].iter().map(|()| a.events.recv_timeout(TIMEOUT).unwrap()).collect();
    assert_eq!(events, [told("one"), told("two"), Event::Connected { peer: B }]);
}

#[test]
fn dialler_judges_the_one_who_answers() {
    type Spoil = fn(&mut Welcome);
    let cases: [(Spoil, &str); 4] = [
        (|w| w.facts.node = NodeId::new(2, 5), "replica 2 answers at the address of replica 1"),
        (|w| w.facts.genesis = Some(GenesisHash(1)), "genesis"),
        (|w| w.version = 9, "peer protocol version 9 answers a dialler with version 6"),
        (|w| w.magic = 9, "no replica"),
    ];
    let (listener_a, _) = listen();
    let (listener_b, address_b) = listen();
    let a = Node::start(config(A, &[(1, &address_b)]), listener_a);
    for (spoil, expected) in cases {
        let mut wire = Wire::accept(&listener_b);
        wire.receive().unwrap();
        let mut answer = welcome(B);
        spoil(&mut answer);
        wire.send(kind::WELCOME, &answer);
        let said = a.await_event(|event| match event {
            TransportEvent::Refused { reason, .. } => Some(reason.clone()),
            other => panic!("{other:?}"),
        });
        assert!(said.contains(expected), "{said:?} lacks {expected:?}");
        assert_eq!(a.transport.incarnation_of(ReplicaId(1)), None);
    }
}

// covers M10 M22: who was met before the bootstrap was not compared.
#[test]
fn bootstrap_ends_connections_made_before_it_and_is_told_in_later_handshakes() {
    let (listener_a, address_a) = listen();
    let (listener_b, address_b) = listen();
    let uninitialized = TransportConfig { cluster: None, genesis: None, ..config(A, &[(1, &address_b)]) };
    let a = Node::start(uninitialized, listener_a);
    let (mut early, first) = Wire::accept_as(&listener_b, B);
    assert_eq!((first.facts.cluster, first.facts.genesis), (None, None));
    a.await_connected(B);
    let mut dialled = Wire::dial(&address_a);
    dialled.send(kind::HELLO, &hello(B, 0));
    assert_eq!(dialled.receive().unwrap().0, kind::WELCOME);
    // B has another genesis, 70: it was welcome, for no one could know.
    a.transport.set_bootstrap(Some(ClusterId(7)), GenesisHash(71));
    early.await_end();
    dialled.await_end();
    let (mut again, second) = Wire::accept_as(&listener_b, B);
    assert_eq!((second.facts.cluster, second.facts.genesis), (Some(ClusterId(7)), Some(GenesisHash(71))));
    again.await_end();
    let mut late = Wire::dial(&address_a);
    late.send(kind::HELLO, &hello(B, 0));
    assert_eq!(late.receive().unwrap().0, kind::REFUSAL);
}

// covers M10
#[test]
fn bootstrap_that_was_known_before_leaves_connections_open() {
    let (listener_a, _) = listen();
    let (listener_b, address_b) = listen();
    let a = Node::start(config(A, &[(1, &address_b)]), listener_a);
    let (mut wire, _) = Wire::accept_as(&listener_b, B);
    a.await_connected(B);
    a.transport.set_bootstrap(Some(ClusterId(7)), GenesisHash(70));
    a.transport.send(B, (1, vec![]), Lane::Bulk, 10);
    assert_eq!(wire.receive().unwrap().0, kind::MESSAGE);
}

/// Has seen a later start of everyone.
#[derive(Debug)]
struct SawLater;

const LATER: StartId = StartId { number: 9, nonce: 9 };

impl Admission for SawLater {
    fn admit(&self, _node: NodeId, start: StartTrail) -> Result<(), NotAdmitted> {
        Err(Disqualified::SetBack { shown: start.id, newest: LATER }.into())
    }
}

// covers M18
#[test]
fn node_in_an_older_start_is_told_so_and_nothing_of_it_is_taken() {
    let (listener_a, address_a) = listen();
    let (listener_b, address_b) = listen();
    let suspicious = TransportConfig { admission: Arc::new(SawLater), ..config(A, &[(1, &address_b)]) };
    let a = Node::start(suspicious, listener_a);
    let b = Node::start(config(B, &[(0, &address_a)]), listener_b);
    let why = Disqualified::SetBack { shown: START.id, newest: LATER };
    b.await_event(|event| (*event == TransportEvent::Disqualified { by: ReplicaId(0), why }).then_some(()));
    let reason = a.await_event(|event| match event {
        TransportEvent::Refused { reason, .. } => Some(reason.clone()),
        other => panic!("{other:?}"),
    });
    assert!(reason.contains("set back") && reason.contains("9-9"), "{reason}");
    assert_eq!((a.transport.incarnation_of(ReplicaId(1)), a.transport.stats().accepted), (None, 0));
}

// covers B3, B4
#[test]
fn refused_hello_is_answered_with_the_reason_and_closed() {
    let (listener_a, address_a) = listen();
    let a = Node::start(config(A, &[(1, "127.0.0.1:1")]), listener_a);
    let mut unknown = Wire::dial(&address_a);
    unknown.send(kind::HELLO, &hello(NodeId::new(5, 5), 0));
    let (found, payload) = unknown.receive().unwrap();
    let Refusal { reason, .. } = codec::decode(&payload).unwrap();
    assert_eq!((found, reason.as_str()), (kind::REFUSAL, "replica 5 is not among the peers"));
    unknown.await_end();

    let mut newer_format = Wire::dial(&address_a);
    let mut bytes = frame(kind::HELLO, &hello(B, 0));
    bytes[4] = 99;
    newer_format.0.write_all(&bytes).unwrap();
    let (found, payload) = newer_format.receive().unwrap();
    let Refusal { reason, .. } = codec::decode(&payload).unwrap();
    assert_eq!((found, reason.as_str()), (kind::REFUSAL, "format version 99, expected 1"));
    newer_format.await_end();
    assert_eq!(a.transport.stats().turned_away, 2);
    assert!(a.events.try_recv().is_err());
}

// covers B1, B2, B3
#[test]
fn noise_and_clients_at_the_wrong_port_are_closed_and_peers_get_in_meanwhile() {
    let (listener_a, address_a) = listen();
    let a = Node::start(config(A, &[(1, "127.0.0.1:1")]), listener_a);
    let hello_bytes = frame(kind::HELLO, &hello(B, 0));
    let mut announced = hello_bytes.clone();
    announced[0..4].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut damaged = hello_bytes.clone();
    damaged[20] ^= 0x10;
    let mut cases = vec![
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        vec![0; 1000],
        vec![0xff; 1000],
        announced,
        damaged,
        frame(1, &(1u64, "a client's request")),
        frame(kind::MESSAGE, &(1u64, Vec::<u8>::new())),
        frame(kind::HELLO, &()),
    ];
    let mut random: u64 = 1;
    for length in 16..80 {
        let mut noise = Vec::new();
        while noise.len() < length {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            noise.push((random >> 56) as u8);
        }
        // Version right, so that more than the version is looked at; at most 255 bytes announced.
        noise[1..4].fill(0);
        noise[4..6].copy_from_slice(&1u16.to_le_bytes());
        noise.resize(16 + 255, 0);
        cases.push(noise);
    }
    // At once, and not by the deadline: all of them would take some minutes.
    let began = Instant::now();
    for bytes in &cases {
        let mut wire = Wire::dial(&address_a);
        // It may be closed on us while we are still talking.
        drop(wire.0.write_all(bytes));
        wire.await_end();
    }
    let by_deadline = Duration::from_millis(Pace::default().handshake_max_ms) * cases.len() as u32;
    assert!(began.elapsed() < by_deadline / 2, "{:?} for {} of them", began.elapsed(), cases.len());
    assert_eq!(a.transport.stats().turned_away, cases.len() as u64);
    let _peer = Wire::dial_as(&address_a, B, 0);
    assert!(a.events.try_recv().is_err());
}

/// Connects `count` strangers: some say nothing, others the half of something.
fn idle(address: &str, count: usize) -> Vec<Wire> {
    let half = &frame(kind::HELLO, &hello(B, 0))[..30];
    let stranger = |number: usize| {
        let mut wire = Wire::dial(address);
        if number.is_multiple_of(2) {
            wire.0.write_all(half).unwrap();
        }
        wire
    };
    (0..count).map(stranger).collect()
}

// covers B3, N7
#[test]
fn idle_strangers_are_closed_by_the_deadline_and_never_more_than_the_limit() {
    let (listener_a, address_a) = listen();
    // Time enough to have all of them here before the first one is closed, also on a busy machine.
    let pace = Pace { handshake_max_ms: 5_000, ..Pace::default() };
    let a = Node::start_with(config(A, &[(1, "127.0.0.1:1")]), listener_a, Arc::new(NoSnapshots), pace);
    let began = Instant::now();
    let mut first = idle(&address_a, 1).remove(0);
    let mut others = idle(&address_a, STRANGERS_MAX);
    first.await_end();
    await_that("it is counted", || a.transport.stats().turned_away >= 1);
    assert_eq!(a.transport.stats().turned_away, 1, "a newcomer took its place, no deadline");
    for wire in &mut others {
        wire.await_end();
    }
    assert!(began.elapsed() >= Duration::from_millis(pace.handshake_max_ms - 100), "{:?}", began.elapsed());
    await_that("all are counted", || a.transport.stats().turned_away == STRANGERS_MAX as u64 + 1);
    let _peer = Wire::dial_as(&address_a, B, 0);
}

// covers B31
#[test]
fn peer_comes_in_through_a_crowd_of_silent_strangers_and_stays() {
    let (listener_a, address_a) = listen();
    let a = Node::start(config(A, &[(1, "127.0.0.1:1")]), listener_a);
    let mut crowd = idle(&address_a, 4 * STRANGERS_MAX);
    let mut peer = Wire::dial_as(&address_a, B, 0);
    crowd.extend(idle(&address_a, 4 * STRANGERS_MAX));
    peer.send(kind::MESSAGE, &(7u64, Vec::<u8>::new()));
    let received = a.await_event(|event| match event {
        TransportEvent::Received { from, message } => Some((*from, message.0)),
        _ => None,
    });
    assert_eq!(received, (B, 7));
}

// covers B31
#[test]
fn peer_with_too_many_connections_is_refused_until_one_ends() {
    let (listener_a, address_a) = listen();
    let _a = Node::start(config(A, &[(1, "127.0.0.1:1")]), listener_a);
    let snapshot = || {
        let mut wire = Wire::dial(&address_a);
        wire.send(kind::HELLO, &Hello { purpose: Purpose::Snapshot, ..hello(B, 0) });
        wire
    };
    let mut open: Vec<Wire> = Vec::new();
    for _ in 0..CONNECTIONS_OF_PEER_MAX {
        let mut wire = snapshot();
        assert_eq!(wire.receive().unwrap().0, kind::WELCOME);
        open.push(wire);
    }
    let mut beyond = snapshot();
    assert_eq!(beyond.receive().unwrap().0, kind::REFUSAL);
    open.pop();
    await_that("a place is free", || snapshot().receive().is_some_and(|answer| answer.0 == kind::WELCOME));
}

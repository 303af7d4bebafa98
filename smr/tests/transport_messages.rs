//! Messages over real sockets: order, bounds, reconnection, and what the end of a connection means.
#![allow(missing_docs, dead_code, unreachable_pub, reason = "each test file uses a part of the shared helpers")]
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod transport_support;

use std::io::Write;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};
use smr::id::{NodeId, ReplicaId};
use smr::internals::transport::{
    BULK_LANE_MAX_BYTES, Lane, NoSnapshots, PINGS_MISSED_MAX, Pace, Transport, TransportEvent,
};
use transport_support::*;

const A: NodeId = NodeId::new(0, 100);
const B: NodeId = NodeId::new(1, 101);
/// B after its disk was emptied.
const B_AGAIN: NodeId = NodeId::new(1, 999);

fn pair() -> (Node, Node, String) {
    pair_at(Pace::default())
}

fn pair_at(pace: Pace) -> (Node, Node, String) {
    let (listener_a, address_a) = listen();
    let (listener_b, address_b) = listen();
    let a = Node::start_with(config(A, &[(1, &address_b)]), listener_a, Arc::new(NoSnapshots), pace);
    let b = Node::start_with(config(B, &[(0, &address_a)]), listener_b, Arc::new(NoSnapshots), pace);
    a.await_connected(B);
    b.await_connected(A);
    (a, b, address_b)
}

/// One node whose peer B is played by the test.
fn alone() -> (Node, TcpListener, String) {
    alone_at(Pace::default())
}

fn alone_at(pace: Pace) -> (Node, TcpListener, String) {
    let (listener_a, address_a) = listen();
    let (listener_b, address_b) = listen();
    let a = Node::start_with(config(A, &[(1, &address_b)]), listener_a, Arc::new(NoSnapshots), pace);
    (a, listener_b, address_a)
}

fn received(event: &Event) -> Option<(NodeId, u64)> {
    match event {
        TransportEvent::Received { from, message } => Some((*from, message.0)),
        _ => None,
    }
}

#[test]
fn messages_of_a_lane_arrive_all_and_in_order() {
    let (a, b, _) = pair();
    for number in 0..1000 {
        a.transport.queue(B, (number, vec![1; 100]), Lane::Bulk, 100);
        a.transport.queue(B, (10_000 + number, vec![]), Lane::Urgent, 10);
    }
    a.transport.flush();
    let mut bulk = Vec::new();
    let mut urgent = Vec::new();
    for _ in 0..2000 {
        let (from, number) = b.await_event(received);
        assert_eq!(from, A);
        if number < 10_000 { bulk.push(number) } else { urgent.push(number - 10_000) }
    }
    let all: Vec<u64> = (0..1000).collect();
    assert_eq!(bulk, all);
    assert_eq!(urgent, all);
    let stats = a.transport.stats();
    assert_eq!(stats.messages_sent, 2000);
    assert!(stats.batches_sent < 2000, "messages share system calls: {stats:?}");
}

#[test]
fn message_of_several_megabytes_arrives_whole() {
    let (a, b, _) = pair();
    let ballast: Vec<u8> = (0..7_000_000u32).map(|n| (n % 251) as u8).collect();
    a.transport.send(B, (1, ballast.clone()), Lane::Bulk, ballast.len());
    let found = b.await_event(|event| match event {
        TransportEvent::Received { message, .. } => Some(message.1.clone()),
        _ => None,
    });
    assert!(found == ballast);
}

#[test]
fn message_beyond_the_frame_limit_dropped_and_the_next_one_delivered() {
    let (a, b, _) = pair();
    a.transport.send(B, (1, vec![0; 9 << 20]), Lane::Bulk, 9 << 20);
    a.transport.send(B, (2, vec![]), Lane::Bulk, 10);
    assert_eq!(b.await_event(received), (A, 2));
    assert_eq!(a.transport.stats().dropped_too_long, 1);
}

// covers N7
#[test]
fn peer_that_accepts_and_never_reads_costs_bounded_memory_and_no_waiting_and_is_left() {
    // Not so brisk that a busy machine closes it for silence before it is full.
    let (a, listener_b, _) = alone_at(Pace { ping_interval_ms: 1_000, ..BRISK });
    let (_never_read, _) = Wire::accept_as(&listener_b, B);
    a.await_connected(B);
    let size = 1 << 20;
    let count = 4 * BULK_LANE_MAX_BYTES / size;
    for number in 0..count {
        a.transport.send(B, (number as u64, vec![0; size]), Lane::Bulk, size);
    }
    assert!(a.transport.stats().dropped_full > 0, "what finds no room is dropped, and not waited for");
    await_that("the connection is given up", || a.transport.incarnation_of(ReplicaId(1)).is_none());
    assert_eq!(a.transport.stats().closed_for_silence, 1);
    await_that("every message is accounted for", || {
        let stats = a.transport.stats();
        stats.messages_sent + stats.dropped_full + stats.dropped_unconnected == count as u64
    });
}

// covers N6
#[test]
fn connections_that_fall_silent_are_closed_without_a_disconnect() {
    let (a, listener_b, address_a) = alone_at(BRISK);
    // B keeps reading what A sends, so nothing is stuck; but it answers no ping.
    let (mut from_a, _) = Wire::accept_as(&listener_b, B);
    let mut to_a = Wire::dial_as(&address_a, B, 0);
    a.await_connected(B);
    from_a.await_end();
    to_a.await_end();
    assert_eq!(a.transport.stats().closed_for_silence, 2);
    let events = a.drain(Duration::from_millis(50));
    assert!(events.is_empty(), "{events:?}");
}

#[test]
fn idle_connections_stay_open_by_pings() {
    // On a busy machine pings may be late, by less than two seconds.
    let pace = Pace { ping_interval_ms: 500, ..BRISK };
    let (a, b, _) = pair_at(pace);
    // Twice the silence that closes a connection.
    let events = a.drain(Duration::from_millis(2 * u64::from(PINGS_MISSED_MAX) * pace.ping_interval_ms));
    assert!(events.is_empty(), "{events:?}");
    assert!(b.events.try_recv().is_err());
    assert_eq!(a.transport.stats().closed_for_silence + b.transport.stats().closed_for_silence, 0);
}

// covers M7, N10
#[test]
fn peer_that_comes_back_on_an_empty_disk_is_another_node() {
    let (a, b, address_b) = pair();
    let address_a = "127.0.0.1:1"; // no one: the new B is only dialled
    b.transport.shutdown();
    a.await_event(|event| (*event == TransportEvent::Disconnected { peer: B }).then_some(()));
    let b_again = Node::start(config(B_AGAIN, &[(0, address_a)]), listen_again(&address_b));
    a.await_connected(B_AGAIN);
    assert_eq!(a.transport.incarnation_of(ReplicaId(1)), Some(B_AGAIN.incarnation));
    a.transport.send(B, (1, vec![]), Lane::Urgent, 10);
    a.transport.send(B_AGAIN, (2, vec![]), Lane::Urgent, 10);
    assert_eq!(b_again.await_event(received), (A, 2));
    assert_eq!(a.transport.stats().dropped_unconnected, 1);
}

// covers N8
#[test]
fn restarted_peer_is_found_again_and_messages_flow_both_ways() {
    let (a, b, address_b) = pair();
    let address_a = {
        drop(a);
        let (listener_a, address_a) = listen();
        drop(b);
        (listener_a, address_a)
    };
    let (listener_a, address_a) = address_a;
    let a = Node::start(config(A, &[(1, &address_b)]), listener_a);
    for round in 0..5 {
        let b = Node::start(config(B, &[(0, &address_a)]), listen_again(&address_b));
        a.await_connected(B);
        b.await_connected(A);
        a.transport.send(B, (round, vec![]), Lane::Bulk, 10);
        b.transport.send(A, (round, vec![]), Lane::Bulk, 10);
        assert_eq!(b.await_event(received), (A, round));
        assert_eq!(a.await_event(received), (B, round));
        b.transport.shutdown();
        a.await_event(|event| (*event == TransportEvent::Disconnected { peer: B }).then_some(()));
    }
}

// covers N5, N8
#[test]
fn newer_connection_supersedes_the_older_one_whose_end_is_no_news() {
    let (a, _listener_b, address_a) = alone();
    let mut older = Wire::dial_as(&address_a, B, 0);
    older.send(kind::MESSAGE, &(1u64, Vec::<u8>::new()));
    assert_eq!(a.await_event(received), (B, 1));
    let mut newer = Wire::dial_as(&address_a, B, 0);
    // Late words of the dead connection. It is being closed, so writing may fail.
    drop(older.0.write_all(&frame(kind::MESSAGE, &(2u64, Vec::<u8>::new()))));
    older.await_end();
    newer.send(kind::MESSAGE, &(3u64, Vec::<u8>::new()));
    assert_eq!(a.await_event(|event| Some(format!("{event:?}"))), format!("{:?}", received_event(3)));
    drop(newer);
    let next = a.await_event(|event| Some(format!("{event:?}")));
    assert_eq!(next, format!("{:?}", Event::Disconnected { peer: B }));
}

/// A message that takes ten milliseconds to decode.
#[derive(Serialize)]
struct Slow(u64);

impl<'de> Deserialize<'de> for Slow {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Slow, D::Error> {
        std::thread::sleep(Duration::from_millis(10));
        u64::deserialize(deserializer).map(Slow)
    }
}

// covers N5, N8
#[test]
fn frames_read_from_the_older_connection_are_not_delivered_after_the_newer_one_speaks() {
    let (listener_a, address_a) = listen();
    let (sender, numbers) = channel();
    let sink = Arc::new(move |event: TransportEvent<Slow>| {
        if let TransportEvent::Received { message: Slow(number), .. } = event {
            sender.send(number).ok();
        }
        true
    });
    // Its own: the slow task must not stand in the way of the new connection's.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    let handle = runtime.handle().clone();
    let config = config(A, &[(1, "127.0.0.1:1")]);
    let _a = Transport::start(config, listener_a, handle, sink, Arc::new(NoSnapshots)).unwrap();
    let mut older = Wire::dial_as(&address_a, B, 0);
    // All in one read: twenty seconds of work for the connection's task, if it is not stopped.
    let many: Vec<u8> = (0..2000u64).flat_map(|number| frame(kind::MESSAGE, &number)).collect();
    older.0.write_all(&many).unwrap();
    assert_eq!(numbers.recv_timeout(TIMEOUT), Ok(0));
    // The thread that is now busy may be the one that watched the sockets; a task from outside wakes another for that.
    runtime.block_on(runtime.spawn(async {})).unwrap();
    let mut newer = Wire::dial_as(&address_a, B, 0);
    newer.send(kind::MESSAGE, &8000u64);
    older.await_end();
    newer.send(kind::MESSAGE, &8001u64);
    let mut heard = Vec::new();
    while heard.last() != Some(&8001) {
        heard.push(numbers.recv_timeout(TIMEOUT).unwrap());
    }
    assert!(heard.len() < 2000, "the older one was cut short");
    let first_of_newer = heard.iter().position(|number| *number == 8000).unwrap();
    assert_eq!(heard[first_of_newer..], [8000, 8001]);
}

fn received_event(number: u64) -> Event {
    TransportEvent::Received { from: B, message: (number, vec![]) }
}

// covers M7
#[test]
fn other_incarnation_of_a_name_is_a_connection_of_its_own() {
    let (a, _listener_b, address_a) = alone();
    let one = Wire::dial_as(&address_a, B, 0);
    let mut other = Wire::dial_as(&address_a, B_AGAIN, 0);
    drop(one);
    a.await_event(|event| (*event == TransportEvent::Disconnected { peer: B }).then_some(()));
    other.send(kind::MESSAGE, &(5u64, Vec::<u8>::new()));
    assert_eq!(a.await_event(received), (B_AGAIN, 5));
}

#[test]
fn end_of_a_peer_is_told_at_once_behind_its_last_words() {
    // Silence would be noticed an hour later.
    let (a, _listener_b, address_a) = alone_at(Pace { ping_interval_ms: 3_600_000, ..BRISK });
    for round in 0..20u64 {
        let mut wire = Wire::dial(&address_a);
        wire.send(kind::HELLO, &hello(B, 0));
        if round % 2 == 0 {
            // An orderly end; without this the unread Welcome makes it a reset.
            assert_eq!(wire.receive().unwrap().0, kind::WELCOME);
        }
        wire.send(kind::MESSAGE, &(round, Vec::<u8>::new()));
        assert_eq!(a.await_event(|event| Some(received(event))), Some((B, round)));
        drop(wire);
        let event = a.await_event(|event| Some(format!("{event:?}")));
        assert_eq!(event, format!("{:?}", Event::Disconnected { peer: B }));
    }
}

// covers N8
#[test]
fn end_inside_a_frame_delivers_nothing_of_it() {
    let (a, _listener_b, address_a) = alone();
    let mut wire = Wire::dial_as(&address_a, B, 0);
    let whole = frame(kind::MESSAGE, &(1u64, vec![0u8; 1000]));
    wire.0.write_all(&whole[..500]).unwrap();
    drop(wire);
    let event = a.await_event(|event| Some(format!("{event:?}")));
    assert_eq!(event, format!("{:?}", Event::Disconnected { peer: B }));
}

// covers B1, B5
#[test]
fn malformed_frame_after_the_handshake_closes_that_connection_only() {
    let (a, _listener_b, address_a) = alone();
    let mut damaged = frame(kind::MESSAGE, &(1u64, vec![0u8; 100]));
    damaged[40] ^= 1;
    let mut bystander = Wire::dial_as(&address_a, B_AGAIN, 0);
    let cases = [damaged, frame(kind::MESSAGE, &1u8), frame(kind::HELLO, &hello(B, 0)), frame(77, &()), vec![0xff; 64]];
    for (count, bytes) in cases.iter().enumerate() {
        let mut wire = Wire::dial_as(&address_a, B, 0);
        wire.0.write_all(bytes).unwrap();
        wire.await_end();
        await_that("counted", || a.transport.stats().closed_for_violations == count as u64 + 1);
    }
    bystander.send(kind::MESSAGE, &(9u64, Vec::<u8>::new()));
    // We closed them: that is no news of B.
    assert_eq!(a.await_event(|event| Some(received(event))), Some((B_AGAIN, 9)));
}

#[test]
fn ping_is_answered_by_a_pong() {
    let (_a, _listener_b, address_a) = alone();
    let mut wire = Wire::dial_as(&address_a, B, 0);
    wire.send(kind::PING, &());
    assert_eq!(wire.receive(), Some((kind::PONG, vec![])));
}

#[test]
fn full_sink_loses_messages_but_no_other_event() {
    let (listener_a, address_a) = listen();
    let (_listener_b, address_b) = listen();
    let full = Arc::new(AtomicBool::new(true));
    let (sender, events) = channel();
    let gauge = full.clone();
    let sink = Arc::new(move |event: Event| {
        let room = !gauge.load(Ordering::SeqCst);
        if room {
            drop(sender.send(event));
        }
        room
    });
    let handle = runtime().handle().clone();
    let config = config(A, &[(1, &address_b)]);
    let transport: Transport<Message> =
        Transport::start(config, listener_a, handle, sink, Arc::new(NoSnapshots)).unwrap();
    let mut wire = Wire::dial_as(&address_a, B, 0);
    wire.send(kind::MESSAGE, &(1u64, Vec::<u8>::new()));
    await_that("the message is dropped", || transport.stats().dropped_by_sink == 1);
    drop(wire);
    full.store(false, Ordering::SeqCst);
    assert_eq!(events.recv_timeout(TIMEOUT), Ok(TransportEvent::Disconnected { peer: B }));
}

// covers B10
#[test]
fn shutdown_closes_all_and_ends_the_events() {
    let (a, b, _) = pair();
    a.transport.shutdown();
    b.await_event(|event| (*event == TransportEvent::Disconnected { peer: A }).then_some(()));
    await_that("b has lost a", || b.transport.incarnation_of(ReplicaId(0)).is_none());
    assert!(a.events.try_recv().is_err());
}

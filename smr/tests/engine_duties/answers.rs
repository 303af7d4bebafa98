//! Answers are bounded in bytes, for a turn and for a connection.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use smr::entry::Index;
use smr::internals::engine::{ANSWERS_PER_TURN_MAX_BYTES, BUSY_RETRY_MS};
use smr::internals::protocol::{Effects, ReadOutcome, Time, WriteId};
use smr::replica::{Outcome, Request};

use crate::stage::*;

/// Bytes of answers that have reached the connections.
fn answered_bytes(replica: &Replica) -> usize {
    let outcomes = |connection: &Arc<Connection>| {
        let outcomes = connection.0.lock().unwrap();
        let bytes = outcomes.values().map(|outcome| match outcome {
            Outcome::Answer(answer) => answer.len(),
            _ => 0,
        });
        bytes.sum::<usize>()
    };
    replica.connections.iter().map(outcomes).sum()
}

// covers B13: one client that asks for large values again and again does not make a turn long, nor memory full.
#[test]
fn answers_of_a_turn_are_bounded_in_bytes_those_of_reads_and_those_of_writes() {
    const LARGE: usize = 1 << 20;
    const COUNT: usize = 20;
    let (mut replica, client) = Replica::with_session();
    let large = || Bytes::from(vec![b'x'; LARGE]);
    let write = |number| Request::Write { client, number, lowest_unanswered: 1, command: large() };
    replica.ask((1..=COUNT as u64).map(|number| (0, number, write(number))).collect());
    replica.core.commit_up_to(usize::MAX);
    let turns = |replica: &mut Replica| {
        let (mut turns, mut before) = (0, answered_bytes(replica));
        while replica.engine.has_work() {
            replica.turn_ends();
            let now = answered_bytes(replica);
            assert!(
                now - before <= ANSWERS_PER_TURN_MAX_BYTES + 2 * LARGE,
                "a turn gave {} bytes of answers",
                now - before
            );
            (turns, before) = (turns + 1, now);
        }
        turns
    };
    assert!(turns(&mut replica) >= COUNT * LARGE / (ANSWERS_PER_TURN_MAX_BYTES + LARGE));
    assert_eq!(replica.applied().len(), COUNT);
    // Each answer to a read is all that was ever written.
    let (mut replica, client) = Replica::with_session();
    let write = Request::Write { client, number: 1, lowest_unanswered: 1, command: large() };
    replica.ask(vec![(0, 1, write)]);
    replica.commit_all();
    replica.ask((1..=COUNT as u64).map(|tag| (1, tag, read())).collect());
    let ready = ReadOutcome::Ready { token: replica.core.last_token(), index: Index(2) };
    replica.core.0.lock().unwrap().next.push_back(Effects { reads: vec![ready], ..Effects::default() });
    replica.engine.durable(Time(1), WriteId(1));
    assert!(turns(&mut replica) >= COUNT * LARGE / (ANSWERS_PER_TURN_MAX_BYTES + LARGE));
    for tag in 1..=COUNT as u64 {
        assert!(matches!(replica.outcome(1, tag), Some(Outcome::Answer(bytes)) if bytes.len() == LARGE), "read {tag}");
    }
}

// covers B13
#[test]
fn read_of_a_connection_without_room_for_answers_is_busy_and_others_are_answered() {
    let (mut replica, client) = Replica::with_session();
    replica.ask(vec![(0, 1, write(client, 1, "x"))]);
    replica.commit_all();
    replica.connections[1].1.store(true, Ordering::Relaxed);
    replica.ask(vec![(1, 1, read()), (0, 2, read())]);
    let ready = ReadOutcome::Ready { token: replica.core.last_token(), index: Index(2) };
    replica.happens(Effects { reads: vec![ready], ..Effects::default() });
    assert_eq!(replica.outcome(1, 1), Some(Outcome::Busy { retry_after_ms: BUSY_RETRY_MS }));
    assert_eq!(replica.outcome(0, 2), answer("x"));
}

//! Writes that a member keeps although another one orders them: what is answered when, and what is sent on.

use bytes::Bytes;
use smr::entry::{Entry, EntryId, Index, Payload, Term};
use smr::id::ClientId;
use smr::internals::engine::{
    Action, COMMAND_MAX_BYTES, FORWARD_AFTER_US, FORWARD_AGAIN_MAX_US, FORWARD_MAX_BYTES, ForwardedWrite, KEPT_FOR_US,
    KEPT_MAX, KEPT_MAX_BYTES,
};
use smr::internals::protocol::{Effects, Event, LogChange, Protocol, Route, Routing, Time, Write, WriteId};
use smr::internals::session::{SESSIONS_MAX, SessionCommand};
use smr::replica::{NotLeader, Outcome, Request};
use smr::status::Role;
use smr::version::CommandVersions;

use crate::stage::*;

/// A member of a group whose clients send to all; [`B`] orders.
fn member() -> (Replica, ClientId) {
    let (mut replica, client) = Replica::with_session();
    replica.core.0.lock().unwrap().keeps_writes = true;
    is_told(&mut replica, Route::There(Some(B.name)), Route::Here);
    (replica, client)
}

fn is_told(replica: &mut Replica, writes: Route, answers: Route) {
    let routing = Routing { term: Term(TERM), writes, reads: writes, answers };
    replica.core.0.lock().unwrap().routing = Some(routing);
    replica.turn_ends();
}

fn forwarded(client: ClientId, number: u64, command: &'static str) -> ForwardedWrite {
    ForwardedWrite { client, number, lowest_unanswered: 1, command: Bytes::from_static(command.as_bytes()) }
}

fn command(client: ClientId, number: u64, command: &'static str) -> SessionCommand {
    let command = Bytes::from_static(command.as_bytes());
    SessionCommand::Write { client, number, lowest_unanswered: 1, command }
}

/// Time passes until then; what is sent on, and to whom.
fn sent_at(replica: &mut Replica, us: u64) -> Vec<ForwardedWrite> {
    replica.engine.tick(Time(us));
    let sent = replica.engine.take_actions().into_iter().filter_map(|action| match action {
        Action::Forward(to, writes) => {
            assert_eq!(to, B);
            Some(writes)
        }
        _ => None,
    });
    sent.flatten().collect()
}

/// The core writes this to its log.
fn log_changes(replica: &mut Replica, change: LogChange) {
    let write = Write::new(WriteId(1), None, vec![change], Vec::new());
    replica.happens(Effects { writes: vec![write], ..Effects::default() });
}

fn appended(index: u64, command: &SessionCommand) -> LogChange {
    LogChange::Append(vec![Entry { id: EntryId::new(index, TERM), payload: Payload::Command(command.encode()) }])
}

// covers K13 C1
#[test]
fn member_that_does_not_order_answers_what_it_has_applied_by_session_and_number() {
    let (mut replica, client) = member();
    replica.ask(vec![(0, 1, write(client, 1, "x")), (0, 2, write(client, 2, "y"))]);
    replica.ask(vec![(1, 1, write(client, 1, "x"))]);
    assert_eq!((replica.outcome(0, 1), replica.core.status().last.index), (None, Index(1)), "it orders nothing");
    assert_eq!(replica.engine.requests_waiting(), 3);
    // The first has ordered them the other way round.
    replica.core.append(TERM, &command(client, 2, "y"));
    replica.core.append(TERM, &command(client, 1, "x"));
    replica.commit_all();
    for (connection, tag) in [(0, 1), (1, 1)] {
        assert_eq!(replica.outcome(connection, tag), answer("x was number 2"));
    }
    assert_eq!(replica.outcome(0, 2), answer("y was number 1"));
    assert_eq!(replica.engine.requests_waiting(), 0);
    // A copy that comes late is answered from the table, and another command under its number refused.
    replica.ask(vec![(0, 3, write(client, 1, "x")), (0, 4, write(client, 1, "z"))]);
    assert_eq!(replica.outcome(0, 3), answer("x was number 2"));
    assert!(matches!(replica.outcome(0, 4), Some(Outcome::Refused(_))));
}

// covers K13 C9
#[test]
fn requests_without_identity_are_not_kept() {
    let (mut replica, _) = member();
    let idempotent = Request::Idempotent { command: Bytes::from_static(b"x") };
    replica.ask(vec![(0, 1, Request::OpenSession), (0, 2, idempotent), (0, 3, read())]);
    for tag in [1, 2, 3] {
        let elsewhere = NotLeader { leader: Some(B.name), term: Term(TERM) };
        assert_eq!(replica.outcome(0, tag), Some(Outcome::NotLeader(elsewhere)), "request {tag}");
    }
}

// covers K13 N8
#[test]
fn write_in_no_entry_is_sent_to_the_first_again_and_again_and_less_often() {
    let (mut replica, client) = member();
    replica.ask(vec![(0, 1, write(client, 1, "x"))]);
    let asked_at = 1;
    assert_eq!(replica.engine.deadline(), Time(asked_at + FORWARD_AFTER_US));
    assert!(sent_at(&mut replica, FORWARD_AFTER_US).is_empty(), "not yet");
    let (mut now, mut pause) = (asked_at + FORWARD_AFTER_US, FORWARD_AFTER_US);
    for _ in 0..8 {
        assert_eq!(sent_at(&mut replica, now), [forwarded(client, 1, "x")], "at {now}");
        assert!(sent_at(&mut replica, now + pause - 1).is_empty());
        now += pause;
        pause = (2 * pause).min(FORWARD_AGAIN_MAX_US);
    }
    // It is there now.
    log_changes(&mut replica, appended(2, &command(client, 1, "x")));
    assert!(sent_at(&mut replica, now + FORWARD_AGAIN_MAX_US).is_empty());
    // It was ordered by a former first, and the present one has never had it.
    log_changes(&mut replica, LogChange::RemoveFrom(Index(2)));
    assert_eq!(sent_at(&mut replica, now + 2 * FORWARD_AGAIN_MAX_US), [forwarded(client, 1, "x")]);
}

// covers K5 K13
#[test]
fn epoch_begins_what_no_entry_holds_goes_to_the_first_at_once() {
    let (mut replica, client) = member();
    replica.ask(vec![(0, 1, write(client, 1, "x")), (0, 2, write(client, 2, "y"))]);
    log_changes(&mut replica, appended(2, &command(client, 1, "x")));
    let event = Event::RoleChanged { role: Role::Follower, term: Term(TERM + 1), leader: Some(B) };
    replica.happens(Effects { events: vec![event], ..Effects::default() });
    assert_eq!(replica.engine.deadline(), Time(0), "a turn is due");
    assert_eq!(sent_at(&mut replica, 2), [forwarded(client, 2, "y")], "the other one is in the log");
}

// covers K5 K13
#[test]
fn member_that_becomes_first_orders_what_it_kept_once() {
    let (mut replica, client) = member();
    replica.ask(vec![(0, 1, write(client, 1, "x")), (1, 1, write(client, 1, "x"))]);
    let event = Event::RoleChanged { role: Role::Leader, term: Term(TERM + 1), leader: None };
    replica.happens(Effects { events: vec![event], ..Effects::default() });
    assert!(sent_at(&mut replica, 2).is_empty());
    assert_eq!(replica.core.status().last.index, Index(2), "one entry");
    replica.commit_all();
    for connection in [0, 1] {
        assert_eq!(replica.outcome(connection, 1), answer("x was number 1"));
    }
    assert_eq!(replica.applied(), ["x"]);
}

// covers C2 K13
#[test]
fn first_orders_what_others_send_on_unless_it_has_it() {
    let (mut replica, client) = member();
    replica.engine.forwarded(Time(1), vec![forwarded(client, 1, "x")]);
    assert_eq!(replica.core.status().last.index, Index(1), "it is not the first");
    is_told(&mut replica, Route::Here, Route::Here);
    replica.ask(vec![(0, 1, write(client, 1, "x"))]);
    replica.engine.forwarded(Time(1), vec![forwarded(client, 1, "x"), forwarded(client, 2, "y")]);
    replica.engine.forwarded(Time(1), vec![forwarded(client, 2, "y")]);
    assert_eq!(replica.core.status().last.index, Index(3), "one that waits, and one that came once more");
    replica.commit_all();
    assert_eq!(replica.outcome(0, 1), answer("x was number 1"));
    replica.engine.forwarded(Time(1), vec![forwarded(client, 1, "x"), forwarded(client, 2, "y")]);
    assert_eq!(replica.core.status().last.index, Index(3), "both have their answers");
    assert_eq!(replica.applied(), ["x", "y"]);
}

// covers K7 K17
#[test]
fn member_that_lacks_something_refuses_nothing_and_answers_once_it_is_complete() {
    let (mut replica, client) = member();
    let first = Route::There(Some(B.name));
    is_told(&mut replica, first, first);
    // Nothing of this would be taken by a complete one.
    replica.ask(vec![(0, 1, write(ClientId::at(9), 1, "x")), (0, 2, write(client, 0, "y"))]);
    replica.ask(vec![(0, 3, write(client, 1, "z"))]);
    replica.core.append(TERM, &command(client, 1, "z"));
    replica.commit_all();
    assert_eq!(replica.applied(), ["z"]);
    for tag in [1, 2, 3] {
        assert_eq!(replica.outcome(0, tag), None, "request {tag}");
    }
    assert!(sent_at(&mut replica, 10 * FORWARD_AFTER_US).is_empty(), "those who have everything send on");
    is_told(&mut replica, first, Route::Here);
    sent_at(&mut replica, 100 * FORWARD_AFTER_US);
    assert_eq!(replica.outcome(0, 3), answer("z was number 1"));
    assert!(matches!(replica.outcome(0, 2), Some(Outcome::Refused(_))));
    assert_eq!(replica.outcome(0, 1), None, "that session may be about to open");
}

/// It was applied while this member could not answer, and its session was evicted: a client that were told so by all
/// members would do it once more.
// covers C5 C9 K13
#[test]
fn session_that_ends_while_a_write_of_it_is_kept_leaves_its_outcome_unknown() {
    let (mut replica, client) = member();
    let first = Route::There(Some(B.name));
    is_told(&mut replica, first, first);
    replica.ask(vec![(0, 1, write(client, 1, "x"))]);
    replica.core.append(TERM, &command(client, 1, "x"));
    // The oldest goes, used or not.
    for _ in 0..SESSIONS_MAX {
        replica.core.append(TERM, &SessionCommand::Open { nonce: 0 });
    }
    replica.commit_all();
    while replica.engine.has_work() {
        replica.turn_ends();
    }
    assert_eq!((replica.applied(), replica.outcome(0, 1)), (vec!["x"], None));
    is_told(&mut replica, first, Route::Here);
    sent_at(&mut replica, 100 * FORWARD_AFTER_US);
    assert_eq!(replica.outcome(0, 1), Some(Outcome::Unknown));
    // One that comes now was never kept.
    replica.ask(vec![(0, 2, write(client, 1, "x"))]);
    assert_eq!(replica.outcome(0, 2), Some(Outcome::SessionExpired));
}

/// The first may have no room, or too much to do: it says nothing of what others send on.
// covers C9 I17 K13
#[test]
fn write_that_has_no_answer_for_long_is_given_up_and_its_outcome_unknown() {
    let first = Route::There(Some(B.name));
    let asked_at = 1;
    for answers in [Route::Here, first] {
        let (mut replica, client) = member();
        is_told(&mut replica, first, answers);
        replica.ask(vec![(0, 1, write(client, 1, "x")), (0, 2, write(client, 2, "y"))]);
        // One is in the log, where it may wait for others as long.
        log_changes(&mut replica, appended(2, &command(client, 2, "y")));
        sent_at(&mut replica, asked_at + KEPT_FOR_US - 1);
        assert_eq!((replica.outcome(0, 1), replica.outcome(0, 2)), (None, None));
        assert!(replica.engine.deadline() <= Time(asked_at + KEPT_FOR_US));
        assert!(sent_at(&mut replica, asked_at + KEPT_FOR_US).is_empty());
        for tag in [1, 2] {
            assert_eq!(replica.outcome(0, tag), Some(Outcome::Unknown), "request {tag}, answers {answers:?}");
        }
        assert_eq!(replica.engine.requests_waiting(), 0);
        assert!(sent_at(&mut replica, 2 * KEPT_FOR_US).is_empty(), "no one will order it later");
    }
}

// covers I17 K13
#[test]
fn write_that_is_too_large_is_refused_by_each_member_at_once() {
    let first = Route::There(Some(B.name));
    for answers in [Route::Here, first] {
        let (mut replica, client) = member();
        is_told(&mut replica, first, answers);
        let command = Bytes::from(vec![b'x'; COMMAND_MAX_BYTES]);
        replica.ask(vec![(0, 1, Request::Write { client, number: 1, lowest_unanswered: 1, command })]);
        let limit_bytes = COMMAND_MAX_BYTES as u32;
        assert_eq!(replica.outcome(0, 1), Some(Outcome::TooLarge { limit_bytes }), "answers {answers:?}");
        assert!(sent_at(&mut replica, 10 * FORWARD_AFTER_US).is_empty());
    }
}

// covers C9 K13 L20
#[test]
fn write_that_a_member_would_refuse_is_not_sent_on_once_that_member_is_complete() {
    let (mut replica, client) = member();
    let first = Route::There(Some(B.name));
    is_told(&mut replica, first, first);
    replica.ask(vec![(0, 1, write(client, 1, "9 is unknown"))]);
    assert_eq!(replica.outcome(0, 1), None, "it lacks something");
    is_told(&mut replica, first, Route::Here);
    assert!(sent_at(&mut replica, 10 * FORWARD_AFTER_US).is_empty());
    assert!(matches!(replica.outcome(0, 1), Some(Outcome::Refused(_))));
    // One that was sent on before its members were known to be of an older build may be applied.
    for peer in [B, C] {
        replica.engine.peer_applies(peer, CommandVersions::with_machine(2));
    }
    replica.ask(vec![(0, 2, write(client, 2, "2 is new"))]);
    assert_eq!(sent_at(&mut replica, 20 * FORWARD_AFTER_US), [forwarded(client, 2, "2 is new")]);
    replica.engine.peer_applies(B, CommandVersions::FIRST);
    assert!(sent_at(&mut replica, 40 * FORWARD_AFTER_US).is_empty());
    assert_eq!(replica.outcome(0, 2), Some(Outcome::Unknown));
}

// covers C9 K13
#[test]
fn writes_that_are_kept_when_the_replica_stops_have_an_unknown_outcome() {
    let (mut replica, client) = member();
    replica.ask(vec![(0, 1, write(client, 1, "x"))]);
    replica.engine.stop();
    assert_eq!(replica.outcome(0, 1), Some(Outcome::Unknown), "it may have been sent on");
    assert_eq!(replica.engine.requests_waiting(), 0);
}

// covers I17
#[test]
fn writes_beyond_what_is_kept_are_busy() {
    let (mut replica, client) = member();
    let large = Bytes::from(vec![b'x'; 1 << 20]);
    let large = |number| Request::Write { client, number, lowest_unanswered: 1, command: large.clone() };
    let fits = (KEPT_MAX_BYTES >> 20) as u64;
    replica.ask((1..=fits + 1).map(|number| (0, number, large(number))).collect());
    assert_eq!(replica.outcome(0, fits), None);
    assert!(matches!(replica.outcome(0, fits + 1), Some(Outcome::Busy { .. })));
    // A part of it at a time.
    let sent = sent_at(&mut replica, 1 + FORWARD_AFTER_US);
    assert!(sent.iter().map(ForwardedWrite::size_bytes).sum::<usize>() < 2 * FORWARD_MAX_BYTES + (1 << 10));
    let (mut replica, client) = member();
    replica.ask((0..=KEPT_MAX as u64).map(|tag| (0, tag, write(client, 1, "x"))).collect());
    assert_eq!(replica.outcome(0, KEPT_MAX as u64 - 1), None);
    assert!(matches!(replica.outcome(0, KEPT_MAX as u64), Some(Outcome::Busy { .. })));
}

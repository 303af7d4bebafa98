//! Requests and the role: who is asked, what waits, and what its outcome is when the role is lost.

use smr::entry::{Index, Term};
use smr::id::ClientId;
use smr::internals::engine::BUSY_RETRY_MS;
use smr::internals::protocol::{Effects, Event, Protocol, ReadOutcome, Route, Routing};
use smr::internals::session::SessionCommand;
use smr::replica::{NotLeader, Outcome, Request};
use smr::status::Role;

use crate::stage::*;

// covers R4 R14
#[test]
fn read_confirmed_before_its_entries_are_applied_waits_for_them() {
    let (mut replica, client) = Replica::with_session();
    replica.ask(vec![(0, 1, write(client, 1, "x")), (0, 2, write(client, 2, "y"))]);
    replica.ask(vec![(1, 1, read())]);
    let ready = ReadOutcome::Ready { token: replica.core.last_token(), index: Index(3) };
    replica.happens(Effects { reads: vec![ready], ..Effects::default() });
    assert_eq!(replica.outcome(1, 1), None, "nothing of 2 and 3 is applied");
    replica.core.commit_up_to(2);
    replica.turn_ends();
    assert_eq!(replica.outcome(1, 1), None, "3 is not applied");
    replica.commit_all();
    assert_eq!(replica.outcome(1, 1), answer("x y"));
}

// covers R4 I18
#[test]
fn reads_that_wait_when_the_role_is_lost_fail_and_are_never_answered() {
    let (mut replica, client) = Replica::with_session();
    replica.ask(vec![(0, 1, write(client, 1, "x"))]);
    replica.ask(vec![(1, 1, read())]);
    let unconfirmed = replica.core.last_token();
    replica.ask(vec![(1, 2, read())]);
    let ready = ReadOutcome::Ready { token: replica.core.last_token(), index: Index(2) };
    replica.happens(Effects { reads: vec![ready], ..Effects::default() });
    replica.happens(deposed());
    for tag in [1, 2] {
        assert!(matches!(replica.outcome(1, tag), Some(Outcome::NotLeader(NotLeader { .. }))), "read {tag}");
    }
    assert_eq!(replica.outcome(0, 1), Some(Outcome::Unknown), "the write may yet be committed");
    // It leads again, and what the reads waited for is applied. A second answer would fail in the connection.
    let event = Event::RoleChanged { role: Role::Leader, term: Term(TERM + 2), leader: None };
    replica.happens(Effects { events: vec![event], ..Effects::default() });
    let late = ReadOutcome::Ready { token: unconfirmed, index: Index(1) };
    replica.happens(Effects { reads: vec![late], ..Effects::default() });
    replica.commit_all();
    assert_eq!(replica.applied(), ["x"]);
    assert_eq!(replica.engine.requests_waiting(), 0);
}

// covers C2 I13
#[test]
fn copies_of_a_write_in_one_batch_and_terms_apart_have_one_effect_and_one_answer() {
    let (mut replica, client) = Replica::with_session();
    // The leader takes both: neither is applied yet, nor waits.
    replica.ask(vec![(0, 1, write(client, 1, "x")), (1, 1, write(client, 1, "x")), (0, 2, write(client, 2, "y"))]);
    // This one waits along with another.
    replica.ask(vec![(0, 3, write(client, 1, "x"))]);
    // One more was put into the log by a later leader, to which the client had turned.
    let Request::Write { client, number, lowest_unanswered, command } = write(client, 1, "x") else { unreachable!() };
    replica.core.append(TERM + 1, &SessionCommand::Write { client, number, lowest_unanswered, command });
    replica.commit_all();
    assert_eq!(replica.applied(), ["x", "y"]);
    for (connection, tag) in [(0, 1), (1, 1), (0, 3)] {
        assert_eq!(replica.outcome(connection, tag), answer("x was number 1"), "copy {connection} {tag}");
    }
    assert_eq!(replica.outcome(0, 2), answer("y was number 2"));
    // And on arrival, now that it is applied.
    replica.ask(vec![(1, 9, write(client, 1, "x"))]);
    assert_eq!(replica.outcome(1, 9), answer("x was number 1"));
}

// covers C9 I17
#[test]
fn writes_behind_what_earlier_leaders_left_uncommitted_busy_until_it_is_committed() {
    let (mut replica, client) = Replica::with_uncommitted_max(4).and_session();
    // Two leaders were cut off one after the other, each with the same write in its log.
    let Request::Write { number, lowest_unanswered, command, .. } = write(client, 1, "x") else { unreachable!() };
    for term in [TERM - 1, TERM] {
        let command = command.clone();
        replica.core.append(term, &SessionCommand::Write { client, number, lowest_unanswered, command });
    }
    replica.ask((1..=4).map(|number| (0, number, write(client, number, "y"))).collect());
    assert_eq!(replica.core.status().last.index, Index(5), "two of theirs and two more");
    for number in [3, 4] {
        assert_eq!(replica.outcome(0, number), Some(Outcome::Busy { retry_after_ms: BUSY_RETRY_MS }));
    }
    // One that waits already adds nothing.
    replica.ask(vec![(1, 2, write(client, 2, "y"))]);
    assert_eq!(replica.outcome(1, 2), None);
    replica.commit_all();
    assert_eq!(replica.outcome(1, 2), answer("y was number 2"));
    replica.ask(vec![(0, 13, write(client, 3, "y"))]);
    replica.commit_all();
    assert_eq!(replica.outcome(0, 13), answer("y was number 3"));
    assert_eq!(replica.applied(), ["x", "y", "y"]);
}

// covers C2 I13 I17
#[test]
fn copy_of_a_write_that_waits_for_its_commit_waits_along_and_adds_no_entry() {
    let (mut replica, client) = Replica::with_session();
    replica.ask(vec![(0, 1, write(client, 1, "x")), (0, 2, write(client, 2, "y"))]);
    let entries = replica.core.status().last.index;
    // Its answer is late, so the client asks again and again: a log that commits slowly must not fill with copies.
    for tag in 10..20 {
        replica.ask(vec![(1, tag, write(client, 2, "y")), (1, tag + 100, write(client, 1, "x"))]);
    }
    assert_eq!(replica.core.status().last.index, entries);
    assert_eq!(replica.outcome(1, 10), None);
    // Another command under the number of one that waits is no copy of it.
    replica.ask(vec![(0, 3, write(client, 2, "z"))]);
    replica.commit_all();
    assert_eq!(replica.applied(), ["x", "y"]);
    for tag in 10..20 {
        assert_eq!(replica.outcome(1, tag), answer("y was number 2"));
        assert_eq!(replica.outcome(1, tag + 100), answer("x was number 1"));
    }
    assert!(matches!(replica.outcome(0, 3), Some(Outcome::Refused(_))), "{:?}", replica.outcome(0, 3));
    // Applied, nothing of it waits any more: the next copy is answered on arrival.
    replica.ask(vec![(1, 30, write(client, 2, "y"))]);
    assert_eq!(replica.outcome(1, 30), answer("y was number 2"));
}

// covers C2 C9
#[test]
fn copies_of_a_write_whose_leader_loses_its_role_all_hear_that_its_outcome_is_unknown() {
    let (mut replica, client) = Replica::with_session();
    replica.ask(vec![(0, 1, write(client, 1, "x"))]);
    replica.ask(vec![(1, 1, write(client, 1, "x"))]);
    let lost = Event::RoleChanged { role: Role::Follower, term: Term(TERM + 1), leader: None };
    replica.happens(Effects { events: vec![lost], ..Effects::default() });
    assert_eq!(replica.outcome(0, 1), Some(Outcome::Unknown));
    assert_eq!(replica.outcome(1, 1), Some(Outcome::Unknown));
}

// covers C7 C2
#[test]
fn number_of_a_session_used_by_two_connections_for_two_commands_applies_one_and_refuses_the_other() {
    let (mut replica, client) = Replica::with_session();
    // Both are taken, and only applying them can tell.
    replica.ask(vec![(0, 1, write(client, 1, "x")), (1, 1, write(client, 1, "other"))]);
    // A gap after that is none of its business.
    replica.ask(vec![(1, 2, write(client, 7, "z"))]);
    replica.commit_all();
    assert_eq!(replica.applied(), ["x", "z"]);
    assert_eq!(replica.outcome(0, 1), answer("x was number 1"));
    assert!(matches!(replica.outcome(1, 1), Some(Outcome::Refused(_))), "{:?}", replica.outcome(1, 1));
    assert_eq!(replica.outcome(1, 2), answer("z was number 2"));
}

// covers L11 C9
#[test]
fn entry_of_another_leader_at_the_place_of_a_waiting_write_is_not_taken_for_it() {
    let (mut replica, client) = Replica::with_session();
    replica.ask(vec![(0, 1, write(client, 1, "x"))]);
    let Request::Write { client, number, lowest_unanswered, command } = write(client, 2, "y") else { unreachable!() };
    let command = SessionCommand::Write { client, number, lowest_unanswered, command };
    replica.core.0.lock().unwrap().log.pop();
    replica.core.append(TERM + 1, &command);
    replica.commit_all();
    assert_eq!(replica.applied(), ["y"]);
    assert_eq!(replica.outcome(0, 1), Some(Outcome::Unknown));
}

/// A replica whose core says where requests go.
fn routed(writes: Route, reads: Route, answers: Route) -> (Replica, ClientId) {
    let (replica, client) = Replica::with_session();
    replica.core.0.lock().unwrap().routing = Some(Routing { term: Term(TERM), writes, reads, answers });
    (replica, client)
}

// A replica that orders nothing may still take reads (each complete member of a chain does), or the reverse.
#[test]
fn requests_go_where_the_core_says_for_each_kind_alone() {
    let there = Route::There(Some(B.name));
    let elsewhere = Some(Outcome::NotLeader(NotLeader { leader: Some(B.name), term: Term(TERM) }));
    let (mut replica, client) = routed(there, Route::Here, Route::Here);
    replica.ask(vec![(0, 1, write(client, 1, "x")), (0, 2, read())]);
    assert_eq!(replica.outcome(0, 1), elsewhere);
    let ready = ReadOutcome::Ready { token: replica.core.last_token(), index: Index(1) };
    replica.happens(Effects { reads: vec![ready], ..Effects::default() });
    assert_eq!(replica.outcome(0, 2), answer(""));

    let (mut replica, client) = routed(Route::Here, there, Route::Here);
    replica.ask(vec![(0, 1, write(client, 1, "x")), (0, 2, read())]);
    replica.commit_all();
    assert_eq!(replica.outcome(0, 1), answer("x was number 1"));
    assert_eq!(replica.outcome(0, 2), elsewhere);
}

// covers C9: who is not to answer must not claim an outcome either way; the session has the answer for whoever is.
#[test]
fn write_that_another_replica_answers_has_an_unknown_outcome_here() {
    let (mut replica, client) = routed(Route::Here, Route::Here, Route::There(Some(C.name)));
    replica.ask(vec![(0, 1, write(client, 1, "x"))]);
    replica.commit_all();
    assert_eq!(replica.applied(), ["x"]);
    assert_eq!(replica.outcome(0, 1), Some(Outcome::Unknown));
}

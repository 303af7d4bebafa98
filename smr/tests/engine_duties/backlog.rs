//! What is committed and not applied yet: in portions, between which what is due goes on.

use std::sync::Arc;

use bytes::Bytes;
use smr::entry::{Configuration, Entry, EntryId, GenesisHash, Index, Payload};
use smr::id::NodeId;
use smr::internals::engine::{Action, Worked};
use smr::internals::protocol::{Effects, Envelope, Protocol, ReadOutcome, Time, WriteId};
use smr::internals::session::SessionCommand;
use smr::internals::turn::{BootstrapRecord, Turns, WRITES_UNDER_WAY_HIGH};
use smr::replica::{Outcome, ReplySink, ReplyTo};

use crate::stage::*;

// covers E18: after a pause the news comes first, however long ago the tick was due; but it waits neither for many
// turns nor for long ones.
#[test]
fn tick_that_is_due_waits_for_news_but_neither_for_many_turns_nor_for_long_ones() {
    let Replica { core, engine, .. } = Replica::new();
    let bootstrap_record = BootstrapRecord { genesis: GenesisHash(1), founders: None, cluster: None };
    let mut turns = Turns::new(engine, bootstrap_record, false, WRITES_UNDER_WAY_HIGH);
    core.0.lock().unwrap().deadline = Some(Time(1_000));
    let ticks = || core.0.lock().unwrap().ticks;
    turns.tick_if_due(Time(999), false);
    assert_eq!(ticks(), 0);
    turns.tick_if_due(Time(1_000), false);
    assert_eq!(ticks(), 1, "nothing else has arrived");
    // Short turns after a long pause.
    let mut turns_until_tick = 0;
    while ticks() == 1 {
        turns.tick_if_due(Time(9_000_000 + turns_until_tick), true);
        turns_until_tick += 1;
    }
    assert_eq!(turns_until_tick, 9);
    // Long ones.
    for (now, expected) in [(20_000_000, 2), (20_049_999, 2), (20_050_000, 3)] {
        turns.tick_if_due(Time(now), true);
        assert_eq!(ticks(), expected, "at {now}");
    }
}

/// What a portion leaves of what is committed.
fn backlog(replica: &Replica) -> u64 {
    replica.core.status().commit.0 - replica.engine.applied().index.0
}

// covers L21
#[test]
fn backlog_is_applied_over_many_turns_and_what_is_due_leaves_between_them() {
    const WRITES: u64 = 1_000;
    let (mut replica, client) = Replica::with_portion(64, usize::MAX).and_session();
    for number in 1..=WRITES {
        let command = Bytes::from(vec![b'x'; 100]);
        replica.core.append(1, &SessionCommand::Write { client, number, lowest_unanswered: 1, command });
    }
    replica.core.commit_up_to(usize::MAX);
    let mut turns = 0;
    while replica.engine.has_work() {
        let before = backlog(&replica);
        let heartbeat = Envelope { to: B, message: () };
        replica.core.0.lock().unwrap().next.push_back(Effects { messages: vec![heartbeat], ..Effects::default() });
        replica.engine.tick(Time(turns));
        replica.engine.work(|_| false);
        let sent = replica.engine.take_actions().into_iter().filter(|action| matches!(action, Action::Send(_)));
        assert_eq!(sent.count(), 1, "turn {turns}: a heartbeat waited for {before} entries");
        assert_eq!(backlog(&replica), before.saturating_sub(64), "turn {turns}");
        turns += 1;
    }
    assert_eq!(turns, WRITES.div_ceil(64));
    assert_eq!(replica.applied().len(), WRITES as usize);
}

// covers L21
#[test]
fn portion_is_bounded_in_bytes_and_a_larger_entry_goes_alone() {
    let mut replica = Replica::with_portion(100, 1_000);
    for len in [300, 300, 300, 5_000, 300] {
        replica.core.append(1, &SessionCommand::Idempotent { command: Bytes::from(vec![b'x'; len]) });
    }
    replica.core.commit_up_to(usize::MAX);
    let mut lengths = Vec::new();
    while replica.engine.has_work() {
        let before = replica.applied().len();
        replica.engine.work(|_| false);
        lengths.push(replica.applied().len() - before);
    }
    assert_eq!(lengths, [2, 1, 1, 1], "entries of about 340 bytes, and one that is larger than a portion");
    // With time left, it goes on.
    replica.core.append(1, &SessionCommand::Idempotent { command: Bytes::from(vec![b'x'; 5_000]) });
    replica.core.append(1, &SessionCommand::Idempotent { command: Bytes::from(vec![b'x'; 5_000]) });
    replica.commit_all();
    assert_eq!((replica.applied().len(), backlog(&replica)), (7, 0));
}

#[test]
fn who_measures_is_told_of_applying_and_of_answering_apart() {
    let mut replica = Replica::with_portion(2, usize::MAX);
    for _ in 0..3 {
        replica.core.append(1, &SessionCommand::Idempotent { command: Bytes::from_static(b"x") });
    }
    replica.core.commit_up_to(usize::MAX);
    let before = backlog(&replica);
    let mut steps = Vec::new();
    replica.engine.work(|worked| {
        steps.push(worked);
        true
    });
    let applied = steps.iter().filter_map(|step| if let Worked::Applied(count) = step { Some(*count) } else { None });
    assert_eq!(applied.sum::<u64>(), before);
    assert!(steps.chunks(2).all(|pair| matches!(pair, [Worked::Applied(1..=2), Worked::Answered])), "{steps:?}");
    // Reads alone apply nothing.
    let reply = ReplyTo { tag: 1, sink: Arc::clone(&replica.connections[1]) as Arc<dyn ReplySink> };
    replica.engine.requests(Time(1), [(read(), reply)]);
    let ready = ReadOutcome::Ready { token: replica.core.last_token(), index: replica.engine.applied().index };
    replica.core.0.lock().unwrap().next.push_back(Effects { reads: vec![ready], ..Effects::default() });
    replica.engine.tick(Time(2));
    steps.clear();
    replica.engine.work(|worked| {
        steps.push(worked);
        true
    });
    assert_eq!(steps, [Worked::Answered]);
}

// covers R14 L21
#[test]
fn read_confirmed_in_the_middle_of_a_backlog_is_answered_behind_it_and_in_order() {
    let (mut replica, client) = Replica::with_portion(1, usize::MAX).and_session();
    replica.ask(vec![(0, 1, write(client, 1, "x")), (0, 2, write(client, 2, "y")), (0, 3, write(client, 3, "z"))]);
    replica.core.commit_up_to(usize::MAX);
    let mut ready = Vec::new();
    for (tag, index) in [(1, 3), (2, 2), (3, 4)] {
        let reply = ReplyTo { tag, sink: Arc::clone(&replica.connections[1]) as Arc<dyn ReplySink> };
        replica.engine.requests(Time(1), [(read(), reply)]);
        ready.push(ReadOutcome::Ready { token: replica.core.last_token(), index: Index(index) });
    }
    replica.core.0.lock().unwrap().next.push_back(Effects { reads: ready, ..Effects::default() });
    replica.engine.durable(Time(1), WriteId(1));
    let mut answered = Vec::new();
    while replica.engine.has_work() {
        replica.engine.work(|_| false);
        replica.engine.take_actions();
        answered.push([1, 2, 3].map(|tag| replica.outcome(1, tag)));
    }
    let both = || answer("x y");
    assert_eq!(
        answered,
        [[None, None, None], [both(), both(), None], [both(), both(), answer("x y z")]],
        "the second one came later than the first, and waits for no less"
    );
    assert_eq!(replica.engine.requests_waiting(), 0);
}

// covers L21 C9: what is committed has its true answer, also from a leader that has lost its role meanwhile.
#[test]
fn writes_committed_and_not_applied_when_the_role_is_lost_have_their_answers_and_later_ones_are_unknown() {
    let (mut replica, client) = Replica::with_portion(1, usize::MAX).and_session();
    replica.ask(vec![(0, 1, write(client, 1, "x")), (0, 2, write(client, 2, "y")), (0, 3, write(client, 3, "z"))]);
    replica.ask(vec![(1, 2, write(client, 2, "y")), (1, 3, write(client, 3, "z"))]);
    replica.core.commit_up_to(3);
    replica.core.0.lock().unwrap().next.push_back(deposed());
    replica.engine.durable(Time(1), WriteId(1));
    assert_eq!(replica.outcome(0, 1), None, "committed, and not applied yet");
    for connection in [0, 1] {
        assert_eq!(replica.outcome(connection, 3), Some(Outcome::Unknown), "the write may yet be committed");
    }
    replica.turn_ends();
    assert_eq!(replica.outcome(0, 1), answer("x was number 1"));
    for connection in [0, 1] {
        assert_eq!(replica.outcome(connection, 2), answer("y was number 2"));
    }
    assert_eq!(replica.engine.requests_waiting(), 0);
}

// covers L22
#[test]
fn snapshot_in_a_backlog_ends_with_what_is_applied_and_none_is_taken_in_the_middle_of_a_large_one() {
    let mut replica = Replica::with_portion(4, usize::MAX);
    for _ in 0..40 {
        let command = Bytes::from(vec![b'x'; SNAPSHOT_BYTES / 20]);
        replica.core.append(1, &SessionCommand::Idempotent { command });
    }
    replica.core.commit_up_to(usize::MAX);
    let mut taken = Vec::new();
    while replica.engine.has_work() {
        replica.engine.work(|_| false);
        for action in replica.engine.take_actions() {
            if let Action::TakeSnapshot(image) = action {
                assert_eq!(image.meta.last, replica.engine.applied());
                assert_eq!(image.state.0.len() as u64, image.meta.last.index.0);
                taken.push(image.meta.last.index.0);
            }
        }
    }
    assert_eq!(taken, [36], "each one before would have been followed by the next at once");
}

// covers L23
#[test]
fn entry_that_puts_the_replica_into_quarantine_is_the_last_one_that_it_applies() {
    let (mut replica, client) = Replica::with_session();
    replica.ask(vec![(0, 1, write(client, 1, "x"))]);
    {
        let mut core = replica.core.0.lock().unwrap();
        let id = EntryId::new(core.log.len() as u64 + 1, TERM);
        let successor = NodeId::new(ME.name.0, 2);
        core.log.push(Entry { id, payload: Payload::Configuration(Configuration::of([successor, B, C])) });
    }
    replica.ask(vec![(0, 2, write(client, 2, "y")), (1, 1, read())]);
    let ready = ReadOutcome::Ready { token: replica.core.last_token(), index: Index(4) };
    replica.core.commit_up_to(usize::MAX);
    replica.happens(Effects { reads: vec![ready], ..Effects::default() });
    assert!(replica.engine.is_quarantined());
    assert_eq!(replica.outcome(0, 1), answer("x was number 1"));
    assert_eq!(replica.outcome(0, 2), Some(Outcome::Unknown));
    assert!(matches!(replica.outcome(1, 1), Some(Outcome::NotLeader(_))), "{:?}", replica.outcome(1, 1));
    assert_eq!((replica.applied(), replica.engine.applied().index), (vec!["x"], Index(3)));
    assert!(!replica.engine.has_work(), "what is committed stays as it is");
    replica.turn_ends();
    assert_eq!(replica.applied(), ["x"]);
}

// A warm backup keeps the log; when it takes over, it applies what it has kept.
#[test]
fn replica_that_does_not_apply_keeps_what_is_committed_until_it_does() {
    let (mut replica, client) = Replica::with_session();
    replica.core.0.lock().unwrap().stores_only = true;
    replica.ask(vec![(0, 1, write(client, 1, "x"))]);
    replica.commit_all();
    assert!(replica.applied().is_empty() && replica.outcome(0, 1).is_none());
    assert!(!replica.engine.has_work());
    replica.core.0.lock().unwrap().stores_only = false;
    assert!(replica.engine.has_work());
    replica.turn_ends();
    assert_eq!(replica.applied(), ["x"]);
    assert_eq!(replica.outcome(0, 1), answer("x was number 1"));
}

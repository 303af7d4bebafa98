//! Partitions that are added, and slots that move, in the manager's state machine.

#![cfg(test)]

use madkv_manager::state::{Command, ManagerState, MovePhase, MoveStep, Query, Reply, SlotMove, encode};
use madkv_proto::control::{ChangeReport, ControlReply};
use madkv_proto::map::ClusterMap;
use madkv_proto::slot_set::SlotSet;
use madkv_proto::slots::SLOTS;
use smr::entry::{Genesis, GenesisRequest, Index};
use smr::id::{ClusterId, NodeId};
use smr::state_machine::{Answer, Image, StateMachine};

const AT: u64 = 1_700_000_000_000;
const CLUSTER: ClusterId = ClusterId(4);
const HALF: u16 = SLOTS / 2;

fn apply(state: &mut ManagerState, command: &Command) -> Reply {
    let reply = Reply::decode(&state.apply(Index(1), &encode(command)));
    // Whoever reads an image goes on with the same state.
    let mut image = Vec::new();
    state.image().write(&mut image).unwrap();
    assert_eq!(ManagerState::restore(&mut &image[..]).unwrap(), *state);
    reply
}

fn found(state: &mut ManagerState, partition: u16, replicas: u16) {
    let members = (0..replicas).map(|replica| NodeId::new(replica, 7)).collect();
    let group = format!("s{partition}").parse().unwrap();
    let genesis = Genesis { cluster: Some(CLUSTER), group, members };
    let recorded = apply(state, &Command::RecordGenesis(GenesisRequest { genesis, instead_of: None }));
    assert_eq!(recorded, Reply::GenesisRecorded);
}

/// Two partitions of one server.
fn laid_out() -> ManagerState {
    let mut state = ManagerState::default();
    let servers = (0..2).map(|number| format!("h:{}", 3777 + number)).collect();
    let layout = Command::Layout { cluster: CLUSTER, server_rf: 1, servers };
    assert!(matches!(apply(&mut state, &layout), Reply::Map(_)));
    (0..2).for_each(|partition| found(&mut state, partition, 1));
    state
}

fn asked(state: &ManagerState, query: &Query) -> Reply {
    match state.query(&encode(query)) {
        Answer::Now(answer) => Reply::decode(&answer),
        Answer::Parts(_) => panic!("an answer in parts"),
    }
}

fn map(state: &ManagerState) -> ClusterMap {
    match asked(state, &Query::Map) {
        Reply::Map(map) => map,
        other => panic!("{other:?}"),
    }
}

fn report(reply: Reply) -> Result<ChangeReport, String> {
    match reply {
        Reply::Control(ControlReply::Change(report)) => Ok(report),
        Reply::Control(ControlReply::Refused(why)) => Err(why),
        other => panic!("{other:?}"),
    }
}

fn move_slots(state: &mut ManagerState, first: u16, end: u16, to: u16) -> Result<ChangeReport, String> {
    let slots = SlotSet::range(first, end);
    report(apply(state, &Command::MoveSlots { slots, to, at_unix_ms: AT }))
}

fn add(state: &mut ManagerState, servers: &[&str]) -> Result<(), String> {
    let servers = servers.iter().map(|&server| server.to_owned()).collect();
    match apply(state, &Command::AddPartition { servers, at_unix_ms: AT }) {
        Reply::Control(ControlReply::Done) => Ok(()),
        Reply::Control(ControlReply::Refused(why)) => Err(why),
        other => panic!("{other:?}"),
    }
}

fn step(state: &mut ManagerState, id: u64, step: MoveStep) -> Result<Option<SlotMove>, String> {
    match apply(state, &Command::SlotStep { id, step, at_unix_ms: AT }) {
        Reply::SlotMove(open) => Ok(open),
        Reply::Refused(why) => Err(why),
        other => panic!("{other:?}"),
    }
}

// covers G2 G10
#[test]
fn move_goes_through_its_phases_and_the_map_changes_once() {
    let mut state = laid_out();
    let id = move_slots(&mut state, 100, 200, 1).unwrap().open.unwrap();
    let before = map(&state);
    assert_eq!(before.epoch, 1, "nothing has moved yet");
    // Each step follows from one phase alone, and from the latest attempt.
    for early in [MoveStep::Owned, MoveStep::Dropped, MoveStep::Attempt(2), MoveStep::Copied { attempt: 1, pieces: 3 }]
    {
        assert!(step(&mut state, id, early).is_err());
    }
    for attempt in 1..=3 {
        let open = step(&mut state, id, MoveStep::Attempt(attempt)).unwrap().unwrap();
        assert_eq!((open.attempt, open.phase), (attempt, MovePhase::Copying));
    }
    assert!(step(&mut state, id, MoveStep::Copied { attempt: 2, pieces: 3 }).is_err(), "it was overtaken");
    assert!(step(&mut state, id, MoveStep::Failed { attempt: 1, why: "late".into() }).is_err());
    assert_eq!(map(&state), before);
    let open = step(&mut state, id, MoveStep::Copied { attempt: 3, pieces: 7 }).unwrap().unwrap();
    assert_eq!(open.phase, MovePhase::Handover { pieces: 7, epoch: 2 });
    let after = map(&state);
    assert_eq!((after.epoch, after.partitions[0].owns(150), after.partitions[1].owns(150)), (2, false, true));
    assert_eq!(after.partitions[0].slots.len() + after.partitions[1].slots.len(), usize::from(SLOTS));
    assert!(step(&mut state, id, MoveStep::Attempt(4)).is_err(), "there is no way back");
    assert_eq!(step(&mut state, id, MoveStep::Owned).unwrap().unwrap().phase, MovePhase::Dropping);
    assert_eq!(step(&mut state, id, MoveStep::Dropped), Ok(None));
    let Reply::Control(ControlReply::Change(ended)) = asked(&state, &Query::SlotMoves) else { panic!("no report") };
    assert_eq!(ended, ChangeReport { open: None, ended: Some((id, None)), epoch: 2 });
    assert_eq!(map(&state), after);
    // From someone who did not hear the answer.
    assert_eq!(move_slots(&mut state, 100, 200, 1).unwrap().open, None);
    let Reply::Control(ControlReply::Events(events)) = asked(&state, &Query::Events { after: 0, limit: 99 }) else {
        panic!("no events")
    };
    let texts: Vec<&str> = events.events.iter().map(|event| event.text.as_str()).collect();
    for (text, part) in texts.iter().zip(["100-199 are to move from s0 to s1", "attempt 1", "attempt 2", "copied in 7"])
    {
        assert!(text.contains(part), "{texts:?}");
    }
}

// covers M2 G10
#[test]
fn senseless_moves_are_refused_with_the_reason_and_change_nothing() {
    let mut state = laid_out();
    add(&mut state, &["h:4000"]).unwrap();
    let mut refused = |first, end, to, part: &str| {
        let before = state.clone();
        let why = move_slots(&mut state, first, end, to).unwrap_err();
        assert!(why.contains(part), "{why}");
        assert_eq!(state, before, "{why}");
    };
    refused(0, 10, 3, "the cluster has no s3");
    refused(10, 10, 1, "no slots");
    refused(HALF - 5, HALF + 5, 2, "are not all of one partition, but of s0, s1");
    refused(HALF - 5, HALF + 5, 1, "are not all of one partition, but of s0, s1");
    refused(0, 10, 2, "the group of s2 has not begun yet");
    let id = move_slots(&mut state, 0, 10, 1).unwrap().open;
    assert_eq!(move_slots(&mut state, 0, 10, 1).unwrap().open, id, "the same order again");
    let before = state.clone();
    for (first, end, to) in [(0, 10, 0), (0, 11, 1), (HALF, HALF + 1, 0)] {
        assert!(move_slots(&mut state, first, end, to).unwrap_err().contains("another move of slots is under way"));
    }
    assert_eq!(state, before);
    // A group that cannot take part says so before anything has happened.
    step(&mut state, id.unwrap(), MoveStep::Attempt(1)).unwrap();
    let failed = MoveStep::Failed { attempt: 1, why: "not upgraded".into() };
    assert_eq!(step(&mut state, id.unwrap(), failed), Ok(None));
    let Reply::Control(ControlReply::Change(ended)) = asked(&state, &Query::SlotMoves) else { panic!("no report") };
    assert_eq!(ended.ended, Some((id.unwrap(), Some("not upgraded".to_owned()))));
    assert!(map(&state).partitions[0].owns(5));
}

// covers G2 G10
#[test]
fn partition_is_added_once_without_slots_and_gets_them_by_a_move() {
    let mut state = laid_out();
    for (servers, part) in [
        (&["h:1", "h:2"][..], "1, 3, 5, 7 and 9"),
        (&[], "1, 3, 5, 7 and 9"),
        (&["h:1", "h:2", "h:1"], "twice"),
        (&["h:3778"], "the address of s1.0 already"),
        (&["h"], "host:port"),
    ] {
        let before = state.clone();
        let why = add(&mut state, servers).unwrap_err();
        assert!(why.contains(part) && state == before, "{why}");
    }
    add(&mut state, &["h:1", "h:2", "h:3"]).unwrap();
    add(&mut state, &["h:1", "h:2", "h:3"]).unwrap();
    let added = map(&state);
    assert_eq!((added.epoch, added.partitions.len(), added.partitions[2].slots.len()), (2, 3, 0));
    found(&mut state, 2, 3);
    let id = move_slots(&mut state, 0, HALF, 2).unwrap().open.unwrap();
    step(&mut state, id, MoveStep::Attempt(1)).unwrap();
    step(&mut state, id, MoveStep::Copied { attempt: 1, pieces: 1 }).unwrap();
    let moved = map(&state);
    assert!(moved.partitions[0].slots.is_empty() && moved.partitions[2].slots == SlotSet::range(0, HALF));
}

fn give_up(state: &mut ManagerState, id: u64, unable: Option<u16>) -> Result<ChangeReport, String> {
    report(apply(state, &Command::GiveUpMove { id, why: "enough".to_owned(), unable, at_unix_ms: AT }))
}

fn given_up(state: &mut ManagerState, id: u64) -> Result<Option<SlotMove>, String> {
    match apply(state, &Command::MoveGivenUp { id, at_unix_ms: AT }) {
        Reply::SlotMove(open) => Ok(open),
        Reply::Refused(why) => Err(why),
        other => panic!("{other:?}"),
    }
}

fn event_texts(state: &ManagerState) -> Vec<String> {
    match asked(state, &Query::Events { after: 0, limit: 99 }) {
        Reply::Control(ControlReply::Events(events)) => events.events.into_iter().map(|event| event.text).collect(),
        other => panic!("{other:?}"),
    }
}

// covers G10
#[test]
fn move_is_given_up_while_the_source_owns_the_slots_and_is_open_until_nothing_is_left() {
    let mut state = laid_out();
    let before = map(&state);
    let id = move_slots(&mut state, 100, 200, 1).unwrap().open.unwrap();
    assert!(give_up(&mut state, id + 1, None).unwrap_err().contains("not under way"));
    assert!(given_up(&mut state, id).is_err(), "no one has given it up");
    for attempt in 1..=2 {
        step(&mut state, id, MoveStep::Attempt(attempt)).unwrap();
    }
    assert_eq!(give_up(&mut state, id, None).unwrap().open, Some(id), "the groups have not heard of it");
    let events = event_texts(&state).len();
    assert_eq!(give_up(&mut state, id, Some(1)).unwrap().open, Some(id), "once more");
    assert_eq!(event_texts(&state).len(), events);
    let late = [
        MoveStep::Attempt(3),
        MoveStep::Copied { attempt: 2, pieces: 3 },
        MoveStep::Failed { attempt: 1, why: "late".into() },
        MoveStep::Owned,
        MoveStep::Dropped,
    ];
    for late in late {
        assert!(step(&mut state, id, late.clone()).is_err(), "{late:?} after it was given up");
    }
    let Reply::SlotMove(Some(open)) = asked(&state, &Query::SlotMove) else { panic!("it is not open") };
    assert_eq!(open.phase, MovePhase::GivenUp { why: "enough".to_owned(), unable: None });
    assert!(move_slots(&mut state, 0, 10, 1).unwrap_err().contains("another move of slots is under way"));
    assert_eq!(map(&state), before, "no map says anything of it");
    let waits = Command::MoveWaits { id, partition: 0, why: "s0.2 is gone".to_owned(), at_unix_ms: AT };
    for _ in 0..3 {
        assert!(matches!(apply(&mut state, &waits), Reply::SlotMove(Some(_))));
    }
    let text = "s0 cannot be told yet that it is over: s0.2 is gone";
    assert_eq!(event_texts(&state).iter().filter(|event| event.contains(text)).count(), 1, "said once");
    assert_eq!(given_up(&mut state, id), Ok(None));
    assert!(matches!(apply(&mut state, &waits), Reply::Refused(_)), "it is over");
    assert!(given_up(&mut state, id).is_err());
    let Reply::Control(ControlReply::Change(ended)) = asked(&state, &Query::SlotMoves) else { panic!("no report") };
    assert_eq!((ended.open, ended.ended), (None, Some((id, Some("enough".to_owned())))));
    let over = state.clone();
    let again = give_up(&mut state, id, None).expect("whoever did not hear the answer hears it now");
    assert_eq!((again.open, again.ended), (None, Some((id, Some("enough".to_owned())))));
    assert_eq!(state, over);
    let texts = event_texts(&state);
    assert!(texts.iter().any(|text| text.contains("is given up, s0 keeps slots 100-199: enough")), "{texts:?}");
    assert!(texts.iter().any(|text| text.contains("nothing is left of it")), "{texts:?}");
    // One of which no group has heard is over at once, and the next one may begin.
    let id = move_slots(&mut state, 100, 200, 1).unwrap().open.unwrap();
    assert_eq!(give_up(&mut state, id, None).unwrap().open, None);
    assert!(move_slots(&mut state, 0, 10, 1).unwrap().open.is_some());
}

// covers G10
#[test]
fn move_is_not_given_up_once_the_map_gives_the_slots_away() {
    let mut state = laid_out();
    let id = move_slots(&mut state, 100, 200, 1).unwrap().open.unwrap();
    step(&mut state, id, MoveStep::Attempt(1)).unwrap();
    step(&mut state, id, MoveStep::Copied { attempt: 1, pieces: 1 }).unwrap();
    let too_late = |state: &mut ManagerState| {
        let before = state.clone();
        assert!(give_up(state, id, None).unwrap_err().contains("no way back"));
        assert!(given_up(state, id).is_err());
        assert_eq!(*state, before);
    };
    too_late(&mut state);
    step(&mut state, id, MoveStep::Owned).unwrap();
    too_late(&mut state);
    step(&mut state, id, MoveStep::Dropped).unwrap();
    assert!(give_up(&mut state, id, None).unwrap_err().contains("not under way"));
    let Reply::Control(ControlReply::Change(ended)) = asked(&state, &Query::SlotMoves) else { panic!("no report") };
    assert_eq!(ended.ended, Some((id, None)));
}

// covers G10
#[test]
fn group_that_forgot_its_part_in_a_handover_is_said_once_and_the_move_goes_on() {
    let mut state = laid_out();
    let id = move_slots(&mut state, 100, 200, 1).unwrap().open.unwrap();
    step(&mut state, id, MoveStep::Attempt(1)).unwrap();
    step(&mut state, id, MoveStep::Copied { attempt: 1, pieces: 1 }).unwrap();
    for (partition, part) in [(0, "it does not have the slots any more"), (1, "the others are in backups")] {
        let before = event_texts(&state).len();
        for _ in 0..3 {
            let said = apply(&mut state, &Command::SlotsForgotten { id, partition, at_unix_ms: AT });
            assert!(matches!(said, Reply::SlotMove(Some(_))), "{said:?}");
        }
        let texts = event_texts(&state);
        assert_eq!(texts.len(), before + 1);
        assert!(texts[before].contains(&format!("s{partition} has forgotten its part")), "{texts:?}");
        assert!(texts[before].contains(part), "{texts:?}");
    }
    step(&mut state, id, MoveStep::Owned).unwrap();
    assert_eq!(step(&mut state, id, MoveStep::Dropped), Ok(None));
}

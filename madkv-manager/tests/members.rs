//! What operators want of a group's replicas, in the manager's state machine.

#![cfg(test)]

use std::ops::Range;

use madkv_manager::state::{Command, Decision, ManagerState, Query, Reply, Stage, Verdict, encode};
use madkv_proto::control::{AgentReport, Announcement, ChangeReport, Condition, ControlReply, ReplicaReport, Service};
use madkv_proto::frames::Registration;
use madkv_proto::map::ClusterMap;
use smr::entry::Index;
use smr::id::{ClusterId, Incarnation, StartTrail};
use smr::state_machine::{Answer, Image, StateMachine};

const AT: u64 = 1_700_000_000_000;

fn apply(state: &mut ManagerState, command: &Command) -> Reply {
    Reply::decode(&state.apply(Index(1), &encode(command)))
}

/// Two partitions of three servers.
fn laid_out() -> ManagerState {
    let mut state = ManagerState::default();
    let servers = (0..6).map(|number| format!("h:{}", 3777 + number)).collect();
    let layout = Command::Layout { cluster: ClusterId(4), server_rf: 3, servers };
    assert!(matches!(apply(&mut state, &layout), Reply::Map(_)));
    state
}

fn map(state: &ManagerState) -> ClusterMap {
    match state.query(&encode(&Query::Map)) {
        Answer::Now(answer) => match Reply::decode(&answer) {
            Reply::Map(map) => map,
            other => panic!("{other:?}"),
        },
        Answer::Parts(_) => panic!("a map in parts"),
    }
}

fn changed(reply: Reply) -> Result<ChangeReport, String> {
    match reply {
        Reply::Control(ControlReply::Change(report)) => Ok(report),
        Reply::Control(ControlReply::Refused(why)) => Err(why),
        other => panic!("{other:?}"),
    }
}

fn scale(state: &mut ManagerState, partition: u16, replicas: u16) -> Result<ChangeReport, String> {
    let epoch = map(state).epoch;
    changed(apply(state, &Command::Scale { partition, replicas, epoch, at_unix_ms: AT }))
}

fn place(replica: u16, api: &str, p2p: &str) -> Announcement {
    Announcement { partition: 0, replica, api_address: api.to_owned(), p2p_address: p2p.to_owned(), epoch: 1 }
}

fn announce(state: &mut ManagerState, announcement: Announcement) -> Reply {
    let announcement = Announcement { epoch: map(state).epoch, ..announcement };
    apply(state, &Command::Announce { announcement, at_unix_ms: AT })
}

fn ended(state: &mut ManagerState, id: u64, refused: Option<&str>) -> Result<ChangeReport, String> {
    let refused = refused.map(str::to_owned);
    changed(apply(state, &Command::ChangeEnded { partition: 0, id, refused, at_unix_ms: AT }))
}

/// Decides about a replica of partition 0, after the group's latest decision, and says whether that counted.
fn decide(state: &mut ManagerState, replica: u16, verdict: Verdict) -> Result<(), String> {
    let after = match state.query(&encode(&Query::View)) {
        Answer::Now(answer) => match Reply::decode(&answer) {
            Reply::View(view) => view.groups[0].repairs.last,
            other => panic!("{other:?}"),
        },
        Answer::Parts(_) => panic!("a view in parts"),
    };
    let decision = Decision { partition: 0, after, replica, verdict, reason: "because".into() };
    match apply(state, &Command::Decide { decision, at_unix_ms: AT }) {
        Reply::Control(ControlReply::Done) => Ok(()),
        Reply::Control(ControlReply::Refused(why)) => Err(why),
        other => panic!("{other:?}"),
    }
}

// covers M2
#[test]
fn change_and_repair_that_exchange_members_exclude_each_other_and_a_leavers_repair_ends() {
    let mut state = laid_out();
    in_service(&mut state, 0..3);
    decide(&mut state, 2, Verdict::Repair(Stage::FreshDirectory)).unwrap();
    assert!(scale(&mut state, 0, 1).unwrap_err().contains("s0.2 is being repaired"));
    decide(&mut state, 2, Verdict::Done).unwrap();
    // What is only launched again stays who it is.
    decide(&mut state, 2, Verdict::Repair(Stage::Relaunch)).unwrap();
    let id = scale(&mut state, 0, 1).unwrap().open.unwrap();
    assert!(decide(&mut state, 2, Verdict::Repair(Stage::FreshDirectory)).unwrap_err().contains("being changed"));
    ended(&mut state, id, None).unwrap();
    decide(&mut state, 0, Verdict::Repair(Stage::Relaunch))
        .expect("the repair of one that is gone keeps no one waiting");
}

// covers G1 G2 M2
#[test]
fn scale_is_refused_with_the_reason_or_open_until_the_group_has_gone_over_and_then_there_is_a_map() {
    let mut state = laid_out();
    let refused = |state: &mut ManagerState, partition, replicas| scale(state, partition, replicas).unwrap_err();
    assert!(refused(&mut state, 0, 0).contains("last replica"));
    assert!(refused(&mut state, 0, 4).contains("1, 3, 5, 7 and 9"));
    assert!(refused(&mut state, 9, 3).contains("no s9"));
    assert!(refused(&mut state, 0, 5).contains("no one has said where s0.3 is"));
    assert_eq!(scale(&mut state, 0, 3).unwrap().open, None, "it has three");

    for (replica, api) in [(3, "n:1"), (4, "n:2")] {
        assert_eq!(announce(&mut state, place(replica, api, "n:9")), Reply::Control(ControlReply::Done));
    }
    let id = scale(&mut state, 0, 5).unwrap().open.unwrap();
    assert_eq!(scale(&mut state, 0, 5).unwrap().open, Some(id), "asked for again");
    assert!(refused(&mut state, 0, 1).contains("another change of s0 is under way"));
    assert!(scale(&mut state, 1, 1).unwrap().open.is_some(), "other groups are not concerned");
    assert_eq!(map(&state).epoch, 1);

    // An image on the way loses nothing.
    let mut image = Vec::new();
    state.image().write(&mut image).unwrap();
    let mut state = ManagerState::restore(&mut &image[..]).unwrap();
    assert!(ended(&mut state, id + 7, None).is_err(), "another one");
    assert_eq!(ended(&mut state, id, None).unwrap(), ChangeReport { open: None, ended: Some((id, None)), epoch: 2 });
    assert!(ended(&mut state, id, None).is_err(), "once");
    assert_eq!((map(&state).epoch, map(&state).partitions[0].servers.len()), (2, 5));
    assert_eq!(map(&state).partitions[0].servers[3..], ["n:1", "n:2"]);

    let id = scale(&mut state, 0, 1).unwrap().open.unwrap();
    let why = "only 0 of the 1 replicas";
    assert_eq!(ended(&mut state, id, Some(why)).unwrap().ended, Some((id, Some(why.to_owned()))));
    assert_eq!((map(&state).epoch, map(&state).partitions[0].servers.len()), (2, 5), "nothing has changed");
    let id = scale(&mut state, 0, 3).unwrap().open.unwrap();
    ended(&mut state, id, None).unwrap();
    assert!(refused(&mut state, 0, 5).contains("s0.3"), "who left has to say again where it is");
}

// covers G2 G3
#[test]
fn move_to_an_address_of_another_is_refused_and_to_a_free_one_publishes_it() {
    let mut state = laid_out();
    let relocate = |state: &mut ManagerState, announcement| {
        changed(apply(state, &Command::Relocate { announcement, at_unix_ms: AT }))
    };
    assert!(relocate(&mut state, place(7, "n:1", "n:2")).unwrap_err().contains("no s0.7"));
    assert!(relocate(&mut state, place(1, "h:3779", "n:2")).unwrap_err().contains("s0.2"));
    assert!(relocate(&mut state, place(1, "h:3781", "n:2")).unwrap_err().contains("s1.1"));
    assert!(relocate(&mut state, place(1, "nowhere", "n:2")).unwrap_err().contains("host:port"));
    let id = relocate(&mut state, place(1, "n:1", "n:2")).unwrap().open.unwrap();
    ended(&mut state, id, None).unwrap();
    assert_eq!(map(&state).partitions[0].servers, ["h:3777", "n:1", "h:3779"]);
    // The replica itself may have said so, too.
    assert_eq!(announce(&mut state, place(1, "n:1", "n:2")), Reply::Control(ControlReply::Done));
    assert!(changed(announce(&mut state, place(1, "n:1", "n:3"))).unwrap().open.is_some(), "for its peers only");
}

/// An agent says that these replicas of partition 0 are in service, and no others.
fn in_service(state: &mut ManagerState, replicas: Range<u16>) {
    let replica = |replica: u16| ReplicaReport {
        partition: 0,
        replica,
        incarnation: None,
        condition: Condition::Alive { service: Service::InService },
        launches: 1,
        order: 0,
        directory_suspect: false,
        peers: Vec::new(),
        detail: String::new(),
    };
    let report = AgentReport {
        agent: 1,
        host: "host1".into(),
        address: "127.0.0.1:4001".into(),
        start: 51,
        number: 100 - u64::from(replicas.end),
        relaunches: true,
        spares: Vec::new(),
        replicas: replicas.map(replica).collect(),
    };
    let reply = apply(state, &Command::AgentReport { report, at_unix_ms: AT });
    assert!(matches!(reply, Reply::Control(ControlReply::Orders(_))), "{reply:?}");
}

// covers M6: the leader that decided had seen another world.
#[test]
fn exchange_of_a_member_is_judged_once_more_when_it_is_applied() {
    let mut state = laid_out();
    let without = "without it only 1 of 3 replicas are in service";
    for stage in [Stage::FreshDirectory, Stage::Readmit] {
        assert!(decide(&mut state, 2, Verdict::Repair(stage)).unwrap_err().contains("last copy"));
    }
    in_service(&mut state, 0..1);
    assert!(decide(&mut state, 2, Verdict::Repair(Stage::Readmit)).unwrap_err().contains(without));
    assert!(decide(&mut state, 0, Verdict::Repair(Stage::FreshDirectory)).unwrap_err().contains("last copy"));
    // It keeps its directory.
    decide(&mut state, 0, Verdict::Repair(Stage::Relaunch)).unwrap();
}

// covers G1 G2
#[test]
fn wish_of_one_who_has_seen_an_older_map_is_refused_unless_it_is_done() {
    let mut state = laid_out();
    let relocate = |state: &mut ManagerState, announcement| {
        changed(apply(state, &Command::Relocate { announcement, at_unix_ms: AT }))
    };
    let id = relocate(&mut state, place(1, "n:1", "n:2")).unwrap().open.unwrap();
    ended(&mut state, id, None).unwrap();
    assert_eq!(relocate(&mut state, place(1, "n:1", "n:2")).unwrap().open, None, "asked for again, it is done");
    let id = relocate(&mut state, Announcement { epoch: 2, ..place(1, "n:5", "n:6") }).unwrap().open.unwrap();
    ended(&mut state, id, None).unwrap();
    let before = state.clone();
    let why = relocate(&mut state, place(1, "n:1", "n:2")).unwrap_err();
    assert!(why.contains("epoch 3, not 1"), "{why}");
    let late = apply(&mut state, &Command::Announce { announcement: place(1, "n:1", "n:2"), at_unix_ms: AT });
    assert!(changed(late).is_err());
    let late = apply(&mut state, &Command::Announce { announcement: place(4, "n:7", "n:8"), at_unix_ms: AT });
    assert!(changed(late).is_err());
    let late = Command::Scale { partition: 0, replicas: 1, epoch: 2, at_unix_ms: AT };
    assert!(changed(apply(&mut state, &late)).is_err());
    assert_eq!(state, before);
}

// A joiner is taken in by its group before the map has it; one that has left is not on its way.
#[test]
fn server_that_no_map_has_is_refused_unless_it_has_said_where_it_is() {
    let mut state = laid_out();
    let registration = Registration {
        partition: 0,
        replica: 3,
        incarnation: Incarnation(9),
        member: false,
        genesis: None,
        start: StartTrail::default(),
    };
    let register = |state: &mut ManagerState| apply(state, &Command::Register(registration.clone()));
    assert!(matches!(register(&mut state), Reply::Refused(_)));
    announce(&mut state, place(3, "n:1", "n:9"));
    announce(&mut state, place(4, "n:2", "n:8"));
    assert_eq!(register(&mut state), Reply::NotInMapYet);
    let id = scale(&mut state, 0, 5).unwrap().open.unwrap();
    ended(&mut state, id, None).unwrap();
    assert!(matches!(register(&mut state), Reply::Registered(_)));
    let id = scale(&mut state, 0, 3).unwrap().open.unwrap();
    ended(&mut state, id, None).unwrap();
    assert!(matches!(register(&mut state), Reply::Refused(_)));
}

//! Hosts, members, settings, events and repairs in the manager's state machine.

#![cfg(test)]

use madkv_manager::state::{Command, Decision, ManagerState, Query, Reply, Stage, Verdict, View, encode};
use madkv_proto::control::{
    AgentOrders, AgentReport, Announcement, Condition, ControlReply, Event, GroupMembers, Launch, Membership,
    OrderKind, ReplicaReport, Service, Settings, Spare,
};
use madkv_proto::settings::{ELECTION_TIMEOUT, LFD_HEARTBEAT_FREQ};
use proptest::prelude::*;
use smr::entry::Index;
use smr::id::{ClusterId, Incarnation};
use smr::state_machine::{Answer, Image, StateMachine};

const AT: u64 = 1_700_000_000_000;

fn apply(state: &mut ManagerState, command: &Command) -> Reply {
    Reply::decode(&state.apply(Index(1), &encode(command)))
}

fn ask(state: &ManagerState, query: &Query) -> Reply {
    match state.query(&encode(query)) {
        Answer::Now(answer) => Reply::decode(&answer),
        Answer::Parts(_) => panic!("{query:?} has an answer in parts"),
    }
}

fn laid_out() -> ManagerState {
    let mut state = ManagerState::default();
    let servers = (0..6).map(|number| format!("127.0.0.1:{}", 3777 + number)).collect();
    let layout = Command::Layout { cluster: ClusterId(4), server_rf: 3, servers };
    assert!(matches!(apply(&mut state, &layout), Reply::Map(_)));
    state
}

fn in_service() -> Condition {
    Condition::Alive { service: Service::InService }
}

fn quarantined(proof_of_loss: bool) -> Condition {
    Condition::Alive { service: Service::Quarantined { proof_of_loss, reason: "why".into() } }
}

fn dead() -> Condition {
    Condition::Dead { reason: "signal 9".into() }
}

fn replica(partition: u16, replica: u16, condition: Condition) -> ReplicaReport {
    let incarnation = Some(Incarnation(7));
    ReplicaReport {
        partition,
        replica,
        incarnation,
        condition,
        launches: 1,
        order: 0,
        directory_suspect: false,
        peers: Vec::new(),
        detail: String::new(),
    }
}

fn report(agent: u16, number: u64, replicas: Vec<ReplicaReport>) -> AgentReport {
    AgentReport {
        agent,
        host: format!("host{agent}"),
        address: format!("127.0.0.1:{}", 4000 + agent),
        start: 50 + u64::from(agent),
        number,
        relaunches: true,
        spares: Vec::new(),
        replicas,
    }
}

fn take(state: &mut ManagerState, report: &AgentReport) -> Result<AgentOrders, String> {
    match apply(state, &Command::AgentReport { report: report.clone(), at_unix_ms: AT }) {
        Reply::Control(ControlReply::Orders(orders)) => Ok(orders),
        Reply::Control(ControlReply::Refused(why)) => Err(why),
        other => panic!("{other:?}"),
    }
}

fn membership(state: &ManagerState) -> Membership {
    match ask(state, &Query::Membership) {
        Reply::Control(ControlReply::Membership(membership)) => membership,
        other => panic!("{other:?}"),
    }
}

fn members(state: &ManagerState, partition: u16) -> Vec<u16> {
    let GroupMembers { members, member_count, .. } = membership(state).groups.swap_remove(usize::from(partition));
    assert_eq!(members.len(), usize::from(member_count));
    members
}

fn events(state: &ManagerState) -> Vec<Event> {
    match ask(state, &Query::Events { after: 0, limit: u32::MAX }) {
        Reply::Control(ControlReply::Events(events)) => events.events,
        other => panic!("{other:?}"),
    }
}

fn settings(state: &ManagerState) -> Settings {
    match ask(state, &Query::Settings) {
        Reply::Control(ControlReply::Settings(settings)) => settings,
        other => panic!("{other:?}"),
    }
}

fn view(state: &ManagerState) -> View {
    match ask(state, &Query::View) {
        Reply::View(view) => *view,
        other => panic!("{other:?}"),
    }
}

fn decide(state: &mut ManagerState, after: u64, replica: u16, verdict: Verdict) -> Result<(), String> {
    let decision = Decision { partition: 0, after, replica, verdict, reason: "because".into() };
    match apply(state, &Command::Decide { decision, at_unix_ms: AT }) {
        Reply::Control(ControlReply::Done) => Ok(()),
        Reply::Control(ControlReply::Refused(why)) => Err(why),
        other => panic!("{other:?}"),
    }
}

fn set(state: &mut ManagerState, name: &str, value: u64, version: u64) -> ControlReply {
    match apply(state, &Command::Set { name: name.into(), value, version, at_unix_ms: AT }) {
        Reply::Control(reply) => reply,
        other => panic!("{other:?}"),
    }
}

fn silent(state: &mut ManagerState, agent: u16, number: u64) -> ControlReply {
    let last = (50 + u64::from(agent), number);
    match apply(state, &Command::HostSilent { agent, last, silent_ms: 3000, at_unix_ms: AT }) {
        Reply::Control(reply) => reply,
        other => panic!("{other:?}"),
    }
}

fn texts(state: &ManagerState) -> Vec<String> {
    events(state).into_iter().map(|event| format!("{}: {}", event.subject, event.text)).collect()
}

#[test]
fn report_makes_members_of_what_is_in_service_and_tells_it_once() {
    let mut state = laid_out();
    assert_eq!(members(&state, 0), [0u16; 0]);
    let first = report(1, 1, vec![replica(0, 0, in_service()), replica(1, 2, quarantined(false))]);
    assert_eq!(ask(&state, &Query::Report(first.clone())), Reply::ReportDiffers);
    let orders = take(&mut state, &first).unwrap();
    assert_eq!((orders.lfd_heartbeat_freq_ms, orders.gfd_heartbeat_freq_ms, orders.orders.len()), (250, 500, 0));
    assert_eq!((members(&state, 0), members(&state, 1)), (vec![0], vec![]));
    // The same content with another number and another detail is no news.
    let mut same = report(1, 9, first.replicas.clone());
    same.replicas[0].detail = "nothing new".into();
    assert_eq!(ask(&state, &Query::Report(same)), Reply::Control(ControlReply::Orders(orders)));
    take(&mut state, &report(2, 1, vec![replica(0, 1, in_service())])).unwrap();
    take(&mut state, &report(1, 10, vec![replica(0, 0, dead()), replica(1, 2, in_service())])).unwrap();
    assert_eq!((members(&state, 0), members(&state, 1)), (vec![1], vec![2]));
    assert_eq!(
        texts(&state),
        [
            "host host1: has an agent: LFD1 at 127.0.0.1:4001",
            "s0.0: joins the members: S1: alive and in service on host host1",
            "s1.2: S6: quarantined: why on host host1",
            "host host2: has an agent: LFD2 at 127.0.0.1:4002",
            "s0.1: joins the members: S2: alive and in service on host host2",
            "s0.0: leaves the members: S1: dead: signal 9 on host host1",
            "s1.2: joins the members: S6: alive and in service on host host1",
        ]
    );
}

// covers G1
#[test]
fn report_that_comes_late_or_from_a_replaced_agent_changes_nothing() {
    let mut state = laid_out();
    take(&mut state, &report(1, 5, vec![replica(0, 0, dead())])).unwrap();
    let before = state.clone();
    take(&mut state, &report(1, 4, vec![replica(0, 0, in_service())])).unwrap();
    assert_eq!(state, before, "a late one");
    let mut newer = report(1, 1, vec![replica(0, 0, in_service())]);
    newer.start = 99;
    take(&mut state, &newer).unwrap();
    assert_eq!(members(&state, 0), [0]);
    let why = take(&mut state, &report(1, 6, vec![])).unwrap_err();
    assert!(why.contains("taken the place"), "{why}");
    let mut elsewhere = report(1, 1, vec![]);
    elsewhere.host = "another".into();
    let why = take(&mut state, &elsewhere).unwrap_err();
    assert!(why.contains("host1, not of host another"), "{why}");
    let mut second = report(2, 1, vec![]);
    second.host = "host1".into();
    assert!(take(&mut state, &second).unwrap_err().contains("LFD1"));
    assert_eq!(members(&state, 0), [0]);
}

#[test]
fn report_that_makes_no_sense_is_refused_and_names_beyond_the_map_are_passed_over() {
    let mut state = laid_out();
    let twice = report(1, 1, vec![replica(0, 0, dead()), replica(0, 0, dead())]);
    let mut long = report(1, 1, vec![replica(0, 0, dead())]);
    long.replicas[0].detail = "x".repeat(300);
    let mut nameless = report(1, 1, vec![]);
    nameless.host = String::new();
    for bad in [twice, long, nameless] {
        assert!(take(&mut state, &bad).is_err(), "{bad:?}");
    }
    assert_eq!(state, laid_out());
    take(&mut state, &report(1, 1, vec![replica(0, 3, in_service()), replica(9, 0, in_service())])).unwrap();
    assert_eq!((members(&state, 0), view(&state).replicas.len()), (vec![], 0));
}

#[test]
fn replica_belongs_to_the_host_where_it_was_seen_running_last() {
    let mut state = laid_out();
    take(&mut state, &report(1, 1, vec![replica(0, 0, in_service())])).unwrap();
    take(&mut state, &report(2, 1, vec![replica(0, 0, dead())])).unwrap();
    assert_eq!(members(&state, 0), [0], "that it is not here says nothing");
    take(&mut state, &report(2, 2, vec![replica(0, 0, in_service())])).unwrap();
    take(&mut state, &report(1, 2, vec![replica(0, 0, dead())])).unwrap();
    assert_eq!(members(&state, 0), [0], "it has moved");
    take(&mut state, &report(2, 3, vec![])).unwrap();
    assert_eq!(members(&state, 0), [0u16; 0], "its agent names it no longer");
}

#[test]
fn host_that_is_silent_loses_its_members_until_it_is_heard_again() {
    let mut state = laid_out();
    let first = report(1, 3, vec![replica(0, 0, in_service()), replica(1, 0, in_service())]);
    take(&mut state, &first).unwrap();
    assert!(matches!(silent(&mut state, 1, 2), ControlReply::Refused(_)), "it was heard after that");
    assert_eq!(silent(&mut state, 1, 3), ControlReply::Done);
    assert_eq!((members(&state, 0), members(&state, 1)), (vec![], vec![]));
    assert!(membership(&state).hosts[0].has_failed);
    assert!(texts(&state).last().unwrap().contains("silent for 3000 ms; S1, S4 leave the members"));
    let again = report(1, 4, first.replicas.clone());
    assert_eq!(ask(&state, &Query::Report(again.clone())), Reply::ReportDiffers);
    take(&mut state, &again).unwrap();
    assert_eq!((members(&state, 0), members(&state, 1)), (vec![0], vec![0]));
}

#[test]
fn settings_change_once_for_each_wish_and_not_from_an_old_view() {
    let mut state = laid_out();
    assert_eq!((settings(&state).version, settings(&state).get(ELECTION_TIMEOUT)), (0, Some(600)));
    assert_eq!(settings(&state).get("replicas.s1"), Some(3));
    assert_eq!(set(&mut state, ELECTION_TIMEOUT, 900, 0), ControlReply::Done);
    assert_eq!(set(&mut state, ELECTION_TIMEOUT, 900, 0), ControlReply::Done, "a copy of it");
    assert_eq!((settings(&state).version, settings(&state).get(ELECTION_TIMEOUT)), (1, Some(900)));
    let before = state.clone();
    for (name, value, version, part) in [
        (ELECTION_TIMEOUT, 700, 0, "changed meanwhile"),
        (ELECTION_TIMEOUT, 1, 1, "300 to 30000 ms"),
        ("elections", 700, 1, "election_timeout"),
        ("checkpoint_freq", 5, 1, "20 to 60000 ms"),
        ("checkpoint_requests", 0, 1, "1 to 1000000 requests"),
        ("replicas.s7", 3, 1, "no partition s7"),
        ("replicas.s0", 2, 1, "3 replicas"),
    ] {
        let ControlReply::Refused(why) = set(&mut state, name, value, version) else { panic!("{name} was taken") };
        assert!(why.contains(part), "{why}");
        assert_eq!(state, before, "{name}");
    }
    assert_eq!(set(&mut state, "replicas.s0", 3, 1), ControlReply::Done, "it has them");
    set(&mut state, LFD_HEARTBEAT_FREQ, 100, 1);
    let orders = take(&mut state, &report(1, 1, vec![])).unwrap();
    assert_eq!(orders.lfd_heartbeat_freq_ms, 100, "agents hear of it");
    assert!(texts(&state)[0].contains("election_timeout is 900 ms, was 600 ms"));
}

// covers G1
#[test]
fn decision_counts_once_and_only_after_the_one_that_its_leader_knew() {
    let mut state = laid_out();
    take(&mut state, &report(1, 1, vec![replica(0, 0, dead())])).unwrap();
    let relaunch = Verdict::Repair(Stage::Relaunch);
    decide(&mut state, 0, 0, relaunch).unwrap();
    let order = view(&state).groups[0].repairs.last;
    let orders = take(&mut state, &report(1, 2, vec![replica(0, 0, dead())])).unwrap().orders;
    assert_eq!((orders[0].id, &orders[0].what), (order, &OrderKind::Relaunch));
    let before = state.clone();
    decide(&mut state, 0, 0, relaunch).unwrap();
    assert_eq!(state, before, "the same again");
    for (after, replica, verdict, part) in [
        (0, 1, relaunch, "came first"),
        (order, 1, relaunch, "s0.0 is being repaired"),
        (order, 1, Verdict::Done, "not being repaired"),
        (order, 3, relaunch, "no s0.3"),
    ] {
        let why = decide(&mut state, after, replica, verdict).unwrap_err();
        assert!(why.contains(part), "{why}");
        assert_eq!(state, before, "{why}");
    }
    let mut told = replica(0, 0, dead());
    told.order = order;
    assert_eq!(take(&mut state, &report(1, 3, vec![told])).unwrap().orders, [], "it has done it");
    take(&mut state, &report(2, 1, vec![replica(0, 1, in_service()), replica(0, 2, in_service())])).unwrap();
    decide(&mut state, order, 0, Verdict::Repair(Stage::FreshDirectory)).unwrap();
    let fresh = view(&state).groups[0].repairs.last;
    let orders = take(&mut state, &report(1, 4, vec![replica(0, 0, dead())])).unwrap().orders;
    assert_eq!((orders[0].id, &orders[0].what), (fresh, &OrderKind::FreshDirectory));
    // M6: its directory is taken only while that is safe.
    take(&mut state, &report(2, 2, vec![replica(0, 1, in_service()), replica(0, 2, dead())])).unwrap();
    assert_eq!(take(&mut state, &report(1, 5, vec![replica(0, 0, dead())])).unwrap().orders, []);
    decide(&mut state, fresh, 0, Verdict::Done).unwrap();
    assert_eq!(view(&state).groups[0].repairs.open, None);
    assert!(decide(&mut state, fresh, 0, relaunch).is_err(), "that leader is out of date");
}

#[test]
fn proof_of_a_loss_is_remembered_until_the_replica_is_in_service() {
    let mut state = laid_out();
    let steps = [
        (quarantined(true), true),
        (dead(), true),
        (quarantined(false), true),
        (Condition::Starting, true),
        (in_service(), false),
        (quarantined(false), false),
    ];
    for (number, (condition, expected)) in (1..).zip(steps) {
        take(&mut state, &report(1, number, vec![replica(0, 0, condition.clone())])).unwrap();
        assert_eq!(view(&state).replicas[0].loss_proven, expected, "{condition:?}");
    }
}

/// Three hosts with a replica of partition 0 each, and host 4 with room.
fn with_spare_host() -> ManagerState {
    let mut state = laid_out();
    for agent in 1..4 {
        let others: Vec<String> = (1..4).filter(|other| *other != agent).map(|other| format!("p{other}:1")).collect();
        let own = ReplicaReport { peers: others, ..replica(0, agent - 1, in_service()) };
        take(&mut state, &report(agent, 1, vec![own])).unwrap();
    }
    take(&mut state, &spare_report(1, vec![])).unwrap();
    state
}

fn spare_report(number: u64, replicas: Vec<ReplicaReport>) -> AgentReport {
    let spare = |port: u16| Spare { api_address: format!("n:{port}"), p2p_address: format!("n:{}", port + 100) };
    AgentReport { spares: vec![spare(1), spare(2)], ..report(4, number, replicas) }
}

fn ended(state: &mut ManagerState, id: u64) {
    let ended = Command::ChangeEnded { partition: 0, id, refused: None, at_unix_ms: AT };
    assert!(matches!(apply(state, &ended), Reply::Control(ControlReply::Change(_))));
}

// covers G1 G2
#[test]
fn replica_of_a_host_that_is_gone_is_placed_on_another_and_the_old_one_ends_when_it_comes_back() {
    let mut state = with_spare_host();
    let place = Verdict::Repair(Stage::Place { agent: 4 });
    assert!(decide(&mut state, 0, 1, place).unwrap_err().contains("its host is there"));
    silent(&mut state, 2, 1);
    for (agent, why) in [(2, "is not there"), (3, "has a replica of s0"), (9, "is not there")] {
        let refused = decide(&mut state, 0, 1, Verdict::Repair(Stage::Place { agent })).unwrap_err();
        assert!(refused.contains(why), "{refused}");
    }
    decide(&mut state, 0, 1, place).unwrap();
    let order = view(&state).groups[0].repairs.last;
    let mut state = ManagerState::restore(&mut &image(&state)[..]).unwrap();
    assert!(texts(&state).contains(&"s0.1: S2 is to be placed on host host4, at n:1: because".to_owned()));
    let orders = take(&mut state, &spare_report(2, vec![])).unwrap().orders;
    let launch =
        Launch { api_address: "n:1".into(), p2p_address: "n:101".into(), peers: vec!["p1:1".into(), "p3:1".into()] };
    assert_eq!((orders.len(), orders[0].id, &orders[0].what), (1, order, &OrderKind::Place(launch)));
    let is_changing = |state: &ManagerState| view(state).groups[0].is_changing;
    let needs_move = |state: &ManagerState| view(state).replicas[1].needs_move;
    let last = |state: &ManagerState| view(state).groups[0].repairs.last;
    let placed = |condition| ReplicaReport { order, incarnation: Some(Incarnation(8)), ..replica(0, 1, condition) };
    let orders = take(&mut state, &spare_report(3, vec![placed(quarantined(false))])).unwrap().orders;
    assert_eq!(orders, [], "it has done it");
    assert!(needs_move(&state) && !is_changing(&state));
    decide(&mut state, order, 1, Verdict::Repair(Stage::Move)).unwrap();
    let moved = last(&state);
    assert!(needs_move(&state) && is_changing(&state));
    assert!(decide(&mut state, moved, 1, Verdict::Repair(Stage::Readmit)).unwrap_err().contains("being changed"));
    // From now on the old one does not count, even if it has not heard of that.
    let of_old = |number, condition| report(2, number, vec![replica(0, 1, condition)]);
    let orders = take(&mut state, &of_old(2, in_service())).unwrap().orders;
    assert_eq!(orders, [], "the group may need it until it has readmitted the other one");
    assert_eq!((view(&state).replicas[1].agent, members(&state, 0)), (4, vec![0, 2]));
    ended(&mut state, moved);
    assert!(!needs_move(&state) && !is_changing(&state));
    decide(&mut state, moved, 1, Verdict::Repair(Stage::Readmit)).unwrap();
    assert_eq!(take(&mut state, &of_old(2, in_service())).unwrap().orders, []);
    take(&mut state, &spare_report(4, vec![placed(in_service())])).unwrap();
    let readmit = last(&state);
    decide(&mut state, readmit, 1, Verdict::Done).unwrap();

    // The old host comes back, with what it had.
    let orders = take(&mut state, &of_old(3, quarantined(false))).unwrap().orders;
    assert_eq!((orders.len(), orders[0].id, &orders[0].what), (1, moved, &OrderKind::Retire));
    assert_eq!((view(&state).replicas[1].agent, members(&state, 0)), (4, vec![0, 1, 2]));
    assert_eq!(take(&mut state, &of_old(4, Condition::Stopped)).unwrap().orders, []);
    assert_eq!((view(&state).replicas[1].agent, members(&state, 0)), (4, vec![0, 1, 2]));
    let elsewhere =
        Announcement { partition: 0, replica: 1, api_address: "n:7".into(), p2p_address: "n:8".into(), epoch: 2 };
    let announce = Command::Announce { announcement: elsewhere, at_unix_ms: AT };
    assert!(matches!(apply(&mut state, &announce), Reply::Control(ControlReply::Refused(_))), "of the old one");
}

#[test]
fn host_that_comes_back_in_service_before_the_other_one_has_taken_over_keeps_its_replica() {
    let mut state = with_spare_host();
    silent(&mut state, 2, 1);
    decide(&mut state, 0, 1, Verdict::Repair(Stage::Place { agent: 4 })).unwrap();
    let order = view(&state).groups[0].repairs.last;
    let placed = ReplicaReport { order, ..replica(0, 1, quarantined(false)) };
    take(&mut state, &spare_report(2, vec![placed.clone()])).unwrap();
    assert_eq!(view(&state).replicas[1].agent, 4);
    assert_eq!(take(&mut state, &report(2, 2, vec![replica(0, 1, in_service())])).unwrap().orders, []);
    assert_eq!((view(&state).replicas[1].agent, members(&state, 0)), (2, vec![0, 1, 2]));
    decide(&mut state, order, 1, Verdict::Done).unwrap();
    let orders = take(&mut state, &spare_report(3, vec![placed])).unwrap().orders;
    assert_eq!((orders.len(), &orders[0].what), (1, &OrderKind::Retire));
    assert!(orders[0].id > order);
    assert_eq!(view(&state).replicas[1].agent, 2);
}

fn image(state: &ManagerState) -> Vec<u8> {
    let mut bytes = Vec::new();
    state.image().write(&mut bytes).unwrap();
    bytes
}

// covers L20
#[test]
fn image_without_anything_new_is_of_version_1_and_with_it_of_version_2() {
    let mut state = laid_out();
    let old = image(&state);
    assert_eq!(old[..4], (old.len() as u32 - 4).to_le_bytes(), "its length, as builds of version 1 read it");
    assert_eq!(ManagerState::restore(&mut &old[..]).unwrap(), state);
    take(&mut state, &report(1, 1, vec![replica(0, 0, in_service())])).unwrap();
    let new = image(&state);
    assert_eq!(new[..4], [2, 0, 0xff, 0xff]);
    assert_eq!(ManagerState::restore(&mut &new[..]).unwrap(), state);
    for cut in 0..new.len() {
        assert!(ManagerState::restore(&mut &new[..cut]).is_err(), "cut at {cut}");
    }
}

fn conditions() -> impl Strategy<Value = Condition> {
    prop_oneof![
        3 => Just(in_service()),
        2 => Just(dead()),
        1 => Just(Condition::Starting),
        1 => Just(Condition::Hung),
        1 => Just(Condition::BackingOff { reason: "again".into() }),
        1 => any::<bool>().prop_map(quarantined),
    ]
}

fn commands() -> impl Strategy<Value = Vec<Command>> {
    let replicas = proptest::collection::btree_map((0u16..2, 0u16..4), (conditions(), 0u64..4), 0..4);
    let report = (1u16..4, 1u64..6, 1u64..3, replicas).prop_map(|(agent, number, start, replicas)| {
        let replicas = replicas.into_iter().map(|((partition, number), (condition, order))| ReplicaReport {
            order,
            ..replica(partition, number, condition)
        });
        let report = AgentReport { start, ..report(agent, number, replicas.collect()) };
        Command::AgentReport { report, at_unix_ms: AT }
    });
    let silent = (1u16..4, 1u64..3, 1u64..6).prop_map(|(agent, start, number)| Command::HostSilent {
        agent,
        last: (start, number),
        silent_ms: 9,
        at_unix_ms: AT,
    });
    let set = (prop_oneof![Just("election_timeout"), Just("none")], 200u64..600, 0u64..3)
        .prop_map(|(name, value, version)| Command::Set { name: name.into(), value, version, at_unix_ms: AT });
    let verdict = prop_oneof![
        Just(Verdict::Repair(Stage::Relaunch)),
        Just(Verdict::Repair(Stage::FreshDirectory)),
        Just(Verdict::Repair(Stage::Readmit)),
        Just(Verdict::Repair(Stage::Place { agent: 2 })),
        Just(Verdict::Repair(Stage::Move)),
        Just(Verdict::Done),
        Just(Verdict::Abandon),
        Just(Verdict::Wait),
    ];
    let decide = (0u64..9, 0u16..3, verdict).prop_map(|(after, replica, verdict)| Command::Decide {
        decision: Decision { partition: 0, after, replica, verdict, reason: "because".into() },
        at_unix_ms: AT,
    });
    proptest::collection::vec(prop_oneof![6 => report, 2 => silent, 1 => set, 4 => decide], 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    // covers G1, S10
    #[test]
    fn command_repeated_at_once_same_reply_and_state_also_after_a_restore(commands in commands()) {
        let mut state = laid_out();
        for command in &commands {
            let mut restored = ManagerState::restore(&mut &image(&state)[..]).unwrap();
            prop_assert_eq!(&restored, &state);
            let reply = apply(&mut state, command);
            prop_assert_eq!(apply(&mut restored, command), reply.clone());
            let once = state.clone();
            prop_assert_eq!(apply(&mut state, command), reply);
            prop_assert_eq!(&state, &once);
        }
    }

    #[test]
    fn members_are_always_of_hosts_that_are_heard_and_events_have_no_holes(commands in commands()) {
        let mut state = laid_out();
        for command in &commands {
            apply(&mut state, command);
            let view = view(&state);
            for (partition, group) in (0..).zip(&view.groups) {
                for &member in &group.members {
                    let seen = view.replicas.iter().find(|seen| seen.place == (partition, member)).unwrap();
                    let host = view.hosts.iter().find(|host| host.agent == seen.agent).unwrap();
                    prop_assert!(seen.condition.is_member() && !host.has_failed);
                }
            }
            let numbers: Vec<u64> = events(&state).iter().map(|event| event.number).collect();
            prop_assert!(numbers.iter().enumerate().all(|(place, number)| *number == place as u64 + 1));
        }
    }
}

//! The manager's state machine as a configuration service: kinds of groups, and who their members are.

#![cfg(test)]

use madkv_manager::state::{Command, ManagerState, Query, Reply, encode};
use madkv_proto::control::ControlReply;
use smr::entry::{Genesis, GenesisRequest, Incumbent, Index, Term};
use smr::epoch::{EpochConfiguration, EpochKind, GroupKind};
use smr::epoch_service::{EpochDecision, EpochRecord, PresiderId};
use smr::id::{ClusterId, NodeId};
use smr::state_machine::{Answer, Image, StateMachine};

const CLUSTER: ClusterId = ClusterId(4);
const CHAIN: GroupKind = GroupKind::Epochs(EpochKind::Chain);

fn apply(state: &mut ManagerState, command: &Command) -> Reply {
    Reply::decode(&state.apply(Index(1), &encode(command)))
}

fn ask(state: &ManagerState, query: &Query) -> Reply {
    match state.query(&encode(query)) {
        Answer::Now(answer) => Reply::decode(&answer),
        Answer::Parts(_) => panic!("an answer in parts"),
    }
}

fn servers(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("127.0.0.1:{}", 3777 + number)).collect()
}

fn layout(server_rf: u64, kinds: &[GroupKind]) -> Command {
    let servers = servers(2 * server_rf as usize);
    Command::LayoutOfKinds { cluster: CLUSTER, server_rf, servers, kinds: kinds.to_vec() }
}

/// Two groups of two.
fn laid_out() -> ManagerState {
    let mut state = ManagerState::default();
    assert!(matches!(apply(&mut state, &layout(2, &[CHAIN])), Reply::Map(_)));
    state
}

fn genesis(incarnations: [u64; 2]) -> Genesis {
    let members = (0..).zip(incarnations).map(|(name, incarnation)| NodeId::new(name, incarnation)).collect();
    Genesis { cluster: Some(CLUSTER), group: "s1".parse().unwrap(), members }
}

fn found(state: &mut ManagerState, genesis: Genesis, instead_of: Option<Incumbent>) -> Reply {
    apply(state, &Command::RecordGenesis(GenesisRequest { genesis, instead_of }))
}

fn record(state: &ManagerState) -> Option<EpochRecord> {
    match ask(state, &Query::Epochs { partition: 1 }) {
        Reply::Epochs(record) => record.map(|record| *record),
        other => panic!("{other:?}"),
    }
}

fn decide(state: &mut ManagerState, decision: EpochDecision) -> Reply {
    apply(state, &Command::DecideEpoch { partition: 1, decision, at_unix_ms: 5 })
}

fn next(record: &EpochRecord, members: Vec<NodeId>) -> EpochDecision {
    let present = record.present();
    let configuration =
        EpochConfiguration { epoch: present.epoch.next(), kind: present.kind, members, incomplete: None };
    EpochDecision::Next { presider: record.presider(), configuration }
}

fn image(state: &ManagerState) -> Vec<u8> {
    let mut bytes = Vec::new();
    state.image().write(&mut bytes).unwrap();
    bytes
}

#[test]
fn kinds_are_part_of_the_layout_and_stay() {
    let mut state = laid_out();
    let kinds = |state: &ManagerState| ask(state, &Query::Kinds);
    assert_eq!(kinds(&state), Reply::Control(ControlReply::Kinds(vec![CHAIN, CHAIN])));
    assert!(matches!(apply(&mut state, &layout(2, &[CHAIN, CHAIN])), Reply::Map(_)), "the same in other words");
    let others = [layout(2, &[GroupKind::Epochs(EpochKind::Active)]), layout(1, &[CHAIN])];
    for other in others {
        assert!(matches!(apply(&mut state, &other), Reply::Refused(_)));
    }
    let mut mixed = ManagerState::default();
    assert!(matches!(apply(&mut mixed, &layout(2, &[CHAIN, GroupKind::Raft])), Reply::Refused(_)), "two for raft");
    assert!(matches!(apply(&mut mixed, &layout(3, &[CHAIN, GroupKind::Raft])), Reply::Map(_)));
    assert_eq!(kinds(&mixed), Reply::Control(ControlReply::Kinds(vec![CHAIN, GroupKind::Raft])));
    let in_words_of_raft = Command::Layout { cluster: CLUSTER, server_rf: 3, servers: servers(6) };
    assert!(matches!(apply(&mut mixed, &in_words_of_raft), Reply::Refused(_)));
}

// covers K8 G1
#[test]
fn epochs_begin_with_the_genesis_and_change_by_decisions_of_who_presides() {
    let mut state = laid_out();
    assert_eq!(record(&state), None);
    assert_eq!(found(&mut state, genesis([7, 8]), None), Reply::GenesisRecorded);
    let first = record(&state).unwrap();
    for (replica, known) in [(1, true), (2, false)] {
        let Reply::Epochs(record) = ask(&state, &Query::EpochsFor { partition: 1, replica }) else {
            panic!("no epochs")
        };
        assert_eq!(record.is_some(), known, "the group is laid out with two");
    }
    assert_eq!(first.present().members, [NodeId::new(0, 7), NodeId::new(1, 8)]);
    assert_eq!(decide(&mut state, EpochDecision::Presides(PresiderId(3))), Reply::Control(ControlReply::Done));
    let stale = next(&first, vec![NodeId::new(1, 8)]);
    assert!(matches!(decide(&mut state, stale), Reply::Control(ControlReply::Refused(_))));
    let second = next(&record(&state).unwrap(), vec![NodeId::new(1, 8)]);
    assert_eq!(decide(&mut state, second.clone()), Reply::Control(ControlReply::Done));
    assert!(matches!(decide(&mut state, second), Reply::Control(ControlReply::Refused(_))), "once");
    let present = record(&state).unwrap();
    assert_eq!((present.present().epoch, present.present().members.len()), (Term(2), 1));
    // The genesis again, from someone who did not hear the answer, begins nothing.
    assert_eq!(found(&mut state, genesis([7, 8]), None), Reply::GenesisRecorded);
    assert_eq!(record(&state), Some(present));
    let Reply::Control(ControlReply::Events(events)) = ask(&state, &Query::Events { after: 0, limit: 9 }) else {
        panic!("no events")
    };
    assert_eq!(events.events.len(), 1);
    assert!(events.events[0].text.starts_with("chain of epoch 2: "), "{:?}", events.events);
    // The operator's word founds it again.
    let incumbent = Incumbent::Recorded(genesis([7, 8]).hash());
    assert_eq!(found(&mut state, genesis([17, 18]), Some(incumbent)), Reply::GenesisRecorded);
    assert_eq!(record(&state).unwrap().present().epoch, Term(1));
}

#[test]
fn event_of_a_promotion_says_that_an_operator_wanted_it() {
    let active = GroupKind::Epochs(EpochKind::Active);
    let mut state = ManagerState::default();
    assert!(matches!(apply(&mut state, &layout(2, &[active])), Reply::Map(_)));
    found(&mut state, genesis([7, 8]), None);
    decide(&mut state, EpochDecision::Presides(PresiderId(3)));
    let (a, b) = (NodeId::new(0, 7), NodeId::new(1, 8));
    for members in [vec![b, a], vec![a]] {
        let decision = next(&record(&state).unwrap(), members);
        assert_eq!(decide(&mut state, decision), Reply::Control(ControlReply::Done));
    }
    let Reply::Control(ControlReply::Events(events)) = ask(&state, &Query::Events { after: 0, limit: 9 }) else {
        panic!("no events")
    };
    let says_so: Vec<bool> = events.events.iter().map(|event| event.text.contains("operator")).collect();
    assert_eq!(says_so, [true, false], "the second one follows from a loss: {:?}", events.events);
}

#[test]
fn operators_change_no_group_whose_members_are_named_here() {
    let mut state = laid_out();
    let reply = apply(&mut state, &Command::Scale { partition: 1, replicas: 3, epoch: 1, at_unix_ms: 1 });
    assert!(matches!(&reply, Reply::Control(ControlReply::Refused(why)) if why.contains("of kind chain")), "{reply:?}");
    let decision = EpochDecision::Presides(PresiderId(1));
    let reply = apply(&mut state, &Command::DecideEpoch { partition: 0, decision, at_unix_ms: 1 });
    assert!(matches!(reply, Reply::Control(ControlReply::Refused(_))), "it is not founded");
}

// covers D16
#[test]
fn image_with_epochs_is_of_version_3_and_without_them_as_it_was() {
    let mut state = laid_out();
    let version = |state: &ManagerState| image(state)[..4].to_vec();
    assert_eq!(version(&state), [3, 0, 0xff, 0xff]);
    found(&mut state, genesis([7, 8]), None);
    decide(&mut state, EpochDecision::Presides(PresiderId(3)));
    let bytes = image(&state);
    assert_eq!(ManagerState::restore(&mut &bytes[..]).unwrap(), state);
    assert!(ManagerState::restore(&mut &bytes[..bytes.len() - 1]).is_err());
    let mut raft = ManagerState::default();
    apply(&mut raft, &Command::Layout { cluster: CLUSTER, server_rf: 3, servers: servers(6) });
    let before = version(&raft);
    assert_ne!(before[2..], [0xff, 0xff], "of version 1");
    apply(&mut raft, &Command::Scale { partition: 0, replicas: 1, epoch: 1, at_unix_ms: 1 });
    assert_eq!(version(&raft), [2, 0, 0xff, 0xff]);
}

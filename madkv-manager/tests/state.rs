//! The manager's state machine: layout, registrations, images.

#![cfg(test)]

use madkv_manager::state::{Command, ManagerState, MoveStep, Query, Reply, encode};
use madkv_proto::frames::{ClientResponse, Registration};
use madkv_proto::map::ClusterMap;
use madkv_proto::settings::DEFINITIONS;
use proptest::prelude::*;
use smr::codec;
use smr::entry::{Genesis, GenesisHash, GenesisRequest, Incumbent, Index, Term};
use smr::epoch_service::EpochDecision;
use smr::id::{ClusterId, Disqualified, Incarnation, NodeId, StartTrail};
use smr::state_machine::{Answer, Image, StateMachine};

const CLUSTER: ClusterId = ClusterId(4);
/// The genesis of whoever registers as a member.
const FOUNDED: GenesisHash = GenesisHash(70);

fn apply(state: &mut ManagerState, command: &Command) -> Reply {
    Reply::decode(&state.apply(Index(1), &encode(command)))
}

fn map(state: &ManagerState) -> Option<ClusterMap> {
    match state.query(&encode(&Query::Map)) {
        Answer::Now(answer) => match Reply::decode(&answer) {
            Reply::Map(map) => Some(map),
            Reply::NoMap => None,
            other => panic!("{other:?}"),
        },
        Answer::Parts(_) => panic!("a map in parts"),
    }
}

fn servers(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("127.0.0.1:{}", 3777 + number)).collect()
}

fn layout(server_rf: u64, count: usize) -> Command {
    Command::Layout { cluster: CLUSTER, server_rf, servers: servers(count) }
}

fn laid_out() -> ManagerState {
    let mut state = ManagerState::default();
    assert!(matches!(apply(&mut state, &layout(3, 6)), Reply::Map(_)));
    state
}

fn registration(partition: u16, replica: u16, incarnation: u64, member: bool) -> Registration {
    Registration {
        partition,
        replica,
        incarnation: Incarnation(incarnation),
        member,
        genesis: member.then_some(FOUNDED),
        start: StartTrail::default().next(1),
    }
}

fn register(state: &mut ManagerState, incarnation: u64, member: bool) -> Reply {
    apply(state, &Command::Register(registration(1, 2, incarnation, member)))
}

fn is_registered(reply: &Reply) -> bool {
    matches!(reply, Reply::Registered(map) if map.epoch == 1 && map.cluster == CLUSTER)
}

fn occupied_by(reply: &Reply) -> Option<u64> {
    match reply {
        Reply::Occupied { by, .. } => Some(by.0),
        _ => None,
    }
}

fn image(state: &ManagerState) -> Vec<u8> {
    let mut bytes = Vec::new();
    state.image().write(&mut bytes).unwrap();
    bytes
}

#[test]
fn register_before_layout_has_no_map() {
    let mut state = ManagerState::default();
    assert_eq!(register(&mut state, 1, false), Reply::NoMap);
    assert_eq!(map(&state), None);
    assert_eq!(state, ManagerState::default(), "nothing was recorded");
}

// covers G2
#[test]
fn layout_again_same_map_another_one_refused() {
    let mut state = laid_out();
    let first = map(&state).unwrap();
    assert_eq!((first.epoch, first.partitions.len()), (1, 2));
    assert_eq!(apply(&mut state, &layout(3, 6)), Reply::Map(first.clone()));
    for other in
        [layout(1, 6), layout(3, 3), Command::Layout { cluster: ClusterId(5), server_rf: 3, servers: servers(6) }]
    {
        assert!(matches!(apply(&mut state, &other), Reply::Refused(_)));
        assert_eq!(map(&state), Some(first.clone()));
    }
}

// covers B28
#[test]
fn layout_again_in_other_spellings_is_the_same_map() {
    let named = |servers: [&str; 3]| {
        let servers = servers.map(str::to_owned).to_vec();
        Command::Layout { cluster: CLUSTER, server_rf: 3, servers }
    };
    let mut state = ManagerState::default();
    let Reply::Map(first) = apply(&mut state, &named(["[::1]:1", "node.test:2", "10.0.0.1:3"])) else { panic!() };
    let again = named(["[0:0:0:0:0:0:0:1]:1", "Node.Test.:2", "[::ffff:10.0.0.1]:3"]);
    assert_eq!(apply(&mut state, &again), Reply::Map(first.clone()), "as it was spelled first");
    let other = named(["[::2]:1", "node.test:2", "10.0.0.1:3"]);
    assert!(matches!(apply(&mut state, &other), Reply::Refused(_)));
    assert_eq!(map(&state), Some(first));
}

#[test]
fn layout_that_does_not_fit_is_refused() {
    let mut state = ManagerState::default();
    for bad in [layout(0, 6), layout(4, 4), layout(3, 5), layout(u64::MAX, 6), layout(3, 0)] {
        assert!(matches!(apply(&mut state, &bad), Reply::Refused(_)));
        assert_eq!(map(&state), None);
    }
}

// covers G3
#[test]
fn register_unknown_replica_is_refused() {
    let mut state = laid_out();
    for (partition, replica) in [(2, 0), (0, 3), (u16::MAX, u16::MAX)] {
        let reply = apply(&mut state, &Command::Register(registration(partition, replica, 1, false)));
        assert!(
            matches!(&reply, Reply::Refused(reason) if reason.contains(&format!("s{partition}.{replica}"))),
            "{reply:?}"
        );
    }
    assert_eq!(state, laid_out());
}

// covers G1
#[test]
fn register_same_incarnation_again_is_registered_and_changes_nothing() {
    let mut state = laid_out();
    assert!(is_registered(&register(&mut state, 1, false)));
    let once = state.clone();
    assert!(is_registered(&register(&mut state, 1, false)));
    assert_eq!(state, once);
    assert!(is_registered(&register(&mut state, 1, true)));
    // A late copy from before its bootstrap does not make it less of a member.
    assert!(is_registered(&register(&mut state, 1, false)));
    assert_eq!(occupied_by(&register(&mut state, 2, false)), Some(1));
}

// covers G3, M6
#[test]
fn register_another_directory_under_a_members_name_is_occupied() {
    let mut state = laid_out();
    register(&mut state, 1, true);
    let reply = register(&mut state, 2, false);
    assert_eq!(occupied_by(&reply), Some(1));
    assert!(matches!(reply.into_body(), ClientResponse::Occupied { by: Incarnation(1), map } if map.epoch == 1));
    assert!(is_registered(&register(&mut state, 1, false)), "the replica is still the member's");
}

#[test]
fn register_in_place_of_a_directory_that_was_never_a_member_is_registered() {
    let mut state = laid_out();
    register(&mut state, 1, false);
    assert!(is_registered(&register(&mut state, 2, false)));
    assert!(is_registered(&register(&mut state, 2, true)));
    assert_eq!(occupied_by(&register(&mut state, 1, false)), Some(2));
}

#[test]
fn register_readmitted_member_replaces_the_old_one() {
    let mut state = laid_out();
    register(&mut state, 1, true);
    assert_eq!(occupied_by(&register(&mut state, 2, false)), Some(1));
    assert!(is_registered(&register(&mut state, 2, true)));
    assert_eq!(occupied_by(&register(&mut state, 1, false)), Some(2));
}

// covers M18
#[test]
fn register_older_start_or_the_same_number_with_another_nonce_is_disqualified() {
    let mut state = laid_out();
    let mut show = |start| apply(&mut state, &Command::Register(Registration { start, ..registration(1, 2, 1, true) }));
    let first = StartTrail::default().next(5);
    let second = first.next(6);
    for start in [first, first, second] {
        assert!(is_registered(&show(start)));
    }
    for shown in [first, first.next(7), first.next(7).next(8)] {
        let Reply::Disqualified { why, map } = show(shown) else { panic!("{shown:?} is welcome") };
        assert_eq!((why, map.epoch), (Disqualified::SetBack { shown: shown.id, newest: second.id }, 1));
    }
    assert!(is_registered(&show(second)), "the newest one goes on");
}

fn genesis(group: &str, incarnations: [u64; 3]) -> Genesis {
    let members = (0..).zip(incarnations).map(|(replica, incarnation)| NodeId::new(replica, incarnation)).collect();
    Genesis { cluster: Some(CLUSTER), group: group.parse().unwrap(), members }
}

fn record(state: &mut ManagerState, genesis: &Genesis, instead_of: Option<Incumbent>) -> Reply {
    apply(state, &Command::RecordGenesis(GenesisRequest { genesis: genesis.clone(), instead_of }))
}

fn member_of(genesis: &Genesis, replica: u16, incarnation: u64) -> Command {
    Command::Register(Registration { genesis: Some(genesis.hash()), ..registration(1, replica, incarnation, true) })
}

/// What a server of an older build said.
fn unproved(replica: u16, incarnation: u64, member: bool) -> Command {
    Command::RegisterUnproved { partition: 1, replica, incarnation: Incarnation(incarnation), member }
}

// covers M14
#[test]
fn genesis_is_recorded_once_and_another_one_refused() {
    let mut state = laid_out();
    let (first, other) = (genesis("s1", [10, 11, 12]), genesis("s1", [20, 21, 22]));
    assert_eq!(record(&mut ManagerState::default(), &first, None), Reply::NoMap);
    assert_eq!(record(&mut state, &first, None), Reply::GenesisRecorded);
    let recorded = state.clone();
    let refused = Reply::GenesisRefused { incumbent: Incumbent::Recorded(first.hash()), genesis: Some(first.clone()) };
    assert_eq!(record(&mut state, &other, None), refused);
    assert_eq!(record(&mut state, &other, Some(Incumbent::Unrecorded)), refused, "that is another one");
    assert_eq!(record(&mut state, &first, None), Reply::GenesisRecorded, "the same one again");
    assert_eq!(state, recorded);
    // From then on its founders may vote, so they are recorded as members, also before they say so.
    assert_eq!(occupied_by(&apply(&mut state, &Command::Register(registration(1, 2, 99, false)))), Some(12));
    assert!(is_registered(&apply(&mut state, &Command::Register(registration(1, 2, 12, false)))));
    // Other partitions have groups of their own.
    assert_eq!(record(&mut state, &genesis("s0", [10, 11, 12]), None), Reply::GenesisRecorded);
}

// covers M14
#[test]
fn member_of_a_group_that_is_not_recorded_is_refused() {
    let mut state = laid_out();
    let (first, other) = (genesis("s1", [10, 11, 12]), genesis("s1", [20, 21, 22]));
    record(&mut state, &first, None);
    let before = state.clone();
    let reply = apply(&mut state, &member_of(&other, 2, 22));
    assert!(matches!(&reply, Reply::Refused(why) if why.contains("has genesis")), "{reply:?}");
    assert_eq!(state, before);
    // One that the recorded group has taken in is believed.
    assert!(is_registered(&apply(&mut state, &member_of(&first, 2, 99))));
    assert_eq!(occupied_by(&apply(&mut state, &Command::Register(registration(1, 2, 13, false)))), Some(99));
    // The one whose place that is about to take may still be the voter: the group's configuration decides, not this
    // table.
    assert!(is_registered(&apply(&mut state, &member_of(&first, 2, 12))));
}

// covers M15
#[test]
fn genesis_is_replaced_only_by_the_operators_word_for_the_very_one_that_is_recorded() {
    let mut state = laid_out();
    let [first, second, third] = [[10, 11, 12], [20, 21, 22], [30, 31, 32]].map(|nodes| genesis("s1", nodes));
    record(&mut state, &first, None);
    let instead_of = |genesis: &Genesis| Some(Incumbent::Recorded(genesis.hash()));
    assert_eq!(record(&mut state, &second, instead_of(&first)), Reply::GenesisRecorded);
    assert_eq!(occupied_by(&apply(&mut state, &Command::Register(registration(1, 0, 10, false)))), Some(20));
    assert!(matches!(apply(&mut state, &member_of(&first, 0, 10)), Reply::Refused(_)), "the old group is gone");
    assert_eq!(record(&mut state, &third, instead_of(&second)), Reply::GenesisRecorded);
    // A late copy of the first word replaces nothing.
    let refused = record(&mut state, &second, instead_of(&first));
    assert!(matches!(refused, Reply::GenesisRefused { .. }), "{refused:?}");
    assert!(is_registered(&apply(&mut state, &member_of(&third, 0, 30))));
}

// covers D28
#[test]
fn genesis_of_one_recovered_member_replaces_the_recorded_one_and_frees_the_others() {
    let mut state = laid_out();
    let first = genesis("s1", [10, 11, 12]);
    record(&mut state, &first, None);
    let recovered = Genesis { members: [NodeId::new(1, 21)].into(), ..first.clone() };
    let instead_of = |genesis: &Genesis| Some(Incumbent::Recorded(genesis.hash()));
    assert!(matches!(record(&mut state, &recovered, None), Reply::Refused(_)), "that is no group by itself");
    let stranger = Genesis { members: [NodeId::new(3, 21)].into(), ..first.clone() };
    assert!(matches!(record(&mut state, &stranger, instead_of(&first)), Reply::Refused(_)), "no such replica");
    assert!(matches!(record(&mut state, &recovered, instead_of(&stranger)), Reply::GenesisRefused { .. }));
    assert_eq!(record(&mut state, &recovered, instead_of(&first)), Reply::GenesisRecorded);
    assert_eq!(record(&mut state, &recovered, instead_of(&first)), Reply::GenesisRecorded, "the answer was lost");
    for (replica, incarnation) in [(0, 10), (1, 11), (2, 12)] {
        let reply = apply(&mut state, &member_of(&first, replica, incarnation));
        assert!(matches!(&reply, Reply::Refused(why) if why.contains("has genesis")), "{reply:?}");
    }
    assert!(is_registered(&apply(&mut state, &member_of(&recovered, 1, 21))));
    assert!(is_registered(&apply(&mut state, &Command::Register(registration(1, 0, 30, false)))), "it comes empty");
    assert_eq!(occupied_by(&apply(&mut state, &Command::Register(registration(1, 1, 31, false)))), Some(21));
    // Another directory of the old group that was recovered as well comes too late.
    let second = Genesis { members: [NodeId::new(2, 22)].into(), ..first.clone() };
    assert!(matches!(record(&mut state, &second, instead_of(&first)), Reply::GenesisRefused { .. }));
}

// covers M14
#[test]
fn genesis_of_no_group_of_the_cluster_is_refused() {
    let mut state = laid_out();
    let sound = genesis("s1", [10, 11, 12]);
    let mut smaller = sound.clone();
    smaller.members.pop_last();
    let mut twice = sound.clone();
    twice.members.insert(NodeId::new(2, 13));
    for bad in [
        genesis("s2", [10, 11, 12]),
        genesis("m", [10, 11, 12]),
        genesis("s01", [10, 11, 12]),
        Genesis { cluster: Some(ClusterId(5)), ..sound.clone() },
        Genesis { cluster: None, ..sound },
        smaller,
        twice,
    ] {
        let reply = record(&mut state, &bad, None);
        assert!(matches!(reply, Reply::Refused(_)), "{bad:?}: {reply:?}");
    }
    assert_eq!(state, laid_out());
}

// covers M16: the group of an older build is known by its members, and its genesis by the first of them that tells.
#[test]
fn group_of_an_older_build_is_adopted_and_not_founded_again() {
    let mut state = laid_out();
    for command in [unproved(0, 10, true), unproved(1, 11, true), unproved(2, 12, false)] {
        assert!(is_registered(&apply(&mut state, &command)));
    }
    let (old, new) = (genesis("s1", [10, 11, 12]), genesis("s1", [20, 21, 22]));
    let refused = Reply::GenesisRefused { incumbent: Incumbent::Unrecorded, genesis: None };
    assert_eq!(record(&mut state, &new, None), refused);
    assert_eq!(apply(&mut state, &member_of(&new, 1, 21)), Reply::NotProved);
    assert_eq!(apply(&mut state, &member_of(&old, 2, 12)), Reply::NotProved, "it may well be one, but no one knows");
    assert!(is_registered(&apply(&mut state, &member_of(&old, 0, 10))));
    assert!(is_registered(&apply(&mut state, &member_of(&old, 2, 12))));
    assert!(matches!(apply(&mut state, &member_of(&new, 1, 21)), Reply::Refused(_)));
    let refused = Reply::GenesisRefused { incumbent: Incumbent::Recorded(old.hash()), genesis: None };
    assert_eq!(record(&mut state, &new, None), refused);
    assert_eq!(record(&mut state, &new, Some(Incumbent::Recorded(old.hash()))), Reply::GenesisRecorded);
    // The operator's word also replaces a group whose genesis no one can tell any more.
    let mut state = laid_out();
    apply(&mut state, &unproved(0, 10, true));
    assert_eq!(record(&mut state, &new, Some(Incumbent::Unrecorded)), Reply::GenesisRecorded);
}

// covers D16 M16
#[test]
fn log_and_image_of_an_older_build_are_read() {
    // Layout is command 0, a registration was command 1: partition, replica, incarnation, member.
    let layout = layout(3, 6);
    let mut unproved = vec![1, 0, 0, 0];
    unproved.extend(codec::encode(&(1u16, 2u16, Incarnation(7), true)));
    let mut state = ManagerState::default();
    apply(&mut state, &layout);
    assert!(is_registered(&Reply::decode(&state.apply(Index(2), &unproved))));
    assert_eq!(occupied_by(&register(&mut state, 8, false)), Some(7));
    // An image had the map and the replicas, and nothing after them.
    let mut contents = codec::encode(&(map(&state), 1u64, (1u16, 2u16), Incarnation(7), true));
    let mut bytes = u32::try_from(contents.len()).unwrap().to_le_bytes().to_vec();
    bytes.append(&mut contents);
    let restored = ManagerState::restore(&mut &bytes[..]).unwrap();
    assert_eq!(restored, state);
    assert!(is_registered(&register(&mut state, 7, true)), "any start is newer than none");
}

// covers B1
#[test]
fn malformed_command_query_and_image_are_refused() {
    let mut state = laid_out();
    for bytes in [&b""[..], b"\xff", &[0xff; 40]] {
        assert!(matches!(Reply::decode(&state.apply(Index(1), bytes)), Reply::Refused(_)));
        assert!(
            matches!(state.query(bytes), Answer::Now(answer) if matches!(Reply::decode(&answer), Reply::Refused(_)))
        );
    }
    assert_eq!(state, laid_out());
    let whole = image(&state);
    for cut in 0..whole.len() {
        assert!(ManagerState::restore(&mut &whole[..cut]).is_err(), "cut at {cut}");
    }
    assert!(ManagerState::restore(&mut &[0xff; 8][..]).is_err());
}

fn commands() -> impl Strategy<Value = Vec<Command>> {
    let register = (0u16..3, 0u16..4, 1u64..4, any::<bool>()).prop_map(|(partition, replica, incarnation, member)| {
        Command::Register(registration(partition, replica, incarnation, member))
    });
    let record = (0u64..3, proptest::option::of(0u64..3)).prop_map(|(own, instead_of)| {
        let of = |number| genesis("s1", [number, number + 1, number + 2]);
        let instead_of = instead_of.map(|number| Incumbent::Recorded(of(number).hash()));
        Command::RecordGenesis(GenesisRequest { genesis: of(own), instead_of })
    });
    let layout = prop_oneof![Just(layout(3, 6)), Just(layout(1, 2)), Just(layout(2, 2))];
    proptest::collection::vec(prop_oneof![6 => register, 2 => record, 1 => layout], 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    // covers S10, G2
    #[test]
    fn restored_and_replayed_states_stay_equal_and_epochs_name_one_map(before in commands(), behind in commands()) {
        let mut replayed = ManagerState::default();
        let mut published = None;
        for command in &before {
            apply(&mut replayed, command);
            published = published.or(map(&replayed));
        }
        let mut restored = ManagerState::restore(&mut &image(&replayed)[..]).unwrap();
        prop_assert_eq!(&restored, &replayed);
        for command in &behind {
            prop_assert_eq!(apply(&mut restored, command), apply(&mut replayed, command));
            published = published.or(map(&replayed));
            prop_assert_eq!(map(&replayed), published.clone());
        }
        prop_assert_eq!(image(&restored), image(&replayed));
    }

    // covers G1
    #[test]
    fn command_repeated_at_once_same_reply_and_state(commands in commands()) {
        let mut state = ManagerState::default();
        for command in &commands {
            let reply = apply(&mut state, command);
            let once = state.clone();
            prop_assert_eq!(apply(&mut state, command), reply);
            prop_assert_eq!(&state, &once);
        }
    }
}

// covers D16
#[test]
fn restore_image_of_a_newer_version_is_refused_with_both_versions() {
    let error = ManagerState::restore(&mut &[7, 0, 0xff, 0xff, 1, 2, 3][..]).unwrap_err().to_string();
    assert_eq!(error, "an image of version 7, this build reads versions 1 to 6");
}

// covers L20
#[test]
fn command_kinds_of_this_build_are_of_versions_1_to_6_and_others_unknown() {
    for kind in 0..4u32 {
        assert_eq!(ManagerState::command_version(&kind.to_le_bytes()), Some(1), "{kind}");
    }
    for kind in 4..12u32 {
        assert_eq!(ManagerState::command_version(&kind.to_le_bytes()), Some(2), "{kind}");
    }
    for kind in 12u32..14 {
        assert_eq!(ManagerState::command_version(&kind.to_le_bytes()), Some(3), "{kind}");
    }
    let decision = EpochDecision::Activated(Term(2));
    let last = encode(&Command::DecideEpoch { partition: 0, decision, at_unix_ms: 1 });
    assert_eq!(last[..4], 13u32.to_le_bytes(), "the last kind of version 3");
    for kind in 14u32..17 {
        assert_eq!(ManagerState::command_version(&kind.to_le_bytes()), Some(4), "{kind}");
    }
    let last = encode(&Command::SlotStep { id: 1, step: MoveStep::Owned, at_unix_ms: 1 });
    assert_eq!(last[..4], 16u32.to_le_bytes(), "the last kind of version 4");
    for kind in 17u32..21 {
        assert_eq!(ManagerState::command_version(&kind.to_le_bytes()), Some(5), "{kind}");
    }
    let last = encode(&Command::MoveWaits { id: 1, partition: 0, why: String::new(), at_unix_ms: 1 });
    assert_eq!(last[..4], 20u32.to_le_bytes(), "the last kind of version 5");
    assert_eq!(ManagerState::command_version(&21u32.to_le_bytes()), Some(6));
    let (cluster, server_rf, servers, kinds, services) = (ClusterId(4), 1, Vec::new(), Vec::new(), Vec::new());
    let last = encode(&Command::LayoutOfServices { cluster, server_rf, servers, kinds, services });
    assert_eq!(last[..4], 21u32.to_le_bytes(), "the last kind");
    assert_eq!(ManagerState::command_version(&22u32.to_le_bytes()), None);
    for (name, version) in [("election_timeout", 2), ("checkpoint_freq", 5), ("checkpoint_requests", 5), ("no_such", 2)]
    {
        let set = encode(&Command::Set { name: name.to_owned(), value: 1, version: 0, at_unix_ms: 1 });
        assert_eq!(ManagerState::command_version(&set), Some(version), "{name}");
    }
    assert_eq!(ManagerState::command_version(b"no"), Some(1), "no command at all has its answer");
    let one = encode(&Command::Register(registration(1, 2, 3, false)));
    assert_eq!(one[..4], 2u32.to_le_bytes(), "a command begins with its kind");
}

// A manager of the release before refuses a setting that it does not know, and all must carry out the same.
#[test]
fn command_that_sets_a_setting_is_of_the_version_in_which_the_setting_came() {
    let version_of = |name: &str| {
        let set = Command::Set { name: name.to_owned(), value: 1, version: 0, at_unix_ms: 0 };
        ManagerState::command_version(&encode(&set))
    };
    for definition in DEFINITIONS {
        assert_eq!(version_of(definition.name), Some(definition.since), "{}", definition.name);
    }
    assert!(DEFINITIONS.iter().any(|definition| definition.since > 2), "all are as old as settings as such");
    assert_eq!(version_of("no_such"), Some(2), "it is refused by all of them");
}

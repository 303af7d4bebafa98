//! Groups of other services in the manager's state machine: they are laid out, own no slots, and stay as they are.

#![cfg(test)]

use madkv_manager::state::{Command, ManagerState, Query, Reply, encode};
use madkv_proto::control::{Announcement, ControlReply};
use madkv_proto::group_service::GroupService;
use madkv_proto::map::ClusterMap;
use madkv_proto::slot_set::SlotSet;
use madkv_proto::slots::SLOTS;
use smr::entry::Index;
use smr::epoch::{EpochKind, GroupKind};
use smr::id::ClusterId;
use smr::state_machine::{Answer, Image, StateMachine};

const CLUSTER: ClusterId = ClusterId(4);
const PASSIVE: GroupKind = GroupKind::Epochs(EpochKind::Passive);
const AT: u64 = 1_700_000_000_000;

fn apply(state: &mut ManagerState, command: &Command) -> Reply {
    let reply = Reply::decode(&state.apply(Index(1), &encode(command)));
    // Whoever reads an image goes on with the same state.
    assert_eq!(ManagerState::restore(&mut &image(state)[..]).unwrap(), *state);
    reply
}

fn image(state: &ManagerState) -> Vec<u8> {
    let mut bytes = Vec::new();
    state.image().write(&mut bytes).unwrap();
    bytes
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

fn names(names: &[&str]) -> Vec<GroupService> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

/// Groups of one server each.
fn layout(groups: usize, kind: GroupKind, services: &[&str]) -> Command {
    let (servers, kinds) = (servers(groups), vec![kind]);
    Command::LayoutOfServices { cluster: CLUSTER, server_rf: 1, servers, kinds, services: names(services) }
}

fn laid_out(command: &Command) -> (ManagerState, ClusterMap) {
    let mut state = ManagerState::default();
    match apply(&mut state, command) {
        Reply::Map(map) => (state, map),
        other => panic!("{other:?}"),
    }
}

fn refusal(reply: Reply) -> String {
    match reply {
        Reply::Refused(why) | Reply::Control(ControlReply::Refused(why)) => why,
        other => panic!("{other:?}"),
    }
}

fn services(state: &ManagerState) -> Reply {
    ask(state, &Query::Services)
}

// covers G12
#[test]
fn services_are_part_of_the_layout_and_stay() {
    let (mut state, map) = laid_out(&layout(3, PASSIVE, &["kv", "voting", "kv"]));
    let told = |words: &[&str]| Reply::Control(ControlReply::Services(names(words)));
    assert_eq!(services(&state), told(&["kv", "voting", "kv"]));
    assert_eq!(services(&ManagerState::default()), told(&[]), "no layout yet");
    let slots: Vec<usize> = map.partitions.iter().map(|partition| partition.slots.len()).collect();
    assert_eq!(slots, [usize::from(SLOTS / 2), 0, usize::from(SLOTS / 2)]);
    assert!(matches!(apply(&mut state, &layout(3, PASSIVE, &["kv", "voting", "kv"])), Reply::Map(same) if same == map));
    let in_older_words =
        Command::LayoutOfKinds { cluster: CLUSTER, server_rf: 1, servers: servers(3), kinds: vec![PASSIVE] };
    for other in [layout(3, PASSIVE, &["kv", "factory", "kv"]), layout(3, PASSIVE, &["voting"]), in_older_words] {
        assert_eq!(refusal(apply(&mut state, &other)), "the cluster has another layout already");
    }
    assert_eq!(services(&state), told(&["kv", "voting", "kv"]));
    let misfit = refusal(apply(&mut ManagerState::default(), &layout(3, PASSIVE, &["kv", "voting"])));
    assert!(misfit.contains("2 services"), "{misfit}");
}

// covers D16
#[test]
fn image_is_of_version_6_only_with_other_services() {
    let (without, _) = laid_out(&layout(2, GroupKind::Raft, &["kv"]));
    let (as_before, _) = laid_out(&Command::Layout { cluster: CLUSTER, server_rf: 1, servers: servers(2) });
    assert_eq!(image(&without), image(&as_before));
    let (with, _) = laid_out(&layout(2, GroupKind::Raft, &["kv", "voting"]));
    assert_eq!(image(&with)[..4], [6, 0, 0xff, 0xff]);
    let bytes = image(&with);
    assert!(ManagerState::restore(&mut &bytes[..bytes.len() - 1]).is_err());
}

// covers B9 G12
#[test]
fn operators_change_no_group_of_another_service_whatever_its_kind() {
    for kind in [GroupKind::Raft, PASSIVE] {
        let (mut state, map) = laid_out(&layout(2, kind, &["kv", "voting"]));
        let before = image(&state);
        let announcement = Announcement {
            partition: 1,
            replica: 0,
            api_address: "127.0.0.1:9".to_owned(),
            p2p_address: "127.0.0.1:10".to_owned(),
            epoch: 1,
        };
        let orders = [
            Command::Scale { partition: 1, replicas: 3, epoch: 1, at_unix_ms: AT },
            Command::Relocate { announcement: announcement.clone(), at_unix_ms: AT },
            Command::Announce { announcement, at_unix_ms: AT },
        ];
        for order in orders {
            let why = refusal(apply(&mut state, &order));
            assert_eq!(why, "groups of service voting keep the replicas that they were laid out with", "{order:?}");
        }
        let slots = [SlotSet::range(0, 9), SlotSet::range(0, SLOTS)];
        for slots in slots {
            let why = refusal(apply(&mut state, &Command::MoveSlots { slots, to: 1, at_unix_ms: AT }));
            assert_eq!(why, "s1 is of service voting, and owns no slots");
        }
        assert_eq!(image(&state), before);
        // The store beside it grows all the same.
        let add = Command::AddPartition { servers: vec!["127.0.0.1:9".to_owned()], at_unix_ms: AT };
        assert_eq!(apply(&mut state, &add), Reply::Control(ControlReply::Done));
        let Reply::Map(grown) = ask(&state, &Query::Map) else { panic!("no map") };
        assert_eq!((grown.epoch, &grown.partitions[..2]), (2, &map.partitions[..]));
        assert!(grown.partitions[2].is_store);
        assert_eq!(services(&state), Reply::Control(ControlReply::Services(names(&["kv", "voting", "kv"]))));
    }
}

// covers G12
#[test]
fn layout_without_the_store_gives_no_one_slots_and_takes_no_partition() {
    let (mut state, map) = laid_out(&layout(2, PASSIVE, &["voting"]));
    assert!(!map.has_store() && map.partitions.iter().all(|partition| partition.slots.is_empty()));
    for servers in [vec!["127.0.0.1:9".to_owned()], servers(2)[1..].to_vec()] {
        let why = refusal(apply(&mut state, &Command::AddPartition { servers, at_unix_ms: AT }));
        assert!(why.contains("all groups are of other services"), "{why}");
    }
}

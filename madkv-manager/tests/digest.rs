//! What replicas of the manager compare is the same in every build that talks to them.

#![cfg(test)]

#[path = "../../smr-service/tests/pinned_digest/mod.rs"]
mod pinned_digest;

use madkv_manager::state::{Command, ManagerState, encode};
use madkv_proto::frames::Registration;
use pinned_digest::assert_pinned;
use smr::entry::{Genesis, GenesisRequest, Index};
use smr::id::{ClusterId, Incarnation, NodeId, StartTrail};
use smr::state_machine::StateMachine;

// covers I7: equal states of equal builds have equal hashes; of unequal builds, too, or they are not compared.
#[test]
fn state_digest_of_a_small_fixed_manager_changes_only_with_the_image_versions() {
    let mut state = ManagerState::default();
    let servers = (0..6).map(|number| format!("127.0.0.1:{}", 3777 + number)).collect();
    let genesis = Genesis {
        cluster: Some(ClusterId(4)),
        group: "s1".parse().unwrap(),
        members: (0..3).map(|replica| NodeId::new(replica, 7 + u64::from(replica))).collect(),
    };
    let registration = Registration {
        partition: 1,
        replica: 2,
        incarnation: Incarnation(9),
        member: true,
        genesis: Some(genesis.hash()),
        start: StartTrail::default().next(7).next(8),
    };
    let commands = [
        Command::Layout { cluster: ClusterId(4), server_rf: 3, servers },
        Command::RecordGenesis(GenesisRequest { genesis, instead_of: None }),
        Command::Register(registration),
    ];
    for (index, command) in (1..).zip(&commands) {
        state.apply(Index(index), &encode(command));
    }
    assert_pinned(&state, 0x41e1_3eb3_4fab_dcbf, 0xa71c_6fa9_6b91_9ab1);
}

//! What replicas of a partition compare is the same in every build that talks to them.

#![cfg(test)]

#[path = "../../smr-service/tests/pinned_digest/mod.rs"]
mod pinned_digest;

use madkv_proto::command::Command;
use madkv_server::map::Map;
use pinned_digest::assert_pinned;
use smr::entry::Index;
use smr::state_machine::StateMachine;

// covers I7: equal states of equal builds have equal hashes; of unequal builds, too, or they are not compared.
#[test]
fn state_digest_of_a_small_fixed_partition_changes_only_with_the_image_versions() {
    let mut map = Map::default();
    for (key, value) in [(&b""[..], &b"of the empty key"[..]), (b"a", b""), (b"b", b"2"), (&[0xff; 300], &[7; 5_000])] {
        map.apply(Index(1), &Command::Put { key, value }.encode());
    }
    map.apply(Index(2), &Command::Swap { key: b"b", value: b"3" }.encode());
    map.apply(Index(3), &Command::Delete { key: b"a" }.encode());
    assert_pinned(&map, 0xd0ae_f51b_5fe6_42b4, 0x1d09_95a2_d6a1_8e80);
}

//! A full disk under a real replica (fault catalogue D7): at its first start, under load as a follower and as the
//! leader, while log and snapshots are written, while a snapshot is received.

use crate::disk_faults::full::SmallDiskGroup;
use crate::scenario::{Place, describe};
use madkv_testkit::place::{Outcome, fresh_directory};
use madkv_testkit::programs::Programs;

/// Room that is left, in bytes: enough for a part of what a snapshot and the log of its time need.
const SPARES_BYTES: [u64; 5] = [2 << 20, 6 << 20, 12 << 20, 20 << 20, 30 << 20];

pub(super) fn run(place: &Place) -> Outcome {
    let programs = Programs::beside_this_one()?;
    let directory = fresh_directory(&programs, place.directory.as_deref())?;
    let mut group = SmallDiskGroup::start(&programs, directory.path())?;
    describe(&group.cluster)?;
    println!("full at the first start: refused, and started once there was room");
    println!("the leader's, with little room: {}", group.leave_leader_little_room()?);
    println!("a follower's, without any: {}", group.run_full_under_load()?);
    for spare in SPARES_BYTES {
        println!("{} MiB to spare: {}", spare >> 20, group.run_full_with_spare(spare)?);
    }
    println!("receiving a snapshot: {}", group.receive_snapshot_without_room()?);
    println!("nothing acknowledged was lost or applied twice; each time it went on when there was room");
    group.cluster.kill_all();
    Ok(())
}

//! Followers that fall behind what the leader still has, while things go wrong.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use smr::entry::{Configuration, EntryId, Index, Promise, SnapshotMeta, Term};
use smr::id::NodeId;
use smr::protocol::{Input, Protocol, Recovered, Time};
use smr::raft::message::{Body, Message};
use smr::raft::{Raft, Settings};
use smr::sim::machine::path;
use smr::storage::disk::Disk;

use crate::cluster::{Cluster, Counts};
use crate::{assert_met, seeds};

/// One follower after the other is cut off until it needs a snapshot; when it is back, somebody dies before it has it all.
fn torture(seed: u64, size: u16) -> Counts {
    let mut cluster = Cluster::new(seed, size, 3, 1);
    let percent = cluster.draw(4);
    cluster.lose_percent(percent);
    cluster.disk_us = [500, 5_000, 60_000][cluster.draw(3) as usize];
    cluster.run_for(1_500_000);
    for _ in 0..8 {
        let behind = cluster.draw(u64::from(size)) as usize;
        cluster.cut_off(behind, false);
        cluster.run_for(1_500_000);
        cluster.heal_cuts();
        let quiet_us = cluster.draw(600_000);
        let installs = cluster.counts().installs;
        let until = cluster.now.plus_us(quiet_us);
        while cluster.now < until && cluster.counts().installs == installs {
            cluster.run_for(1_000);
        }
        let power_cut = cluster.draw(2) == 0;
        let victim = if cluster.draw(2) == 0 { behind } else { cluster.some_leader() };
        if cluster.draw(4) > 0 {
            cluster.crash(victim, power_cut);
        }
    }
    cluster.calm_down();
    cluster.counts()
}

// covers S4 S5 S6 S7 S10 S12 S15 L13 R11, on a small scale.
#[test]
fn followers_far_behind_catch_up_by_snapshots_whoever_dies_meanwhile() {
    let mut counts = Counts::default();
    for seed in seeds(12) {
        counts += torture(seed, if seed % 4 == 0 { 5 } else { 3 });
    }
    assert_met(counts.installs > 40 && counts.transfers_broken > 20 && counts.crashes > 50, &counts);
}

/// The links carry again, and whoever was cut off gets a snapshot.
fn expect_an_install(cluster: &mut Cluster) {
    let installs = cluster.counts().installs;
    cluster.heal_cuts();
    let until = cluster.now.plus_us(5_000_000);
    while cluster.counts().installs == installs {
        assert!(cluster.now < until, "seed {}: the follower has no snapshot", cluster.seed);
        cluster.run_for(1_000);
    }
}

// covers S9 S15: no further write comes after the follower is back.
#[test]
fn follower_far_behind_in_a_silent_group_still_catches_up() {
    for seed in 0..4 {
        let mut cluster = Cluster::new(seed, 3, 3, 0);
        cluster.run_for(1_500_000);
        let behind = (cluster.some_leader() + 1) % 3;
        cluster.cut_off(behind, false);
        cluster.run_for(2_000_000);
        cluster.fall_silent();
        expect_an_install(&mut cluster);
        cluster.expect_equally_far(1_000_000);
        cluster.check();
    }
}

// covers S8: it is not passed on, and another one is made although nobody writes.
#[test]
fn damaged_snapshot_is_replaced_before_a_follower_gets_it() {
    for seed in 0..3 {
        let mut cluster = Cluster::new(seed, 3, 3, 0);
        cluster.run_for(1_500_000);
        let leader = cluster.some_leader();
        cluster.cut_off((leader + 1) % 3, false);
        cluster.run_for(2_000_000);
        cluster.fall_silent();
        let snapshots = path("snapshots");
        let disk = &cluster.machines[leader].disk;
        let name = disk.list(&snapshots).unwrap().into_iter().find(|name| name.ends_with(".snap")).unwrap();
        let spoil = |bytes: &mut Vec<u8>| {
            let inside = bytes.len() - 80;
            bytes[inside] ^= 1;
        };
        disk.damage(&snapshots.join(name), spoil).unwrap();
        expect_an_install(&mut cluster);
        // And it is on the disk: the node comes back.
        cluster.crash(leader, true);
        cluster.expect_equally_far(5_000_000);
        cluster.check();
    }
}

// covers S6 D12: a snapshot may be on the device before a promise that a hanging disk was given earlier.
#[test]
fn snapshot_of_a_later_term_than_the_promise_on_disk_is_no_riddle() {
    let node = NodeId::new(0, 1);
    let snapshot = SnapshotMeta {
        last: EntryId::new(9, 4),
        configuration: Configuration::of([node, NodeId::new(1, 1)]),
        configuration_index: Index(1),
    };
    let promise = Promise { term: Term(3), vote: Some(NodeId::new(1, 1)), lease_us: 0 };
    let recovered = Recovered { promise, snapshot, entries: Vec::new() };
    let mut core = Raft::new(Settings::default(), node, recovered, ChaCha8Rng::seed_from_u64(1), Time(0));
    assert_eq!(core.status().term, Term(4));
    // The vote was given in an earlier term, so it binds nobody in this one, and a new one is written down.
    let vote = Message { term: Term(4), body: Body::Vote { last: EntryId::new(9, 4), transfer: false } };
    let outputs = core.step(Time(1), Input::Receive { from: NodeId::new(1, 1), message: vote });
    assert_eq!(
        outputs.writes[0].promise(),
        Some(Promise { term: Term(4), vote: Some(NodeId::new(1, 1)), lease_us: 0 })
    );
}

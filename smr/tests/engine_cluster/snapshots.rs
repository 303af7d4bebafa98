//! Followers that fall behind what the leader still has, while things go wrong.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use smr::entry::{Configuration, EntryId, HardState, Index, SnapshotMeta, Term};
use smr::id::NodeId;
use smr::internals::disk::Disk;
use smr::internals::protocol::{Input, Protocol, Recovered, Time};
use smr::internals::raft::message::{Body, Message};
use smr::internals::raft::{Raft, Settings};
use smr_sim::sim_node::{Shape, path};

use crate::cluster::{Cluster, Counts, Group, status, term};
use crate::{assert_met, seeds};

/// One follower after the other is cut off until it needs a snapshot; when it is back, someone dies before it has it
/// all.
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

/// Whether the follower on a replica soon has what the leader has committed by now.
fn is_level(cluster: &mut Cluster, replica: usize) -> bool {
    let Some(leader) = cluster.leader() else { return false };
    let committed = status(cluster, leader).map(|status| status.commit.0);
    cluster.run_for(200_000);
    cluster.applied(replica) >= committed
}

// covers S15 S17: clients never pause, and write many times what the log holds while a snapshot travels.
#[test]
fn follower_that_was_away_is_level_while_clients_write_as_fast_as_they_are_answered() {
    for seed in seeds(6) {
        let shape = Shape { log_max_bytes: 40_000, ..Shape::small(3) };
        let mut cluster = Cluster::shaped(seed, shape, 6, 0, Vec::new());
        let pace = &mut cluster.clients.pace;
        (pace.pause_min_us, pace.pause_max_us, pace.window) = (0, 100, 4);
        cluster.load_with_ballast(200);
        cluster.run_for(1_500_000);
        let leader = cluster.some_leader();
        let before = term(&cluster);
        let behind = (leader + 1) % 3;
        for absence_us in [700_000, 2_000_000, 3_000_000] {
            let installs = cluster.counts().installs;
            cluster.cut_off(behind, false);
            cluster.run_for(absence_us);
            cluster.heal_cuts();
            let (back_at, answered) = (cluster.now, cluster.answered());
            while !is_level(&mut cluster, behind) {
                let within = cluster.now.since_us(back_at) < 5_000_000;
                let installs = cluster.counts().installs - installs;
                assert!(within, "seed {seed}: not level 5 s after {absence_us} us, with {installs} snapshots");
            }
            // Writers were slowed down, not stopped.
            assert!(cluster.answered() > answered + 50, "seed {seed}: {} answers", cluster.answered() - answered);
        }
        assert_eq!(term(&cluster), before, "seed {seed}: an election");
        cluster.calm_down();
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

// covers S8: it is not passed on, and another one is made although no one writes.
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
        let disk = &cluster.nodes[leader].disk;
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

// covers S14
#[test]
fn trigger_while_a_snapshot_is_written_another_one_follows_though_no_one_writes_any_more() {
    for seed in seeds(6) {
        let mut cluster = Cluster::new(seed, 3, 3, 0);
        // Each write is a fifth of what triggers a snapshot, so that they always come too fast.
        cluster.load_with_ballast(1_000);
        // Replicas that share a machine do not all begin at once.
        let trigger_bytes = *cluster.shape().snapshot_log_bytes.end() * 11 / 8;
        let log_bytes = |group: &Group, replica| status(group, replica).map_or(0, |status| status.log_bytes);
        let longest = |group: &Group| (0..3).map(|replica| log_bytes(group, replica)).max().unwrap_or_default();
        cluster.run_for(1_500_000);
        let (taken, mut longest_bytes) = (cluster.counts().snapshots_taken, 0);
        for _ in 0..200 {
            cluster.run_for(10_000);
            longest_bytes = longest_bytes.max(longest(&cluster));
        }
        let taken = cluster.counts().snapshots_taken - taken;
        assert!(taken > 50, "seed {seed}: {taken} snapshots are no load");
        assert!(longest_bytes < 20 * trigger_bytes, "seed {seed}: a log of {longest_bytes} bytes");
        // In the middle of one.
        cluster.run_until_that(2_000_000, "a trigger while a snapshot is written", |group| {
            longest(group) > 2 * trigger_bytes
        });
        cluster.fall_silent();
        cluster.run_for(500_000);
        for replica in 0..3 {
            let left = log_bytes(&cluster, replica);
            assert!(left < trigger_bytes, "seed {seed}: {left} bytes stay in the log of replica {replica}");
        }
        cluster.check();
    }
}

// covers L15: entries come from memory, where no read can fail.
#[test]
fn follower_behind_is_caught_up_by_a_leader_that_cannot_read_its_disk() {
    for seed in 0..4 {
        // No snapshot in the time of this test: all entries are in the log.
        let shape = Shape { snapshot_log_bytes: 1 << 30..=1 << 30, ..Shape::small(3) };
        let mut cluster = Cluster::shaped(seed, shape, 3, 0, Vec::new());
        cluster.run_for(1_500_000);
        let leader = cluster.some_leader();
        let behind = (leader + 1) % 3;
        (0..10_000).for_each(|read| cluster.fail_read(leader, read));
        cluster.cut_off(behind, false);
        cluster.run_for(3_000_000);
        let missing = cluster.applied(leader).unwrap() - cluster.applied(behind).unwrap();
        assert!(missing > 500, "seed {seed}: it is {missing} entries behind only");
        let written = cluster.applied(leader);
        cluster.heal_cuts();
        cluster.run_until_that(2_000_000, "the follower has it all", |group| group.applied(behind) >= written);
        assert_eq!((cluster.leader(), cluster.counts().crashes), (Some(leader), 0), "seed {seed}");
        cluster.calm_down();
    }
}

// covers L15 D8: what has to be read is a snapshot.
#[test]
fn leader_that_cannot_read_what_a_follower_needs_ends_and_sends_nothing_in_its_place() {
    for seed in 0..4 {
        let mut cluster = Cluster::new(seed, 3, 3, 0);
        cluster.run_for(1_500_000);
        let leader = cluster.some_leader();
        let behind = (leader + 1) % 3;
        cluster.cut_off(behind, false);
        cluster.run_for(2_000_000);
        cluster.fall_silent();
        let reached = cluster.applied(behind);
        (0..10_000).for_each(|read| cluster.fail_read(leader, read));
        cluster.heal_cuts();
        cluster.run_until_that(2_000_000, "the leader's end", |group| group.nodes[leader].is_down());
        assert_eq!((cluster.counts().disk_errors, cluster.applied(behind)), (1, reached), "seed {seed}");
        // Whoever leads next has a snapshot that can be read.
        cluster.expect_equally_far(10_000_000);
        assert!(cluster.applied(behind) > reached);
        cluster.check();
    }
}

// covers S6 D12: a snapshot may be on the device before a hard state that a hanging disk was given earlier.
#[test]
fn snapshot_of_a_later_term_than_the_hard_state_on_disk_is_no_riddle() {
    let node = NodeId::new(0, 1);
    let snapshot = SnapshotMeta {
        last: EntryId::new(9, 4),
        configuration: Configuration::of([node, NodeId::new(1, 1)]),
        configuration_index: Index(1),
    };
    let hard_state = HardState { term: Term(3), vote: Some(NodeId::new(1, 1)), lease_us: 0 };
    let recovered = Recovered { stored: hard_state.into(), snapshot, ..Recovered::default() };
    let mut core = Raft::new(Settings::default(), node, recovered, ChaCha8Rng::seed_from_u64(1), Time(0));
    assert_eq!(core.status().term, Term(4));
    // The vote was given in an earlier term, so it binds no one in this one, and a new one is written down.
    let vote = Message { term: Term(4), body: Body::Vote { last: EntryId::new(9, 4), transfer: false } };
    let outputs = core.step(Time(1), Input::Receive { from: NodeId::new(1, 1), message: vote });
    assert_eq!(
        outputs.writes[0].hard_state(),
        Some(HardState { term: Term(4), vote: Some(NodeId::new(1, 1)), lease_us: 0 })
    );
}

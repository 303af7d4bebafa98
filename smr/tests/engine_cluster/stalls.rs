//! Disks that hang, and processes that are stopped.

use smr::internals::protocol::Time;
use smr_sim::rare::Rare;
use smr_sim::sim_node::Shape;

use crate::cluster::Cluster;

// covers E19 D12
#[test]
fn leader_whose_disk_hangs_gives_way_and_writes_go_on() {
    for seed in 0..8 {
        let mut cluster = Cluster::new(seed, 3, 3, 2);
        cluster.run_for(2_000_000);
        let leader = cluster.some_leader();
        let until = cluster.now.plus_us([3_000_000, 20_000_000][(seed % 2) as usize]);
        cluster.hang_disk(leader, until);
        cluster.run_until_that(3_000_000, "another leader", |group| group.leader().is_some_and(|l| l != leader));
        cluster.expect_writes(2_000_000);
        cluster.run_until(until.plus_us(1_000_000));
        assert!(cluster.no_write_since_us() < 300_000, "seed {seed}: writes have stopped");
        cluster.calm_down();
    }
}

// covers E21: slow, but it never hangs; what it proposed in its last moments is not lost.
#[test]
fn leader_whose_disk_is_slow_for_seconds_hands_over() {
    for seed in 0..4 {
        let mut cluster = Cluster::new(seed, 3, 3, 2);
        cluster.run_for(2_000_000);
        let leader = cluster.some_leader();
        cluster.slow_disk(leader, 400_000, Time(u64::MAX));
        cluster.run_until_that(8_000_000, "another leader", |group| group.leader().is_some_and(|l| l != leader));
        assert_eq!(cluster.watch.rare.of(Rare::StalledLeader), 0, "seed {seed}: it was taken for one that hangs");
        assert_eq!(cluster.watch.rare.of(Rare::DiskLags), 1, "seed {seed}");
        cluster.expect_writes(1_000_000);
        cluster.run_for(5_000_000);
        assert_eq!(cluster.watch.rare.of(Rare::DiskLags), 1, "seed {seed}: nor does the role come back to it");
        cluster.calm_down();
    }
}

// covers E21 D12: it has handed over, and its disk is as slow as before.
#[test]
fn leader_whose_disk_is_slow_does_not_lead_again_while_others_can() {
    for seed in 0..8 {
        let mut cluster = Cluster::new(seed, 5, 3, 2);
        cluster.run_for(2_000_000);
        let slow = cluster.some_leader();
        cluster.slow_disk(slow, 400_000, Time(u64::MAX));
        for _ in 0..2 {
            let former = cluster.some_leader();
            if former != slow {
                cluster.crash_for(former, false, Some(2_000_000));
            }
            cluster.run_until_that(8_000_000, "another leader", |group| group.leader().is_some_and(|l| l != former));
            assert_ne!(cluster.leader(), Some(slow), "seed {seed}: three others could lead");
            cluster.run_for(4_000_000);
        }
        cluster.calm_down();
    }
}

// covers E21: so a leader that ends hands over to another one.
#[test]
fn follower_whose_disk_is_slow_is_known_to_its_leader() {
    for seed in 0..4 {
        let mut cluster = Cluster::new(seed, 3, 3, 2);
        cluster.run_for(2_000_000);
        let leader = cluster.some_leader();
        let found = |cluster: &Cluster| {
            let peers = crate::cluster::status(cluster, leader).unwrap().peers;
            peers.iter().filter(|peer| peer.disk_is_slow).map(|peer| usize::from(peer.node.name.0)).collect::<Vec<_>>()
        };
        assert_eq!(found(&cluster), [], "seed {seed}");
        let slow = (leader + 1) % 3;
        let until = cluster.now.plus_us(8_000_000);
        cluster.slow_disk(slow, 400_000, until);
        cluster.run_until(until);
        assert_eq!((cluster.leader(), found(&cluster)), (Some(leader), vec![slow]), "seed {seed}");
        cluster.run_for(6_000_000);
        assert_eq!(found(&cluster), [], "seed {seed}: it keeps up again");
        cluster.calm_down();
    }
}

// covers E22: the quorum's disks decide how fast a group writes, not the leader's.
#[test]
fn leader_whose_syncs_take_50_ms_writes_as_fast_as_its_followers() {
    for seed in 0..4 {
        let mut cluster = Cluster::new(seed, 3, 12, 0);
        // Without the leader's the slower of two disks decides, not the second of three: so they must hardly differ.
        cluster.disk_us = 300;
        cluster.run_for(2_000_000);
        let leader = cluster.some_leader();
        let answered_in_3_s = |cluster: &mut Cluster| {
            let before = cluster.answered();
            cluster.run_for(3_000_000);
            cluster.answered() - before
        };
        let sound = answered_in_3_s(&mut cluster);
        cluster.slow_disk(leader, 50_000, Time(u64::MAX));
        let slow = answered_in_3_s(&mut cluster);
        assert_eq!(cluster.leader(), Some(leader), "seed {seed}: it handed over");
        assert!(slow * 100 >= sound * 80, "seed {seed}: {slow} instead of {sound}");
        cluster.calm_down();
    }
}

// covers D12 L13: whether it ends, or ends with a crash.
#[test]
fn follower_whose_disk_hangs_disturbs_no_one() {
    for seed in 0..4 {
        let mut cluster = Cluster::new(seed, 3, 3, 2);
        cluster.run_for(2_000_000);
        let leader = cluster.some_leader();
        let leaders = cluster.counts().leaders;
        let follower = (leader + 1) % 3;
        cluster.hang_disk(follower, Time(u64::MAX));
        for _ in 0..20 {
            cluster.run_for(500_000);
            assert!(cluster.no_write_since_us() < 300_000, "seed {seed}: no writes");
        }
        assert_eq!((cluster.leader(), cluster.counts().leaders), (Some(leader), leaders), "seed {seed}");
        cluster.crash(follower, seed % 2 == 0);
        cluster.calm_down();
    }
}

// covers D12 I17: that it takes in no message beyond its limit is judged after each step.
#[test]
fn follower_whose_disk_hangs_loses_messages_beyond_its_limit_and_catches_up() {
    for seed in 0..4 {
        let mut cluster =
            Cluster::shaped(seed, Shape { writes_under_way_high: 8, ..Shape::small(3) }, 3, 2, Vec::new());
        cluster.run_for(2_000_000);
        let follower = (cluster.some_leader() + 1) % 3;
        let until = cluster.now.plus_us(3_000_000);
        cluster.hang_disk(follower, until);
        cluster.run_until(until);
        assert!(cluster.watch.rare.of(Rare::DiskTooSlow) > 0, "seed {seed}: it was below its limit all the time");
        assert!(cluster.no_write_since_us() < 300_000, "seed {seed}: writes have stopped");
        cluster.calm_down();
    }
}

// covers E18 I17: no more waits for it than its queue holds (here the simulator's; in service a bounded channel).
#[test]
fn stopped_follower_whose_queue_is_full_loses_messages_and_catches_up() {
    for seed in 0..4 {
        let mut cluster = Cluster::shaped(seed, Shape { events_max: 16, ..Shape::small(3) }, 3, 2, Vec::new());
        cluster.run_for(2_000_000);
        let follower = (cluster.some_leader() + 1) % 3;
        cluster.pause(follower, 3_000_000);
        cluster.run_for(3_000_000);
        assert!(cluster.watch.rare.of(Rare::QueueFull) > 0, "seed {seed}: the queue had room all the time");
        cluster.calm_down();
    }
}

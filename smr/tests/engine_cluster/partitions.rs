//! Links that carry nothing, one way or both, connections that break, and processes that are stopped and go on.

use smr::status::Role;

use crate::cluster::{Cluster, status, term};
use crate::{assert_met, seeds};

fn torture(seed: u64, size: u16) -> (u64, u64) {
    let mut cluster = Cluster::new(seed, size, 3, 4);
    let percent = cluster.draw(5);
    cluster.lose_percent(percent);
    cluster.run_for(1_500_000);
    for _ in 0..10 {
        let node = cluster.draw(u64::from(size)) as usize;
        let leader = cluster.leader().unwrap_or(node);
        match cluster.draw(8) {
            // The leader with its clients on one side, the rest on the other.
            0 => cluster.cut_off(leader, false),
            // The same, and the others know at once, so that two lead for a while.
            7 => cluster.cut_off(leader, true),
            1 => cluster.cut_off(node, false),
            // One way only: the leader sends and does not hear, or hears and does not send.
            2 => (0..size).for_each(|other| cluster.cut(other, leader as u16)),
            3 => (0..size).for_each(|other| cluster.cut(leader as u16, other)),
            // Each link by itself, each way by itself.
            4 => {
                for (from, to) in (0..size).flat_map(|from| (0..size).map(move |to| (from, to))) {
                    if cluster.draw(3) == 0 {
                        cluster.cut(from, to);
                    }
                }
            }
            5 => {
                let us = 200_000 + cluster.draw(3_000_000);
                cluster.pause(leader, us);
            }
            _ => {
                for _ in 0..cluster.draw(20) {
                    let to = cluster.draw(u64::from(size)) as usize;
                    if to != leader {
                        cluster.reset(leader, to);
                    }
                    cluster.run_for(50_000);
                }
            }
        }
        let bad_us = 100_000 + cluster.draw(2_500_000);
        cluster.run_for(bad_us);
        if cluster.draw(3) == 0 {
            cluster.crash(node, false);
        }
        if cluster.draw(3) > 0 {
            cluster.heal_cuts();
            let good_us = cluster.draw(1_000_000);
            cluster.run_for(good_us);
        }
    }
    cluster.calm_down();
    (cluster.answered(), cluster.counts().leaders)
}

// covers N1 E10 E11 E18 R1 R3 R4 R10 I14, on a small scale.
#[test]
fn group_under_partitions_and_pauses_stays_linearizable() {
    let (mut operations, mut leaders) = (0, 0);
    for seed in seeds(14) {
        let (done, led) = torture(seed, if seed % 4 == 0 { 5 } else { 3 });
        operations += done;
        leaders += led;
    }
    assert_met(operations > 8_000 && leaders > 50, &(operations, leaders));
}

// covers E7
#[test]
fn follower_cut_off_for_a_hundred_timeouts_returns_without_a_stir() {
    let mut cluster = Cluster::new(1, 3, 2, 1);
    cluster.run_for(2_000_000);
    let leader = cluster.some_leader();
    let before = term(&cluster);
    cluster.cut_off((leader + 1) % 3, false);
    cluster.run_for(60_000_000);
    cluster.heal_cuts();
    cluster.run_for(3_000_000);
    assert_eq!((cluster.leader(), term(&cluster)), (Some(leader), before));
    cluster.calm_down();
}

// covers E8
#[test]
fn one_link_cut_leads_to_one_change_of_leader_at_most() {
    for seed in 0..3 {
        for neighbour in [1, 2] {
            let mut cluster = Cluster::new(seed, 3, 2, 1);
            cluster.run_for(2_000_000);
            let leader = cluster.some_leader() as u16;
            let other = (leader + neighbour) % 3;
            let leaders = cluster.counts().leaders;
            cluster.cut(leader, other);
            cluster.cut(other, leader);
            for _ in 0..60 {
                cluster.run_for(1_000_000);
                assert!(cluster.no_write_since_us() < 500_000, "seed {seed}: no writes");
            }
            let more = cluster.counts().leaders - leaders;
            assert!(more <= 1, "seed {seed}: {more} leaders");
            cluster.calm_down();
        }
    }
}

// covers E10 E11: whoever does not hear, or is not heard, does not lead for long.
#[test]
fn leader_that_is_deaf_or_mute_is_replaced() {
    for seed in 0..6 {
        let mut cluster = Cluster::new(seed, 3, 2, 2);
        cluster.run_for(2_000_000);
        let leader = cluster.some_leader();
        for other in 0..3 {
            let (from, to) = if seed % 2 == 0 { (other, leader as u16) } else { (leader as u16, other) };
            cluster.cut(from, to);
        }
        cluster.run_until_that(3_000_000, "another leader", |group| group.leader().is_some_and(|l| l != leader));
        cluster.run_until_that(1_200_000, "the old one to step down", |group| {
            status(group, leader).is_some_and(|status| status.role != Role::Leader)
        });
        cluster.expect_writes(1_000_000);
        cluster.calm_down();
    }
}

// covers N2 E12: a connection that breaks again and again is no reason to depose a leader whom the others hear.
#[test]
fn leader_with_one_flapping_link_stays() {
    for seed in 0..4 {
        let mut cluster = Cluster::new(seed, 3, 2, 1);
        cluster.run_for(2_000_000);
        let leader = cluster.some_leader();
        let before = term(&cluster);
        for _ in 0..300 {
            cluster.reset(leader, (leader + 1) % 3);
            cluster.run_for(100_000);
        }
        assert_eq!((cluster.leader(), term(&cluster)), (Some(leader), before), "seed {seed}");
        cluster.calm_down();
    }
}

/// Cuts some links one after the other, then mends them in another order; for how long there was no leader's write in
/// between.
fn close_and_reopen(seed: u64, size: u16) -> u64 {
    let mut cluster = Cluster::new(seed, size, 3, 1);
    cluster.run_for(1_500_000);
    let pairs: Vec<(u16, u16)> = (0..size).flat_map(|from| (0..from).map(move |to| (from, to))).collect();
    // A third of all, or two thirds, or all.
    let share = 1 + cluster.draw(3);
    let mut links: Vec<(u16, u16)> = pairs.into_iter().filter(|_| cluster.draw(3) < share).collect();
    shuffle(&mut cluster, &mut links);
    for &(one, other) in &links {
        cluster.cut(one, other);
        cluster.cut(other, one);
        // A connection that is closed is news at both ends.
        cluster.reset(usize::from(one), usize::from(other));
        cluster.reset(usize::from(other), usize::from(one));
        let us = cluster.draw(800_000);
        cluster.run_for(us);
    }
    let us = cluster.draw(3_000_000);
    cluster.run_for(us);
    let silence_us = cluster.no_write_since_us();
    shuffle(&mut cluster, &mut links);
    for (one, other) in links {
        cluster.network.cut.remove(&(one, other));
        cluster.network.cut.remove(&(other, one));
        let us = cluster.draw(800_000);
        cluster.run_for(us);
    }
    assert!(cluster.network.cut.is_empty());
    // Ten election timeouts (the catalogue's time for everything).
    cluster.expect_writes(6_000_000);
    cluster.some_leader();
    cluster.calm_down();
    silence_us
}

fn shuffle(cluster: &mut Cluster, links: &mut [(u16, u16)]) {
    for place in (1..links.len()).rev() {
        let other = cluster.draw(place as u64 + 1) as usize;
        links.swap(place, other);
    }
}

// covers N4
#[test]
fn links_closed_one_by_one_and_reopened_in_another_order_the_group_converges() {
    let silences: Vec<u64> = seeds(10).map(|seed| close_and_reopen(seed, if seed % 2 == 0 { 5 } else { 3 })).collect();
    let served = silences.iter().filter(|us| **us < 500_000).count();
    assert_met(served > 1 && served + 1 < silences.len(), &silences);
}

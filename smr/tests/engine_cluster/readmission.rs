//! Directories that are lost or damaged, and the way back.

use smr::id::ReplicaId;
use smr::replica::{Outcome, Request};
use smr_sim::sim_node::path;

use crate::cluster::{Cluster, Group, status, term};
use crate::{assert_met, seeds};

/// How often an operator tries: it is told "alive and votes" as long as old messages of the previous incarnation come
/// again.
const TRIES_MAX: usize = 300;

/// Asks the leader, whoever that is, until it is done.
fn readmit(cluster: &mut Cluster, replica: usize) {
    let mut heard = Vec::new();
    for _ in 0..TRIES_MAX {
        let leader = cluster.some_leader();
        // A first try may have got further than whoever asked for it heard.
        let status = status(cluster, leader).unwrap();
        let (members, present) = (status.configuration, cluster.nodes[replica].id);
        if members.voters.contains(&present) && !members.is_joint() && status.configuration_index <= status.commit {
            return;
        }
        let tag = cluster.ask(leader, Request::Readmit { name: ReplicaId(replica as u16) });
        let until = cluster.now.plus_us(3_000_000);
        let mut outcome = None;
        while cluster.now < until && outcome.is_none() {
            cluster.run_for(10_000);
            outcome = cluster.clients.operator.iter().find(|(of, _)| *of == tag).map(|(_, outcome)| outcome.clone());
        }
        if outcome == Some(Outcome::Done) {
            return;
        }
        heard.push(outcome);
        cluster.run_for(100_000);
    }
    panic!("seed {}: {replica} is not readmitted: {heard:?}", cluster.seed);
}

fn is_waiting(group: &Group, replica: usize) -> bool {
    group.nodes[replica].is_waiting()
}

// covers M6: it neither votes nor acknowledges, so nothing is committed with it.
#[test]
fn emptied_node_counts_for_nothing_until_readmitted() {
    for seed in 0..4 {
        let mut cluster = Cluster::new(seed, 3, 3, 2);
        cluster.run_for(2_000_000);
        let leader = cluster.some_leader();
        let (emptied, other) = ((leader + 1) % 3, (leader + 2) % 3);
        cluster.lose_directory(emptied);
        cluster.run_until_that(4_000_000, "it is back, and waits", |group| is_waiting(group, emptied));
        cluster.run_for(1_000_000);
        let down = if seed % 2 == 0 { leader } else { other };
        cluster.crash_for(down, false, None);
        // Answers that are on their way arrive.
        cluster.run_for(200_000);
        let from = cluster.clients.last_write_at();
        cluster.run_for(10_000_000);
        assert_eq!(cluster.clients.last_write_at(), from, "seed {seed}: a write with one member of three");
        assert!(is_waiting(&cluster, emptied));
        let now = cluster.now;
        cluster.start_at(down, now);
        cluster.run_for(2_000_000);
        readmit(&mut cluster, emptied);
        // Now it carries the group, with the one that was down.
        let third = 3 - emptied - down;
        cluster.crash_for(third, true, None);
        cluster.run_for(100_000);
        cluster.expect_writes(5_000_000);
        cluster.calm_down();
    }
}

// covers M5 M7 M13 on a small scale: replica after replica is emptied and readmitted, with crashes of whoever leads on
// the way.
#[test]
fn replicas_are_emptied_and_readmitted_one_after_the_other_under_load() {
    for seed in seeds(8) {
        let size = if seed % 4 == 0 { 5 } else { 3 };
        let mut cluster = Cluster::new(seed, size, 3, 2);
        cluster.lose_percent(seed % 5);
        cluster.run_for(2_000_000);
        for round in 0..4 {
            let replica = cluster.draw(u64::from(size)) as usize;
            cluster.lose_directory(replica);
            cluster.run_until_that(4_000_000, "it is back, and waits", |group| is_waiting(group, replica));
            if round % 2 == 1 {
                // The operator's first try is cut short.
                let leader = cluster.some_leader();
                cluster.ask(leader, Request::Readmit { name: ReplicaId(replica as u16) });
                let quiet_us = cluster.draw(400_000);
                cluster.run_for(quiet_us);
                cluster.crash(leader, true);
            }
            readmit(&mut cluster, replica);
        }
        cluster.calm_down();
    }
}

// covers D5 M6: the damaged incarnation is closed, the next one takes its place, also in the directory.
#[test]
fn node_with_damaged_hard_state_is_readmitted_in_its_next_incarnation() {
    for seed in 0..4 {
        let mut cluster = Cluster::new(seed, 3, 3, 1);
        cluster.run_for(2_000_000);
        let replica = (cluster.some_leader() + seed as usize) % 3;
        let old = cluster.nodes[replica].id;
        let spoil = |bytes: &mut Vec<u8>| bytes.iter_mut().for_each(|byte| *byte ^= 1);
        assert!(cluster.damage(replica, &path("promise"), spoil));
        cluster.run_until_that(4_000_000, "its next incarnation waits", |group| is_waiting(group, replica));
        assert_ne!(cluster.nodes[replica].id, old);
        cluster.run_for(500_000);
        assert!(is_waiting(&cluster, replica));
        // A restart in the middle changes nothing.
        cluster.crash(replica, true);
        cluster.run_until_that(4_000_000, "its next incarnation waits", |group| is_waiting(group, replica));
        readmit(&mut cluster, replica);
        cluster.run_for(500_000);
        let new = cluster.nodes[replica].id;
        for power_cut in [false, true, false] {
            cluster.crash(replica, power_cut);
            cluster.run_for(3_000_000);
            assert_eq!(cluster.nodes[replica].id, new);
            assert!(cluster.nodes[replica].serving().is_some_and(|serving| !serving.readmission_open()));
        }
        cluster.calm_down();
    }
}

// covers M8: a directory from a backup is sound in itself, but the leader knows what was acknowledged from it, as long
// as it leads.
#[test]
fn node_set_back_to_a_backup_is_found_out_and_readmitted() {
    let mut found_out = 0;
    for seed in seeds(4) {
        let mut cluster = Cluster::new(seed, 3, 3, 2);
        cluster.run_for(2_000_000);
        let leader = cluster.some_leader();
        let victim = (leader + 1) % 3;
        let backup = cluster.backup(victim);
        cluster.run_for(1_000_000);
        let last = |group: &Group| status(group, victim).map(|status| status.last.index);
        let (term_before, last_before) = (term(&cluster), last(&cluster));
        cluster.set_back(victim, backup);
        // A snapshot from the leader may give it back what it forgot before anyone notices.
        cluster.run_until_that(5_000_000, "it is found out, or no one is left who knows", |group| {
            is_waiting(group, victim) || term(group) > term_before || last(group) >= last_before
        });
        if is_waiting(&cluster, victim) {
            found_out += 1;
            readmit(&mut cluster, victim);
            cluster.calm_down();
        }
    }
    assert_met(found_out > 0, &found_out);
}

// covers M18: the manager has seen a later start of it, and whoever else remembers what was acknowledged since is away.
#[test]
fn node_set_back_behind_a_start_that_was_seen_is_found_out_before_it_takes_part() {
    for seed in 0..4 {
        let mut cluster = Cluster::new(seed, 3, 3, 2);
        cluster.run_for(2_000_000);
        let leader = cluster.some_leader();
        let (victim, behind) = ((leader + 1) % 3, (leader + 2) % 3);
        cluster.crash_for(behind, false, None);
        let backup = cluster.backup(victim);
        cluster.crash_for(victim, false, Some(10_000));
        cluster.run_for(100_000);
        cluster.expect_writes(5_000_000);
        cluster.crash_for(leader, false, None);
        cluster.set_back(victim, backup);
        let now = cluster.now;
        cluster.start_at(behind, now);
        cluster.run_until_that(5_000_000, "it is found out", |group| is_waiting(group, victim));
        // With the one that is behind it would be a majority, which knows nothing of the last writes.
        cluster.run_for(1_000_000);
        assert!(is_waiting(&cluster, victim));
        let now = cluster.now;
        cluster.start_at(leader, now);
        cluster.run_for(2_000_000);
        readmit(&mut cluster, victim);
        cluster.calm_down();
    }
}

// covers M21: an old, sound directory of an incarnation that the group has replaced meanwhile.
#[test]
fn node_that_was_replaced_while_it_was_away_hears_of_it() {
    for seed in 0..4 {
        let mut cluster = Cluster::new(seed, 3, 3, 2);
        cluster.run_for(2_000_000);
        let replica = (cluster.some_leader() + 1) % 3;
        let (replaced, backup) = (cluster.nodes[replica].id, cluster.backup(replica));
        cluster.lose_directory(replica);
        cluster.run_until_that(4_000_000, "it is back, and waits", |group| is_waiting(group, replica));
        readmit(&mut cluster, replica);
        cluster.run_for(500_000);
        cluster.set_back(replica, backup);
        cluster.run_until_that(4_000_000, "it is back as it was", |group| group.nodes[replica].id == replaced);
        cluster.run_until_that(5_000_000, "it hears that it was replaced", |group| is_waiting(group, replica));
        assert_ne!(cluster.nodes[replica].id, replaced);
        readmit(&mut cluster, replica);
        cluster.calm_down();
    }
}

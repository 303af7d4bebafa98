//! Directories that are lost or damaged, and the way back.

use std::path::Path;

use smr::id::NodeName;
use smr::protocol::{Protocol, Time};
use smr::replica::{Outcome, Request};
use smr::storage::virtual_disk::Loss;

use crate::cluster::Cluster;
use crate::machine::Life;
use crate::seeds;
use crate::workload::OPERATOR;

/// Asks the leader, whoever that is, until it is done.
fn readmit(cluster: &mut Cluster, seat: usize) {
    let request = Request::Readmit { name: NodeName(seat as u16) };
    let mut heard = Vec::new();
    for _ in 0..30 {
        let leader = cluster.some_leader();
        // A first try may have got further than whoever asked for it heard.
        let status = cluster.machines[leader].serving().unwrap().engine.core().status();
        let (members, present) = (status.configuration, cluster.machines[seat].id);
        if members.voters.contains(&present) && !members.is_joint() && status.configuration_index <= status.commit {
            return;
        }
        cluster.workload.operator.clear();
        cluster.ask(leader, request.clone(), OPERATOR);
        let until = cluster.now.plus_us(3_000_000);
        while cluster.now < until && cluster.workload.operator.is_empty() {
            cluster.step();
        }
        match cluster.workload.operator.pop() {
            Some(Outcome::Done) => return,
            other => heard.push(other),
        }
        cluster.run_for(100_000);
    }
    panic!("seed {}: {seat} is not readmitted: {heard:?}", cluster.seed);
}

fn is_waiting(cluster: &Cluster, seat: usize) -> bool {
    matches!(cluster.machines[seat].life, Life::Waiting(_))
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
        cluster.run_until_that(4_000_000, "it is back, and waits", |cluster| is_waiting(cluster, emptied));
        cluster.run_for(1_000_000);
        cluster.crash(if seed % 2 == 0 { leader } else { other }, false);
        let down = if seed % 2 == 0 { leader } else { other };
        cluster.machines[down].restart_at = Time(u64::MAX);
        cluster.run_for(50_000);
        let from = cluster.workload.last_write_at();
        cluster.run_for(10_000_000);
        assert_eq!(cluster.workload.last_write_at(), from, "seed {seed}: a write with one member of three");
        assert!(is_waiting(&cluster, emptied));
        cluster.machines[down].restart_at = cluster.now;
        cluster.run_for(2_000_000);
        readmit(&mut cluster, emptied);
        // Now it carries the group, with the one that was down.
        let third = 3 - emptied - down;
        cluster.crash(third, true);
        cluster.machines[third].restart_at = Time(u64::MAX);
        let from = cluster.now.plus_us(100_000);
        cluster.run_until_that(5_000_000, "writes again", |cluster| cluster.workload.last_write_at() > from);
        cluster.machines[third].restart_at = cluster.now;
        cluster.calm_down();
    }
}

// covers M5 M7 M13 on a small scale: seat after seat is emptied and readmitted, with crashes of whoever leads on the way.
#[test]
fn seats_are_emptied_and_readmitted_one_after_the_other_under_load() {
    for seed in seeds(8) {
        let size = if seed % 4 == 0 { 5 } else { 3 };
        let mut cluster = Cluster::new(seed, size, 3, 2);
        cluster.loss_percent = seed % 5;
        cluster.run_for(2_000_000);
        for round in 0..4 {
            let seat = cluster.draw(u64::from(size)) as usize;
            cluster.lose_directory(seat);
            cluster.run_until_that(4_000_000, "it is back, and waits", |cluster| is_waiting(cluster, seat));
            if round % 2 == 1 {
                // The operator's first try is cut short.
                let leader = cluster.some_leader();
                cluster.ask(leader, Request::Readmit { name: NodeName(seat as u16) }, OPERATOR);
                let quiet_us = cluster.draw(400_000);
                cluster.run_for(quiet_us);
                cluster.crash(leader, true);
            }
            readmit(&mut cluster, seat);
        }
        cluster.calm_down();
    }
}

// covers D5 M6: the damaged life is closed, the next one takes its place, also in the directory.
#[test]
fn node_with_damaged_promise_is_readmitted_in_its_next_life() {
    for seed in 0..4 {
        let mut cluster = Cluster::new(seed, 3, 3, 1);
        cluster.run_for(2_000_000);
        let seat = (cluster.some_leader() + seed as usize) % 3;
        let old = cluster.machines[seat].id;
        cluster.crash(seat, false);
        let promise = Path::new("/node/promise");
        cluster.machines[seat].is_damaged = true;
        cluster.machines[seat].disk.damage(promise, |bytes| bytes.iter_mut().for_each(|byte| *byte ^= 1)).unwrap();
        cluster.run_until_that(4_000_000, "its next life waits", |cluster| is_waiting(cluster, seat));
        assert_ne!(cluster.machines[seat].id, old);
        cluster.run_for(500_000);
        assert!(is_waiting(&cluster, seat));
        // A restart in the middle changes nothing.
        cluster.crash(seat, true);
        cluster.run_until_that(4_000_000, "its next life waits", |cluster| is_waiting(cluster, seat));
        readmit(&mut cluster, seat);
        cluster.run_for(500_000);
        let new = cluster.machines[seat].id;
        for power_cut in [false, true, false] {
            cluster.crash(seat, power_cut);
            cluster.run_for(3_000_000);
            assert_eq!(cluster.machines[seat].id, new);
            assert!(cluster.machines[seat].serving().is_some_and(|serving| !serving.readmission_open));
        }
        cluster.calm_down();
    }
}

// covers M8: a directory from a backup is sound in itself, but the leader knows what was acknowledged from it, as long as it
// leads.
#[test]
fn node_set_back_to_a_backup_is_found_out_and_readmitted() {
    let mut found_out = 0;
    for seed in seeds(4) {
        let mut cluster = Cluster::new(seed, 3, 3, 2);
        cluster.run_for(2_000_000);
        let leader = cluster.some_leader();
        let victim = (leader + 1) % 3;
        let backup = cluster.machines[victim].disk.after_crash(Loss::Nothing);
        cluster.run_for(1_000_000);
        let term = |cluster: &Cluster| {
            cluster
                .machines
                .iter()
                .filter_map(|machine| machine.serving())
                .map(|serving| serving.engine.core().status().term)
                .max()
        };
        let last = |cluster: &Cluster| {
            cluster.machines[victim].serving().map(|serving| serving.engine.core().status().last.index)
        };
        let (term_before, last_before) = (term(&cluster), last(&cluster));
        cluster.set_back(victim, backup);
        // A snapshot from the leader may give it back what it forgot before anybody notices.
        cluster.run_until_that(5_000_000, "it is found out, or nobody is left who knows", |cluster| {
            is_waiting(cluster, victim) || term(cluster) > term_before || last(cluster) >= last_before
        });
        if is_waiting(&cluster, victim) {
            found_out += 1;
            readmit(&mut cluster, victim);
            cluster.calm_down();
        }
    }
    assert!(found_out > 0, "it was never found out");
}

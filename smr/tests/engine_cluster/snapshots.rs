//! Followers that fall behind what the leader still has, while things go wrong.

use crate::cluster::{Cluster, Counts};
use crate::{assert_met, seeds};

/// One follower after the other is cut off until it needs a snapshot; when it is back, somebody dies before it has it all.
fn torture(seed: u64, size: u16) -> Counts {
    let mut cluster = Cluster::new(seed, size, 3, 1);
    cluster.loss_percent = cluster.draw(4);
    cluster.disk_us = [500, 5_000, 60_000][cluster.draw(3) as usize];
    cluster.run_for(1_500_000);
    for _ in 0..8 {
        let behind = cluster.draw(u64::from(size)) as u16;
        for other in (0..size).filter(|other| *other != behind) {
            cluster.cut.extend([(behind, other), (other, behind)]);
        }
        cluster.run_for(1_500_000);
        cluster.cut.clear();
        let quiet_us = cluster.draw(600_000);
        cluster.run_for(quiet_us);
        let power_cut = cluster.draw(2) == 0;
        let victim = if cluster.draw(2) == 0 { usize::from(behind) } else { cluster.some_leader() };
        if cluster.draw(4) > 0 {
            cluster.crash(victim, power_cut);
        }
    }
    cluster.calm_down();
    cluster.counts
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

// covers S9 S15: no further write comes after the follower is back.
#[test]
fn follower_far_behind_in_a_silent_group_still_catches_up() {
    for seed in 0..4 {
        let mut cluster = Cluster::new(seed, 3, 3, 0);
        cluster.run_for(1_500_000);
        let behind = (cluster.some_leader() + 1) % 3;
        for other in (0..3).filter(|other| *other != behind) {
            cluster.cut.extend([(behind as u16, other as u16), (other as u16, behind as u16)]);
        }
        cluster.run_for(2_000_000);
        cluster.workload.stop();
        cluster.run_until_that(5_000_000, "every request is answered", |cluster| cluster.workload.is_idle());
        let installs = cluster.counts.installs;
        cluster.cut.clear();
        cluster.run_until_that(5_000_000, "the follower has a snapshot", |cluster| cluster.counts.installs > installs);
        cluster.run_until_that(1_000_000, "all are equally far", |cluster| {
            let applied = |position: usize| cluster.machines[position].serving().map(|s| s.engine.status().applied);
            applied(0) == applied(1) && applied(1) == applied(2)
        });
        cluster.workload.check(seed);
    }
}

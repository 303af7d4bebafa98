//! Crashes, by kills and by power cuts, of some and of all.

use crate::cluster::{Cluster, Counts};
use crate::{assert_met, seeds};

fn torture(seed: u64, size: u16) -> (u64, Counts) {
    let mut cluster = Cluster::new(seed, size, 3, 2);
    let percent = cluster.draw(8);
    cluster.lose_percent(percent);
    cluster.disk_us = [500, 2_000, 30_000][cluster.draw(3) as usize];
    for _ in 0..12 {
        let quiet_us = 100_000 + cluster.draw(1_500_000);
        cluster.run_for(quiet_us);
        let victim = cluster.draw(u64::from(size)) as usize;
        let power_cut = cluster.draw(2) == 0;
        cluster.crash(victim, power_cut);
        if cluster.draw(5) == 0 {
            (0..usize::from(size)).for_each(|seat| cluster.crash(seat, power_cut));
        }
    }
    cluster.calm_down();
    (cluster.answered(), cluster.counts())
}

// covers E1 L11 L18 C1 C2 C3 C9 D1 D10 S5 S6 R2 R10 I12 I13 I14, on a small scale.
#[test]
fn group_under_crashes_and_loss_stays_linearizable() {
    let (mut operations, mut counts) = (0, Counts::default());
    for seed in seeds(14) {
        let (done, counted) = torture(seed, if seed % 4 == 0 { 5 } else { 3 });
        operations += done;
        counts += counted;
    }
    assert_met(operations > 5_000 && counts.crashes > 150, &(operations, counts));
    assert_met(counts.snapshots_taken > 50 && counts.installs > 5, &counts);
}

// covers E1: the fast failover, on virtual time.
#[test]
fn leader_crash_replaced_within_tens_of_milliseconds() {
    let mut pauses = Vec::new();
    for seed in 0..20 {
        let mut cluster = Cluster::new(seed, 3, 1, 0);
        cluster.run_for(3_000_000);
        let leader = cluster.some_leader();
        cluster.crash_for(leader, false, None);
        let killed_at = cluster.now;
        cluster.run_until_that(3_000_000, "a new leader", |group| group.leader().is_some());
        pauses.push(cluster.now.since_us(killed_at) / 1000);
    }
    pauses.sort_unstable();
    assert!(pauses[10] <= 100, "median of {pauses:?} ms");
}

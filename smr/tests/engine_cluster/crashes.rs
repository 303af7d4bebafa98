//! Crashes, by kills and by power cuts, of some and of all.

use std::collections::BTreeMap;

use smr::LogEngine;
use smr::entry::Index;
use smr_sim::journal::JOURNAL;
use smr_sim::ledger::Ledger;
use smr_sim::observation::Observation;
use smr_sim::properties::{Property, View};
use smr_sim::sim_node::Shape;
use smr_sim::virtual_disk::Fault;
use smr_sim::virtual_map::SIMULATED;

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
            (0..usize::from(size)).for_each(|replica| cluster.crash(replica, power_cut));
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

/// Sessions and state together are the same whenever the replica stands at an index, also in a later incarnation. An
/// incarnation begins at its snapshot and replays to its end in one step, so between the two only I7 looks at each
/// entry.
#[derive(Default)]
struct OneStateForEachIndex(BTreeMap<Index, u64>);

impl Property for OneStateForEachIndex {
    fn name(&self) -> &'static str {
        "L16 applied index, sessions and data move in one step"
    }

    fn on(&mut self, _: &Observation<'_>, _: &Ledger) -> Result<(), String> {
        Ok(())
    }

    fn after_step(&mut self, view: &View<'_>, _: &Ledger) -> Result<(), String> {
        let (Some(node), Some(digest)) = (view.nodes.node(0), view.nodes.deep_digest(0)) else { return Ok(()) };
        let first = *self.0.entry(node.applied.index).or_insert(digest);
        let same = first == digest;
        same.then_some(()).ok_or_else(|| format!("other sessions or another state than before at {}", node.applied))
    }
}

/// A replica alone: what it forgets, or does twice, no other one mends. The power goes at this operation of its disk,
/// if at any. Where its disk stands in the end, how many snapshots it took meanwhile, and whether the power went.
fn lone(engine: LogEngine, cut_at: Option<u64>) -> (u64, u64, bool) {
    let shape = Shape { engine, ..Shape::small(1) };
    let mut cluster = Cluster::shaped(1, shape, 3, 1, vec![Box::new(OneStateForEachIndex::default())]);
    cluster.load_with_ballast(200);
    if let Some(operation) = cut_at {
        cluster.nodes[0].disk.fault_at(operation, Fault::PowerOff);
    }
    cluster.run_for(220_000);
    let (operations, counts) = (cluster.nodes[0].disk.operations(), cluster.counts());
    if counts.crashes > 0 {
        cluster.run_until_that(2_000_000, "a restart", |group| group.applied(0).is_some());
        cluster.expect_writes(2_000_000);
    }
    cluster.fall_silent();
    cluster.begin_last_reads();
    cluster.fall_silent();
    cluster.check();
    (operations, counts.snapshots_taken, counts.crashes > 0)
}

// covers L16 D1: applied index, sessions and data come from one snapshot and the entries behind it, or not at all.
#[test]
fn crash_at_each_storage_operation_while_entries_are_applied_nothing_applied_twice_or_skipped() {
    for engine in [JOURNAL, LogEngine::Segments, SIMULATED] {
        let (operations, snapshots, _) = lone(engine, None);
        assert!(operations > 150 && snapshots > 1, "{engine:?}: {operations} operations, {snapshots} snapshots");
        for operation in 0..operations {
            assert!(lone(engine, Some(operation)).2, "{engine:?}: no power cut at operation {operation}");
        }
    }
}

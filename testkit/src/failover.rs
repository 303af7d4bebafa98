//! A leader is killed or stopped under a running client: how long that client waits.

use std::time::{Duration, Instant};

use clap::ValueEnum;

use crate::cluster::{Cluster, Group, Node};
use crate::load::{History, Load, Plan};
use crate::place::Outcome;
use crate::wait::wait_for;

/// Answers between two kills, so that each kill hits a client at full speed.
const ANSWERS_BETWEEN: u64 = 300;
/// How long anything may take that must happen in the end.
const TIMEOUT: Duration = Duration::from_secs(120);

/// How a leader fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Way {
    /// kill -9
    Kill,
    /// SIGSTOP: it hangs
    Freeze,
}

impl Way {
    /// How it is called in tables.
    pub fn name(self) -> &'static str {
        match self {
            Way::Kill => "kill -9",
            Way::Freeze => "SIGSTOP",
        }
    }
}

/// Makes the leader fail this often under a running client, whose key begins with `prefix`, new for each call; the
/// client's longest wait for each. Ends with the error of `go_on`, which is asked after each failure, if it gives one.
///
/// # Errors
/// If a client hung or lost something, or the cluster does not come back.
pub fn inject(
    cluster: &mut Cluster,
    way: Way,
    kills: usize,
    prefix: &str,
    go_on: &dyn Fn() -> Outcome,
) -> Result<Vec<Duration>, Box<dyn std::error::Error + Send + Sync>> {
    // One key, so one partition.
    let mut load = Load::start(cluster, &Plan { clients: 1, keys: 1, prefix: format!("{{{prefix}}}") })?;
    let mut moments = Vec::new();
    let group = owner(cluster, &mut load)?;
    for _ in 0..kills {
        load.wait_answers(ANSWERS_BETWEEN, TIMEOUT)?;
        let leader = cluster.wait_leader(group, TIMEOUT)?;
        moments.push(Instant::now());
        let process = cluster.process(leader);
        match way {
            Way::Kill => process.kill(),
            Way::Freeze => process.freeze(),
        }
        load.wait_answers(ANSWERS_BETWEEN, TIMEOUT)?;
        revive(cluster, leader, way)?;
        go_on()?;
    }
    load.wait_answers(ANSWERS_BETWEEN, TIMEOUT)?;
    let history = load.finish()?;
    history.check(cluster)?;
    Ok(pauses(&history, &moments))
}

/// The key is chosen so that any partition may own it: find out whose leader the writes move.
fn owner(cluster: &Cluster, load: &mut Load) -> Result<Group, Box<dyn std::error::Error + Send + Sync>> {
    if cluster.layout().shape.partitions == 1 {
        return Ok(Group::Partition(0));
    }
    let commit = |group| {
        let leader = cluster.wait_leader(group, TIMEOUT)?;
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(cluster.status(leader)?.commit)
    };
    let groups: Vec<_> = cluster.groups().skip(1).collect();
    let before = groups.iter().map(|&group| commit(group)).collect::<Result<Vec<_>, _>>()?;
    load.wait_answers(ANSWERS_BETWEEN, TIMEOUT)?;
    for (&group, before) in groups.iter().zip(before) {
        // Idle groups commit nothing but the odd entry of a new term.
        if commit(group)?.0 > before.0 + ANSWERS_BETWEEN / 2 {
            return Ok(group);
        }
    }
    Err("no partition's commit index moves".into())
}

fn revive(cluster: &mut Cluster, node: Node, way: Way) -> Outcome {
    match way {
        Way::Kill => cluster.process(node).start()?,
        Way::Freeze => cluster.process(node).thaw(),
    }
    cluster.wait_caught_up(node.group(), TIMEOUT)?;
    // A member of a chain, active or passive group has everything before it is one again, and only then counts.
    let members = cluster.nodes_of(node.group()).count();
    let all_count = || {
        let status = cluster.status(cluster.leader(node.group())?).ok()?;
        (status.voters.len() == members).then_some(())
    };
    Ok(wait_for(TIMEOUT, "all members to count", all_count)?)
}

fn pauses(history: &History, moments: &[Instant]) -> Vec<Duration> {
    let ends = moments.iter().skip(1).copied().map(Some).chain([None]);
    moments.iter().zip(ends).map(|(&from, until)| history.longest_wait(from, until)).collect()
}

//! How long a client waits when its leader is killed or hangs.

use std::time::{Duration, Instant};

use clap::ValueEnum;

use crate::cluster::{Cluster, Node};
use crate::load::{History, Load, Plan};
use crate::trial::{FIRST, Outcome, PATIENCE, Place, Stage, verdict};

/// Answers between two kills, so that each kill hits a client at full speed.
const ANSWERS_BETWEEN: u64 = 300;

/// How a leader is struck.
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

pub(super) fn run(kills: usize, place: &Place) -> Outcome {
    let mut stage = Stage::set(place)?;
    for (way, prefix, median_target_ms, max_target_ms) in
        [(Way::Kill, "kill", 150, Some(2_000)), (Way::Freeze, "freeze", 1_500, None)]
    {
        let name = way.name();
        let mut pauses = strike(&mut stage.cluster, way, kills, prefix, &|| Ok(()))?;
        let list: Vec<String> = pauses.iter().map(|pause| pause.as_millis().to_string()).collect();
        println!("{name}: longest pause of the client for each kill, ms: {}", list.join(" "));
        pauses.sort();
        let median = pauses.get(pauses.len() / 2).copied().unwrap_or_default();
        let max = pauses.last().copied().unwrap_or_default();
        let median_met = median <= Duration::from_millis(median_target_ms);
        print!("{name}: median {} ms (target {median_target_ms}: {})", median.as_millis(), verdict(median_met));
        match max_target_ms {
            Some(target) => {
                let met = max <= Duration::from_millis(target);
                println!(", max {} ms (target {target}: {})", max.as_millis(), verdict(met));
            }
            None => println!(", max {} ms", max.as_millis()),
        }
    }
    stage.done()
}

/// Strikes the leader so often under a running client, whose key begins with `prefix`, new for each call; the client's
/// longest wait for each. Ends with the error of `go_on`, which is asked behind each strike, if it gives one.
pub(crate) fn strike(
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
        load.wait_answers(ANSWERS_BETWEEN, PATIENCE)?;
        let leader = cluster.wait_leader(group, PATIENCE)?;
        moments.push(Instant::now());
        let process = cluster.process(leader);
        match way {
            Way::Kill => process.kill(),
            Way::Freeze => process.freeze(),
        }
        load.wait_answers(ANSWERS_BETWEEN, PATIENCE)?;
        revive(cluster, leader, way)?;
        go_on()?;
    }
    load.wait_answers(ANSWERS_BETWEEN, PATIENCE)?;
    let history = load.finish()?;
    history.check(cluster)?;
    Ok(pauses(&history, &moments))
}

/// The key is chosen so that any partition may own it: find out whose leader the writes move.
fn owner(
    cluster: &Cluster,
    load: &mut Load,
) -> Result<crate::cluster::Group, Box<dyn std::error::Error + Send + Sync>> {
    if cluster.layout().shape.partitions == 1 {
        return Ok(FIRST);
    }
    let commit = |group| {
        let leader = cluster.wait_leader(group, PATIENCE)?;
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(cluster.status(leader)?.commit)
    };
    let groups: Vec<_> = cluster.groups().skip(1).collect();
    let before = groups.iter().map(|&group| commit(group)).collect::<Result<Vec<_>, _>>()?;
    load.wait_answers(ANSWERS_BETWEEN, PATIENCE)?;
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
    cluster.wait_caught_up(node.group(), PATIENCE)?;
    Ok(())
}

fn pauses(history: &History, moments: &[Instant]) -> Vec<Duration> {
    let ends = moments.iter().skip(1).copied().map(Some).chain([None]);
    moments.iter().zip(ends).map(|(&from, until)| history.longest_wait(from, until)).collect()
}

//! Restarts all nodes, one after the other, again and again under load: what an upgrade does.

use std::time::{Duration, Instant};

use crate::scenario::{Place, Stage, TIMEOUT, verdict};
use madkv_testkit::cluster::Cluster;
use madkv_testkit::load::{Load, Plan};
use madkv_testkit::measure::Trouble;
use madkv_testkit::place::Outcome;

/// Clients of the load.
const CLIENTS: usize = 8;
/// Keys that they share, in each round other ones.
const KEYS: usize = 10;
/// Answers before each restart, so that each hits clients at full speed.
const ANSWERS_BETWEEN: u64 = 100;
/// How long a process that is asked to end may take.
const END_TIMEOUT: Duration = Duration::from_secs(60);
/// No write waits longer: three election timeouts (the catalogue's 3 T).
const WAIT_TARGET: Duration = Duration::from_millis(3 * 600);

/// What a round showed.
#[derive(Debug)]
pub struct Round {
    /// The longest time that a write took.
    pub longest_wait: Duration,
    /// The keys of its load, and what they held in the end.
    pub left: Vec<(String, Option<String>)>,
}

/// Restarts every node once, in order (SIGTERM), each after the one before has caught up, under a load that is then
/// judged.
///
/// # Errors
/// If a write was lost, doubled or wrong, or a node does not end or come back.
pub fn round(cluster: &mut Cluster, number: u64) -> Result<Round, Trouble> {
    let prefix = format!("round{number}-");
    let start = Instant::now();
    let mut load = Load::start(cluster, &Plan { clients: CLIENTS, keys: KEYS, prefix: prefix.clone() })?;
    for node in cluster.layout().shape.nodes().collect::<Vec<_>>() {
        load.wait_answers(ANSWERS_BETWEEN, TIMEOUT)?;
        cluster.process(node).send_terminate();
        let status = cluster.process(node).wait_end(END_TIMEOUT).ok_or_else(|| format!("{node} does not end"))?;
        if !status.success() {
            return Err(format!("{node} ended with {status}").into());
        }
        cluster.process(node).start()?;
        cluster.wait_caught_up(node.group(), TIMEOUT)?;
    }
    load.wait_answers(ANSWERS_BETWEEN, TIMEOUT)?;
    let history = load.finish()?;
    history.check(cluster)?;
    let mut client = cluster.client()?;
    let key = |key| format!("{prefix}{key}");
    let left = (0..KEYS).map(key).map(|key| Ok((client.get(&key, TIMEOUT)?, key)));
    let left = left.map(|read: Result<_, Trouble>| read.map(|(value, key)| (key, value))).collect::<Result<_, _>>()?;
    Ok(Round { longest_wait: history.longest_wait(start, None), left })
}

pub(super) fn run(rounds: u64, place: &Place) -> Outcome {
    let mut stage = Stage::set(place)?;
    let (mut longest, mut left) = (Vec::new(), Vec::new());
    let start = Instant::now();
    for number in 1..=rounds {
        let round = round(&mut stage.cluster, number)?;
        println!(
            "round {number}: longest wait {} ms, after {} s",
            round.longest_wait.as_millis(),
            start.elapsed().as_secs()
        );
        longest.push(round.longest_wait);
        left.extend(round.left);
    }
    let mut client = stage.cluster.client()?;
    for (key, value) in &left {
        let found = client.get(key, TIMEOUT)?;
        if found != *value {
            return Err(format!("{key} held {value:?} behind its round, and {found:?} now").into());
        }
    }
    longest.sort();
    let max = longest.last().copied().unwrap_or_default();
    let beyond = longest.iter().filter(|wait| **wait > WAIT_TARGET).count();
    println!(
        "{rounds} rolling restarts, nothing lost; longest wait {} ms (target {}: {}), {beyond} rounds beyond it",
        max.as_millis(),
        WAIT_TARGET.as_millis(),
        verdict(beyond == 0)
    );
    stage.done()
}

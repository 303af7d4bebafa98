//! kill -9 of every process at once under load, again and again.

use std::time::Instant;

use crate::scenario::{Place, Stage, TIMEOUT};
use madkv_testkit::load::{Load, Plan};
use madkv_testkit::place::Outcome;

/// Answers after each restart before the next kill: between this and twice as many, so that kills hit different
/// moments.
const ANSWERS_MIN: u64 = 50;

pub(super) fn run(rounds: u64, place: &Place) -> Outcome {
    let mut stage = Stage::set(place)?;
    let cluster = &mut stage.cluster;
    let mut load = Load::start(cluster, &Plan { clients: 8, keys: 16, prefix: "k".to_owned() })?;
    let mut slowest_ms = 0;
    for round in 0..rounds {
        load.wait_answers(ANSWERS_MIN + (round * 37) % ANSWERS_MIN, TIMEOUT)?;
        cluster.kill_all();
        let start = Instant::now();
        cluster.start_all()?;
        cluster.wait_ready(TIMEOUT)?;
        slowest_ms = slowest_ms.max(start.elapsed().as_millis());
    }
    load.wait_answers(ANSWERS_MIN, TIMEOUT)?;
    let history = load.finish()?;
    history.check(cluster)?;
    let writes = history.swaps.len();
    println!("{rounds} times killed, {writes} writes acknowledged: none lost, none applied twice");
    println!("slowest restart until each group had a leader: {slowest_ms} ms");
    stage.done()
}

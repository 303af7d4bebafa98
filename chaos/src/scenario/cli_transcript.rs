//! One line out for each line in, whatever dies: `crate::cli_transcript`, for a minute.

use std::time::Instant;

use crate::cli_transcript::under_failovers;
use crate::scenario::{Place, Stage, TIMEOUT};
use madkv_testkit::place::Outcome;

pub(super) fn run(kills: usize, place: &Place) -> Outcome {
    let mut stage = Stage::set(place)?;
    let start = Instant::now();
    let lines = under_failovers(&mut stage.cluster, kills, TIMEOUT)?;
    println!("{lines} lines under {kills} failovers in {} s, each answered once, in order", start.elapsed().as_secs());
    stage.done()
}

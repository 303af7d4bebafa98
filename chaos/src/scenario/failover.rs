//! How long a client waits when its leader is killed or hangs.

use std::time::Duration;

use madkv_testkit::failover::{Way, inject};
use madkv_testkit::place::Outcome;

use crate::scenario::{Place, Stage, verdict};

pub(super) fn run(kills: usize, place: &Place) -> Outcome {
    let mut stage = Stage::set(place)?;
    for (way, prefix, median_target_ms, max_target_ms) in
        [(Way::Kill, "kill", 150, Some(2_000)), (Way::Freeze, "freeze", 1_500, None)]
    {
        let name = way.name();
        let mut pauses = inject(&mut stage.cluster, way, kills, prefix, &|| Ok(()))?;
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

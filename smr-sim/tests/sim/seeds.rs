//! Many seeds.

use smr_sim::rare::RareCounts;
use smr_sim::run::{Options, run};

use crate::many::{assert_enough_happened, assert_replays, assert_sound, run_all};
use crate::seed_range::seeds;

/// This many of the rare situations, which are some sixty, may be left out by the seeds of a test.
const RARE_UNMET_MAX: usize = 8;

// covers I1 I2 I3 I4 I5 I6 I7 I8 I9 I10 I11 I12 I13 I14 I15 I17 I18
#[test]
fn every_seed_holds_all_properties_and_gets_going_again() {
    let reports = run_all(seeds(1_000), |seed| run(seed, &Options::default()));
    assert_sound(&reports);
    let mut rare = RareCounts::default();
    reports.iter().for_each(|report| rare.add(&report.rare));
    assert_enough_happened(&rare.never(), RARE_UNMET_MAX);
}

/// Seeds that once found something.
#[test]
fn seeds_that_once_failed_hold() {
    for line in include_str!("seeds.txt").lines().filter(|line| !line.starts_with('#')) {
        let seed = line.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap();
        let report = run(seed, &Options::default());
        assert!(report.failure.is_none(), "seed {seed}: {:?}", report.failure);
    }
}

#[test]
fn same_seed_twice_is_the_same_run() {
    assert_replays(|seed| run(seed, &Options::default()));
}

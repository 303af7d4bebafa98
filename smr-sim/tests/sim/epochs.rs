//! Groups under a configuration service: many seeds of all their kinds.

use smr::epoch::EpochKind;
use smr_sim::epochs::rare::RareCounts;
use smr_sim::epochs::run::{Options, run};

use crate::many::{are_chosen_here, assert_enough_happened, assert_replays, assert_sound, run_all};
use crate::seed_range::seeds;

/// How many seeds the gate has time for.
const SEEDS: u64 = 200;
/// This many of the rare situations, which are some thirty, may be left out by them.
const RARE_UNMET_MAX: usize = 6;

// covers I5 I6 I7 I8 I9 I11 I12 I13 I14 I16 I18 K1 K2 K3 K4 K5 K6 K7 K8 K9 K10 K11 K12 K13 K14 K15 K16 K17 K18
#[test]
fn every_seed_of_a_group_under_a_service_holds_all_properties_and_gets_going_again() {
    let reports = run_all(seeds(SEEDS), |seed| run(seed, &Options::default()));
    assert_sound(&reports);
    let mut rare = RareCounts::default();
    reports.iter().for_each(|report| rare.add(&report.rare));
    assert_enough_happened(&rare.never(), RARE_UNMET_MAX);
    for kind in [EpochKind::Chain, EpochKind::Active, EpochKind::Passive] {
        let is_there = reports.iter().any(|report| report.config.settings.kind == kind);
        assert!(!are_chosen_here() || is_there, "no group of kind {kind}");
    }
}

#[test]
fn same_seed_twice_is_the_same_run_of_a_group_under_a_service() {
    assert_replays(|seed| run(seed, &Options::default()));
}

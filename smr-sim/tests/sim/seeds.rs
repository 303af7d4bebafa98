//! Many seeds.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use smr_sim::rare::RareCounts;
use smr_sim::run::{Options, Report, run};

use crate::seed_range::seeds;

/// Runs seeds on two threads.
fn run_all(seeds: std::ops::Range<u64>) -> Vec<Report> {
    let next = AtomicU64::new(seeds.start);
    let reports = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed >= seeds.end {
                        break;
                    }
                    reports.lock().unwrap().push(run(seed, &Options::default()));
                }
            });
        }
    });
    reports.into_inner().unwrap()
}

/// This many of the rare situations, which are some sixty, may be left out by the seeds of a test.
const RARE_UNMET_MAX: usize = 8;

// covers I1 I2 I3 I4 I5 I6 I7 I8 I9 I10 I11 I12 I13 I14 I15 I17 I18
#[test]
fn every_seed_holds_all_properties_and_gets_going_again() {
    let reports = run_all(seeds(1_000));
    let mut rare = RareCounts::default();
    for report in &reports {
        rare.add(&report.rare);
        if let Some(failure) = &report.failure {
            let tail = failure.tail[failure.tail.len().saturating_sub(40)..].join("\n");
            panic!("seed {}: {:?}\n{tail}\n{:?}\n{}", failure.seed, failure.violation, report.config, failure.replay);
        }
    }
    let sum = |of: fn(&Report) -> u64| reports.iter().map(of).sum::<u64>();
    let (acknowledged, begun) = (sum(|report| report.acknowledged), sum(|report| report.begun));
    eprintln!(
        "{} seeds, {acknowledged} of {begun} operations, {:?} virtual in {:?}, {rare:?}, never {:?}",
        reports.len(),
        reports.iter().map(|report| report.virtual_time).sum::<std::time::Duration>(),
        reports.iter().map(|report| report.wall_time).sum::<std::time::Duration>(),
        rare.never(),
    );
    // Chosen seeds need not meet anything.
    if std::env::var_os("SEEDS").is_none() {
        assert!(rare.never().len() <= RARE_UNMET_MAX, "too little happened; never: {:?}", rare.never());
        assert!(acknowledged * 10 >= begun * 6, "{acknowledged} of {begun} operations acknowledged");
    }
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
    for seed in 0..3 {
        let (first, second) = (run(seed, &Options::default()), run(seed, &Options::default()));
        assert_eq!((first.hash, first.steps, first.begun), (second.hash, second.steps, second.begun), "seed {seed}");
    }
}

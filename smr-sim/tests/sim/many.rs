//! Many seeds at once, and what is to be said of them, whatever kind of group they are of.

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use smr_sim::run::Report;

/// Runs seeds on two threads.
pub(crate) fn run_all<T: Send>(seeds: Range<u64>, run: impl Fn(u64) -> T + Sync) -> Vec<T> {
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
                    reports.lock().unwrap().push(run(seed));
                }
            });
        }
    });
    reports.into_inner().unwrap()
}

/// Whether the test chose the seeds itself: those that a person chooses need not meet anything.
pub(crate) fn are_chosen_here() -> bool {
    std::env::var_os("SEEDS").is_none()
}

/// No seed failed, and clients were answered most of the time.
///
/// # Panics
/// If not.
pub(crate) fn assert_sound<R, C: Debug>(reports: &[Report<R, C>]) {
    for report in reports {
        if let Some(failure) = &report.failure {
            let tail = failure.tail[failure.tail.len().saturating_sub(40)..].join("\n");
            panic!("seed {}: {:?}\n{tail}\n{:?}\n{}", failure.seed, failure.violation, report.config, failure.replay);
        }
    }
    let sum = |of: fn(&Report<R, C>) -> u64| reports.iter().map(of).sum::<u64>();
    let (acknowledged, begun) = (sum(|report| report.acknowledged), sum(|report| report.begun));
    eprintln!(
        "{} seeds, {acknowledged} of {begun} operations, {:?} virtual in {:?}",
        reports.len(),
        reports.iter().map(|report| report.virtual_time).sum::<std::time::Duration>(),
        reports.iter().map(|report| report.wall_time).sum::<std::time::Duration>(),
    );
    if are_chosen_here() {
        assert!(acknowledged * 10 >= begun * 6, "{acknowledged} of {begun} operations acknowledged");
    }
}

/// At most this many of the rare situations were `never` met.
///
/// # Panics
/// If more of them were not.
pub(crate) fn assert_enough_happened<T: Debug>(never: &[T], unmet_max: usize) {
    eprintln!("never: {never:?}");
    assert!(!are_chosen_here() || never.len() <= unmet_max, "too little happened; never: {never:?}");
}

/// Each of the first seeds is the same run each time.
///
/// # Panics
/// If one is not.
pub(crate) fn assert_replays<R, C>(run: impl Fn(u64) -> Report<R, C>) {
    for seed in 0..3 {
        let (first, second) = (run(seed), run(seed));
        assert_eq!((first.hash, first.steps, first.begun), (second.hash, second.steps, second.begun), "seed {seed}");
    }
}

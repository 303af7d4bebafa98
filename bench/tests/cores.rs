//! The three cores that are measured do what real ones do.

#![allow(clippy::unwrap_used)] // helpers of tests, where the lint only knows the tests themselves

#[path = "../benches/layers/cores.rs"]
mod cores;

use cores::{Cores, commands};
use smr::entry::Index;

#[test]
fn propose_batches_are_committed_everywhere_while_the_log_is_cut() {
    let mut cores = Cores::new();
    let batch = commands(100);
    let committed: u64 = (0..600).map(|_| cores.propose(&batch)).sum();
    assert!(committed >= 60_000, "{committed}");
    cores.pass_time();
    cores.pass_time();
    assert!(cores.committed_everywhere() >= Index(60_000), "{:?}", cores.committed_everywhere());
    assert!(cores.log_start() > Index(1));
}

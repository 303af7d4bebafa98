//! Whole groups on virtual time, one kind of trouble at a time: scenarios on the simulator ([`smr_sim`]), whose
//! properties hold after each step. The network loses, doubles and delays, links are cut one way or both, nodes crash,
//! pause, hang at their disk and lose their directories.
//!
//! `SEEDS=17..18 cargo test -p smr --test engine_cluster <test>` runs one seed of a test that tries many, or others.
//!
//! Clients swap unique values and read. In the end the values of a register form one chain, nothing lost and nothing
//! twice; and each swap and read has its place in that chain without contradicting real time.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

mod cluster;
mod crashes;
mod partitions;
mod readmission;
#[path = "../seed_range/mod.rs"]
mod seed_range;
mod snapshots;
mod stalls;

use seed_range::seeds;

/// Asserts that the seeds together have met what the test is about; chosen ones need not.
fn assert_met(enough: bool, what: &dyn std::fmt::Debug) {
    assert!(enough || std::env::var_os("SEEDS").is_some(), "too little to mean anything: {what:?}");
}

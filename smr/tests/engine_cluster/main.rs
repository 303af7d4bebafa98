//! Whole groups on virtual time: the production engine (core, sessions, state machine), log, promise, mark, snapshots and
//! birth of each node run on a virtual disk; the network loses, doubles and delays, links are cut one way or both, nodes
//! crash, pause, hang at their disk and lose their directories. One seed decides everything.
//!
//! `SEEDS=17..18 cargo test -p smr --test engine_cluster <test>` runs one seed of a test that tries many, or others.
//!
//! Clients swap unique values and read. What is judged ([`workload`]): the values of a register form one chain, nothing lost
//! and nothing twice; and each swap and read has its place in that chain without contradicting real time. Besides, after
//! each step: one leader per term, and replicas that applied the same entries have the same digest.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

mod cluster;
mod crashes;
mod machine;
mod partitions;
mod readmission;
mod registers;
#[path = "../seed_range/mod.rs"]
mod seed_range;
mod snapshots;
mod stalls;
mod workload;

use seed_range::seeds;

/// Asserts that the seeds together have met what the test is about; chosen ones need not.
fn assert_met(enough: bool, what: &dyn std::fmt::Debug) {
    assert!(enough || std::env::var_os("SEEDS").is_some(), "too little to mean anything: {what:?}");
}

//! The simulator's gate: many seeds, each with all properties; replays; and scenarios.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

mod divergence;
mod epochs;
mod many;
mod new_kinds;
#[path = "../../../smr/tests/seed_range/mod.rs"]
mod seed_range;
mod seeds;

//! What shakes MadKV, from one seed or by a schedule, and finds out whether it held:
//!
//! - [`client_sim`]: the client library against simulated groups, from one seed. [`seeds`]: what `madkv-sim` does.
//! - [`decoders`]: everything that reads bytes from outside, for property tests and fuzzers.
//! - [`nemesis`]: a bad network for real processes, and faults by a seeded schedule.
//! - [`fuzz`]: clients with conflicting requests, and a check of what they heard.
//! - [`campaign`]: what `madkv-fuzz` does: the fuzzer alone, under the nemesis, or with a minority dead.
//! - [`disk_faults`]: damaged, full and failing disks.
//! - [`cli_transcript`]: what a command-line client prints while leaders die under it.
//! - [`demo`]: what `madkv-demo` does: demonstrations that say what they do, and check it.
//! - [`scenario`]: what `madkv-scenario` does: longer runs, each with one question.

pub mod campaign;
pub mod cli_transcript;
pub mod client_sim;
pub mod decoders;
pub mod demo;
pub mod disk_faults;
pub mod fuzz;
pub mod nemesis;
pub mod scenario;
pub mod seeds;

/// The guide's code compiles and passes.
#[cfg(doctest)]
#[doc = include_str!("../../docs/GUIDE.md")]
pub mod guide {}

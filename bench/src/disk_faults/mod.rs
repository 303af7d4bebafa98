//! Storage faults under real processes: damaged copies of data directories, full disks, failing and hanging system
//! calls.
//!
//! | module | what it does |
//! |---|---|
//! | [`damage`] | what can happen to a file at rest (fault catalogue D4) |
//! | [`judge`] | opens a damaged copy in this process, and says what became of it |
//! | [`matrix`] | does that many times |
//! | [`arranged`] | a real group in which a replica that forgets would cost acknowledged writes (D3, D5, M6) |
//! | [`injector`] | lets system calls of a running server fail or hang, with strace (D6, D8, D12) |
//! | [`errors`] | what a group does then |
//! | [`small_disk`] | a small ext4 in a file, to be filled up |
//! | [`full`] | what a group does when one of its disks is full (D7) |
//!
//! The trials `damage`, `disk-full` and `disk-errors` run all of it; a fixed part runs with the tests.

pub mod arranged;
pub mod damage;
pub mod errors;
pub mod full;
pub mod injector;
pub mod judge;
pub mod matrix;
pub mod small_disk;

/// A replica that has so many large values less than a snapshot needs that snapshot: a leader keeps 4 MiB of its log
/// behind one, and large values have 256 KiB.
const BEHIND_ENTRIES: u64 = 2 * 16;

/// What was wanted cannot be had on this machine: the test or trial is skipped, by name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Skipped(pub String);

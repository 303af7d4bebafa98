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
//! The scenarios `damage`, `disk-full` and `disk-errors` run all of it; a fixed part runs with the tests.

pub mod arranged;
pub mod damage;
pub mod errors;
pub mod full;
pub mod injector;
pub mod judge;
pub mod matrix;
pub mod small_disk;

/// This many large values, of 256 KiB each, a replica must lack at least for a snapshot to be what it needs.
const BEHIND_ENTRIES: u64 = 2 * 16;

/// Waits until a log no longer reaches back to an entry: it is cut at the snapshot before the latest one, so two have
/// to be taken after that entry.
struct Cut {
    seen: u64,
    first: Option<u64>,
}

impl Cut {
    fn after(seen: u64) -> Cut {
        Cut { seen, first: None }
    }

    /// Whether it is so, when the latest snapshot ends there.
    fn is_done(&mut self, snapshot: u64) -> bool {
        match self.first {
            Some(first) => snapshot > first,
            None => {
                self.first = Some(snapshot).filter(|snapshot| *snapshot > self.seen);
                false
            }
        }
    }
}

/// What was wanted cannot be had on this machine: the test or scenario is skipped, by name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Skipped(pub String);

//! What the turn executor's threads share things by. `tests/turn_executor_model.rs` has loom's in their place.

pub(super) use std::sync::atomic::{AtomicU64, Ordering, fence};
pub(super) use std::sync::{Mutex, MutexGuard};
pub(super) use std::thread::{self, Thread};

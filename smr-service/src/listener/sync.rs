//! What the threads of a connection's queue share things by. `tests/response_queue_model.rs` has loom's in their place.

pub(super) use std::sync::{Mutex, MutexGuard};

pub(super) use tokio::sync::Notify;

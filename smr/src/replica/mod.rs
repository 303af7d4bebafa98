//! The replica: drives a protocol core with threads, disk and network.

mod api;

pub use api::*;

//! The replica: drives a protocol core with threads, disk and network.

mod api;
mod handle;

pub use api::*;
pub use handle::*;

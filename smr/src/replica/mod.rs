//! The replica: drives a protocol core with threads, disk and network.

mod api;
pub mod birth;
mod handle;

pub use api::*;
pub use handle::*;

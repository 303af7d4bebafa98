//! Micro-benchmarks: one layer alone, so that a loss is seen where it happens.

mod core;
pub mod layers;
pub mod log;
mod timed;

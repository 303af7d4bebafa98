//! Micro-benchmarks: one layer alone, so that a loss is seen where it happens.

pub mod log;

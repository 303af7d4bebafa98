//! How fast MadKV is, and how fast its peers are on the same machine.
//!
//! - [`ycsb`]: YCSB's core workloads. [`peers`]: other stores, side by side with MadKV. [`micro`]: the layers alone.
//! - [`report`]: the runs that are kept, as Markdown with plots.
//! - [`benchmark`]: what `madkv-bench` does.

pub mod benchmark;
pub mod micro;
pub mod peers;
pub mod report;
pub mod ycsb;

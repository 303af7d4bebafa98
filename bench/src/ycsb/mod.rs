//! YCSB's core workloads A to F against MadKV, or against anything else that speaks the line protocol.
//!
//! - [`distribution`], [`keys`], [`workload`]: what is asked for, after the published definitions. [`binding`]: YCSB's
//!   own generator instead of ours.
//! - [`value`]: values that can be checked. [`caller`]: by which kind of client. [`run`]: the phases.
//! - [`verify`], [`replicas`]: was everything kept, by each replica.
//! - [`outcome`]: a run's numbers, as the log that is kept, and read back from it. [`command`]: what `madkv-bench ycsb`
//!   does.
//!
//! # How operations are sent
//! READ is a GET, UPDATE a SWAP of the whole record, INSERT a PUT. A scan of n records from a key on is a SCAN up to
//! the n-th key in the sorted list of acknowledged keys that the generator keeps; records returned are counted. A
//! read-modify-write is a GET and then a SWAP of the same key.
//!
//! # How latency is counted
//! In a closed loop, from the request to its answer. In an open loop (`--target`) from the moment at which the
//! operation was to begin: if the store stalls, those that had to wait after count too (no coordinated omission).

mod binding;
mod caller;
pub mod command;
mod distribution;
mod keys;
pub mod outcome;
mod replicas;
mod run;
mod value;
mod verify;
mod workload;

pub use distribution::Distribution;
pub(crate) use run::INTERRUPTED;
pub use workload::{Kind, Workload};

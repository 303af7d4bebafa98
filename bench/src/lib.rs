//! How fast MadKV is, and how fast its peers are on the same machine.
//!
//! - [`ycsb`]: YCSB's core workloads. [`peers`]: other stores, side by side with MadKV. [`log`]: the log engines alone.
//!   The other layers alone are `benches/layers`.
//! - [`factory`]: the robot factories of `services/factory`.
//! - [`protocols`]: Raft, chain, active and passive replication side by side.
//! - [`slow`]: replicas that were made slow, as pictures.
//! - [`report`]: the runs that are kept, as Markdown with plots.
//! - [`benchmark`]: what `madkv-bench` does.

pub mod benchmark;
pub mod factory;
pub mod log;
pub mod peers;
pub mod protocols;
pub mod report;
pub mod slow;
pub mod ycsb;

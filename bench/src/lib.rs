//! A MadKV cluster on one machine, as real processes: for the launcher, the end-to-end tests and the trials.
//!
//! - [`programs`]: where the executables are, and how to build them.
//! - [`ports`]: loopback ports that nobody else takes.
//! - [`process`]: one child process: start, kill -9, freeze, thaw, restart.
//! - [`cluster`]: all processes of a cluster, and who leads where.
//! - [`ask`]: one question to one replica, over its own port.
//! - [`line_client`]: the command-line client, driven through its pipes.
//! - [`chain`]: was each write applied exactly once, judged from the clients' answers alone.
//! - [`chaos`]: a bad network, and faults by a seeded schedule.
//! - [`linearize`]: could a correct store have given a history; and if not, the smallest part of it that shows it.
//! - [`load`]: clients that swap and keep a history for [`chain`].
//! - [`history`]: what clients asked and heard, of all five operations; as a file that can be checked again.
//! - [`measure`]: latencies, and what processes cost.
//! - [`peers`]: other stores, side by side with MadKV.
//! - [`mount`]: a file system in a file, for power cuts and full disks.
//! - [`decoders`]: everything that reads bytes from outside, for property tests and fuzzers.
//! - [`disk_faults`]: damaged, full and failing disks.
//! - [`fuzz`]: what `madkv-fuzz` does: clients with conflicting requests, and a check of what they heard.
//! - [`sim_library`]: the client library against simulated groups, from one seed.
//! - [`transcript`]: what a command-line client prints while leaders die under it.
//! - [`wait`]: waiting for a condition, with a deadline. Nothing here sleeps for luck.
//! - [`seeds`]: what `madkv-sim` does.
//! - [`ycsb`]: YCSB's core workloads.
//! - [`report`]: the runs that are kept, as Markdown with plots.
//! - [`benchmark`]: what `madkv-bench` does.
//! - [`launcher`]: what `madkv-local` does. [`trial`]: what `madkv-trial` does. [`planted`]: what `madkv-planted` does.

pub mod ask;
pub mod benchmark;
pub mod chain;
pub mod chaos;
pub mod cluster;
pub mod decoders;
pub mod disk_faults;
pub mod fuzz;
pub mod history;
pub mod launcher;
pub mod line_client;
pub mod linearize;
pub mod load;
pub mod measure;
pub mod micro;
pub mod mount;
pub mod peers;
pub mod planted;
pub mod ports;
pub mod process;
pub mod programs;
mod progress;
pub mod report;
pub mod seeds;
pub mod sim_library;
pub mod transcript;
pub mod trial;
pub mod wait;
pub mod ycsb;

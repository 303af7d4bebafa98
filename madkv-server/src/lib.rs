//! One replica of one partition: an ordered map, replicated by [`smr`], behind a listener.
//!
//! - [`options`]: the command line.
//! - [`map`]: the state machine, from commands to records; `packed`: how the records lie in memory.
//! - `blocks`, `difference`: its bytes; what has changed between two moments of it.
//! - `ownership`, `migration`: which slots are its own, in the replicated state, and how they move.
//! - [`backend`]: what is checked before a request is replicated.
//! - [`assignment`] and [`register`]: which part of the cluster this replica is, learnt from the manager and
//!   remembered.
//! - [`service_link`]: the way to the manager where that names the members of the group.
//! - [`service_replica`]: how a server of a service beside this one becomes a replica that the managers know.
//! - `agent_link`: what the agent of this host hears of it.
//! - [`settings`]: what operators change while everything runs.
//! - [`trace`]: the messages of `--trace_messages`; [`why`]: where the time of one write went.
//! - [`watch`]: what has changed lately, and who waits for changes.
//! - [`mod@run`]: from start to end.

// Lines for a person go through the log sink: these panic if no one takes them.
#![cfg_attr(not(test), warn(clippy::print_stderr, clippy::print_stdout))]

mod advertised;
mod agent_link;
pub mod assignment;
pub mod backend;
mod blocks;
mod difference;
mod joining;
pub mod map;
mod migration;
pub mod options;
mod ownership;
mod packed;
pub mod register;
pub mod run;
pub mod service_link;
pub mod service_replica;
pub mod settings;
pub mod trace;
pub mod watch;
pub mod why;

pub use options::Options;
pub use run::{recover, run};

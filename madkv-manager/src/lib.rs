//! One replica of the manager: who is who in the cluster, and which partition owns which slots.
//!
//! - [`options`]: the command line.
//! - [`state`]: the replicated state: cluster map and registrations, hosts and members, settings, events.
//! - [`backend`]: what a client or server may ask.
//! - [`layout`]: the cluster's layout, proposed once.
//! - [`epochs`]: names the members of groups that are not of kind raft.
//! - [`lead`], [`heard`]: what the manager that leads does besides: the global fault detector, and what follows.
//! - [`rm`], [`readmit`]: the replication manager: what is to be done for a replica that has failed, and doing it.
//! - [`scale`]: sees to changes of groups that operators want; [`slot_driver`]: to moves of slots.
//! - [`mod@run`]: from start to end.
//! - [`agent`]: another program, the agent of a host (`madkv-agent`).

// Lines for a person go through the log sink: these panic if no one takes them.
#![cfg_attr(not(test), warn(clippy::print_stderr, clippy::print_stdout))]

pub mod agent;
pub mod backend;
pub mod epochs;
pub mod heard;
pub mod layout;
pub mod lead;
pub mod options;
pub mod readmit;
pub mod rm;
pub mod run;
pub mod scale;
pub mod slot_driver;
pub mod state;

pub use options::Options;
pub use run::{recover, run};

//! One replica of the manager: who is who in the cluster, and which partition owns which slots.
//!
//! - [`options`]: the command line.
//! - [`state`]: the replicated state: cluster map and registrations.
//! - [`backend`]: what a client or server may ask.
//! - [`layout`]: the cluster's layout, proposed once.
//! - [`mod@run`]: from start to end.

// Lines for a person go through the log sink: these panic if no one takes them.
#![cfg_attr(not(test), warn(clippy::print_stderr, clippy::print_stdout))]

pub mod backend;
pub mod layout;
pub mod options;
pub mod run;
pub mod state;

pub use options::Options;
pub use run::{recover, run};

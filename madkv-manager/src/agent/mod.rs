//! The agent of a host (`madkv-agent`), its local fault detector: it heartbeats the replicas that run there, launches
//! again what has ended or hangs, and tells the managers, whose orders it carries out.
//!
//! - [`options`]: the command line.
//! - `supervisor`: what it makes of what it hears, without doing anything; `replica`: what it knows of one;
//!   [`backoff`]: pauses in crash loops; `placement`: how a replica is launched that this host has never run.
//! - `local`: the replicas at its port. `process`: their processes. `reports`: the managers.
//! - `known`: what the agent that comes after this one has to know.
//! - `run`: from start to end.
//!
//! Nothing depends on an agent's life: replicas are no part of it, and go on when it ends. The next one finds them
//! again, for they dial it.

pub mod backoff;
mod known;
mod local;
pub mod options;
mod placement;
mod process;
mod replica;
mod reports;
mod run;
mod supervisor;
#[cfg(test)]
mod supervisor_tests;

pub use options::Options;
pub use run::run;
pub use supervisor::{ANSWER_AGE_MAX_MS, END_MAX_MS, HUNG_AFTER_INTERVALS, RETURN_MIN_MS};
pub use supervisor::{START_DOUBLINGS_MAX, START_MAX_MS};

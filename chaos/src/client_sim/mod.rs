//! The client library in simulation: the real `madkv-client`, the real listeners, frames, sessions and maps of
//! `madkv-server`, on the simulated replica groups of [`smr_sim`], in one event loop, on virtual time and network,
//! decided by one seed.
//!
//! - [`clock`]: the one clock.
//! - [`sim_net`]: connections between clients and listeners, and what happens to them. [`recorder`] reads along.
//! - [`partition`]: a replica group with its listeners. [`managers`]: a source of the map.
//! - `slot_mover`: the manager that moves slots.
//! - [`callers`]: client processes, what they ask, and the history.
//! - [`swarm_config`]: what a seed decides. [`mod@run`]: one run. [`judge`]: the verdict on its history. [`rare`]: what
//!   was met.
//! - [`command`]: many seeds, for `madkv-sim --library`.
//!
//! # What is real
//! All of `madkv-client` but its sockets; the listener behind `accept` (handshake, frames, limits, queues); the
//! server's backend (checks, ownership, epochs) and state machine; replica engine, core, sessions, snapshots and
//! stores.
//!
//! # What is not
//! Sockets and threads; the managers, which are a source of maps behind real listeners ([`managers`]); registration.

pub mod callers;
pub mod clock;
pub mod command;
pub mod endpoint;
pub mod judge;
pub mod managers;
pub mod partition;
pub mod rare;
pub mod recorder;
pub mod run;
pub mod sim_net;
mod slot_mover;
pub mod swarm_config;

pub use run::{Report, run, run_config};

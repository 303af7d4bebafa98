//! Groups under a configuration service, of kind chain, active or passive, in simulation: the production cores,
//! engines, turns, stores and snapshots on virtual time, disks and network; and the service that decides who their
//! members are, with its delays, its failovers and its clocks.
//!
//! | where | what |
//! |---|---|
//! | [`mod@run`] | one seed: chaos, then calm, in which the group has to serve again and all copies to be equal |
//! | [`world`] | a group, its clients, its service, and all that can go wrong with them |
//! | `machine` | a simulated machine: its disk, and what of the production code runs there |
//! | `service` | the configuration service: the production record and arbiters, and how they may fail |
//! | [`properties`], [`ledger`] | what must hold after each step, and the books by which that is judged |
//! | `faults`, [`swarm`] | what goes wrong when, and what a seed draws |
//! | [`rare`] | what a run has met |
//!
//! # What is real
//! The core of these kinds, the engine with sessions, checkpoints and snapshots, the turns, the stores, and how one who
//! comes later is taken in; of the service all that it decides and grants ([`smr::epoch_service`]).
//!
//! # What is not
//! How a group is founded (the world of Raft groups has that part, [`crate::world`]): its founders begin with their
//! genesis. The Raft group that the service is: its record is one value, and what its leaders may lose, delay and
//! forget is drawn. Directories that are set back or damaged: these kinds answer both with another incarnation, which
//! is the same as an emptied directory from then on.

mod faults;
pub mod ledger;
mod machine;
pub mod properties;
pub mod rare;
pub mod run;
mod service;
pub mod swarm;
pub mod world;

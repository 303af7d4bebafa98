//! Tests of replicated state machines, without a cluster: a deterministic simulator, an explorer, and disks that fail.
//!
//! | where | what |
//! |---|---|
//! | [`run`], [`workload`] | a seed through the simulator; what your state machine brings along |
//! | [`world`] | one situation by hand: a group, and all that can go wrong with it |
//! | [`sim_node`], [`clock`], [`network`], [`clients`] | what a world consists of |
//! | [`properties`], [`ledger`], [`probe`] | what must hold after each step, and what that is judged by |
//! | [`swarm_config`], [`sim_rng`], [`rare`], [`trace`] | what a seed draws, what rare things it met, what happened |
//! | [`epochs`] | the same for groups under a configuration service: chain, active, passive |
//! | [`geography`] | how long a client waits whose group is spread over sites |
//! | [`explore`] | every order of events in a small group of Raft cores, up to bounds |
//! | [`virtual_disk`], [`virtual_map`], [`journal`] | a disk that crashes, tears and lies; log engines for it |
//! | [`conformance`], [`memory`] | what every log engine must do, and a twin in memory that does it |
//!
//! Nothing of it is in a program that serves: those do not depend on this crate.
//!
//! # The simulator
//! Whole groups of replicas on virtual time, disks and network, everything decided by one seed.
//!
//! # What is real, and what is simulated
//! Real, from `smr` and unchanged: the Raft core, the engine (core, sessions, state machine), the session table,
//! the log over a journal file or an ordered map with sled's manners ([`virtual_map`]), hard state, watermark,
//! quarantine and recovery, snapshot files and their transfer in pieces, bootstrap and readmission, and the codec: what
//! replicas say to each other travels as bytes.
//!
//! Simulated: time; the disk ([`virtual_disk`]: unsynced writes are kept, lost or torn at a power cut);
//! the network ([`network`]: loss, copies, delays, overtaking, old messages again, one-way cuts); threads (what they do
//! is done step by step, when virtual time says so); clients ([`clients`]).
//!
//! # A run
//! [`run::run`] takes a seed. It draws a configuration ([`swarm_config`]): how large the group is, which faults happen
//! and how often, what clients do. Then comes *chaos*, in which the [`properties`] must hold after each step; then
//! *calm* with a fixed set of healthy replicas, in which within 10 election timeouts there must be a leader, a fresh
//! write and read, and equal state on all healthy replicas; and the workload judges what its clients saw. The same seed
//! gives the same trace hash, on each machine and in each build.
//!
//! # Your own state machine
//! Implement [`workload::Workload`] for a type that names your state machine, invents commands and queries, and judges
//! the answers; then
//! ```ignore
//! for seed in 0..1000 {
//!     let report = smr_sim::run::run_with(seed, &Options::default(), |_mix| MyWorkload::default());
//!     assert!(report.failure.is_none(), "{:#?}", report.failure);
//! }
//! ```
//! Whatever your judge makes of the answers, the simulator compares your state machine's answers on all replicas, and
//! the bytes of its snapshots: a state machine that is not deterministic is found out.
//!
//! For one situation in particular, drive a [`world::World`] by hand: its methods are what can go wrong.
//!
//! # A failure
//! is a value: which property, in which step, the last lines of the trace, and the command that replays the seed.

mod asking_admin;
pub mod clients;
pub mod clock;
pub mod conformance;
pub mod epochs;
pub mod explore;
mod fault_injector;
mod founding;
pub mod geography;
pub mod journal;
pub mod ledger;
pub mod memory;
pub mod network;
pub mod observation;
pub mod probe;
pub mod properties;
pub mod rare;
mod rare_watch;
mod registers;
pub mod run;
mod schedule;
pub mod sim_node;
pub mod sim_rng;
mod succession;
pub mod swarm_config;
pub mod trace;
pub mod virtual_disk;
pub mod virtual_map;
mod watch;
pub mod workload;
pub mod world;

pub use watch::{Violation, Watch};

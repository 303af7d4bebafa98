//! State machine replication: a group of replicas that agree on a log and apply it to a state machine of yours.
//!
//! The protocol is Raft, written by hand after the paper ("In Search of an Understandable Consensus Algorithm",
//! extended version) and Ongaro's thesis. Around it stands what a replicated service needs and papers leave out: a log
//! on disk that notices damage, exactly-once sessions, snapshots, peer connections, and the replica that drives it all.
//!
//! # What you get
//! - *Linearizable*: commands take effect once, in one order, between request and answer; reads see every write that
//!   was acknowledged before they began.
//! - *Durable*: a command is acknowledged after a majority has it on the device. What cannot be verified at a start is
//!   not believed: the replica is quarantined and says why.
//! - *Exactly once*: a client may repeat a request as often as it likes, at any replica ([`session`]).
//! - *Available* with any minority dead or hung; a killed leader is replaced in tens of milliseconds.
//! - *Bounded*: every queue, batch and frame has a named limit.
//!
//! # How to use it
//! Write a [`state_machine::StateMachine`], open a directory with [`replica::Opened::open`], run it, and hand
//! [`replica::Request`]s to the [`replica::ReplicaHandle`]. The crate `smr-sim` tests it: whole groups in a simulator.
//!
//! # How it is built, bottom up
//! | module | what it knows | feature |
//! |---|---|---|
//! | [`id`], [`entry`], [`status`] | the vocabulary: nodes, incarnations, terms, entries, configurations, genesis; what a replica says of itself | |
//! | [`codec`] | bytes: frames, versions, checksums; the one place that names bincode | |
//! | [`wire`] | frames over sockets | `wire` |
//! | [`lobby`] | connections of which nobody knows yet who is there: how many, and who must go | `wire` |
//! | [`reach`] | from `host:port` to a connection: lookups, and all addresses of a name | `wire` |
//! | [`protocol`] | the seam: what a protocol core takes and gives, and its driver's duties | `core` |
//! | [`raft`] | the first core behind the seam; pure | `core` |
//! | [`disk`] | the file system, as storage and snapshots see it | `core`; the real one with `node` |
//! | [`session`] | the replicated table that makes writes exactly-once | `core` |
//! | [`snapshot`] | snapshot files and their transfer in pieces, on any [`disk::Disk`] | `core` |
//! | [`replica::engine`] | core, sessions and state machine as one value, without threads | `core` |
//! | [`fatal`], [`report`], [`log_sink`] | how a process ends that cannot go on, and what it says, without waiting for who reads it | `process` |
//! | [`storage`] | promise, mark and log on disk; quarantine | `node`; sled with `sled` |
//! | [`transport`] | connections between replicas | `node` |
//! | [`replica`] | birth, and the threads around the engine | `node` |
//!
//! `node` has everything above it, and is on unless it is turned off: a client, a tool or a driver of its own takes
//! what it needs. `core` alone has no socket, file, thread or runtime among its dependencies.
//!
//! # From the papers to the code
//! | section | what | where |
//! |---|---|---|
//! | Raft §5.2, thesis §9.6 | elections, pre-vote | `raft::candidate`, `raft::follower` |
//! | Raft §5.3, §5.4 | replication, matching, commitment | `raft::leader`, `raft::follower`, `raft::progress` |
//! | Raft §6, thesis §4 | joint configurations, learners | `raft::membership`, [`replica::readmission`] |
//! | Raft §7 | snapshots, compaction | `raft::log`, [`snapshot`] |
//! | Raft §8, thesis §6.3 | sessions | [`session`] |
//! | Raft §8, thesis §6.4 | reads without the log | `raft::read`, `raft::lease`, [`replica::engine`] |
//! | thesis §3.10 | leadership transfer | `raft::leader` |
//!
//! # What is left out, so far
//! Automatic readmission, log engines besides sled, other protocols. Byzantine faults
//! are out of scope: peers may be slow, dead or outdated, but do not lie.

// Lines for a person go through the log sink: these panic if nobody takes them.
#![cfg_attr(not(test), warn(clippy::print_stderr, clippy::print_stdout))]
// Inside modules that are there without the node stand parts that only the node uses.
#![cfg_attr(not(feature = "node"), allow(dead_code))]

pub mod codec;
#[cfg(feature = "core")]
pub mod disk;
pub mod entry;
#[cfg(feature = "process")]
pub mod fatal;
pub mod id;
#[cfg(feature = "core")]
#[doc(hidden)]
pub mod internals;
#[cfg(feature = "wire")]
pub mod lobby;
#[cfg(feature = "process")]
pub mod log_sink;
#[cfg(feature = "core")]
pub mod protocol;
#[cfg(feature = "core")]
pub mod raft;
#[cfg(feature = "wire")]
pub mod reach;
#[cfg(feature = "core")]
pub mod replica;
#[cfg(feature = "process")]
pub mod report;
#[cfg(feature = "core")]
pub mod session;
#[cfg(feature = "core")]
pub mod snapshot;
#[cfg(feature = "core")]
pub mod state_machine;
pub mod status;
#[cfg(feature = "node")]
pub mod storage;
#[cfg(feature = "node")]
pub mod transport;
#[cfg(feature = "wire")]
pub mod wire;

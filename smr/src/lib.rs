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
//! [`replica::Request`]s to the [`replica::ReplicaHandle`].
//!
//! # How it is built, bottom up
//! | module | what it knows |
//! |---|---|
//! | [`id`], [`entry`] | the vocabulary: nodes, incarnations, terms, entries, configurations, genesis |
//! | [`codec`], [`wire`] | bytes: frames, versions, checksums; the one place that names bincode |
//! | [`lobby`] | connections of which nobody knows yet who is there: how many, and who must go |
//! | [`reach`] | from `host:port` to a connection: lookups, and all addresses of a name |
//! | [`protocol`] | the seam: what a protocol core takes and gives, and its driver's duties |
//! | [`raft`] | the first core behind the seam; pure |
//! | [`storage`] | promise, mark and log on disk; quarantine; the one place that names sled is inside |
//! | [`session`] | the replicated table that makes writes exactly-once |
//! | [`snapshot`] | snapshot files and their transfer in pieces |
//! | [`transport`] | connections between replicas |
//! | [`replica`] | birth, the engine (core + sessions + state machine), and the threads around it |
//! | [`fatal`], [`report`], [`log_sink`] | how a process ends that cannot go on, and what it says, without waiting for who reads it |
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

pub mod codec;
pub mod entry;
#[cfg(feature = "sim")]
pub mod explore;
pub mod fatal;
pub mod id;
pub mod lobby;
pub mod log_sink;
pub mod protocol;
pub mod raft;
pub mod reach;
pub mod replica;
pub mod report;
pub mod session;
#[cfg(feature = "sim")]
pub mod sim;
pub mod snapshot;
pub mod state_machine;
pub mod storage;
pub mod transport;
pub mod wire;

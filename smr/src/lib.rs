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
//! Write a [`state_machine::StateMachine`]: how a command changes the state, how a query is answered, and how the state
//! is written to a snapshot and read back. Open a directory for each replica and run it; then propose commands and
//! read, from any of them. `examples/counter.rs` does all of it in a hundred lines.
//!
//! ```no_run
//! # use std::{io, net::TcpListener, sync::Arc};
//! # use smr::{Answer, Image, Index, StateMachine};
//! # #[derive(Clone, Default)] struct Counter(u64);
//! # impl Image for Counter {
//! #     fn write(&self, output: &mut dyn io::Write) -> io::Result<()> { output.write_all(&self.0.to_le_bytes()) }
//! # }
//! # impl StateMachine for Counter {
//! #     type Image = Counter;
//! #     fn apply(&mut self, _: Index, _: &[u8]) -> Vec<u8> { self.0 += 1; self.0.to_string().into_bytes() }
//! #     fn query(&self, _: &[u8]) -> Answer { Answer::Now(self.0.to_string().into_bytes()) }
//! #     fn image(&self) -> Counter { self.clone() }
//! #     fn restore(input: &mut dyn io::Read) -> io::Result<Counter> {
//! #         let mut bytes = [0; 8];
//! #         input.read_exact(&mut bytes)?;
//! #         Ok(Counter(u64::from_le_bytes(bytes)))
//! #     }
//! # }
//! use smr::{Client, ReplicaId, Opened, ReplicaOptions, Submit};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let listener = TcpListener::bind("127.0.0.1:7000")?;
//! let mut options = ReplicaOptions::new("counter".parse()?, ReplicaId(0), listener, "/var/lib/counter");
//! options.peers = [(ReplicaId(1), "10.0.0.2:7000".to_owned()), (ReplicaId(2), "10.0.0.3:7000".to_owned())].into();
//! let replica = Arc::new(Opened::open(options)?.run(Counter::default())?);
//!
//! // It asks this replica only; give it one for each that your program can reach, and it finds the leader.
//! let client = Client::new([(ReplicaId(0), replica as Arc<dyn Submit>)]);
//! let sum = client.propose("add").await?;
//! assert_eq!(client.read("sum").await?, sum);
//! # Ok(())
//! # }
//! ```
//!
//! Requests that come over connections of yours go to [`replica::ReplicaHandle`] by [`replica::Submit`], which takes
//! thousands at a time without a task for each. The crate `smr-sim` tests a state machine: whole groups of it in a
//! simulator.
//!
//! # How it is built, bottom up
//! | module | what it knows | feature |
//! |---|---|---|
//! | [`id`], [`entry`], [`epoch`], [`status`] | nodes, terms, entries, epochs; what a replica says of itself | |
//! | [`version`] | ranges of versions, and what two sides have in common | |
//! | [`codec`] | bytes: frames, versions, checksums; the one place that names bincode | |
//! | [`wire`] | frames over sockets | `wire` |
//! | [`lobby`] | connections of which no one knows yet who is there: how many, and who must go | `wire` |
//! | [`reach`] | from `host:port` to a connection: lookups, and all addresses of a name | `wire` |
//! | [`protocol`] | the seam: what a protocol core takes and gives, and its driver's duties | `core` |
//! | `core_kit` | what the cores share: log in memory, outbox, window | `core` |
//! | [`raft`] | the first core behind the seam; pure | `core` |
//! | [`configured`] | the second: chain, active and passive replication under a configuration service; pure | `core` |
//! | [`epoch_service`] | what such a service records, decides and answers; pure | `core` |
//! | [`disk`] | the file system, as storage and snapshots see it | `core`; the real one with `node` |
//! | [`session`] | the replicated table that makes writes exactly-once | `core` |
//! | [`snapshot`] | snapshot files and their transfer in pieces, on any [`disk::Disk`] | `core` |
//! | `replica::engine` | core, sessions and state machine as one value, without threads | `core` |
//! | [`panics`] | panics of foreign code that are expected | |
//! | [`durations`] | how long things take, in a histogram without locks | `node` |
//! | [`fatal`], [`report`] | how a replica ends that cannot go on, and what it says | `node` |
//! | [`storage`] | hard state, watermark and log on disk; quarantine | `node`; sled with `sled` |
//! | `transport` | connections between replicas | `node` |
//! | [`replica`] | bootstrap, and the threads around the engine | `node` |
//!
//! What one needs is named at this root, too. Modules without a link are internal; what our simulator needs of them is
//! in `internals`, outside the guarantee of compatibility.
//!
//! `node` has everything above it, and is on unless it is turned off: a client, a tool or a driver of its own takes
//! what it needs. `core` alone has no socket, file, thread or runtime among its dependencies.
//!
//! # From the papers to the code
//! | section | what | where |
//! |---|---|---|
//! | Raft §5.2, thesis §9.6 | elections, pre-vote | `raft::candidate`, `raft::follower` |
//! | Raft §5.3, §5.4 | replication, matching, commitment | `raft::leader`, `raft::follower`, `raft::progress` |
//! | Raft §6, thesis §4 | joint configurations, learners | `raft::membership`, `replica::admin` |
//! | Raft §7 | snapshots, compaction | `core_kit::log`, [`snapshot`] |
//! | Raft §8, thesis §6.3 | sessions | [`session`] |
//! | Raft §8, thesis §6.4 | reads without the log | `raft::read`, `raft::lease`, `replica::engine` |
//! | thesis §3.10 | leadership transfer | `raft::leader` |
//!
//! # What is left out, so far
//! Automatic readmission in Raft groups. Replicas of kind `passive`: their core is there ([`configured`]), and they are
//! refused at the start. Byzantine faults are out of scope: peers may be slow, dead or outdated, but do not lie.

// A library prints nothing: what it says goes to the host's sink.
#![cfg_attr(not(test), warn(clippy::print_stderr, clippy::print_stdout))]
// Inside modules that are there without the node stand parts that only the node uses.
#![cfg_attr(not(feature = "node"), allow(dead_code))]

pub mod codec;
#[cfg(feature = "core")]
pub(crate) mod configured;
#[cfg(feature = "core")]
pub(crate) mod core_kit;
#[cfg(feature = "core")]
pub(crate) mod disk;
#[cfg(feature = "node")]
pub mod durations;
pub mod entry;
pub mod epoch;
#[cfg(feature = "core")]
pub mod epoch_service;
#[cfg(feature = "node")]
pub mod fatal;
pub mod id;
#[doc(hidden)]
pub mod internals;
#[cfg(feature = "wire")]
pub(crate) mod lobby;
pub mod panics;
#[cfg(feature = "core")]
pub(crate) mod protocol;
#[cfg(feature = "core")]
pub(crate) mod raft;
#[cfg(feature = "wire")]
pub(crate) mod reach;
#[cfg(feature = "core")]
pub mod replica;
#[cfg(feature = "node")]
pub mod report;
#[cfg(feature = "core")]
mod request;
#[cfg(feature = "core")]
pub(crate) mod session;
#[cfg(feature = "core")]
pub(crate) mod snapshot;
#[cfg(feature = "core")]
pub mod state_machine;
pub mod status;
#[cfg(feature = "node")]
pub(crate) mod storage;
#[cfg(feature = "node")]
mod transport;
pub mod version;
#[cfg(feature = "wire")]
pub mod wire;

// What an embedder needs, at one place.
pub use bytes::Bytes;
pub use entry::{EntryId, Index, Term};
#[cfg(feature = "node")]
pub use fatal::ReplicaFailure;
pub use id::{ClientId, ClusterId, GroupName, Incarnation, NodeId, ReplicaId};
#[cfg(feature = "node")]
pub use replica::{Client, ClientError, ConfigurationSource, Opened, ReplicaHandle, ReplicaOptions, StartError};
#[cfg(feature = "core")]
pub use replica::{NotLeader, Outcome, ReplySink, ReplyTo, Request, Submit};
#[cfg(feature = "node")]
pub use report::{ReportSink, TracingReports};
#[cfg(feature = "core")]
pub use state_machine::{Answer, Image, StateMachine};
pub use status::{ReadMode, ReplicaStatus, Role, ServiceState};
#[cfg(feature = "node")]
pub use storage::{LogEngine, SyncMode};
